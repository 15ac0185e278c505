//! Heartbeats, pings, and the silence that means death.
//!
//! Of each pair of nodes the one with the smaller id leads: this module tells its session when to send a heartbeat,
//! and the other node's session answers on its own. The sessions measure round-trip times and note when they last
//! heard their peers, and the mesh asks only when a silence may have lasted long enough.

use std::time::{Duration, Instant};

use super::backoff;
use super::io::{Output, Report, SessionId, Vitals};
use super::machine::{Mesh, millis};
use super::peer::{Connected, Link};
use super::session_table::Session;
use super::timer::Timer;
use crate::event::Event;
use crate::limits::{HEARTBEAT_MAX, PEER_TIMEOUT_MAX, TIMEOUT_HEARTBEATS};
use crate::trust::peer_id::PeerId;
use crate::wire::Message;

/// The log reports a stall of at least this duration.
const STALL_REPORTED_MIN: Duration = Duration::from_millis(500);

/// Send times of heartbeats in one interval, at most. Heartbeats that share a send time share one wake-up of the
/// coordinator.
const SLOTS_MAX: u32 = 8;
/// Times in one interval at which silent peers are looked at, at least. A peer is suspected after a silence of one and a half
/// intervals. With one time, a peer that is heard in the first half of an interval would need a look of its own.
const LOOKS_MIN: u32 = 2;
/// Members for each send time of an interval: enough to share a wake-up, and too few to load the machine at once.
const MEMBERS_PER_SLOT: u32 = 8;
/// A session that takes longer to answer has no processor: this machine is overloaded, and silence means little.
const SLOW_ANSWER: Duration = Duration::from_millis(50);
/// Longest wait for the first ping, which goes out once membership has settled and a round-trip time is measured.
const FIRST_PING_WAIT: Duration = Duration::from_secs(5);
/// Average time between two first pings, so that a new mesh does not ping on all its links at once.
const FIRST_PING_EACH: Duration = Duration::from_millis(10);

impl Mesh {
    /// A peer has connected, and got a Hello with this interval. Heartbeats begin once membership has settled, or after
    /// that interval: the peer waits for it.
    pub(super) fn start_liveness(&mut self, now: Instant, id: PeerId, told: Duration) {
        self.start_heartbeats(now, id, told);
        // A ping costs both machines more than a heartbeat, and on an overloaded one handshakes come first.
        let first_ping = self.slowed(FIRST_PING_WAIT.min(self.config.period));
        self.timers.set(Timer::Ping(id), now + first_ping);
    }

    /// A session has come up, on which the peer got a Hello with this interval.
    pub(super) fn start_heartbeats(&mut self, now: Instant, id: PeerId, told: Duration) {
        if self.leads(&id) {
            let first = self.send_time(now, now + told);
            self.timers.set_no_later(Timer::Heartbeat(id), first);
            if let Some(connected) = self.peers.connected_mut(&id) {
                connected.told.hello(told);
            }
        }
    }

    /// Whether this node sends the heartbeats of the pair.
    pub(super) fn leads(&self, id: &PeerId) -> bool {
        self.id < *id
    }

    /// Schedules the next heartbeat in the second half of an interval, so that not all peers have the same send time.
    pub(super) fn schedule_heartbeat(&mut self, now: Instant, id: PeerId) {
        let interval = self.interval();
        let wait = self.random_between(interval / 2, interval);
        let at = self.send_time(now, now + wait);
        self.timers.set(Timer::Heartbeat(id), at);
    }

    /// Membership has settled, or the load has fallen since. A peer that waits for its first heartbeat, or for one that
    /// tells a shorter interval, gets it at some time of an interval: peers that came at the same time do not keep the
    /// same send time.
    pub(super) fn beat_soon(&mut self, now: Instant, id: PeerId) {
        let interval = self.interval();
        let waits = |connected: &Connected| connected.told.last().is_none_or(|told| interval < told);
        if self.leads(&id) && self.peers.connected(&id).is_some_and(waits) {
            let wait = self.random_between(interval / SLOTS_MAX, interval);
            let next = self.send_time(now, now + wait);
            self.timers.set_no_later(Timer::Heartbeat(id), next);
        }
    }

    /// The last send time of heartbeats that is not after `at`, or the next one: a small mesh has so few of them that the
    /// last one may be over.
    fn send_time(&self, now: Instant, at: Instant) -> Instant {
        let slots = self.slots();
        let last = self.time_before(at, slots);
        if last > now { last } else { last + self.config.heartbeat / slots }
    }

