//! Heartbeats, pings, and the silence that means death.
//!
//! Waking up costs more than what is said then. So heartbeats go out at a few moments of their interval,
//! all that are due together; what says nothing new is taken in when there is something else to do; and of
//! each pair one leads, the smaller id, while the other's heartbeat lies ready to go out as soon as the
//! leader's arrives.

use std::time::{Duration, Instant};

use super::backoff;
use super::io::{Output, Report, SessionId};
use super::machine::{Mesh, Session, millis};
use super::peer::{Peer, State};
use super::routine::{Beat, STALL_MIN};
use super::timer::Timer;
use crate::event::Event;
use crate::trust::peer_id::PeerId;
use crate::wire::{Echo, Message};

/// The log reports a stall of at least this duration.
const STALL_REPORTED_MIN: Duration = Duration::from_millis(500);

/// Moments in an interval at which heartbeats are sent.
const BEATS: u32 = 8;
/// What was laid ready more recently than this may have missed the leader's heartbeat: two threads do that.
const LAID_READY: Duration = Duration::from_millis(10);
/// Longest wait for the first ping, which goes out once membership has settled and a round-trip time is measured.
const FIRST_PING_WAIT: Duration = Duration::from_secs(5);
/// Average time between two first pings, so that a new mesh does not ping on all its links at once.
const FIRST_PING_EACH: Duration = Duration::from_millis(10);

impl Mesh {
    /// A peer has connected. Heartbeats begin once membership has settled, or after two intervals, because a
    /// forming mesh is busy enough.
    pub(super) fn start_liveness(&mut self, now: Instant, id: PeerId) {
        let first = self.beat_before(now + self.config.heartbeat * 2);
        self.timers.set(Timer::Heartbeat(id), first);
        self.timers.set(Timer::Ping(id), now + FIRST_PING_WAIT.min(self.config.period));
    }

    /// Some time in the second half of the next interval, so that not all peers have the same moment.
    pub(super) fn schedule_heartbeat(&mut self, now: Instant, id: PeerId) {
        let interval = self.config.heartbeat;
        let wait = self.random_between(interval / 2, interval);
        let at = self.beat_before(now + wait);
        self.timers.set(Timer::Heartbeat(id), at);
    }

    /// Membership has settled: a peer that has been sent no heartbeat yet waits for some time of an interval,
    /// so that peers which came at the same time do not keep the same moment.
    pub(super) fn begin_heartbeats(&mut self, now: Instant, id: PeerId) {
        let connected = self.peers.get(&id).and_then(Peer::connected);
        if connected.is_some_and(|connected| connected.heartbeats.last_sent.is_none()) {
            let interval = self.config.heartbeat;
            let wait = self.random_between(interval / BEATS, interval);
            let first = self.beat_before(now + wait);
            self.timers.set_no_later(Timer::Heartbeat(id), first);
        }
    }

    /// The last moment for heartbeats that is not after this one. They are counted from the beginning of
    /// this mesh, so that nodes do not all have the same.
    fn beat_before(&self, at: Instant) -> Instant {
        let beat = (self.config.heartbeat / BEATS).as_nanos().max(1);
        let past = at.saturating_duration_since(self.started).as_nanos() % beat;
        at - Duration::from_nanos(u64::try_from(past).unwrap_or_default())
    }

    /// Notes a message of any kind from the peer.
    pub(super) fn heard(&mut self, now: Instant, arrived: Instant, id: &PeerId) {
        // Time in which this node stalled does not count as silence of a peer.
        let stall = self.stall.filter(|(_, until)| arrived < *until);
        let heard = stall.map_or(arrived, |(from, until)| arrived + (until - arrived.max(from)));
        if let Some(connected) = self.peers.get_mut(id).and_then(Peer::connected_mut) {
            connected.heard = connected.heard.max(heard);
            connected.is_draining = false;
            if !connected.is_member {
                self.joined(now, *id);
            }
        }
    }

    /// It is time for a heartbeat, or to lay one ready for the leader's next.
    pub(super) fn heartbeat_due(&mut self, now: Instant, id: PeerId) {
        let (we_lead, interval) = (self.id < id, self.config.heartbeat);
        let next = self.beat_before(now + interval);
        self.timers.set(Timer::Heartbeat(id), next);
        let Some(connected) = self.peers.get_mut(&id).and_then(Peer::connected_mut) else {
            return;
        };
        let heartbeats = &mut connected.heartbeats;
        match heartbeats.last_heard.map(|at| at + interval) {
            Some(expected) if !we_lead && !heartbeats.is_ready && now < expected => {
                if let Some((session, message)) = self.next_heartbeat(now, id) {
                    self.output(Output::Post { session, message });
                    self.set_ready(id, true);
                    // If the leader's does not come, it goes without.
                    self.timers.set(Timer::Heartbeat(id), expected + interval / BEATS);
                }
            }
            _ => {
                // What still lies ready goes out with it.
                heartbeats.is_ready = false;
                self.send_heartbeat(now, id);
            }
        }
    }

