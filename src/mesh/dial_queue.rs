//! Waiting dials and dials under way: which dial may start next, and how many run at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::accounts::Account;
use super::io::SessionId;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::util::token_bucket::TokenBucket;

/// Dials under way at once, at most: enough for a quick start over a slow network.
pub const DIALS_IN_FLIGHT_MAX: usize = 16;
/// Dials under way at once at the start, and while processors are busy: few enough for a mesh that forms on one small
/// machine.
const DIALS_IN_FLIGHT_MIN: usize = 4;
/// A handshake that is delayed by more waits for processors, which further handshakes at once would only keep
/// longer. A small machine takes 10 ms for a handshake.
const HANDSHAKE_DELAY_MAX: Duration = Duration::from_millis(25);
/// Dials that may start at once: a node that joins a mesh of a hundred nodes dials all of them.
pub const DIALS_BURST: u32 = 128;
/// Dials started per second in the long run, regardless of lists.
pub const DIALS_PER_SECOND: u32 = 64;
/// Failed rounds through all addresses of a peer after which it is forgotten, if this node has never met it.
pub const RUMOUR_FAILURES_MAX: u32 = 5;

/// Wait before this node dials a peer again that refused it.
pub(super) const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// The target of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A peer, at one of its addresses. Any other peer that answers is refused.
    Peer(PeerId),
    /// The `--connect` address with this index. Any peer may answer, unless the address has a pin.
    Bootstrap(usize),
}

#[derive(Debug)]
pub(super) struct Dial {
    pub(super) target: Target,
    pub(super) addr: DialAddr,
    pub(super) is_known: bool,
    pub(super) cancelled: bool,
    /// The accounts that paid for it.
    pub(super) payers: Vec<Account>,
}

/// Waiting dials and dials under way, with the limits of their number and rate.
#[derive(Debug)]
pub(super) struct DialQueue {
    in_flight: BTreeMap<SessionId, Dial>,
    /// Due dials that wait for a slot: bootstrap addresses and known peers, and unknown peers.
    ready_known: VecDeque<Target>,
    ready_rumoured: VecDeque<Target>,
    /// No waiting rumour may start before a dial ends or another rumour waits. So a long queue of an account that has all its
    /// slots is not searched for each message.
    is_stuck: bool,
    /// The number of dials started.
    dialled: u64,
    /// The rate limit of dials.
    starts: TokenBucket,
    /// Dials that may be under way at once now. It grows by one with each quick handshake, and halves with
    /// each slow one, as TCP's congestion window does (RFC 5681).
    window: usize,
}

impl DialQueue {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_flight: BTreeMap::new(),
            ready_known: VecDeque::new(),
            ready_rumoured: VecDeque::new(),
            is_stuck: false,
            dialled: 0,
            starts: TokenBucket::new(DIALS_BURST, DIALS_PER_SECOND, now),
            window: DIALS_IN_FLIGHT_MIN,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Queues a dial that is due and not queued yet. Known targets go before rumours.
    pub(super) fn queue(&mut self, target: Target, is_known: bool) {
        debug_assert!(!self.is_ready_or_in_flight(target), "{target:?} is queued twice");
        let ready = if is_known { &mut self.ready_known } else { &mut self.ready_rumoured };
        ready.push_back(target);
        self.is_stuck = false;
    }

    /// Makes a rumour the next one to dial, unless a dial to it is under way. Returns whether it is.
    pub(super) fn queue_first(&mut self, rumour: Target) -> bool {
        let is_under_way = self.in_flight.values().any(|dial| dial.target == rumour);
        if !is_under_way {
            self.ready_rumoured.retain(|&other| other != rumour);
            self.ready_rumoured.push_front(rumour);
            self.is_stuck = false;
        }
        !is_under_way
    }

    /// Takes the right to start one dial.
    ///
    /// # Errors
    ///
    /// The wait until the next dial may start.
    pub(super) fn take_start(&mut self, now: Instant) -> Result<(), Duration> {
        self.starts.take(now)
    }

    /// Starts a dial. Returns the name of its session.
    pub(super) fn start(
        &mut self,
        target: Target,
        addr: DialAddr,
        is_known: bool,
        payers: Vec<Account>,
    ) -> SessionId {
        self.dialled += 1;
        let session = SessionId::dialled(self.dialled);
        self.in_flight.insert(session, Dial { target, addr, is_known, cancelled: false, payers });
        session
    }

    /// Whether a dial to the address is under way.
    pub(super) fn is_dialling(&self, addr: &DialAddr) -> bool {
        self.in_flight.values().any(|dial| dial.addr == *addr)
    }

    /// Removes a dial that failed.
    pub(super) fn failed(&mut self, session: SessionId) -> Option<Dial> {
        self.is_stuck = false;
        self.in_flight.remove(&session)
    }

    /// Removes a dial whose session came up; `None` if this node did not dial the session.
    pub(super) fn finished(&mut self, session: SessionId) -> Option<Dial> {
        self.is_stuck = false;
        self.in_flight.remove(&session)
    }

    /// The dials under way that this account pays for.
    pub(super) fn paid_by(&self, account: &Account) -> usize {
        self.in_flight.values().filter(|dial| dial.payers.contains(account)).count()
    }

    /// Cancels the dials under way to one peer. Returns their sessions, for `Output::Close`.
    pub(super) fn cancel_to(&mut self, id: &PeerId) -> Vec<SessionId> {
        let wanted = |dial: &Dial| dial.target == Target::Peer(*id) && !dial.cancelled;
        self.cancel(wanted)
    }

