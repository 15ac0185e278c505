//! Rate limits for up and down lines. New keys are free, so unknown peers share one budget.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::trust::peer_id::PeerId;
use crate::util::log_limit::LineBucket;

/// A peer that was a member for this long is established: its lines come from a separate budget.
const ESTABLISHED_AFTER: Duration = Duration::from_secs(60);
/// Burst of lines on unknown peers, for each slot in the table of peers: a whole mesh may form at once.
const UNKNOWN_AT_ONCE: usize = 1;
/// After the burst, unknown peers get one line in each period of this length.
const UNKNOWN_EVERY: Duration = Duration::from_secs(2);
/// Burst of lines on established peers, for each slot in the table of peers: the mesh may split and heal
/// several times.
const ESTABLISHED_AT_ONCE: usize = 8;
/// After the burst, established peers get one line in each period of this length.
const ESTABLISHED_EVERY: Duration = Duration::from_millis(100);

/// Decides which membership changes are logged.
#[derive(Debug)]
pub(crate) struct MemberLog {
    /// The members now, and when each came up. The mesh bounds their number.
    up_since: BTreeMap<PeerId, Instant>,
    /// Peers that were members for [`ESTABLISHED_AFTER`]; at most `peers_max`.
    established: BTreeSet<PeerId>,
    peers_max: usize,
    unknown_lines: LineBucket,
    established_lines: LineBucket,
}

impl MemberLog {
    /// A log for a node with room for `peers_max` peers.
    pub(crate) fn new(peers_max: usize) -> Self {
        let lines = |each| u32::try_from(peers_max.saturating_mul(each)).unwrap_or(u32::MAX);
        Self {
            up_since: BTreeMap::new(),
            established: BTreeSet::new(),
            peers_max,
            unknown_lines: LineBucket::new(lines(UNKNOWN_AT_ONCE), UNKNOWN_EVERY),
            established_lines: LineBucket::new(lines(ESTABLISHED_AT_ONCE), ESTABLISHED_EVERY),
        }
    }

    /// `Some` if the event may be logged, with the number of lines suppressed before it in the same budget.
    pub(crate) fn check(&mut self, now: Instant, event: &Event) -> Option<u64> {
        let peer = match event {
            Event::Up { peer, .. } => {
                self.up_since.insert(*peer, now);
                peer
            }
            Event::Down { peer, .. } | Event::Left { peer, .. } => {
                let since = self.up_since.remove(peer);
                if since.is_some_and(|since| now.saturating_duration_since(since) >= ESTABLISHED_AFTER) {
                    self.mark_established(*peer);
                }
                peer
            }
            Event::Listening { .. } | Event::Ping { .. } | Event::Message { .. } | Event::Stopped => {
                return None;
            }
        };
        if self.established.contains(peer) {
            self.established_lines.check(now)
        } else {
            self.unknown_lines.check(now)
        }
    }

    fn mark_established(&mut self, peer: PeerId) {
        if self.established.len() >= self.peers_max && !self.established.contains(&peer) {
            // One of the `peers_max` is not a member now: at most that many are, and `peer` is not.
            let gone = self.established.iter().find(|id| !self.up_since.contains_key(id)).copied();
            gone.map(|gone| self.established.remove(&gone));
        }
        self.established.insert(peer);
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

    fn any_addr() -> DialAddr {
        SocketAddr::from(([127, 0, 0, 1], 1)).into()
    }

    fn up(n: u32) -> Event {
        Event::Up { peer: peer(n), name: String::new(), addr: any_addr(), members: 2 }
    }

    fn down(n: u32) -> Event {
        let reason = DownReason::Closed;
        Event::Down { peer: peer(n), name: String::new(), addr: any_addr(), reason, members: 1 }
    }

    #[test]
    fn mesh_that_forms_splits_and_heals_is_logged_completely() {
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
    fn flood_of_unknown_peers_leaves_few_lines_and_hides_no_old_member() {
        let mut log = MemberLog::new(PEERS_MAX);
        let start = crate::test_now();
        assert_eq!(log.check(start, &up(0)), Some(0));
        let mut lines = 0;
        for n in 1..=100_000 {
            let now = start + SECOND / 100 * n;
            lines += [up(n), down(n)].iter().filter_map(|event| log.check(now, event)).count();
        }
        // The flood lasts 1000 seconds.
        assert!(lines <= PEERS_MAX + 500, "{lines} lines");
        let now = start + 1000 * SECOND;
        assert_eq!(log.check(now, &down(0)), Some(0));
        assert_eq!(log.check(now, &up(0)), Some(0));
        assert!(log.check(now + 2 * SECOND, &up(1)).is_some_and(|suppressed| suppressed > 0));
        assert!(log.up_since.len() <= 2 && log.established.len() == 1);
    }

    #[test]
    fn set_of_established_peers_is_bounded() {
        let mut log = MemberLog::new(PEERS_MAX);
        let mut now = crate::test_now();
        for n in 0..3000 {
            log.check(now, &up(n));
            now += ESTABLISHED_AFTER;
            log.check(now, &down(n));
        }
        assert_eq!(log.established.len(), PEERS_MAX);
    }
}
