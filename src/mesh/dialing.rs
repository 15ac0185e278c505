//! Whom to dial, when, and how many at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::peer::{Peer, State};
use super::sessions::REFUSED_WAIT;
use super::timers::Timer;
use super::{DialError, DialSource, Mesh, Output, Report, SessionId, millis};
use crate::addr::DialAddr;
use crate::identity::PeerId;
use crate::pin::{ConnectAddr, Expected, Pin};
use crate::token_bucket::TokenBucket;

/// Dials under way at once: enough to join quickly, few enough not to starve a small machine.
pub const DIALS_IN_FLIGHT_MAX: usize = 16;
/// Of these, how many may go to peers never met, and how many to known ones: neither a liar's
/// list nor a large outage keeps the other kind from being dialled.
const DIALS_OF_ONE_KIND_MAX: usize = 12;
/// Dials that may start at once: a node that joins a mesh of a hundred dials them all.
pub const DIALS_BURST: u32 = 128;
/// Dials started per second in the long run, whatever lists claim.
pub const DIALS_PER_SECOND: u32 = 64;
/// Rounds through its addresses after which a peer that nobody has met is forgotten.
pub const RUMOUR_FAILURES_MAX: u32 = 5;

/// Wait before a lost `--connect` address is dialled: the peer behind it is redialled sooner.
const SEED_WAIT: Duration = Duration::from_secs(1);

/// Whom a dial is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A peer, at one of its addresses; nobody else will do.
    Peer(PeerId),
    /// The `--connect` address with this index; whoever is there, unless somebody is pinned.
    Seed(usize),
}

/// An address from `--connect`: dialled whenever the peer behind it is not connected, also when
/// that peer left: the user has asked for this address, not for that process.
#[derive(Debug)]
struct Seed {
    addr: DialAddr,
    /// Who alone will do, if the user has said so.
    pin: Option<Pin>,
    /// Who was there last.
    peer: Option<PeerId>,
    is_self: bool,
    backoff: Backoff,
    /// Since when nobody is, and whether the user has been told.
    since: Instant,
    reported: bool,
    /// Told the user that somebody else than the pinned peer is there.
    wrong_id_reported: bool,
}

#[derive(Debug)]
struct Dial {
    target: Target,
    addr: DialAddr,
    is_known: bool,
    cancelled: bool,
}

/// What became of a dial whose session came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finished {
    Reached(Target, DialAddr),
    /// It had been given up, but too late to keep the other end from counting it.
    Cancelled,
}

#[derive(Debug)]
pub(super) struct Dialing {
    seeds: Vec<Seed>,
    in_flight: BTreeMap<SessionId, Dial>,
    /// Due, waiting for a slot: seeds and peers once met; peers never met.
    ready_known: VecDeque<Target>,
    ready_rumoured: VecDeque<Target>,
    dialled: u64,
    starts: TokenBucket,
}

