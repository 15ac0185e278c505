//! Takes the time that heartbeats wait inside this process out of round-trip times.
//!
//! Many heartbeats are decided upon at once, and each waits until its session's thread has its turn. The
//! round-trip time is to tell of the network and the other side, not of that.

use std::time::Instant;

use crate::wire::{Echo, Message};

/// Heartbeats whose wait is remembered; their echoes come long before as many more have been sent.
const REMEMBERED: usize = 8;

/// How long the last heartbeats waited from the decision to send them until they were encrypted.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// By the last digit of their number: number and microseconds.
    last: [(u64, u64); REMEMBERED],
}

impl Waits {
    /// A heartbeat that was decided upon then is encrypted now: what it echoes was held for longer.
    pub(super) fn sending(
        &mut self,
        seq: u64,
        echo: Option<Echo>,
        decided: Instant,
        now: Instant,
    ) -> Option<Echo> {
        let waited = now.saturating_duration_since(decided).as_micros();
        let waited = u64::try_from(waited).unwrap_or(u64::MAX);
        *self.of(seq) = (seq, waited);
        echo.map(|echo| Echo { held_us: echo.held_us.saturating_add(waited), ..echo })
    }

    /// A message has arrived: of what it echoes, the wait is no part of the way.
    pub(super) fn received(&mut self, message: &mut Message) {
        if let Message::Heartbeat { echo: Some(echo), .. } = message
            && let &mut (seq, waited) = self.of(echo.seq)
            && seq == echo.seq
        {
            echo.held_us = echo.held_us.saturating_add(waited);
        }
    }

    fn of(&mut self, seq: u64) -> &mut (u64, u64) {
        let at = usize::try_from(seq % REMEMBERED as u64).unwrap_or_default();
        &mut self.last[at]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn heartbeat(seq: u64, held_us: u64) -> Message {
        Message::Heartbeat { seq: 1, echo: Some(Echo { seq, held_us }), digest: 0 }
    }

    #[test]
    fn what_waited_here_counts_as_held() {
        let decided = crate::test_now();
        let later = |us| decided + Duration::from_micros(us);
        let mut waits = Waits::default();
        let echo = waits.sending(7, Some(Echo { seq: 3, held_us: 1000 }), decided, later(50));
        assert_eq!(echo, Some(Echo { seq: 3, held_us: 1050 }));
        assert_eq!(waits.sending(8, None, decided, later(400)), None);

        for (seq, held_us) in [(7, 2050), (8, 2400), (6, 2000), (15, 2000)] {
            let mut message = heartbeat(seq, 2000);
            waits.received(&mut message);
            assert_eq!(message, heartbeat(seq, held_us), "{seq}");
        }
    }

    #[test]
    fn a_peer_may_claim_any_wait() {
        let decided = crate::test_now();
        let mut waits = Waits::default();
        let echo = Some(Echo { seq: 1, held_us: u64::MAX });
        assert_eq!(waits.sending(1, echo, decided, decided + Duration::from_secs(1)), echo);
        let mut message = heartbeat(1, u64::MAX);
        waits.received(&mut message);
        assert_eq!(message, heartbeat(1, u64::MAX));
    }
}
