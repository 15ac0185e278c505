//! The thread of a session. It connects and completes a simulated TLS handshake. Then it drives the session's
//! [`Protocol`] over a byte pipe, as the real thread does over a socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_gossip::PeerId;
use p2p_gossip::internals::Expected;
use p2p_gossip::internals::limits::{CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT};
use p2p_gossip::internals::mesh::{DialError, DisconnectReason, SessionId, Vitals};
use p2p_gossip::internals::session::{Ends, OutboxFull, Protocol, Request, Role, SessionEvent, Transmit};

use super::attacker::is_third_party;
use super::clock::{Micros, micros};
use super::net::{ConnId, End, Packet, Side};
use super::process::{Deferred, ProcId};
use super::world::World;

/// The progress of a session's thread.
#[derive(Debug)]
pub enum Stage {
    Connecting,
    /// The client has sent its ClientHello.
    AwaitingServer,
    /// The server has received nothing yet.
    AwaitingClient,
    /// The server has sent its part of the handshake.
    AwaitingFinished,
    /// The TLS handshake is complete.
    Secured(Box<Protocol>),
}

/// The time limits of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    Connect,
    Handshake,
    /// The deadline of the protocol at this time.
    Protocol(Micros),
}

#[derive(Debug)]
pub struct Thread {
    pub id: SessionId,
    pub stage: Stage,
    pub expected: Expected,
    /// The peers that must not answer.
    skipped: Vec<PeerId>,
    pub outbox: VecDeque<Request>,
    /// When the coordinator requested a heartbeat. This takes no room in the outbox.
    heartbeat_asked: Option<Instant>,
    /// The coordinator requests the unread messages. This takes no room in the outbox.
    is_drain_wanted: bool,
    /// The session must end at once, because others need its place.
    is_evicted: bool,
    /// Whether the coordinator holds the other end of the outbox.
    pub has_handle: bool,
    pub started: Micros,
    /// The time at which TCP was connected.
    connected: Micros,
    /// Bytes that the kernel has not taken yet.
    unsent: Vec<u8>,
    /// Whether this direction closes after the unsent bytes.
    closes: bool,
    /// The deadline for which a [`Limit::Protocol`] is scheduled.
    deadline: Option<Micros>,
}

impl Thread {
    pub fn new(id: SessionId, stage: Stage, expected: Expected, now: Micros) -> Self {
        Self {
            id,
            stage,
            expected,
            skipped: Vec::new(),
            outbox: VecDeque::new(),
            heartbeat_asked: None,
            is_drain_wanted: false,
            is_evicted: false,
            has_handle: true,
            started: now,
            connected: now,
            unsent: Vec::new(),
            closes: false,
            deadline: None,
        }
    }

    /// Whether the coordinator knows of it before it comes up, also if this end accepts.
    fn is_asked_for(&self) -> bool {
        self.id.is_carried() || self.id.is_punched()
    }

    pub fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting)
    }

    pub fn is_handshaking(&self) -> bool {
        self.protocol().is_none_or(|protocol| !protocol.is_up())
    }

    /// Whether the session is up and neither side has said goodbye.
    pub fn is_open(&self) -> bool {
        self.protocol().is_some_and(Protocol::is_open)
    }

    /// Passes the coordinator's requests to the protocol. Returns how long the request for a heartbeat has waited.
    fn take_requests(&mut self, now: Instant, vitals: Vitals) -> Option<Duration> {
        let Stage::Secured(protocol) = &mut self.stage else {
            return None;
        };
        protocol.set_vitals(vitals);
        if std::mem::take(&mut self.is_evicted) {
            protocol.handle_request(now, Request::Release);
        }
        if std::mem::take(&mut self.is_drain_wanted) {
            protocol.handle_request(now, Request::DrainUnread);
        }
        let asked = if protocol.wants_requests() { self.heartbeat_asked.take() } else { None };
        if asked.is_some() {
            protocol.handle_request(now, Request::Heartbeat);
        }
        while protocol.wants_requests() {
            let Some(request) = self.outbox.pop_front() else {
                if !self.has_handle {
                    protocol.handle_request(now, Request::Release);
                }
                break;
            };
            protocol.handle_request(now, request);
        }
        while protocol.handle_circuits() {}
        asked.map(|asked| now.saturating_duration_since(asked))
    }

    pub fn protocol(&self) -> Option<&Protocol> {
        match &self.stage {
            Stage::Secured(protocol) => Some(protocol),
            _ => None,
        }
    }
}

