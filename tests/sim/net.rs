//! Simulated TCP connections. They may be delayed, cut, stalled, reset or half-open, but never reorder data, and lose
//! data only when they end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use p2p_gossip::PeerId;
use p2p_gossip::internals::Expected;
use p2p_gossip::internals::limits::HANDSHAKE_TIMEOUT;
use p2p_gossip::internals::mesh::SessionId;
use p2p_gossip::internals::session::HelloExchange;

use super::circuits::CircuitLink;
use super::clock::{MS, Micros, SECOND, micros};
use super::overload::Processor;
use super::process::{Deferred, ProcId};
use super::scenario::Slot;
use super::session::{Limit, Stage, Thread};
use super::world::{Event, World};

pub type ConnId = usize;
/// One end of a connection: 0 dialled, 1 accepted.
pub type Side = usize;

/// Time for two attempts to connect at once.
const PUNCH_WINDOW: Micros = 2 * SECOND;
/// Time after which a kernel repeats an unanswered connection attempt.
const SYN_AGAIN: Micros = SECOND;

#[derive(Debug)]
pub enum Packet {
    ClientHello,
    /// The server's part of the handshake, which proves its peer id.
    ServerHello(PeerId),
    /// The client's part of the handshake, which proves its peer id.
    Finished(PeerId),
    /// Bytes above TLS.
    Bytes(Vec<u8>),
    Fin,
    Rst,
    /// A record with a wrong tag.
    Garbled,
}

/// The packets on their way in one direction.
#[derive(Debug, Default)]
pub struct Direction {
    /// Each packet with its time of arrival.
    pub queue: VecDeque<(Micros, Packet)>,
    /// The latest time of arrival so far; a later packet does not overtake.
    last_at: Micros,
    /// Nothing arrives before this time.
    pub blocked_until: Micros,
}

#[derive(Debug, Default)]
pub struct End {
    pub proc: Option<ProcId>,
    pub slot: Option<Slot>,
    /// Whether the kernel still has this end's socket.
    pub open: bool,
    pub fin_sent: bool,
    pub thread: Option<Thread>,
    /// When the session last heard its peer, as its handle tells; `None` before it is up.
    pub heard: Option<Instant>,
    pub processor: Processor,
}

#[derive(Debug)]
pub struct Conn {
    pub ends: [End; 2],
    /// Direction `n` leads away from end `n`.
    pub ways: [Direction; 2],
    /// The dialled address.
    pub addr: SocketAddr,
    /// The source address of the dialling end.
    pub source: SocketAddr,
    /// The key and the Hello that the dialling end shows instead of those of its process.
    pub key: Option<(PeerId, Arc<HelloExchange>)>,
    pub established: bool,
    /// Pings sent by each end and not yet delivered: sequence number and time of sending.
    pub pings: [VecDeque<(u64, Micros)>; 2],
    /// A fault may have lost data of this connection, so its pings are not checked.
    pub disturbed: bool,
    /// For one end of a circuit, which has no connection of its own.
    pub circuit: Option<CircuitLink>,
}

impl Conn {
    /// A connection without ends.
    fn unopened(addr: SocketAddr, source: SocketAddr) -> Self {
        Self {
            ends: Default::default(),
            ways: Default::default(),
            addr,
            source,
            key: None,
            established: false,
            pings: Default::default(),
            disturbed: false,
            circuit: None,
        }
    }
}

impl World {
    /// The peer id that this end of a connection proves.
    pub fn id_at(&self, conn: ConnId, side: Side) -> Option<PeerId> {
        let conn = &self.conns[conn];
        let own = || match (conn.ends[side].proc, &conn.circuit) {
            (None, Some(circuit)) => Some(circuit.peer),
            (proc, _) => proc.map(|proc| self.procs[proc].id),
        };
        conn.key.as_ref().filter(|_| side == 0).map(|(key, _)| *key).or_else(own)
    }

    /// Whether no packet from this end reaches the other now.
    fn is_cut(&self, conn: ConnId, side: Side) -> bool {
        let ends = &self.conns[conn].ends;
        match (ends[side].slot, ends[1 - side].slot) {
            (Some(from), Some(to)) => !self.slots[to].powered || self.is_path_cut(from, to),
            _ => true,
        }
    }

