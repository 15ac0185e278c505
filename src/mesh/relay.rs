//! Circuits: how this node reaches a peer through another one, and what it carries for others.
//!
//! A node that cannot dial a peer which members list as connected asks one of them, the carrier, to open a circuit. Inside
//! runs an ordinary session. The carrier passes bytes between its two sessions and reads none of them. A circuit has one
//! carrier: nothing is carried inside a circuit.
//!
//! Of the sessions with one peer a direct one comes first. The node that opened a circuit decides between that and a
//! direct session; the other one keeps both until it hears which. Dials go on, and a direct session that comes up
//! replaces the circuit.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::accounts::Account;
use super::circuit_table::{Carried, Inside, Progress, Search, Step};
use super::dial_queue::Target;
use super::io::{CircuitAt, Output, SessionId, SessionUp};
use super::machine::{Mesh, millis};
use super::peer::{Connected, State};
use super::session_table::Session;
use super::standing::Standing;
use super::timer::Timer;
use crate::trust::peer_id::PeerId;
use crate::wire::{ByeReason, CircuitReason, Message};

/// Time after the first dial to a peer before a carrier is asked: a dial that succeeds takes less. The node with the
/// larger id waits longer, so that not both open a circuit.
const PATIENCE: Duration = Duration::from_millis(1500);
const PATIENCE_OF_LARGER_ID: Duration = Duration::from_millis(2000);
/// While dials reach peers, others whose dials have not failed are waited for: the mesh forms.
const FORMING: Duration = Duration::from_secs(1);
/// Wait for a carrier's answer, which takes two round trips, before the next carrier is asked.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Wait for the session inside an open circuit before the next carrier is asked.
const ENTER_WAIT: Duration = Duration::from_secs(3);
/// Wait before all carriers are asked again.
const SEARCH_AGAIN: Duration = Duration::from_secs(2);
/// Handshakes under way in circuits that one carrier, and all carriers together, have offered: each holds a thread.
const OFFERS_PER_CARRIER_MAX: usize = 64;
const OFFERS_MAX: usize = 128;
/// Of these, handshakes in circuits that strangers have offered, all together: they leave places to known carriers.
const STRANGERS_OFFERS_MAX: usize = 64;
/// A leaving node says goodbye inside circuits first. It waits no longer for that.
const LEAVE_INSIDE: Duration = Duration::from_millis(200);

impl Mesh {
    /// A dial to a peer starts. If it does not lead to the peer soon, a carrier is asked.
    pub(super) fn seek_path_later(&mut self, now: Instant, id: PeerId) {
        if !self.is_connected(&id) && !self.relay.is_sought(&id) {
            let patience = if self.leads(&id) { PATIENCE } else { PATIENCE_OF_LARGER_ID };
            self.relay.searches.insert(id, Search::default());
            self.timers.set(Timer::Path(id), now + self.slowed(patience));
        }
    }

    /// The path to a connected peer is gone: carriers are asked at once, this one last.
    pub(super) fn seek_path(&mut self, now: Instant, id: PeerId, but: Option<PeerId>) {
        let search = self.relay.searches.entry(id).or_default();
        search.tried.extend(but);
        if matches!(search.step, Step::Waiting) {
            self.ask_next_carrier(now, id);
        }
    }

    /// It is time for the next step of a search.
    pub(super) fn path_due(&mut self, now: Instant, id: PeerId) {
        self.give_up_step(&id);
        if self.may_be_reached_soon(now, &id) {
            self.timers.set(Timer::Path(id), now + FORMING / 2);
        } else if self.wants_detour(now, &id) {
            self.ask_who_hears(now, id);
        } else if self.wants_path(now, &id) {
            self.ask_next_carrier(now, id);
        } else {
            self.relay.searches.remove(&id);
            self.forget_unreached(id);
        }
    }

