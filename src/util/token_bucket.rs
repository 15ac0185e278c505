//! A token bucket: so many at once, and so many a second in the long run.

use std::time::{Duration, Instant};

/// Its own clock stands still: the time is told with each question.
#[derive(Clone, Debug)]
pub(crate) struct TokenBucket {
    burst: u32,
    per_second: u32,
    /// In millionths of a token.
    tokens: u64,
    refilled: Instant,
}

const TOKEN: u64 = 1_000_000;

impl TokenBucket {
    /// A full one.
    pub(crate) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self { burst, per_second, tokens: u64::from(burst) * TOKEN, refilled: now }
    }

    /// Takes one token, or says how long until there is one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let elapsed = now.saturating_duration_since(self.refilled);
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        // Parts of a microsecond count with the next question, however often it is asked.
        self.refilled = self.refilled.checked_add(Duration::from_micros(micros)).unwrap_or(now);
        let refill = micros.saturating_mul(self.per_second.into());
        self.tokens = self.tokens.saturating_add(refill).min(u64::from(self.burst) * TOKEN);
        match self.tokens.checked_sub(TOKEN) {
            Some(left) => {
                self.tokens = left;
                Ok(())
            }
            None => Err(Duration::from_micros((TOKEN - self.tokens) / u64::from(self.per_second.max(1)) + 1)),
        }
    }

    /// The token that was taken was not needed.
    pub(crate) fn give_back(&mut self) {
        self.tokens += TOKEN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_so_many_a_second() {
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
        // It fills just as fast when it is asked all the time.
        let mut asked_often = TokenBucket::new(1, 1000, start);
        let often = (0..100_000).map(|turn| start + turn * Duration::from_nanos(900));
        assert_eq!(often.filter(|&at| asked_often.take(at).is_ok()).count(), 1 + 89);
        // Whoever waits long has no more than at first.
        now += Duration::from_secs(3600);
        bucket.give_back();
        assert_eq!((0..).take_while(|_| bucket.take(now).is_ok()).count(), 5);
    }
}
