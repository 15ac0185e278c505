//! A token bucket: limits a burst and a long-term rate.

use std::time::{Duration, Instant};

/// Holds at most `burst` tokens and gains `per_second` tokens a second. Reads no clock; the caller passes `now`.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    burst: u32,
    per_second: u32,
    /// Millionths of a token ([`TOKEN`] is one).
    tokens: u64,
    refilled: Instant,
}

/// Units of one token.
const TOKEN: u64 = 1_000_000;

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self { burst, per_second, tokens: u64::from(burst) * TOKEN, refilled: now }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// The bucket is empty. The error is the time until it holds a token.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.refill(now);
        match self.tokens.checked_sub(TOKEN) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(Duration::from_micros((TOKEN - self.tokens) / u64::from(self.per_second.max(1)) + 1)),
        }
    }

    /// Whether the bucket holds its whole burst.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= u64::from(self.burst) * TOKEN
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        // A part of a microsecond counts at the next call, so frequent calls lose nothing.
        self.refilled = self.refilled.checked_add(Duration::from_micros(micros)).unwrap_or(now);
        let refill = micros.saturating_mul(self.per_second.into());
        self.tokens = self.tokens.saturating_add(refill).min(u64::from(self.burst) * TOKEN);
    }

    /// Puts back a token that was taken and not used.
    pub(crate) fn give_back(&mut self) {
        self.tokens += TOKEN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_allows_its_burst_and_then_its_rate() {
        let start = crate::test_now();
        let mut bucket = TokenBucket::new(5, 10, start);
        assert_eq!((0..).take_while(|_| bucket.take(start).is_ok()).count(), 5);
        let mut now = start;
        let mut taken = 0;
        while now < start + Duration::from_secs(10) {
            match bucket.take(now) {
                Ok(()) => taken += 1,
                Err(wait) => now += wait,
            }
        }
        assert_eq!(taken, 99);
        // Frequent calls do not slow the refill.
        let mut asked_often = TokenBucket::new(1, 1000, start);
        let often = (0..100_000).map(|turn| start + turn * Duration::from_nanos(900));
        assert_eq!(often.filter(|&at| asked_often.take(at).is_ok()).count(), 1 + 89);
        // A long wait fills the bucket to its burst and no further.
        assert!(!bucket.is_full(now));
        now += Duration::from_secs(3600);
        bucket.give_back();
        assert!(bucket.is_full(now));
        assert_eq!((0..).take_while(|_| bucket.take(now).is_ok()).count(), 5);
    }
}