    /// Forgets a rumour to which neither dials nor carriers lead.
    fn forget_unreached(&mut self, id: PeerId) {
        let target = Target::Peer(id);
        if let Some(peer) = self.peers.get(&id)
            && matches!(peer.state, State::Rumoured { .. })
            && !self.timers.is_set(Timer::Dial(target))
            && !self.dialing.is_ready_or_in_flight(target)
        {
            self.forget(id);
        }
    }

    /// A path to the peer is not sought any more.
    pub(super) fn end_search(&mut self, id: &PeerId) {
        if self.relay.is_sought(id) {
            self.give_up_step(id);
            self.relay.searches.remove(id);
            self.timers.cancel(Timer::Path(*id));
        }
    }

    /// The peer exists, or its carrier did not have to answer the question about it.
    pub(super) fn give_back_question(&mut self, id: &PeerId) {
        if let Some(search) = self.relay.searches.get_mut(id) {
            let payers = std::mem::take(&mut search.payers);
            self.accounts.give_back(&payers);
        }
    }

    /// A session inside a circuit has come up. Only the arbiter of the pair gives up a circuit of its own that crosses it:
    /// if both did, nothing would be left.
    pub(super) fn end_search_beside_circuit(&mut self, id: &PeerId) {
        let is_entering = |search: &Search| {
            matches!(search.step, Step::Entering { session }
            if self.relay.inside.get(&session).is_some_and(|inside| inside.progress == Progress::Handshake))
        };
        if self.leads(id) || !self.relay.searches.get(id).is_some_and(is_entering) {
            self.end_search(id);
        }
    }

    /// Gives up what a search waits for.
    fn give_up_step(&mut self, id: &PeerId) {
        let Some(search) = self.relay.searches.get_mut(id) else {
            return;
        };
        match std::mem::take(&mut search.step) {
            Step::Waiting => {}
            Step::Asked { at, carrier, .. } => {
                search.tried.insert(carrier);
                self.output(Output::CloseCircuit { at, reason: CircuitReason::Ended });
            }
            Step::Entering { session } => {
                if let Some(inside) = self.relay.inside.get_mut(&session)
                    && inside.progress == Progress::Handshake
                {
                    inside.progress = Progress::GivenUp;
                    search.tried.insert(inside.carrier);
                    self.output(Output::Close { session, reason: ByeReason::Duplicate });
                }
            }
        }
    }

    /// Whether this node needs a carrier to reach the peer.
    pub(super) fn wants_path(&self, now: Instant, id: &PeerId) -> bool {
        let Some(peer) = self.peers.get(id).filter(|_| self.config.access.check(id).is_ok() && !self.leaving)
        else {
            return false;
        };
        match &peer.state {
            State::Rumoured { .. } | State::Dead(_) => {
                !peer.reached_by.is_empty() && peer.refusal().is_none()
            }
            State::Left(gone) => gone.rounds_left > 0 && !peer.reached_by.is_empty(),
            State::Provisional { connected, .. }
            | State::Up(connected)
            | State::Unstable { connected, .. } => self.is_suspect(now, connected),
        }
    }

    /// Notes that a dial reached a peer.
    pub(super) fn note_reached(&mut self, now: Instant) {
        self.relay.last_reached = Some(now);
    }

    /// Whether dials reach peers, and those to this one have not failed.
    fn may_be_reached_soon(&self, now: Instant, id: &PeerId) -> bool {
        let is_forming = self.relay.last_reached.is_some_and(|at| now < at + self.slowed(FORMING));
        let peer = self.peers.get(id).filter(|peer| peer.connected().is_none());
        is_forming && peer.is_some_and(|peer| !peer.backoff.has_failed())
    }