    /// The last time to look at silent peers that is not after `at`. Each send time of heartbeats is one.
    fn look_before(&self, at: Instant) -> Instant {
        self.time_before(at, self.slots().max(LOOKS_MIN))
    }

    /// The number of send times in one interval: a power of two, so that few of them change when a member comes or goes.
    fn slots(&self) -> u32 {
        let members = u32::try_from(self.peers.joined()).unwrap_or(u32::MAX);
        1 << (members / MEMBERS_PER_SLOT).clamp(1, SLOTS_MAX).ilog2()
    }

    /// The last of so many times in an interval that is not after `at`. They are counted from the start of this mesh, so
    /// that nodes do not all have the same.
    fn time_before(&self, at: Instant, slots: u32) -> Instant {
        let slot = (self.config.heartbeat / slots).as_nanos().max(1);
        let past = at.saturating_duration_since(self.measures.started).as_nanos() % slot;
        at - Duration::from_nanos(u64::try_from(past).unwrap_or_default())
    }

    /// Notes a message of any kind from the peer.
    pub(super) fn heard(&mut self, now: Instant, arrived: Instant, id: &PeerId) {
        if self.is_connected(id) {
            self.hear(now, *id, arrived);
            if !self.leaving {
                self.join(now, *id);
            }
        }
    }

    /// Notes when a session last heard its peer. The driver calls this before a look at the mesh, and when a session
    /// ends.
    pub fn note_heard(&mut self, now: Instant, session: SessionId, at: Instant) {
        if let Some(Session { peer, closing: false, .. }) = self.sessions.get(session) {
            self.timers.advance(now);
            self.hear(now, peer, at);
        }
    }

    /// A session heard the peer at this time. That may have been just before the last look at the peer, which did not know
    /// of it yet. A silence from then on would be noticed late, so the next look comes sooner.
    fn hear(&mut self, now: Instant, id: PeerId, at: Instant) {
        let Some(connected) = self.peers.connected_mut(&id) else {
            return;
        };
        connected.hear(at);
        let is_asked = matches!(connected.link, Link::Open { drain_asked: Some(_), .. });
        let look = self.timers.deadline(Timer::Silence(id)).filter(|_| !is_asked);
        let suspected_at = self.suspected_at(now, &id).filter(|at| now < *at);
        if suspected_at.zip(look).is_some_and(|(suspected_at, look)| suspected_at < look) {
            self.look_sooner(id);
        }
    }

    /// Notes a round-trip time that a session reports.
    pub(super) fn measured(&mut self, now: Instant, id: PeerId, rtt: Option<Duration>) {
        let Some(rtt) = rtt else {
            return;
        };
        if let Some(connected) = self.peers.connected_mut(&id) {
            connected.rtt.measured(rtt);
            self.measures.rtt.measured(rtt);
            if self.exchange.is_settled() {
                self.ping_if_due(now, id);
            }
        }
    }

    /// It is time for a heartbeat to a peer.
    pub(super) fn heartbeat_due(&mut self, now: Instant, id: PeerId) {
        self.send_heartbeat(now, id);
        // The peer waits for the interval that this heartbeat announces.
        let next = self.send_time(now, now + self.interval());
        self.timers.set(Timer::Heartbeat(id), next);
    }

    pub(super) fn send_heartbeat(&mut self, now: Instant, id: PeerId) {
        let interval = self.interval();
        let Some(connected) = self.peers.connected_mut(&id) else {
            return;
        };
        connected.told.heartbeat(now, interval, connected.heard);
        let is_shorter = connected.told.is_shorter(connected.heard);
        if let Some(session) = connected.active() {
            self.output(Output::Heartbeat { session });
        }
        if is_shorter {
            self.look_sooner(id);
        }
    }

    /// A heartbeat or an acknowledgement brought news.
    pub(super) fn received_heartbeat(
        &mut self,
        now: Instant,
        session: SessionId,
        vitals: Vitals,
        arrived: Instant,
        rtt: Option<Duration>,
    ) {
        // To a leaving node it is no news.
        let Some(Session { peer: id, closing: false, .. }) =
            self.sessions.get(session).filter(|_| !self.leaving)
        else {
            return;
        };
        self.heard(now, arrived, &id);
        self.measured(now, id, rtt);
        if let Some(connected) = self.peers.connected_mut(&id) {
            let is_new = connected.digest.replace(vitals.digest) != Some(vitals.digest);
            let before = std::mem::replace(&mut connected.interval_ms, vitals.interval_ms);
            if vitals.interval_ms < before {
                self.look_sooner(id);
            }
            if is_new && vitals.digest == self.peers.digest() {
                self.end_reports(id, &[]);
            }
            self.compare_digests(now, id);
        }
    }

