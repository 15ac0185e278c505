//! Flap damping: a peer that is lost again and again is shown as up only after its connection has held for a while.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Losses within this time count.
const LOSSES_WITHIN: Duration = Duration::from_secs(10 * 60);
/// Losses that count before a peer has to hold: after the first loss it is up at once.
const LOSSES_FREE: usize = 1;
/// Time for which the connection has to hold after the second loss; each further loss doubles it. A link that fails for
/// 20 s out of 40 s never holds for so long.
pub(super) const HOLD_MIN: Duration = Duration::from_secs(30);
/// Longest such time: a user waits no longer for the news that a peer is back.
const HOLD_MAX: Duration = Duration::from_secs(60);
/// Longest time for which a pair keeps to a circuit: its carrier pays for it.
const PATH_HOLD_MAX: Duration = Duration::from_secs(8 * 60);
/// Losses remembered of a peer. More make the time no longer.
const LOSSES_MAX: usize = 64;

/// The losses of one peer that it caused itself, or its link.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Oldest first.
    at: VecDeque<Instant>,
    /// Whether the user knows that the peer is unstable.
    is_reported: bool,
}

impl Losses {
    /// The peer is lost.
    pub(super) fn note(&mut self, now: Instant) {
        if self.at.len() == LOSSES_MAX {
            self.at.pop_front();
        }
        self.at.push_back(now);
    }

    /// The loss at this time does not count, because many peers were lost with this one.
    pub(super) fn excuse(&mut self, at: Instant) {
        if self.at.back() == Some(&at) {
            self.at.pop_back();
        }
    }

    /// The losses that count now.
    pub(super) fn count(&self, now: Instant) -> usize {
        self.at.iter().filter(|at| now.saturating_duration_since(**at) < LOSSES_WITHIN).count()
    }

    /// The time for which the peer's connection has to hold before the peer is shown as up; `None` if it is up at once.
    pub(super) fn hold(&self, now: Instant) -> Option<Duration> {
        let more = self.count(now).checked_sub(LOSSES_FREE + 1)?;
        let doublings = u32::try_from(more).unwrap_or(u32::MAX);
        Some(HOLD_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(HOLD_MAX))
    }

    /// The time for which a pair keeps to a circuit that replaced its direct path; `None` if it may leave it at once. A
    /// path that only loses packets falls silent again and again, and each time the wait doubles.
    pub(super) fn path_hold(&self, now: Instant) -> Option<Duration> {
        let more = self.count(now).checked_sub(LOSSES_FREE + 1)?;
        let doublings = u32::try_from(more).unwrap_or(u32::MAX);
        Some(HOLD_MIN.saturating_mul(2_u32.saturating_pow(doublings)).min(PATH_HOLD_MAX))
    }

    /// The peer is unstable. Returns whether that is news for the user.
    pub(super) fn report(&mut self) -> bool {
        !std::mem::replace(&mut self.is_reported, true)
    }

    /// The peer is up again.
    pub(super) fn held(&mut self) {
        self.is_reported = false;
    }

    /// The user has restarted the peer: what was before does not count.
    pub(super) fn forget(&mut self) {
        self.at.clear();
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.at.len() <= LOSSES_MAX, "{} losses", self.at.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_doubles_with_each_loss_and_old_losses_do_not_count() {
        let start = crate::test_now();
        let at = |s| start + Duration::from_secs(s);
        let mut losses = Losses::default();
        let mut holds = Vec::new();
        for n in 0..5 {
            losses.note(at(n));
            holds.push(losses.hold(at(n)).map(|hold| hold.as_secs()));
        }
        assert_eq!(holds, [None, Some(30), Some(60), Some(60), Some(60)]);
        assert_eq!(losses.hold(at(602)), Some(HOLD_MIN), "the losses at 3 and 4 s count");
        assert_eq!(losses.hold(at(603)), None);
        losses.forget();
        assert_eq!(losses.count(at(4)), 0);
        (0..200).for_each(|n| losses.note(at(n)));
        assert_eq!(losses.hold(at(200)), Some(HOLD_MAX));
        losses.check_limits();
    }

    #[test]
    fn unstable_peer_is_reported_once_until_it_has_held() {
        let mut losses = Losses::default();
        assert!(losses.report());
        assert!(!losses.report());
        losses.held();
        assert!(losses.report());
    }
}
