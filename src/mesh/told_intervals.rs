//! The heartbeat intervals that this node has told a peer. The peer has nothing to acknowledge meanwhile, so they count
//! for its silence.

use std::time::{Duration, Instant};

/// Changes that are kept. Of earlier ones the longest interval counts.
const KEPT_MAX: usize = 8;

#[derive(Debug, Default)]
pub(super) struct ToldIntervals {
    /// Told by the Hello, or by a heartbeat that the peer has acknowledged.
    first: Duration,
    /// The heartbeats since that told another interval than the one before them, with their times.
    changes: Vec<(Instant, Duration)>,
    has_beaten: bool,
}

impl ToldIntervals {
    /// A Hello has told this interval.
    pub(super) fn hello(&mut self, interval: Duration) {
        self.first = self.first.max(interval);
    }

    /// A heartbeat tells this interval. The peer was last heard at `heard`.
    pub(super) fn heartbeat(&mut self, now: Instant, interval: Duration, heard: Instant) {
        let acknowledged = self.changes.partition_point(|(at, _)| *at <= heard);
        if let Some((_, interval)) = self.changes.drain(..acknowledged).next_back() {
            self.first = interval;
        }
        if interval != self.newest() {
            if self.changes.len() == KEPT_MAX {
                let (_, forgotten) = self.changes.remove(0);
                self.first = self.first.max(forgotten);
            }
            self.changes.push((now, interval));
        }
        self.has_beaten = true;
    }

    /// Told by the last heartbeat; `None` before the first.
    pub(super) fn last(&self) -> Option<Duration> {
        self.has_beaten.then(|| self.newest())
    }

    /// Told by the last heartbeat, or by the Hello.
    pub(super) fn newest(&self) -> Duration {
        self.changes.last().map_or(self.first, |(_, interval)| *interval)
    }

    /// Told when the peer was last heard, at `heard`.
    pub(super) fn at(&self, heard: Instant) -> Duration {
        let known = self.changes.iter().take_while(|(at, _)| *at <= heard);
        known.last().map_or(self.first, |(_, interval)| *interval)
    }

    /// The times from which the silence of a peer counts that was last heard at `heard`, and the intervals told then. It
    /// should have acknowledged each heartbeat since, so the earliest end of its patience is the right one.
    pub(super) fn since(&self, heard: Instant) -> impl Iterator<Item = (Instant, Duration)> {
        let changes = self.changes.iter().copied().filter(move |(at, _)| *at > heard);
        std::iter::once((heard, self.at(heard))).chain(changes)
    }

    /// Whether a heartbeat since the peer was last heard has told a shorter interval.
    pub(super) fn is_shorter(&self, heard: Instant) -> bool {
        let known = self.at(heard);
        self.changes.iter().any(|(at, interval)| *at > heard && *interval < known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// The silence in which a peer is dead after three intervals.
    fn three_intervals(told: &ToldIntervals, heard: Instant) -> Duration {
        told.since(heard).map(|(from, interval)| from - heard + 3 * interval).min().unwrap()
    }

    #[test]
    fn each_heartbeat_tells_an_interval_that_counts_from_then() {
        let start = crate::test_now();
        let at = |ms| start + Duration::from_millis(ms);
        let patience = |told: &ToldIntervals, heard| three_intervals(told, at(heard));
        let mut told = ToldIntervals::default();
        told.hello(secs(4));
        assert_eq!((told.last(), told.at(at(0)), patience(&told, 0)), (None, secs(4), secs(12)));
        // It falls: the peer had nothing to acknowledge before the heartbeat at 3.9 s.
        for ms in [3900, 4000, 5000] {
            told.heartbeat(at(ms), secs(1), at(0));
        }
        assert_eq!((told.last(), told.at(at(0)), told.at(at(3900))), (Some(secs(1)), secs(4), secs(1)));
        assert_eq!((patience(&told, 0), patience(&told, 3900)), (Duration::from_millis(6900), secs(3)));
        assert!(told.is_shorter(at(0)) && !told.is_shorter(at(3900)));
        // It rises: a peer that has been silent since before that should have acknowledged this heartbeat, too.
        told.heartbeat(at(6000), secs(8), at(4000));
        assert_eq!((patience(&told, 5999), patience(&told, 6000)), (secs(3), secs(24)));
        assert!(!told.is_shorter(at(4000)));
    }

    #[test]
    fn interval_that_changes_often_leaves_each_acknowledgement_its_time() {
        let start = crate::test_now();
        let at = |ms| start + Duration::from_millis(ms);
        // It falls by steps. The mesh may learn only later that the first of these heartbeats was acknowledged.
        let mut told = ToldIntervals::default();
        told.hello(secs(4));
        told.heartbeat(at(4000), secs(2), at(0));
        told.heartbeat(at(6000), secs(1), at(0));
        assert_eq!(three_intervals(&told, at(0)), secs(9));
        assert_eq!(three_intervals(&told, at(4001)), Duration::from_millis(4999));
        // More changes than are kept: the longest of those that are forgotten counts.
        for n in 0..20 {
            told.heartbeat(at(7000 + n * 1000), secs(if n % 2 == 0 { 3 } else { 2 }), at(0));
        }
        assert_eq!((told.changes.len(), told.first), (KEPT_MAX, secs(4)));
        assert_eq!(told.at(at(26_000)), secs(2));
        // An acknowledgement ends all that.
        told.heartbeat(at(27_000), secs(2), at(26_500));
        assert_eq!((told.changes.len(), told.first), (0, secs(2)));
    }
}
