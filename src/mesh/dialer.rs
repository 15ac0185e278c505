//! The targets of dials, and the time of each dial.

use std::time::{Duration, Instant};

use super::accounts::{Account, CREDIT_INTERVAL, CREDIT_MAX};
use super::address_book::Addrs;
use super::address_scope::Told;
use super::backoff::LONG_OUTAGE;
use super::bootstrap_dials::BOOTSTRAP_WAIT;
use super::dial_queue::{Lane, REFUSED_WAIT, RUMOUR_FAILURES_MAX, Target};
use super::io::{DialError, DialSource, Output, Report, SessionId, Skip};
use super::machine::{Mesh, millis};
use super::peer::{Peer, State};
use super::standing::Standing;
use super::timer::Timer;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::Expected;
use crate::wire::ByeReason;

/// Dials at once to peers that this node reaches through others. Such dials often wait for an answer that never comes,
/// and must not keep others waiting.
const BESIDE_CIRCUITS_MAX: usize = 2;

/// Time for which a stranger is redialled that this node has never reached.
pub const STRANGER_REDIAL: Duration = Duration::from_secs(60);

impl Mesh {
    /// Queues a dial that is due, if it is still wanted.
    pub(super) fn dial_due(&mut self, now: Instant, target: Target) {
        if self.dialing.is_ready_or_in_flight(target) {
            return self.renew_dial(now, target);
        }
        if !self.is_wanted(now, target) {
            return;
        }
        if let Target::Peer(id) = target {
            if let Some(at) = self.keeps_to_circuit_until(now, &id) {
                return self.timers.set(Timer::Dial(target), at);
            }
            if self.is_connected(&id) && self.dialing_beside_circuits() >= BESIDE_CIRCUITS_MAX {
                let wait = self.random_between(BOOTSTRAP_WAIT, BOOTSTRAP_WAIT * 3);
                return self.timers.set(Timer::Dial(target), now + wait);
            }
            self.seek_path_later(now, id);
        }
        self.dialing.queue(target, self.is_known(target), self.lane_of(target));
        self.start_queued_dials(now);
    }

    /// Gives up a dial under way for a new one, if it may have begun while the network was cut.
    fn renew_dial(&mut self, now: Instant, target: Target) {
        let Target::Peer(id) = target else {
            return;
        };
        let Some((dial, at)) = self.dialing.renewal(&id) else {
            return;
        };
        if now < at {
            self.timers.set_no_later(Timer::Dial(target), at);
        } else {
            self.dialing.renew(dial);
            self.close(dial, ByeReason::Duplicate);
        }
    }

    /// The dials that wait or are under way to peers with a session inside a circuit.
    fn dialing_beside_circuits(&self) -> usize {
        let carried = self.peers.iter_connected().filter(|(_, connected)| !connected.has_direct());
        carried.filter(|(id, _)| self.dialing.is_ready_or_in_flight(Target::Peer(**id))).count()
    }

    /// Starts as many dials as there are slots for.
    pub(super) fn start_queued_dials(&mut self, now: Instant) {
        if self.leaving {
            return;
        }
        while let Some((target, is_known, lane)) = self.next_dial(now) {
            if !self.is_wanted(now, target) {
                continue;
            }
            let Some((addr, expected)) = self.address_of(now, target) else {
                continue;
            };
            if self.dialing.is_dialling(&addr) {
                // A dial to that address is under way, and may reach the same peer. The wait takes no right to start: many
                // rumours of one address would take those of all others.
                let wait = self.random_between(millis(100), millis(200));
                self.timers.set(Timer::Dial(target), now + wait);
                continue;
            }
            let payers = self.payers(now, target, &addr);
            let kept = self.kept_for_others(target);
            if let Err(wait) = self.accounts.pay_and_keep(now, &payers, kept) {
                match target {
                    Target::Beacon(addr) => self.beacons.finish(addr),
                    Target::Peer(id) if self.is_known(target) => {
                        // The peer has other addresses, or its turn comes again after its backoff.
                        self.redial_later(now, id);
                    }
                    Target::Peer(id) => self.wait_for_payment(now, id, wait, kept),
                    Target::Bootstrap(_) => {}
                }
                continue;
            }
            if let Err(wait) = self.dialing.take_start(now) {
                self.accounts.give_back(&payers);
                self.timers.set(Timer::Dial(target), now + wait);
                return;
            }
            if let Target::Peer(id) = target
                && self.belongs_to_another(&id, &addr)
            {
                // The search for the owner goes through all peers, so it comes after the payment.
                self.after_failed_dial(now, id);
                continue;
            }
            let session = self.dialing.start(now, target, addr.clone(), is_known, lane, payers);
            let skip = self.skip(target, &addr);
            let source = match target {
                Target::Bootstrap(_) => DialSource::User,
                Target::Peer(_) if is_known => DialSource::KnownPeer,
                Target::Peer(_) | Target::Beacon(_) => DialSource::UnknownPeer,
            };
            self.output(Output::Dial { session, addr, expected, source, skip });
        }
    }

