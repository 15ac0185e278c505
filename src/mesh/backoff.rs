//! The wait before the next dial: exponential, with jitter, and longer in a long outage.

use std::time::Duration;

/// Wait before the second dial.
pub(super) const FIRST: Duration = Duration::from_millis(250);
/// Longest wait in an outage shorter than [`LONG_OUTAGE`], so that a healed link is in use within seconds.
pub const CAP: Duration = Duration::from_secs(2);
/// Longest wait after [`LONG_OUTAGE`].
pub const CAP_LONG: Duration = Duration::from_secs(10);
/// Longest wait after [`VERY_LONG_OUTAGE`].
pub const CAP_VERY_LONG: Duration = Duration::from_secs(60);
/// From this duration an outage is long: dials every two seconds are too many.
pub const LONG_OUTAGE: Duration = Duration::from_secs(10 * 60);
/// From this duration an outage is very long: it probably does not end without a person's help.
pub const VERY_LONG_OUTAGE: Duration = Duration::from_secs(60 * 60);

/// Doublings that take [`FIRST`] beyond [`CAP_VERY_LONG`]; more change nothing.
const DOUBLINGS_MAX: u32 = 8;

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure. `outage` is the time since the peer was last reached. The wait is between
    /// three quarters of the nominal wait and all of it, so that nodes that failed together spread their dials.
    pub(super) fn next(&mut self, rng: &mut fastrand::Rng, outage: Duration) -> Duration {
        let cap = if outage >= VERY_LONG_OUTAGE {
            CAP_VERY_LONG
        } else if outage >= LONG_OUTAGE {
            CAP_LONG
        } else {
            CAP
        };
        let nominal = (FIRST * (1 << self.failures.min(DOUBLINGS_MAX))).min(cap);
        self.failures = self.failures.saturating_add(1);
        between(rng, nominal * 3 / 4, nominal)
    }

    /// Whether it has counted a failure.
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Starts from the first wait again: the peer was reached, or may be reachable now.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A random duration of whole microseconds between `low` and `high`, both included.
pub(super) fn between(rng: &mut fastrand::Rng, low: Duration, high: Duration) -> Duration {
    let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(rng.u64(micros(low)..=micros(high)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(count: usize, outage: Duration) -> Vec<Duration> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut backoff = Backoff::default();
        (0..count).map(|_| backoff.next(&mut rng, outage)).collect()
    }

    #[test]
    fn backoff_doubles_up_to_the_cap() {
        let nominal_ms = [250, 500, 1000, 2000, 2000, 2000];
        for (wait, nominal) in waits(6, Duration::ZERO).into_iter().zip(nominal_ms) {
            let nominal = Duration::from_millis(nominal);
            assert!(wait >= nominal * 3 / 4 && wait <= nominal, "{wait:?} for {nominal:?}");
        }
    }

    #[test]
    fn backoff_has_jitter() {
        let at_the_cap = waits(20, Duration::ZERO).split_off(4);
        let spread = at_the_cap.iter().max().zip(at_the_cap.iter().min()).map(|(most, least)| *most - *least);
        assert!(spread > Some(CAP / 10), "{at_the_cap:?}");
    }

    #[test]
    fn long_outage_is_dialled_rarely() {
        let last = |outage| waits(20, outage).pop();
        assert!(last(LONG_OUTAGE) > Some(CAP) && last(LONG_OUTAGE) <= Some(CAP_LONG));
        assert!(last(VERY_LONG_OUTAGE) > Some(CAP_LONG) && last(VERY_LONG_OUTAGE) <= Some(CAP_VERY_LONG));
    }

    #[test]
    fn reset_restarts_the_backoff() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut backoff = Backoff::default();
        for _ in 0..1000 {
            backoff.next(&mut rng, Duration::ZERO);
        }
        backoff.reset();
        assert!(backoff.next(&mut rng, Duration::ZERO) <= FIRST);
    }
}
