//! Rate limits for what one key sends, in all of its sessions: a token bucket each for frames and for bytes in circuits.
//! An empty one delays reading, and TCP slows the peer down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{
    CIRCUIT_BYTES_BURST, CIRCUIT_BYTES_BURST_OF_STRANGER, CIRCUIT_BYTES_PER_SECOND,
    CIRCUIT_BYTES_PER_SECOND_OF_STRANGER, CIRCUIT_MESSAGE_BYTES_MIN, FRAMES_BURST, FRAMES_PER_SECOND,
};
use crate::util::token_bucket::TokenBucket;

/// Pause once a bucket is empty. A longer pause than one frame's share wakes the thread less often.
const PAUSE: Duration = Duration::from_millis(100);

/// The rate limits of one key. All clones share them.
#[derive(Clone, Debug)]
pub struct KeyRateLimit(Arc<Mutex<Buckets>>);

#[derive(Debug)]
struct Buckets {
    frames: TokenBucket,
    /// A token is [`CIRCUIT_MESSAGE_BYTES_MIN`].
    circuits: TokenBucket,
    limits: CircuitLimits,
    /// When the key is acquainted, if it stays connected; `None` before the first circuit.
    acquainted_at: Option<Instant>,
}

impl KeyRateLimit {
    /// The limits of a key that has sent nothing.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let limits = CircuitLimits::OfStranger;
        let [burst, per_second] = limits.tokens();
        Self(Arc::new(Mutex::new(Buckets {
            frames: TokenBucket::new(FRAMES_BURST, FRAMES_PER_SECOND, now),
            circuits: TokenBucket::new(burst, per_second, now),
            limits,
            acquainted_at: None,
        })))
    }

    /// Admits one frame.
    ///
    /// # Errors
    /// A rate is used up. The error is the time at which the session tries again.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Instant> {
        let mut buckets = self.lock();
        let is_admitted = buckets.circuits.has_token(now) && buckets.frames.take(now).is_ok();
        if is_admitted { Ok(()) } else { Err(now + PAUSE) }
    }

    /// The frame that was admitted belongs to a circuit: its bytes count, not the frame.
    pub(super) fn charge_circuit(&mut self, now: Instant, bytes: usize) {
        let mut buckets = self.lock();
        buckets.follow_standing(now);
        buckets.frames.give_back();
        buckets.circuits.take_up_to(now, tokens(bytes).max(1));
    }

    /// The key is acquainted from this time on, if it stays connected. A later circuit tells the time anew.
    pub(super) fn set_acquainted_at(&mut self, now: Instant, acquainted_at: Instant) {
        let mut buckets = self.lock();
        buckets.acquainted_at = Some(acquainted_at);
        buckets.follow_standing(now);
    }

    /// Undoes the last admission, for which there was no frame.
    pub(super) fn give_back(&mut self) {
        self.lock().frames.give_back();
    }

    /// Whether another clone is left.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    /// A stranger that has become acquainted may send more in circuits.
    fn follow_standing(&mut self, now: Instant) {
        let is_acquainted = self.acquainted_at.is_some_and(|at| at <= now);
        let limits = if is_acquainted { CircuitLimits::OfAcquainted } else { CircuitLimits::OfStranger };
        if self.limits != limits {
            let [burst, per_second] = limits.tokens();
            self.circuits.change(burst, per_second, now);
            self.limits = limits;
        }
    }
}

/// Limits for the bytes in circuits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CircuitLimits {
    OfStranger,
    OfAcquainted,
}

impl CircuitLimits {
    /// Burst and tokens a second.
    fn tokens(self) -> [u32; 2] {
        match self {
            Self::OfStranger => [CIRCUIT_BYTES_BURST_OF_STRANGER, CIRCUIT_BYTES_PER_SECOND_OF_STRANGER],
            Self::OfAcquainted => [CIRCUIT_BYTES_BURST, CIRCUIT_BYTES_PER_SECOND],
        }
        .map(tokens)
    }
}

fn tokens(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(CIRCUIT_MESSAGE_BYTES_MIN)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_is_admitted_at_the_stated_rate() {
        let start = crate::test_now();
        let mut rate_limit = KeyRateLimit::new(start);
        let mut now = start;
        let mut admitted = 0_u32;
        while now < start + Duration::from_secs(10) {
            match rate_limit.admit(now) {
                Ok(()) => admitted += 1,
                Err(resume_at) => now = resume_at,
            }
        }
        assert!(admitted >= FRAMES_BURST + 9 * FRAMES_PER_SECOND, "{admitted}");
        assert!(admitted <= FRAMES_BURST + 10 * FRAMES_PER_SECOND, "{admitted}");
    }

    /// The bytes in circuits that are admitted in this many seconds from `from` on.
    fn circuit_bytes(rate_limit: &mut KeyRateLimit, from: Instant, seconds: u64) -> usize {
        let (mut now, mut bytes) = (from, 0);
        while now < from + Duration::from_secs(seconds) {
            match rate_limit.admit(now) {
                Ok(()) => {
                    bytes += CIRCUIT_MESSAGE_BYTES_MIN;
                    rate_limit.charge_circuit(now, CIRCUIT_MESSAGE_BYTES_MIN);
                }
                Err(resume_at) => now = resume_at,
            }
        }
        bytes
    }

    #[test]
    fn stranger_gets_the_larger_budget_for_circuits_once_it_is_acquainted() {
        let start = crate::test_now();
        let mut rate_limit = KeyRateLimit::new(start);
        rate_limit.set_acquainted_at(start, start + Duration::from_secs(60));
        circuit_bytes(&mut rate_limit, start, 50);
        let bytes = circuit_bytes(&mut rate_limit, start + Duration::from_secs(50), 10);
        assert!(bytes <= 11 * CIRCUIT_BYTES_PER_SECOND_OF_STRANGER, "{bytes}");
        // No circuit has been opened since.
        let bytes = circuit_bytes(&mut rate_limit, start + Duration::from_secs(60), 10);
        assert!(bytes >= 9 * CIRCUIT_BYTES_PER_SECOND, "{bytes}");
    }

    #[test]
    fn key_of_which_no_circuit_tells_the_standing_has_the_budget_of_a_stranger() {
        let start = crate::test_now();
        let bytes = circuit_bytes(&mut KeyRateLimit::new(start), start, 1);
        assert!(
            bytes <= CIRCUIT_BYTES_BURST_OF_STRANGER + 2 * CIRCUIT_BYTES_PER_SECOND_OF_STRANGER,
            "{bytes}"
        );
    }

    #[test]
    fn idle_peer_regains_its_burst_and_no_more() {
        let start = crate::test_now();
        let mut rate_limit = KeyRateLimit::new(start);
        while rate_limit.admit(start).is_ok() {}
        let later = start + Duration::from_secs(3600);
        let admitted = (0..).take_while(|_| rate_limit.admit(later).is_ok()).count();
        assert_eq!(admitted, FRAMES_BURST as usize);
    }
}
