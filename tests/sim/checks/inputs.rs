//! The effect of inputs on the expected state of a node.

use p2p_gossip::DialAddr;
use p2p_gossip::internals::mesh::{DialError, DisconnectReason, Input, Mesh, SessionId, SessionUp};
use p2p_gossip::internals::session::SessionEvent;
use p2p_gossip::internals::wire::{ByeReason, Message};

use super::super::clock::{MS, SECOND, micros};
use super::super::net::{ConnId, Side};
use super::super::oracle::{ExpectedState, Moment, SessionOracle};
use super::super::process::ProcId;
use super::super::world::World;
use super::{IDENTITY, SLACK};

impl World {
    pub fn saw_session_up(&mut self, proc: ProcId, up: &SessionUp, conn: ConnId, side: Side) {
        // The design's rule: the node's timeout or three of the peer's heartbeats, but the latter a minute at most.
        let theirs = (3 * u64::from(up.hello.heartbeat_ms) * MS).min(60 * SECOND);
        let timeout = micros(self.procs[proc].config.timeout).max(theirs);
        let oracle = &mut self.procs[proc].oracle;
        let dialled = oracle.dials.remove(&up.session);
        oracle.changed.insert(up.peer);
        let open = !oracle.cancelled.contains(&up.session);
        oracle.came_up += 1;
        let order = oracle.came_up;
        oracle.sessions.insert(up.session, SessionOracle { peer: up.peer, conn, side, open, order });
        if open {
            oracle.newest = Some((up.peer, up.session));
            oracle.newest_dialled = dialled;
            oracle.newest_timeout = timeout;
        }
        let peer = oracle.peer(up.peer);
        let mut shown: Vec<_> = up.hello.advertised.clone();
        if side == 0 {
            shown.push(up.remote.into());
        } else {
            shown.push(DialAddr::Socket((up.remote.ip(), up.hello.listen_port).into()));
        }
        peer.first_hand.extend(shown.into_iter().filter(DialAddr::is_dialable));
    }

    /// Runs after the mesh has handled a new session: the mesh sends on it from now on, or has refused it.
    pub fn check_newest(&mut self, proc: ProcId, mesh: &Mesh) {
        let moment = self.moment(proc);
        let Some((peer, session)) = self.procs[proc].oracle.newest.take() else {
            return;
        };
        let process = &mut self.procs[proc];
        if !process.oracle.sessions.get(&session).is_some_and(|s| s.open) {
            return;
        }
        process.oracle.heard(peer, moment);
        process.oracle.peer(peer).timeout = process.oracle.newest_timeout;
        if mesh.open_sessions(&peer).last() != Some(&session) {
            let open = mesh.open_sessions(&peer).to_vec();
            self.violated(IDENTITY, format!("p{proc}: {session} is the newest, but open are {open:?}"));
            return;
        }
        if session.is_dialled() {
            let conn = process.oracle.sessions[&session].conn;
            let reached = DialAddr::from(self.conns[conn].addr);
            let oracle = &mut self.procs[proc].oracle;
            let dialled = oracle.newest_dialled.take();
            // Another peer was there before. It may have lost the address.
            for (_, other) in oracle.peers.iter_mut().filter(|(id, _)| **id != peer) {
                if other.state != ExpectedState::Up && other.proven.contains(&reached) {
                    other.proven.clear();
                }
            }
            let peer = oracle.peer(peer);
            // The dialled name is proven only if the peer advertises it.
            let own = dialled.filter(|addr| peer.first_hand.contains(addr));
            peer.proven = [reached].into_iter().chain(own).collect();
        }
    }

    /// The mesh handles an event of a session that was reported at this moment.
    pub fn saw_event(&mut self, proc: ProcId, moment: Moment, session: SessionId, event: &SessionEvent) {
        let message = match event {
            SessionEvent::Received { message, .. } => Some(message),
            SessionEvent::Heartbeat { .. } => None,
            _ => return,
        };
        let oracle = &mut self.procs[proc].oracle;
        let Some(&SessionOracle { peer, open, .. }) = oracle.sessions.get(&session) else {
            return;
        };
        if open || matches!(message, Some(Message::Ping { .. })) {
            oracle.heard(peer, moment);
            if open && std::mem::take(&mut oracle.peer(peer).refuses) {
                oracle.changed.insert(peer);
            }
        }
        if let Some(Message::Peers { records, .. }) = message {
            for record in records.iter().filter(|record| record.connected) {
                oracle.peer(record.id).listed_connected = Some(moment.at);
            }
        }
    }

    /// A session's thread hears its peer. The mesh reads that time before it declares the peer dead.
    pub fn saw_heard(&mut self, proc: ProcId, session: SessionId) {
        let moment = self.moment(proc);
        let oracle = &mut self.procs[proc].oracle;
        if let Some(&SessionOracle { peer, open: true, .. }) = oracle.sessions.get(&session) {
            // The mesh reads it from the newest session only.
            if oracle.open_sessions(&peer).max_by_key(|open| oracle.order(open)) == Some(session) {
                oracle.heard(peer, moment);
            }
        }
    }

    /// The mesh handles an input.
    pub fn saw_input(&mut self, proc: ProcId, input: &Input) {
        match input {
            Input::SessionDown { session, reason } => self.saw_session_down(proc, *session, *reason),
            Input::DialFailed { session, reason } => self.saw_dial_failed(proc, *session, reason),
            _ => {}
        }
    }

    pub fn saw_dial_failed(&mut self, proc: ProcId, session: SessionId, reason: &DialError) {
        let process = &mut self.procs[proc];
        let at = process.oracle.dials.remove(&session);
        if let (Some(at), DialError::WrongId { .. }) = (at, reason) {
            // The node's own key or another peer answered there, so the address is no longer the first one of any peer.
            let there = process.oracle.peers.values_mut().filter(|peer| peer.proven.contains(&at));
            there.for_each(|peer| peer.proven.clear());
        }
    }

    pub fn saw_session_down(&mut self, proc: ProcId, session: SessionId, reason: DisconnectReason) {
        let (moment, now) = (self.moment(proc), self.now);
        let timeout = micros(self.procs[proc].config.timeout) * 102 / 100 + SLACK;
        let oracle = &mut self.procs[proc].oracle;
        let Some(ended) = oracle.sessions.remove(&session) else {
            return;
        };
        oracle.changed.insert(ended.peer);
        if let DisconnectReason::Bye(_) = reason
            && ended.open
        {
            oracle.heard(ended.peer, moment);
        }
        if !ended.open || oracle.open_sessions(&ended.peer).next().is_some() || oracle.leaving {
            return;
        }
        if let DisconnectReason::Bye(bye) = reason {
            let is_refusal = !matches!(bye, ByeReason::Duplicate | ByeReason::Silent | ByeReason::Leaving);
            oracle.peer(ended.peer).refuses |= is_refusal;
        }
        if !oracle.is_up(&ended.peer) {
            return;
        }
        // After these goodbyes another session follows, or the grace ends. So it is when a session breaks soon after a
        // stall, in which the peer may have given it up.
        let is_given_up =
            reason == DisconnectReason::Closed && oracle.woke_since(now.saturating_sub(timeout));
        let is_announced = matches!(reason, DisconnectReason::Bye(ByeReason::Duplicate | ByeReason::Silent));
        if is_given_up || is_announced {
            oracle.peer(ended.peer).sessionless_since = Some(now);
        } else {
            oracle.must_be_down.push(ended.peer);
        }
    }
}
