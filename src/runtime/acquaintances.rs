//! Which peers are acquainted: they were members for a minute. New keys are free, so events and log lines about
//! strangers must not displace those about peers that a user knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::event::Event;
use crate::limits::ACQUAINTED_AFTER;
use crate::trust::peer_id::PeerId;

/// Learns from events which peers are acquainted.
#[derive(Debug)]
pub struct Acquaintances {
    /// The members now, and when each came up. The mesh bounds their number.
    up_since: BTreeMap<PeerId, Instant>,
    /// At most `peers_max`.
    acquainted: BTreeSet<PeerId>,
    peers_max: usize,
}

impl Acquaintances {
    /// For a node with room for `peers_max` peers.
    #[must_use]
    pub fn new(peers_max: usize) -> Self {
        Self { up_since: BTreeMap::new(), acquainted: BTreeSet::new(), peers_max }
    }

    /// Notes an event. Returns whether it tells of an acquainted peer that comes or goes.
    pub fn note(&mut self, now: Instant, event: &Event) -> bool {
        let peer = match event {
            Event::Up { peer, .. } => {
                self.up_since.insert(*peer, now);
                peer
            }
            Event::Down { peer, .. } | Event::Left { peer, .. } => {
                let since = self.up_since.remove(peer);
                if since.is_some_and(|since| now.saturating_duration_since(since) >= ACQUAINTED_AFTER) {
                    self.insert(*peer);
                }
                peer
            }
            Event::Path { peer, .. } => peer,
            Event::Listening { .. } | Event::Ping { .. } | Event::Message { .. } | Event::Stopped => {
                return false;
            }
        };
        self.acquainted.contains(peer)
    }

    fn insert(&mut self, peer: PeerId) {
        if self.acquainted.len() >= self.peers_max && !self.acquainted.contains(&peer) {
            // One of the `peers_max` is not a member now: at most that many are, and `peer` is not.
            let gone = self.acquainted.iter().find(|id| !self.up_since.contains_key(id)).copied();
            gone.map(|gone| self.acquainted.remove(&gone));
        }
        self.acquainted.insert(peer);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::DownReason;
    use crate::internals::sample;
    use crate::limits::PEERS_MAX;

    fn peer(n: u32) -> PeerId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        PeerId::from_bytes(id)
    }

    fn up(n: u32) -> Event {
        sample::up(peer(n), "", "127.0.0.1:1".parse().unwrap(), 2)
    }

    fn down(n: u32) -> Event {
        sample::down(peer(n), "", "127.0.0.1:1".parse().unwrap(), DownReason::Closed, 1)
    }

    #[test]
    fn peer_is_acquainted_after_a_minute_as_a_member() {
        let (mut acquaintances, start) = (Acquaintances::new(PEERS_MAX), crate::test_now());
        assert!(!acquaintances.note(start, &up(1)));
        let soon = start + ACQUAINTED_AFTER - Duration::from_millis(1);
        assert!(!acquaintances.note(soon, &down(1)));
        assert!(!acquaintances.note(soon, &up(1)));
        let later = soon + ACQUAINTED_AFTER;
        assert!(acquaintances.note(later, &down(1)));
        assert!(acquaintances.note(later, &up(1)));
        assert!(!acquaintances.note(later, &up(2)));
        assert!(!acquaintances.note(later, &Event::Stopped));
    }

    #[test]
    fn set_of_acquainted_peers_is_bounded() {
        let (mut acquaintances, mut now) = (Acquaintances::new(PEERS_MAX), crate::test_now());
        for n in 0..3000 {
            acquaintances.note(now, &up(n));
            now += ACQUAINTED_AFTER;
            acquaintances.note(now, &down(n));
        }
        assert_eq!((acquaintances.acquainted.len(), acquaintances.up_since.len()), (PEERS_MAX, 0));
    }
}