impl World {
    pub fn dial(
        &mut self,
        proc: ProcId,
        id: SessionId,
        addr: SocketAddr,
        expected: Expected,
        skipped: Vec<PeerId>,
    ) {
        if is_third_party(addr.ip()) {
            self.lent_dials.push((self.now, proc));
        }
        let thread = Thread { skipped, ..Thread::new(id, Stage::Connecting, expected, self.now) };
        let conn = self.open_connection(proc, thread, addr);
        self.procs[proc].handles.insert(id, (conn, 0));
        self.limit(conn, 0, Limit::Connect, self.now + micros(CONNECT_TIMEOUT));
        self.limit(conn, 0, Limit::Handshake, self.now + micros(HANDSHAKE_TIMEOUT));
    }

    pub fn accept(&mut self, conn: ConnId) {
        let Some(proc) = self.conns[conn].ends[1].proc else {
            return;
        };
        self.procs[proc].accepted += 1;
        let id = SessionId::accepted(self.procs[proc].accepted);
        self.conns[conn].ends[1].thread =
            Some(Thread::new(id, Stage::AwaitingClient, Expected::AnyPeer, self.now));
        self.limit(conn, 1, Limit::Handshake, self.now + micros(HANDSHAKE_TIMEOUT));
    }

    pub fn connected(&mut self, conn: ConnId) {
        if let Some(thread) = &mut self.conns[conn].ends[0].thread
            && thread.is_connecting()
        {
            thread.stage = Stage::AwaitingServer;
            thread.connected = self.now;
            self.transmit(conn, 0, Packet::ClientHello);
        }
    }

    pub fn refused(&mut self, conn: ConnId) {
        let is_connecting = self.conns[conn].ends[0].thread.as_ref().is_some_and(Thread::is_connecting);
        if is_connecting && !self.conns[conn].established {
            let refused = DialError::Refused("connection refused".to_owned());
            self.end(conn, 0, Some(SessionEvent::DialFailed(refused)));
        }
    }

    /// Ends a dial without a session.
    fn fail(&mut self, conn: ConnId, why: &str) {
        self.end(conn, 0, Some(SessionEvent::DialFailed(DialError::Failed(why.to_owned()))));
    }

    /// Whether the process at this end admits the peer, as its verifier does.
    fn admits(&self, conn: ConnId, side: Side, peer: &PeerId) -> bool {
        let proc = self.conns[conn].ends[side].proc;
        proc.is_none_or(|proc| self.procs[proc].oracle.access.check(peer).is_ok())
    }

    fn set_stage(&mut self, conn: ConnId, side: Side, stage: Stage) {
        if let Some(thread) = &mut self.conns[conn].ends[side].thread {
            thread.stage = stage;
        }
    }

    /// Puts an event into the coordinator's inbox.
    fn report(&mut self, conn: ConnId, side: Side, id: SessionId, event: SessionEvent) {
        if let Some(proc) = self.conns[conn].ends[side].proc {
            let moment = self.moment(proc);
            self.procs[proc].inbox.push_back((moment, id, conn, side, event));
            let hop = self.scenario.faults.thread_hop_us;
            let at = self.now + if hop == 0 { 0 } else { self.rng.u64(0..=hop) };
            self.want_turn(proc, at);
        }
    }

    /// Ends the thread: closes its socket and reports its last event.
    pub fn end(&mut self, conn: ConnId, side: Side, last: Option<SessionEvent>) {
        self.note(|| format!("c{conn} ends at its end {side}: {last:?}"));
        let thread = self.conns[conn].ends[side].thread.take();
        if let Some(thread) = thread {
            let failed = || SessionEvent::DialFailed(DialError::Failed("no session".to_owned()));
            let last = last.or_else(|| (thread.is_asked_for() && thread.protocol().is_none()).then(failed));
            if let Some(proc) = self.conns[conn].ends[side].proc {
                self.procs[proc].places.remove(thread.id);
            }
            if let Some(last) = last {
                self.report(conn, side, thread.id, last);
            }
        }
        self.close_socket(conn, side, Packet::Fin);
    }

