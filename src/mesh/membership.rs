//! Membership: the start and end of sessions, and the peer states up, down and left. A peer has one active
//! session; the smaller id of each pair is its arbiter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::address_scope;
use super::dial_queue::{DialOutcome, REFUSED_WAIT, Target};
use super::io::{DisconnectReason, Output, Report, SessionId, SessionUp};
use super::list_exchange::ExchangeReason;
use super::machine::{Mesh, millis};
use super::peer::{Connected, Gone, Link, Peer, REPLACED_MAX, SeenTimes, State};
use super::session_table::Session;
use super::timer::Timer;
use crate::event::{DownReason, Event};
use crate::limits::TIMEOUT;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::wire::{ByeReason, Notice};

/// Time for which a peer without a session stays a member, if its last session ended for a reason that
/// promises another one: the session was a duplicate, or this node was silent. The goodbye on a duplicate may
/// overtake the Hello on the session that stays, because two connections are not ordered.
pub const GRACE: Duration = Duration::from_secs(2);
/// Sessions kept with one peer until the arbiter has chosen. Two dials can cross; only a peer that breaks
/// the rules opens more sessions.
pub const SESSIONS_PER_PEER_MAX: usize = 4;

/// A session that lasts this long ends the outage before it: the next backoff starts from the beginning.
const STABLE: Duration = Duration::from_secs(5);

impl Mesh {
    pub(super) fn session_up(&mut self, now: Instant, up: SessionUp) {
        let (target, dialled) = match self.dialing.finished(up.session) {
            Some(DialOutcome::Cancelled) => {
                // The goodbye is already on its way. Messages that the peer sends before it reads the
                // goodbye still count.
                let session = Session { peer: up.peer, remote: up.remote, closing: true };
                self.sessions.insert(up.session, session);
                return self.start_queued_dials(now);
            }
            Some(DialOutcome::Reached(target, addr)) => (Some(target), Some(addr)),
            None => (None, None),
        };
        if self.leaving {
            self.refuse(up.session, ByeReason::Leaving);
        } else if up.peer == self.id {
            self.handle_own_id(now, &up, target);
        } else if let Err(reason) = self.check_admission(&up, dialled.as_ref()) {
            self.refuse(up.session, reason);
            self.retry_refused(now, target);
        } else if !self.make_room(&up.peer) {
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

    pub(super) fn session_down(&mut self, now: Instant, session: SessionId, reason: DisconnectReason) {
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
            self.lost_last_session(now, id, session, reason);
        }
        self.start_queued_dials(now);
    }

    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.timers.clear();
        self.exchange.unsettled_since = None;
        let mut open: Vec<SessionId> = self.dialing.give_up();
        open.extend(self.sessions.open().map(|(session, _)| session));
        for session in open {
            self.close(session, ByeReason::Leaving);
        }
    }

    pub(super) fn received_notice(&mut self, notice: Notice) {
        let Notice::KeyInUse(addr) = notice;
        self.report(Report::OurKeyInUse { addr });
    }

    /// No new session came within [`GRACE`], without the stalls of this node: the peer is lost.
    pub(super) fn grace_expired(&mut self, now: Instant, id: PeerId) {
        let connected = self.peers.connected(&id);
        let Some(&Link::Interrupted { since }) = connected.map(|connected| &connected.link) else {
            return;
        };
        let until =
            (since + GRACE + self.liveness.stalls.between(since, now)).max(self.liveness.stalls.caught_up());
        if now < until {
            self.timers.set(Timer::Grace(id), until);
        } else {
            self.down(now, id, DownReason::Closed);
            self.timers.set_no_later(Timer::Dial(Target::Peer(id)), now);
        }
    }

    /// The peer was silent for its timeout: it is dead.
    pub(super) fn silent(&mut self, now: Instant, id: PeerId) {
        self.close_all(&id, ByeReason::Silent);
        self.down(now, id, DownReason::Timeout);
        self.redial_later(now, id);
    }

