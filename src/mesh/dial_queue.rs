//! Waiting dials and dials under way: which dial may start next, and how many run at once.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::accounts::Account;
use super::io::SessionId;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::util::token_bucket::TokenBucket;

/// Dials under way at once in each lane, at most: enough for a quick start over a slow network.
pub const DIALS_IN_FLIGHT_MAX: usize = 16;
/// Lanes of dials, each with slots of its own.
pub const DIAL_LANES: usize = 2;
/// Dials to IP addresses under way at once on an overloaded machine.
const DIALS_IN_FLIGHT_MIN: usize = 4;
/// Dials that may start at once: a node that joins a mesh of a hundred nodes dials all of them.
pub const DIALS_BURST: u32 = 128;
/// Dials started per second in the long run, regardless of lists.
pub const DIALS_PER_SECOND: u32 = 64;
/// Failed rounds through all addresses of a peer after which it is forgotten, if this node has never met it.
pub const RUMOUR_FAILURES_MAX: u32 = 5;

/// Age at which a dial is given up for a new one because a member reports that the peer is there: the network may have
/// healed since, and the kernel repeats an attempt only after one second. A working network answers sooner.
pub(super) const RENEW_AFTER: Duration = Duration::from_millis(500);
/// Wait before this node dials a peer again that refused it.
pub(super) const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// The target of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A peer, at one of its addresses. Any other peer that answers is refused.
    Peer(PeerId),
    /// The `--connect` address with this index. Any peer may answer, unless the address has a pin.
    Bootstrap(usize),
    /// An address from a beacon. Any peer may answer.
    Beacon(SocketAddr),
}

/// Dials with slots of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// Dials to IP addresses.
    Address,
    /// Dials to names. A lookup takes as long as a name server is silent, and delays no dial to an IP address.
    Name,
}

impl Lane {
    pub(super) const ALL: [Self; DIAL_LANES] = [Self::Address, Self::Name];

    pub(super) fn of(addr: &DialAddr) -> Self {
        if addr.is_name() { Self::Name } else { Self::Address }
    }
}

#[derive(Debug)]
pub(super) struct Dial {
    pub(super) target: Target,
    pub(super) addr: DialAddr,
    pub(super) is_known: bool,
    /// The lane whose slot it holds.
    lane: Lane,
    pub(super) cancelled: bool,
    /// Whether it was cancelled for a new dial, which starts when this one has ended.
    pub(super) is_renewed: bool,
    /// Whether a member has reported since it started that the peer is there.
    is_doubtful: bool,
    started: Instant,
    /// The accounts that paid for it.
    pub(super) payers: Vec<Account>,
}

/// Waiting dials and dials under way, with the limits of their number and rate.
#[derive(Debug)]
pub(super) struct DialQueue {
    in_flight: BTreeMap<SessionId, Dial>,
    /// Due dials that wait for a slot, in each lane.
    ready: [Ready; DIAL_LANES],
    /// The number of dials started.
    dialled: u64,
    /// The rate limit of dials.
    starts: TokenBucket,
    /// Dials to IP addresses that may be under way at once: fewer while this machine is overloaded, because further
    /// handshakes would only keep those under way longer.
    slots: usize,
}

/// Due dials that wait for a slot of one lane.
#[derive(Debug, Default)]
struct Ready {
    /// Bootstrap addresses and known peers.
    known: VecDeque<Target>,
    /// Unknown peers.
    rumoured: VecDeque<Target>,
    /// No waiting rumour may start before a dial ends or another rumour waits. So a long queue of an account that has all
    /// its slots is not searched for each message.
    is_stuck: bool,
}

impl DialQueue {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            in_flight: BTreeMap::new(),
            ready: Default::default(),
            dialled: 0,
            starts: TokenBucket::new(DIALS_BURST, DIALS_PER_SECOND, now),
            slots: DIALS_IN_FLIGHT_MAX,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Queues a dial that is due and not queued yet. Known targets go before rumours.
    pub(super) fn queue(&mut self, target: Target, is_known: bool, lane: Lane) {
        debug_assert!(!self.is_ready_or_in_flight(target), "{target:?} is queued twice");
        let ready = &mut self.ready[lane as usize];
        ready.is_stuck = false;
        if is_known { &mut ready.known } else { &mut ready.rumoured }.push_back(target);
    }

