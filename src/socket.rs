//! TCP sockets that no program inherits which this one starts, made as each system allows.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType};
#[cfg(not(target_vendor = "apple"))]
use rustix::net::{SocketFlags, socket_with};

/// A socket of this address's family.
///
/// # Errors
/// No descriptor is left, or the system lacks the family.
pub(crate) fn tcp(addr: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    #[cfg(not(target_vendor = "apple"))]
    return at_once(family);
    #[cfg(target_vendor = "apple")]
    return in_two_steps(family);
}

#[cfg(not(target_vendor = "apple"))]
fn at_once(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// A program that is started in between inherits it. Built for the tests everywhere, so that it is not
/// found broken where it is needed.
#[cfg(any(test, target_vendor = "apple"))]
fn in_two_steps(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_not_inherited_however_they_are_made() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        for socket in [tcp(&addr), in_two_steps(AddressFamily::INET)] {
            let flags = rustix::io::fcntl_getfd(socket.unwrap()).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
}
