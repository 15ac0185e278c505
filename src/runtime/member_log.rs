//! Rate limits for up and down lines. New keys are free, so unknown peers share one budget.

use std::time::{Duration, Instant};

use crate::event::Event;
use crate::util::log_limit::LineBucket;

/// Burst of lines on unknown peers, for each slot in the table of peers: a whole mesh may form at once.
const UNKNOWN_AT_ONCE: usize = 1;
/// After the burst, unknown peers get one line in each period of this length.
const UNKNOWN_EVERY: Duration = Duration::from_secs(2);
/// Burst of lines on acquainted peers, for each slot in the table of peers: the mesh may split and heal
/// several times.
const ACQUAINTED_AT_ONCE: usize = 8;
/// After the burst, acquainted peers get one line in each period of this length.
const ACQUAINTED_EVERY: Duration = Duration::from_millis(100);

/// Decides which membership changes are logged.
#[derive(Debug)]
pub(crate) struct MemberLog {
    unknown_lines: LineBucket,
    acquainted_lines: LineBucket,
}

impl MemberLog {
    /// A log for a node with room for `peers_max` peers.
    pub(crate) fn new(peers_max: usize) -> Self {
        let lines = |each| u32::try_from(peers_max.saturating_mul(each)).unwrap_or(u32::MAX);
        Self {
            unknown_lines: LineBucket::new(lines(UNKNOWN_AT_ONCE), UNKNOWN_EVERY),
            acquainted_lines: LineBucket::new(lines(ACQUAINTED_AT_ONCE), ACQUAINTED_EVERY),
        }
    }

    /// `Some` if the event may be logged, with the number of lines suppressed before it in the same budget.
    pub(crate) fn check(&mut self, now: Instant, event: &Event, is_acquainted: bool) -> Option<u64> {
        match event {
            Event::Up { .. }
            | Event::Down { .. }
            | Event::Left { .. }
            | Event::Path { .. }
            | Event::Verdict { .. }
            | Event::Unstable { .. } => {
                if is_acquainted {
                    self.acquainted_lines.check(now)
                } else {
                    self.unknown_lines.check(now)
                }
            }
            // This node's own state, and incidents that this node tells its user: peers cannot make many of them.
            Event::Isolated { .. } | Event::Rejoined { .. } | Event::Alert { .. } => Some(0),
            Event::Listening { .. } | Event::Ping { .. } | Event::Message { .. } | Event::Stopped => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::DownReason;
    use crate::internals::sample;
    use crate::limits::PEERS_MAX;
    use crate::trust::peer_id::PeerId;

    const SECOND: Duration = Duration::from_secs(1);

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
    fn mesh_that_forms_splits_and_heals_is_logged_completely() {
        let (mut log, start) = (MemberLog::new(PEERS_MAX), crate::test_now());
        let peers = u32::try_from(PEERS_MAX).unwrap();
        for n in 0..peers {
            assert_eq!(log.check(start, &up(n), false), Some(0));
        }
        for round in 1..4 {
            for n in 0..peers {
                assert_eq!(log.check(start + 60 * round * SECOND, &down(n), true), Some(0));
            }
            for n in 0..peers {
                assert_eq!(log.check(start + 60 * round * SECOND, &up(n), true), Some(0));
            }
        }
    }

    #[test]
    fn flood_of_unknown_peers_leaves_few_lines_and_hides_no_old_member() {
        let (mut log, start) = (MemberLog::new(PEERS_MAX), crate::test_now());
        assert_eq!(log.check(start, &up(0), false), Some(0));
        let mut lines = 0;
        for n in 1..=100_000 {
            let now = start + SECOND / 100 * n;
            lines += [up(n), down(n)].iter().filter_map(|event| log.check(now, event, false)).count();
        }
        // The flood lasts 1000 seconds.
        assert!(lines <= PEERS_MAX + 500, "{lines} lines");
        let now = start + 1000 * SECOND;
        assert_eq!(log.check(now, &down(0), true), Some(0));
        assert_eq!(log.check(now, &up(0), true), Some(0));
        assert!(log.check(now + 2 * SECOND, &up(1), false).is_some_and(|suppressed| suppressed > 0));
    }
}
