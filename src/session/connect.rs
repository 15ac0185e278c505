//! Opening a TCP connection that a waker can interrupt, from a chosen source address.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{bind, connect, sockopt};

use super::link::poll_until;
use super::stacks::Stacks;
use crate::addr::{DialAddr, LocalIp};
use crate::config::CONNECT_TIMEOUT;
use crate::socket;
use crate::waker::Waker;

/// What to connect to, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Route<'a> {
    pub(super) addr: &'a DialAddr,
    /// A peer told the address, not the user.
    pub(super) hearsay: bool,
    /// Where the connection comes from, if it matters.
    pub(super) source: Option<LocalIp>,
}

/// Resolves the address and connects to the first of its IP addresses that answers before the
/// deadline, in the order in which the system's resolver prefers them (RFC 6724). `interrupted` is
/// asked after each wake and ends the attempt.
///
/// # Errors
/// What went wrong with the last IP address tried; `Interrupted` if the attempt was ended.
pub(super) fn open(
    route: Route<'_>,
    stacks: &Stacks,
    waker: &Waker,
    deadline: Instant,
    mut interrupted: impl FnMut() -> bool,
) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address that may be dialled");
    for addr in resolve(route.addr, route.hearsay, stacks)? {
        if interrupted() {
            return Err(ErrorKind::Interrupted.into());
        }
        let deadline = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        match open_one(addr, route.source, waker, deadline, &mut interrupted) {
            Ok(stream) => return Ok((stream, addr)),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The IP addresses of a name that a peer can be behind. A name that a peer told leads to this
/// machine only if it says so: what else it leads to is for whoever owns it to decide, at any time.
fn resolve(addr: &DialAddr, hearsay: bool, stacks: &Stacks) -> io::Result<Vec<SocketAddr>> {
    match addr {
        DialAddr::Socket(addr) => Ok(vec![*addr]),
        DialAddr::Name { host, port } => {
            let loopback_too = !hearsay || host.is_loopback();
            // Blocks for as long as the system's resolver likes, which harms nobody on this thread, and takes
            // as much stack as its modules like.
            let look_up = || (host.as_str(), *port).to_socket_addrs().map_err(not_found);
            let found = stacks.run(look_up)??.map(DialAddr::from);
            let usable = found.filter(|addr| addr.is_dialable() && (loopback_too || !addr.is_loopback()));
            Ok(usable.filter_map(|addr| addr.socket()).collect())
        }
    }
}

/// The error of a lookup, or that there is nobody to ask: what a bare system's C library says of that
/// ("temporary failure") does not help.
fn not_found(error: io::Error) -> io::Error {
    let is_bare = ["/etc/resolv.conf", "/etc/hosts"].iter().all(|file| !Path::new(file).exists());
    if is_bare {
        let why = "no name can be looked up here, as there is no /etc/resolv.conf; use the IP address";
        return io::Error::new(error.kind(), why);
    }
    error
}

fn open_one(
    addr: SocketAddr,
    source: Option<LocalIp>,
    waker: &Waker,
    deadline: Instant,
    interrupted: &mut impl FnMut() -> bool,
) -> io::Result<TcpStream> {
    let socket = socket::tcp(&addr)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    // The address that we listen on is the one that peers know us by.
    if let Some(source) = source.filter(|source| source.ip().is_ipv4() == addr.is_ipv4()) {
        socket::choose_port_late(&socket);
        bind(&socket, &source.with_port(0))?;
    }
    match connect(&socket, &addr) {
        Ok(()) => return Ok(socket.into()),
        Err(error) if error == rustix::io::Errno::INPROGRESS => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(waker.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT),
        ];
        poll_until(&mut fds, Some(deadline))?;
        let [woken, ready] = fds.each_ref().map(PollFd::revents);
        if !woken.is_empty() {
            waker.clear();
            if interrupted() {
                return Err(ErrorKind::Interrupted.into());
            }
        }
        if !ready.is_empty() {
            sockopt::socket_error(&socket)??;
            return Ok(socket.into());
        }
        if Instant::now() >= deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, "no answer to the connection attempt"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(addr: &str, hearsay: bool) -> Vec<SocketAddr> {
        resolve(&addr.parse().unwrap(), hearsay, &Stacks::default()).unwrap_or_default()
    }

    #[test]
    fn a_name_leads_to_this_machine_if_the_user_or_the_name_says_so() {
        assert!(resolved("localhost:80", false).iter().all(|addr| addr.ip().is_loopback()));
        assert_eq!(resolved("localhost:80", true), resolved("localhost:80", false));
        // This machine's own name: hosts files often lead it to a loopback address.
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        if let Ok(own) = format!("{}:80", name.trim()).parse::<DialAddr>() {
            let hearsay = resolve(&own, true, &Stacks::default()).unwrap_or_default();
            assert!(hearsay.iter().all(|addr| own.is_loopback() || !addr.ip().is_loopback()), "{hearsay:?}");
        }
    }
}