    /// Whether a cut separates the slots in this direction.
    pub fn is_path_cut(&self, from: Slot, to: Slot) -> bool {
        from != to && self.cuts[from * self.slots.len() + to] > 0
    }

    /// The delay of the next packet.
    pub fn delay(&mut self) -> Micros {
        let faults = &self.scenario.faults;
        let mut delay = faults.latency_us + self.rng.u64(0..=faults.jitter_us);
        if faults.resent_permille > 0 && !self.faults_ended && self.rng.u32(..1000) < faults.resent_permille {
            delay += faults.resent_ms * MS;
        }
        delay
    }

    pub fn open_connection(&mut self, proc: ProcId, thread: Thread, addr: SocketAddr) -> ConnId {
        let conn = self.conns.len();
        let slot = self.procs[proc].slot;
        let port = 32_768 + (conn % 28_000) as u16;
        let source = SocketAddr::new(self.procs[proc].addr.ip(), port);
        let near =
            End { proc: Some(proc), slot: Some(slot), open: true, thread: Some(thread), ..End::default() };
        let far = End { slot: self.at_addr.get(&addr).copied(), ..End::default() };
        self.conns.push(Conn { ends: [near, far], ..Conn::unopened(addr, source) });
        self.procs[proc].conns.insert((conn, 0));
        self.send_syn(conn, 0);
        conn
    }

    /// Connects at the same time as a peer, from the port of another connection. Until both meet, each has an attempt of
    /// its own.
    pub fn punch(&mut self, proc: ProcId, id: SessionId, peer: PeerId, beside: ConnId, addr: SocketAddr) {
        let (conn, slot) = (self.conns.len(), self.procs[proc].slot);
        let thread = Thread::new(id, Stage::Connecting, Expected::Peer(peer), self.now);
        let near =
            End { proc: Some(proc), slot: Some(slot), open: true, thread: Some(thread), ..End::default() };
        let source = self.conns[beside].source;
        self.conns.push(Conn { ends: [near, End::default()], ..Conn::unopened(addr, source) });
        self.procs[proc].conns.insert((conn, 0));
        self.procs[proc].handles.insert(id, (conn, 0));
        self.limit(conn, 0, Limit::Connect, self.now + PUNCH_WINDOW);
        self.limit(conn, 0, Limit::Handshake, self.now + micros(HANDSHAKE_TIMEOUT));
        let lost = !self.faults_ended && self.rng.u32(..1000) < self.scenario.faults.connect_lost_permille;
        if !lost && let Some(other) = (0..conn).rev().find(|&other| self.go_to_each_other(conn, other)) {
            let delay = self.delay();
            self.schedule(self.now + delay, Event::Meet(other, conn));
        }
    }

    /// Whether each of two attempts goes to the address from which the other one comes.
    fn go_to_each_other(&self, one: ConnId, other: ConnId) -> bool {
        let is_attempt = |conn: &Conn| {
            let thread = conn.ends[0].thread.as_ref();
            thread.is_some_and(|thread| thread.id.is_punched() && thread.is_connecting())
        };
        let (one, other) = (&self.conns[one], &self.conns[other]);
        is_attempt(one) && is_attempt(other) && one.addr == other.source && other.addr == one.source
    }

