//! The local networks of this machine: which addresses of its interfaces beacons are sent from, and where to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use rustix::net::sockopt;

/// UDP port of the beacons, the same on each machine.
pub const BEACON_PORT: u16 = 24816;
/// Multicast groups of the beacons. IPv4: the local scope (RFC 2365). IPv6: a transient group of the link (RFC 4291).
pub(crate) const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 112, 50);
pub(crate) const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x7032, 0x7062);
/// Addresses of interfaces that beacons are sent from, at most. A machine with containers has one for each network.
const LINKS_MAX: usize = 64;

/// An address of an interface, on which beacons are sent and heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The interface's name.
    pub(crate) interface: String,
    /// The address of this machine there. An IPv6 address has its interface as its scope.
    pub(crate) source: SocketAddr,
    /// Bits that the addresses of the network have in common.
    prefix: u32,
    /// Whether multicast goes there.
    has_multicast: bool,
    /// The address that reaches all machines of an IPv4 network.
    broadcast: Option<Ipv4Addr>,
}

impl Link {
    /// Whether a datagram from this address comes from a machine on this link.
    pub(crate) fn contains(&self, from: &SocketAddr) -> bool {
        match (self.source, from) {
            (SocketAddr::V4(own), SocketAddr::V4(from)) => {
                let mask = u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0);
                (own.ip().to_bits() ^ from.ip().to_bits()) & mask == 0
            }
            (SocketAddr::V6(own), SocketAddr::V6(from)) if own.ip().is_unicast_link_local() => {
                from.ip().is_unicast_link_local() && from.scope_id() == own.scope_id()
            }
            (SocketAddr::V6(own), SocketAddr::V6(from)) => {
                let mask = u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0);
                (own.ip().to_bits() ^ from.ip().to_bits()) & mask == 0
            }
            _ => false,
        }
    }

    /// Makes the socket hear the beacons that come by multicast on this link, if the link has multicast.
    ///
    /// # Errors
    /// The socket is of the other IP version, or hears them already.
    pub(crate) fn join(&self, socket: &UdpSocket) -> io::Result<()> {
        match self.source {
            _ if !self.has_multicast => Ok(()),
            SocketAddr::V4(own) => socket.join_multicast_v4(&GROUP_V4, own.ip()),
            SocketAddr::V6(own) => socket.join_multicast_v6(&GROUP_V6, own.scope_id()),
        }
    }

    /// Sends a datagram from this address to all machines of the link. Returns the first error if no way works.
    pub(crate) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        let socket = self.open()?;
        let multicast = self.has_multicast.then(|| self.multicast_addr());
        let broadcast = self.broadcast.map(|ip| (ip, BEACON_PORT).into());
        let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
        for to in multicast.into_iter().chain(broadcast) {
            let sent = socket.send_to(datagram, to).map(drop);
            if sent.is_ok() || result.is_err() {
                result = sent;
            }
        }
        result
    }

    /// Sends a datagram from this address to one machine of the link.
    pub(crate) fn send_to(&self, datagram: &[u8], mut to: SocketAddr) -> io::Result<()> {
        to.set_port(BEACON_PORT);
        self.open()?.send_to(datagram, to).map(drop)
    }

    /// Whether the address can be used: the system must have found that no other machine has it (RFC 4862).
    pub(crate) fn is_usable(&self) -> bool {
        self.open().is_ok()
    }

    /// A socket that sends from this address. Beacons are rare, so no socket is kept.
    fn open(&self) -> io::Result<UdpSocket> {
        let mut from = self.source;
        from.set_port(0);
        let socket = UdpSocket::bind(from)?;
        socket.set_nonblocking(true)?;
        if let SocketAddr::V4(own) = self.source {
            socket.set_broadcast(true)?;
            sockopt::set_ip_multicast_if(&socket, own.ip())?;
        }
        Ok(socket)
    }

    fn multicast_addr(&self) -> SocketAddr {
        match self.source {
            SocketAddr::V4(_) => (GROUP_V4, BEACON_PORT).into(),
            SocketAddr::V6(own) => SocketAddrV6::new(GROUP_V6, BEACON_PORT, 0, own.scope_id()).into(),
        }
    }
}

/// The links of all interfaces that are up, without point-to-point links, which have no other machines to find. A node
/// that listens on one address has beacons from that one only; `listen` is that address, or the unspecified one.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn links(listen: IpAddr) -> Vec<Link> {
    use nix::net::if_::InterfaceFlags as Flags;
    use nix::sys::socket::SockaddrStorage;

    let ip_of = |address: Option<SockaddrStorage>| {
        let address = address?;
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from((v4.ip(), 0)));
        let v6 = |v6: &nix::sys::socket::SockaddrIn6| {
            SocketAddr::from(SocketAddrV6::new(v6.ip(), 0, 0, v6.scope_id()))
        };
        v4.or_else(|| address.as_sockaddr_in6().map(v6))
    };
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let is_up = |flags: Flags| {
        flags.contains(Flags::IFF_UP | Flags::IFF_RUNNING) && !flags.contains(Flags::IFF_POINTOPOINT)
    };
    let up = all.filter(|found| is_up(found.flags));
    let found = up.filter_map(|found| {
        let mut source = ip_of(found.address)?;
        if let SocketAddr::V6(v6) = &mut source {
            v6.set_scope_id(nix::net::if_::if_nametoindex(found.interface_name.as_str()).ok()?);
        }
        let netmask = ip_of(found.netmask)?.ip();
        let has_multicast = found.flags.contains(Flags::IFF_MULTICAST);
        Some(link(found.interface_name, source, netmask, has_multicast))
            .filter(|link| is_wanted(link, listen))
    });
    found.take(LINKS_MAX).collect()
}