    /// Asks the next carrier: the nearest one that has not been asked. A peer that is not connected may be reached by
    /// those that list it as connected; a connected one by any member.
    fn ask_next_carrier(&mut self, now: Instant, id: PeerId) {
        let (Some(peer), Some(search)) = (self.peers.get(&id), self.relay.searches.get(&id)) else {
            return;
        };
        let candidate = |carrier: &PeerId| {
            let connected = self.peers.connected(carrier)?;
            let session = connected.active().filter(|session| !session.is_carried())?;
            let can_pay = || {
                let payer = self.circuit_payer(now, &id, carrier);
                payer.is_none_or(|payer| self.accounts.left(now, &payer) > 0)
            };
            let is_candidate = *carrier != id
                && !search.tried.contains(carrier)
                && !self.relay.is_refusing(now, carrier)
                && can_pay();
            let rtt = connected.rtt.last.unwrap_or(Duration::MAX);
            is_candidate.then_some((rtt, *carrier, session))
        };
        let nearest = if peer.connected().is_some() {
            self.peers.iter_connected().filter_map(|(carrier, _)| candidate(carrier)).min()
        } else {
            // Only few list it. A list of thousands of invented peers would make this node go through all peers for each.
            peer.reached_by.iter().filter_map(candidate).min()
        };
        let Some((_, carrier, session)) = nearest else {
            let reporters = peer.reached_by.clone();
            let again = self.random_between(SEARCH_AGAIN * 3 / 4, SEARCH_AGAIN);
            self.timers.set(Timer::Path(id), now + again);
            if let Some(search) = self.relay.searches.get_mut(&id) {
                *search = Search { is_repeated: true, ..Search::default() };
            }
            reporters.into_iter().for_each(|reporter| self.end_hold(now, reporter));
            return self.forget_unreached(id);
        };
        self.ask_carrier(now, id, carrier, session);
    }

    /// Asks a member to carry a circuit to the peer.
    pub(super) fn ask_carrier(&mut self, now: Instant, id: PeerId, carrier: PeerId, session: SessionId) {
        let payers: Vec<Account> = self.circuit_payer(now, &id, &carrier).into_iter().collect();
        if let Err(wait) = self.accounts.pay(now, &payers) {
            return self.timers.set(Timer::Path(id), now + wait);
        }
        if let Err(wait) = self.relay.opens.take(now) {
            self.accounts.give_back(&payers);
            return self.timers.set(Timer::Path(id), now + wait);
        }
        let at = CircuitAt { session, circuit: self.relay.name(&self.id, &carrier) };
        if let Some(search) = self.relay.searches.get_mut(&id) {
            search.step = Step::Asked { at, carrier, since: now };
            search.payers = payers;
            search.circuits += 1;
        }
        let wait = self.step_wait(now, &id, &carrier, ANSWER_WAIT);
        self.timers.set(Timer::Path(id), now + wait);
        let message = Message::CircuitOpen { circuit: at.circuit, target: id };
        self.output(Output::Send { session, message });
    }

    /// The account that pays for the question whether this member carries a circuit to a peer that it lists. Nothing pays
    /// if the peer has been met.
    fn circuit_payer(&self, now: Instant, id: &PeerId, carrier: &PeerId) -> Option<Account> {
        let is_rumour = self.peers.get(id).is_some_and(|peer| peer.met.is_none());
        let (remote, _) = self.peers.get(carrier).and_then(|carrier| carrier.remote).filter(|_| is_rumour)?;
        Some(Account::Circuits(Box::new(self.account_of(now, *carrier, remote))))
    }

    /// A peer asks this node to carry a circuit.
    pub(super) fn circuit_asked(&mut self, now: Instant, from: PeerId, at: CircuitAt, target: PeerId) {
        match self.check_carrying(now, from, at, target) {
            Ok((session, standing)) => {
                // Both ends may need it to do without this node.
                self.tell_seen_address(&from, at.session);
                self.tell_seen_address(&target, session);
                let circuit = self.relay.name(&self.id, &target);
                let next = CircuitAt { session, circuit };
                let end = Carried { other: next, opener: from, standing, is_offered: false };
                self.relay.carried.insert(at, end);
                self.relay.carried.insert(next, Carried { other: at, is_offered: true, ..end });
                let acquainted_at = [from, target].map(|id| self.acquainted_at(now, &id));
                self.output(Output::Carry { circuits: [at, next], acquainted_at });
                self.output(Output::Send { session, message: Message::CircuitOffer { circuit, from } });
            }
            Err(reason) => {
                self.relay.forget_carried(at);
                if reason == CircuitReason::NotConnected {
                    self.end_hold(now, target);
                }
                self.output(Output::CloseCircuit { at, reason });
            }
        }
    }

