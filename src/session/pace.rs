//! Paces a peer that floods: a token bucket decides when the next frame is taken, and TCP does the rest.

use std::time::{Duration, Instant};

use crate::limits::{FRAMES_BURST, FRAMES_PER_SECOND};
use crate::util::token_bucket::TokenBucket;

/// A tenth of a second's worth is taken at a time, lest the thread wake for each frame.
const REST: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Pace(TokenBucket);

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self(TokenBucket::new(FRAMES_BURST, FRAMES_PER_SECOND, now))
    }

    /// Lets one frame in, or says when the next one may come.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Instant> {
        self.0.take(now).map_err(|_| now + REST)
    }

    /// The frame that was let in was not there.
    pub(super) fn take_back(&mut self) {
        self.0.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_let_in_at_the_stated_rate() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut now = start;
        let mut admitted = 0_u32;
        while now < start + Duration::from_secs(10) {
            match pace.admit(now) {
                Ok(()) => admitted += 1,
                Err(resume_at) => now = resume_at,
            }
        }
        assert!(admitted >= FRAMES_BURST + 9 * FRAMES_PER_SECOND, "{admitted}");
        assert!(admitted <= FRAMES_BURST + 10 * FRAMES_PER_SECOND, "{admitted}");
    }

    #[test]
    fn an_idle_peer_earns_its_burst_back_and_no_more() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        while pace.admit(start).is_ok() {}
        let later = start + Duration::from_secs(3600);
        let admitted = (0..).take_while(|_| pace.admit(later).is_ok()).count();
        assert_eq!(admitted, FRAMES_BURST as usize);
    }
}
