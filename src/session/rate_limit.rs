//! Rate limit for the frames of one key, in all of its sessions: a token bucket delays reading, and TCP slows the peer
//! down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{FRAMES_BURST, FRAMES_PER_SECOND};
use crate::util::token_bucket::TokenBucket;

/// Pause once the bucket is empty. A longer pause than one frame's share wakes the thread less often.
const PAUSE: Duration = Duration::from_millis(100);

/// The rate limit of one key. All clones share it.
#[derive(Clone, Debug)]
pub struct FrameRateLimit(Arc<Mutex<TokenBucket>>);

impl FrameRateLimit {
    /// The limit of a key that has sent nothing.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self(Arc::new(Mutex::new(TokenBucket::new(FRAMES_BURST, FRAMES_PER_SECOND, now))))
    }

    /// Admits one frame.
    ///
    /// # Errors
    /// The rate is used up. The error is the time at which the session tries again.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Instant> {
        self.lock().take(now).map_err(|_| now + PAUSE)
    }

    /// A frame that was admitted costs as much as that many more.
    pub(super) fn charge(&mut self, now: Instant, frames: usize) {
        let mut bucket = self.lock();
        for _ in 0..frames {
            if bucket.take(now).is_err() {
                return;
            }
        }
    }

    /// Undoes the last admission, for which there was no frame.
    pub(super) fn give_back(&mut self) {
        self.lock().give_back();
    }

    /// Whether another clone is left.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn lock(&self) -> MutexGuard<'_, TokenBucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_is_admitted_at_the_stated_rate() {
        let start = crate::test_now();
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
        let start = crate::test_now();
        let mut rate_limit = FrameRateLimit::new(start);
        while rate_limit.admit(start).is_ok() {}
        let later = start + Duration::from_secs(3600);
        let admitted = (0..).take_while(|_| rate_limit.admit(later).is_ok()).count();
        assert_eq!(admitted, FRAMES_BURST as usize);
    }
}
