//! The accept loop, and the admission of connections that nobody has authenticated yet.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::net::sockopt;

use crate::addr::LocalIp;
use crate::config::{BACKLOG, UNAUTHENTICATED_MAX};
use crate::log_limit::LogLimit;
use crate::mesh::SessionId;
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
            lobby: Arc::new(Lobby::default()),
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
    lobby: Arc<Lobby>,
}

impl Accepting {
    fn run(self) {
        let mut accepted = 0;
        loop {
            let connection = self.socket.accept();
            if self.stopping.load(Ordering::SeqCst) {
                self.lobby.evict_all();
                return;
            }
            let started = connection.and_then(|(socket, remote)| {
                accepted += 1;
                self.context.counters.connections_accepted.one();
                self.admit(SessionId::accepted(accepted), socket, remote)
            });
            match started {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    // Out of descriptors or threads: whoever has not said who he is gives his back.
                    self.lobby.thin_out();
                    static LIMIT: LogLimit = LogLimit::new();
                    if let Some(suppressed) = LIMIT.check() {
                        log::error!(reason:% = error, suppressed; "cannot accept connections; trying on");
                    }
                    let _ = self.stopped.recv_timeout(ACCEPT_BACKOFF);
                }
            }
        }
    }

    fn admit(&self, id: SessionId, socket: TcpStream, remote: SocketAddr) -> io::Result<()> {
        let waker = Arc::new(Waker::new()?);
        let admission = self.lobby.enter(id, remote.ip(), &waker);
        session::accept(&self.context, id, socket, remote, admission, waker)
    }
}

/// Errors of one connection, not of the listener: the next one may be fine at once.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}

/// Connections that have not yet said Hello.
#[derive(Debug, Default)]
struct Lobby {
    waiting: Mutex<BTreeMap<SessionId, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    host: IpAddr,
    waker: Arc<Waker>,
    evicted: Arc<AtomicBool>,
}

impl Waiting {
    fn evict(&self) {
        self.evicted.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

impl Lobby {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in; when full, the oldest one of the host that holds most gives way.
    fn enter(self: &Arc<Self>, id: SessionId, ip: IpAddr, waker: &Arc<Waker>) -> Admission {
        let evicted = Arc::new(AtomicBool::new(false));
        let mut waiting = self.lock();
        let entry = Waiting { host: host_of(ip), waker: Arc::clone(waker), evicted: Arc::clone(&evicted) };
        waiting.insert(id, entry);
        if waiting.len() > UNAUTHENTICATED_MAX
            && let Some(victim) = victim(&waiting)
            && let Some(victim) = waiting.remove(&victim)
        {
            victim.evict();
        }
        drop(waiting);
        Admission { lobby: Arc::clone(self), id, evicted }
    }

    /// A quarter gives way, and at least one: with fewer descriptors or threads than places, the
    /// lobby is never full, and silent connections would keep everybody out until their deadline.
    fn thin_out(&self) {
        let mut waiting = self.lock();
        for _ in 0..waiting.len().div_ceil(4) {
            if let Some(victim) = victim(&waiting).and_then(|victim| waiting.remove(&victim)) {
                victim.evict();
            }
        }
    }

    fn evict_all(&self) {
        for waiting in std::mem::take(&mut *self.lock()).values() {
            waiting.evict();
        }
    }
}

fn victim(waiting: &BTreeMap<SessionId, Waiting>) -> Option<SessionId> {
    let mut held: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for entry in waiting.values() {
        *held.entry(entry.host).or_default() += 1;
    }
    let (most, _) = held.into_iter().max_by_key(|&(_, count)| count)?;
    // Ids grow, so the first is the oldest.
    waiting.iter().find(|(_, entry)| entry.host == most).map(|(id, _)| *id)
}

/// Whoever has one IPv6 address usually has the whole /64 (RFC 4291 section 2.5.4).
fn host_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// An unauthenticated connection's place, given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    lobby: Arc<Lobby>,
    id: SessionId,
    evicted: Arc<AtomicBool>,
}

impl Admission {
    /// Whether another connection needs the place.
    pub(crate) fn is_evicted(&self) -> bool {
        self.evicted.load(Ordering::SeqCst)
    }

    /// The peer is known now; the place is free. False if it had been lost before.
    pub(crate) fn authenticated(self) -> bool {
        !self.is_evicted()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.lobby.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(lobby: &Arc<Lobby>, n: u64, ip: [u8; 4]) -> Admission {
        lobby.enter(SessionId::accepted(n), IpAddr::from(ip), &Arc::new(Waker::new().unwrap()))
    }

    #[test]
    fn the_host_that_holds_most_gives_way_and_its_oldest_first() {
        let lobby = Arc::new(Lobby::default());
        let quiet = enter(&lobby, 0, [10, 0, 0, 1]);
        let max = u64::try_from(UNAUTHENTICATED_MAX).unwrap();
        let flood: Vec<Admission> = (1..max + 2).map(|n| enter(&lobby, n, [10, 0, 0, 2])).collect();
        assert!(!quiet.is_evicted());
        assert_eq!(flood.iter().filter(|a| a.is_evicted()).count(), 2);
        assert!(flood[0].is_evicted() && flood[1].is_evicted());
        assert!(quiet.authenticated());
    }

    #[test]
    fn when_the_system_has_no_more_a_quarter_gives_way() {
        let lobby = Arc::new(Lobby::default());
        let quiet = enter(&lobby, 0, [10, 0, 0, 1]);
        let flood: Vec<Admission> = (1..20).map(|n| enter(&lobby, n, [10, 0, 0, 2])).collect();
        lobby.thin_out();
        let evicted = flood.iter().take_while(|a| a.is_evicted()).count();
        assert_eq!(evicted, 5);
        assert!(flood[evicted..].iter().all(|a| !a.is_evicted()) && !quiet.is_evicted());
    }

    #[test]
    fn a_place_is_given_back() {
        let lobby = Arc::new(Lobby::default());
        for n in 0..10 * u64::try_from(UNAUTHENTICATED_MAX).unwrap() {
            assert!(enter(&lobby, n, [10, 0, 0, 1]).authenticated());
        }
        assert!(lobby.lock().is_empty());
    }

    #[test]
    fn a_whole_ipv6_subnet_counts_as_one_host() {
        let host = |ip: &str| host_of(ip.parse().unwrap());
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff:2"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        assert_eq!(host("::ffff:10.0.0.1"), host("10.0.0.1"));
    }
}
