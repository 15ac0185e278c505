//! TCP sockets that child processes do not inherit.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType};
#[cfg(not(target_vendor = "apple"))]
use rustix::net::{SocketFlags, socket_with};

/// Creates a socket of this address's family.
///
/// # Errors
/// No descriptor is left, or the system lacks the family.
pub(crate) fn tcp(addr: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    #[cfg(not(target_vendor = "apple"))]
    return create_cloexec(family);
    #[cfg(target_vendor = "apple")]
    return create_then_set_cloexec(family);
}

#[cfg(not(target_vendor = "apple"))]
fn create_cloexec(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// For systems without an atomic way: a process that is started between the two calls inherits the socket.
/// Tests on every system build it, so that a defect is found early.
#[cfg(any(test, target_vendor = "apple"))]
fn create_then_set_cloexec(family: AddressFamily) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// Delays the choice of a port until the socket, bound to port 0, connects (`IP_BIND_ADDRESS_NO_PORT`).
///
/// At bind time the system needs a port without any connection, and none is left if that many connections have
/// just ended. At connect time a port without a connection to the same address is enough. Does nothing on a
/// system without that option.
pub(crate) fn choose_port_late(socket: &OwnedFd) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    // Linux before 4.2 lacks the option and chooses the port at bind time.
    let _ = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = socket;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn port_is_chosen_when_the_socket_connects() {
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
    fn socket_of_either_constructor_is_not_inherited() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        for socket in [tcp(&addr), create_then_set_cloexec(AddressFamily::INET)] {
            let flags = rustix::io::fcntl_getfd(socket.unwrap()).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
}
