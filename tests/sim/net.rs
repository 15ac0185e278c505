//! Connections as TCP has them: in order, delayed, cut, stalled, reset, half-open; never reordered,
//! and lost only with the connection.

use std::collections::VecDeque;
use std::net::SocketAddr;

use p2p_gossip::PeerId;

use super::clock::{MS, Micros, SECOND};
use super::process::{Deferred, ProcId};
use super::scenario::Slot;
use super::session::{Limit, Thread};
use super::world::{Event, World};

pub type ConnId = usize;
/// Which end: 0 has dialled, 1 has accepted.
pub type Side = usize;

/// When a kernel repeats an attempt to connect that was not answered.
const SYN_AGAIN: Micros = SECOND;

#[derive(Debug)]
pub enum Packet {
    ClientHello,
    /// The server's part of the handshake: proves who it is.
    ServerHello(PeerId),
    /// The client's proof.
    Finished(PeerId),
    /// Bytes above TLS.
    Bytes(Vec<u8>),
    Fin,
    Rst,
}

/// Packets under way in one direction.
#[derive(Debug, Default)]
pub struct Direction {
    pub queue: VecDeque<(Micros, Packet)>,
    last_at: Micros,
    pub blocked_until: Micros,
}

#[derive(Debug, Default)]
pub struct End {
    pub proc: Option<ProcId>,
    pub slot: Option<Slot>,
    /// Whether the kernel still has the socket.
    pub open: bool,
    pub fin_sent: bool,
    pub thread: Option<Thread>,
}

#[derive(Debug)]
pub struct Conn {
    pub ends: [End; 2],
    /// Direction `n` leads away from end `n`.
    pub ways: [Direction; 2],
    pub addr: SocketAddr,
    /// Where the dialling end comes from.
    pub source: SocketAddr,
    pub established: bool,
    /// Pings sent by each end and not yet delivered: number and when.
    pub pings: [VecDeque<(u64, Micros)>; 2],
    /// Something was done to it that may lose what was sent.
    pub rough: bool,
}

impl World {
    /// Whether nothing gets from one end to the other now.
    fn is_cut(&self, conn: ConnId, side: Side) -> bool {
        let ends = &self.conns[conn].ends;
        match (ends[side].slot, ends[1 - side].slot) {
            (Some(from), Some(to)) => !self.slots[to].powered || self.is_path_cut(from, to),
            _ => true,
        }
    }

    pub fn is_path_cut(&self, from: Slot, to: Slot) -> bool {
        from != to && self.cuts[from * self.slots.len() + to] > 0
    }

    pub fn delay(&mut self) -> Micros {
        let faults = &self.scenario.faults;
        let mut delay = faults.latency_us + self.rng.u64(0..=faults.jitter_us);
        if faults.resent_permille > 0 && !self.convergence && self.rng.u32(..1000) < faults.resent_permille {
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
            End { proc: Some(proc), slot: Some(slot), open: true, fin_sent: false, thread: Some(thread) };
        let far = End { slot: self.at_addr.get(&addr).copied(), ..End::default() };
        self.conns.push(Conn {
            ends: [near, far],
            ways: [Direction::default(), Direction::default()],
            addr,
            source,
            established: false,
            pings: [VecDeque::new(), VecDeque::new()],
            rough: false,
        });
        self.procs[proc].conns.insert((conn, 0));
        self.send_syn(conn, 0);
        conn
    }

    fn send_syn(&mut self, conn: ConnId, attempt: u32) {
        let faults = &self.scenario.faults;
        let lost = !self.convergence && self.rng.u32(..1000) < faults.connect_lost_permille;
        if !lost {
            let delay = self.delay();
            self.schedule(self.now + delay, Event::Syn(conn));
        }
        if attempt == 0 {
            self.schedule(self.now + SYN_AGAIN, Event::SynAgain(conn));
        }
    }

    pub fn syn_again(&mut self, conn: ConnId) {
        let waits = self.conns[conn].ends[0].thread.as_ref().is_some_and(Thread::is_connecting);
        if waits && !self.conns[conn].established {
            self.send_syn(conn, 1);
        }
    }

    /// An attempt to connect reaches the other machine, if it does.
    pub fn syn_arrives(&mut self, conn: ConnId) {
        let waits = self.conns[conn].ends[0].thread.as_ref().is_some_and(Thread::is_connecting);
        if !waits || self.conns[conn].established {
            return;
        }
        let refuse =
            !self.convergence && self.rng.u32(..1000) < self.scenario.faults.connect_refused_permille;
        let delay = self.delay();
        match self.conns[conn].ends[1].slot {
            // No such machine: half of these addresses say so.
            None => {
                if self.conns[conn].addr.port().is_multiple_of(2) {
                    self.schedule(self.now + delay, Event::Refused(conn));
                }
            }
            Some(_) if self.is_cut(conn, 0) || self.is_cut(conn, 1) => {}
            Some(slot) => match self.slots[slot].proc {
                Some(proc) if self.procs[proc].is_listening() && !refuse => {
                    self.conns[conn].established = true;
                    self.conns[conn].ends[1].proc = Some(proc);
                    self.conns[conn].ends[1].open = true;
                    self.procs[proc].conns.insert((conn, 1));
                    self.schedule(self.now + delay, Event::SynAck(conn));
                    self.on_thread(proc, Deferred::Accept(conn));
                }
                _ => self.schedule(self.now + delay, Event::Refused(conn)),
            },
        }
    }

    /// Puts a packet on its way.
    pub fn transmit(&mut self, conn: ConnId, side: Side, packet: Packet) {
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
            // Sent again once the path is back.
            self.conns[conn].rough = true;
        } else {
            self.schedule(at, Event::Arrive(conn, side));
        }
    }