    /// Whether this node carries a circuit. Returns its session with the target, and the standing of the asking peer.
    fn check_carrying(
        &mut self,
        now: Instant,
        from: PeerId,
        at: CircuitAt,
        target: PeerId,
    ) -> Result<(SessionId, Standing), CircuitReason> {
        let is_named_by_peer = at.circuit & 1 == u64::from(from > self.id);
        let is_known = self.relay.carried.contains_key(&at);
        if !self.config.relay || at.session.is_carried() || self.leaving {
            return Err(CircuitReason::NotCarrying);
        }
        if is_known || !is_named_by_peer {
            return Err(CircuitReason::Limit);
        }
        let peer = self.peers.get(&target).filter(|peer| peer.is_joined() && target != from);
        let connected = peer.and_then(|peer| peer.connected()).ok_or(CircuitReason::NotConnected)?;
        let session = connected.active().filter(|session| !session.is_carried());
        let session = session.filter(|_| !self.is_suspect(now, connected));
        let session = session.ok_or(CircuitReason::NotConnected)?;
        // Its question has made it a member, if the lists admit it.
        let standing = self.standing_of(now, &from).unwrap_or(Standing::Stranger);
        if self.relay.has_room_for(&from, standing) && self.admits_circuit(now, &from) {
            Ok((session, standing))
        } else {
            Err(CircuitReason::Limit)
        }
    }

    /// Whether a peer asks this node for circuits no faster than it may, whatever became of the earlier ones.
    fn admits_circuit(&mut self, now: Instant, from: &PeerId) -> bool {
        let is_stranger = self.is_stranger(now, from);
        let peer = self.peers.get_mut(from);
        peer.is_some_and(|peer| self.relay.admits(now, &mut peer.circuits, is_stranger))
    }

    /// A carrier offers a circuit from another peer.
    pub(super) fn circuit_offered(&mut self, now: Instant, carrier: PeerId, at: CircuitAt, from: PeerId) {
        let pending = || self.relay.inside.values().filter(|inside| inside.progress != Progress::Up);
        let of_carrier = pending().filter(|inside| inside.carrier == carrier).count();
        let of_strangers = || pending().filter(|inside| self.is_stranger(now, &inside.carrier)).count();
        let is_taken = self.relay.inside.values().any(|inside| inside.at == at);
        let is_named_by_peer = at.circuit & 1 == u64::from(carrier > self.id);
        let remote = self.sessions.get(at.session).map(|session| session.remote);
        let refusal = if at.session.is_carried() || self.leaving || from == self.id || from == carrier {
            Some(CircuitReason::NotConnected)
        } else if self.config.access.check(&from).is_err() {
            Some(CircuitReason::NotAdmitted)
        } else if is_taken
            || !is_named_by_peer
            || of_carrier >= OFFERS_PER_CARRIER_MAX
            || pending().count() >= OFFERS_MAX
            || self.is_stranger(now, &carrier) && of_strangers() >= STRANGERS_OFFERS_MAX
            || !self.admits_circuit(now, &carrier)
        {
            Some(CircuitReason::Limit)
        } else {
            None
        };
        let (None, Some(remote)) = (refusal, remote) else {
            let reason = refusal.unwrap_or(CircuitReason::Gone);
            return self.output(Output::CloseCircuit { at, reason });
        };
        let inside = Inside { at, carrier, peer: from, since: now, progress: Progress::Handshake };
        let session = self.relay.enter(inside, false);
        let acquainted_at = self.acquainted_at(now, &carrier);
        self.output(Output::EnterCircuit { session, at, peer: from, remote, acquainted_at });
        let message = Message::CircuitAccept { circuit: at.circuit };
        self.output(Output::Send { session: at.session, message });
    }

