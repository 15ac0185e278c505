//! Every deadline of the mesh: at most one per [`Timer`], ordered by time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::dial_queue::Target;
use crate::trust::peer_id::PeerId;

/// The action at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Dial, if nothing has made that unnecessary.
    Dial(Target),
    /// Send a heartbeat to a connected peer.
    Heartbeat(PeerId),
    /// Send a ping to a connected peer.
    Ping(PeerId),
    /// Check whether a connected peer has been silent for its timeout.
    Silence(PeerId),
    /// Declare a peer lost that has had no session for its grace period.
    Grace(PeerId),
    /// Check whether a connected peer's digest still differs from this node's.
    DigestCheck(PeerId),
    /// Show a peer as up that was unstable, because its connection has held.
    Held(PeerId),
    /// Take the next step of the inquiry about a lost peer.
    Witness(PeerId),
    /// Forget a peer that is dead or left.
    Forget(PeerId),
    /// Compare digests, because membership has stopped changing.
    Settled,
    /// Charge the earlier network keys for the time, and tell the current one to members that lack it.
    KeyRound,
    /// A loss becomes an incident, or the turn of a member to run its alert program is over.
    Alerts,
    /// Take the next step of the search for a carrier to a peer.
    Path(PeerId),
    /// Propose that a peer and this node connect through their NATs at once, or start to.
    Punch(PeerId),
    /// Say goodbye to the carriers of circuits, because those inside were told, or should have been.
    LeaveCarriers,
}

#[derive(Debug)]
pub(super) struct Timers {
    /// The time of the input or timer that is being handled.
    now: Instant,
    deadlines: BTreeMap<Timer, Instant>,
    order: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        Self { now, deadlines: BTreeMap::new(), order: BTreeSet::new() }
    }

    /// An input or timer is handled at this time.
    pub(super) fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Sets a timer, replacing its earlier deadline. One that is set for a past time is due now: it is not late, and no
    /// sign that this node has stalled or is overloaded.
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        let at = at.max(self.now);
        if let Some(old) = self.deadlines.insert(timer, at) {
            self.order.remove(&(old, timer));
        }
        self.order.insert((at, timer));
    }

    /// Sets a timer unless it is due earlier already.
    pub(super) fn set_no_later(&mut self, timer: Timer, at: Instant) {
        if self.deadline(timer).is_none_or(|old| at < old) {
            self.set(timer, at);
        }
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        if let Some(old) = self.deadlines.remove(&timer) {
            self.order.remove(&(old, timer));
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.now);
    }

    pub(super) fn deadline(&self, timer: Timer) -> Option<Instant> {
        self.deadlines.get(&timer).copied()
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.deadlines.contains_key(&timer)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Timer> {
        self.deadlines.keys().copied()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.cancel(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn timer_has_one_deadline_and_the_earliest_fires_first() {
        let start = crate::test_now();
        let after = |ms| start + Duration::from_millis(ms);
        let ping = Timer::Ping(PeerId::from_bytes([1; 32]));
        let mut timers = Timers::new(start);
        timers.set(ping, after(10));
        timers.set(ping, after(30));
        timers.set(Timer::Settled, after(20));
        timers.set_no_later(Timer::Settled, after(25));
        assert_eq!(timers.next(), Some(after(20)));
        assert_eq!(timers.pop_due(after(19)), None);
        assert_eq!(timers.pop_due(after(30)), Some(Timer::Settled));
        assert_eq!(timers.pop_due(after(30)), Some(ping));
        assert_eq!(timers.pop_due(after(30)), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn timer_that_is_set_for_a_past_time_is_due_now() {
        let start = crate::test_now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::new(start);
        timers.set(Timer::Settled, after(5));
        timers.advance(after(10));
        assert_eq!(timers.next(), Some(after(5)), "a timer that is late already stays so");
        timers.set_no_later(Timer::Alerts, after(7));
        timers.set(Timer::Settled, after(6));
        assert_eq!(timers.deadline(Timer::Alerts), Some(after(10)));
        assert_eq!(timers.deadline(Timer::Settled), Some(after(10)));
        timers.clear();
        timers.set(Timer::Settled, after(6));
        assert_eq!(timers.next(), Some(after(10)));
    }
}