    /// Makes a rumour the next one to dial, unless a dial to it is under way. Returns whether it is.
    pub(super) fn queue_first(&mut self, rumour: Target, lane: Lane) -> bool {
        let is_under_way = self.in_flight.values().any(|dial| dial.target == rumour);
        if !is_under_way {
            self.take_waiting(rumour);
            let ready = &mut self.ready[lane as usize];
            ready.is_stuck = false;
            ready.rumoured.push_front(rumour);
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
        now: Instant,
        target: Target,
        addr: DialAddr,
        is_known: bool,
        lane: Lane,
        payers: Vec<Account>,
    ) -> SessionId {
        self.dialled += 1;
        let session = SessionId::dialled(self.dialled);
        let dial = Dial {
            target,
            addr,
            is_known,
            lane,
            cancelled: false,
            is_renewed: false,
            is_doubtful: false,
            started: now,
            payers,
        };
        self.in_flight.insert(session, dial);
        session
    }

    /// Whether a dial to the address is under way.
    pub(super) fn is_dialling(&self, addr: &DialAddr) -> bool {
        self.in_flight.values().any(|dial| dial.addr == *addr)
    }

    /// Removes a dial that failed.
    pub(super) fn failed(&mut self, session: SessionId) -> Option<Dial> {
        self.unstick();
        self.in_flight.remove(&session)
    }

    /// Removes a dial whose session came up; `None` if this node did not dial the session.
    pub(super) fn finished(&mut self, session: SessionId) -> Option<Dial> {
        self.unstick();
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

    /// A member reports that this peer is there: a dial under way to it may have begun while the network was cut.
    pub(super) fn doubt(&mut self, id: &PeerId) {
        let target = Target::Peer(*id);
        self.in_flight
            .values_mut()
            .filter(|dial| dial.target == target)
            .for_each(|dial| dial.is_doubtful = true);
    }

    /// The session of a doubtful dial to this peer, and the time at which a new dial replaces it.
    pub(super) fn renewal(&self, id: &PeerId) -> Option<(SessionId, Instant)> {
        let is_wanted = |dial: &Dial| dial.target == Target::Peer(*id) && dial.is_doubtful && !dial.cancelled;
        let (session, dial) = self.in_flight.iter().find(|(_, dial)| is_wanted(dial))?;
        Some((*session, dial.started + RENEW_AFTER))
    }

    /// Cancels a dial for a new one, which starts when this one has ended.
    pub(super) fn renew(&mut self, session: SessionId) {
        if let Some(dial) = self.in_flight.get_mut(&session) {
            dial.cancelled = true;
            dial.is_renewed = true;
        }
    }

    /// Whether the end of a dial under way starts a new one.
    pub(super) fn is_renewed(&self, target: Target) -> bool {
        self.in_flight.values().any(|dial| dial.target == target && dial.is_renewed)
    }

    /// Cancels all dials. Returns the sessions of those under way, for `Output::Close`.
    pub(super) fn give_up(&mut self) -> Vec<SessionId> {
        self.ready = Default::default();
        self.cancel(|dial| !dial.cancelled)
    }

    /// Whether dials to unknown peers wait or are under way.
    pub(super) fn is_exploring(&self) -> bool {
        let mut ready = self.ready.iter();
        ready.any(|ready| !ready.rumoured.is_empty()) || self.in_flight.values().any(|dial| !dial.is_known)
    }

    /// The targets of the dials under way that are not cancelled.
    pub(super) fn targets_in_flight(&self) -> impl Iterator<Item = Target> {
        self.in_flight.values().filter(|dial| !dial.cancelled).map(|dial| dial.target)
    }

    /// `targets_max` is the number of targets that this node can know.
    pub(super) fn check_limits(&self, targets_max: usize) {
        for lane in Lane::ALL {
            let (known, rumoured) = (self.held(lane, true), self.held(lane, false));
            debug_assert!(known + rumoured <= DIALS_IN_FLIGHT_MAX, "{} dials under way", known + rumoured);
            let most = DIALS_IN_FLIGHT_MAX * 3 / 4;
            debug_assert!(known.max(rumoured) <= most, "dials: {known} to known peers, {rumoured} to others");
        }
        let waiting = self.ready.iter().map(|ready| ready.known.len() + ready.rumoured.len()).sum::<usize>();
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

    /// The next known target of a lane, if a slot is free for it.
    pub(super) fn pop_known(&mut self, lane: Lane) -> Option<Target> {
        if self.has_slot(lane, true) { self.ready[lane as usize].known.pop_front() } else { None }
    }

    /// The waiting rumours of a lane, in order, if a slot is free for one.
    pub(super) fn ready_rumours(&self, lane: Lane) -> impl Iterator<Item = Target> {
        let Ready { rumoured, is_stuck, .. } = &self.ready[lane as usize];
        let is_free = !is_stuck && !rumoured.is_empty() && self.has_slot(lane, false);
        rumoured.iter().copied().filter(move |_| is_free)
    }

    /// None of the waiting rumours of a lane may start now.
    pub(super) fn rumours_are_stuck(&mut self, lane: Lane) {
        self.ready[lane as usize].is_stuck = true;
    }

    /// A dial has ended, so a waiting rumour may start.
    fn unstick(&mut self) {
        self.ready.iter_mut().for_each(|ready| ready.is_stuck = false);
    }

    /// Takes a target out of the queues, because it is dialled now or forgotten.
    pub(super) fn take_waiting(&mut self, target: Target) {
        for ready in self.ready.iter_mut().flat_map(|ready| [&mut ready.known, &mut ready.rumoured]) {
            if let Some(at) = ready.iter().position(|&other| other == target) {
                ready.remove(at);
            }
        }
    }

    /// Sets the load of this machine, from 1.
    pub(super) fn set_load(&mut self, load: u32) {
        let share = usize::try_from(load).map_or(0, |load| DIALS_IN_FLIGHT_MAX / load.max(1));
        self.slots = share.max(DIALS_IN_FLIGHT_MIN);
    }

    /// Slots for dials to known peers, and for dials to unknown ones: three quarters each, so that neither a false list
    /// nor a large outage stops dials of the other kind.
    pub(super) fn slots_of_one_kind(&self, lane: Lane) -> usize {
        self.slots(lane) * 3 / 4
    }

    /// The slots of a lane. A lookup costs no processor time, so the load does not limit dials to names.
    fn slots(&self, lane: Lane) -> usize {
        match lane {
            Lane::Address => self.slots,
            Lane::Name => DIALS_IN_FLIGHT_MAX,
        }
    }

    fn has_slot(&self, lane: Lane, is_known: bool) -> bool {
        let (held, others) = (self.held(lane, is_known), self.held(lane, !is_known));
        held + others < self.slots(lane) && held < self.slots_of_one_kind(lane)
    }

    /// The slots that dials to known peers, or to others, hold.
    fn held(&self, lane: Lane, is_known: bool) -> usize {
        self.in_flight.values().filter(|dial| dial.lane == lane && dial.is_known == is_known).count()
    }

    /// Whether a dial to the target waits or is under way. Cancelled dials do not count.
    pub(super) fn is_ready_or_in_flight(&self, target: Target) -> bool {
        self.ready.iter().any(|ready| ready.known.contains(&target) || ready.rumoured.contains(&target))
            || self.in_flight.values().any(|dial| dial.target == target && !dial.cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_leaves_fewer_slots() {
        let mut queue = DialQueue::new(crate::test_now());
        let mut slots = |load: u32| {
            queue.set_load(load);
            queue.slots
        };
        assert_eq!([1, 2, 4, 8, 1].map(&mut slots), [16, 8, 4, 4, 16]);
    }

    #[test]
    fn dials_of_one_kind_leave_a_slot_for_the_other() {
        let mut queue = DialQueue::new(crate::test_now());
        let targets = |first: u8| (first..first + 50).map(|n| Target::Peer(PeerId::from_bytes([n; 32])));
        let lane = Lane::Address;
        queue.set_load(4);
        for target in targets(0) {
            queue.queue(target, true, lane);
        }
        let mut known = 0;
        while let Some(target) = queue.pop_known(lane) {
            known += 1;
            let addr = DialAddr::Socket(([10, 0, 0, known], 1).into());
            queue.start(crate::test_now(), target, addr, true, lane, Vec::new());
        }
        assert_eq!(known, 3);
        targets(100).for_each(|target| queue.queue(target, false, lane));
        let rumour = queue.ready_rumours(lane).next().unwrap();
        queue.take_waiting(rumour);
        queue.start(
            crate::test_now(),
            rumour,
            DialAddr::Socket(([10, 0, 1, 1], 1).into()),
            false,
            lane,
            Vec::new(),
        );
        assert_eq!(queue.ready_rumours(lane).next(), None);
    }
}