    pub fn close_socket(&mut self, conn: ConnId, side: Side, last: Packet) {
        if !std::mem::replace(&mut self.conns[conn].ends[side].open, false) {
            return;
        }
        if self.conns[conn].circuit.is_some() {
            self.close_circuit_link(conn);
        } else if self.conns[conn].established {
            self.transmit(conn, side, last);
        }
        if let Some(proc) = self.conns[conn].ends[side].proc {
            self.procs[proc].conns.remove(&(conn, side));
        }
        if !self.conns[conn].ends[1 - side].open {
            self.audit_later(conn);
        }
    }

    pub fn thread_receives(&mut self, conn: ConnId, side: Side, packet: Packet) {
        let Some(proc) = self.conns[conn].ends[side].proc else {
            return;
        };
        let Some(thread) = &mut self.conns[conn].ends[side].thread else {
            return;
        };
        match (&mut thread.stage, packet) {
            (Stage::AwaitingServer, Packet::ServerHello(found)) => {
                if !thread.expected.is_met_by(&found) {
                    self.end(conn, 0, Some(SessionEvent::DialFailed(DialError::WrongId { found })));
                } else if thread.skipped.contains(&found) {
                    self.end(conn, 0, Some(SessionEvent::DialFailed(DialError::NothingNew)));
                } else if !self.admits(conn, 0, &found) {
                    self.fail(conn, "refused by our own lists");
                } else {
                    let own = self.id_at(conn, 0).unwrap_or(self.procs[proc].id);
                    self.transmit(conn, 0, Packet::Finished(own));
                    self.secured(conn, 0, found);
                }
            }
            (Stage::AwaitingClient, Packet::ClientHello) => {
                self.set_stage(conn, 1, Stage::AwaitingFinished);
                self.transmit(conn, 1, Packet::ServerHello(self.procs[proc].id));
            }
            (Stage::AwaitingFinished, Packet::Finished(peer)) => {
                if thread.expected.is_met_by(&peer) && self.admits(conn, 1, &peer) {
                    self.secured(conn, 1, peer);
                } else {
                    self.end(conn, 1, None);
                }
            }
            (Stage::Connecting | Stage::AwaitingServer, _) => self.fail(conn, "closed during the handshake"),
            (Stage::AwaitingClient | Stage::AwaitingFinished, _) => self.end(conn, side, None),
            (Stage::Secured(_), Packet::Garbled) => {
                self.end(conn, side, Some(SessionEvent::Down(DisconnectReason::Protocol)));
            }
            (Stage::Secured(protocol), packet) => {
                match packet {
                    Packet::Bytes(bytes) => {
                        let local = self.procs[proc].clock.local(self.now);
                        protocol.handle_bytes(local, &bytes);
                    }
                    _ => protocol.handle_end(),
                }
                self.run_thread(conn, side);
            }
        }
    }

    /// The TLS handshake is complete at this end.
    fn secured(&mut self, conn: ConnId, side: Side, peer: PeerId) {
        let connection = &self.conns[conn];
        let (Some(proc), Some(thread)) = (connection.ends[side].proc, &connection.ends[side].thread) else {
            return;
        };
        let (remote, seen) = match side {
            0 => (connection.addr, connection.source),
            _ => (connection.source, connection.addr),
        };
        let slot = self.procs[proc].slot;
        let local = connection.circuit.is_none().then(|| self.inner_address(slot, seen));
        let shown = connection.key.clone().filter(|_| side == 0);
        let process = &mut self.procs[proc];
        let (id, now) = (thread.id, process.clock.local(self.now));
        let Ok(frames) = process.key_rates.admit(now, peer, id.is_dialled()) else {
            return self.end(conn, side, None);
        };
        let (own, exchange) = shown.unwrap_or_else(|| (process.id, process.exchange.clone()));
        let ends = Ends { session: id, own, peer, remote, local };
        let role = if side == 0 { Role::Dialler } else { Role::Acceptor };
        let by = thread.started + micros(HANDSHAKE_TIMEOUT);
        let mut exported = [0; 32];
        exported[..8].copy_from_slice(&conn.to_be_bytes());
        let mut protocol =
            Protocol::new(now, ends, role, exchange, exported, process.vitals, process.clock.local(by));
        protocol.share_rate_limit(frames);
        self.set_stage(conn, side, Stage::Secured(Box::new(protocol)));
        self.run_thread(conn, side);
    }