    /// The first ping goes out if there is a round-trip time to show beside it: within a tenth of a second, or
    /// longer if there are many others to ping.
    pub(super) fn ping_if_due(&mut self, now: Instant, id: PeerId) {
        let connected = self.peers.connected(&id).filter(|_| !self.leaving);
        if connected.is_some_and(|connected| !connected.is_pinged && connected.rtt.last.is_some()) {
            let others = u32::try_from(self.peers.joined()).unwrap_or(u32::MAX);
            let longest = FIRST_PING_EACH.saturating_mul(others).max(millis(100)).min(self.config.period);
            let longest = self.slowed(longest);
            let soon = self.random_between(Duration::ZERO, longest);
            self.timers.set_no_later(Timer::Ping(id), now + soon);
        }
    }

    /// The user asks for a ping now. A peer without a session gets none.
    pub(super) fn ping_now(&mut self, now: Instant, id: PeerId) {
        if !self.leaving && self.peers.connected(&id).is_some_and(|peer| peer.active().is_some()) {
            self.send_ping(now, id);
        }
    }

    pub(super) fn send_ping(&mut self, now: Instant, id: PeerId) {
        let (text, period) = (self.config.ping_text.clone(), self.slowed(self.config.period));
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(connected) = peer.connected_mut() else {
            return;
        };
        let is_first = !std::mem::replace(&mut connected.is_pinged, true);
        let has_session = connected.active().is_some();
        // Peers that met at the same time do not keep pinging at the same time. A ping that goes out together with
        // heartbeats needs no wake-up of its own.
        let wait = if is_first { backoff::between(&mut self.rng, period / 2, period) } else { period };
        peer.pings_sent += u64::from(has_session);
        let seq = peer.pings_sent;
        let is_shared = wait >= self.config.heartbeat;
        let next = if is_shared { self.send_time(now, now + wait) } else { now + wait };
        self.timers.set(Timer::Ping(id), next);
        if has_session {
            self.send(&id, Message::Ping { seq, text });
        }
    }

