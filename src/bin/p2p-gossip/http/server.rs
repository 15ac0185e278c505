//! The listening socket, the accept loop, and the thread of each connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use jiff::Timestamp;
use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::worker::{Worker, spawn_detached};
use p2p_gossip::{Config, Event, Node};

use super::connection_limit::{ConnectionLimit, ConnectionSlot};
use super::event_stream::Hub;
use super::lingering::Lingering;
use super::node_info::NodeInfo;
use super::request;
use super::response::Response;
use super::routes::{Answer, Routes};

/// Time limit from the accept to the complete head of the request.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// Time limit for the client to take a complete response.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Wait after a failed accept. When descriptors run out, retrying at once would use a whole core.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// Stack of a connection's thread in bytes of virtual memory; only used pages take real memory.
const STACK_BYTES: usize = 256 * 1024;

/// The listening socket before the server starts, so that a port in use is reported before the node joins a
/// mesh.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Socket {
    /// Opens the socket; port 0 takes any free port.
    pub(crate) fn open(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr })
    }

    /// The page's URL for a browser on this machine.
    pub(crate) fn url(&self) -> String {
        let ip = match self.addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}/", SocketAddr::new(ip, self.addr.port()))
    }

    /// Starts the server, which runs until the process ends.
    pub(crate) fn serve(self, node: &Node, config: &Config) -> io::Result<Server> {
        let (hub, ended) = Hub::new(self.url());
        let hub = Arc::new(hub);
        let info = NodeInfo::new(node, config);
        let routes = Arc::new(Routes::new(info, node.handle(), Arc::clone(&hub), self.addr));
        let lingering = Lingering::start()?;
        let acceptor = Acceptor { listener: self.listener, routes, limit: Arc::default(), lingering };
        // Not joined: the thread ends with the process.
        Worker::spawn("http", move || acceptor.run())?;
        Ok(Server { hub, ended })
    }
}

/// The running server. It ends with the process.
#[derive(Debug)]
pub(crate) struct Server {
    hub: Arc<Hub>,
    /// Disconnected when the last stream of events has ended.
    ended: Receiver<()>,
}

impl Server {
    /// Sends an event to the readers of `/events`. Never waits for a reader.
    pub(crate) fn tell(&self, time: Timestamp, event: &Event) {
        self.hub.publish(time, event);
    }

    /// Waits until the readers of `/events` have received the last event, but not past the deadline.
    pub(crate) fn finish(self, deadline: Instant) {
        self.hub.close();
        let _ = self.ended.recv_deadline(deadline);
    }
}

/// The accept loop.
#[derive(Debug)]
struct Acceptor {
    listener: TcpListener,
    routes: Arc<Routes>,
    limit: Arc<ConnectionLimit>,
    lingering: Lingering,
}

impl Acceptor {
    fn run(self) {
        loop {
            let started = self.listener.accept().and_then(|(socket, _)| self.start_connection(socket));
            match started {
                Ok(()) => {}
                Err(error) if is_of_connection(&error) => {}
                Err(error) => {
                    log_accept_error(&error);
                    thread::sleep(ACCEPT_BACKOFF);
                }
            }
        }
    }

    fn start_connection(&self, socket: TcpStream) -> io::Result<()> {
        let socket = Arc::new(socket);
        let Some(slot) = self.limit.add(&socket) else {
            // The response fits into the socket's buffer, so this does not wait.
            socket.set_nonblocking(true)?;
            if Response::busy().write(&socket, true, Instant::now() + ANSWER_TIME).is_ok() {
                self.lingering.add(socket);
            }
            return Ok(());
        };
        let routes = Arc::clone(&self.routes);
        let lingering = self.lingering.clone();
        let serve = move || {
            // The place is free before the connection lingers.
            if serve(&socket, slot, &routes).is_ok() {
                lingering.add(socket);
            }
        };
        spawn_detached("http connection".to_owned(), STACK_BYTES, serve)
    }
}

/// Whether an error of accept concerns one connection only, so that the next accept may succeed at once.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