    /// A rumour whose dial is not paid for yet is dialled once it may be.
    fn wait_for_payment(&mut self, now: Instant, id: PeerId, wait: Duration, kept: u32) {
        if let Some(Peer { state: State::Rumoured { waits, .. }, .. }) = self.peers.get_mut(&id) {
            *waits = kept > 0;
        }
        let wait = self.random_between(wait, wait + CREDIT_INTERVAL);
        self.timers.set(Timer::Dial(Target::Peer(id)), now + wait);
    }

    /// What the dial leaves out. One to a `--connect` name is for peers that are not connected.
    fn skip(&self, target: Target, addr: &DialAddr) -> Skip {
        match target {
            Target::Bootstrap(index) if self.bootstraps.get(index).is_set() => {
                let connected = || self.peers.iter().filter(|(_, peer)| peer.connected().is_some());
                let dialled = |peer: &Peer| peer.remote.filter(|(_, dialled)| *dialled).map(|(addr, _)| addr);
                let at = connected().flat_map(|(_, peer)| peer.addrs.owned_sockets().chain(dialled(peer)));
                Skip { addrs: at.collect(), peers: connected().map(|(id, _)| *id).collect(), private: false }
            }
            Target::Peer(id) => {
                let private = self.peers.get(&id).is_some_and(|peer| peer.addrs.is_foreign(addr));
                Skip { private, ..Skip::default() }
            }
            Target::Bootstrap(_) | Target::Beacon(_) => Skip::default(),
        }
    }

    /// Failed rounds after which a rumour is forgotten. While its tellers can't pay for many dials, each of their rumours
    /// is tried once before any is tried again.
    fn rumour_rounds(&self, now: Instant, id: &PeerId) -> u32 {
        let teller = self.peers.get(id).and_then(|peer| self.teller_of(now, peer));
        let is_short = teller.is_some_and(|teller| self.accounts.left(now, &teller) < CREDIT_MAX / 2);
        if is_short { 1 } else { RUMOUR_FAILURES_MAX }
    }

    /// The next dial for which a slot is free, whether its target is known, and its lane.
    fn next_dial(&mut self, now: Instant) -> Option<(Target, bool, Lane)> {
        for lane in Lane::ALL {
            if let Some(known) = self.dialing.pop_known(lane) {
                return Some((known, true, lane));
            }
        }
        for lane in Lane::ALL {
            let next = self.dialing.ready_rumours(lane).find(|&target| self.leaves_room(now, target, lane));
            if let Some(rumour) = next {
                self.dialing.take_waiting(rumour);
                return Some((rumour, false, lane));
            }
            self.dialing.rumours_are_stuck(lane);
        }
        None
    }

    /// The lane of the dial to the target's next address.
    fn lane_of(&self, target: Target) -> Lane {
        let next = match target {
            Target::Bootstrap(index) => Some(&self.bootstraps.get(index).addr),
            Target::Peer(id) => self.peers.get(&id).and_then(|peer| peer.addrs.peek_next()),
            Target::Beacon(_) => None,
        };
        next.map_or(Lane::Address, Lane::of)
    }

    pub(super) fn dial_failed(&mut self, now: Instant, session: SessionId, reason: DialError) {
        if session.is_carried() {
            self.circuit_failed(now, session);
        } else if session.is_punched() {
            self.punch_failed(now, session, reason);
        } else if let Some(dial) = self.dialing.failed(session)
            && !self.leaving
        {
            match dial.target {
                Target::Bootstrap(bootstrap) => self.bootstrap_failed(now, bootstrap, reason),
                Target::Peer(_) if dial.is_renewed => self.dial_due(now, dial.target),
                Target::Peer(id) => self.peer_dial_failed(now, id, dial.addr, reason),
                Target::Beacon(addr) => self.beacon_dial_failed(addr, reason),
            }
        }
        self.start_queued_dials(now);
    }