    /// One round of the thread of a session whose TLS handshake is complete, as in `session/established.rs`.
    pub fn run_thread(&mut self, conn: ConnId, side: Side) {
        let Some(proc) = self.conns[conn].ends[side].proc else {
            return;
        };
        if self.procs[proc].paused || self.runs_later(conn, side) {
            return;
        }
        let Some(mut thread) = self.conns[conn].ends[side].thread.take() else {
            return;
        };
        let now = self.procs[proc].clock.local(self.now);
        if let Some(delay) = thread.take_requests(now, self.procs[proc].vitals) {
            self.procs[proc].session_delay = delay;
        }
        let is_asked_for = thread.is_asked_for();
        let Stage::Secured(protocol) = &mut thread.stage else {
            self.conns[conn].ends[side].thread = Some(thread);
            return;
        };

        let was_up = protocol.is_up();
        protocol.handle_timeout(now);
        // A deadline that ends a session may lose what was sent.
        self.conns[conn].disturbed |= was_up && !protocol.is_up();
        let mut victims = Vec::new();
        loop {
            let is_done = self.write(conn, side, protocol, &mut thread.unsent, &mut thread.closes);
            protocol.handle_transmitted(now, is_done);
            match protocol.poll_event(now) {
                Some(event) => {
                    if let SessionEvent::Up(up) = &event {
                        let victim = self.procs[proc].places.add(thread.id, up.peer, (conn, side));
                        if victim.is_some_and(|(victim, _)| victim == (conn, side)) {
                            self.conns[conn].ends[side].thread = Some(thread);
                            let failed = DialError::Failed("no place".to_owned());
                            let last =
                                (side == 0 || is_asked_for).then_some(SessionEvent::DialFailed(failed));
                            return self.end(conn, side, last);
                        }
                        victims.extend(victim);
                    }
                    let is_carried = thread.id.is_carried() && matches!(event, SessionEvent::Up(_));
                    self.stats.carried_sessions += u64::from(is_carried);
                    self.stats.handshakes += u64::from(side == 0 && matches!(event, SessionEvent::Up(_)));
                    if matches!(event, SessionEvent::Up(_) | SessionEvent::Down(_)) {
                        self.session_hears(conn, side, proc, thread.id, protocol.heard());
                    }
                    self.report(conn, side, thread.id, event);
                }
                None if protocol.has_transmits() => {}
                None => break,
            }
        }
        if protocol.is_up() {
            self.session_hears(conn, side, proc, thread.id, protocol.heard());
        }
        let (is_closing, holds_memory) = (protocol.is_up() && !protocol.is_open(), protocol.holds_memory());
        victims.extend(self.procs[proc].places.note(thread.id, is_closing, holds_memory));
        let (is_closed, failure) = (protocol.is_closed(), protocol.failure());
        let deadline = protocol.poll_timeout().map(|at| self.procs[proc].clock.global(at).max(self.now));
        let is_new = std::mem::replace(&mut thread.deadline, deadline) != deadline;
        self.conns[conn].ends[side].thread = Some(thread);
        if is_closed {
            let failure = failure.filter(|_| side == 0 || is_asked_for);
            let last = failure.map(|failure| SessionEvent::DialFailed(DialError::Failed(failure)));
            self.end(conn, side, last);
        } else if let Some(at) = deadline.filter(|_| is_new) {
            self.limit(conn, side, Limit::Protocol(at), at);
        }
        for ((conn, side), _) in victims {
            self.evict(conn, side);
        }
    }

    /// Stores in the session's handle when it last heard its peer.
    fn session_hears(&mut self, conn: ConnId, side: Side, proc: ProcId, id: SessionId, at: Instant) {
        if self.conns[conn].ends[side].heard.replace(at).is_some_and(|before| at > before) {
            self.saw_heard(proc, id);
        }
    }

    /// Ends a session whose place others need.
    fn evict(&mut self, conn: ConnId, side: Side) {
        self.conns[conn].disturbed = true;
        if let Some(thread) = &mut self.conns[conn].ends[side].thread {
            thread.is_evicted = true;
            self.run_thread(conn, side);
        }
    }

