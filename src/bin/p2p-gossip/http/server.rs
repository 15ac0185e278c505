//! The listening sockets, the accept loop, and the thread of each connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, never};
use jiff::Timestamp;
use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::worker::{Worker, spawn_detached};
use p2p_gossip::{Config, Event, Events, Node};

use super::connection_limit::{ConnectionLimit, ConnectionSlot};
use super::control::{self, Control, ControlRequests};
use super::control_socket::{self, ControlFile, ControlSocket};
use super::event_stream::Hub;
use super::lingering::Lingering;
use super::node_info::NodeInfo;
use super::node_snapshot::Snapshots;
use super::request;
use super::response::{FORBIDDEN, Response, TEXT};
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
}

/// The running server. It ends with the process.
#[derive(Debug)]
pub(crate) struct Server {
    hub: Arc<Hub>,
    /// Disconnected when the last stream of events has ended.
    ended: Receiver<()>,
    /// Removed from the file system when this is dropped.
    _control: Option<ControlFile>,
}

impl Server {
    /// Starts the servers of `--http` and of the control socket, which run until the process ends; `None` without
    /// either. The second result has what clients of the control socket ask of the main thread. `events` is the queue of the
    /// events that [`Server::tell`] gets, if only readers of `/events` need its pings.
    pub(crate) fn start(
        node: &Node,
        config: &Config,
        tcp: Option<Socket>,
        control: Option<ControlSocket>,
        events: Option<Events>,
    ) -> io::Result<(Option<Self>, ControlRequests)> {
        let (requests, wanted) = control::requests();
        if tcp.is_none() && control.is_none() {
            return Ok((None, never()));
        }
        let (hub, ended) = Hub::new(tcp.as_ref().map(Socket::url), events);
        let (hub, info) = (Arc::new(hub), Arc::new(NodeInfo::new(node, config)));
        let snapshots = Arc::new(Snapshots::new(node.handle()));
        let lingering = Lingering::start()?;
        // Not joined: the threads end with the process.
        if let Some(Socket { listener, addr }) = tcp {
            let routes = Routes::new(Arc::clone(&info), Arc::clone(&snapshots), Arc::clone(&hub), addr);
            let acceptor = Acceptor::new(Listener::Tcp(listener), routes, lingering.clone());
            Worker::spawn("http", move || acceptor.run())?;
        }
        let file = match control {
            Some(socket) => {
                let (listener, file) = socket.into_parts();
                let control = Control::new(node.handle(), requests);
                let routes = Routes::with_control(info, snapshots, Arc::clone(&hub), control);
                let acceptor = Acceptor::new(Listener::Control(listener), routes, lingering);
                Worker::spawn("control", move || acceptor.run())?;
                Some(file)
            }
            None => None,
        };
        let wanted = if file.is_some() { wanted } else { never() };
        Ok((Some(Self { hub, ended, _control: file }), wanted))
    }

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

/// A listening socket.
#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Control(UnixListener),
}

impl Listener {
    fn accept(&self) -> io::Result<TcpStream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(socket, _)| socket),
            Self::Control(listener) => listener.accept().map(|(socket, _)| control_socket::as_stream(socket)),
        }
    }

    /// Whether this client may be served. The mode of the control socket keeps other users out, unless they opened it
    /// before the mode was set.
    fn admits(&self, socket: &TcpStream) -> bool {
        matches!(self, Self::Tcp(_)) || control_socket::is_own_user(socket)
    }
}

/// The accept loop.
#[derive(Debug)]
struct Acceptor {
    listener: Listener,
    routes: Arc<Routes>,
    limit: Arc<ConnectionLimit>,
    lingering: Lingering,
}

impl Acceptor {
    fn new(listener: Listener, routes: Routes, lingering: Lingering) -> Self {
        Self { listener, routes: Arc::new(routes), limit: Arc::default(), lingering }
    }

    fn run(self) {
        loop {
            let started = self.listener.accept().and_then(|socket| self.start_connection(socket));
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
        if !self.listener.admits(&socket) {
            let refusal =
                Response::new(FORBIDDEN, TEXT, "only the owner of the node and root may control it\n");
            socket.set_nonblocking(true)?;
            if refusal.write(&socket, true, Instant::now() + ANSWER_TIME).is_ok() {
                self.lingering.add(socket);
            }
            return Ok(());
        }
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
    let request = request::read(socket, routes.methods(), Instant::now() + HEAD_TIME);
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

    fn routes(addr: &str) -> (Routes, Node) {
        let config = Config::default().port(0).bind("127.0.0.1".parse().unwrap());
        let node = Node::start(config.clone(), Identity::generate().unwrap()).unwrap();
        let (hub, _ended) = Hub::new(None, None);
        let info = Arc::new(NodeInfo::new(&node, &config));
        let snapshots = Arc::new(Snapshots::new(node.handle()));
        (Routes::new(info, snapshots, Arc::new(hub), addr.parse().unwrap()), node)
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
            post: None,
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
        let acceptor = Acceptor::new(Listener::Tcp(socket.listener), routes, lingering);
        let connect = || {
            let client = TcpStream::connect(addr).unwrap();
            (client, Arc::new(acceptor.listener.accept().unwrap()))
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
            acceptor.start_connection(acceptor.listener.accept().unwrap()).unwrap();
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