    /// Whatever is due in this direction arrives.
    pub fn arrive(&mut self, conn: ConnId, side: Side) {
        let to = 1 - side;
        loop {
            let way = &self.conns[conn].ways[side];
            let due = way.queue.front().is_some_and(|(at, _)| *at <= self.now);
            if !due || way.blocked_until > self.now {
                return;
            }
            if self.is_cut(conn, side) {
                self.conns[conn].rough = true;
                return;
            }
            if let Some(proc) = self.conns[conn].ends[to].proc
                && self.conns[conn].ends[to].open
                && self.procs[proc].paused
            {
                // The kernel has it; the process will see it when it runs again.
                self.procs[proc].deferred.push(Deferred::Arrive(conn, side));
                return;
            }
            let Some((_, packet)) = self.conns[conn].ways[side].queue.pop_front() else {
                return;
            };
            if self.conns[conn].ends[to].open {
                self.thread_receives(conn, to, packet);
            } else if !matches!(packet, Packet::Rst | Packet::Fin) && self.conns[conn].ends[side].open {
                // The kernel knows no such connection (any more).
                self.transmit(conn, to, Packet::Rst);
            }
            // The kernel has room again.
            self.run_thread(conn, side);
        }
    }

    /// A path is back: what was not acknowledged is sent again, sooner or later.
    pub fn resend_everything_blocked(&mut self) {
        for conn in 0..self.conns.len() {
            for side in 0..2 {
                let way = &self.conns[conn].ways[side];
                if way.queue.is_empty() || way.blocked_until > self.now || self.is_cut(conn, side) {
                    continue;
                }
                // What was sent into the cut has no arrival yet.
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

    /// Nothing arrives in this direction until then.
    pub fn block(&mut self, conn: ConnId, side: Side, until: Micros) {
        let way = &mut self.conns[conn].ways[side];
        way.blocked_until = until;
        self.conns[conn].rough = true;
        self.schedule(until, Event::Arrive(conn, side));
    }

    /// Room in the kernels' buffers.
    pub fn has_room(&self, conn: ConnId, side: Side) -> bool {
        self.conns[conn].ways[side].queue.len() < self.scenario.faults.socket_frames
    }

    /// The connection breaks in the middle: both ends are told, what was under way is lost.
    pub fn reset(&mut self, conn: ConnId) {
        self.conns[conn].rough = true;
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

    /// A time limit of a session's thread, kept in virtual time.
    pub fn limit(&mut self, conn: ConnId, side: Side, limit: Limit, at: Micros) {
        self.schedule(at, Event::Limit(conn, side, limit));
    }
}
