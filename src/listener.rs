//! The listening socket and its accept loop.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::net::sockopt;

use crate::addr::LocalIp;
use crate::config::BACKLOG;
use crate::log_limit::LogLimit;
use crate::mesh::SessionId;
use crate::pending::PendingConnections;
use crate::session::{self, Context};
use crate::socket;
use crate::waker::Waker;

/// Wait after a failed accept: when descriptors run out, trying at once would burn a whole core.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Opens the listening socket. With no address given it is every interface, IPv6 and IPv4 in one
/// socket, or IPv4 alone on a system without IPv6.
///
/// # Errors
/// The address that could not be listened on, and why.
pub(crate) fn listen(bind: Option<LocalIp>, port: u16) -> Result<TcpListener, (SocketAddr, io::Error)> {
    let at = |ip: LocalIp| {
        let addr = ip.with_port(port);
        open(addr).map_err(|error| (addr, error))
    };
    match bind {
        Some(ip) => at(ip),
        None => match at(IpAddr::from(Ipv6Addr::UNSPECIFIED).into()) {
            Err((_, error)) if is_without_ipv6(&error) => at(IpAddr::from(Ipv4Addr::UNSPECIFIED).into()),
            other => other,
        },
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn open(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket::tcp(&addr)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !addr.ip().is_unspecified())?;
    }
    // A restarted node gets its port back though old connections linger in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// The running accept loop.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Arc<TcpListener>,
    /// Dropped to end waits.
    stop: Option<Sender<()>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts to accept.
    ///
    /// # Errors
    /// No thread is left.
    pub(crate) fn start(socket: TcpListener, context: Arc<Context>) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let (stop, stopped) = bounded(0);
        let stopping = Arc::new(AtomicBool::new(false));
        let accepting = Accepting {
            socket: Arc::clone(&socket),
            context,
            stopped,
            stopping: Arc::clone(&stopping),
            pending: Arc::default(),
        };
        let thread =
            std::thread::Builder::new().name("listener".to_owned()).spawn(move || accepting.run())?;
        Ok(Self { socket, stop: Some(stop), stopping, thread: Some(thread) })
    }

    /// Accepts no more, and gives up every connection that is not yet authenticated.
    pub(crate) fn stop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.stop = None;
        // On Linux this ends a blocked accept; elsewhere a connection to ourselves does.
        if rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both).is_err()
            && let Ok(mut addr) = self.socket.local_addr()
        {
            match addr.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            let _ = TcpStream::connect_timeout(&addr, Duration::from_secs(1));
        }
        if let Some(thread) = self.thread.take() {
            // A panic in there has been logged; there is nothing to add.
            let _ = thread.join();
        }
    }
}

struct Accepting {
    socket: Arc<TcpListener>,
    context: Arc<Context>,
    stopped: Receiver<()>,
    stopping: Arc<AtomicBool>,
    pending: Arc<PendingConnections>,
}

impl Accepting {
    fn run(self) {
        let mut accepted = 0;
        loop {
            let connection = self.next_connection();
            if self.stopping.load(Ordering::SeqCst) {
                self.pending.evict_all();
                return;
            }
            let started = connection.and_then(|(socket, remote, waker)| {
                accepted += 1;
                self.context.counters.connections_accepted.one();
                self.start_session(SessionId::accepted(accepted), socket, remote, waker)
            });
            match started {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    // Descriptors or threads have run out. Pending connections give theirs back.
                    let evicted = self.pending.evict_some();
                    static LIMIT: LogLimit = LogLimit::new();
                    if let Some(suppressed) = LIMIT.check() {
                        log::error!(reason:% = error, evicted, suppressed;
                            "cannot accept connections; closed the oldest unfinished handshakes, retrying");
                    }
                    let _ = self.stopped.recv_timeout(ACCEPT_BACKOFF);
                }
            }
        }
    }

    /// Waits for a connection. Its waker comes first: if that takes the last descriptor, the connection
    /// waits in the kernel until there is another, and is not closed for lack of a waker.
    fn next_connection(&self) -> io::Result<(TcpStream, SocketAddr, Waker)> {
        let waker = Waker::new()?;
        let (socket, remote) = self.socket.accept()?;
        Ok((socket, remote, waker))
    }

    fn start_session(
        &self,
        id: SessionId,
        socket: TcpStream,
        remote: SocketAddr,
        waker: Waker,
    ) -> io::Result<()> {
        let waker = Arc::new(waker);
        let guard = self.pending.add(id, remote, &waker);
        session::accept(&self.context, id, socket, remote, guard, waker)
    }
}

/// Errors of one connection, not of the listener: the next one may be fine at once.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}