    pub(super) fn forget(&mut self, id: PeerId) {
        if !self.is_connected(&id) {
            if self.peers.remove(&id).is_some_and(|peer| peer.met.is_some()) {
                self.output(Output::Persist);
            }
            self.timers.cancel(Timer::Dial(Target::Peer(id)));
            self.timers.cancel(Timer::Forget(id));
        }
    }

    /// Makes this the peer's newest session. The smaller id of the pair settles duplicates.
    fn admit(&mut self, now: Instant, up: &SessionUp, target: Option<Target>, dialled: Option<DialAddr>) {
        let SessionUp { session, peer: id, ref hello, .. } = *up;
        let was_known = self.note_hello(now, up);
        self.note_dialled_address(up, dialled);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.addrs.restart_round();
        let is_welcome = peer.refusal().is_none();
        let is_new = peer.connected().is_none();
        let mut surplus = Vec::new();
        if let Some(connected) = peer.connected_mut() {
            let most = if self.id < id { 1 } else { SESSIONS_PER_PEER_MAX };
            surplus = connected.add_session(session, most);
            connected.heard = now;
            connected.interval_ms = hello.heartbeat_ms;
        } else {
            self.peers.connect(now, &id, session, hello.heartbeat_ms);
        }
        self.sessions.insert(session, Session { peer: id, remote: up.remote, closing: false });
        self.close_duplicates(id, surplus);

        self.timers.cancel(Timer::Dial(Target::Peer(id)));
        self.timers.cancel(Timer::Grace(id));
        self.timers.cancel(Timer::Forget(id));
        let timeout = self.timeout_for(hello.heartbeat_ms);
        self.timers.set_no_later(Timer::Silence(id), now + timeout);
        if is_new {
            self.start_liveness(now, id);
            if is_welcome {
                self.join(now, id);
            }
        }
        self.output(Output::Persist);
        self.bootstrap_reached(target, id);
        let reason = if was_known && is_new { ExchangeReason::Reconnect } else { ExchangeReason::Join };
        self.ask_on_meeting(id, now, reason, target);
    }

    /// Stores the claims of the peer's Hello and the source of its session. Returns whether the peer was known before.
    fn note_hello(&mut self, now: Instant, up: &SessionUp) -> bool {
        let SessionUp { session, peer: id, ref hello, remote } = *up;
        let peer = self.peers.get_or_insert(now, id);
        let was_known = peer.met.is_some();
        let met = peer.met.unwrap_or(SeenTimes { first: self.wall, last: self.wall });
        peer.met = Some(met.again(self.wall));
        peer.name.clone_from(&hello.name);
        peer.instance = Some(hello.instance);
        peer.remote = Some((remote, session.is_dialled()));
        peer.wrong_id_reported = false;
        let mut source = remote;
        source.set_port(hello.listen_port);
        let from = (!session.is_dialled()).then_some(DialAddr::Socket(source));
        let said = hello.advertised.iter().filter_map(|addr| address_scope::as_told_by(remote, addr.clone()));
        peer.addrs.claim(said.chain(from));
        was_known
    }

    /// The dialled address led to this peer: the log learns it if the address belongs to another known peer.
    fn note_dialled_address(&mut self, up: &SessionUp, dialled: Option<DialAddr>) {
        let Some(addr) = dialled else {
            return;
        };
        if let Some(owner) = self.peers.owner_of(&addr, &up.peer) {
            self.tell_wrong_id(&addr, owner, up.peer, false);
        }
        if let Some(peer) = self.peers.get_mut(&up.peer) {
            peer.prove(addr, up.remote, self.wall);
        }
    }

    /// Closes the sessions that a new one has replaced. The arbiter of the pair, the smaller id, cancels its dials, too.
    fn close_duplicates(&mut self, id: PeerId, surplus: Vec<SessionId>) {
        for older in surplus {
            self.close(older, ByeReason::Duplicate);
        }
        if self.id < id {
            // Only the arbiter may give up its own dial: if both did, nothing would be left.
            for dial in self.dialing.cancel_to(&id) {
                self.close(dial, ByeReason::Duplicate);
            }
        }
    }

