//! The queue of events and everything that exists: one run of one scenario.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::time::Instant;

use p2p_gossip::internals::mesh::{KnownPeer, UnixTime};
use p2p_gossip::{Access, DialAddr, PeerId};

use super::clock::{Micros, SECOND};
use super::convergence::Converged;
use super::net::{Conn, ConnId, Side};
use super::process::{Deferred, ProcId, Process};
use super::scenario::{Action, Scenario, Slot};
use super::session::Limit;

/// Notes kept for the report of a failure.
const LAST_NOTES: usize = 80;
/// 2026-01-31, the wall clock at the start of a simulation.
const WALL_AT_START: u64 = 1_769_860_800;
/// How often what no event would show is looked at.
const SAMPLE_EVERY: Micros = SECOND / 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    Script(usize),
    Turn(ProcId),
    Syn(ConnId),
    SynAgain(ConnId),
    SynAck(ConnId),
    Refused(ConnId),
    Accept(ConnId),
    Arrive(ConnId, Side),
    Limit(ConnId, Side, Limit),
    Audit(ConnId),
    Sample,
}

/// The port that every node listens on, and the one that a router maps to it.
const PORT: u16 = 8080;
const MAPPED_PORT: u16 = 17_000;

#[derive(Debug)]
pub struct SlotState {
    /// Where others reach it.
    pub addr: SocketAddr,
    /// Where it listens, as it knows: not the port above if a router is in between.
    pub listen_port: u16,
    pub powered: bool,
    pub proc: Option<ProcId>,
    pub key: PeerId,
    pub access: Access,
    /// Seconds that its clock on the wall is ahead of the right time.
    pub wall_ahead: i64,
    /// What was remembered there last, and before that: the newer may not have been written yet
    /// when the process is killed.
    pub memory: [Vec<KnownPeer>; 2],
}

/// A broken invariant, and what came before.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
    pub at: Micros,
    pub last_notes: Vec<String>,
}

/// Everything that happened, as one number; and, if wanted, in words.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    in_words: bool,
    print: bool,
    last: VecDeque<String>,
}

impl Trace {
    pub fn mix(&mut self, what: &impl Hash) {
        what.hash(self);
    }
}

/// FNV-1a: the same on every machine.
impl Hasher for Trace {
    fn finish(&self) -> u64 {
        self.hash
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.hash = (self.hash ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }
}

#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub messages: u64,
    pub lists: u64,
    pub bytes: u64,
    pub dials: u64,
    pub handshakes: u64,
    pub pings: u64,
    pub events: u64,
}

/// What a run that broke nothing tells.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub trace_hash: u64,
    pub virtual_time: Micros,
    /// From the last fault until the mesh was whole, and what was allowed.
    pub healed_after: Micros,
    pub heal_limit: Micros,
    /// Groups of nodes that had no way to find each other; each had to become whole for itself.
    pub islands: usize,
    pub stats: Stats,
}

pub struct World {
    pub now: Micros,
    pub scenario: Scenario,
    pub rng: fastrand::Rng,
    pub base: Instant,
    pub slots: Vec<SlotState>,
    pub procs: Vec<Process>,
    pub conns: Vec<Conn>,
    /// How many cuts lie on the path from one slot to another.
    pub cuts: Vec<u8>,
    pub at_addr: BTreeMap<SocketAddr, Slot>,
    /// No more faults.
    pub convergence: bool,
    pub converged_state: Option<Converged>,
    /// The nodes that can find each other after convergence: each process with the representative of its island.
    pub islands: BTreeMap<ProcId, ProcId>,
    /// The last time at which a node saw a peer come or go.
    pub last_change: Micros,
    pub count_bytes: bool,
    /// No process of this story starts with what an earlier one knew.
    pub restores_nothing: bool,
    /// The run is over as soon as the mesh is whole.
    pub waits_only_until_whole: bool,
    pub stats: Stats,
    pub trace: Trace,
    pub violation: Option<Violation>,
    queue: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    scheduled: u64,
    keys_made: u64,
}

