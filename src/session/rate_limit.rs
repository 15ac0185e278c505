//! Rate limit for frames of one peer: a token bucket delays reading, and TCP slows the peer down.

use std::time::{Duration, Instant};

use crate::limits::{FRAMES_BURST, FRAMES_PER_SECOND};
use crate::util::token_bucket::TokenBucket;

/// Pause once the bucket is empty. A longer pause than one frame's share wakes the thread less often.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct FrameRateLimit(TokenBucket);

impl FrameRateLimit {
    pub(super) fn new(now: Instant) -> Self {
        Self(TokenBucket::new(FRAMES_BURST, FRAMES_PER_SECOND, now))
    }

    /// Admits one frame.
    ///
    /// # Errors
    /// The rate is used up. The error is the time at which the session tries again.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Instant> {
        self.0.take(now).map_err(|_| now + PAUSE)
    }

    /// Undoes the last admission, for which there was no frame.
    pub(super) fn give_back(&mut self) {
        self.0.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_is_admitted_at_the_stated_rate() {
        let start = Instant::now();
        let mut rate_limit = FrameRateLimit::new(start);
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

    #[test]
    fn idle_peer_regains_its_burst_and_no_more() {
        let start = Instant::now();
        let mut rate_limit = FrameRateLimit::new(start);
        while rate_limit.admit(start).is_ok() {}
        let later = start + Duration::from_secs(3600);
        let admitted = (0..).take_while(|_| rate_limit.admit(later).is_ok()).count();
        assert_eq!(admitted, FRAMES_BURST as usize);
    }
}
