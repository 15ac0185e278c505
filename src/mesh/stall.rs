//! Stalls: times in which this node did not run, because it was suspended or the machine is overloaded. The messages
//! of its peers are unread then, so a stall does not count as silence of a peer.
//!
//! A node detects a stall by a timer that fires late. On an overloaded machine every timer fires late, so patience
//! grows as fast as the machine is slow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::PEER_TIMEOUT_MAX;

/// A timer that fires this late means that this node stalled.
pub const STALL_MIN: Duration = Duration::from_millis(100);

/// A node that stalled takes in what arrived meanwhile within this time.
const CATCH_UP: Duration = Duration::from_millis(50);

/// Stalls remembered: as many as fit into the longest silence that is judged.
const STALLS_MAX: usize = 2 * (PEER_TIMEOUT_MAX.as_millis() / STALL_MIN.as_millis()) as usize;

/// The stalls of this node.
#[derive(Debug)]
pub(super) struct Stalls {
    /// Start and end of each stall, oldest first. They do not overlap.
    stalls: VecDeque<(Instant, Instant)>,
    /// The time of the driver's last call.
    last_call: Instant,
}

impl Stalls {
    pub(super) fn new(now: Instant) -> Self {
        Self { stalls: VecDeque::new(), last_call: now }
    }

    /// Notes a call of the driver. `due` is the time at which it should have called. Returns the length of the stall
    /// since then, if there was one.
    pub(super) fn detect(&mut self, now: Instant, due: Option<Instant>) -> Option<Duration> {
        let last_call = std::mem::replace(&mut self.last_call, now);
        let from = due?.max(last_call);
        let length = now.saturating_duration_since(from);
        if length < STALL_MIN {
            return None;
        }
        if self.stalls.len() == STALLS_MAX {
            self.stalls.pop_front();
        }
        self.stalls.push_back((from, now));
        Some(length)
    }

    /// The time of the driver's last call.
    pub(super) fn last_call(&self) -> Instant {
        self.last_call
    }

    /// The time until which a node that stalled catches up with what arrived meanwhile.
    pub(super) fn caught_up(&self) -> Instant {
        self.stalls.back().map_or(self.last_call, |(_, end)| *end + CATCH_UP)
    }

    /// Whether this node stalled for at least `length` at a stretch, after `since` and until at most `within` ago.
    pub(super) fn woke(&self, now: Instant, since: Instant, length: Duration, within: Duration) -> bool {
        let recent = self.stalls.iter().rev().take_while(|(_, end)| *end + within >= now);
        let is_long = |&(start, end): &(Instant, Instant)| end.saturating_duration_since(start) >= length;
        recent.filter(|(start, _)| *start >= since).any(is_long)
    }

    /// The time from `from` until `to` in which this node stalled.
    pub(super) fn between(&self, from: Instant, to: Instant) -> Duration {
        let recent = self.stalls.iter().rev().take_while(|(_, end)| *end > from);
        recent.map(|&(start, end)| end.min(to).saturating_duration_since(start.max(from))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_timer_is_a_stall_that_counts_from_its_due_time() {
        let start = crate::test_now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut stalls = Stalls::new(start);
        // On time, without a timer, and a little late.
        assert_eq!(stalls.detect(at(1000), Some(at(1000))), None);
        assert_eq!(stalls.detect(at(5000), None), None);
        assert_eq!(stalls.detect(at(6099), Some(at(6000))), None);
        // A timer that was overdue at the last call counts from that call.
        assert_eq!(stalls.detect(at(8000), Some(at(6000))), Some(Duration::from_millis(1901)));
        assert_eq!(stalls.detect(at(9500), Some(at(9000))), Some(Duration::from_millis(500)));
        for (from, to, stalled) in [
            (0, 9500, 2401),
            (7000, 9500, 1500),
            (7000, 7500, 500),
            (8000, 9000, 0),
            (9400, 20_000, 100),
            (9500, 20_000, 0),
        ] {
            assert_eq!(stalls.between(at(from), at(to)), Duration::from_millis(stalled), "{from} to {to}");
        }
    }

    #[test]
    fn only_a_long_stall_that_ended_lately_is_a_waking() {
        let start = crate::test_now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut stalls = Stalls::new(start);
        let (long, lately) = (Duration::from_secs(2), Duration::from_secs(3));
        assert!(!stalls.woke(start, start, long, lately));
        assert!(stalls.detect(at(2_999), Some(at(1_000))).is_some());
        assert!(!stalls.woke(at(3_000), start, long, lately));
        assert!(stalls.detect(at(6_000), Some(at(4_000))).is_some());
        for (since, now, woke) in
            [(0, 6_000, true), (4_000, 9_000, true), (0, 9_001, false), (4_001, 6_000, false)]
        {
            assert_eq!(stalls.woke(at(now), at(since), long, lately), woke, "since {since} at {now}");
        }
    }

    #[test]
    fn old_stalls_are_forgotten() {
        let start = crate::test_now();
        let mut stalls = Stalls::new(start);
        let mut now = start;
        for _ in 0..10 * STALLS_MAX {
            let due = now;
            now += STALL_MIN;
            assert!(stalls.detect(now, Some(due)).is_some());
        }
        assert_eq!(stalls.stalls.len(), STALLS_MAX);
        assert_eq!(stalls.between(now - PEER_TIMEOUT_MAX, now), PEER_TIMEOUT_MAX);
    }
}