    /// Whether this process may use its key. A new process replaces the old one. A replaced process is refused
    /// while its successor is connected; otherwise the two would replace each other endlessly. It is accepted
    /// again once its successor is gone, because Hellos can arrive in the wrong order: the Hello of the older
    /// process may come after that of its successor.
    fn check_instance(&mut self, now: Instant, up: &SessionUp) -> bool {
        let Some(peer) = self.peers.get_mut(&up.peer) else {
            return true;
        };
        let instance = up.hello.instance;
        if peer.instance == Some(instance) {
            return true;
        }
        if peer.connected().is_some() && peer.replaced.contains(&instance) {
            let timeout = self.config.timeout;
            let is_late = peer.replaced_at.is_some_and(|at| now.saturating_duration_since(at) < timeout);
            if is_late {
                // Perhaps a late Hello of a process that has ended.
                self.refuse(up.session, ByeReason::Replaced);
                return false;
            }
            if !std::mem::replace(&mut peer.clone_reported, true) {
                self.report(Report::PeerKeyInUse { peer: up.peer, addr: up.remote });
                let notice = Notice::KeyInUse(up.remote);
                self.send(&up.peer, crate::wire::Message::Notice(notice));
            }
            self.refuse(up.session, ByeReason::Cloned);
            return false;
        }
        if let Some(old) = peer.instance.replace(instance) {
            peer.replaced.retain(|&replaced| replaced != instance);
            remember(&mut peer.replaced, old);
            peer.replaced_at = Some(now);
            // The user restarted the process: that is no failure.
            peer.backoff.reset();
            if peer.connected().is_some() {
                self.close_all(&up.peer, ByeReason::Replaced);
                self.down(now, up.peer, DownReason::Restarted);
            }
        }
        true
    }

    /// This node's own key answered: this node dialled itself, or another process uses its key.
    fn handle_own_id(&mut self, now: Instant, up: &SessionUp, target: Option<Target>) {
        if up.hello.instance == self.instance {
            self.refuse(up.session, ByeReason::OwnAddress);
            if let Some(Target::Bootstrap(bootstrap)) = target {
                let bootstrap = self.bootstraps.get_mut(bootstrap);
                bootstrap.is_self = true;
                let addr = bootstrap.addr.clone();
                self.report(Report::BootstrapIsSelf { addr });
            }
        } else {
            self.report(Report::OurKeyInUse { addr: up.remote });
            self.refuse(up.session, ByeReason::Cloned);
            self.retry_refused(now, target);
        }
    }

