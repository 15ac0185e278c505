//! The listening socket and its accept loop.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::net::sockopt;

use crate::limits::BACKLOG;
use crate::mesh::SessionId;
use crate::net::addr::LocalIp;
use crate::net::socket;
use crate::net::waker::Waker;
use crate::session::pending::PendingConnections;
use crate::session::{self, Context, Eviction};
use crate::util::log_limit::{LogLimit, limited_log};
use crate::util::worker::Worker;

/// Pause after a failed accept. Without it, a lack of descriptors would keep one core busy.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Opens the listening socket. Without an address it listens on every interface: IPv6 and IPv4 in one
/// socket, or IPv4 alone on a system without IPv6.
///
/// # Errors
/// The socket cannot be opened. The error holds the address that was tried and the system's error.
pub(crate) fn listen(bind: Option<LocalIp>, port: u16) -> Result<TcpListener, (SocketAddr, io::Error)> {
    let at = |ip: LocalIp| {
        let addr = ip.socket_addr(port).map_err(|error| (SocketAddr::new(ip.ip(), port), error))?;
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
    // A restarted node gets its port back even if old connections are in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

/// The running accept loop.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Arc<TcpListener>,
    /// Dropped to end the pause after a failed accept.
    stop: Option<Sender<()>>,
    stopping: Arc<AtomicBool>,
    thread: Option<Worker>,
}

impl Listener {
    /// Starts the thread that accepts connections; at most `pending_max` of them may have an unfinished handshake.
    ///
    /// # Errors
    /// The system has no thread or memory left.
    pub(crate) fn start(socket: TcpListener, context: Arc<Context>, pending_max: usize) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let (stop, stopped) = bounded(0);
        let stopping = Arc::new(AtomicBool::new(false));
        let accepting = Accepting {
            socket: Arc::clone(&socket),
            context,
            stopped,
            stopping: Arc::clone(&stopping),
            pending: PendingConnections::new(pending_max),
        };
        let thread = Worker::spawn("listener", move || accepting.run())?;
        Ok(Self { socket, stop: Some(stop), stopping, thread: Some(thread) })
    }

    /// Stops accepting, and closes every connection that is not yet authenticated.
    pub(crate) fn stop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.stop = None;
        // On Linux this ends a blocked accept. On other systems a connection to the own socket does.
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
            thread.join();
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
                    limited_log!(LogLimit::new(), error, { reason:% = error, evicted },
                        "cannot accept connections; closed the oldest unfinished handshakes; retrying");
                    let _ = self.stopped.recv_timeout(ACCEPT_BACKOFF);
                }
            }
        }
    }

    /// Waits for a connection. The waker is created first. If it takes the last descriptor, the connection
    /// waits in the kernel for a free one, and is not closed for lack of a waker.
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
        let eviction = Eviction::new(&waker);
        let guard = self.pending.add(id, remote, &eviction);
        session::accept(&self.context, id, socket, remote, guard, waker, eviction)
    }
}

/// Whether the error concerns one connection and not the listener. The next accept may succeed at once.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}