impl World {
    pub fn new(scenario: Scenario) -> Self {
        let mut world = Self {
            now: 0,
            rng: fastrand::Rng::with_seed(scenario.seed ^ 0xc0ff_ee00),
            base: Instant::now(),
            slots: Vec::new(),
            procs: Vec::new(),
            conns: Vec::new(),
            cuts: vec![0; scenario.nodes * scenario.nodes],
            at_addr: BTreeMap::new(),
            convergence: false,
            converged_state: None,
            islands: BTreeMap::new(),
            last_change: 0,
            count_bytes: false,
            restores_nothing: !scenario.script.iter().any(|(_, action)| action.restores()),
            waits_only_until_whole: false,
            stats: Stats::default(),
            trace: Trace {
                hash: 0xcbf2_9ce4_8422_2325,
                in_words: false,
                print: false,
                last: VecDeque::new(),
            },
            violation: None,
            queue: BinaryHeap::new(),
            scheduled: 0,
            keys_made: 0,
            scenario,
        };
        for slot in 0..world.scenario.nodes {
            let addr = world.address(slot, 0);
            let key = world.make_key();
            world.slots.push(SlotState {
                addr,
                listen_port: PORT,
                powered: true,
                proc: None,
                key,
                access: Access::default(),
                wall_ahead: 0,
                memory: Default::default(),
            });
            world.at_addr.insert(addr, slot);
        }
        for index in 0..world.scenario.script.len() {
            world.schedule(world.scenario.script[index].0, Event::Script(index));
        }
        world.schedule(SAMPLE_EVERY, Event::Sample);
        world
    }

    /// Keeps the last notes in words; with `print`, shows every one.
    pub fn in_words(mut self, print: bool) -> Self {
        self.trace.in_words = true;
        self.trace.print = print;
        self
    }