    /// A circuit that this node asked for, or offered for another peer, is accepted.
    pub(super) fn circuit_accepted(&mut self, now: Instant, at: CircuitAt) {
        if let Some(&Carried { other, is_offered, .. }) = self.relay.carried.get(&at) {
            let CircuitAt { session, circuit } = other;
            if self.sessions.get(session).is_none_or(|session| session.closing) {
                // This node has said goodbye to the opener on that session meanwhile.
                self.relay.forget_carried(at);
                self.output(Output::CloseCircuit { at, reason: CircuitReason::Gone });
            } else if is_offered {
                self.output(Output::Send { session, message: Message::CircuitAccept { circuit } });
            }
            return;
        }
        let Some((peer, carrier, since)) = self.asked_at(at) else {
            return;
        };
        let Some(Session { remote, .. }) = self.sessions.get(at.session) else {
            return;
        };
        let inside = Inside { at, carrier, peer, since, progress: Progress::Handshake };
        let session = self.relay.enter(inside, true);
        if let Some(search) = self.relay.searches.get_mut(&peer) {
            search.step = Step::Entering { session };
        }
        let wait = self.step_wait(now, &peer, &carrier, ENTER_WAIT);
        self.timers.set(Timer::Path(peer), now + wait);
        let acquainted_at = self.acquainted_at(now, &carrier);
        self.output(Output::EnterCircuit { session, at, peer, remote, acquainted_at });
    }

    /// The search that waits for the answer about this circuit: its peer, the carrier, and the time of the question.
    fn asked_at(&self, at: CircuitAt) -> Option<(PeerId, PeerId, Instant)> {
        self.relay.searches.iter().find_map(|(peer, search)| match search.step {
            Step::Asked { at: asked, carrier, since } if asked == at => Some((*peer, carrier, since)),
            _ => None,
        })
    }

    /// The peer has closed a circuit, or refuses to open it. The session has passed that on.
    pub(super) fn circuit_closed(&mut self, now: Instant, at: CircuitAt, reason: CircuitReason) {
        self.relay.forget_carried(at);
        if let Some((peer, carrier, _)) = self.asked_at(at) {
            if matches!(reason, CircuitReason::NotCarrying | CircuitReason::Limit) {
                // That says nothing about the peer, and the answer for another one would be the same.
                self.relay.note_refusal(now, carrier);
                self.give_back_question(&peer);
            }
            self.try_another(now, peer, carrier);
        }
    }

    /// A carrier did not lead to the peer.
    fn try_another(&mut self, now: Instant, peer: PeerId, carrier: PeerId) {
        if let Some(search) = self.relay.searches.get_mut(&peer) {
            search.step = Step::Waiting;
            search.tried.insert(carrier);
            self.path_due(now, peer);
            if !self.relay.is_sought(&peer) {
                self.timers.cancel(Timer::Path(peer));
            }
        }
    }

    /// No session came up inside a circuit.
    pub(super) fn circuit_failed(&mut self, now: Instant, session: SessionId) {
        let Some(Inside { at, carrier, .. }) = self.relay.inside.remove(&session) else {
            return;
        };
        self.output(Output::CloseCircuit { at, reason: CircuitReason::Ended });
        let entering = |search: &Search| matches!(search.step, Step::Entering { session: s } if s == session);
        let peer = self.relay.searches.iter().find(|(_, search)| entering(search)).map(|(peer, _)| *peer);
        if let Some(peer) = peer {
            self.try_another(now, peer, carrier);
        }
    }

