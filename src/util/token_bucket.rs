//! A token bucket: limits a burst and a long-term rate.

use std::time::{Duration, Instant};

/// Holds at most `burst` tokens and gains one each `every`. Reads no clock; the caller passes `now`.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    burst: u32,
    every: Duration,
    tokens: u32,
    /// The time up to which the bucket has gained tokens; `None` before the first call.
    refilled: Option<Instant>,
}

impl TokenBucket {
    /// A full bucket that gains `per_second` tokens a second.
    pub(crate) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        let every = Duration::from_secs(1) / per_second.max(1);
        Self { refilled: Some(now), ..Self::every(burst, every) }
    }

    /// A full bucket that gains one token each `every`, which must not be zero.
    pub(crate) const fn every(burst: u32, every: Duration) -> Self {
        Self { burst, every, tokens: burst, refilled: None }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// The bucket is empty. The error is the time until it holds a token.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let refilled = self.refill(now);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err((refilled + self.every).saturating_duration_since(now)),
        }
    }

    /// Takes this many tokens, or all that are left.
    pub(crate) fn take_up_to(&mut self, now: Instant, tokens: u32) {
        self.refill(now);
        self.tokens = self.tokens.saturating_sub(tokens);
    }

    /// Replaces burst and rate. What has been taken stays taken.
    pub(crate) fn change(&mut self, burst: u32, per_second: u32, now: Instant) {
        self.refill(now);
        let taken = self.burst.saturating_sub(self.tokens);
        *self = Self { tokens: burst.saturating_sub(taken), ..Self::new(burst, per_second, now) };
    }

    /// Whether the bucket holds a token.
    pub(crate) fn has_token(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens > 0
    }

    /// Whether the bucket holds its whole burst.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= self.burst
    }

    /// Adds the tokens gained so far. Returns the time up to which that counts.
    fn refill(&mut self, now: Instant) -> Instant {
        let refilled = *self.refilled.get_or_insert(now);
        let elapsed = now.saturating_duration_since(refilled);
        let gained = u32::try_from(elapsed.as_nanos() / self.every.as_nanos()).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(gained).min(self.burst);
        // A full bucket gains nothing, so its next token takes the whole time from now on. Otherwise the part of a
        // token that has grown so far counts at a later call.
        let refilled = if self.tokens == self.burst { now } else { refilled + self.every * gained };
        self.refilled = Some(refilled);
        refilled
    }

    /// Puts back a token that was taken and not used.
    pub(crate) fn give_back(&mut self) {
        self.tokens += 1;
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
        now += Duration::from_secs(1_000_000_000);
        bucket.give_back();
        assert!(bucket.is_full(now));
        assert_eq!((0..).take_while(|_| bucket.take(now).is_ok()).count(), 5);
    }
}
