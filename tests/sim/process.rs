//! A process: its coordinator, which drives the mesh as `src/coordinator.rs` does, and how it
//! starts, stops, and stands still.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use p2p_gossip::internals::limits::LEAVE_FLUSH;
use p2p_gossip::internals::mesh::{DialError, DisconnectReason, Input, Mesh, Output, SessionId};
use p2p_gossip::internals::wire::{self, Hello, Message};
use p2p_gossip::{Access, Config, ConnectAddr, DialAddr, PeerId};

use super::clock::{Clock, MS, Micros, micros};
use super::net::{ConnId, Packet, Side};
use super::oracle::{Moment, Oracle};
use super::scenario::{Restart, Slot};
use super::session::{Limit, Outgoing, Report};
use super::world::{Event, World};

pub type ProcId = usize;

/// Inbox events taken in one turn before timers are looked at, as in the coordinator.
const BATCH_MAX: usize = 256;

/// What a stopped process finds when it runs again.
#[derive(Debug)]
pub enum Deferred {
    Accept(ConnId),
    Connected(ConnId),
    Refused(ConnId),
    Arrive(ConnId, Side),
    Limit(ConnId, Side, Limit),
}

#[derive(Debug)]
pub struct Process {
    pub slot: Slot,
    pub id: PeerId,
    pub addr: SocketAddr,
    pub mesh: Mesh,
    pub hello: Hello,
    pub config: Config,
    pub clock: Clock,
    pub alive: bool,
    pub paused: bool,
    pub paused_since: Micros,
    pub deferred: Vec<Deferred>,
    pub leave_by: Option<Micros>,
    pub turn_at: Option<Micros>,
    pub inbox: VecDeque<(SessionId, ConnId, Side, Report)>,
    /// Heartbeats that do not wake the coordinator, and their times of arrival.
    pub routine: VecDeque<(Moment, SessionId, ConnId, Side, Message)>,
    /// The coordinator's ends of outboxes.
    pub handles: BTreeMap<SessionId, (ConnId, Side)>,
    /// Sockets that the kernel would close.
    pub conns: BTreeSet<(ConnId, Side)>,
    pub accepted: u64,
    pub is_liar: bool,
    pub oracle: Oracle,
}

impl Process {
    pub fn is_listening(&self) -> bool {
        self.alive && self.leave_by.is_none()
    }
}

impl World {
    pub fn start(&mut self, slot: Slot, restart: Restart) {
        let is_back = !std::mem::replace(&mut self.slots[slot].powered, true);
        if is_back {
            self.resend_everything_blocked();
        }
        if self.slots[slot].proc.is_some() {
            return;
        }
        if restart.new_address {
            self.move_slot(slot);
        }
        if restart.new_key {
            self.new_key(slot);
        }
        let faults = &self.scenario.faults;
        let off = i64::from(faults.clock_off_ppm);
        let clock = Clock::new(self.base, if off == 0 { 0 } else { [-off, 0, off][self.rng.usize(..3)] });
        let connect: &[Slot] = if restart.no_connect { &[] } else { &self.scenario.connect[slot] };
        let connect = connect.iter();
        let connect: Vec<ConnectAddr> = connect
            .map(|&other| {
                let pin = self.scenario.pins.then(|| self.slots[self.scenario.key_of[other]].key.into());
                ConnectAddr { pin, addr: self.name(other).unwrap_or(self.slots[other].addr.into()) }
            })
            .collect();
        let (heartbeat_ms, timeout_ms) = self.scenario.rhythm[slot];
        let config = Config::default()
            .heartbeat(Duration::from_millis(heartbeat_ms))
            .timeout(Duration::from_millis(timeout_ms))
            .period(Duration::from_millis(faults.ping_period_ms))
            .connect(connect)
            .access(self.slots[slot].access.clone())
            .strict(faults.strict)
            .peers_max(faults.peers_max);
        let addr = self.slots[slot].addr;
        let hello = Hello {
            instance: self.rng.u64(..),
            name: String::new(),
            listen_port: self.slots[slot].listen_port,
            advertised: self.advertised(slot),
            heartbeat_ms: heartbeat_ms as u32,
            proof: None,
        };
        let id = self.slots[self.scenario.key_of[slot]].key;
        let seed = self.rng.u64(..);
        let mut mesh = Mesh::new(config.clone(), id, hello.instance, seed, clock.local(self.now));
        let mut oracle = Oracle::new(id, clock.elapsed(self.now), heartbeat_ms * MS);
        mesh.set_wall_clock(self.wall(slot));
        if restart.memory {
            let known = self.slots[slot].memory[usize::from(self.rng.u32(..4) == 0)].clone();
            oracle.restore(&known, self.now);
            mesh.restore(clock.local(self.now), known);
        }
        let proc = self.procs.len();
        self.note(|| format!("p{proc} starts at slot {slot} {addr} as {} {:?}", id.short(), config.connect));
        self.procs.push(Process {
            slot,
            id,
            addr,
            mesh,
            hello,
            config,
            clock,
            alive: true,
            paused: false,
            paused_since: 0,
            deferred: Vec::new(),
            leave_by: None,
            turn_at: None,
            inbox: VecDeque::new(),
            routine: VecDeque::new(),
            handles: BTreeMap::new(),
            conns: BTreeSet::new(),
            accepted: 0,
            is_liar: self.scenario.liars.contains(&slot),
            oracle,
        });
        self.procs[proc].oracle.access = self.slots[slot].access.clone();
        self.slots[slot].proc = Some(proc);
        self.want_turn(proc, self.now);
    }