impl Dialing {
    pub(super) fn new(connect: &[ConnectAddr], now: Instant) -> Self {
        let mut seeds: Vec<Seed> = Vec::new();
        for ConnectAddr { pin, addr } in connect {
            let is_same = |seed: &Seed| seed.addr == *addr && seed.pin == *pin;
            // Without its pin an address would let in whom the pin keeps out.
            let is_pinned = |other: &ConnectAddr| other.addr == *addr && other.pin.is_some();
            if seeds.iter().any(is_same) || (pin.is_none() && connect.iter().any(is_pinned)) {
                continue;
            }
            seeds.push(Seed {
                addr: addr.clone(),
                pin: *pin,
                peer: None,
                is_self: false,
                backoff: Backoff::default(),
                since: now,
                reported: false,
                wrong_id_reported: false,
            });
        }
        Self {
            seeds,
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

    /// A dial has become a session; whom it was meant for, and where.
    pub(super) fn finished(&mut self, session: SessionId) -> Option<Finished> {
        let dial = self.in_flight.remove(&session)?;
        Some(if dial.cancelled { Finished::Cancelled } else { Finished::Reached(dial.target, dial.addr) })
    }

    /// Dials under way to one peer are off; those that are to be cancelled.
    pub(super) fn cancel_to(&mut self, id: &PeerId) -> Vec<SessionId> {
        let wanted = |dial: &Dial| dial.target == Target::Peer(*id) && !dial.cancelled;
        self.cancel(wanted)
    }

    /// All dials, under way and to come, are off; those that are to be cancelled.
    pub(super) fn give_up(&mut self) -> Vec<SessionId> {
        self.ready_known.clear();
        self.ready_rumoured.clear();
        self.cancel(|dial| !dial.cancelled)
    }

    /// Whether peers that nobody has met yet are being dialled.
    pub(super) fn is_exploring(&self) -> bool {
        !self.ready_rumoured.is_empty() || self.in_flight.values().any(|dial| !dial.is_known)
    }

    /// Whether the user has named this peer itself, not only an address.
    pub(super) fn is_pinned(&self, id: &PeerId) -> bool {
        self.seeds.iter().any(|seed| seed.pin.is_some_and(|pin| pin.matches(id)))
    }

    /// A `--connect` address leads to this node.
    pub(super) fn seed_is_self(&mut self, seed: usize) -> DialAddr {
        self.seeds[seed].is_self = true;
        self.seeds[seed].addr.clone()
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

    /// The next target that a slot is free for, and whether it is a known one.
    fn pop_ready(&mut self) -> Option<(Target, bool)> {
        if self.in_flight.len() >= DIALS_IN_FLIGHT_MAX {
            return None;
        }
        let known = self.in_flight.values().filter(|dial| dial.is_known).count();
        let rumoured = self.in_flight.len() - known;
        if known < DIALS_OF_ONE_KIND_MAX
            && let Some(target) = self.ready_known.pop_front()
        {
            return Some((target, true));
        }
        if rumoured < DIALS_OF_ONE_KIND_MAX
            && let Some(target) = self.ready_rumoured.pop_front()
        {
            return Some((target, false));
        }
        None
    }

    /// A dial that was given up does not count: nothing comes of it, however late it ends.
    fn is_ready_or_in_flight(&self, target: Target) -> bool {
        self.ready_known.contains(&target)
            || self.ready_rumoured.contains(&target)
            || self.in_flight.values().any(|dial| dial.target == target && !dial.cancelled)
    }
}

impl Mesh {
    pub(super) fn dial_seeds(&mut self, now: Instant) {
        for seed in 0..self.dialing.seeds.len() {
            self.timers.set(Timer::Dial(Target::Seed(seed)), now);
        }
    }

    /// A dial's time has come, if it is still wanted.
    pub(super) fn dial_due(&mut self, now: Instant, target: Target) {
        if self.dialing.is_ready_or_in_flight(target) || !self.is_wanted(target) {
            return;
        }
        if self.is_known(target) {
            self.dialing.ready_known.push_back(target);
        } else {
            self.dialing.ready_rumoured.push_back(target);
        }
        self.pump_dials(now);
    }

    /// Starts as many dials as there are slots for.
    pub(super) fn pump_dials(&mut self, now: Instant) {
        while let Some((target, is_known)) = self.dialing.pop_ready() {
            if !self.is_wanted(target) {
                continue;
            }
            if let Err(wait) = self.dialing.starts.take(now) {
                self.timers.set(Timer::Dial(target), now + wait);
                return;
            }
            let Some((addr, expected)) = self.address_of(now, target) else {
                continue;
            };
            if self.dialing.in_flight.values().any(|dial| dial.addr == addr) {
                // Somebody is being dialled there already; it may turn out to be the same.
                let wait = self.random_between(millis(100), millis(200));
                self.timers.set(Timer::Dial(target), now + wait);
                continue;
            }
            self.dialing.dialled += 1;
            let session = SessionId::dialled(self.dialing.dialled);
            let dial = Dial { target, addr: addr.clone(), is_known, cancelled: false };
            self.dialing.in_flight.insert(session, dial);
            let source = match target {
                Target::Seed(_) => DialSource::User,
                Target::Peer(_) if is_known => DialSource::KnownPeer,
                Target::Peer(_) => DialSource::UnknownPeer,
            };
            self.output(Output::Dial { session, addr, expected, source });
        }
    }

    pub(super) fn dial_failed(&mut self, now: Instant, session: SessionId, reason: DialError) {
        if let Some(dial) = self.dialing.in_flight.remove(&session)
            && !self.leaving
        {
            match dial.target {
                Target::Seed(seed) => self.seed_failed(now, seed, reason),
                Target::Peer(id) => self.peer_dial_failed(now, id, dial.addr, reason),
            }
        }
        self.pump_dials(now);
    }

    /// Dials a lost peer again after its backoff, or at once if it has an address not yet tried.
    pub(super) fn redial_later(&mut self, now: Instant, id: PeerId) -> Option<Duration> {
        let peer = self.peers.get_mut(&id)?;
        let wait = if peer.addrs.round_complete() {
            let outage = peer.outage(now);
            peer.backoff.next(&mut self.rng, outage)
        } else {
            self.random_between(millis(10), millis(50))
        };
        self.timers.set(Timer::Dial(Target::Peer(id)), now + wait);
        Some(wait)
    }

    /// A dial reached a `--connect` address, if that is what it was meant for.
    pub(super) fn seed_reached(&mut self, target: Option<Target>, id: PeerId) {
        if let Some(Target::Seed(seed)) = target {
            let seed = &mut self.dialing.seeds[seed];
            seed.peer = Some(id);
            seed.backoff.reset();
            seed.reported = false;
            seed.wrong_id_reported = false;
        }
    }

    /// A peer is lost; the `--connect` addresses that lead to it are dialled too.
    pub(super) fn seeds_lost(&mut self, now: Instant, id: PeerId) {
        for index in 0..self.dialing.seeds.len() {
            let seed = &mut self.dialing.seeds[index];
            if seed.peer == Some(id) {
                seed.since = now;
                let wait = self.random_between(SEED_WAIT, SEED_WAIT * 3 / 2);
                self.timers.set_no_later(Timer::Dial(Target::Seed(index)), now + wait);
            }
        }
    }

    /// There is a reason to hope at all `--connect` addresses: they are dialled soon.
    pub(super) fn seeds_again(&mut self, now: Instant) {
        for index in 0..self.dialing.seeds.len() {
            let target = Target::Seed(index);
            if self.timers.is_set(Timer::Dial(target)) {
                self.dialing.seeds[index].backoff.reset();
                let soon = self.random_between(Duration::ZERO, millis(100));
                self.timers.set_no_later(Timer::Dial(target), now + soon);
            }
        }
    }

    /// The `--connect` addresses that lead to this peer are not dialled before then.
    pub(super) fn seeds_wait(&mut self, id: PeerId, until: Instant) {
        for (index, seed) in self.dialing.seeds.iter().enumerate() {
            if seed.peer == Some(id) {
                self.timers.set(Timer::Dial(Target::Seed(index)), until);
            }
        }
    }

    fn seed_failed(&mut self, now: Instant, index: usize, reason: DialError) {
        let seed = &mut self.dialing.seeds[index];
        let outage = now.saturating_duration_since(seed.since);
        let wait = seed.backoff.next(&mut self.rng, outage);
        let addr = seed.addr.clone();
        self.timers.set(Timer::Dial(Target::Seed(index)), now + wait);
        let detail = match reason {
            DialError::Failed(detail) => {
                if !std::mem::replace(&mut seed.reported, true) {
                    return self.report(Report::SeedUnreachable { addr, detail });
                }
                detail
            }
            DialError::WrongId { found } => {
                if let Some(pin) = seed.pin {
                    if !std::mem::replace(&mut seed.wrong_id_reported, true) {
                        return self.report(Report::WrongPin { addr, pin, found });
                    }
                } else {
                    if let Some(owner) = self.owner_of(&addr, &found) {
                        self.tell_wrong_id(&addr, owner, found, true);
                    }
                }
                format!("peer {} answered", found.short())
            }
            DialError::Cancelled => return,
        };
        self.report(Report::DialFailed { peer: None, addr, detail, retry_in: Some(wait) });
    }

    fn peer_dial_failed(&mut self, now: Instant, id: PeerId, addr: DialAddr, reason: DialError) {
        let own_id = self.id;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let was_met = peer.met.is_some();
        let mut detail = None;
        match reason {
            DialError::Failed(words) => detail = Some(words),
            DialError::WrongId { found } => {
                detail = Some(format!("peer {} answered", found.short()));
                if was_met && found != own_id {
                    let is_refused = self.config.strict && peer.addrs.was_proven(&addr);
                    self.tell_wrong_id(&addr, id, found, is_refused);
                    // What is refused leaves the address as it was: its peer's.
                    if !is_refused {
                        self.somebody_else_at(now, &addr, id, found);
                    }
                } else if was_met {
                    // Our own key, by whichever process: its peer may come back there.
                    peer.addrs.demote(&addr);
                } else {
                    peer.addrs.remove(&addr);
                    self.hint(now, found, addr.clone());
                }
            }
            DialError::Cancelled => {}
        }
        let retry_in = self.after_failed_dial(now, id);
        if let Some(detail) = detail {
            self.report(Report::DialFailed { peer: Some(id), addr, detail, retry_in });
        }
    }

    /// A dial meant for somebody else has found a peer that we have heard of and not met. That is
    /// better than any rumour: it is dialled there next, before who may not exist at all.
    fn hint(&mut self, now: Instant, found: PeerId, addr: DialAddr) {
        let is_rumour = |peer: &&mut Peer| matches!(peer.state, State::Rumour { .. });
        if let Some(peer) = self.peers.get_mut(&found).filter(is_rumour) {
            peer.addrs.hint(addr);
            let target = Target::Peer(found);
            if !self.dialing.in_flight.values().any(|dial| dial.target == target) {
                self.timers.cancel(Timer::Dial(target));
                self.dialing.ready_rumoured.retain(|&other| other != target);
                self.dialing.ready_rumoured.push_front(target);
            }
        }
        self.pump_dials(now);
    }

    /// Dials again, or forgets who was only hearsay. Returns the wait until the next dial.
    fn after_failed_dial(&mut self, now: Instant, id: PeerId) -> Option<Duration> {
        let peer = self.peers.get_mut(&id)?;
        if let State::Rumour { failures, .. } = &mut peer.state {
            if peer.addrs.round_complete() {
                *failures += 1;
            }
            if *failures >= RUMOUR_FAILURES_MAX || peer.addrs.is_empty() {
                let reached_by = std::mem::take(&mut peer.reached_by);
                self.forget(id);
                self.ask_again_soon(now, &reached_by);
                return None;
            }
        }
        if peer.wants_dial() { self.redial_later(now, id) } else { None }
    }

    /// A known peer's address is somebody else's now: a peer of its own, to be met there.
    fn somebody_else_at(&mut self, now: Instant, addr: &DialAddr, expected: PeerId, found: PeerId) {
        if let Some(peer) = self.peers.get_mut(&expected) {
            peer.addrs.demote(addr);
        }
        if !self.is_live(&found) && self.hear_of(now, found, [addr.clone()]) {
            let soon = self.random_between(millis(100), millis(300));
            self.timers.set_no_later(Timer::Dial(Target::Peer(found)), now + soon);
        }
    }

    /// Notes an unproven peer or address. Whether the peer may be dialled.
    pub(super) fn hear_of(
        &mut self,
        now: Instant,
        id: PeerId,
        addrs: impl IntoIterator<Item = DialAddr>,
    ) -> bool {
        let is_full = !self.peers.contains_key(&id) && self.peers.len() >= self.config.peers_max;
        if is_full || self.config.access.check(&id).is_err() {
            return false;
        }
        let is_free = |addr: &DialAddr| !self.config.strict || self.owner_of(addr, &id).is_none();
        let addrs: Vec<DialAddr> = addrs.into_iter().filter(is_free).collect();
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(now));
        addrs.into_iter().for_each(|addr| peer.addrs.rumour(addr));
        if peer.addrs.is_empty() && peer.met.is_none() {
            self.peers.remove(&id);
            return false;
        }
        peer.wants_dial()
    }

    fn is_known(&self, target: Target) -> bool {
        match target {
            Target::Seed(_) => true,
            Target::Peer(id) => self.peers.get(&id).is_some_and(|peer| peer.met.is_some()),
        }
    }

    fn is_wanted(&mut self, target: Target) -> bool {
        match target {
            Target::Peer(id) => {
                let is_admitted = self.config.access.check(&id).is_ok();
                is_admitted && self.peers.get(&id).is_some_and(Peer::wants_dial)
            }
            Target::Seed(index) => {
                let seed = &self.dialing.seeds[index];
                if seed.is_self || seed.peer.is_some_and(|peer| self.is_live(&peer)) {
                    return false;
                }
                // Connected by another way already? Who is pinned may be anywhere; who is not pinned,
                // there.
                let will_do = |(id, peer): &(&PeerId, &Peer)| {
                    let is_it = match seed.pin {
                        Some(pin) => pin.matches(id),
                        // A strict node takes nobody else for it who was ever met there.
                        None if self.config.strict => peer.addrs.was_proven(&seed.addr),
                        None => peer.addrs.is_proven(&seed.addr),
                    };
                    is_it && peer.live().is_some()
                };
                let there = self.peers.iter().find(will_do).map(|(id, _)| *id);
                if let Some(id) = there {
                    self.seed_reached(Some(target), id);
                }
                there.is_none()
            }
        }
    }

    /// Where to dial, and who must be there.
    fn address_of(&mut self, now: Instant, target: Target) -> Option<(DialAddr, Expected)> {
        match target {
            Target::Seed(index) => {
                let seed = &self.dialing.seeds[index];
                let owner = || self.owner_of(&seed.addr, &self.id).filter(|_| self.config.strict);
                let expected = match seed.pin {
                    Some(pin) => Expected::Pinned(pin),
                    None => owner().map_or(Expected::Anybody, Expected::Peer),
                };
                let refusal = expected.id().and_then(|id| self.config.access.check(&id).err());
                let seed = &mut self.dialing.seeds[index];
                let addr = seed.addr.clone();
                if let Some(why) = refusal {
                    self.timers.set(Timer::Dial(target), now + REFUSED_WAIT);
                    if !std::mem::replace(&mut seed.reported, true) {
                        let detail = format!("peer {expected} is refused: {why}");
                        self.report(Report::SeedUnreachable { addr, detail });
                    }
                    return None;
                }
                Some((addr, expected))
            }
            Target::Peer(id) => {
                let addr = self.peers.get_mut(&id)?.addrs.next_to_dial()?;
                Some((addr, Expected::Peer(id)))
            }
        }
    }
}
