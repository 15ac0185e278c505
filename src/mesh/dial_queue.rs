//! Waiting dials and dials under way: which dial may start next, and how many run at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::io::SessionId;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::util::token_bucket::TokenBucket;

/// Dials under way at once: enough to join quickly, and few enough for a small machine.
pub const DIALS_IN_FLIGHT_MAX: usize = 16;
/// The limit of dials to unknown peers, and of dials to known peers, so that neither a false list nor a large
/// outage stops dials of the other kind.
const DIALS_OF_ONE_KIND_MAX: usize = 12;
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
}

/// The outcome of a dial whose session came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DialOutcome {
    Reached(Target, DialAddr),
    /// The dial was cancelled, but too late: the other end may count the session.
    Cancelled,
}

/// Waiting dials and dials under way, with the limits of their number and rate.
#[derive(Debug)]
pub(super) struct DialQueue {
    in_flight: BTreeMap<SessionId, Dial>,
    /// Due dials that wait for a slot: bootstrap addresses and known peers, and unknown peers.
    ready_known: VecDeque<Target>,
    ready_rumoured: VecDeque<Target>,
    /// The number of dials started.
    dialled: u64,
    /// The rate limit of dials.
    starts: TokenBucket,
}

impl DialQueue {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_flight: BTreeMap::new(),
            ready_known: VecDeque::new(),
            ready_rumoured: VecDeque::new(),
            dialled: 0,
            starts: TokenBucket::new(DIALS_BURST, DIALS_PER_SECOND, now),
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
    }

    /// Makes a rumour the next one to dial, unless a dial to it is under way. Returns whether it is.
    pub(super) fn queue_first(&mut self, rumour: Target) -> bool {
        let is_under_way = self.in_flight.values().any(|dial| dial.target == rumour);
        if !is_under_way {
            self.ready_rumoured.retain(|&other| other != rumour);
            self.ready_rumoured.push_front(rumour);
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
    pub(super) fn start(&mut self, target: Target, addr: DialAddr, is_known: bool) -> SessionId {
        self.dialled += 1;
        let session = SessionId::dialled(self.dialled);
        self.in_flight.insert(session, Dial { target, addr, is_known, cancelled: false });
        session
    }

    /// Whether a dial to the address is under way.
    pub(super) fn is_dialling(&self, addr: &DialAddr) -> bool {
        self.in_flight.values().any(|dial| dial.addr == *addr)
    }

    /// Removes a dial that failed.
    pub(super) fn failed(&mut self, session: SessionId) -> Option<Dial> {
        self.in_flight.remove(&session)
    }

    /// Removes a dial whose session came up. Returns its outcome, or `None` if this node did not dial the session.
    pub(super) fn finished(&mut self, session: SessionId) -> Option<DialOutcome> {
        let dial = self.in_flight.remove(&session)?;
        Some(if dial.cancelled {
            DialOutcome::Cancelled
        } else {
            DialOutcome::Reached(dial.target, dial.addr)
        })
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
            known.max(all - known) <= DIALS_OF_ONE_KIND_MAX,
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

    /// The next target for which a slot is free, and whether it is known. A node whose load is above 1 has fewer slots.
    pub(super) fn pop_ready(&mut self, load: u32) -> Option<(Target, bool)> {
        let share = |slots: usize| slots.div_ceil(usize::try_from(load).unwrap_or(1));
        if self.in_flight.len() >= share(DIALS_IN_FLIGHT_MAX) {
            return None;
        }
        let known = self.in_flight.values().filter(|dial| dial.is_known).count();
        let rumoured = self.in_flight.len() - known;
        if known < share(DIALS_OF_ONE_KIND_MAX)
            && let Some(target) = self.ready_known.pop_front()
        {
            return Some((target, true));
        }
        if rumoured < share(DIALS_OF_ONE_KIND_MAX)
            && let Some(target) = self.ready_rumoured.pop_front()
        {
            return Some((target, false));
        }
        None
    }

    /// Whether a dial to the target waits or is under way. Cancelled dials do not count.
    pub(super) fn is_ready_or_in_flight(&self, target: Target) -> bool {
        self.ready_known.contains(&target)
            || self.ready_rumoured.contains(&target)
            || self.in_flight.values().any(|dial| dial.target == target && !dial.cancelled)
    }
}