    pub(super) fn received_ping(&mut self, id: PeerId, seq: u64, text: String) {
        let via = self.via(&id);
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_joined()) else {
            return;
        };
        let rtt = peer.connected().and_then(|connected| connected.rtt.last);
        let rtt_ms = rtt.map(|rtt| rtt.as_secs_f64() * 1000.0);
        peer.pings_received += 1;
        let (name, addr) = (peer.name.clone(), peer.shown_addr());
        self.notify(Event::Ping { peer: id, name, addr, via, seq, text, rtt_ms });
    }

    /// Handles a message of the peer's user, on any of its sessions. The peer sends it on one session, so it arrives once.
    pub(super) fn received_broadcast(&mut self, id: PeerId, text: String) {
        if let Some(peer) = self.peers.get(&id).filter(|peer| peer.is_joined()) {
            let (name, addr) = (peer.name.clone(), peer.shown_addr());
            self.notify(Event::Message { peer: id, name, addr, text });
        }
    }

    /// The next look at the peer's silence may be too late: the peer, or this node, has a shorter interval than before, or the
    /// session has ended that was asked when it last heard the peer.
    pub(super) fn look_sooner(&mut self, id: PeerId) {
        let connected = self.peers.connected(&id).filter(|connected| connected.active().is_some());
        if let Some(at) = connected.map(|connected| connected.heard + self.suspicion(connected)) {
            self.timers.set_no_later(Timer::Silence(id), self.look_before(at));
        }
    }

    /// Checks whether the peer's silence has reached its timeout: the session says when it last heard the peer.
    pub(super) fn check_silence(&mut self, now: Instant, id: PeerId) {
        // This timer was set before the load rose: the peer is given more time now.
        let later = self.suspected_at(now, &id).filter(|at| now + self.config.heartbeat <= *at);
        if let Some(at) = later.filter(|_| self.is_overloaded()) {
            return self.timers.set(Timer::Silence(id), self.look_before(at));
        }
        let Some(connected) = self.peers.connected_mut(&id) else {
            return;
        };
        // Without a session the grace decides, and the next session sets this timer again.
        let Some(session) = connected.active() else {
            return;
        };
        let since = connected.heard;
        let is_unanswered = !connected.ask_drain(now);
        let dead_at = self.dead_at(now, &id);
        if !is_unanswered {
            // On a busy machine a heartbeat may lie unread in the socket: silence is judged by the messages that
            // arrived, not by those that this node had the time to read.
            self.timers.set(Timer::Silence(id), now + self.config.heartbeat);
            self.output(Output::DrainUnread { session, since });
            self.check_other_sessions(now, id);
        } else {
            // The session's thread has not run since: that is this node's fault, for a time.
            match dead_at.map(|dead_at| dead_at + self.config.timeout) {
                Some(give_up_at) if now < give_up_at => self.timers.set(Timer::Silence(id), give_up_at),
                _ => self.silent(now, id),
            }
        }
    }

    /// A session says when it last heard its peer. Nothing is left unread on it.
    pub(super) fn session_drained(&mut self, now: Instant, session: SessionId, heard: Instant) {
        let Some(Session { peer: id, .. }) = self.sessions.get(session) else {
            return;
        };
        let Some(connected) = self.peers.connected_mut(&id) else {
            return;
        };
        // A leaving node has said its goodbyes already.
        if self.leaving {
            return;
        }
        if connected.active() != Some(session) {
            return self.other_session_drained(now, id, session, heard);
        }
        let Some(asked) = connected.drain_answered() else {
            return;
        };
        connected.hear(heard);
        let delay =
            now.saturating_duration_since(asked).saturating_sub(self.measures.stalls.between(asked, now));
        if heard < asked && delay > Duration::ZERO {
            let has_changed = self.measures.load.note_answer(now, asked, delay, self.exchange.is_settled());
            self.load_noted(now, has_changed);
        }
        let suspected_at = self.suspected_at(now, &id).filter(|at| now < *at);
        let soon = self.suspected_anew(now, &id);
        match self.dead_at(now, &id) {
            Some(dead_at)
                if suspected_at.is_none() && delay >= SLOW_ANSWER && now < dead_at + self.config.timeout =>
            {
                // A heartbeat and its acknowledgement pass four threads, and each may be as slow as this answer.
                let wait = delay.saturating_mul(4).min(self.config.timeout);
                self.timers.set(Timer::Silence(id), soon.min(now + wait));
            }
            Some(dead_at) if now < dead_at => {
                // A peer that is silent for half of its timeout is suspected. The peer is likely to be heard before its
                // last send time, at which the mesh is awake anyway.
                let next = suspected_at.unwrap_or(dead_at.min(soon));
                if suspected_at.is_none() {
                    self.hold_anew(now, id);
                    self.seek_detour(now, id);
                }
                let look = self.look_before(next);
                self.timers.set(Timer::Silence(id), if now < look { look } else { next });
                if suspected_at.is_some() {
                    self.check_isolation(now);
                }
            }
            Some(dead_at) => self.silence_is_over(now, id, dead_at),
            None => self.silent(now, id),
        }
    }

    /// The time at which a connected peer is dead if it stays silent. A stall of this node is no silence of the peer.
    pub(super) fn dead_at(&self, now: Instant, id: &PeerId) -> Option<Instant> {
        let stalled = |from| self.measures.stalls.between(from, now);
        Some(self.silence_end(self.peers.connected(id)?, 1, stalled))
    }

    /// The time at which a connected peer is suspected if it stays silent.
    pub(super) fn suspected_at(&self, now: Instant, id: &PeerId) -> Option<Instant> {
        self.peers.connected(id).map(|connected| self.suspected_from(now, connected))
    }

    /// The same, of this peer.
    pub(super) fn suspected_from(&self, now: Instant, connected: &Connected) -> Instant {
        self.silence_end(connected, 2, |from| self.measures.stalls.between(from, now))
    }

    /// The time at which a connected peer is suspected that is heard now and falls silent again. A peer that is suspected
    /// already may be heard at any time, so it is looked at again by then.
    pub(super) fn suspected_anew(&self, now: Instant, id: &PeerId) -> Instant {
        let patience = self.peers.connected(id).map(|peer| self.patience_after(peer, peer.told.newest()));
        now + patience.unwrap_or_default() / 2
    }

    /// The silence after which a connected peer is dead.
    pub(super) fn patience(&self, connected: &Connected) -> Duration {
        self.silence_end(connected, 1, |_| Duration::ZERO) - connected.heard
    }

    /// The silence after which a connected peer is suspected: half of its timeout, which is one and a half heartbeats or
    /// more. A living peer may take so long.
    pub(super) fn suspicion(&self, connected: &Connected) -> Duration {
        self.silence_end(connected, 2, |_| Duration::ZERO) - connected.heard
    }

    /// The end of the silence after which this part of the patience is used up. This node has stalled for
    /// `stalled(from)` since a time.
    fn silence_end(
        &self,
        connected: &Connected,
        part: u32,
        stalled: impl Fn(Instant) -> Duration,
    ) -> Instant {
        let end = |(from, told): (Instant, Duration)| {
            from + self.patience_after(connected, told) / part + stalled(from)
        };
        connected.told.since(connected.heard).map(end).min().unwrap_or(connected.heard)
    }

    /// The silence after which a connected peer is dead that was told this interval.
    fn patience_after(&self, connected: &Connected, told: Duration) -> Duration {
        self.timeout_for(connected.interval_ms).max((told * TIMEOUT_HEARTBEATS).min(PEER_TIMEOUT_MAX))
    }

    /// The silence after which a peer with this heartbeat interval is dead: this node's timeout, or
    /// [`TIMEOUT_HEARTBEATS`] of the longer of both intervals if that is longer, but then at most
    /// [`PEER_TIMEOUT_MAX`], so that no peer counts as alive endlessly. A load of this node counts once it has told the
    /// peer a longer interval: what it has not read yet is read before a peer is lost.
    pub(super) fn timeout_for(&self, interval_ms: u32) -> Duration {
        let interval = millis(interval_ms.into()).max(self.config.heartbeat);
        self.config.timeout.max((interval * TIMEOUT_HEARTBEATS).min(PEER_TIMEOUT_MAX))
    }

    /// The heartbeat interval now: longer than configured while this machine is overloaded.
    pub(super) fn interval(&self) -> Duration {
        let configured = self.config.heartbeat;
        (configured * self.measures.load.factor()).min(HEARTBEAT_MAX.max(configured))
    }

    /// Whether this machine is overloaded.
    fn is_overloaded(&self) -> bool {
        self.measures.load.factor() > 1
    }

    /// A time in which others do something, on this machine: everything takes longer on an overloaded one.
    pub(super) fn slowed(&self, time: Duration) -> Duration {
        time.saturating_mul(self.measures.load.factor())
    }

    /// Tells the sessions what to tell with heartbeats and acknowledgements.
    pub(super) fn announce(&mut self) {
        let interval_ms = u32::try_from(self.interval().as_millis()).unwrap_or(u32::MAX);
        self.output(Output::Vitals(Vitals { digest: self.peers.digest(), interval_ms }));
    }

    /// Notes how long the thread of a session took to start, or to see a request for a heartbeat. The driver calls this
    /// before [`Mesh::handle_timeout`].
    pub fn note_session_delay(&mut self, delay: Duration) {
        self.measures.session_delay = delay;
    }

    /// Notes how late the driver serves the next timer, or a session the last heartbeat.
    pub(super) fn note_lateness(&mut self, now: Instant) {
        let session_delay = std::mem::take(&mut self.measures.session_delay);
        if let Some(due) = self.timers.next().filter(|due| *due <= now)
            && due > self.measures.started
        {
            let delay = now.saturating_duration_since(due).max(session_delay);
            let has_changed = self.measures.load.note(now, delay, self.exchange.is_settled());
            self.load_noted(now, has_changed);
        }
    }

    /// A delay of one of this node's threads has been noted.
    fn load_noted(&mut self, now: Instant, has_changed: bool) {
        if !has_changed {
            return;
        }
        self.dialing.set_load(self.measures.load.factor());
        self.announce();
        if self.exchange.is_settled() {
            let connected: Vec<PeerId> = self.peers.iter_connected().map(|(id, _)| *id).collect();
            connected.into_iter().for_each(|id| self.beat_soon(now, id));
        }
    }

    /// Detects a stall of this node: its timers fire late.
    pub(super) fn detect_stall(&mut self, now: Instant) {
        self.timers.advance(now);
        if let Some(length) = self.measures.stalls.detect(now, self.timers.next()) {
            self.peers.connected_time.leave_out(length);
            if self.peers.joined() > 0 && length >= STALL_REPORTED_MIN {
                self.report(Report::Stalled { gap: length });
            }
        }
    }
}
