//! The HTTP server of `--http`: its socket, its accept loop, and one thread a connection.
//!
//! It only looks: one snapshot of the node at a time is kept for all who ask, and everything else is
//! bounded, so whatever a browser or a scraper does changes nothing for the mesh.
//!
//! | file | owns |
//! |---|---|
//! | `request.rs` | heads of requests: read in time, checked |
//! | `response.rs` | answers, and writing them to whoever reads slowly |
//! | `places.rs` | how many connections there may be, and who gives way |
//! | `site.rs` | which path is answered with what |
//! | `events.rs` | the stream of events |
//! | `snapshot.rs` | the node as it was a moment ago |
//! | `views.rs` | the JSON of /status and /peers |
//! | `metrics.rs` | the node in numbers, for Prometheus |
//! | `page.rs`, `page/` | the page for people |

mod events;
mod metrics;
mod page;
mod places;
mod request;
mod response;
mod site;
mod snapshot;
mod views;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use jiff::Timestamp;
use p2p_gossip::log_limit::LogLimit;
use p2p_gossip::{Config, Event, Node};

use events::Hub;
use places::{Place, Places};
use response::Response;
use site::{About, Answer, Site};

/// From accept until the whole head of the request is there.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// For a reader to take a whole answer.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// From our last byte until the other side has closed as well: closing while it still sends would
/// take the answer away from it.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes read and thrown away meanwhile.
const LINGER_BYTES_MAX: usize = 64 * 1024;
/// Wait after a failed accept: when descriptors run out, trying at once would burn a whole core.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Virtual memory for the stack of a connection's thread; only what it touches becomes real.
const STACK_BYTES: usize = 256 * 1024;

/// A socket that listens and is not served yet, so that a port in use is found out before the node
/// joins anything.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Socket {
    /// Opens it; port 0 takes any free one.
    pub(crate) fn open(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr })
    }

    /// Where the page is, to be opened on this machine.
    pub(crate) fn url(&self) -> String {
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}/", SocketAddr::new(ip, self.addr.port()))
    }

    /// Serves what is to be seen of the node until the process ends.
    pub(crate) fn serve(self, node: &Node, config: &Config) -> io::Result<Server> {
        let (hub, ended) = Hub::new(self.url());
        let hub = Arc::new(hub);
        let site = Arc::new(Site::new(About::new(node, config), node.handle(), Arc::clone(&hub), self.addr));
        let accepting = Accepting { listener: self.listener, site, places: Arc::default() };
        thread::Builder::new().name("http".to_owned()).spawn(move || accepting.run())?;
        Ok(Server { hub, ended })
    }
}

/// The running server. It ends with the process.
#[derive(Debug)]
pub(crate) struct Server {
    hub: Arc<Hub>,
    /// Closed when the last reader of events has gone.
    ended: Receiver<()>,
}

impl Server {
    /// Tells the readers of events what happened. Never waits for one.
    pub(crate) fn tell(&self, time: Timestamp, event: &Event) {
        self.hub.tell(time, event);
    }

    /// Waits until the readers of events have got the last one, but not longer than until the deadline.
    pub(crate) fn finish(self, deadline: Instant) {
        self.hub.close();
        let _ = self.ended.recv_deadline(deadline);
    }
}

#[derive(Debug)]
struct Accepting {
    listener: TcpListener,
    site: Arc<Site>,
    places: Arc<Places>,
}

impl Accepting {
    fn run(self) {
        loop {
            let started = self.listener.accept().and_then(|(socket, _)| self.admit(socket));
            match started {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    static LIMIT: LogLimit = LogLimit::debug();
                    if let Some(suppressed) = LIMIT.check() {
                        log::debug!(reason:% = error, suppressed; "cannot accept HTTP connections; retrying");
                    }
                    thread::sleep(ACCEPT_BACKOFF);
                }
            }
        }
    }

    fn admit(&self, socket: TcpStream) -> io::Result<()> {
        let socket = Arc::new(socket);
        let Some(place) = self.places.enter(&socket) else {
            // There is room for so little in the socket's own buffer: this does not wait.
            socket.set_nonblocking(true)?;
            let _ = Response::busy().write(&socket, true, Instant::now() + ANSWER_TIME);
            return Ok(());
        };
        let site = Arc::clone(&self.site);
        let serve = move || serve(&socket, place, &site);
        thread::Builder::new().name("http connection".to_owned()).stack_size(STACK_BYTES).spawn(serve)?;
        Ok(())
    }
}