    /// Two attempts meet, unless one has ended or the path is cut: TCP makes one connection of them.
    pub fn meet(&mut self, one: ConnId, other: ConnId) {
        let is_dialled =
            |conn: &Conn| conn.ends[0].thread.as_ref().is_some_and(|thread| thread.id.is_dialled());
        let (dialled, accepted) = if is_dialled(&self.conns[one]) { (one, other) } else { (other, one) };
        let ends =
            [dialled, accepted].map(|conn| (self.conns[conn].ends[0].proc, self.conns[conn].ends[0].slot));
        let [(Some(near), Some(from)), (Some(far), Some(to))] = ends else {
            return;
        };
        let is_stopped = |proc: ProcId| !self.procs[proc].alive || self.procs[proc].paused;
        if !self.go_to_each_other(one, other)
            || is_stopped(near)
            || is_stopped(far)
            || self.is_path_cut(from, to)
            || self.is_path_cut(to, from)
        {
            return;
        }
        let mut end = std::mem::take(&mut self.conns[accepted].ends[0]);
        if let Some(thread) = &mut end.thread {
            thread.stage = Stage::AwaitingClient;
            self.procs[far].handles.insert(thread.id, (dialled, 1));
        }
        self.conns[dialled].ends[1] = end;
        self.conns[dialled].established = true;
        self.procs[far].conns.remove(&(accepted, 0));
        self.procs[far].conns.insert((dialled, 1));
        self.limit(dialled, 1, Limit::Handshake, self.now + micros(HANDSHAKE_TIMEOUT));
        self.stats.punched += 1;
        self.connected(dialled);
    }

    fn send_syn(&mut self, conn: ConnId, attempt: u32) {
        let faults = &self.scenario.faults;
        let lost = !self.faults_ended && self.rng.u32(..1000) < faults.connect_lost_permille;
        if !lost {
            let delay = self.delay();
            self.schedule(self.now + delay, Event::Syn(conn));
        }
        if attempt == 0 {
            self.schedule(self.now + SYN_AGAIN, Event::SynAgain(conn));
        }
    }

    pub fn syn_again(&mut self, conn: ConnId) {
        if self.awaits_answer(conn) {
            self.send_syn(conn, 1);
        }
    }

    /// Whether the dialler still waits for an answer to its connection attempt.
    fn awaits_answer(&self, conn: ConnId) -> bool {
        let connecting = self.conns[conn].ends[0].thread.as_ref().is_some_and(Thread::is_connecting);
        connecting && !self.conns[conn].established
    }

    /// A connection attempt reaches the other machine, if the machine is still there and no cut is in between.
    pub fn syn_arrives(&mut self, conn: ConnId) {
        if !self.awaits_answer(conn) {
            return;
        }
        let refuse =
            !self.faults_ended && self.rng.u32(..1000) < self.scenario.faults.connect_refused_permille;
        let delay = self.delay();
        let Some(slot) = self.conns[conn].ends[1].slot else {
            // No machine has this address. Half of these addresses refuse, the others do not answer.
            if self.conns[conn].addr.port().is_multiple_of(2) {
                self.schedule(self.now + delay, Event::Refused(conn));
            }
            return;
        };
        let has_moved = self.at_addr.get(&self.conns[conn].addr) != Some(&slot);
        if has_moved || self.is_cut(conn, 0) || self.is_cut(conn, 1) || self.is_walled(conn, slot) {
            return;
        }
        match self.slots[slot].proc.filter(|&proc| self.procs[proc].is_listening() && !refuse) {
            Some(proc) => self.establish(conn, proc, delay),
            None => self.schedule(self.now + delay, Event::Refused(conn)),
        }
    }

    /// Whether no connection can be opened to this slot from the dialling end.
    fn is_walled(&self, conn: ConnId, to: Slot) -> bool {
        self.conns[conn].ends[0].slot.is_some_and(|from| self.scenario.walls.contains(&(from, to)))
    }

    fn establish(&mut self, conn: ConnId, listener: ProcId, delay: Micros) {
        self.conns[conn].established = true;
        self.conns[conn].ends[1].proc = Some(listener);
        self.conns[conn].ends[1].open = true;
        self.procs[listener].conns.insert((conn, 1));
        self.schedule(self.now + delay, Event::SynAck(conn));
        self.on_thread(listener, Deferred::Accept(conn));
    }

    /// Sends a packet to the other end.
    pub fn transmit(&mut self, conn: ConnId, side: Side, packet: Packet) {
        if self.conns[conn].circuit.is_some() {
            return self.transmit_in_circuit(conn, packet);
        }
        if self.conns[conn].ends[side].fin_sent && !matches!(packet, Packet::Rst) {
            return;
        }
        self.conns[conn].ends[side].fin_sent |= matches!(packet, Packet::Fin | Packet::Rst);
        let delay = self.delay();
        let cut = self.is_cut(conn, side);
        let way = &mut self.conns[conn].ways[side];
        let at = (self.now + delay).max(way.last_at).max(way.blocked_until);
        way.last_at = at;
        way.queue.push_back((at, packet));
        if cut {
            // The kernel sends it again once the path has healed.
            self.conns[conn].disturbed = true;
        } else {
            self.schedule(at, Event::Arrive(conn, side));
        }
    }

