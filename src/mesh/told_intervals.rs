//! The heartbeat intervals that this node has told a peer. The peer has nothing to acknowledge meanwhile, so they count
//! for its silence.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct ToldIntervals {
    /// Told by the last heartbeat, or before the first one by the Hello.
    last: Duration,
    /// The longest one before that which may still count, and the time of the last heartbeat that told a shorter one.
    longer: Option<(Duration, Instant)>,
    has_beaten: bool,
}

impl ToldIntervals {
    /// A Hello has told this interval.
    pub(super) fn hello(&mut self, interval: Duration) {
        self.last = self.last.max(interval);
    }

    /// A heartbeat tells this interval. The peer was last heard at `heard`.
    pub(super) fn heartbeat(&mut self, now: Instant, interval: Duration, heard: Instant) {
        if interval < self.last {
            self.longer = Some((self.longest(heard), now));
        }
        self.last = interval;
        self.has_beaten = true;
    }

    /// Whether a heartbeat was sent since the peer connected.
    pub(super) fn has_beaten(&self) -> bool {
        self.has_beaten
    }

    /// The interval that was told last.
    pub(super) fn last(&self) -> Duration {
        self.last
    }

    /// A longer interval that counts as well, and the time of the heartbeat that ended it. A peer that has not been heard
    /// since may be about to acknowledge that heartbeat, however many followed.
    pub(super) fn longer(&self, heard: Instant) -> Option<(Duration, Instant)> {
        self.longer.filter(|(interval, until)| heard < *until && self.last < *interval)
    }

    /// The longest interval that counts.
    pub(super) fn longest(&self, heard: Instant) -> Duration {
        self.longer(heard).map_or(self.last, |(interval, _)| interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_interval_counts_until_the_peer_is_heard_after_the_heartbeat_that_ended_it() {
        let start = crate::test_now();
        let at = |ms| start + Duration::from_millis(ms);
        let secs = Duration::from_secs;
        let mut told = ToldIntervals::default();
        told.hello(secs(4));
        assert_eq!((told.longest(at(0)), told.longer(at(0))), (secs(4), None));
        for ms in [3900, 4000, 5000] {
            told.heartbeat(at(ms), secs(1), at(0));
        }
        assert_eq!((told.last(), told.longer(at(0))), (secs(1), Some((secs(4), at(3900)))));
        assert_eq!((told.longest(at(3900)), told.longer(at(3900))), (secs(1), None));
        // The load falls by steps. The mesh may learn only later that the first of these heartbeats was acknowledged.
        let mut falls = ToldIntervals::default();
        falls.hello(secs(4));
        falls.heartbeat(at(4000), secs(2), at(0));
        falls.heartbeat(at(6000), secs(1), at(0));
        assert_eq!(falls.longer(at(4001)), Some((secs(4), at(6000))));
        // The interval that is told now was not over when the peer was heard.
        told.heartbeat(at(6000), secs(2), at(3900));
        told.heartbeat(at(8000), secs(1), at(3900));
        assert_eq!((told.longest(at(6000)), told.longest(at(8000))), (secs(2), secs(1)));
    }
}
