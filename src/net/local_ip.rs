//! Addresses of this machine, on which it listens and from which it dials.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use super::addr::{DialAddr, lacks_scope};
use super::dial_addr_error::DialAddrError;
use super::zone::{Zone, parse_ipv6};

/// An IP address of this machine, and its interface if the address is link-local.
///
/// ```
/// use p2p_gossip::LocalIp;
/// assert_eq!("::ffff:192.0.2.7".parse::<LocalIp>()?.to_string(), "192.0.2.7");
/// # Ok::<(), p2p_gossip::DialAddrError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalIp {
    ip: IpAddr,
    zone: Zone,
}

impl LocalIp {
    /// The address.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The address with a port, and with the index that its interface has now.
    ///
    /// # Errors
    /// The address names an interface that this machine does not have now.
    pub fn socket_addr(self, port: u16) -> io::Result<SocketAddr> {
        let index = match self.zone {
            Zone::Index(index) => index,
            Zone::Name(interface) => interface.index()?,
        };
        Ok(self.with_index(port, index))
    }

    /// The address with a port, as peers dial it.
    #[must_use]
    pub fn dial_addr(self, port: u16) -> DialAddr {
        match (self.ip, self.zone) {
            (IpAddr::V6(ip), Zone::Name(interface)) => DialAddr::LinkLocal { ip, interface, port },
            (_, zone) => DialAddr::Socket(self.with_index(port, zone.index())),
        }
    }

    fn with_index(self, port: u16, index: u32) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, index).into(),
        }
    }

    /// Whether the address is link-local without an interface.
    #[must_use]
    pub fn lacks_scope(self) -> bool {
        matches!(self.zone, Zone::Index(index) if lacks_scope(&self.with_index(0, index)))
    }
}

impl From<IpAddr> for LocalIp {
    fn from(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), zone: Zone::Index(0) }
    }
}

impl FromStr for LocalIp {
    type Err = DialAddrError;

    fn from_str(s: &str) -> Result<Self, DialAddrError> {
        if let Ok(ip) = s.parse::<IpAddr>() {
            return Ok(ip.into());
        }
        let (ip, zone) = parse_ipv6(s).map_err(|error| match error {
            DialAddrError::BadInterface => error,
            _ => DialAddrError::BadHost,
        })?;
        let zone = if ip.is_unicast_link_local() { zone } else { Zone::Index(0) };
        Ok(Self { ip: IpAddr::V6(ip).to_canonical(), zone })
    }
}

impl fmt::Display for LocalIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.zone {
            Zone::Index(0) => self.ip.fmt(f),
            Zone::Index(index) => write!(f, "{}%{index}", self.ip),
            Zone::Name(interface) => write!(f, "{}%{interface}", self.ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::scope_of;

    #[cfg(target_os = "linux")]
    #[test]
    fn interface_stays_a_name_until_its_index_is_needed() {
        let local: LocalIp = "fe80::1%lo".parse().unwrap();
        assert_eq!(local.dial_addr(80).to_string(), "[fe80::1%lo]:80");
        assert_eq!("[fe80::1%lo]:80".parse(), Ok(local.dial_addr(80)));
        let by_index = local.socket_addr(80).unwrap();
        assert_eq!(by_index, format!("[fe80::1%{}]:80", scope_of(&by_index)).parse().unwrap());
        let by_name = DialAddr::Socket(by_index).with_interface_name();
        assert_eq!(by_name, local.dial_addr(80));
        assert_eq!(by_name.with_interface_index(), DialAddr::Socket(by_index));
        let absent: DialAddr = "[fe80::1%no-such-if]:80".parse().unwrap();
        assert!(absent.is_dialable() && absent.with_interface_index() == absent);
        let refused = "fe80::1%no-such-if".parse::<LocalIp>().unwrap().socket_addr(80).unwrap_err();
        assert!(refused.to_string().contains("no network interface 'no-such-if' now"), "{refused}");
    }

    #[test]
    fn local_ip_is_an_ip_without_a_port() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::1", "::1"),
            ("fe80::1%3", "fe80::1%3"),
            ("fe80::1%wlan7", "fe80::1%wlan7"),
            ("::1%wlan7", "::1"),
        ] {
            assert_eq!(text.parse::<LocalIp>().map(|ip| ip.to_string()).as_deref(), Ok(shown));
        }
        for text in ["", "host", "192.0.2.7:80", "[::1]", "192.0.2.7%1"] {
            assert_eq!(text.parse::<LocalIp>(), Err(DialAddrError::BadHost), "{text}");
        }
        assert!("fe80::1".parse::<LocalIp>().unwrap().lacks_scope());
    }
}