    /// Delivers the packets that are due in this direction.
    pub fn arrive(&mut self, conn: ConnId, side: Side) {
        let to = 1 - side;
        loop {
            let way = &self.conns[conn].ways[side];
            let due = way.queue.front().is_some_and(|(at, _)| *at <= self.now);
            if !due || way.blocked_until > self.now {
                return;
            }
            if self.is_cut(conn, side) {
                self.conns[conn].disturbed = true;
                return;
            }
            if let Some(proc) = self.conns[conn].ends[to].proc
                && self.conns[conn].ends[to].open
                && self.procs[proc].paused
            {
                // The kernel buffers the packet until the process resumes.
                self.procs[proc].deferred.push(Deferred::Arrive(conn, side));
                return;
            }
            if self.conns[conn].ends[to].open && self.runs_later(conn, to) {
                return;
            }
            let Some((_, packet)) = self.conns[conn].ways[side].queue.pop_front() else {
                return;
            };
            if self.conns[conn].ends[to].open {
                self.thread_receives(conn, to, packet);
            } else if !matches!(packet, Packet::Rst | Packet::Fin) && self.conns[conn].ends[side].open {
                // The kernel does not know this connection.
                self.transmit(conn, to, Packet::Rst);
            }
            // The kernel has taken the packet from its queue, so it has room again.
            self.run_thread(conn, side);
        }
    }

    /// After a path has healed: the kernels send unacknowledged data again after a random wait.
    pub fn resend_everything_blocked(&mut self) {
        for conn in 0..self.conns.len() {
            for side in 0..2 {
                let way = &self.conns[conn].ways[side];
                if way.queue.is_empty() || way.blocked_until > self.now || self.is_cut(conn, side) {
                    continue;
                }
                // Data sent during the cut has no arrival event yet.
                let times: Vec<Micros> = way.queue.iter().map(|(at, _)| *at).collect();
                if times.iter().any(|at| *at <= self.now) {
                    let wait = self.rng.u64(0..=self.scenario.faults.resend_wait_ms_max * MS);
                    self.block(conn, side, self.now + wait);
                }
                let now = self.now;
                for at in times.into_iter().filter(|at| *at > now) {
                    self.schedule(at, Event::Arrive(conn, side));
                }
            }
        }
    }

    /// Delivers nothing in this direction until this time.
    pub fn block(&mut self, conn: ConnId, side: Side, until: Micros) {
        let way = &mut self.conns[conn].ways[side];
        way.blocked_until = until;
        self.conns[conn].disturbed = true;
        self.schedule(until, Event::Arrive(conn, side));
    }

    /// Whether the kernels' buffers have room for a frame in this direction.
    pub fn has_room(&self, conn: ConnId, side: Side) -> bool {
        if let Some(circuit) = &self.conns[conn].circuit {
            return circuit.unsent.is_empty();
        }
        self.conns[conn].ways[side].queue.len() < self.scenario.faults.socket_frames
    }

    /// Resets the connection: both ends learn of it, and the packets on their way are lost.
    pub fn reset(&mut self, conn: ConnId) {
        self.conns[conn].disturbed = true;
        for side in 0..2 {
            self.conns[conn].ways[side].queue.clear();
            let at = self.now + self.rng.u64(0..50 * MS);
            let way = &mut self.conns[conn].ways[side];
            way.last_at = at;
            way.blocked_until = 0;
            way.queue.push_back((at, Packet::Rst));
            self.schedule(at, Event::Arrive(conn, side));
        }
    }

    /// Sets a time limit of a session's thread.
    pub fn limit(&mut self, conn: ConnId, side: Side, limit: Limit, at: Micros) {
        self.schedule(at, Event::Limit(conn, side, limit));
    }
}
