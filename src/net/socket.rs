//! Sockets that child processes do not inherit.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType};
#[cfg(not(target_vendor = "apple"))]
use rustix::net::{SocketFlags, socket_with};

/// Creates a TCP socket of this address's family.
///
/// # Errors
/// No descriptor is left, or the system lacks the family.
pub(crate) fn tcp(addr: &SocketAddr) -> io::Result<OwnedFd> {
    create(addr, SocketType::STREAM)
}

/// Creates a UDP socket of this address's family.
///
/// # Errors
/// As [`tcp`].
pub(crate) fn udp(addr: &SocketAddr) -> io::Result<OwnedFd> {
    create(addr, SocketType::DGRAM)
}

fn create(addr: &SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    #[cfg(not(target_vendor = "apple"))]
    return create_cloexec(family, kind);
    #[cfg(target_vendor = "apple")]
    return create_then_set_cloexec(family, kind);
}

#[cfg(not(target_vendor = "apple"))]
fn create_cloexec(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

/// For systems without an atomic way: a process that is started between the two calls inherits the socket.
/// Tests on every system build it, so that a defect is found early.
#[cfg(any(test, target_vendor = "apple"))]
fn create_then_set_cloexec(family: AddressFamily, kind: SocketType) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket(family, kind, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_of_either_constructor_is_not_inherited() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        for socket in
            [tcp(&addr), udp(&addr), create_then_set_cloexec(AddressFamily::INET, SocketType::STREAM)]
        {
            let flags = rustix::io::fcntl_getfd(socket.unwrap()).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
}
