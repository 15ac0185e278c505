//! The load of this machine, judged by the delays of this node's own threads.
//!
//! On an overloaded machine a node that works on as usual makes matters worse: heartbeats pile up, and peers look dead
//! that only wait for a processor. So a node under load sends fewer heartbeats, announces that, and dials fewer peers
//! at once. It gets slower, never wrong.

use std::time::{Duration, Instant};

/// Delays by which the load is judged. Half of them must be long, because a process that was suspended sees a few.
const SAMPLES: usize = 8;
/// Each of these delays doubles the load. With longer ones, 140 nodes on two cores take longer to form: a node is woken
/// before the handshakes of the others, so its own delays are shorter than theirs.
const LATE: [Duration; 3] =
    [Duration::from_millis(12), Duration::from_millis(50), Duration::from_millis(200)];
/// The load falls by half at most this often, so that it does not swing.
const FALL_INTERVAL: Duration = Duration::from_secs(1);
/// The same while peers come and go: more handshakes are likely to follow.
const FALL_INTERVAL_UNSETTLED: Duration = Duration::from_secs(4);

/// The load of this machine.
#[derive(Debug)]
pub(super) struct Load {
    /// The last delays: of timers, of answers of sessions, and of the starts of their threads.
    delays: [Duration; SAMPLES],
    next: usize,
    factor: u32,
    changed: Instant,
    /// The sessions were last asked at this time, of those times whose delay was noted.
    asked: Instant,
}

impl Load {
    pub(super) fn new(now: Instant) -> Self {
        Self { delays: [Duration::ZERO; SAMPLES], next: 0, factor: 1, changed: now, asked: now }
    }

    /// A power of two: 1 without load, 8 at most.
    pub(super) fn factor(&self) -> u32 {
        self.factor
    }

    /// Notes a delay of one of this node's threads. Returns whether the load has changed.
    pub(super) fn note(&mut self, now: Instant, delay: Duration, is_settled: bool) -> bool {
        self.delays[self.next] = delay;
        self.next = (self.next + 1) % SAMPLES;
        let mut sorted = self.delays;
        sorted.sort_unstable();
        let median = sorted[(SAMPLES - 1) / 2];
        let wanted = 1 << LATE.iter().filter(|late| **late <= median).count();
        let old = self.factor;
        let fall_interval = if is_settled { FALL_INTERVAL } else { FALL_INTERVAL_UNSETTLED };
        if wanted > old {
            self.factor = wanted;
        } else if wanted < old && now.saturating_duration_since(self.changed) >= fall_interval {
            self.factor = old / 2;
        }
        if self.factor != old {
            self.changed = now;
        }
        self.factor != old
    }

    /// Notes the delay of a session that was asked at this time. All that were asked with it wait for the same reason, so
    /// they count once. Returns whether the load has changed.
    pub(super) fn note_answer(
        &mut self,
        now: Instant,
        asked: Instant,
        delay: Duration,
        is_settled: bool,
    ) -> bool {
        let is_first = self.asked < asked;
        self.asked = self.asked.max(asked);
        is_first && self.note(now, delay, is_settled)
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
            assert!(!load.note(now, ms(late), true));
        }
        for (late, factor) in [(11, 1), (12, 2), (60, 4), (10_000, 8)] {
            for _ in 0..SAMPLES {
                load.note(now, ms(late), true);
            }
            assert_eq!(load.factor(), factor);
        }
        (0..SAMPLES).for_each(|_| assert!(!load.note(now, ms(0), true)));
        for (factor, wait, is_settled) in
            [(4, FALL_INTERVAL_UNSETTLED, false), (2, FALL_INTERVAL, true), (1, FALL_INTERVAL, true)]
        {
            now += wait - ms(1);
            assert!(!load.note(now, ms(0), is_settled));
            now += ms(1);
            assert!(load.note(now, ms(0), is_settled));
            assert!(!load.note(now, ms(0), is_settled));
            assert_eq!(load.factor(), factor);
        }
    }

    #[test]
    fn late_answers_to_the_same_question_count_once() {
        let now = crate::test_now();
        let mut load = Load::new(now);
        let asked = |n: u64| now + ms(n);
        for _ in 0..SAMPLES {
            assert!(!load.note_answer(now, asked(1), ms(60), true));
        }
        let changed = (2..2 + SAMPLES as u64).find(|n| load.note_answer(now, asked(*n), ms(60), true));
        assert_eq!(changed, Some(5));
    }
}
