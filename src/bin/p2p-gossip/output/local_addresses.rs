//! The addresses of this machine at which other machines may reach it, the likeliest first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Addresses shown, at most. A machine with containers has one of each of their networks.
const ADDRESSES_MAX: usize = 8;

/// The addresses of this machine for other machines. The routing table's choice comes first; then those of the other
/// interfaces, because a network may have no route to elsewhere, and a VPN with the default route may lead to others.
pub(crate) fn local_addresses() -> Vec<IpAddr> {
    choose(routed_address(), interface_addresses())
}

/// The usable ones of these addresses, each once: the routed one, then IPv4, then IPv6.
fn choose(routed: Option<IpAddr>, mut found: Vec<IpAddr>) -> Vec<IpAddr> {
    found.sort_by_key(IpAddr::is_ipv6);
    let mut chosen: Vec<IpAddr> = Vec::new();
    for ip in routed.into_iter().chain(found) {
        if is_usable(ip) && !chosen.contains(&ip) && chosen.len() < ADDRESSES_MAX {
            chosen.push(ip);
        }
    }
    chosen
}

/// Whether others can reach this machine by the address alone. A link-local IPv6 address needs the name of an interface
/// of the other machine.
fn is_usable(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_link_local)
}

/// The address from which this machine reaches other machines, if it has one. Connecting a UDP socket sends
/// nothing; it only asks the routing table (for documentation addresses, RFC 5737 and RFC 3849).
fn routed_address() -> Option<IpAddr> {
    let source_address = |from: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((from, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        is_usable(ip).then_some(ip)
    };
    source_address(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()).or_else(|| {
        let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        source_address(Ipv6Addr::UNSPECIFIED.into(), documentation.into())
    })
}

/// The addresses of all interfaces that are up, in the system's order.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn interface_addresses() -> Vec<IpAddr> {
    use nix::net::if_::InterfaceFlags;
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let is_up = |flags: InterfaceFlags| flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING);
    let addresses = all.filter(|interface| is_up(interface.flags)).filter_map(|interface| interface.address);
    let ip = |address: nix::sys::socket::SockaddrStorage| match (
        address.as_sockaddr_in(),
        address.as_sockaddr_in6(),
    ) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (None, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        (None, None) => None,
    };
    addresses.filter_map(ip).collect()
}

/// Other systems tell the routing table's choice only.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn interface_addresses() -> Vec<IpAddr> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn routed_address_is_first_and_unusable_ones_are_left_out() {
        let found =
            ips(&["127.0.0.1", "2001:db8::7", "192.0.2.7", "10.8.0.2", "fe80::1", "169.254.1.1", "::1"]);
        let routed = "10.8.0.2".parse().ok();
        assert_eq!(choose(routed, found.clone()), ips(&["10.8.0.2", "192.0.2.7", "2001:db8::7"]));
        // A network without a default route.
        assert_eq!(choose(None, found), ips(&["192.0.2.7", "10.8.0.2", "2001:db8::7"]));
    }

    #[test]
    fn number_of_addresses_is_bounded() {
        let found: Vec<IpAddr> = (0..100).map(|n| Ipv4Addr::new(10, 0, 0, n).into()).collect();
        assert_eq!(choose(None, found).len(), ADDRESSES_MAX);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn interfaces_have_the_loopback_address() {
        assert!(interface_addresses().contains(&Ipv4Addr::LOCALHOST.into()));
    }
}