    /// Runs to the end, or until an invariant breaks.
    pub fn run(mut self) -> Result<Outcome, Violation> {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.now = at;
            self.stats.events += 1;
            self.trace.mix(&at);
            self.trace.mix(&event);
            self.happen(event);
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if let Some(outcome) = self.outcome() {
                return Ok(outcome);
            }
        }
        unreachable!("samples go on for ever")
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Script(index) => self.act(self.scenario.script[index].1.clone()),
            Event::Turn(proc) => self.turn(proc),
            Event::Syn(conn) => self.syn_arrives(conn),
            Event::SynAgain(conn) => self.syn_again(conn),
            Event::SynAck(conn) => self.at_dialler(conn, Deferred::Connected(conn)),
            Event::Refused(conn) => self.at_dialler(conn, Deferred::Refused(conn)),
            Event::Accept(conn) => {
                if let Some(proc) = self.conns[conn].ends[1].proc.filter(|&proc| self.procs[proc].alive) {
                    self.on_thread(proc, Deferred::Accept(conn));
                }
            }
            Event::Arrive(conn, side) => self.arrive(conn, side),
            Event::Limit(conn, side, limit) => self.limit_reached(conn, side, limit),
            Event::Audit(conn) => self.audit(conn),
            Event::Sample => {
                // Whether the mesh is whole is asked ten times as often.
                if self.now.is_multiple_of(SAMPLE_EVERY) || !self.convergence {
                    self.check_all_states();
                }
                self.watch_convergence();
                self.schedule(
                    self.now + if self.convergence { SAMPLE_EVERY / 10 } else { SAMPLE_EVERY },
                    Event::Sample,
                );
            }
        }
    }

    fn at_dialler(&mut self, conn: ConnId, what: Deferred) {
        if let Some(proc) = self.conns[conn].ends[0].proc.filter(|&proc| self.procs[proc].alive) {
            self.on_thread(proc, what);
        }
    }

    fn act(&mut self, action: Action) {
        self.note(|| format!("## {action:?}"));
        let running = |world: &Self, slot: Slot| world.slots[slot].proc;
        match action {
            Action::Start(slot, restart) => self.start(slot, restart),
            Action::Kill(slot) => running(self, slot).into_iter().for_each(|proc| self.stop(proc, true)),
            Action::PowerOff(slot) => {
                if let Some(proc) = running(self, slot) {
                    self.stop(proc, false);
                }
                self.slots[slot].powered = false;
            }
            Action::Leave(slot) => running(self, slot).into_iter().for_each(|proc| self.leave(proc)),
            Action::Pause(slot) => running(self, slot).into_iter().for_each(|proc| self.pause(proc)),
            Action::Resume(slot) => running(self, slot).into_iter().for_each(|proc| self.resume(proc)),
            Action::Cut { from, to } => self.change_cuts(&from, &to, |cuts| cuts.saturating_add(1)),
            Action::Heal { from, to } => {
                self.change_cuts(&from, &to, |cuts| cuts.saturating_sub(1));
                self.resend_everything_blocked();
            }
            Action::Reset(slot) => {
                if let Some((conn, _)) = self.some_connection(slot) {
                    self.reset(conn);
                }
            }
            Action::CloseOneSided(slot) => {
                if let Some((conn, side)) = self.some_connection(slot) {
                    self.close_one_sided(conn, side);
                }
            }
            Action::Stall(slot, how_long) => {
                if let Some((conn, side)) = self.some_connection(slot) {
                    self.block(conn, side, self.now + how_long);
                }
            }
            Action::Deny(slot, denied) => self.deny(slot, &denied),
            Action::SetWallClock(slot, ahead) => self.slots[slot].wall_ahead = ahead,
            Action::Converged => self.wait_for_convergence(),
        }
    }

    fn change_cuts(&mut self, from: &[Slot], to: &[Slot], change: impl Fn(u8) -> u8) {
        let all = self.slots.len();
        for &from in from {
            for &to in to {
                let cuts = &mut self.cuts[from * all + to];
                *cuts = change(*cuts);
            }
        }
    }

    /// One of the slot's connections, and which end it has of it.
    fn some_connection(&mut self, slot: Slot) -> Option<(ConnId, Side)> {
        let proc = self.slots[slot].proc.filter(|&proc| !self.procs[proc].paused)?;
        let open = |&&(conn, _): &&(ConnId, Side)| self.conns[conn].ends.iter().all(|end| end.open);
        let conns: Vec<(ConnId, Side)> = self.procs[proc].conns.iter().filter(open).copied().collect();
        self.rng.choice(conns)
    }

    /// All faults end; what was cut, stopped or without power is whole again, what is gone stays gone.
    pub fn end_faults(&mut self) {
        self.convergence = true;
        self.cuts.fill(0);
        for conn in 0..self.conns.len() {
            for way in &mut self.conns[conn].ways {
                way.blocked_until = way.blocked_until.min(self.now);
            }
        }
        for proc in 0..self.procs.len() {
            self.resume(proc);
        }
        for slot in 0..self.slots.len() {
            self.deny(slot, &[]);
        }
        for slot in 0..self.slots.len() {
            // A machine whose process is gone answers, if only to say so.
            self.slots[slot].powered = true;
        }
        self.resend_everything_blocked();
    }

    /// What the slot's clock on the wall says: 1970 at the earliest.
    pub fn wall(&self, slot: Slot) -> UnixTime {
        let right = WALL_AT_START + self.now / SECOND;
        UnixTime(right.saturating_add_signed(self.slots[slot].wall_ahead))
    }

    pub fn make_key(&mut self) -> PeerId {
        self.keys_made += 1;
        let mut rng =
            fastrand::Rng::with_seed(self.scenario.seed.wrapping_mul(31).wrapping_add(self.keys_made));
        PeerId::from_bytes(std::array::from_fn(|_| rng.u8(..)))
    }

    pub fn new_key(&mut self, slot: Slot) {
        self.slots[slot].key = self.make_key();
    }

    /// The slot is reachable somewhere else from now on, and no longer where it was.
    pub fn move_slot(&mut self, slot: Slot) {
        let old = self.slots[slot].addr;
        self.at_addr.remove(&old);
        let octets = match old.ip() {
            std::net::IpAddr::V4(ip) => ip.octets(),
            std::net::IpAddr::V6(_) => [0; 4],
        };
        let addr = self.address(slot, octets[1] + 1);
        self.slots[slot].addr = addr;
        self.at_addr.insert(addr, slot);
    }

    /// Where a slot is after it has moved that often.
    fn address(&self, slot: Slot, moves: u8) -> SocketAddr {
        let port = if self.scenario.mapped.contains(&slot) { MAPPED_PORT } else { PORT };
        SocketAddr::from(([10, moves, (slot >> 8) as u8, slot as u8], port))
    }

    /// The host name of a slot that has one, with its port.
    pub fn name(&self, slot: Slot) -> Option<DialAddr> {
        let name = format!("n{slot}.example:{}", self.slots[slot].addr.port());
        self.scenario.named.contains(&slot).then(|| name.parse().unwrap())
    }

    /// What an address leads to now, as the virtual name server resolves it.
    pub fn resolve(&self, addr: &DialAddr) -> Option<SocketAddr> {
        let DialAddr::Name { host, port } = addr else {
            return addr.socket();
        };
        let slot: Slot = host.as_str().strip_prefix('n')?.strip_suffix(".example")?.parse().ok()?;
        let named = self.scenario.named.contains(&slot);
        named.then(|| SocketAddr::new(self.slots[slot].addr.ip(), *port))
    }

    pub fn schedule(&mut self, at: Micros, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at.max(self.now), self.scheduled, event)));
    }

    pub fn note(&mut self, words: impl FnOnce() -> String) {
        if !self.trace.in_words {
            return;
        }
        let line = format!("{:>11.6}  {}", self.now as f64 / SECOND as f64, words());
        if self.trace.print {
            println!("{line}");
        }
        if self.trace.last.len() == LAST_NOTES {
            self.trace.last.pop_front();
        }
        self.trace.last.push_back(line);
    }

    pub fn violated(&mut self, invariant: &'static str, detail: String) {
        if self.violation.is_none() {
            let last_notes = self.trace.last.iter().cloned().collect();
            self.violation = Some(Violation { invariant, detail, at: self.now, last_notes });
        }
    }
}
