//! Sessions: their start, their end, and the goodbyes. A peer has one active session; the smaller id of each pair is
//! its arbiter.

use std::time::{Duration, Instant};

use super::address_scope;
use super::dial_queue::{REFUSED_WAIT, Target};
use super::io::{DisconnectReason, Output, Report, SessionId, SessionUp};
use super::list_exchange::ExchangeReason;
use super::machine::{Mesh, millis};
use super::membership::GRACE;
use super::peer::{Gone, Peer, SeenTimes};
use super::session_table::{SESSIONS_PER_PEER_MAX, Session};
use super::timer::Timer;
use crate::event::{DownReason, Event};
use crate::limits::TIMEOUT;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::wire::{ALERT_CAPABILITY, ByeReason, PUNCH_CAPABILITY, REACHABLE_AT_CAPABILITY};

impl Mesh {
    pub(super) fn session_up(&mut self, now: Instant, up: SessionUp) {
        self.punched(up.session);
        if !self.circuit_entered(&up) {
            return self.note_late_session(&up);
        }
        if self.is_circuit_needless(&up) {
            self.note_late_session(&up);
            return self.output(Output::Close { session: up.session, reason: ByeReason::Duplicate });
        }
        let (target, dialled) = match self.dialing.finished(up.session) {
            Some(dial) if dial.cancelled => {
                self.accounts.give_back(&dial.payers);
                self.note_late_session(&up);
                if dial.is_renewed {
                    self.dial_due(now, dial.target);
                }
                return self.start_queued_dials(now);
            }
            Some(dial) => {
                self.accounts.give_back(&dial.payers);
                self.beacon_answered(Some(dial.target), up.peer);
                self.note_reached(now);
                (Some(dial.target), Some(dial.addr))
            }
            None => (None, None),
        };
        if self.leaving {
            self.refuse(up.session, ByeReason::Leaving);
        } else if up.peer == self.id {
            self.handle_own_id(now, &up, target);
        } else if let Err(reason) = self.check_admission(&up, dialled.as_ref()) {
            self.refuse(up.session, reason);
            self.retry_refused(now, target);
        } else if !self.make_room(now, &up) {
            self.report(Report::TableFull { peer: up.peer });
            self.refuse(up.session, ByeReason::Full);
            self.retry_refused(now, target);
        } else if self.check_instance(now, &up) {
            self.admit(now, &up, target, dialled);
        } else {
            self.retry_refused(now, target);
        }
        self.start_queued_dials(now);
    }

    /// Notes a session that is not wanted any more; the goodbye is on its way. Messages that the peer sends before it reads
    /// the goodbye still count.
    fn note_late_session(&mut self, up: &SessionUp) {
        let &SessionUp { session, peer, remote, local, .. } = up;
        self.sessions.insert(session, Session { peer, remote, local, closing: true });
    }

    pub(super) fn session_down(&mut self, now: Instant, session: SessionId, reason: DisconnectReason) {
        let carrier = self.relay.carrier(session);
        self.circuits_ended(now, session);
        self.punches.session_ended(session);
        let Some(Session { peer: id, .. }) = self.sessions.remove(session) else {
            return;
        };
        let Some(connected) = self.peers.connected_mut(&id) else {
            return;
        };
        if !connected.remove_session(now, session) {
            return;
        }
        if let DisconnectReason::Bye(_) = reason {
            // A goodbye is a sign of life like any message, also if another session goes on.
            connected.hear(now);
        }
        if reason == DisconnectReason::Bye(ByeReason::Leaving) {
            self.left(now, id);
        } else if connected.active().is_none() && !self.leaving {
            self.lost_last_session(now, id, session, reason, carrier);
        } else if !self.leaving {
            if !session.is_carried() {
                self.direct_path_lost(now, id);
            }
            self.tell_path(id);
            self.dial_beside_circuit(now, id);
            self.look_sooner(id);
        }
        self.start_queued_dials(now);
    }

