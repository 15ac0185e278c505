//! The connected time: the time for which this node was connected to a member. Only this time decides when a peer
//! is forgotten.
//!
//! Invariant: no wall clock. A wall clock may say 1970, or jump by days. A node that is off, suspended or alone
//! can't tell whether a peer is gone.

use std::time::{Duration, Instant};

/// A stopwatch that runs while this node has a member. It starts at zero with the process.
#[derive(Debug, Default)]
pub(super) struct ConnectedTime {
    /// The sum of the earlier periods.
    before: Duration,
    /// The start of the current period; `None` without a member.
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

    /// Starts to count: the first member is connected.
    pub(super) fn start(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Stops counting: the last member is gone.
    pub(super) fn stop(&mut self, now: Instant) {
        self.before = self.total(now);
        self.since = None;
    }

    /// Leaves out a stall of this process that it has just detected.
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