    /// Whether others list the address of this peer, and in a strict mesh it belongs to another peer.
    fn belongs_to_another(&self, id: &PeerId, addr: &DialAddr) -> bool {
        let is_rumour = || self.peers.get(id).is_some_and(|peer| peer.addrs.is_rumour(addr));
        self.config.strict && is_rumour() && self.peers.owner_of(addr, id).is_some()
    }

    /// Whether a dial to this rumour leaves a slot for the rumours of others: an account whose dials keep failing does not
    /// get all slots.
    fn leaves_room(&self, now: Instant, target: Target, lane: Lane) -> bool {
        let id = match target {
            Target::Peer(id) => id,
            Target::Bootstrap(_) => return true,
            Target::Beacon(addr) => {
                let held = self.dialing.paid_by(&Account::beacons(addr.ip()));
                return held < self.dialing.slots_of_one_kind(lane) - 1;
            }
        };
        let teller = self.peers.get(&id).and_then(|peer| self.teller_of(now, peer));
        teller.is_none_or(|teller| {
            self.accounts.left(now, &teller) > CREDIT_MAX / 2
                || self.dialing.paid_by(&teller) < self.dialing.slots_of_one_kind(lane) - 1
        })
    }

    /// Lets a lost stranger count as left if it is time: this node has never reached it, and it comes again if it lives.
    /// Returns whether it is.
    fn give_up_stranger(&mut self, now: Instant, id: PeerId) -> bool {
        let is_over = self.peers.get(&id).is_some_and(|peer| {
            let gone_long = matches!(peer.state, State::Dead(gone) if now >= gone.since + STRANGER_REDIAL);
            gone_long && !peer.addrs.has_success() && self.is_stranger(now, &id)
        });
        if is_over {
            self.give_up(id);
        }
        is_over
    }

    /// Dials a lost peer again after its backoff, or at once if it has an address not yet tried. A stranger that only came
    /// to this node is not dialled for long.
    pub(super) fn redial_later(&mut self, now: Instant, id: PeerId) -> Option<Duration> {
        let peer = self.peers.get_mut(&id)?;
        let wait = if peer.addrs.round_complete() {
            // A peer that is reached through another one can wait.
            let outage = if peer.has_session() { LONG_OUTAGE } else { peer.outage(now) };
            peer.backoff.next(&mut self.rng, outage)
        } else {
            self.random_between(millis(10), millis(50))
        };
        if self.give_up_stranger(now + wait, id) {
            return None;
        }
        self.timers.set(Timer::Dial(Target::Peer(id)), now + wait);
        Some(wait)
    }

    fn peer_dial_failed(&mut self, now: Instant, id: PeerId, addr: DialAddr, reason: DialError) {
        let own_id = self.id;
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let was_met = peer.met.is_some();
        let mut detail = None;
        match reason {
            DialError::Failed(text) => detail = Some(text),
            DialError::Refused(text) => {
                detail = Some(text);
                self.refused_by_system(now, id);
            }
            DialError::WrongId { found } => {
                detail = Some(format!("peer {} answered", found.short()));
                if was_met && found != own_id {
                    let is_refused = self.config.strict && peer.addrs.owns(&addr);
                    self.tell_wrong_id(&addr, id, found, is_refused);
                    // A refused peer leaves the address to the known peer.
                    if !is_refused {
                        self.handle_wrong_peer_at(now, &addr, id, found);
                    }
                } else if was_met {
                    // A process with this node's own key answered: the peer may come back to that address.
                    peer.addrs.demote(&addr);
                } else {
                    if !addr.is_name() {
                        peer.addrs.remove(&addr);
                    }
                    let is_foreign = peer.addrs.is_foreign(&addr);
                    self.hint(now, found, Told { addr: addr.clone(), is_foreign });
                }
                self.strangers_lose(now, &addr, found, |_| true);
            }
            DialError::OwnAddress => detail = Some("this node itself answered".to_owned()),
            DialError::NothingNew | DialError::Cancelled => {}
        }
        let retry_in = self.after_failed_dial(now, id);
        if let Some(detail) = detail {
            self.report(Report::DialFailed { peer: Some(id), addr, detail, retry_in });
        }
    }

