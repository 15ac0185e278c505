//! The names of the interfaces behind which link-local peers were met.
//!
//! The kernel tells a link-local address with the index of its interface, and the index differs each time that the
//! interface is made. So a session notes the interface's name while the interface exists, and a later dial replaces the
//! index by the one that the name has then.

use std::collections::BTreeMap;
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::net::addr::{is_link_local, scope_of};
use crate::net::interface_name::{InterfaceName, name_of};

/// Interfaces remembered: more than machines have. Beyond that, the lowest index, which is the oldest, is forgotten.
const INTERFACES_MAX: usize = 256;

/// Names of interfaces by their index.
#[derive(Debug, Default)]
pub(crate) struct Interfaces(Mutex<BTreeMap<u32, InterfaceName>>);

impl Interfaces {
    /// Notes the name of the interface behind which this peer is, if its address is link-local.
    pub(crate) fn note(&self, remote: &SocketAddr) {
        self.note_name(remote, name_of);
    }

    /// The address with the index that its interface has now. Unchanged if no peer was met behind that index, or the
    /// interface does not exist now.
    pub(crate) fn current(&self, addr: SocketAddr) -> SocketAddr {
        self.current_by(addr, |name| name.index().ok())
    }

    fn note_name(&self, remote: &SocketAddr, name_of: impl FnOnce(u32) -> Option<InterfaceName>) {
        let index = scope_of(remote);
        if !is_link_local(remote) || self.names().contains_key(&index) {
            return;
        }
        if let Some(name) = name_of(index) {
            let mut names = self.names();
            names.insert(index, name);
            if names.len() > INTERFACES_MAX {
                names.pop_first();
            }
        }
    }

    fn current_by(
        &self,
        addr: SocketAddr,
        index_of: impl FnOnce(InterfaceName) -> Option<u32>,
    ) -> SocketAddr {
        let SocketAddr::V6(v6) = addr else {
            return addr;
        };
        let name = self.names().get(&v6.scope_id()).copied().filter(|_| is_link_local(&addr));
        match name.and_then(index_of) {
            Some(index) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, index).into(),
            None => addr,
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<u32, InterfaceName>> {
        // The map is valid at any time: no code that holds the lock panics between changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_of_an_interface_that_was_made_again_is_replaced() {
        let interfaces = Interfaces::default();
        let at = |index: u32| SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, index));
        let name = InterfaceName::new("wlan0");
        interfaces.note_name(&at(3), |_| name);
        assert_eq!(interfaces.current_by(at(3), |asked| (Some(asked) == name).then_some(9)), at(9));
        // The interface is gone, or the index is another's.
        assert_eq!(interfaces.current_by(at(3), |_| None), at(3));
        assert_eq!(interfaces.current_by(at(4), |_| panic!("unknown")), at(4));
        let elsewhere = "[2001:db8::1]:7".parse().unwrap();
        interfaces.note_name(&elsewhere, |_| panic!("it needs no interface"));
        assert_eq!(interfaces.current_by(elsewhere, |_| panic!("it needs no interface")), elsewhere);
    }

    #[test]
    fn number_of_interfaces_is_bounded() {
        let interfaces = Interfaces::default();
        for index in 1..=u32::try_from(INTERFACES_MAX).unwrap() + 9 {
            let at = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, index).into();
            interfaces.note_name(&at, |_| InterfaceName::new("eth0"));
        }
        assert_eq!(interfaces.names().len(), INTERFACES_MAX);
        assert!(interfaces.names().contains_key(&10) && !interfaces.names().contains_key(&9));
    }
}
