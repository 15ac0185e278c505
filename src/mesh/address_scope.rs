//! The scope of addresses: which addresses mean the same at both ends of a session.
//!
//! - A loopback address or name means the machine that dials. This node sends it to, and accepts it from, peers on
//!   this machine only. Otherwise a stranger could point this node at services on its own machine.
//! - A link-local address has a meaning on one link. This node sends it to, and accepts it from, peers that it
//!   reaches over that link. The scope of an accepted address is that of the session.
//! - A private address has a meaning in one network. This node accepts it from peers that it reaches at a private address
//!   only. Otherwise a stranger could point this node at machines in its own network. A name that only other peers told
//!   must not lead to one.

use std::net::{SocketAddr, SocketAddrV6};

use crate::net::addr::{DialAddr, is_link_local, is_private, scope_of};

/// An address that a peer told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) addr: DialAddr,
    /// Whether it is a name that must not lead into a private network.
    pub(super) is_foreign: bool,
}

impl From<DialAddr> for Told {
    /// An address that this node knows without a teller.
    fn from(addr: DialAddr) -> Self {
        Self { addr, is_foreign: false }
    }
}

/// An address that a peer at `remote` told, as this node must write it; `None` if it has no meaning here.
pub(super) fn as_told_by(remote: SocketAddr, addr: DialAddr) -> Option<Told> {
    let addr = match addr {
        DialAddr::Socket(SocketAddr::V6(v6)) if is_link_local(&v6.into()) => {
            let scope = Some(scope_of(&remote)).filter(|_| is_link_local(&remote))?;
            DialAddr::Socket(SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into())
        }
        other => other,
    };
    let is_foreign = addr.socket().is_some_and(|addr| is_private(addr.ip()) && !is_near(remote));
    let means_something = (is_local(remote) || !addr.is_loopback()) && !is_foreign;
    let is_foreign = addr.is_name() && !addr.is_loopback() && !is_near(remote);
    (means_something && addr.is_dialable()).then_some(Told { addr, is_foreign })
}

/// Whether an address that this node knows means the same to a peer at `remote`.
pub(super) fn can_be_told_to(remote: SocketAddr, addr: &DialAddr) -> bool {
    match addr.socket().filter(is_link_local) {
        Some(addr) => is_link_local(&remote) && scope_of(&addr) == scope_of(&remote),
        None => is_local(remote) || !addr.is_loopback(),
    }
}

/// Whether the other end is on this machine, or in a network of this node.
fn is_near(remote: SocketAddr) -> bool {
    is_local(remote) || is_private(remote.ip())
}

/// Whether the other end is on this machine.
fn is_local(remote: SocketAddr) -> bool {
    remote.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(by: &str, addr: &str) -> Option<String> {
        as_told_by(by.parse().unwrap(), addr.parse().unwrap()).map(|told| told.addr.to_string())
    }

    fn tells(to: &str, addr: &str) -> bool {
        can_be_told_to(to.parse().unwrap(), &addr.parse().unwrap())
    }

    #[test]
    fn loopback_addresses_are_shared_on_one_machine_only() {
        for addr in ["127.0.0.1:1", "[::1]:1", "localhost:1", "a.localhost:1"] {
            assert!(told("127.0.0.1:9", addr).is_some() && told("[::1]:9", addr).is_some(), "{addr}");
            assert_eq!(told("10.0.0.1:9", addr), None, "{addr}");
            assert!(tells("127.0.0.1:9", addr) && !tells("10.0.0.1:9", addr), "{addr}");
        }
    }

    #[test]
    fn link_local_addresses_are_shared_on_one_link_only() {
        assert_eq!(told("[fe80::9%4]:9", "[fe80::1]:1").as_deref(), Some("[fe80::1%4]:1"));
        // A scope that a peer claims is a mistake, or an attack.
        assert_eq!(told("[fe80::9%4]:9", "[fe80::1%7]:1").as_deref(), Some("[fe80::1%4]:1"));
        for elsewhere in ["10.0.0.1:9", "[2001:db8::9]:9", "127.0.0.1:9"] {
            assert_eq!(told(elsewhere, "[fe80::1%7]:1"), None);
            assert!(!tells(elsewhere, "[fe80::1%7]:1"));
        }
        assert!(tells("[fe80::9%7]:9", "[fe80::1%7]:1") && !tells("[fe80::9%4]:9", "[fe80::1%7]:1"));
    }

    #[test]
    fn private_addresses_are_accepted_from_private_addresses_only() {
        for addr in
            ["10.0.0.1:1", "172.16.9.9:1", "192.168.1.1:22", "169.254.1.1:1", "100.64.0.1:1", "[fd00::1]:1"]
        {
            for near in ["10.9.9.9:9", "192.168.7.7:9", "127.0.0.1:9", "[fe80::9%4]:9", "[fd00::9]:9"] {
                assert!(told(near, addr).is_some(), "{addr} told by {near}");
            }
            for far in ["192.0.2.1:9", "[2001:db8::9]:9"] {
                assert_eq!(told(far, addr), None, "{addr} told by {far}");
            }
        }
        assert!(told("192.0.2.1:9", "100.128.0.1:1").is_some());
    }

    #[test]
    fn names_told_by_peers_outside_of_private_networks_lead_into_none() {
        let is_foreign = |by: &str, addr: &str| {
            let told = as_told_by(by.parse().unwrap(), addr.parse().unwrap());
            told.unwrap().is_foreign
        };
        for far in ["192.0.2.1:9", "[2001:db8::9]:9"] {
            assert!(is_foreign(far, "node.example:1") && !is_foreign(far, "192.0.2.7:1"));
        }
        for near in ["10.9.9.9:9", "127.0.0.1:9", "[fe80::9%4]:9", "[fd00::9]:9"] {
            assert!(!is_foreign(near, "node.example:1"));
        }
    }

    #[test]
    fn global_addresses_are_told_to_all_peers() {
        for addr in ["10.0.0.1:1", "node.example:1", "[2001:db8::1]:1"] {
            for remote in ["127.0.0.1:9", "10.0.0.1:9", "[fe80::9%4]:9"] {
                assert_eq!(told(remote, addr).as_deref(), Some(addr));
                assert!(tells(remote, addr));
            }
        }
    }
}
