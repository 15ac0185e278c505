//! Addresses from beacons: those that wait for a dial, and the peers that answered at earlier ones.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::net::beacon::Beacon;
use crate::trust::peer_id::PeerId;

/// Addresses from beacons that wait for a dial or are dialled, at most. A node that has joined through one of them
/// learns the rest of the mesh from lists.
pub const BEACON_DIALS_MAX: usize = 64;
/// Of these, addresses of one machine, at most: one machine must not take the places of all others.
pub const BEACON_DIALS_PER_MACHINE: usize = 8;
/// Longest wait for the dial. Forged beacons fill the queue with addresses at which nothing answers; those that waited for
/// longer are left out, so that later beacons find room soon. The next beacon repeats an address that was left out.
pub(super) const BEACON_WAIT_MAX: Duration = Duration::from_secs(5);
/// Addresses whose peer is remembered: as many as peers by default.
const ANSWERED_MAX: usize = 1024;

/// The addresses from beacons.
#[derive(Debug, Default)]
pub(super) struct Beacons {
    /// Addresses that wait for a dial, or are dialled.
    pending: BTreeMap<SocketAddr, Pending>,
    /// The last peer that answered at an address.
    answered: BTreeMap<SocketAddr, PeerId>,
}

/// An address that waits for a dial, or is dialled.
#[derive(Debug)]
struct Pending {
    /// The number of the process that sent the beacon.
    instance: u64,
    heard: Instant,
}

impl Beacons {
    /// Adds an address that is to be dialled. Returns whether it is new and there is room for it. A process with several
    /// addresses is dialled at one at a time.
    pub(super) fn add(&mut self, now: Instant, beacon: Beacon) -> bool {
        let Beacon { instance, addr } = beacon;
        let of_machine = self.pending.keys().filter(|other| other.ip() == addr.ip()).count();
        let has_room = self.pending.len() < BEACON_DIALS_MAX && of_machine < BEACON_DIALS_PER_MACHINE;
        let is_new = !self.pending.contains_key(&addr)
            && self.pending.values().all(|other| other.instance != instance);
        let is_added = has_room && is_new;
        if is_added {
            self.pending.insert(addr, Pending { instance, heard: now });
        }
        is_added
    }

    /// The beacon with this address, if the address waits for a dial or is dialled.
    pub(super) fn pending(&self, addr: SocketAddr) -> Option<Beacon> {
        self.pending.get(&addr).map(|pending| Beacon { instance: pending.instance, addr })
    }

    /// Whether the address has waited for too long.
    pub(super) fn is_stale(&self, now: Instant, addr: SocketAddr) -> bool {
        self.pending.get(&addr).is_some_and(|pending| now > pending.heard + BEACON_WAIT_MAX)
    }

    /// The dial has ended, or is not wanted any more.
    pub(super) fn finish(&mut self, addr: SocketAddr) {
        self.pending.remove(&addr);
    }

    /// The last peer that answered at the address.
    pub(super) fn peer_at(&self, addr: SocketAddr) -> Option<PeerId> {
        self.answered.get(&addr).copied()
    }

    /// A peer answered at the address.
    pub(super) fn note_answer(&mut self, addr: SocketAddr, peer: PeerId) {
        if self.answered.len() >= ANSWERED_MAX && !self.answered.contains_key(&addr) {
            self.answered.pop_first();
        }
        self.answered.insert(addr, peer);
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.pending.len() <= BEACON_DIALS_MAX, "{} beacons", self.pending.len());
        debug_assert!(self.answered.len() <= ANSWERED_MAX, "{} answers", self.answered.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded_and_the_last_one_counts() {
        let mut beacons = Beacons::default();
        let addr = |n: usize| SocketAddr::from(([10, 0, 0, 1], u16::try_from(n).unwrap()));
        for n in 1..=2 * ANSWERED_MAX {
            beacons.note_answer(addr(n), PeerId::from_bytes([1; 32]));
            beacons.check_limits();
        }
        let other = PeerId::from_bytes([2; 32]);
        beacons.note_answer(addr(2 * ANSWERED_MAX), other);
        assert_eq!(beacons.peer_at(addr(2 * ANSWERED_MAX)), Some(other));
        assert_eq!(beacons.peer_at(addr(1)), None);
    }
}