    /// Cancels all dials. Returns the sessions of those under way, for `Output::Close`.
    pub(super) fn give_up(&mut self) -> Vec<SessionId> {
        self.ready_known.clear();
        self.ready_rumoured.clear();
        self.cancel(|dial| !dial.cancelled)
    }

    /// Whether dials to unknown peers wait or are under way.
    pub(super) fn is_exploring(&self) -> bool {
        !self.ready_rumoured.is_empty() || self.in_flight.values().any(|dial| !dial.is_known)
    }

    /// The targets of the dials under way that are not cancelled.
    pub(super) fn targets_in_flight(&self) -> impl Iterator<Item = Target> {
        self.in_flight.values().filter(|dial| !dial.cancelled).map(|dial| dial.target)
    }

    /// `targets_max` is the number of targets that this node can know.
    pub(super) fn check_limits(&self, targets_max: usize) {
        let (all, known) =
            (self.in_flight.len(), self.in_flight.values().filter(|dial| dial.is_known).count());
        debug_assert!(all <= DIALS_IN_FLIGHT_MAX, "{all} dials under way");
        debug_assert!(
            known.max(all - known) <= DIALS_IN_FLIGHT_MAX * 3 / 4,
            "{known} of {all} dials to known peers"
        );
        let waiting = self.ready_known.len() + self.ready_rumoured.len();
        debug_assert!(waiting <= targets_max, "{waiting} dials wait for {targets_max} targets");
    }

    fn cancel(&mut self, wanted: impl Fn(&Dial) -> bool) -> Vec<SessionId> {
        let mut cancelled = Vec::new();
        for (session, dial) in &mut self.in_flight {
            if wanted(dial) {
                dial.cancelled = true;
                cancelled.push(*session);
            }
        }
        cancelled
    }

    /// The next known target, if a slot is free for it.
    pub(super) fn pop_known(&mut self) -> Option<Target> {
        let known = self.in_flight.values().filter(|dial| dial.is_known).count();
        if self.in_flight.len() < self.window && known < self.slots_of_one_kind() {
            self.ready_known.pop_front()
        } else {
            None
        }
    }

    /// The waiting rumours, in order, if a slot is free for one.
    pub(super) fn ready_rumours(&self) -> impl Iterator<Item = Target> {
        let rumoured = self.in_flight.values().filter(|dial| !dial.is_known).count();
        let is_free =
            !self.is_stuck && self.in_flight.len() < self.window && rumoured < self.slots_of_one_kind();
        self.ready_rumoured.iter().copied().filter(move |_| is_free)
    }

    /// None of the waiting rumours may start now.
    pub(super) fn rumours_are_stuck(&mut self) {
        self.is_stuck = true;
    }

    /// Takes a target out of the queues, because it is dialled now or forgotten.
    pub(super) fn take_waiting(&mut self, target: Target) {
        for ready in [&mut self.ready_known, &mut self.ready_rumoured] {
            if let Some(at) = ready.iter().position(|&other| other == target) {
                ready.remove(at);
            }
        }
    }

    /// Slots for dials to known peers, and for dials to unknown ones: three quarters each, so that neither a false list
    /// nor a large outage stops dials of the other kind.
    pub(super) fn slots_of_one_kind(&self) -> usize {
        self.window * 3 / 4
    }

    /// Notes the delay of the handshake of a dial.
    pub(super) fn note_handshake(&mut self, delay: Duration) {
        self.window = if delay <= HANDSHAKE_DELAY_MAX {
            DIALS_IN_FLIGHT_MAX.min(self.window + 1)
        } else {
            DIALS_IN_FLIGHT_MIN.max(self.window / 2)
        };
    }

    /// Whether a dial to the target waits or is under way. Cancelled dials do not count.
    pub(super) fn is_ready_or_in_flight(&self, target: Target) -> bool {
        self.ready_known.contains(&target)
            || self.ready_rumoured.contains(&target)
            || self.in_flight.values().any(|dial| dial.target == target && !dial.cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_handshakes_halve_the_window_and_quick_ones_widen_it() {
        let mut queue = DialQueue::new(crate::test_now());
        assert_eq!(queue.window, DIALS_IN_FLIGHT_MIN);
        (0..50).for_each(|_| queue.note_handshake(HANDSHAKE_DELAY_MAX));
        assert_eq!(queue.window, DIALS_IN_FLIGHT_MAX);
        let slow = HANDSHAKE_DELAY_MAX * 2;
        queue.note_handshake(slow);
        assert_eq!(queue.window, DIALS_IN_FLIGHT_MAX / 2);
        (0..50).for_each(|_| queue.note_handshake(slow));
        assert_eq!(queue.window, DIALS_IN_FLIGHT_MIN);
    }

    #[test]
    fn dials_of_one_kind_leave_a_slot_for_the_other() {
        let mut queue = DialQueue::new(crate::test_now());
        let targets = |first: u8| (first..first + 50).map(|n| Target::Peer(PeerId::from_bytes([n; 32])));
        for target in targets(0) {
            queue.queue(target, true);
        }
        let mut known = 0;
        while let Some(target) = queue.pop_known() {
            known += 1;
            let addr = DialAddr::Socket(([10, 0, 0, known], 1).into());
            queue.start(target, addr, true, Vec::new());
        }
        assert_eq!(known, 3);
        targets(100).for_each(|target| queue.queue(target, false));
        let rumour = queue.ready_rumours().next().unwrap();
        queue.take_waiting(rumour);
        queue.start(rumour, DialAddr::Socket(([10, 0, 1, 1], 1).into()), false, Vec::new());
        assert_eq!(queue.ready_rumours().next(), None);
    }
}
