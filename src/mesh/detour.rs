//! Another path to a connected peer that has fallen silent, before it is lost.
//!
//! At half of the timeout this node asks some members whether they hear the peer. One that has heard it after this node
//! should have is asked for a circuit. No member has heard a dead peer so late, so a dead peer costs no circuit. If the
//! timeout ends before the circuit has led to the peer, this node waits up to a second longer.
//!
//! A path that only loses packets falls silent again and again. A pair that has left its direct path twice in ten minutes
//! keeps to its circuit for 30 s before it dials again, then for a minute, and so on up to eight minutes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::circuit_table::{Progress, Relay, Search, Step};
use super::dial_queue::Target;
use super::io::{Output, SessionId};
use super::list_exchange::ExchangeReason;
use super::machine::{Mesh, millis};
use super::peer::{Connected, Link};
use super::timer::Timer;
use crate::trust::peer_id::PeerId;
use crate::wire::{ByeReason, Hearing, Message, SIGHTINGS_MAX, Sighting};

/// Members asked at once about one silent peer, the nearest first.
const WITNESSES_AT_ONCE: usize = 4;
/// Members asked about one silence, in all.
const WITNESSES_MAX: usize = 16;
/// Carriers asked about one silence. More would not answer before the timeout, and many peers may be silent at once.
const CARRIERS_MAX: u32 = 4;
/// Time beyond the timeout of a silent peer for a circuit that a member was asked for, or that is open already.
pub const DETOUR_BEYOND_TIMEOUT: Duration = Duration::from_secs(1);
/// Wait before the first question: peers that fall silent together go into one.
const QUESTION_DELAY: Duration = millis(20);

impl Mesh {
    /// A connected peer is silent for so long that it is suspected: another path is sought.
    pub(super) fn seek_detour(&mut self, now: Instant, id: PeerId) {
        if self.relay.is_sought(&id) || !self.wants_detour(now, &id) {
            return;
        }
        let carrier = self.via(&id);
        let search = Search { tried: carrier.into_iter().collect(), ..Search::default() };
        self.relay.searches.insert(id, search);
        // The node with the larger id waits longer, so that not both open a circuit.
        let later = if self.leads(&id) { Duration::ZERO } else { self.interval() / 8 };
        self.timers.set(Timer::Path(id), now + QUESTION_DELAY + later);
        if carrier.is_some() {
            // A dial under way may have begun while the direct path was cut.
            self.dialing.doubt(&id);
            self.timers.set_no_later(Timer::Dial(Target::Peer(id)), now);
        }
    }

    /// Whether this node has a session with the peer that is silent.
    pub(super) fn wants_detour(&self, now: Instant, id: &PeerId) -> bool {
        let connected = self.peers.connected(id);
        connected.is_some_and(|connected| matches!(connected.link, Link::Open { .. }))
            && self.wants_path(now, id)
    }

    /// Asks members whether they hear this peer, and others that are silent as well.
    pub(super) fn ask_who_hears(&mut self, now: Instant, id: PeerId) {
        let soon = now + QUESTION_DELAY;
        let is_due = |(peer, search): &(&PeerId, &Search)| {
            let at = self.timers.deadline(Timer::Path(**peer));
            **peer == id
                || matches!(search.step, Step::Waiting)
                    && at.is_some_and(|at| at <= soon)
                    && self.wants_detour(now, peer)
        };
        let silent: Vec<PeerId> = self.relay.searches.iter().filter(is_due).map(|(peer, _)| *peer).collect();
        let nearest = self.nearest_carriers(now);
        let mut questions: BTreeMap<PeerId, Vec<PeerId>> = BTreeMap::new();
        for peer in silent {
            let patience = self.peers.connected(&peer).map(|connected| self.patience(connected));
            self.timers.set(Timer::Path(peer), now + patience.unwrap_or(self.config.timeout) / 12);
            for witness in self.relay.witnesses_of(&peer, &nearest) {
                questions.entry(witness).or_default().push(peer);
            }
        }
        for (witness, about) in questions {
            for peers in about.chunks(SIGHTINGS_MAX) {
                let lost = peers.iter().map(|peer| self.sighting(now, *peer)).collect();
                self.send(&witness, Message::WitnessRequest { lost });
            }
        }
    }

