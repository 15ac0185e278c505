//! Opening a TCP connection that a waker can interrupt, from a chosen source address.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::AsFd as _;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

use super::link::poll_until;
use crate::config::{CONNECT_TIMEOUT, DialAddr, canonical};
use crate::waker::Waker;

/// Resolves the address and connects to the first of its IP addresses that answers before the
/// deadline. `interrupted` is asked after each wake and ends the attempt.
///
/// # Errors
/// What went wrong with the last IP address tried; `Interrupted` if the attempt was ended.
pub(super) fn open(
    addr: &DialAddr,
    source: Option<IpAddr>,
    waker: &Waker,
    deadline: Instant,
    mut interrupted: impl FnMut() -> bool,
) -> io::Result<(TcpStream, SocketAddr)> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for addr in resolve(addr)? {
        let addr = canonical(addr);
        if interrupted() {
            return Err(ErrorKind::Interrupted.into());
        }
        let deadline = deadline.min(Instant::now() + CONNECT_TIMEOUT);
        match open_one(addr, source, waker, deadline, &mut interrupted) {
            Ok(stream) => return Ok((stream, addr)),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn resolve(addr: &DialAddr) -> io::Result<Vec<SocketAddr>> {
    match addr {
        DialAddr::Socket(addr) => Ok(vec![*addr]),
        // Blocks for as long as the system's resolver likes; on this thread that harms nobody.
        DialAddr::Name { host, port } => Ok((host.as_str(), *port).to_socket_addrs()?.collect()),
    }
}

fn open_one(
    addr: SocketAddr,
    source: Option<IpAddr>,
    waker: &Waker,
    deadline: Instant,
    interrupted: &mut impl FnMut() -> bool,
) -> io::Result<TcpStream> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    // The address that we listen on is the one that peers know us by.
    if let Some(source) = source.filter(|source| source.is_ipv4() == addr.is_ipv4()) {
        bind(&socket, &SocketAddr::new(source, 0))?;
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