    /// What a node says of where it is: its name, what others need, sometimes what they see anyway.
    fn advertised(&mut self, slot: Slot) -> Vec<DialAddr> {
        let wants_to = self.rng.bool();
        let addr = self.slots[slot].addr;
        let is_mapped = addr.port() != self.slots[slot].listen_port;
        match self.name(slot) {
            Some(name) => vec![name],
            _ if is_mapped || wants_to => vec![addr.into()],
            _ => Vec::new(),
        }
    }

    /// The process is gone; its kernel closes what it had open, unless the machine is gone, too.
    pub fn stop(&mut self, proc: ProcId, kernel_closes: bool) {
        self.note(|| format!("p{proc} is gone"));
        let process = &mut self.procs[proc];
        process.alive = false;
        process.paused = false;
        process.deferred.clear();
        process.inbox.clear();
        process.routine.clear();
        process.handles.clear();
        let conns = std::mem::take(&mut process.conns);
        self.slots[process.slot].proc = None;
        for (conn, side) in conns {
            self.conns[conn].rough = true;
            self.conns[conn].ends[side].thread = None;
            if kernel_closes {
                let last = if self.rng.bool() { Packet::Fin } else { Packet::Rst };
                self.close_socket(conn, side, last);
            } else {
                self.conns[conn].ends[side].open = false;
            }
        }
    }

    pub fn leave(&mut self, proc: ProcId) {
        if self.procs[proc].leave_by.is_some() || self.procs[proc].paused {
            return;
        }
        self.note(|| format!("p{proc} leaves"));
        let leave_by = self.now + micros(LEAVE_FLUSH);
        self.procs[proc].leave_by = Some(leave_by);
        for (conn, _) in self.procs[proc].conns.clone() {
            self.conns[conn].rough = true;
        }
        self.take_routine(proc);
        self.feed(proc, Input::Leave);
        self.want_turn(proc, leave_by);
    }

    pub fn pause(&mut self, proc: ProcId) {
        let process = &mut self.procs[proc];
        if !process.paused && process.leave_by.is_none() {
            process.paused = true;
            process.paused_since = self.now;
            for (conn, _) in self.procs[proc].conns.clone() {
                self.conns[conn].rough = true;
            }
            self.note(|| format!("p{proc} is stopped"));
        }
    }

    pub fn resume(&mut self, proc: ProcId) {
        let now = self.now;
        let process = &mut self.procs[proc];
        if !std::mem::replace(&mut process.paused, false) {
            return;
        }
        let held = process.clock.elapsed(now) - process.clock.elapsed(process.paused_since);
        process.oracle.held_up(held);
        let deferred = std::mem::take(&mut process.deferred);
        self.note(|| format!("p{proc} goes on"));
        // Threads wake in any order, each connection's data in its own.
        let mut at = now;
        for late in deferred {
            at += self.rng.u64(0..=100);
            self.schedule(
                at,
                match late {
                    Deferred::Accept(conn) => Event::Accept(conn),
                    Deferred::Connected(conn) => Event::SynAck(conn),
                    Deferred::Refused(conn) => Event::Refused(conn),
                    Deferred::Arrive(conn, side) => Event::Arrive(conn, side),
                    Deferred::Limit(conn, side, limit) => Event::Limit(conn, side, limit),
                },
            );
        }
        let at = now + self.rng.u64(0..=20 * MS);
        self.procs[proc].turn_at = None;
        self.want_turn(proc, at);
    }