    /// The members that may carry a circuit now, the nearest first.
    fn nearest_carriers(&self, now: Instant) -> Vec<PeerId> {
        let carriers = self.peers.iter_joined().filter_map(|(id, connected)| {
            self.session_of_carrier(now, id)?;
            Some((connected.rtt.last.unwrap_or(Duration::MAX), *id))
        });
        let mut carriers: Vec<(Duration, PeerId)> = carriers.collect();
        carriers.sort_unstable();
        carriers.into_iter().map(|(_, id)| id).collect()
    }

    /// The direct session with a member that is heard.
    fn session_of_carrier(&self, now: Instant, id: &PeerId) -> Option<SessionId> {
        let connected = self.peers.connected(id).filter(|connected| !self.is_suspect(now, connected))?;
        connected.active().filter(|session| !session.is_carried())
    }

    /// A member tells what it knows of a peer; the message was `way` under way. If the peer is silent here, and the member
    /// has heard it since, the member is asked for a circuit.
    pub(super) fn path_witnessed(&mut self, now: Instant, from: PeerId, sighting: &Sighting, way: Duration) {
        let Some(search) = self.relay.searches.get_mut(&sighting.peer) else {
            return;
        };
        let Some(may_hear) = search.witnesses.get_mut(&from) else {
            return;
        };
        *may_hear = sighting.hearing == Hearing::Hears;
        let is_waiting = matches!(search.step, Step::Waiting) && search.circuits < CARRIERS_MAX;
        if !*may_hear || !is_waiting || !self.wants_detour(now, &sighting.peer) {
            return;
        }
        let heard = now.checked_sub(Duration::from_millis(sighting.ago_ms.into()) + way);
        let should_have_heard = self.peers.connected(&sighting.peer).map(|connected| {
            let interval = self.longest_interval(connected);
            connected.heard + interval + interval / 8
        });
        if heard >= should_have_heard
            && let Some(session) = self.session_of_carrier(now, &from)
        {
            self.ask_carrier(now, sighting.peer, from, session);
        }
    }

    /// The silence of a connected peer reached its timeout at `dead_at`. The peer is lost, unless a circuit to it is waited
    /// for.
    pub(super) fn silence_is_over(&mut self, now: Instant, id: PeerId, dead_at: Instant) {
        let Some(by) = self.wait_for_circuit(now, &id, dead_at) else {
            return self.silent(now, id);
        };
        self.timers.set(Timer::Silence(id), by.min(self.suspected_anew(now, &id)));
    }

    /// Whether a peer that was silent for its timeout at `dead_at` is not lost yet: a circuit may still lead to it. Returns
    /// the end of that wait.
    pub(super) fn wait_for_circuit(
        &mut self,
        now: Instant,
        id: &PeerId,
        dead_at: Instant,
    ) -> Option<Instant> {
        let by = dead_at + DETOUR_BEYOND_TIMEOUT;
        if now >= by || !self.awaits_circuit(id) {
            return None;
        }
        if matches!(self.relay.searches.get(id), Some(Search { step: Step::Entering { .. }, .. })) {
            // Another carrier could not lead to the peer in time any more.
            self.timers.set(Timer::Path(*id), by);
        }
        Some(by)
    }

    /// Whether a member that has heard a silent peer was asked for a circuit to it, or a session inside one is about to come
    /// up: both take several round trips. A circuit from before the silence says nothing about that.
    fn awaits_circuit(&self, id: &PeerId) -> bool {
        let Some(connected) = self.peers.connected(id) else {
            return false;
        };
        // After the last session has ended, any member is asked: it may not hear the peer, either.
        let ended = match connected.link {
            Link::Interrupted { since, .. } => Some(since),
            Link::Open { .. } => None,
        };
        let awaits_answer = self.relay.searches.get(id).is_some_and(|search| {
            matches!(search.step, Step::Asked { since, .. }
                if since > connected.heard && ended.is_none_or(|ended| since < ended))
        });
        // Either end may have opened it.
        let awaits_handshake = || {
            self.relay.inside.values().any(|inside| {
                inside.peer == *id && inside.progress == Progress::Handshake && inside.since > connected.heard
            })
        };
        awaits_answer || awaits_handshake()
    }

    /// The longest time between two messages of a living peer.
    pub(super) fn longest_interval(&self, connected: &Connected) -> Duration {
        connected.told.at(connected.heard).max(millis(connected.interval_ms.into()))
    }