    /// Hands bytes to the kernel, as far as it takes them. Returns whether it has taken all.
    fn write(
        &mut self,
        conn: ConnId,
        side: Side,
        protocol: &mut Protocol,
        unsent: &mut Vec<u8>,
        closes: &mut bool,
    ) -> bool {
        while let Some(transmit) = protocol.poll_transmit() {
            match transmit {
                Transmit::Frame(frame) => unsent.extend_from_slice(&frame),
                Transmit::Close => *closes = true,
            }
        }
        if !unsent.is_empty() {
            if !self.has_room(conn, side) {
                return false;
            }
            self.transmit(conn, side, Packet::Bytes(std::mem::take(unsent)));
        }
        if *closes {
            // `transmit` sends a Fin once only.
            self.transmit(conn, side, Packet::Fin);
        }
        true
    }

    /// Puts a request of the coordinator into the outbox of a session and wakes its thread.
    pub fn put(&mut self, conn: ConnId, side: Side, request: Request) -> Result<(), OutboxFull> {
        let most = self.scenario.faults.outbox_frames;
        let Some(thread) = &mut self.conns[conn].ends[side].thread else {
            return Ok(());
        };
        if thread.outbox.len() >= most {
            // The coordinator gives up a peer that does not read.
            self.conns[conn].disturbed = true;
            return Err(OutboxFull);
        }
        if thread.protocol().is_some() {
            thread.outbox.push_back(request);
            self.run_thread(conn, side);
        } else if let Request::Bye(_) = request {
            self.cancel(conn, side);
        }
        Ok(())
    }

    pub fn request_heartbeat(&mut self, conn: ConnId, side: Side) {
        let End { proc, thread, .. } = &mut self.conns[conn].ends[side];
        if let (Some(proc), Some(thread)) = (proc, thread) {
            thread.heartbeat_asked.get_or_insert(self.procs[*proc].clock.local(self.now));
            self.run_thread(conn, side);
        }
    }

    pub fn request_drain(&mut self, conn: ConnId, side: Side) {
        if let Some(thread) = &mut self.conns[conn].ends[side].thread {
            thread.is_drain_wanted = true;
            self.run_thread(conn, side);
        }
    }

    /// The mesh cancelled a dial.
    fn cancel(&mut self, conn: ConnId, side: Side) {
        self.end(conn, side, Some(SessionEvent::DialFailed(DialError::Cancelled)));
    }

    /// The coordinator has dropped its end of the outbox.
    pub fn drop_handle(&mut self, conn: ConnId, side: Side) {
        let Some(thread) = &mut self.conns[conn].ends[side].thread else {
            return;
        };
        thread.has_handle = false;
        match thread.protocol() {
            Some(protocol) => {
                // Messages of the peer that have not arrived yet are lost.
                let is_closing = protocol.is_up() && !protocol.is_open();
                self.conns[conn].disturbed |= is_closing;
                self.run_thread(conn, side);
            }
            None => self.cancel(conn, side),
        }
    }

    /// Closes one end without a goodbye, as if its session's thread had panicked.
    pub fn close_one_sided(&mut self, conn: ConnId, side: Side) {
        self.conns[conn].disturbed = true;
        if self.conns[conn].ends[side].thread.as_ref().is_some_and(Thread::is_open) {
            self.end(conn, side, Some(SessionEvent::Down(DisconnectReason::Closed)));
        }
    }

    pub fn limit_reached(&mut self, conn: ConnId, side: Side, limit: Limit) {
        let Some(proc) = self.conns[conn].ends[side].proc else {
            return;
        };
        if self.procs[proc].paused {
            self.procs[proc].deferred.push(Deferred::Limit(conn, side, limit));
            return;
        }
        let Some(thread) = &self.conns[conn].ends[side].thread else {
            return;
        };
        match limit {
            Limit::Connect if thread.is_connecting() => self.fail(conn, "no answer"),
            Limit::Handshake if thread.protocol().is_none() && side == 0 => {
                self.fail(conn, "handshake too slow");
            }
            Limit::Handshake if thread.protocol().is_none() => self.end(conn, side, None),
            Limit::Protocol(at) if thread.deadline == Some(at) => self.run_thread(conn, side),
            _ => {}
        }
    }
}
