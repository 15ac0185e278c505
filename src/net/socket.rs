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

/// Has a socket that is bound to port 0 get its port when it connects, if the system can: a port that nobody
/// else connects from is searched for among all of them, and there are none left when as many connections
/// have just ended; one that nobody else has to the same address is found at once.
pub(crate) fn choose_port_late(socket: &OwnedFd) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // Linux before 4.2 cannot, and chooses now.
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = socket;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_port_is_chosen_when_it_is_known_where_to() {
        for host in ["127.0.0.1", "::1"] {
            let from = SocketAddr::new(host.parse().unwrap(), 0);
            // Not every machine has IPv6.
            let Ok(listener) = std::net::TcpListener::bind(from) else { continue };
            let socket = tcp(&from).unwrap();
            choose_port_late(&socket);
            rustix::net::bind(&socket, &from).unwrap();
            let socket = std::net::TcpStream::from(socket);
            assert_eq!(socket.local_addr().unwrap(), from);
            rustix::net::connect(&socket, &listener.local_addr().unwrap()).unwrap();
            let local = socket.local_addr().unwrap();
            assert_eq!((local.ip(), local.port() == 0), (from.ip(), false));
        }
    }

    #[test]
    fn sockets_are_not_inherited_however_they_are_made() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        for socket in [tcp(&addr), in_two_steps(AddressFamily::INET)] {
            let flags = rustix::io::fcntl_getfd(socket.unwrap()).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
}
