//! Nodes with an HTTP page, and a client that sends exactly the bytes that a test gives it.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::history::Member;
use crate::support::process::Spec;
use crate::support::{Cluster, DEADLINE, localhost};

/// Time between two requests of `wait_until`.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A node on loopback with a page on a free port.
pub(crate) fn with_page(name: &str) -> Spec {
    Spec::named(name).with_bind(localhost()).with_args("--http 0")
}

/// A node on loopback without a page.
pub(super) fn plain(name: &str) -> Spec {
    Spec::named(name).with_bind(localhost())
}

/// The address of the member's page.
pub(crate) fn page_of(cluster: &Cluster, member: Member) -> SocketAddr {
    let url = cluster.wait_for("the address of its page", &[member], |history| {
        let mut records = history.records().iter().filter(|record| record.member == member);
        records.find_map(|record| record.json["http"].as_str().map(str::to_owned))
    });
    url.strip_prefix("http://").and_then(|url| url.strip_suffix('/')).unwrap().parse().unwrap()
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Reply {
    /// The value of a header field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let field = |line: &'_ str| {
            let (found, _) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(found.len() + 2)
        };
        self.head.lines().find_map(|line| field(line).map(|at| &line[at..]))
    }

    pub(super) fn json(&self) -> Value {
        assert_eq!(self.code, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(super) fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Sends these bytes and reads the answer to its end.
pub(crate) fn send(addr: SocketAddr, bytes: &[u8]) -> Reply {
    try_send(addr, bytes).unwrap_or_else(|error| panic!("no answer from {addr}: {error}"))
}

fn try_send(addr: SocketAddr, bytes: &[u8]) -> io::Result<Reply> {
    let mut socket = TcpStream::connect(addr)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    // A server that refuses early may close before it has read everything.
    let written = socket.write_all(bytes);
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).or_else(|error| if answer.is_empty() { Err(error) } else { Ok(0) })?;
    if answer.is_empty() {
        written?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let answer = String::from_utf8(answer).map_err(io::Error::other)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Reply { code, head: head.to_owned(), body: body.to_owned() })
}

pub(super) fn request(method: &str, path: &str, host: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
}

pub(super) fn get(addr: SocketAddr, path: &str) -> Reply {
    get_with(addr, path, "")
}

pub(super) fn get_with(addr: SocketAddr, path: &str, fields: &str) -> Reply {
    send(addr, request("GET", path, &addr.to_string(), fields).as_bytes())
}

/// Repeats the request until `is_awaited` accepts the reply; panics at `DEADLINE`.
#[track_caller]
pub(super) fn wait_until(addr: SocketAddr, path: &str, mut is_awaited: impl FnMut(&Reply) -> bool) -> Reply {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let reply = get(addr, path);
        if is_awaited(&reply) {
            return reply;
        }
        assert!(Instant::now() < deadline, "{path} never gave the awaited reply; the last is {reply:?}");
        thread::sleep(ASK_EVERY);
    }
}

/// A reader of `/events`.
pub(super) struct Events {
    pub(super) socket: BufReader<TcpStream>,
    pub(super) last_id: String,
}

impl Events {
    /// # Errors
    ///
    /// The status line, if the server refuses the stream.
    pub(super) fn open(addr: SocketAddr, path: &str, fields: &str) -> Result<Self, String> {
        let mut socket = connect(addr);
        socket.write_all(request("GET", path, &addr.to_string(), fields).as_bytes()).unwrap();
        let mut events = Self { socket: BufReader::new(socket), last_id: String::new() };
        let status = events.line().unwrap_or_default();
        while events.line().is_some_and(|line| !line.is_empty()) {}
        if status.contains(" 200 ") { Ok(events) } else { Err(status) }
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.socket.read_line(&mut line).expect("a line or the end within the deadline");
        (count > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The next event; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Value> {
        loop {
            let line = self.line()?;
            if let Some(id) = line.strip_prefix("id: ") {
                self.last_id = id.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap());
            }
        }
    }

    /// The next event of this kind.
    #[track_caller]
    pub(super) fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let event = self.next().unwrap_or_else(|| panic!("the stream ended before {kind}"));
            if event["event"] == kind {
                return event;
            }
        }
    }
}