    /// The slot refuses only these peers from now on, also after a restart.
    pub fn deny(&mut self, slot: Slot, denied: &[Slot]) {
        let deny = denied.iter().map(|&other| self.slots[self.scenario.key_of[other]].key).collect();
        let access = Access { deny, ..Access::default() };
        let running = self.slots[slot].proc;
        // A process that stands still hears no signal.
        let is_deaf = running.is_some_and(|proc| self.procs[proc].paused);
        if self.slots[slot].access == access || is_deaf {
            return;
        }
        self.slots[slot].access = access.clone();
        if let Some(proc) = running {
            self.procs[proc].oracle.access = access.clone();
            self.take_routine(proc);
            self.feed(proc, Input::Access(access));
            self.check_admission(proc);
            self.want_turn(proc, self.now);
        }
    }

    /// Something for a thread of this process: now, or when it runs again.
    pub fn on_thread(&mut self, proc: ProcId, what: Deferred) {
        if self.procs[proc].paused {
            self.procs[proc].deferred.push(what);
            return;
        }
        match what {
            Deferred::Accept(conn) => self.accept(conn),
            Deferred::Connected(conn) => self.connected(conn),
            Deferred::Refused(conn) => self.refused(conn),
            Deferred::Arrive(conn, side) => self.arrive(conn, side),
            Deferred::Limit(conn, side, limit) => self.limit_reached(conn, side, limit),
        }
    }

    /// The coordinator shall run at this time, unless it does so earlier.
    pub fn want_turn(&mut self, proc: ProcId, at: Micros) {
        if self.procs[proc].turn_at.is_none_or(|turn| at < turn) {
            self.procs[proc].turn_at = Some(at);
            self.schedule(at, Event::Turn(proc));
        }
    }

    /// One turn of the coordinator.
    pub fn turn(&mut self, proc: ProcId) {
        if self.procs[proc].turn_at != Some(self.now) {
            return;
        }
        self.procs[proc].turn_at = None;
        if !self.procs[proc].alive || self.procs[proc].paused {
            return;
        }
        for _ in 0..=BATCH_MAX {
            let Some((session, conn, side, report)) = self.procs[proc].inbox.pop_front() else {
                break;
            };
            self.take_routine(proc);
            self.session_event(proc, session, conn, side, report);
        }
        self.take_routine(proc);
        let local = self.procs[proc].clock.local(self.now);
        let wall = self.wall(self.procs[proc].slot);
        self.procs[proc].mesh.set_wall_clock(wall);
        if self.procs[proc].mesh.poll_timeout().is_some_and(|at| at <= local) {
            self.procs[proc].mesh.handle_timeout(local);
            self.carry_out(proc);
            self.check_state(proc);
        }
        self.check_after_turn(proc);
        let process = &self.procs[proc];
        if process.leave_by.is_some_and(|at| process.handles.is_empty() || self.now >= at) {
            self.stop(proc, true);
            return;
        }
        if !process.inbox.is_empty() {
            self.want_turn(proc, self.now);
        } else if let Some(at) = process.leave_by {
            self.want_turn(proc, at);
        } else if let Some(at) = process.mesh.poll_timeout() {
            let at = process.clock.global(at).max(self.now);
            self.want_turn(proc, at);
        }
    }

    /// What came without a hurry, as of when it came.
    fn take_routine(&mut self, proc: ProcId) {
        while let Some((moment, session, conn, side, message)) = self.procs[proc].routine.pop_front() {
            self.procs[proc].oracle.input_from = Some((conn, side));
            self.note(|| format!("p{proc} ← {session} c{conn} of {} µs: {message:?}", moment.at));
            let arrived = self.procs[proc].clock.local(moment.at);
            let input = Input::Received { session, message, arrived };
            self.saw_received(proc, moment, &input);
            self.feed(proc, input);
            self.procs[proc].oracle.input_from = None;
            self.check_state(proc);
        }
    }

    fn session_event(&mut self, proc: ProcId, session: SessionId, conn: ConnId, side: Side, report: Report) {
        self.procs[proc].oracle.input_from = Some((conn, side));
        let input = match report {
            Report::Up(up) => {
                self.procs[proc].handles.insert(session, (conn, side));
                self.saw_session_up(proc, &up, conn, side);
                Input::SessionUp(*up)
            }
            Report::Received(message) => {
                let arrived = self.procs[proc].clock.local(self.now);
                Input::Received { session, message, arrived }
            }
            Report::Drained => Input::Drained { session },
            Report::Down(reason) => Input::SessionDown { session, reason },
            Report::DialFailed(reason) => {
                self.saw_dial_failed(proc, session, &reason);
                Input::DialFailed { session, reason }
            }
        };
        self.saw_received(proc, self.moment(proc), &input);
        self.note(|| {
            let shown = format!("{input:?}");
            format!("p{proc} ← {} c{conn} {}", session, shown.chars().take(230).collect::<String>())
        });
        let is_end = matches!(input, Input::SessionDown { .. } | Input::DialFailed { .. });
        let ended = match &input {
            Input::SessionDown { session, reason } => Some((*session, *reason)),
            _ => None,
        };
        self.feed(proc, input);
        self.check_newest(proc);
        if let Some((session, reason)) = ended {
            self.saw_session_down(proc, session, reason);
        }
        if is_end && let Some((conn, side)) = self.procs[proc].handles.remove(&session) {
            self.drop_handle(conn, side);
        }
        self.procs[proc].oracle.input_from = None;
        self.check_state(proc);
    }

