//! The effect of inputs on the expected state of a node.

use std::net::SocketAddr;

use p2p_gossip::internals::mesh::{
    CircuitAt, DialError, DisconnectReason, Input, Mesh, SessionId, SessionUp,
};
use p2p_gossip::internals::session::SessionEvent;
use p2p_gossip::internals::wire::{ByeReason, Message, PeerRecord};
use p2p_gossip::{DialAddr, PeerId};

use super::super::clock::{MS, Micros, SECOND, micros};
use super::super::net::{ConnId, Side};
use super::super::oracle::{Debtor, Detour, ExpectedState, Moment, Rank, SessionOracle};
use super::super::process::ProcId;
use super::super::world::World;
use super::{IDENTITY, RUMOURS, SLACK};

impl World {
    /// The silence after which a peer that announces this heartbeat interval is dead. The design's rule: the node's timeout
    /// or three of the peer's heartbeats, but the latter a minute at most.
    fn timeout_for(&self, proc: ProcId, interval_ms: u32) -> Micros {
        let theirs = (3 * u64::from(interval_ms) * MS).min(60 * SECOND);
        micros(self.procs[proc].config.timeout).max(theirs)
    }

    pub fn saw_session_up(&mut self, proc: ProcId, up: &SessionUp, conn: ConnId, side: Side) {
        let timeout = self.timeout_for(proc, up.hello.heartbeat_ms);
        self.detours_end(proc, |detour| *detour == Detour::Entered(up.session));
        let oracle = &mut self.procs[proc].oracle;
        let dialled = oracle.dials.remove(&up.session);
        if let Some(dial) = &dialled {
            oracle.waive(&dial.debtors);
        }
        oracle.changed.insert(up.peer);
        let open = !oracle.cancelled.contains(&up.session);
        // Inside a circuit the address is that of the carrier, and outside of a NAT a port at which no node listens.
        let is_elsewhere = up.session.is_carried() || up.session.is_punched();
        oracle.came_up += 1;
        let order = oracle.came_up;
        oracle
            .sessions
            .insert(up.session, SessionOracle { peer: up.peer, conn, side, open, order, heard: None });
        if open {
            oracle.newcomer = Some(up.peer);
            oracle.newest = Some((up.peer, up.session));
            oracle.newest_dialled = dialled.map(|dial| dial.addr);
            oracle.newest_source =
                (!is_elsewhere).then_some(SocketAddr::new(up.remote.ip(), up.hello.listen_port));
            oracle.newest_timeout = timeout;
        }
        let reached = oracle.newest_dialled.clone().filter(|_| open && side == 0);
        let peer = oracle.peer(up.peer);
        if reached.is_some() {
            peer.reached.insert(up.remote.into());
        }
        peer.reached.extend(reached);
        if open && up.session.is_punched() {
            peer.came_from = Some(up.remote.ip());
        }
        let mut shown: Vec<_> = up.hello.advertised.clone();
        if is_elsewhere {
        } else if side == 0 {
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
        self.check_place(proc, peer, session);
        let process = &mut self.procs[proc];
        if session.is_dialled() && !session.is_carried() && !session.is_punched() {
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
        let (message, timeout) = match event {
            SessionEvent::Received { message, .. } => (Some(message), None),
            SessionEvent::Heartbeat { vitals, .. } => {
                (None, Some(self.timeout_for(proc, vitals.interval_ms)))
            }
            _ => return,
        };
        let oracle = &mut self.procs[proc].oracle;
        let Some(&SessionOracle { peer, open, .. }) = oracle.sessions.get(&session) else {
            return;
        };
        if open {
            oracle.heard(peer, moment);
            let expected = oracle.peer(peer);
            expected.timeout = timeout.unwrap_or(expected.timeout);
            if std::mem::take(&mut expected.refuses) {
                oracle.changed.insert(peer);
            }
        }
        if let Some(&Message::CircuitClose { circuit, .. }) = message {
            self.detours_end(proc, |detour| *detour == Detour::Asked(CircuitAt { session, circuit }));
        }
        let oracle = &mut self.procs[proc].oracle;
        if let Some(Message::ReachableAt { addr }) = message
            && open
        {
            let addr = DialAddr::from(*addr);
            oracle.peer(peer).first_hand.extend(addr.is_dialable().then_some(addr));
        }
        if let Some(Message::Peers { records, more }) = message
            && open
        {
            self.saw_list(proc, session, records);
            if !more {
                self.procs[proc].oracle.asked.remove(&peer);
            }
        }
    }

    /// A list arrived. Its sender owes the dials that the list causes.
    fn saw_list(&mut self, proc: ProcId, session: SessionId, records: &[PeerRecord]) {
        let now = self.now;
        let Some(&SessionOracle { peer: sender, conn, side, .. }) =
            self.procs[proc].oracle.sessions.get(&session)
        else {
            return;
        };
        let is_honest = self
            .far_end(conn, side)
            .is_some_and(|teller| !self.procs[teller].is_liar && !self.procs[teller].is_attacker);
        let oracle = &mut self.procs[proc].oracle;
        // A list without a request is ignored.
        if !oracle.asked.contains(&sender) {
            return;
        }
        let from = &self.conns[conn];
        let machine = if side == 0 { from.addr.ip() } else { from.source.ip() };
        let (least, most) = (oracle.peer(sender).least_rank(now), oracle.peer(sender).most_rank(now));
        let as_stranger = (least == Rank::Stranger).then_some(Debtor::Machine(machine));
        let as_known = (most > Rank::Stranger).then_some(Debtor::Peer(sender));
        for record in records {
            let peer = oracle.peer(record.id);
            peer.listed_at = Some(now);
            if record.connected {
                peer.listed_connected = Some(now);
            }
            peer.listed.extend(record.addrs.iter().cloned());
            if is_honest {
                peer.listed_honestly.extend(record.addrs.iter().cloned());
            }
            peer.tellers.extend(as_stranger.iter().chain(&as_known).cloned());
        }
    }

    /// A session that stays has come up. A strict node takes no peer at the address of another one.
    fn check_place(&mut self, proc: ProcId, id: PeerId, session: SessionId) {
        let process = &mut self.procs[proc];
        let (strict, oracle) = (process.config.strict, &mut process.oracle);
        let Some(source) = oracle.newest_source.take() else {
            return;
        };
        let dialled = oracle.newest_dialled.clone();
        let origin = (!session.is_dialled()).then(|| DialAddr::from(source));
        let at = dialled.or_else(|| origin.clone());
        let peer = oracle.peer(id);
        let is_exempt = !strict || peer.is_named || at.is_none() || peer.origin == at && peer.is_known;
        peer.came_from = Some(source.ip());
        peer.origin.clone_from(&origin);
        peer.stays_left = false;
        let others = || oracle.peers.iter().filter(|(other, peer)| **other != id && peer.is_known);
        let reached = others().find(|(_, peer)| at.as_ref().is_some_and(|at| peer.proven.contains(at)));
        // Behind a router all peers of a site come from one address.
        let came = || others().filter(|(_, peer)| peer.origin == at);
        let is_shared = origin.is_some() && came().any(|(_, peer)| peer.state == ExpectedState::Up);
        if let Some((owner, _)) = reached.or_else(|| came().next().filter(|_| !is_shared))
            && !is_exempt
        {
            let detail =
                format!("p{proc} takes {} at {at:?}, which belongs to {}", id.short(), owner.short());
            self.violated(RUMOURS, detail);
        }
    }

    /// A session's thread hears its peer. The mesh reads that time before it declares the peer dead.
    pub fn saw_heard(&mut self, proc: ProcId, session: SessionId) {
        let moment = self.moment(proc);
        let oracle = &mut self.procs[proc].oracle;
        if let Some(SessionOracle { peer, open: true, heard, .. }) = oracle.sessions.get_mut(&session) {
            let peer = *peer;
            *heard = Some(moment);
            // The mesh reads it from the newest session, and from one that ends.
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
            // The goodbye to a carrier follows later, and its session may be lost before.
            Input::Leave => self.procs[proc].oracle.leaving = true,
            _ => {}
        }
    }

    pub fn saw_dial_failed(&mut self, proc: ProcId, session: SessionId, reason: &DialError) {
        self.detours_end(proc, |detour| *detour == Detour::Entered(session));
        let process = &mut self.procs[proc];
        let at = process.oracle.dials.remove(&session).map(|dial| dial.addr);
        if let (Some(at), DialError::WrongId { found }) = (&at, reason) {
            // The node has seen this peer there itself.
            let found = process.oracle.peer(*found);
            found.listed.insert(at.clone());
            found.seen_at.insert(at.clone());
        }
        if let (Some(at), DialError::WrongId { .. }) = (at, reason) {
            // The node's own key or another peer answered there, so the address is no longer the first one of any peer.
            let there = process.oracle.peers.values_mut().filter(|peer| peer.proven.contains(&at));
            there.for_each(|peer| peer.proven.clear());
        }
    }

    pub fn saw_session_down(&mut self, proc: ProcId, session: SessionId, reason: DisconnectReason) {
        self.detours_end(proc, |detour| matches!(detour, Detour::Asked(at) if at.session == session));
        let (moment, now) = (self.moment(proc), self.now);
        let timeout = micros(self.procs[proc].config.timeout) * 102 / 100 + SLACK;
        let oracle = &mut self.procs[proc].oracle;
        let Some(ended) = oracle.sessions.remove(&session) else {
            return;
        };
        oracle.changed.insert(ended.peer);
        if let Some(heard) = ended.heard.filter(|_| ended.open) {
            oracle.heard(ended.peer, heard);
        }
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
            let peer = oracle.peer(ended.peer);
            peer.refuses |= is_refusal;
            if is_refusal {
                peer.refused_at = now;
            }
        }
        if !oracle.is_up(&ended.peer) {
            return;
        }
        // After these goodbyes another session follows, or the grace ends. So it is when a session breaks soon after a
        // stall, in which the peer may have given it up.
        let is_given_up =
            reason == DisconnectReason::Closed && oracle.woke_since(now.saturating_sub(timeout));
        let is_path_gone =
            session.is_carried() && matches!(reason, DisconnectReason::Closed | DisconnectReason::Protocol);
        let is_announced =
            is_path_gone || matches!(reason, DisconnectReason::Bye(ByeReason::Duplicate | ByeReason::Silent));
        if is_given_up || is_announced {
            oracle.peer(ended.peer).sessionless_since = Some(now);
        } else {
            oracle.must_be_down.push(ended.peer);
        }
    }
}
