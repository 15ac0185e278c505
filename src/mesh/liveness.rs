//! Heartbeats, pings, and the silence that means death.

use std::time::{Duration, Instant};

use super::event::Event;
use super::peer::{Peer, State};
use super::timers::Timer;
use super::{Mesh, Output, Report, Session, SessionId, millis};
use crate::identity::PeerId;
use crate::wire::{Echo, Message};

/// A timer served this late means that this node stood still (suspended, starved): what peers
/// sent meanwhile is still unread, so they get that much more patience.
pub const HELD_UP: Duration = Duration::from_millis(100);
/// Standing still for so long is worth a line in the log.
const HELD_UP_REPORTED: Duration = Duration::from_millis(500);

impl Mesh {
    /// A peer has become live. The first heartbeats go out soon, so that the first ping already
    /// knows a round-trip time, but not at the same instant from everybody.
    pub(super) fn start_liveness(&mut self, now: Instant, id: PeerId) {
        let heartbeat = self.random_between(millis(20), millis(120)).min(self.config.heartbeat);
        let ping = self.random_between(millis(150), millis(450)).min(self.config.period);
        self.timers.set(Timer::Heartbeat(id), now + heartbeat);
        self.timers.set(Timer::Ping(id), now + ping);
    }

    /// A message came from the peer, whatever it says.
    pub(super) fn heard(&mut self, now: Instant, id: &PeerId) {
        if let Some(live) = self.peers.get_mut(id).and_then(Peer::live_mut) {
            live.heard = live.heard.max(now);
            live.is_probed = false;
        }
    }

    pub(super) fn send_heartbeat(&mut self, now: Instant, id: PeerId) {
        let roster = self.roster;
        let Some(live) = self.peers.get_mut(&id).and_then(Peer::live_mut) else {
            return;
        };
        self.timers.set(Timer::Heartbeat(id), now + self.config.heartbeat);
        if live.active().is_none() {
            return;
        }
        let echo = live.heartbeats.to_echo.take().map(|(seq, at)| {
            let held = now.saturating_duration_since(at).as_micros();
            Echo { seq, held_us: u64::try_from(held).unwrap_or(u64::MAX) }
        });
        let seq = live.heartbeats.send(now);
        self.send(&id, Message::Heartbeat { seq, echo, roster });
    }

    pub(super) fn received_heartbeat(
        &mut self,
        now: Instant,
        id: PeerId,
        seq: u64,
        echo: Option<Echo>,
        roster: u64,
    ) {
        let Some(live) = self.peers.get_mut(&id).and_then(Peer::live_mut) else {
            return;
        };
        live.roster = Some(roster);
        live.heartbeats.to_echo = Some((seq, now));
        live.heartbeats.received += 1;
        let is_first = live.heartbeats.received == 1;
        if let Some(Echo { seq, held_us }) = echo {
            let rtt = live.heartbeats.echoed(now, seq, Duration::from_micros(held_us));
            rtt.into_iter().for_each(|rtt| self.rtt.measured(rtt));
        }
        if is_first {
            // Echoed at once, so that the other side has a round-trip time from the beginning.
            self.send_heartbeat(now, id);
        }
        self.compare_rosters(now, id, roster);
    }

    pub(super) fn send_ping(&mut self, now: Instant, id: PeerId) {
        let text = self.config.ping_text.clone();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let Some(live) = peer.live() else {
            return;
        };
        self.timers.set(Timer::Ping(id), now + self.config.period);
        if live.active().is_some() {
            peer.pings_sent += 1;
            let seq = peer.pings_sent;
            self.send(&id, Message::Ping { seq, text });
        }
    }

    pub(super) fn received_ping(&mut self, now: Instant, id: PeerId, seq: u64, text: String) {
        self.heard(now, &id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let State::Live(live) = &peer.state {
            let rtt_ms = live.heartbeats.rtt.last.map(|rtt| rtt.as_secs_f64() * 1000.0);
            peer.pings_received += 1;
            let (name, addr) = (peer.name.clone(), peer.shown_addr());
            self.notify(Event::Ping { peer: id, name, addr, seq, text, rtt_ms });
        }
    }

    /// What the peer's user says, on whichever of its sessions: it was sent on one, so it comes once.
    pub(super) fn received_broadcast(&mut self, now: Instant, id: PeerId, text: String) {
        self.heard(now, &id);
        if let Some(peer) = self.peers.get(&id).filter(|peer| peer.live().is_some()) {
            let (name, addr) = (peer.name.clone(), peer.shown_addr());
            self.notify(Event::Message { peer: id, name, addr, text });
        }
    }

    /// The peer's silence may have lasted long enough.
    pub(super) fn check_silence(&mut self, now: Instant, id: PeerId) {
        let Some(live) = self.peers.get_mut(&id).and_then(Peer::live_mut) else {
            return;
        };
        let dead_at = live.heard + live.timeout;
        if now < dead_at {
            live.is_probed = false;
            self.timers.set(Timer::Silence(id), dead_at);
        } else if let Some(session) = live.active() {
            if std::mem::replace(&mut live.is_probed, true) {
                self.silent(now, id);
            } else {
                // On a starved machine a heartbeat may lie unread in the socket: silence is judged
                // by what arrived, not by what this node had the time to read. A session that
                // doesn't answer within a heartbeat has nothing to say for its peer.
                self.output(Output::Probe { session });
                self.timers.set(Timer::Silence(id), now + self.config.heartbeat);
            }
        }
        // Without a session the grace decides, and the next session sets this timer anew.
    }

    /// Nothing was left unread on a session whose peer has been silent for its timeout.
    pub(super) fn session_quiet(&mut self, now: Instant, session: SessionId) {
        let Some(&Session { peer, .. }) = self.sessions.get(&session) else {
            return;
        };
        let live = self.peers.get(&peer).and_then(Peer::live);
        // Who leaves has said its goodbyes already.
        if !self.leaving && live.is_some_and(|live| live.is_probed && live.active() == Some(session)) {
            self.check_silence(now, peer);
        }
    }

    /// If timers are served late, everybody's patience grows by as much.
    pub(super) fn notice_gap(&mut self, now: Instant) {
        let last_turn = std::mem::replace(&mut self.last_turn, now);
        let Some(due) = self.timers.next() else {
            return;
        };
        let gap = now.saturating_duration_since(due.max(last_turn));
        if gap < HELD_UP {
            return;
        }
        let mut graces = Vec::new();
        for (id, peer) in &mut self.peers {
            if let Some(live) = peer.live_mut() {
                live.heard += gap;
                if let Some(at) = self.timers.deadline(Timer::Grace(*id)) {
                    graces.push((*id, at + gap));
                }
            }
        }
        for (id, at) in graces {
            self.timers.set(Timer::Grace(id), at);
        }
        if self.live > 0 && gap >= HELD_UP_REPORTED {
            self.report(Report::HeldUp { gap });
        }
    }
}