    pub(super) fn send_heartbeat(&mut self, now: Instant, id: PeerId) {
        if let Some((_, message)) = self.next_heartbeat(now, id) {
            self.send(now, &id, message);
        }
    }

    /// Something is sent to the peer at once: what lay ready for its next heartbeat goes out with that, and
    /// something else must.
    pub(super) fn sending(&mut self, now: Instant, id: &PeerId) {
        if self.set_ready(*id, false) {
            self.timers.set_no_later(Timer::Heartbeat(*id), now);
        }
    }

    /// Whether a heartbeat lies ready on the peer's session, from now on; and whether one did.
    fn set_ready(&mut self, id: PeerId, is_ready: bool) -> bool {
        let connected = self.peers.get_mut(&id).and_then(Peer::connected_mut);
        connected.is_some_and(|connected| std::mem::replace(&mut connected.heartbeats.is_ready, is_ready))
    }

    fn next_heartbeat(&mut self, now: Instant, id: PeerId) -> Option<(SessionId, Message)> {
        let digest = self.digest;
        let connected = self.peers.get_mut(&id).and_then(Peer::connected_mut)?;
        let session = connected.active()?;
        let echo = connected.heartbeats.to_echo.take().map(|(seq, at)| {
            let held = now.saturating_duration_since(at).as_micros();
            Echo { seq, held_us: u64::try_from(held).unwrap_or(u64::MAX) }
        });
        let seq = connected.heartbeats.send(now);
        Some((session, Message::Heartbeat { seq, echo, digest }))
    }

    /// The leader's heartbeat has arrived: ours has gone out then, if it lay ready, or goes now, unless the
    /// last one is not long ago.
    fn follow(&mut self, now: Instant, id: PeerId, arrived: Instant) {
        let half = self.config.heartbeat / 2;
        let next = self.beat_before(arrived + half);
        let was_ready = self.set_ready(id, false);
        let last_sent = self
            .peers
            .get(&id)
            .and_then(Peer::connected)
            .and_then(|connected| connected.heartbeats.last_sent);
        let is_answered = |at: Instant| if was_ready { at + LAID_READY <= arrived } else { now < at + half };
        if !last_sent.is_some_and(is_answered) {
            self.send_heartbeat(now, id);
        }
        if was_ready {
            self.timers.set(Timer::Heartbeat(id), next);
        } else {
            self.timers.set_no_later(Timer::Heartbeat(id), next);
        }
    }

    pub(super) fn received_heartbeat(
        &mut self,
        now: Instant,
        id: PeerId,
        Beat { seq, echo, digest, arrived }: Beat,
    ) {
        let Some(connected) = self.peers.get_mut(&id).and_then(Peer::connected_mut) else {
            return;
        };
        connected.digest = Some(digest);
        connected.heartbeats.to_echo = Some((seq, arrived));
        connected.heartbeats.last_heard = Some(arrived);
        connected.heartbeats.received += 1;
        let is_first = connected.heartbeats.received == 1;
        let is_settled = !self.timers.is_set(Timer::Settled);
        if let Some(Echo { seq, held_us }) = echo {
            let rtt = connected.heartbeats.echoed(arrived, seq, Duration::from_micros(held_us));
            rtt.into_iter().for_each(|rtt| self.rtt.measured(rtt));
            if rtt.is_some() && is_settled {
                self.ping_if_due(now, id);
            }
        }
        if id < self.id {
            self.follow(now, id, arrived);
        } else if is_first && is_settled {
            // Echoed at once, so that the other side has a round-trip time from the beginning.
            self.send_heartbeat(now, id);
        }
        self.compare_digests(now, id, digest);
    }

    /// The first ping goes out if there is a round-trip time to show beside it: within a tenth of a second, or
    /// longer if there are many others to ping.
    pub(super) fn ping_if_due(&mut self, now: Instant, id: PeerId) {
        let connected = self.peers.get(&id).and_then(Peer::connected);
        if connected.is_some_and(|connected| !connected.is_pinged && connected.heartbeats.rtt.last.is_some())
        {
            let others = u32::try_from(self.connected).unwrap_or(u32::MAX);
            let longest = FIRST_PING_EACH.saturating_mul(others).max(millis(100)).min(self.config.period);
            let soon = self.random_between(Duration::ZERO, longest);
            self.timers.set_no_later(Timer::Ping(id), now + soon);
        }
    }

