//! Connects to a peer through NATs at the same time as the peer connects to this node.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{bind, connect, listen, sockopt};

use super::link::poll_until;
use crate::net::socket;
use crate::net::waker::Waker;
use crate::trust::peer_id::PeerId;

/// Time for the two ends to meet. The system repeats its first packet after a second, so each end sends two.
const WINDOW: Duration = Duration::from_secs(2);
/// Pause after a refusal: the other end, or its NAT, was not ready.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a session goes through NATs, and from where.
pub(crate) struct PunchTarget {
    /// The peer at the other end. A handshake with another one fails.
    pub(crate) peer: PeerId,
    /// The peer's address, outside of its NAT.
    pub(crate) addr: SocketAddr,
    /// The local address of a connection of this node, from which this one goes, too.
    pub(crate) local: SocketAddr,
}

/// Connects again and again until the window is over, and accepts meanwhile: a NAT that lets everything in may bring
/// the peer's first packet before this node has sent its own, or from another port than the peer knows of.
///
/// # Errors
/// The two ends did not meet within [`WINDOW`]; `Interrupted` if `interrupted` said so, which is called after each wake.
pub(super) fn meet_half_way(
    target: &PunchTarget,
    waker: &Waker,
    interrupted: &mut impl FnMut() -> bool,
) -> io::Result<TcpStream> {
    let PunchTarget { addr, local, .. } = *target;
    let mut again = Instant::now();
    let until = again + WINDOW;
    let shared = shared_port(local)?;
    listen(&shared, 1)?;
    let listener = TcpListener::from(shared);
    let mut attempt: Option<OwnedFd> = None;
    loop {
        if interrupted() {
            return Err(ErrorKind::Interrupted.into());
        }
        let now = Instant::now();
        if now >= until {
            return Err(io::Error::new(ErrorKind::TimedOut, "the NATs let no connection through"));
        }
        if attempt.is_none() && now >= again {
            again = now + PAUSE;
            attempt = start(addr, local).ok();
        }
        let deadline = if attempt.is_some() { until } else { again.min(until) };
        let mut fds = vec![
            PollFd::new(waker.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        ];
        fds.extend(attempt.iter().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)));
        poll_until(&mut fds, Some(deadline))?;
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        let [is_woken, is_accepted, is_connected] = [0, 1, 2].map(is_ready);
        if is_woken {
            waker.clear();
        }
        if is_connected && let Some(socket) = attempt.take() {
            match sockopt::socket_error(&socket)? {
                Ok(()) => return Ok(socket.into()),
                Err(_) => again = Instant::now() + PAUSE,
            }
        }
        if is_accepted && let Ok((socket, _)) = listener.accept() {
            return Ok(socket);
        }
    }
}

/// A socket that does not block, at a port that other sockets of this node use, too.
fn shared_port(local: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket::tcp(&local)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    // The first lets it in beside a connection, the second beside the listening socket.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &local)?;
    Ok(socket)
}

fn start(addr: SocketAddr, local: SocketAddr) -> io::Result<OwnedFd> {
    let socket = shared_port(local)?;
    match connect(&socket, &addr) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}
