//! The load of this machine, judged by the delays of this node's own threads.
//!
//! On an overloaded machine a node that works on as usual makes matters worse: heartbeats pile up, and peers look dead
//! that only wait for a processor. So a node under load sends fewer heartbeats, announces that, and dials fewer peers
//! at once. It gets slower, never wrong.

use std::time::{Duration, Instant};

/// Delays by which the load is judged. Half of them must be long, because a process that was suspended sees a few.
const SAMPLES: usize = 8;
/// A delay that doubles the load. With 100 ms, 140 nodes on two cores took half as long again to form, and lost living
/// peers.
const LATE: Duration = Duration::from_millis(25);
/// The highest load.
const FACTOR_MAX: u32 = 8;
/// The load falls by half at most this often, so that it does not swing.
const FALL_INTERVAL: Duration = Duration::from_secs(2);

/// The load of this machine.
#[derive(Debug)]
pub(super) struct Load {
    /// The last delays: of timers, of answers of sessions, and of the starts of their threads.
    delays: [Duration; SAMPLES],
    next: usize,
    factor: u32,
    changed: Instant,
}

impl Load {
    pub(super) fn new(now: Instant) -> Self {
        Self { delays: [Duration::ZERO; SAMPLES], next: 0, factor: 1, changed: now }
    }

    /// A power of two from 1, without load, to [`FACTOR_MAX`].
    pub(super) fn factor(&self) -> u32 {
        self.factor
    }

    /// Notes a delay of one of this node's threads. Returns whether the load has changed.
    pub(super) fn note(&mut self, now: Instant, delay: Duration) -> bool {
        self.delays[self.next] = delay;
        self.next = (self.next + 1) % SAMPLES;
        let mut sorted = self.delays;
        sorted.sort_unstable();
        let median = sorted[(SAMPLES - 1) / 2];
        let steps = u32::try_from(median.as_millis() / LATE.as_millis()).unwrap_or(u32::MAX);
        let wanted = steps.saturating_add(1).min(FACTOR_MAX).next_power_of_two();
        let old = self.factor;
        if wanted > old {
            self.factor = wanted;
        } else if wanted < old && now.saturating_duration_since(self.changed) >= FALL_INTERVAL {
            self.factor = old / 2;
        }
        if self.factor != old {
            self.changed = now;
        }
        self.factor != old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn load_rises_when_all_timers_are_late_and_falls_slowly() {
        let mut now = crate::test_now();
        let mut load = Load::new(now);
        // A suspended process, and a machine that is late now and then.
        for late in [5000, 0, 30, 0, 30, 0, 0, 30] {
            assert!(!load.note(now, ms(late)));
        }
        for (late, factor) in [(60, 4), (10_000, FACTOR_MAX)] {
            for _ in 0..SAMPLES {
                load.note(now, ms(late));
            }
            assert_eq!(load.factor(), factor);
        }
        (0..SAMPLES).for_each(|_| assert!(!load.note(now, ms(0))));
        for factor in [FACTOR_MAX / 2, FACTOR_MAX / 4, 1] {
            now += FALL_INTERVAL;
            assert!(load.note(now, ms(0)));
            assert!(!load.note(now, ms(0)));
            assert_eq!(load.factor(), factor);
        }
    }
}
