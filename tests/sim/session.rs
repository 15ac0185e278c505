//! What a session's thread does: the same stages, limits and reports as `src/session.rs`.

use std::collections::VecDeque;

use p2p_gossip::PeerId;
use p2p_gossip::internals::Expected;
use p2p_gossip::internals::limits::{CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT, LEAVE_FLUSH, LINGER, WRITE_STALL};
use p2p_gossip::internals::mesh::{DialError, DisconnectReason, Routine, SessionId, SessionUp};
use p2p_gossip::internals::wire::{ByeReason, Hello, Message};

use super::clock::{Micros, micros};
use super::net::{ConnId, Packet, Side};
use super::process::{Deferred, ProcId};
use super::world::World;

/// What a session tells its coordinator.
#[derive(Debug)]
pub enum Report {
    Up(Box<SessionUp>),
    Received(Message),
    Drained,
    Down(DisconnectReason),
    DialFailed(DialError),
}

#[derive(Debug)]
pub enum Outgoing {
    Message(Message),
    DrainUnread,
    Bye(ByeReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    /// The client has sent its ClientHello; its proof and Hello.
    AwaitingServer,
    AwaitingHello,
    /// The server has nothing yet; has sent its part.
    AwaitingClient,
    AwaitingFinished,
    Up,
    /// Has said goodbye and reads on; was told goodbye and writes on.
    Lingering,
    Hearing,
}

/// Which time limit of a thread has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    Connect,
    Handshake,
    Linger,
    Flush,
    Write(Micros),
}

#[derive(Debug)]
pub struct Thread {
    pub id: SessionId,
    pub stage: Stage,
    pub expected: Expected,
    pub outbox: VecDeque<Outgoing>,
    /// Whether the coordinator holds the other end of the outbox.
    pub handle: bool,
    pub started: Micros,
    routine: Routine,
    stalled_since: Option<Micros>,
}

impl Thread {
    pub fn new(id: SessionId, stage: Stage, expected: Expected, now: Micros) -> Self {
        Self {
            id,
            stage,
            expected,
            outbox: VecDeque::new(),
            handle: true,
            started: now,
            routine: Routine::default(),
            stalled_since: None,
        }
    }

    pub fn is_connecting(&self) -> bool {
        self.stage == Stage::Connecting
    }

    pub fn is_handshaking(&self) -> bool {
        !matches!(self.stage, Stage::Up | Stage::Lingering | Stage::Hearing)
    }
}