    /// The wait for the next step of a search after a carrier was asked. While a connected peer is silent, there is time
    /// for several carriers before its timeout: handshakes through a circuit take some round trips.
    pub(super) fn step_wait(
        &self,
        now: Instant,
        id: &PeerId,
        carrier: &PeerId,
        longest: Duration,
    ) -> Duration {
        let connected = self.peers.connected(id).filter(|_| self.wants_detour(now, id));
        let Some(connected) = connected else {
            return longest;
        };
        let rtt = self.peers.connected(carrier).and_then(|carrier| carrier.rtt.last).unwrap_or_default();
        (self.patience(connected) / 6 + rtt * 8).min(longest)
    }

    /// The direct path to a connected peer is gone, and a circuit leads to it.
    pub(super) fn direct_path_lost(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.connected().is_some_and(|connected| !connected.has_direct())
        {
            peer.path_losses.note(now);
            peer.direct_from = peer.path_losses.path_hold(now).map(|hold| now + hold);
        }
    }

    /// The time until which a connected peer is not dialled, because its direct path keeps falling silent and a circuit
    /// leads to it.
    pub(super) fn keeps_to_circuit_until(&self, now: Instant, id: &PeerId) -> Option<Instant> {
        let peer = self.peers.get(id)?;
        let is_well = peer.connected().is_some_and(|connected| !self.is_suspect(now, connected));
        peer.direct_from.filter(|at| is_well && now < *at)
    }

    /// The peer has come through a carrier. If no member has told this node an address of it, the carrier's list does.
    pub(super) fn ask_where_it_is(&mut self, now: Instant, id: &PeerId) {
        if self.peers.get(id).is_some_and(|peer| peer.addrs.is_empty())
            && let Some(carrier) = self.via(id)
        {
            self.ask(now, carrier, ExchangeReason::Join);
        }
    }

    /// Another node needs a circuit over this peer, which only a direct session can carry. So the peer is dialled soon,
    /// although its direct path keeps falling silent.
    pub(super) fn end_hold(&mut self, now: Instant, id: PeerId) {
        let soon = now + self.random_between(millis(500), millis(1000));
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.direct_from.take().is_some_and(|at| soon < at)
            && peer.wants_dial()
        {
            self.timers.set_no_later(Timer::Dial(Target::Peer(id)), soon);
        }
    }

    /// Asks the sessions on which this node does not send to a peer when they last heard it. The other node has chosen one,
    /// and its goodbyes on the others may be lost with their paths.
    pub(super) fn check_other_sessions(&mut self, now: Instant, id: PeerId) {
        let Some(connected) = self.peers.connected(&id) else {
            return;
        };
        let since = now.checked_sub(self.patience(connected)).unwrap_or(now);
        let others: Vec<SessionId> =
            connected.sessions().split_last().map_or(&[][..], |(_, rest)| rest).to_vec();
        for session in others {
            self.output(Output::DrainUnread { session, since });
        }
    }

    /// A session on which this node does not send says when it last heard its peer. It is given up after the timeout.
    pub(super) fn other_session_drained(
        &mut self,
        now: Instant,
        id: PeerId,
        session: SessionId,
        heard: Instant,
    ) {
        let Some(connected) = self.peers.connected(&id) else {
            return;
        };
        let is_silent = now >= heard + self.patience(connected) + self.measures.stalls.between(heard, now);
        if is_silent && connected.sessions().contains(&session) {
            if let Some(connected) = self.peers.connected_mut(&id) {
                connected.give_up_session(session);
            }
            self.close(session, ByeReason::Silent);
            if !session.is_carried() {
                self.direct_path_lost(now, id);
                self.dial_beside_circuit(now, id);
            }
        }
    }
}

impl Relay {
    /// The members to ask whether they hear this peer: those that may have heard it since they were asked, and others of
    /// the `nearest`.
    fn witnesses_of(&mut self, peer: &PeerId, nearest: &[PeerId]) -> Vec<PeerId> {
        let Some(search) = self.searches.get_mut(peer).filter(|search| search.circuits < CARRIERS_MAX) else {
            return Vec::new();
        };
        let candidates = || nearest.iter().filter(|id| *id != peer && !search.tried.contains(id));
        let again = candidates().filter(|id| search.witnesses.get(id) == Some(&true));
        let room = WITNESSES_MAX.saturating_sub(search.witnesses.len());
        let new = candidates().filter(|id| !search.witnesses.contains_key(id)).take(room);
        let chosen: Vec<PeerId> = again.chain(new).take(WITNESSES_AT_ONCE).copied().collect();
        search.witnesses.extend(chosen.iter().map(|id| (*id, true)));
        chosen
    }
}
