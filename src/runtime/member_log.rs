//! Which lines on who comes and goes reach the log: all in the ordinary life of a mesh, and a
//! bounded number whatever strangers do. They cost nothing: a key is new whenever one likes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::trust::peer_id::PeerId;
use crate::util::log_limit::Allowance;

/// Membership that earns a peer its standing: from then on strangers don't use up its lines.
const STANDING_AFTER: Duration = Duration::from_secs(60);
/// Lines on strangers at once, for each peer that the table has room for: a whole mesh may form in
/// one moment.
const STRANGERS_AT_ONCE: usize = 1;
/// And one more so often.
const STRANGER_EVERY: Duration = Duration::from_secs(2);
/// The same for peers of standing: the mesh may split and heal, several times.
const STANDING_AT_ONCE: usize = 8;
/// And one more so often.
const STANDING_EVERY: Duration = Duration::from_millis(100);

/// What the log knows of who was there.
#[derive(Debug)]
pub(crate) struct MemberLog {
    /// Members now, and since when; the mesh bounds how many.
    up_since: BTreeMap<PeerId, Instant>,
    /// Peers that were members for long; at most `peers_max`.
    standing: BTreeSet<PeerId>,
    peers_max: usize,
    strangers_allowance: Allowance,
    standing_allowance: Allowance,
}

impl MemberLog {
    /// For a node that has room for so many peers.
    pub(crate) fn new(peers_max: usize) -> Self {
        let lines = |each| u32::try_from(peers_max.saturating_mul(each)).unwrap_or(u32::MAX);
        Self {
            up_since: BTreeMap::new(),
            standing: BTreeSet::new(),
            peers_max,
            strangers_allowance: Allowance::new(lines(STRANGERS_AT_ONCE), STRANGER_EVERY),
            standing_allowance: Allowance::new(lines(STANDING_AT_ONCE), STANDING_EVERY),
        }
    }

    /// Whether to write a line for this event, and how many of its kind were left out before it.
    pub(crate) fn check(&mut self, now: Instant, event: &Event) -> Option<u64> {
        let peer = match event {
            Event::Up { peer, .. } => {
                self.up_since.insert(*peer, now);
                peer
            }
            Event::Down { peer, .. } | Event::Left { peer, .. } => {
                let since = self.up_since.remove(peer);
                if since.is_some_and(|since| now.saturating_duration_since(since) >= STANDING_AFTER) {
                    self.gains_standing(*peer);
                }
                peer
            }
            Event::Listening { .. } | Event::Ping { .. } | Event::Message { .. } | Event::Stopped => {
                return None;
            }
        };
        if self.standing.contains(peer) {
            self.standing_allowance.check(now)
        } else {
            self.strangers_allowance.check(now)
        }
    }

    fn gains_standing(&mut self, peer: PeerId) {
        if self.standing.len() >= self.peers_max && !self.standing.contains(&peer) {
            // At most as many as that are members now, and this one is not.
            let gone = self.standing.iter().find(|id| !self.up_since.contains_key(id)).copied();
            gone.map(|gone| self.standing.remove(&gone));
        }
        self.standing.insert(peer);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::event::DownReason;
    use crate::limits::PEERS_MAX;
    use crate::net::addr::DialAddr;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(n: u32) -> PeerId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        PeerId::from_bytes(id)
    }

    fn somewhere() -> DialAddr {
        SocketAddr::from(([127, 0, 0, 1], 1)).into()
    }

    fn up(n: u32) -> Event {
        Event::Up { peer: peer(n), name: String::new(), addr: somewhere(), members: 2 }
    }

    fn down(n: u32) -> Event {
        let reason = DownReason::Closed;
        Event::Down { peer: peer(n), name: String::new(), addr: somewhere(), reason, members: 1 }
    }

    #[test]
    fn a_mesh_that_forms_splits_and_heals_is_told_whole() {
        let mut log = MemberLog::new(PEERS_MAX);
        let start = crate::test_now();
        let peers = u32::try_from(PEERS_MAX).unwrap();
        for n in 0..peers {
            assert_eq!(log.check(start, &up(n)), Some(0));
        }
        for round in 1..4 {
            for n in 0..peers {
                assert_eq!(log.check(start + 60 * round * SECOND, &down(n)), Some(0));
            }
            for n in 0..peers {
                assert_eq!(log.check(start + 60 * round * SECOND, &up(n)), Some(0));
            }
        }
    }

    #[test]
    fn strangers_without_end_leave_few_lines_and_hide_no_old_member() {
        let mut log = MemberLog::new(PEERS_MAX);
        let start = crate::test_now();
        assert_eq!(log.check(start, &up(0)), Some(0));
        let mut lines = 0;
        for n in 1..=100_000 {
            let now = start + SECOND / 100 * n;
            lines += [up(n), down(n)].iter().filter_map(|event| log.check(now, event)).count();
        }
        // A thousand seconds of it.
        assert!(lines <= PEERS_MAX + 500, "{lines} lines");
        let now = start + 1000 * SECOND;
        assert_eq!(log.check(now, &down(0)), Some(0));
        assert_eq!(log.check(now, &up(0)), Some(0));
        assert!(log.check(now + 2 * SECOND, &up(1)).is_some_and(|suppressed| suppressed > 0));
        assert!(log.up_since.len() <= 2 && log.standing.len() == 1);
    }

    #[test]
    fn standing_is_remembered_for_a_bounded_number_of_peers() {
        let mut log = MemberLog::new(PEERS_MAX);
        let mut now = crate::test_now();
        for n in 0..3000 {
            log.check(now, &up(n));
            now += STANDING_AFTER;
            log.check(now, &down(n));
        }
        assert_eq!(log.standing.len(), PEERS_MAX);
    }
}