    /// Handles the end of a connected peer's last session: the peer is lost, unless another session is expected.
    fn lost_last_session(&mut self, now: Instant, id: PeerId, session: SessionId, reason: DisconnectReason) {
        let down = match reason {
            DisconnectReason::Bye(ByeReason::Duplicate) => {
                return self.timers.set(Timer::Grace(id), now + GRACE);
            }
            DisconnectReason::Bye(ByeReason::Silent) => {
                // This node was silent, and the peer is alive: reconnect without a `down` event.
                self.timers.set(Timer::Grace(id), now + GRACE);
                let soon = self.random_between(Duration::ZERO, millis(100));
                self.timers.set_no_later(Timer::Dial(Target::Peer(id)), now + soon);
                return;
            }
            DisconnectReason::Bye(said) => return self.lost_by_refusal(now, id, said),
            DisconnectReason::Protocol => DownReason::Protocol,
            DisconnectReason::Slow => DownReason::Slow,
            DisconnectReason::Closed => DownReason::Closed,
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

    /// A peer ended its last session with a refusal: this node dials it again after a longer wait.
    fn lost_by_refusal(&mut self, now: Instant, id: PeerId, said: ByeReason) {
        let wait = self.report_refusal(id, said);
        let gone = Gone { refusal: Some(said), ..self.gone(now, id) };
        self.lose(now, id, gone, DownReason::Refused);
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
            remote.into_iter().for_each(|addr| self.report(Report::OurKeyInUse { addr }));
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

    /// Ends a peer's connected state. Returns its name and shown address for the event, if it was a member.
    fn end_connected(&mut self, now: Instant, id: PeerId, state: State) -> Option<(String, DialAddr)> {
        for timer in [
            Timer::Heartbeat(id),
            Timer::Ping(id),
            Timer::Silence(id),
            Timer::Grace(id),
            Timer::DigestCheck(id),
        ] {
            self.timers.cancel(timer);
        }
        let peer = self.peers.get_mut(&id)?;
        let &Connected { since, .. } = peer.connected()?;
        if now.saturating_duration_since(since) >= STABLE {
            peer.backoff.reset();
        }
        peer.addrs.restart_round();
        let shown = (peer.name.clone(), peer.shown_addr());
        peer.met = peer.met.map(|met| met.again(self.wall));
        let was_member = self.peers.disconnect(now, &id, state);
        if was_member {
            self.announce();
        }
        if !self.leaving {
            self.schedule_forgetting(now, id);
            if was_member {
                self.membership_changed(now);
            }
            self.output(Output::Persist);
            self.bootstraps_lost(now, id);
        }
        was_member.then_some(shown)
    }

    pub(super) fn down(&mut self, now: Instant, id: PeerId, reason: DownReason) {
        let gone = self.gone(now, id);
        self.lose(now, id, gone, reason);
    }

    fn lose(&mut self, now: Instant, id: PeerId, gone: Gone, reason: DownReason) {
        if let Some((name, addr)) = self.end_connected(now, id, State::Dead(gone)) {
            self.notify(Event::Down { peer: id, name, addr, reason, members: self.members() });
        }
    }

    fn left(&mut self, now: Instant, id: PeerId) {
        self.close_all(&id, ByeReason::Duplicate);
        self.timers.cancel(Timer::Dial(Target::Peer(id)));
        for dial in self.dialing.cancel_to(&id) {
            self.close(dial, ByeReason::Duplicate);
        }
        let gone = self.gone(now, id);
        if let Some((name, addr)) = self.end_connected(now, id, State::Left(gone)) {
            self.notify(Event::Left { peer: id, name, addr, members: self.members() });
        }
    }

    /// What is remembered of a peer that is gone from now on.
    fn gone(&self, now: Instant, id: PeerId) -> Gone {
        let refusal = self.peers.get(&id).and_then(Peer::refusal);
        Gone { since: now, forget_at: self.forget_at(now), refusal }
    }

    /// Makes a provisional peer a member.
    pub(super) fn join(&mut self, now: Instant, id: PeerId) {
        let was_alone = self.peers.members() == 0;
        let Some(peer) = self.peers.join(now, &id) else {
            return;
        };
        let (name, addr) = (peer.name.clone(), peer.shown_addr());
        if was_alone {
            self.schedule_all_forgetting(now);
        }
        self.announce();
        self.membership_changed(now);
        self.notify(Event::Up { peer: id, name, addr, members: self.members() });
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
    fn refuse(&mut self, session: SessionId, reason: ByeReason) {
        self.output(Output::Close { session, reason });
    }

    fn retry_refused(&mut self, now: Instant, target: Option<Target>) {
        if let Some(target) = target {
            self.timers.set(Timer::Dial(target), now + REFUSED_WAIT);
        }
    }

    /// Makes room in the table for a connecting peer: a full table forgets the peer that is wanted least. Returns
    /// whether there is room.
    fn make_room(&mut self, id: &PeerId) -> bool {
        if !self.peers.has_room_for(id)
            && let Some(victim) = self.peers.least_wanted()
        {
            self.forget(victim);
        }
        self.peers.has_room_for(id)
    }
}

fn remember(replaced: &mut VecDeque<u64>, instance: u64) {
    if replaced.len() == REPLACED_MAX {
        replaced.pop_front();
    }
    replaced.push_back(instance);
}
