//! How long this node has run while it was connected to a member: the only time after which a peer is forgotten.
//!
//! Invariant: no wall clock. That one may say 1970, or jump by days; and while a node is off, suspended or alone,
//! it can't tell whether a peer is gone.

use std::time::{Duration, Instant};

/// A stopwatch that runs while this node has a member. It starts at zero with the process.
#[derive(Debug, Default)]
pub(super) struct ConnectedTime {
    /// What the earlier connected times add up to.
    before: Duration,
    /// Start of the current one.
    since: Option<Instant>,
}

impl ConnectedTime {
    pub(super) fn total(&self, now: Instant) -> Duration {
        let current = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.before + current
    }

    pub(super) fn is_running(&self) -> bool {
        self.since.is_some()
    }

    /// The first member is there.
    pub(super) fn start(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// The last member is gone.
    pub(super) fn stop(&mut self, now: Instant) {
        self.before = self.total(now);
        self.since = None;
    }

    /// The process stood still for that long, and has just noticed it.
    pub(super) fn leave_out(&mut self, gap: Duration) {
        if let Some(since) = &mut self.since {
            *since += gap;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connected_time_stops_without_members_and_during_stalls() {
        let start = crate::test_now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let total = |time: &ConnectedTime, seconds| time.total(after(seconds)).as_secs();
        let mut time = ConnectedTime::default();
        assert_eq!((total(&time, 10), time.is_running()), (0, false));
        time.start(after(10));
        assert_eq!((total(&time, 15), time.is_running()), (5, true));
        time.leave_out(Duration::from_secs(3));
        assert_eq!(total(&time, 20), 7);
        time.stop(after(20));
        assert_eq!((total(&time, 100), time.is_running()), (7, false));
        time.start(after(100));
        assert_eq!(total(&time, 101), 8);
    }
}