    fn feed(&mut self, proc: ProcId, input: Input) {
        let local = self.procs[proc].clock.local(self.now);
        let wall = self.wall(self.procs[proc].slot);
        self.procs[proc].mesh.set_wall_clock(wall);
        self.procs[proc].mesh.handle(local, input);
        self.carry_out(proc);
    }

    fn carry_out(&mut self, proc: ProcId) {
        while let Some(output) = self.procs[proc].mesh.poll_output() {
            self.note(|| {
                let shown = format!("{output:?}");
                format!("p{proc} → {}", shown.chars().take(230).collect::<String>())
            });
            self.check_output(proc, &output);
            match output {
                Output::Dial { session, addr, expected, .. } => match self.look_up(&addr) {
                    Some(addr) => self.dial(proc, session, addr, expected),
                    None => {
                        let reason = DialError::Failed("no such name".to_owned());
                        let local = self.procs[proc].clock.local(self.now);
                        self.procs[proc].mesh.handle(local, Input::DialFailed { session, reason });
                    }
                },
                Output::Send { session, message } => self.send(proc, session, message, true),
                Output::Post { session, message } => self.send(proc, session, message, false),
                Output::Close { session, reason } => {
                    self.trace.mix(&session);
                    if let Some(&(conn, side)) = self.procs[proc].handles.get(&session)
                        && !self.put(conn, side, Outgoing::Bye(reason))
                    {
                        self.procs[proc].handles.remove(&session);
                        self.conns[conn].rough = true;
                        self.drop_handle(conn, side);
                    }
                }
                Output::DrainUnread { session } => {
                    if let Some(&(conn, side)) = self.procs[proc].handles.get(&session) {
                        self.put(conn, side, Outgoing::DrainUnread);
                    }
                }
                Output::Persist if self.restores_nothing => {}
                Output::Persist => {
                    let known = self.procs[proc].mesh.known_peers();
                    self.check_memory(proc, &known);
                    let memory = &mut self.slots[self.procs[proc].slot].memory;
                    memory[1] = std::mem::replace(&mut memory[0], known);
                }
                Output::Notify(_) | Output::Report(_) => {}
            }
        }
    }

    /// What a session's thread learns from its resolver.
    fn look_up(&mut self, addr: &DialAddr) -> Option<SocketAddr> {
        let lost_permille = self.scenario.faults.lookup_lost_permille;
        let asks = addr.socket().is_none() && lost_permille > 0 && !self.convergence;
        if asks && self.rng.u32(..1000) < lost_permille {
            return None;
        }
        self.resolve(addr)
    }

    /// Now, or when something else happens on the session.
    fn send(&mut self, proc: ProcId, session: SessionId, mut message: Message, now: bool) {
        if self.procs[proc].is_liar {
            let message = &mut message;
            self.distort(proc, message);
        }
        self.trace.mix(&session);
        self.stats.messages += 1;
        self.stats.lists += u64::from(matches!(message, Message::Peers { more: false, .. }));
        if self.count_bytes || matches!(message, Message::Peers { .. }) {
            match wire::encode(&message) {
                Ok(frame) => self.stats.bytes += frame.len() as u64,
                Err(error) => return self.violated("wire", format!("p{proc} can't send: {error}")),
            }
        }
        let Some(&(conn, side)) = self.procs[proc].handles.get(&session) else {
            return;
        };
        if let Message::Ping { seq, .. } = message {
            self.conns[conn].pings[side].push_back((seq, self.now));
        }
        let outgoing = Outgoing::Message(message);
        let has_room =
            if now { self.put(conn, side, outgoing) } else { self.lay_ready(conn, side, outgoing) };
        if !has_room {
            // Too slow: the session ends, without waiting for it.
            self.procs[proc].handles.remove(&session);
            self.conns[conn].rough = true;
            self.drop_handle(conn, side);
            let reason = DisconnectReason::Slow;
            self.note(|| format!("p{proc} ← {session} c{conn} is too slow"));
            let local = self.procs[proc].clock.local(self.now);
            self.procs[proc].mesh.handle(local, Input::SessionDown { session, reason });
            self.saw_session_down(proc, session, reason);
        }
    }
}
