//! One run of one scenario: the event queue and the state of the simulated network.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use p2p_gossip::internals::mesh::{KnownPeer, UnixTime};
use p2p_gossip::internals::sample;
use p2p_gossip::{Access, AlertPhase, DialAddr, KeyRing, PeerId};

use super::alarms::Alarm;
use super::beacons::LocalNetwork;
use super::circuits::{BadCircuit, Woken};
use super::clock::{Micros, SECOND};
use super::convergence::Converged;
use super::net::{Conn, ConnId, Side};
use super::process::{Deferred, ProcId, Process};
use super::scenario::{Action, Scenario, Slot};
use super::session::Limit;
use super::trace::Trace;

/// 2026-01-31, the wall clock at the start of a simulation.
const WALL_AT_START: u64 = 1_769_860_800;
/// Interval at which all nodes are checked, also those that receive no event.
const SAMPLE_EVERY: Micros = SECOND / 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// The action with this index in the script is due.
    Script(usize),
    /// The coordinator of this process runs.
    Turn(ProcId),
    /// A connection attempt reaches the other machine.
    Syn(ConnId),
    /// The kernel repeats an unanswered connection attempt.
    SynAgain(ConnId),
    /// The dialler learns that the connection is established.
    SynAck(ConnId),
    /// The dialler learns that the connection is refused.
    Refused(ConnId),
    /// Two attempts to connect at once may meet.
    Meet(ConnId, ConnId),
    /// The listener accepts the connection.
    Accept(ConnId),
    /// Packets from this end may be due at the other.
    Arrive(ConnId, Side),
    /// A time limit of a session's thread has passed.
    Limit(ConnId, Side, Limit),
    /// The alert program of a process has run for this incident.
    AlertRan(ProcId, u64, AlertPhase),
    /// A bad carrier passes on what has arrived for this circuit.
    BadCircuit(usize),
    /// A pipe of this end has news: its thread looks at its circuits.
    Circuit(ConnId, Side),
    /// The thread at this end gets a processor.
    ThreadTurn(ConnId, Side),
    /// A process may have a beacon to send.
    BeaconDue(ProcId),
    /// The router of a process passes on connections to it from now on.
    Mapped(ProcId),
    /// The datagram with this number arrives.
    Datagram(u64),
    /// An attacker acts.
    Attack(ProcId),
    /// An attacker's session has reported something.
    WakeAttacker(ProcId),
    /// A closed connection is checked for lost pings.
    Audit(ConnId),
    /// All nodes and the convergence are checked.
    Sample,
}

/// The port that every node listens on.
const PORT: u16 = 8080;
/// The port that a router maps to `PORT`.
const MAPPED_PORT: u16 = 17_000;

/// A name with the addresses of all slots.
pub fn all_slots() -> DialAddr {
    format!("all.example:{PORT}").parse().unwrap()
}

#[derive(Debug)]
pub struct SlotState {
    /// The address at which other slots reach this slot.
    pub addr: SocketAddr,
    /// The port that its process listens on; behind a router not the port of `addr`.
    pub listen_port: u16,
    pub powered: bool,
    pub proc: Option<ProcId>,
    pub key: PeerId,
    pub access: Access,
    /// Seconds that its wall clock is ahead of the right time.
    pub wall_ahead: i64,
    /// The network keys on its disk; `None` in an open network.
    pub ring: Option<KeyRing>,
    /// The two latest lists of known peers, the newest first. A killed process may not have written the newest.
    pub memory: [Vec<KnownPeer>; 2],
}

/// A broken invariant, and the last notes before it.
#[derive(Clone, Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
    pub at: Micros,
    pub last_notes: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub messages: u64,
    pub lists: u64,
    pub bytes: u64,
    pub dials: u64,
    pub handshakes: u64,
    /// Sessions that came up inside circuits, at either end.
    pub carried_sessions: u64,
    /// Sessions inside circuits that met a wrong tag.
    pub garbled: u64,
    /// Attempts to connect through NATs.
    pub punches: u64,
    /// Stalls that nodes noticed of themselves.
    pub stalls: u64,
    /// Connections that two attempts at once have made.
    pub punched: u64,
    pub pings: u64,
    pub events: u64,
    /// Sessions that a strict node refused because of their address.
    pub addresses_taken: u64,
}