    /// A dial to another peer reached an unknown peer that this node has heard of. This address is better than
    /// any rumour, so the mesh dials the peer there next, before peers that may not exist.
    fn hint(&mut self, now: Instant, found: PeerId, told: Told) {
        let is_rumour = |peer: &&mut Peer| matches!(peer.state, State::Rumoured { .. });
        if let Some(peer) = self.peers.get_mut(&found).filter(is_rumour) {
            let lane = Lane::of(&told.addr);
            peer.addrs.hint(told);
            let target = Target::Peer(found);
            if self.dialing.queue_first(target, lane) {
                self.timers.cancel(Timer::Dial(target));
            }
        }
        self.start_queued_dials(now);
    }

    /// Dials again, or forgets a peer that was only a rumour. Returns the wait until the next dial.
    fn after_failed_dial(&mut self, now: Instant, id: PeerId) -> Option<Duration> {
        let rounds = self.rumour_rounds(now, &id);
        let peer = self.peers.get_mut(&id)?;
        if let State::Rumoured { failures, .. } = &mut peer.state {
            if peer.addrs.round_complete() {
                *failures += 1;
            }
            let is_sought = self.relay.is_first_search(&id) && !peer.reached_by.is_empty();
            if *failures >= rounds && is_sought && !peer.addrs.is_empty() {
                // A carrier may lead to it. Further dials would cost its teller.
                return None;
            }
            if *failures >= rounds || peer.addrs.is_empty() {
                let reached_by = std::mem::take(&mut peer.reached_by);
                self.forget(id);
                self.ask_again_soon(now, &reached_by);
                return None;
            }
        }
        if let State::Left(gone) = &mut peer.state
            && peer.addrs.round_complete()
        {
            // Perhaps the list was wrong. A later list may name the peer again.
            gone.rounds_left = gone.rounds_left.saturating_sub(1);
        }
        if peer.wants_dial() { self.redial_later(now, id) } else { None }
    }

    /// A known peer's address belongs to another peer now. The mesh dials that peer there.
    fn handle_wrong_peer_at(&mut self, now: Instant, addr: &DialAddr, expected: PeerId, found: PeerId) {
        let mut told = Told::from(addr.clone());
        if let Some(peer) = self.peers.get_mut(&expected) {
            told.is_foreign = peer.addrs.is_foreign(addr);
            peer.addrs.demote(addr);
        }
        let is_free = !self.config.strict || self.peers.owner_of(addr, &found).is_none();
        if is_free && !self.is_connected(&found) && self.hear_of(now, found, [told]) {
            let soon = self.random_between(millis(100), millis(300));
            self.timers.set_no_later(Timer::Dial(Target::Peer(found)), now + soon);
        }
    }