    pub(super) fn send_ping(&mut self, now: Instant, id: PeerId) {
        let text = self.config.ping_text.clone();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(connected) = peer.connected_mut() else {
            return;
        };
        let is_first = !std::mem::replace(&mut connected.is_pinged, true);
        let has_session = connected.active().is_some();
        // Peers that met at the same time do not keep pinging at the same time.
        let period = self.config.period;
        let wait = if is_first { backoff::between(&mut self.rng, period / 2, period) } else { period };
        self.timers.set(Timer::Ping(id), now + wait);
        if has_session {
            peer.pings_sent += 1;
            let seq = peer.pings_sent;
            self.send(now, &id, Message::Ping { seq, text });
        }
    }

    pub(super) fn received_ping(
        &mut self,
        now: Instant,
        arrived: Instant,
        id: PeerId,
        seq: u64,
        text: String,
    ) {
        self.heard(now, arrived, &id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let State::Connected(connected) = &peer.state {
            let rtt_ms = connected.heartbeats.rtt.last.map(|rtt| rtt.as_secs_f64() * 1000.0);
            peer.pings_received += 1;
            let (name, addr) = (peer.name.clone(), peer.shown_addr());
            self.notify(Event::Ping { peer: id, name, addr, seq, text, rtt_ms });
        }
    }

    /// Handles a message of the peer's user, on any of its sessions. The peer sends it on one session, so it arrives once.
    pub(super) fn received_broadcast(&mut self, now: Instant, arrived: Instant, id: PeerId, text: String) {
        self.heard(now, arrived, &id);
        if let Some(peer) = self.peers.get(&id).filter(|peer| peer.connected().is_some()) {
            let (name, addr) = (peer.name.clone(), peer.shown_addr());
            self.notify(Event::Message { peer: id, name, addr, text });
        }
    }

    /// Checks whether the peer's silence has reached its timeout.
    pub(super) fn check_silence(&mut self, now: Instant, id: PeerId) {
        let Some(connected) = self.peers.get_mut(&id).and_then(Peer::connected_mut) else {
            return;
        };
        let dead_at = connected.heard + connected.timeout;
        if now < dead_at {
            connected.is_draining = false;
            // Most peers have sent something by the next send time of heartbeats, when the mesh is awake
            // anyway. A peer that has not is checked again at its deadline.
            let beat = self.beat_before(dead_at);
            self.timers.set(Timer::Silence(id), if now < beat { beat } else { dead_at });
        } else if let Some(session) = connected.active() {
            if std::mem::replace(&mut connected.is_draining, true) {
                self.silent(now, id);
            } else {
                // On a starved machine a heartbeat may lie unread in the socket: silence is judged
                // by what arrived, not by what this node had the time to read. A session that
                // doesn't answer within a heartbeat has nothing to say for its peer.
                self.output(Output::DrainUnread { session });
                self.timers.set(Timer::Silence(id), now + self.config.heartbeat);
            }
        }
        // Without a session the grace decides, and the next session sets this timer anew.
    }

    /// Nothing was left unread on a session whose peer has been silent for its timeout.
    pub(super) fn session_drained(&mut self, now: Instant, session: SessionId) {
        let Some(&Session { peer, .. }) = self.sessions.get(&session) else {
            return;
        };
        let connected = self.peers.get(&peer).and_then(Peer::connected);
        // A leaving node has said its goodbyes already.
        if !self.leaving
            && connected.is_some_and(|connected| connected.is_draining && connected.active() == Some(session))
        {
            self.check_silence(now, peer);
        }
    }

    /// If timers fire late, all peers get as much more time before they count as dead.
    pub(super) fn detect_stall(&mut self, now: Instant) {
        let last_turn = std::mem::replace(&mut self.last_turn, now);
        let Some(due) = self.timers.next() else {
            return;
        };
        let from = due.max(last_turn);
        let gap = now.saturating_duration_since(from);
        if gap < STALL_MIN {
            return;
        }
        self.stall = Some((from, now));
        self.connected_time.leave_out(gap);
        let mut graces = Vec::new();
        for (id, peer) in &mut self.peers {
            if let Some(connected) = peer.connected_mut() {
                connected.heard += gap;
                if let Some(at) = self.timers.deadline(Timer::Grace(*id)) {
                    graces.push((*id, at + gap));
                }
            }
        }
        for (id, at) in graces {
            self.timers.set(Timer::Grace(id), at);
        }
        if self.connected > 0 && gap >= STALL_REPORTED_MIN {
            self.report(Report::Stalled { gap });
        }
    }
}
