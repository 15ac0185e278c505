//! The listening socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;

use super::local_ip::LocalIp;
use super::socket;
use crate::limits::BACKLOG;

/// An accepted connection.
pub(crate) type Connection = TcpStream;

/// A socket that one thread accepts connections from, until another thread ends that.
#[derive(Debug)]
pub(crate) struct ListenSocket(TcpListener);

/// Opens the listening socket. Without an address it listens on every interface: IPv6 and IPv4 in one
/// socket, or IPv4 alone on a system without IPv6.
///
/// # Errors
/// The socket cannot be opened. The error holds the address that was tried and the system's error.
pub(crate) fn listen(bind: Option<LocalIp>, port: u16) -> Result<ListenSocket, (SocketAddr, io::Error)> {
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

fn open(addr: SocketAddr) -> io::Result<ListenSocket> {
    let socket = socket::tcp(&addr)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !addr.ip().is_unspecified())?;
    }
    // A restarted node gets its port back even if old connections are in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(ListenSocket(TcpListener::from(socket)))
}

impl ListenSocket {
    /// The listen address, with the actual port.
    ///
    /// # Errors
    /// The system's error.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Waits for a connection.
    ///
    /// # Errors
    /// No descriptor is left, the connection has ended already, or [`ListenSocket::interrupt_accept`] was called.
    pub(crate) fn accept(&self) -> io::Result<(Connection, SocketAddr)> {
        self.0.accept()
    }

    /// Ends the blocked accept, or the next one, with an error or with a connection.
    pub(crate) fn interrupt_accept(&self) {
        // On Linux this makes every accept fail. On other systems a connection to the own socket ends one.
        if rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both).is_err()
            && let Ok(mut addr) = self.0.local_addr()
        {
            match addr.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
                IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
                _ => {}
            }
            let _ = TcpStream::connect_timeout(&addr, Duration::from_secs(1));
        }
    }
}