/// The result of a run without a violation.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub trace_hash: u64,
    pub virtual_time: Micros,
    /// Time from the last fault until the mesh was whole.
    pub healed_after: Micros,
    /// The limit for that time.
    pub heal_limit: Micros,
    /// Number of groups of nodes that could not find each other. Each group had to become whole on its own.
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
    /// Number of active cuts on the path from one slot to another, at index `from * slots + to`.
    pub cuts: Vec<u8>,
    pub at_addr: BTreeMap<SocketAddr, Slot>,
    /// All faults have ended.
    pub faults_ended: bool,
    pub converged_state: Option<Converged>,
    /// The nodes that can find each other after the faults: each process with the smallest process of its island.
    pub islands: BTreeMap<ProcId, ProcId>,
    /// The last time at which a node reported a peer as up, down or left.
    pub last_change: Micros,
    pub count_bytes: bool,
    /// No process of this scenario restores the known peers of a previous run.
    pub restores_nothing: bool,
    /// The run ends as soon as the mesh is whole.
    pub stops_when_whole: bool,
    pub stats: Stats,
    /// The runs of alert programs.
    pub alarms: Vec<Alarm>,
    pub lan: LocalNetwork,
    /// The time and the node of each dial to an address of a third party.
    pub lent_dials: Vec<(Micros, ProcId)>,
    pub trace: Trace,
    pub violation: Option<Violation>,
    /// The events of all nodes with their times, if they are wanted.
    pub seen: Option<Vec<(Micros, ProcId, p2p_gossip::Event)>>,
    /// Threads that pipes have woken.
    pub woken: Woken,
    /// The circuits that bad carriers carry.
    pub bad_circuits: Vec<BadCircuit>,
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
            faults_ended: false,
            converged_state: None,
            islands: BTreeMap::new(),
            last_change: 0,
            count_bytes: false,
            restores_nothing: !scenario.script.iter().any(|(_, action)| action.restores_peers()),
            stops_when_whole: false,
            stats: Stats::default(),
            alarms: Vec::new(),
            lan: LocalNetwork::default(),
            lent_dials: Vec::new(),
            trace: Trace::new(),
            violation: None,
            seen: None,
            woken: Woken::default(),
            bad_circuits: Vec::new(),
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
                ring: world.scenario.is_closed.then(|| KeyRing::new(sample::network_key([1; 32]))),
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

    /// Keeps the last notes; with `print`, prints every note.
    pub fn with_notes(mut self, print: bool) -> Self {
        self.trace.keep_notes(print);
        self
    }

    /// Runs until the scenario ends or an invariant breaks.
    pub fn run(mut self) -> Result<Outcome, Violation> {
        self.run_to_end()
    }

    /// The same; the world can be looked at afterwards.
    pub fn run_to_end(&mut self) -> Result<Outcome, Violation> {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.now = at;
            self.stats.events += 1;
            self.trace.mix(&at);
            self.trace.mix(&event);
            self.handle_event(event);
            self.wake_circuits();
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if let Some(outcome) = self.outcome() {
                return Ok(outcome);
            }
        }
        unreachable!("each sample schedules the next one")
    }

    /// Runs until this time, without looking whether the mesh becomes whole.
    ///
    /// # Errors
    /// An invariant was broken.
    pub fn run_until(&mut self, end: Micros) -> Result<(), Violation> {
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= end)
            && let Some(Reverse((at, _, event))) = self.queue.pop()
        {
            self.now = at;
            self.stats.events += 1;
            self.handle_event(event);
            self.wake_circuits();
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        self.now = end;
        Ok(())
    }

    /// Adds an action to the script.
    pub fn act_at(&mut self, at: Micros, action: Action) {
        self.scenario.script.push((at, action));
        self.schedule(at, Event::Script(self.scenario.script.len() - 1));
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Script(index) => self.apply(self.scenario.script[index].1.clone()),
            Event::Turn(proc) => self.turn(proc),
            Event::Syn(conn) => self.syn_arrives(conn),
            Event::SynAgain(conn) => self.syn_again(conn),
            Event::SynAck(conn) => self.on_dialler(conn, Deferred::Connected(conn)),
            Event::Refused(conn) => self.on_dialler(conn, Deferred::Refused(conn)),
            Event::Meet(one, other) => self.meet(one, other),
            Event::Accept(conn) => {
                if let Some(proc) = self.conns[conn].ends[1].proc.filter(|&proc| self.procs[proc].alive) {
                    self.on_thread(proc, Deferred::Accept(conn));
                }
            }
            Event::Arrive(conn, side) => self.arrive(conn, side),
            Event::Limit(conn, side, limit) => self.limit_reached(conn, side, limit),
            Event::AlertRan(proc, incident, phase) => self.alert_ran(proc, incident, phase),
            Event::Circuit(conn, side) => {
                // A session inside a circuit may not have started, because its carrier does not read.
                let proc = self.conns.get(conn).and_then(|conn| conn.ends[side].proc);
                if let Some(proc) = proc.filter(|&proc| self.procs[proc].alive) {
                    self.on_thread(proc, Deferred::Circuit(conn, side));
                }
            }
            Event::ThreadTurn(conn, side) => {
                if let Some(proc) = self.conns[conn].ends[side].proc.filter(|&proc| self.procs[proc].alive) {
                    self.on_thread(proc, Deferred::ThreadTurn(conn, side));
                }
            }
            Event::BadCircuit(circuit) => self.pass_badly(circuit),
            Event::BeaconDue(proc) => {
                if self.procs[proc].alive {
                    self.on_thread(proc, Deferred::BeaconDue);
                }
            }
            Event::Mapped(proc) => {
                if self.procs[proc].alive {
                    self.on_thread(proc, Deferred::Mapped);
                }
            }
            Event::Datagram(number) => self.datagram_arrives(number),
            Event::Attack(proc) => self.attack(proc),
            Event::WakeAttacker(proc) => self.wake_attacker(proc),
            Event::Audit(conn) => self.audit(conn),
            Event::Sample => self.sample(),
        }
    }

    fn sample(&mut self) {
        // After the faults, samples check the convergence ten times as often; the nodes keep their interval.
        if self.now.is_multiple_of(SAMPLE_EVERY) || !self.faults_ended {
            self.check_all_states();
        }
        self.watch_convergence();
        let interval = if self.faults_ended { SAMPLE_EVERY / 10 } else { SAMPLE_EVERY };
        self.schedule(self.now + interval, Event::Sample);
    }

    /// Gives the work to a thread of the process that dialled.
    fn on_dialler(&mut self, conn: ConnId, work: Deferred) {
        if let Some(proc) = self.conns[conn].ends[0].proc.filter(|&proc| self.procs[proc].alive) {
            self.on_thread(proc, work);
        }
    }

    fn apply(&mut self, action: Action) {
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
            Action::Overload(slot, late) => {
                running(self, slot).into_iter().for_each(|proc| self.procs[proc].late = late);
            }
            Action::Cut { from, to } => self.change_cuts(&from, &to, |cuts| cuts.saturating_add(1)),
            Action::Heal { from, to } => {
                self.change_cuts(&from, &to, |cuts| cuts.saturating_sub(1));
                self.resend_everything_blocked();
            }
            Action::Reset(slot) => {
                if let Some((conn, _)) = self.random_connection(slot) {
                    self.reset(conn);
                }
            }
            Action::CloseOneSided(slot) => {
                if let Some((conn, side)) = self.random_connection(slot) {
                    self.close_one_sided(conn, side);
                }
            }
            Action::Stall(slot, duration) => {
                if let Some((conn, side)) = self.random_connection(slot) {
                    self.block(conn, side, self.now + duration);
                }
            }
            Action::Deny(slot, denied) => self.deny(slot, &denied),
            Action::SetWallClock(slot, ahead) => self.slots[slot].wall_ahead = ahead,
            Action::RotateKey(slot, grace) => self.rotate_key(slot, grace),
            Action::EndFaults => self.start_convergence(),
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

    /// A random open connection of the slot's process, and the end that the process has.
    fn random_connection(&mut self, slot: Slot) -> Option<(ConnId, Side)> {
        let proc = self.slots[slot].proc.filter(|&proc| !self.procs[proc].paused)?;
        let open = |&&(conn, _): &&(ConnId, Side)| self.conns[conn].ends.iter().all(|end| end.open);
        let conns: Vec<(ConnId, Side)> = self.procs[proc].conns.iter().filter(open).copied().collect();
        self.rng.choice(conns)
    }

    /// Ends all faults: heals the cuts and stalls, resumes the processes, admits all peers and switches the power on.
    /// Stopped processes stay stopped.
    pub fn end_faults(&mut self) {
        self.faults_ended = true;
        self.cuts.fill(0);
        for conn in 0..self.conns.len() {
            for way in &mut self.conns[conn].ways {
                way.blocked_until = way.blocked_until.min(self.now);
            }
        }
        for proc in 0..self.procs.len() {
            self.procs[proc].late = 0;
            self.resume(proc);
        }
        for slot in 0..self.slots.len() {
            self.deny(slot, &[]);
        }
        for slot in 0..self.slots.len() {
            // A machine without a process refuses connections instead of ignoring them.
            self.slots[slot].powered = true;
        }
        self.resend_everything_blocked();
    }

    /// The slot's wall clock: 1970 at the earliest.
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

    /// Gives the slot a new address; its old address leads nowhere from now on.
    pub fn move_slot(&mut self, slot: Slot) {
        let old = self.slots[slot].addr;
        self.at_addr.remove(&old);
        let octets = match old.ip() {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        let addr = self.address(slot, octets[1] + 1);
        self.slots[slot].addr = addr;
        self.at_addr.insert(addr, slot);
    }

    /// The address of a slot after this number of moves.
    fn address(&self, slot: Slot, moves: u8) -> SocketAddr {
        let port = if self.scenario.mapped.contains(&slot) { MAPPED_PORT } else { PORT };
        SocketAddr::from(([10, moves, (slot >> 8) as u8, slot as u8], port))
    }

    /// The address that a slot itself has in a connection, in which others see it at this one.
    pub fn inner_address(&self, slot: Slot, seen: SocketAddr) -> SocketAddr {
        if self.scenario.nats.contains(&slot) {
            SocketAddr::from(([192, 168, (slot >> 8) as u8, slot as u8], seen.port()))
        } else {
            seen
        }
    }

    /// Whether this is the inner address of some slot.
    pub fn is_inner_address(addr: SocketAddr) -> bool {
        matches!(addr.ip(), IpAddr::V4(ip) if ip.octets().starts_with(&[192, 168]))
    }

    /// The host name of a slot that has one, with its port.
    pub fn name(&self, slot: Slot) -> Option<DialAddr> {
        let name = format!("n{slot}.example:{}", self.slots[slot].addr.port());
        self.scenario.named.contains(&slot).then(|| name.parse().unwrap())
    }

    /// The socket addresses that the virtual name server returns for this address now.
    pub fn resolve(&self, addr: &DialAddr) -> Vec<SocketAddr> {
        let DialAddr::Name { host, port } = addr else {
            return addr.socket().into_iter().collect();
        };
        if *addr == all_slots() {
            return self.slots.iter().map(|slot| slot.addr).collect();
        }
        let slot = host.as_str().strip_prefix('n').and_then(|rest| rest.strip_suffix(".example"));
        let slot: Option<Slot> = slot.and_then(|slot| slot.parse().ok());
        let named = slot.filter(|slot| self.scenario.named.contains(slot));
        named.map(|slot| SocketAddr::new(self.slots[slot].addr.ip(), *port)).into_iter().collect()
    }

    pub fn schedule(&mut self, at: Micros, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at.max(self.now), self.scheduled, event)));
    }

    pub fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.note(self.now, text);
    }

    /// Records a violation; the first one ends the run.
    pub fn violated(&mut self, invariant: &'static str, detail: String) {
        if self.violation.is_none() {
            let last_notes = self.trace.last_notes();
            self.violation = Some(Violation { invariant, detail, at: self.now, last_notes });
        }
    }
}