    /// A session has come up. Returns whether this node still wants it: a circuit may have been given up meanwhile.
    pub(super) fn circuit_entered(&mut self, up: &SessionUp) -> bool {
        let Some(inside) = self.relay.inside.get_mut(&up.session) else {
            return !up.session.is_carried();
        };
        let is_wanted = inside.progress == Progress::Handshake;
        if is_wanted {
            inside.progress = Progress::Up;
        }
        is_wanted
    }

    /// Whether a circuit that this node opened is not needed: the pair uses a direct session, on which the peer has been heard
    /// since the carrier was asked. If the peer has opened a circuit meanwhile, it may give up that one for this one.
    pub(super) fn is_circuit_needless(&self, up: &SessionUp) -> bool {
        let Some(inside) = self.relay.inside.get(&up.session) else {
            return false;
        };
        let uses_direct = |connected: &Connected| {
            connected.active().is_some_and(|session| !session.is_carried()) && connected.heard > inside.since
        };
        up.session.is_dialled() && self.peers.connected(&up.peer).is_some_and(uses_direct)
    }

    /// A session has ended: what it carried is gone.
    pub(super) fn circuits_ended(&mut self, now: Instant, session: SessionId) {
        self.relay.inside.remove(&session);
        let ends = self.relay.carried.keys().filter(|at| at.session == session);
        for at in ends.copied().collect::<Vec<_>>() {
            self.relay.forget_carried(at);
        }
        if self.leaving {
            return self.leave_carriers();
        }
        let asked = self.relay.searches.iter().filter_map(|(peer, search)| match search.step {
            Step::Asked { at, carrier, .. } if at.session == session => Some((*peer, carrier)),
            _ => None,
        });
        for (peer, carrier) in asked.collect::<Vec<_>>() {
            self.try_another(now, peer, carrier);
        }
    }

    /// The carrier of the session on which this node sends to the peer; `None` if that is a direct one.
    pub(super) fn via(&self, id: &PeerId) -> Option<PeerId> {
        let session = self.peers.connected(id)?.active()?;
        self.relay.carrier(session)
    }

    /// The sessions that a leaving node closes at once: not those that carry its goodbyes on others.
    pub(super) fn leave_inside_first(&mut self, now: Instant) -> BTreeSet<SessionId> {
        let searches: Vec<PeerId> = self.relay.searches.keys().copied().collect();
        searches.iter().for_each(|peer| self.end_search(peer));
        let carriers: BTreeSet<SessionId> =
            self.relay.inside.values().map(|inside| inside.at.session).collect();
        if !carriers.is_empty() {
            self.timers.set(Timer::LeaveCarriers, now + LEAVE_INSIDE);
        }
        self.sessions
            .open()
            .map(|(session, _)| session)
            .filter(|session| !carriers.contains(session))
            .collect()
    }

    /// All goodbyes inside circuits are said, or take too long: the carriers get theirs.
    pub(super) fn leave_carriers(&mut self) {
        if self.relay.inside.is_empty() || !self.timers.is_set(Timer::LeaveCarriers) {
            self.timers.cancel(Timer::LeaveCarriers);
            let open: Vec<SessionId> = self.sessions.open().map(|(session, _)| session).collect();
            for session in open {
                self.close(session, ByeReason::Leaving);
            }
        }
    }

    /// Dials go on while a peer is reached through another one.
    pub(super) fn dial_beside_circuit(&mut self, now: Instant, id: PeerId) {
        let wants_dial =
            self.peers.get(&id).is_some_and(|peer| peer.connected().is_some() && peer.wants_dial());
        let target = Target::Peer(id);
        if wants_dial
            && !self.timers.is_set(Timer::Dial(target))
            && !self.dialing.is_ready_or_in_flight(target)
        {
            let wait = self.random_between(millis(500), millis(1000));
            self.timers.set(Timer::Dial(target), now + wait);
        }
    }
}