    /// Another peer is at this address now. The strangers that are known there lose it, if `loses` says so of their
    /// addresses: one dial finds out who is there, for all of them. Peers of higher standing keep it as one to try at
    /// their pace, and so does, in a strict mesh, the peer that owns it.
    pub(super) fn strangers_lose(
        &mut self,
        now: Instant,
        addr: &DialAddr,
        owner: PeerId,
        loses: impl Fn(&Addrs) -> bool,
    ) {
        if addr.is_name() || owner == self.id {
            return;
        }
        let is_elsewhere = |(id, peer): &(&PeerId, &Peer)| {
            let is_protected = self.config.strict && peer.addrs.owns(addr);
            **id != owner
                && peer.connected().is_none()
                && peer.addrs.contains(addr)
                && !is_protected
                && loses(&peer.addrs)
                && self.standing(now, id, peer) <= Standing::Stranger
        };
        let losers: Vec<PeerId> = self.peers.iter().filter(is_elsewhere).map(|(id, _)| *id).collect();
        for id in losers {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.addrs.remove(addr);
                if peer.addrs.is_empty() {
                    for dial in self.dialing.cancel_to(&id) {
                        self.close(dial, ByeReason::Duplicate);
                    }
                    self.give_up(id);
                }
            }
        }
    }

    /// A stranger is not dialled any more: it counts as left, and comes again if it lives.
    fn give_up(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match peer.state {
            State::Rumoured { .. } => self.forget(id),
            State::Dead(gone) => {
                peer.state = State::Left(gone);
                self.end_inquiry(&id);
                self.timers.cancel(Timer::Dial(Target::Peer(id)));
                self.output(Output::Persist);
            }
            State::Provisional { .. } | State::Up(_) | State::Unstable { .. } | State::Left(_) => {}
        }
    }

    /// Notes an unproven peer or address. Returns whether the peer may be dialled.
    pub(super) fn hear_of(
        &mut self,
        now: Instant,
        id: PeerId,
        addrs: impl IntoIterator<Item = Told>,
    ) -> bool {
        if !self.peers.has_room_for(&id) || self.config.access.check(&id).is_err() {
            return false;
        }
        let peer = self.peers.get_or_insert(now, id);
        addrs.into_iter().for_each(|told| peer.addrs.rumour(told));
        if peer.addrs.is_empty() && peer.met.is_none() {
            self.peers.remove(&id);
            return false;
        }
        peer.wants_dial()
    }

    fn is_known(&self, target: Target) -> bool {
        match target {
            Target::Bootstrap(_) => true,
            Target::Peer(id) => self.peers.get(&id).is_some_and(|peer| peer.met.is_some()),
            Target::Beacon(_) => false,
        }
    }

    fn is_wanted(&mut self, now: Instant, target: Target) -> bool {
        match target {
            Target::Beacon(addr) => self.wants_beacon_dial(now, addr),
            Target::Peer(id) => {
                let is_admitted = self.config.access.check(&id).is_ok();
                is_admitted && self.peers.get(&id).is_some_and(Peer::wants_dial)
            }
            Target::Bootstrap(index) => {
                let bootstrap = self.bootstraps.get(index);
                // A strict node accepts no other peer at a name where it has met one that goes by this name.
                let is_owned = self.config.strict && self.peers.owner_of(&bootstrap.addr, &self.id).is_some();
                if bootstrap.is_set() && !is_owned {
                    return true;
                }
                let is_own = bootstrap.is_self && !bootstrap.is_name();
                if is_own || bootstrap.peer.is_some_and(|peer| self.is_connected(&peer)) {
                    return false;
                }
                // The peer may be connected through another address already. A pinned peer counts at any
                // address; a peer without a pin counts only at this one.
                let is_wanted_peer = |(id, peer): &(&PeerId, &Peer)| {
                    let is_it = match bootstrap.pin {
                        Some(pin) => pin.matches(id),
                        // A strict node accepts no other peer at an address where it has met one.
                        None if self.config.strict => peer.addrs.owns(&bootstrap.addr),
                        None => peer.addrs.is_proven(&bootstrap.addr),
                    };
                    is_it && peer.connected().is_some()
                };
                let there = self.peers.iter().find(is_wanted_peer).map(|(id, _)| *id);
                if let Some(id) = there {
                    self.bootstrap_reached(now, Some(target), id);
                }
                there.is_none()
            }
        }
    }

    /// The address to dial, and the peer that must answer.
    fn address_of(&mut self, now: Instant, target: Target) -> Option<(DialAddr, Expected)> {
        match target {
            Target::Bootstrap(index) => {
                let bootstrap = self.bootstraps.get(index);
                let owner = || self.peers.owner_of(&bootstrap.addr, &self.id).filter(|_| self.config.strict);
                let expected = match bootstrap.pin {
                    Some(pin) => Expected::Pinned(pin),
                    None => owner().map_or(Expected::AnyPeer, Expected::Peer),
                };
                let refusal = expected.id().and_then(|id| self.config.access.check(&id).err());
                let bootstrap = self.bootstraps.get_mut(index);
                let addr = bootstrap.addr.clone();
                if let Some(why) = refusal {
                    self.timers.set(Timer::Dial(target), now + REFUSED_WAIT);
                    if !std::mem::replace(&mut bootstrap.reported, true) {
                        let detail = format!("peer {expected} is refused: {why}");
                        self.report(Report::BootstrapUnreachable { addr, detail });
                    }
                    return None;
                }
                Some((addr, expected))
            }
            Target::Beacon(addr) => {
                let addr = DialAddr::from(addr);
                let owner = self.peers.owner_of(&addr, &self.id).filter(|_| self.config.strict);
                Some((addr, owner.map_or(Expected::AnyPeer, Expected::Peer)))
            }
            Target::Peer(id) => {
                let addr = self.peers.get_mut(&id)?.addrs.next_to_dial()?;
                Some((addr, Expected::Peer(id)))
            }
        }
    }
}