/// Errors of one connection, not of the listener: the next one may be fine at once.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

/// One connection: one request, one answer.
fn serve(socket: &TcpStream, mut place: Place, site: &Site) {
    let request = request::read(socket, Instant::now() + HEAD_TIME);
    place.answering();
    let (answer, with_body) = match &request {
        Ok(request) => (site.answer(request), !request.is_head),
        Err(refusal) => match Response::refusing(refusal) {
            Some(response) => (Answer::Whole(response), true),
            None => return,
        },
    };
    let written = match answer {
        Answer::Whole(response) => response.write(socket, with_body, Instant::now() + ANSWER_TIME),
        Answer::Stream(stream) => stream.run(socket, with_body),
    };
    match written {
        Ok(()) => linger(socket),
        Err(error) => {
            static LIMIT: LogLimit = LogLimit::debug();
            if let Some(suppressed) = LIMIT.check() {
                log::debug!(reason:% = error, suppressed; "an HTTP answer was not taken");
            }
        }
    }
}

fn linger(mut socket: &TcpStream) {
    let deadline = Instant::now() + LINGER;
    if socket.shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    let mut sink = [0; 4096];
    let mut left = LINGER_BYTES_MAX;
    while left > 0 {
        match request::read_some(&mut socket, &mut sink, deadline) {
            Ok(count) if count > 0 => left = left.saturating_sub(count),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use p2p_gossip::Identity;

    use super::*;

    fn site(addr: &str) -> (Arc<Site>, Node) {
        let config = Config { port: 0, bind: Some("127.0.0.1".parse().unwrap()), ..Config::default() };
        let node = Node::start(config.clone(), Identity::generate().unwrap()).unwrap();
        let (hub, _ended) = Hub::new("http://localhost/".to_owned());
        let about = About::new(&node, &config);
        (Arc::new(Site::new(about, node.handle(), Arc::new(hub), addr.parse().unwrap())), node)
    }

    #[test]
    fn the_page_has_an_address_that_a_browser_can_open() {
        for addr in ["127.0.0.1:0", "0.0.0.0:0"] {
            let socket = Socket::open(addr.parse().unwrap()).unwrap();
            assert_eq!(socket.url(), format!("http://127.0.0.1:{}/", socket.addr.port()));
        }
    }

    #[test]
    fn other_names_are_fine_where_other_machines_are_served() {
        let request = |host: &str| request::Request {
            is_head: false,
            path: "/healthz".to_owned(),
            query: String::new(),
            host: Some(host.to_owned()),
            accept: String::new(),
            last_event_id: String::new(),
        };
        for (addr, code) in [("192.0.2.7:80", 200), ("0.0.0.0:80", 200), ("[::1]:80", 421)] {
            let (site, _node) = site(addr);
            let Answer::Whole(response) = site.answer(&request("node.example")) else { panic!("a stream") };
            assert_eq!(response.code(), code, "{addr}");
        }
    }

    #[test]
    fn whoever_comes_when_all_are_being_answered_is_told_to_come_again() {
        let socket = Socket::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let (site, _node) = site("127.0.0.1:0");
        let addr = socket.addr;
        let accepting = Accepting { listener: socket.listener, site, places: Arc::default() };
        let connect = || {
            let client = TcpStream::connect(addr).unwrap();
            (client, Arc::new(accepting.listener.accept().unwrap().0))
        };
        let mut held = Vec::new();
        for _ in 0..places::CONNECTIONS_MAX {
            let (client, server) = connect();
            let mut place = accepting.places.enter(&server).unwrap();
            place.answering();
            held.push((client, place));
        }
        let ask = || {
            let client = TcpStream::connect(addr).unwrap();
            accepting.admit(accepting.listener.accept().unwrap().0).unwrap();
            // Nothing is sent before the answer: a refusal does not wait for the question.
            client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            client
        };
        let mut answer = String::new();
        ask().read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
        held.pop();
        let mut client = ask();
        client.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
        answer.clear();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
    }
}