    /// Tells the user if the path to a member has changed.
    fn tell_path(&mut self, id: PeerId) {
        let via = self.via(&id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let (name, is_member) = (peer.name.clone(), peer.is_member());
        let addr = peer.shown_addr();
        if let Some(connected) = peer.connected_mut()
            && std::mem::replace(&mut connected.told_via, via) != via
            && is_member
        {
            self.notify(Event::Path { peer: id, name, addr, via });
        }
    }

    pub(super) fn leave(&mut self, now: Instant) {
        self.leaving = true;
        self.timers.clear();
        self.exchange.unsettled_since = None;
        let mut open: Vec<SessionId> = self.dialing.give_up();
        open.extend(self.punches.in_flight());
        open.extend(self.leave_inside_first(now));
        for session in open {
            self.close(session, ByeReason::Leaving);
        }
    }

    /// Makes this the peer's newest session. The smaller id of the pair settles duplicates.
    fn admit(&mut self, now: Instant, up: &SessionUp, target: Option<Target>, dialled: Option<DialAddr>) {
        let SessionUp { session, peer: id, ref hello, .. } = *up;
        let was_known = self.note_hello(now, up);
        self.note_dialled_address(now, up, dialled);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.addrs.restart_round();
        let is_welcome = peer.refusal().is_none();
        let is_new = peer.connected().is_none();
        let mut surplus = Vec::new();
        let is_arbiter = self.id < id;
        if let Some(connected) = peer.connected_mut() {
            surplus = if session.is_carried() {
                connected.add_carried(session, is_arbiter, SESSIONS_PER_PEER_MAX)
            } else {
                connected.add_direct(session, if is_arbiter { 1 } else { SESSIONS_PER_PEER_MAX })
            };
            connected.heard = now;
            connected.interval_ms = hello.heartbeat_ms;
        } else {
            self.peers.connect(now, &id, session, hello.heartbeat_ms);
        }
        let (remote, local) = (up.remote, up.local);
        self.sessions.insert(session, Session { peer: id, remote, local, closing: false });
        if session.is_carried() && surplus.iter().any(|older| !older.is_carried()) {
            self.direct_path_lost(now, id);
        }
        self.close_duplicates(id, surplus, session.is_carried());
        self.give_back_question(&id);
        if session.is_carried() {
            self.end_search_beside_circuit(&id);
            self.dial_beside_circuit(now, id);
            self.ask_where_it_is(now, &id);
            self.punch_later(now, id);
        } else {
            self.end_search(&id);
            self.end_punching(&id);
            self.timers.cancel(Timer::Dial(Target::Peer(id)));
        }
        self.timers.cancel(Timer::Grace(id));
        self.timers.cancel(Timer::Forget(id));
        if let Some(connected) = self.peers.connected(&id) {
            let first_check = now + self.suspicion(connected);
            self.timers.set_no_later(Timer::Silence(id), first_check);
        }
        let told = millis(up.told_interval_ms.into());
        if is_new {
            self.start_liveness(now, id, told);
            if is_welcome {
                self.join(now, id);
            }
        } else {
            self.start_heartbeats(now, id, told);
            self.tell_path(id);
        }
        self.output(Output::Persist);
        self.bootstrap_reached(now, target, id);
        let reason = if was_known && is_new { ExchangeReason::Reconnect } else { ExchangeReason::Join };
        self.ask_on_meeting(id, now, reason, target);
        self.tell_key_on_meeting(&id);
        self.tell_own_addresses(&id, session);
    }

    /// Stores the claims of the peer's Hello and the source of its session. Returns whether the peer was known before.
    fn note_hello(&mut self, now: Instant, up: &SessionUp) -> bool {
        let SessionUp { session, peer: id, ref hello, remote, .. } = *up;
        let network_key = self.key_proof(up.network_key.as_ref());
        let peer = self.peers.get_or_insert(now, id);
        let was_known = peer.met.is_some();
        peer.network_key = network_key;
        peer.runs_alerts = hello.capabilities.contains(&ALERT_CAPABILITY);
        peer.can_punch = hello.capabilities.contains(&PUNCH_CAPABILITY);
        peer.understands_reachable_at = hello.capabilities.contains(&REACHABLE_AT_CAPABILITY);
        let met = peer.met.unwrap_or(SeenTimes { first: self.wall, last: self.wall });
        peer.met = Some(met.again(self.wall));
        peer.name.clone_from(&hello.name);
        peer.instances.accept(hello.instance);
        peer.wrong_id_reported = false;
        if !session.is_carried() {
            peer.remote = Some((remote, session.is_dialled()));
        }
        let mut source = remote;
        source.set_port(hello.listen_port);
        let origin = if session.is_carried() || session.is_punched() {
            // The source is that of the carrier, or a port of a NAT. The peer's own address still counts.
            peer.addrs.origin().cloned()
        } else {
            session.is_accepted().then_some(DialAddr::Socket(source))
        };
        let said = hello.advertised.iter().filter_map(|addr| address_scope::as_told_by(remote, addr.clone()));
        peer.addrs.claim(said, origin.as_ref());
        was_known
    }

    /// The dialled address led to this peer: the log learns it if the address belongs to another known peer.
    fn note_dialled_address(&mut self, now: Instant, up: &SessionUp, dialled: Option<DialAddr>) {
        if up.session.is_carried() || up.session.is_punched() {
            return;
        }
        let Some(addr) = dialled else {
            let mut origin = up.remote;
            origin.set_port(up.hello.listen_port);
            // Behind a router that translates addresses several peers come from one, so no peer loses an address at
            // which this node has reached it.
            let origin = DialAddr::Socket(origin);
            return self.strangers_lose(now, &origin, up.peer, |addrs| !addrs.was_proven(&origin));
        };
        self.strangers_lose(now, &addr, up.peer, |_| true);
        if let Some(owner) = self.peers.owner_of(&addr, &up.peer) {
            self.tell_wrong_id(&addr, owner, up.peer, false);
        }
        if let Some(peer) = self.peers.get_mut(&up.peer) {
            peer.prove(addr, up.remote, self.wall);
        }
    }

    /// Closes the sessions that a new one has replaced. The arbiter of the pair, the smaller id, cancels its dials, too.
    fn close_duplicates(&mut self, id: PeerId, surplus: Vec<SessionId>, is_carried: bool) {
        for older in surplus {
            self.close(older, ByeReason::Duplicate);
        }
        if self.id < id && !is_carried {
            // Only the arbiter may give up its own dial: if both did, nothing would be left.
            for dial in self.dialing.cancel_to(&id) {
                self.close(dial, ByeReason::Duplicate);
            }
        }
    }

    /// Handles the end of a connected peer's last session: the peer is lost, unless another session is expected.
    fn lost_last_session(
        &mut self,
        now: Instant,
        id: PeerId,
        session: SessionId,
        reason: DisconnectReason,
        carrier: Option<PeerId>,
    ) {
        if self.await_another_session(now, id, reason, carrier) {
            return;
        }
        let down = match reason {
            // A peer that has not joined has no grace, so the goodbye that promises another session is its end.
            DisconnectReason::Bye(ByeReason::Duplicate | ByeReason::Silent) | DisconnectReason::Closed => {
                DownReason::Closed
            }
            DisconnectReason::Bye(said) => return self.lost_by_refusal(now, id, said),
            DisconnectReason::Protocol => DownReason::Protocol,
            DisconnectReason::Slow => DownReason::Slow,
        };
        self.down(now, id, down);
        if session.is_dialled() && down == DownReason::Closed {
            // The side that dialled the lost session dials first, so that dials do not cross.
            let soon = self.random_between(millis(10), millis(60));
            self.timers.set(Timer::Dial(Target::Peer(id)), now + soon);
        } else {
            self.redial_later(now, id);
        }
    }

    /// If another session of the peer is to be expected after the end of its last one, begins the grace, sets the next
    /// dial and returns true.
    ///
    /// The grace is for members: a peer that has not joined might be a stranger that comes for a moment, so that this
    /// node dials what it claims.
    fn await_another_session(
        &mut self,
        now: Instant,
        id: PeerId,
        reason: DisconnectReason,
        carrier: Option<PeerId>,
    ) -> bool {
        if !self.peers.get(&id).is_some_and(Peer::is_joined) {
            return false;
        }
        // The path broke, or the carrier has changed bytes, and the peer may be well: another carrier leads to it, or a
        // dial.
        let is_path_lost = carrier.is_some()
            && matches!(
                reason,
                DisconnectReason::Bye(ByeReason::Duplicate)
                    | DisconnectReason::Closed
                    | DisconnectReason::Protocol
            );
        let wait = match reason {
            _ if is_path_lost => Duration::ZERO,
            // The peer keeps a newer session, which follows. If that is one which this node has given up meanwhile, none
            // is left, and a dial makes another.
            DisconnectReason::Bye(ByeReason::Duplicate) => self.random_between(GRACE / 4, GRACE / 2),
            DisconnectReason::Closed if !self.was_given_up(now, &id) => return false,
            // This node was silent, and the peer is alive: reconnect without a `down` event.
            DisconnectReason::Bye(ByeReason::Silent) | DisconnectReason::Closed => {
                self.random_between(Duration::ZERO, millis(100))
            }
            _ => return false,
        };
        self.begin_grace(now, id);
        self.timers.set_no_later(Timer::Dial(Target::Peer(id)), now + wait);
        if is_path_lost {
            self.seek_path(now, id, carrier);
        }
        true
    }

    /// Whether the peer may have given up a session because this node did not run. If the network was cut meanwhile,
    /// the peer's goodbye is lost, and this node learns only that the connection is broken.
    fn was_given_up(&self, now: Instant, id: &PeerId) -> bool {
        let timeout = self.config.timeout;
        let since = self.peers.connected(id).map(|connected| connected.since);
        // The peer may be less patient than this node.
        since.is_some_and(|since| self.measures.stalls.woke(now, since, timeout / 2, timeout))
    }

    /// A peer ended its last session with a refusal: this node dials it again after a longer wait.
    fn lost_by_refusal(&mut self, now: Instant, id: PeerId, said: ByeReason) {
        let wait = self.report_refusal(id, said);
        let gone = Gone { refusal: Some(said), ..self.gone(now, id) };
        self.lose(now, id, gone, DownReason::Refused, None);
        if said == ByeReason::NotAdmitted {
            // The peer's user may change the lists again soon.
            self.redial_later(now, id);
        } else {
            self.timers.set(Timer::Dial(Target::Peer(id)), now + wait);
            // A `--connect` address of this peer would get the same answer.
            self.bootstraps_wait(id, now + wait);
        }
    }

    /// Reports a refusal by a connected peer. Returns the wait before the next dial.
    fn report_refusal(&mut self, id: PeerId, said: ByeReason) -> Duration {
        let is_news = self.peers.get(&id).is_some_and(|peer| peer.refusal() != Some(said));
        let remote = self.peers.get(&id).and_then(|peer| peer.remote).map(|(addr, _)| addr);
        if said == ByeReason::Cloned {
            let claim = |at| Report::OurKeyClaimed { by: id, at, used_at: None };
            remote.into_iter().for_each(|at| self.report(claim(at)));
        } else if is_news {
            self.report(Report::RefusedByPeer { peer: id, reason: said });
        }
        if said == ByeReason::Replaced {
            // If no other process uses the key, the peer still counts a session of a previous run of this node,
            // which reaches its timeout soon.
            let connected = self.peers.connected(&id);
            let silence = connected.map(|connected| self.timeout_for(connected.interval_ms));
            return silence.unwrap_or(TIMEOUT) + self.config.heartbeat;
        }
        if said == ByeReason::Full
            && is_news
            && let Some(addr) = remote
        {
            self.report(Report::RefusedAsFull { peer: id, addr, retry_in: REFUSED_WAIT });
        }
        REFUSED_WAIT
    }

    /// Says goodbye on all sessions of a peer whose connected state ends next.
    pub(super) fn close_all(&mut self, id: &PeerId, reason: ByeReason) {
        for session in self.open_sessions(id).to_vec() {
            self.close(session, reason);
        }
    }

    pub(super) fn close(&mut self, session: SessionId, reason: ByeReason) {
        self.sessions.close(session);
        self.output(Output::Close { session, reason });
    }

    /// Ends a session that was not admitted.
    pub(super) fn refuse(&mut self, session: SessionId, reason: ByeReason) {
        self.output(Output::Close { session, reason });
    }

    pub(super) fn retry_refused(&mut self, now: Instant, target: Option<Target>) {
        // The next beacon repeats the dial that a beacon caused.
        if let Some(target) = target.filter(|target| !matches!(target, Target::Beacon(_))) {
            self.timers.set(Timer::Dial(target), now + REFUSED_WAIT);
        }
    }
}
