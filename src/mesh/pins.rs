//! Addresses of strangers that the table of peers has no room for any more. A strict node refuses other keys there.

use std::collections::BTreeMap;

use super::accounts::Account;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;

/// Addresses kept. Beyond that, the machine with the most addresses loses one.
const PINS_MAX: usize = 1024;

/// The owner of each address.
#[derive(Debug, Default)]
pub(super) struct Pins {
    owners: BTreeMap<DialAddr, PeerId>,
}

impl Pins {
    /// The first owner keeps an address.
    pub(super) fn insert(&mut self, addr: DialAddr, id: PeerId) {
        self.owners.entry(addr).or_insert(id);
        if self.owners.len() > PINS_MAX {
            self.drop_one();
        }
    }

    /// The peer is in the table again.
    pub(super) fn remove(&mut self, id: &PeerId) {
        self.owners.retain(|_, owner| owner != id);
    }

    pub(super) fn owner(&self, addr: &DialAddr) -> Option<PeerId> {
        self.owners.get(addr).copied()
    }

    /// One machine has many ports, so a stranger could fill the table with its own addresses.
    fn drop_one(&mut self) {
        let mut count: BTreeMap<Option<Account>, Vec<&DialAddr>> = BTreeMap::new();
        for addr in self.owners.keys() {
            count.entry(Account::target(addr)).or_default().push(addr);
        }
        let most = count.into_values().max_by_key(Vec::len);
        if let Some(addr) = most.and_then(|addrs| addrs.last().copied().cloned()) {
            self.owners.remove(&addr);
        }
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.owners.len() <= PINS_MAX, "{} pins", self.owners.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(machine: u8, port: u16) -> DialAddr {
        DialAddr::Socket(([10, 0, 0, machine], port).into())
    }

    #[test]
    fn machine_with_many_ports_displaces_only_its_own_addresses() {
        let (first, stranger) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
        let mut pins = Pins::default();
        pins.insert(addr(1, 8080), first);
        for port in 1..=2 * u16::try_from(PINS_MAX).unwrap() {
            pins.insert(addr(2, port), stranger);
        }
        pins.check_limits();
        assert_eq!(pins.owner(&addr(1, 8080)), Some(first));
        pins.insert(addr(1, 8080), stranger);
        assert_eq!(pins.owner(&addr(1, 8080)), Some(first));
        pins.remove(&first);
        assert_eq!(pins.owner(&addr(1, 8080)), None);
    }
}