fn log_accept_error(error: &io::Error) {
    static LIMIT: LogLimit = LogLimit::debug();
    if let Some(suppressed) = LIMIT.check() {
        log::debug!(reason:% = error, suppressed; "cannot accept HTTP connections; retrying");
    }
}

/// Serves a connection: one request and one response.
///
/// # Errors
/// The client did not take the response, and the connection is to be closed.
fn serve(socket: &TcpStream, mut slot: ConnectionSlot, routes: &Routes) -> io::Result<()> {
    let request = request::read(socket, Instant::now() + HEAD_TIME);
    let (answer, with_body) = match &request {
        _ if !slot.set_answering() => (Answer::Whole(Response::busy()), true),
        Ok(request) => (routes.answer(request), !request.is_head),
        Err(refusal) => match Response::for_refusal(refusal) {
            Some(response) => (Answer::Whole(response), true),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        },
    };
    let written = match answer {
        Answer::Whole(response) => response.write(socket, with_body, Instant::now() + ANSWER_TIME),
        Answer::Stream(stream) => stream.run(socket, with_body),
    };
    written.inspect_err(|error| {
        static LIMIT: LogLimit = LogLimit::debug();
        if let Some(suppressed) = LIMIT.check() {
            log::debug!(reason:% = error, suppressed; "cannot write an HTTP response; closing the connection");
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use p2p_gossip::Identity;

    use super::*;

    fn routes(addr: &str) -> (Arc<Routes>, Node) {
        let config = Config::default().port(0).bind("127.0.0.1".parse().unwrap());
        let node = Node::start(config.clone(), Identity::generate().unwrap()).unwrap();
        let (hub, _ended) = Hub::new("http://localhost/".to_owned());
        let info = NodeInfo::new(&node, &config);
        (Arc::new(Routes::new(info, node.handle(), Arc::new(hub), addr.parse().unwrap())), node)
    }

    #[test]
    fn url_of_the_page_can_be_opened_in_a_browser() {
        for addr in ["127.0.0.1:0", "0.0.0.0:0"] {
            let socket = Socket::open(addr.parse().unwrap()).unwrap();
            assert_eq!(socket.url(), format!("http://127.0.0.1:{}/", socket.addr.port()));
        }
    }

    #[test]
    fn other_host_names_are_accepted_unless_the_server_is_on_loopback() {
        let request = |host: &str| request::Request {
            is_head: false,
            path: "/healthz".to_owned(),
            query: String::new(),
            host: Some(host.to_owned()),
            last_event_id: String::new(),
        };
        for (addr, code) in [("192.0.2.7:80", 200), ("0.0.0.0:80", 200), ("[::1]:80", 421)] {
            let (routes, _node) = routes(addr);
            let Answer::Whole(response) = routes.answer(&request("node.example")) else { panic!("a stream") };
            assert_eq!(response.code(), code, "{addr}");
        }
    }

    #[test]
    fn connection_beyond_the_limit_is_answered_with_503() {
        let socket = Socket::open("127.0.0.1:0".parse().unwrap()).unwrap();
        let (routes, _node) = routes("127.0.0.1:0");
        let addr = socket.addr;
        let lingering = Lingering::start().unwrap();
        let acceptor = Acceptor { listener: socket.listener, routes, limit: Arc::default(), lingering };
        let connect = || {
            let client = TcpStream::connect(addr).unwrap();
            (client, Arc::new(acceptor.listener.accept().unwrap().0))
        };
        let mut held = Vec::new();
        for _ in 0..super::super::connection_limit::CONNECTIONS_MAX {
            let (client, server) = connect();
            let mut slot = acceptor.limit.add(&server).unwrap();
            assert!(slot.set_answering());
            held.push((client, slot));
        }
        let connect_and_accept = || {
            let client = TcpStream::connect(addr).unwrap();
            acceptor.start_connection(acceptor.listener.accept().unwrap().0).unwrap();
            // The client sends nothing first: a refusal does not wait for a request.
            client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            client
        };
        let mut answer = String::new();
        connect_and_accept().read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
        held.pop();
        let mut client = connect_and_accept();
        client.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
        answer.clear();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok\n"), "{answer}");
    }
}