impl World {
    pub fn dial(&mut self, proc: ProcId, id: SessionId, addr: std::net::SocketAddr, expected: Expected) {
        let thread = Thread::new(id, Stage::Connecting, expected, self.now);
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
            self.transmit(conn, 0, Packet::ClientHello);
        }
    }

    pub fn refused(&mut self, conn: ConnId) {
        let connecting = self.conns[conn].ends[0].thread.as_ref().is_some_and(Thread::is_connecting);
        if connecting && !self.conns[conn].established {
            self.fail(conn, "connection refused");
        }
    }

    /// A dial ends without a session.
    fn fail(&mut self, conn: ConnId, why: &str) {
        self.end(conn, 0, Some(Report::DialFailed(DialError::Failed(why.to_owned()))));
    }

    /// Whether the process at this end lets the peer in, as its verifier does.
    fn admits(&self, conn: ConnId, side: Side, peer: &PeerId) -> bool {
        let proc = self.conns[conn].ends[side].proc;
        proc.is_none_or(|proc| self.procs[proc].oracle.access.check(peer).is_ok())
    }

    fn stage(&self, conn: ConnId, side: Side) -> Option<Stage> {
        self.conns[conn].ends[side].thread.as_ref().map(|thread| thread.stage)
    }

    fn set_stage(&mut self, conn: ConnId, side: Side, stage: Stage) {
        if let Some(thread) = &mut self.conns[conn].ends[side].thread {
            thread.stage = stage;
        }
    }

    /// Tells the coordinator, on its queue.
    fn report(&mut self, conn: ConnId, side: Side, report: Report) {
        let end = &self.conns[conn].ends[side];
        if let (Some(proc), Some(thread)) = (end.proc, &end.thread) {
            let id = thread.id;
            self.procs[proc].inbox.push_back((id, conn, side, report));
            let hop = self.scenario.faults.thread_hop_us;
            let at = self.now + if hop == 0 { 0 } else { self.rng.u64(0..=hop) };
            self.want_turn(proc, at);
        }
    }

    /// Tells the coordinator what has arrived, without waking it if it is routine.
    fn received(&mut self, conn: ConnId, side: Side, message: Message) {
        let end = &mut self.conns[conn].ends[side];
        if let (Some(proc), Some(thread)) = (end.proc, &mut end.thread)
            && thread.routine.is_routine(&message)
        {
            let id = thread.id;
            let moment = self.moment(proc);
            self.procs[proc].routine.push_back((moment, id, conn, side, message));
        } else {
            self.report(conn, side, Report::Received(message));
        }
    }

    /// The thread ends: its socket is closed, its last word said.
    pub fn end(&mut self, conn: ConnId, side: Side, last: Option<Report>) {
        self.note(|| format!("c{conn} ends at its end {side}: {last:?}"));
        if let Some(last) = last {
            self.report(conn, side, last);
        }
        self.conns[conn].ends[side].thread = None;
        self.close_socket(conn, side, Packet::Fin);
    }

    pub fn close_socket(&mut self, conn: ConnId, side: Side, last: Packet) {
        if !std::mem::replace(&mut self.conns[conn].ends[side].open, false) {
            return;
        }
        if self.conns[conn].established {
            self.transmit(conn, side, last);
        }
        if let Some(proc) = self.conns[conn].ends[side].proc {
            self.procs[proc].conns.remove(&(conn, side));
        }
        if !self.conns[conn].ends[1 - side].open {
            self.audit_later(conn);
        }
    }

    fn up(&mut self, conn: ConnId, side: Side, peer: PeerId, hello: Hello) {
        let connection = &self.conns[conn];
        let remote = if side == 0 { connection.addr } else { connection.source };
        let Some(session) = connection.ends[side].thread.as_ref().map(|thread| thread.id) else {
            return;
        };
        self.report(conn, side, Report::Up(Box::new(SessionUp { session, peer, hello, remote })));
        self.set_stage(conn, side, Stage::Up);
        self.pump(conn, side);
    }

    pub fn thread_receives(&mut self, conn: ConnId, side: Side, packet: Packet) {
        let Some(stage) = self.stage(conn, side) else {
            return;
        };
        let closed = Some(Report::Down(DisconnectReason::Closed));
        match (stage, packet) {
            (Stage::AwaitingServer, Packet::ServerHello(found)) => {
                let thread = self.conns[conn].ends[0].thread.as_ref();
                if thread.is_some_and(|thread| !thread.expected.is_met_by(&found)) {
                    self.end(conn, 0, Some(Report::DialFailed(DialError::WrongId { found })));
                } else if !self.admits(conn, 0, &found) {
                    self.fail(conn, "refused by our own lists");
                } else if let Some(proc) = self.conns[conn].ends[0].proc {
                    self.set_stage(conn, 0, Stage::AwaitingHello);
                    let (id, hello) = (self.procs[proc].id, Box::new(self.procs[proc].hello.clone()));
                    self.transmit(conn, 0, Packet::Finished(id, hello));
                }
            }
            (Stage::AwaitingHello, Packet::Hello(hello)) => {
                if let Some(server) = self.conns[conn].ends[1].proc {
                    self.stats.handshakes += 1;
                    self.up(conn, 0, self.procs[server].id, *hello);
                }
            }
            (Stage::AwaitingClient, Packet::ClientHello) => {
                if let Some(proc) = self.conns[conn].ends[1].proc {
                    self.set_stage(conn, 1, Stage::AwaitingFinished);
                    self.transmit(conn, 1, Packet::ServerHello(self.procs[proc].id));
                }
            }
            (Stage::AwaitingFinished, Packet::Finished(peer, _)) if !self.admits(conn, 1, &peer) => {
                self.end(conn, 1, None);
            }
            (Stage::AwaitingFinished, Packet::Finished(peer, hello)) => {
                if let Some(proc) = self.conns[conn].ends[1].proc {
                    let ours = Box::new(self.procs[proc].hello.clone());
                    self.transmit(conn, 1, Packet::Hello(ours));
                    self.up(conn, 1, peer, *hello);
                }
            }
            (Stage::Connecting | Stage::AwaitingServer | Stage::AwaitingHello, _) => {
                self.fail(conn, "closed during the handshake");
            }
            (Stage::AwaitingClient | Stage::AwaitingFinished, _) => self.end(conn, side, None),
            (Stage::Up | Stage::Lingering, Packet::Message(message)) => {
                self.received(conn, side, message);
                self.pump(conn, side);
            }
            (Stage::Up, Packet::Bye(reason)) => {
                self.report(conn, side, Report::Down(DisconnectReason::Bye(reason)));
                self.set_stage(conn, side, Stage::Hearing);
                self.limit(conn, side, Limit::Flush, self.now + micros(LEAVE_FLUSH));
                self.pump(conn, side);
            }
            (Stage::Up | Stage::Lingering, _) => self.end(conn, side, closed),
            (Stage::Hearing, Packet::Rst) => self.end(conn, side, None),
            (Stage::Hearing, _) => {}
        }
    }

    /// Writes what waits in the outbox, as far as the kernel takes it.
    pub fn pump(&mut self, conn: ConnId, side: Side) {
        loop {
            let room = self.has_room(conn, side);
            let now = self.now;
            let Some(thread) = &mut self.conns[conn].ends[side].thread else {
                return;
            };
            if !matches!(thread.stage, Stage::Up | Stage::Hearing) {
                return;
            }
            if thread.outbox.is_empty() {
                thread.stalled_since = None;
                if !thread.handle {
                    let closed = Report::Down(DisconnectReason::Closed);
                    let last = (thread.stage == Stage::Up).then_some(closed);
                    self.end(conn, side, last);
                }
                return;
            }
            if !room {
                if thread.stalled_since.is_none() {
                    thread.stalled_since = Some(now);
                    self.limit(conn, side, Limit::Write(now), now + micros(WRITE_STALL));
                }
                return;
            }
            thread.stalled_since = None;
            match thread.outbox.pop_front() {
                Some(Outgoing::Message(message)) => self.transmit(conn, side, Packet::Message(message)),
                Some(Outgoing::DrainUnread) if thread.stage == Stage::Up => {
                    self.report(conn, side, Report::Drained);
                }
                Some(Outgoing::DrainUnread) => {}
                Some(Outgoing::Bye(_)) if thread.stage == Stage::Hearing => {
                    self.end(conn, side, None);
                    return;
                }
                Some(Outgoing::Bye(reason)) => {
                    thread.stage = Stage::Lingering;
                    thread.outbox.clear();
                    self.transmit(conn, side, Packet::Bye(reason));
                    self.transmit(conn, side, Packet::Fin);
                    self.limit(conn, side, Limit::Linger, now + micros(LINGER));
                    return;
                }
                None => return,
            }
        }
    }

    /// The coordinator leaves something in the outbox of a session that is up. Whether there was room.
    pub fn lay_ready(&mut self, conn: ConnId, side: Side, outgoing: Outgoing) -> bool {
        let most = self.scenario.faults.outbox_frames;
        let Some(thread) = &mut self.conns[conn].ends[side].thread else {
            return true;
        };
        let has_room = thread.outbox.len() < most;
        if has_room && !thread.is_handshaking() {
            thread.outbox.push_back(outgoing);
        }
        has_room
    }

    /// The coordinator puts something into an outbox, and wakes the thread. Whether there was room.
    pub fn put(&mut self, conn: ConnId, side: Side, outgoing: Outgoing) -> bool {
        let most = self.scenario.faults.outbox_frames;
        let Some(thread) = &mut self.conns[conn].ends[side].thread else {
            return true;
        };
        if thread.outbox.len() >= most {
            return false;
        }
        // Once authenticated it comes up first: the other end may count it already.
        if thread.stage == Stage::AwaitingHello {
            thread.outbox.push_back(outgoing);
            return true;
        }
        if thread.is_handshaking() {
            if let Outgoing::Bye(_) = outgoing {
                self.cancel(conn, side);
            }
            return true;
        }
        thread.outbox.push_back(outgoing);
        let paused = self.conns[conn].ends[side].proc.is_some_and(|proc| self.procs[proc].paused);
        if !paused {
            self.pump(conn, side);
        }
        true
    }

    /// The mesh gave a dial up.
    fn cancel(&mut self, conn: ConnId, side: Side) {
        self.end(conn, side, Some(Report::DialFailed(DialError::Cancelled)));
    }

    /// The coordinator has dropped its end of the outbox.
    pub fn drop_handle(&mut self, conn: ConnId, side: Side) {
        let Some(thread) = &mut self.conns[conn].ends[side].thread else {
            return;
        };
        thread.handle = false;
        match thread.stage {
            Stage::Up | Stage::Hearing => self.pump(conn, side),
            Stage::Lingering => {
                self.conns[conn].rough = true;
                self.end(conn, side, Some(Report::Down(DisconnectReason::Closed)));
            }
            _ => self.cancel(conn, side),
        }
    }

    /// One end gives up without a word, as a session's thread does that panicked.
    pub fn close_one_sided(&mut self, conn: ConnId, side: Side) {
        self.conns[conn].rough = true;
        if self.stage(conn, side) == Some(Stage::Up) {
            self.end(conn, side, Some(Report::Down(DisconnectReason::Closed)));
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
            Limit::Handshake if thread.is_handshaking() && side == 0 => self.fail(conn, "handshake too slow"),
            Limit::Handshake if thread.is_handshaking() => self.end(conn, side, None),
            Limit::Linger if thread.stage == Stage::Lingering => {
                self.conns[conn].rough = true;
                self.end(conn, side, Some(Report::Down(DisconnectReason::Closed)));
            }
            Limit::Flush if thread.stage == Stage::Hearing => {
                let unsent = !thread.outbox.is_empty();
                self.conns[conn].rough |= unsent;
                self.end(conn, side, None);
            }
            Limit::Write(since) if thread.stalled_since == Some(since) => {
                let last = (thread.stage == Stage::Up).then_some(Report::Down(DisconnectReason::Slow));
                self.conns[conn].rough = true;
                self.end(conn, side, last);
            }
            _ => {}
        }
    }
}