/// Other systems do not tell their interfaces.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn links(_listen: IpAddr) -> Vec<Link> {
    Vec::new()
}

fn link(interface: String, source: SocketAddr, netmask: IpAddr, has_multicast: bool) -> Link {
    let (prefix, broadcast) = match (source.ip(), netmask) {
        (IpAddr::V4(ip), IpAddr::V4(mask)) => {
            let prefix = mask.to_bits().leading_ones();
            // A network of one or two addresses has no broadcast address (RFC 3021).
            let broadcast = Ipv4Addr::from_bits(ip.to_bits() | !mask.to_bits());
            (prefix, (prefix < 31).then_some(broadcast))
        }
        (_, IpAddr::V6(mask)) => (mask.to_bits().leading_ones(), None),
        (_, IpAddr::V4(_)) => (0, None),
    };
    Link { interface, source, prefix, has_multicast, broadcast }
}

/// Whether beacons go out from this address, if the node listens on `listen`. Of several IPv6 addresses of a link the
/// link-local one is enough.
fn is_wanted(link: &Link, listen: IpAddr) -> bool {
    let ip = link.source.ip();
    let has_way = link.has_multicast || link.broadcast.is_some();
    let is_listened_on = match listen {
        _ if !listen.is_unspecified() => ip == listen,
        // The unspecified IPv6 address includes IPv4.
        IpAddr::V6(_) => true,
        IpAddr::V4(_) => ip.is_ipv4(),
    };
    let is_extra = matches!(ip, IpAddr::V6(v6) if listen.is_unspecified() && !v6.is_unicast_link_local());
    has_way && is_listened_on && !is_extra
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(source: &str, netmask: &str) -> Link {
        let ip = source.parse::<SocketAddr>().unwrap();
        link("eth0".to_owned(), ip, netmask.parse().unwrap(), true)
    }

    fn contains(link: &Link, from: &str) -> bool {
        link.contains(&from.parse().unwrap())
    }

    #[test]
    fn only_machines_of_the_link_are_heard() {
        let v4 = at("192.0.2.7:0", "255.255.255.0");
        assert!(contains(&v4, "192.0.2.200:1") && !contains(&v4, "192.0.3.1:1"));
        assert!(!contains(&v4, "[fe80::1%2]:1"));
        let v6 = at("[fe80::7%2]:0", "ffff:ffff:ffff:ffff::");
        assert!(contains(&v6, "[fe80::1%2]:1"));
        assert!(!contains(&v6, "[fe80::1%3]:1") && !contains(&v6, "[2001:db8::1]:1"));
        let global = at("[2001:db8::7%2]:0", "ffff:ffff:ffff:ffff::");
        assert!(contains(&global, "[2001:db8::1]:1") && !contains(&global, "[2001:db8:0:1::1]:1"));
        let host = at("192.0.2.7:0", "255.255.255.255");
        assert!(contains(&host, "192.0.2.7:1") && !contains(&host, "192.0.2.6:1"));
        assert!(contains(&at("192.0.2.7:0", "0.0.0.0"), "198.51.100.1:1"));
    }

    #[test]
    fn broadcast_address_comes_from_the_netmask() {
        assert_eq!(at("192.0.2.7:0", "255.255.255.0").broadcast, Some(Ipv4Addr::new(192, 0, 2, 255)));
        assert_eq!(at("127.0.0.1:0", "255.0.0.0").broadcast, Some(Ipv4Addr::new(127, 255, 255, 255)));
        assert_eq!(at("192.0.2.7:0", "255.255.255.254").broadcast, None);
    }

    #[test]
    fn node_on_one_address_sends_from_that_one_only() {
        let wanted = |source: &str, netmask: &str, listen: &str| {
            is_wanted(&at(source, netmask), listen.parse().unwrap())
        };
        let (mask, prefix) = ("255.255.255.0", "ffff:ffff:ffff:ffff::");
        assert!(wanted("192.0.2.7:0", mask, "::") && wanted("192.0.2.7:0", mask, "0.0.0.0"));
        assert!(wanted("192.0.2.7:0", mask, "192.0.2.7") && !wanted("192.0.2.7:0", mask, "192.0.2.8"));
        assert!(wanted("[fe80::7%2]:0", prefix, "::") && !wanted("[fe80::7%2]:0", prefix, "0.0.0.0"));
        assert!(!wanted("[2001:db8::7%2]:0", prefix, "::"));
        assert!(wanted("[2001:db8::7%2]:0", prefix, "2001:db8::7"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn loopback_is_a_link_with_a_broadcast_address() {
        let found = links(Ipv4Addr::LOCALHOST.into());
        assert_eq!(found.iter().filter(|link| link.broadcast.is_some()).count(), 1, "{found:?}");
        assert!(found[0].is_usable());
    }
}
