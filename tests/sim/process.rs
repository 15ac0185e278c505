//! A process: its state, and how it starts, stops, is suspended and takes its turns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use p2p_gossip::internals::beacon::Discoverer;
use p2p_gossip::internals::driver::Driver;
use p2p_gossip::internals::limits::SESSIONS_BESIDE_MEMBERS;
use p2p_gossip::internals::mesh::{DialError, Mesh, SessionId, Vitals};
use p2p_gossip::internals::sample;
use p2p_gossip::internals::session::{HelloExchange, KeyRates, SessionEvent, SessionLimits};
use p2p_gossip::internals::wire::{Hello, PUNCH_CAPABILITY, REACHABLE_AT_CAPABILITY};
use p2p_gossip::{Access, Config, ConnectAddr, DialAddr, KeyRing, PeerId};

use super::attacker::Attacker;
use super::clock::{Clock, MS, Micros, SECOND, micros};
use super::effects::Node;
use super::net::{ConnId, Packet, Side};
use super::oracle::{Moment, Oracle};
use super::scenario::{Restart, Slot};
use super::session::Limit;
use super::world::{self, World, all_slots};

pub type ProcId = usize;

/// What a suspended process finds when it runs again.
#[derive(Debug)]
pub enum Deferred {
    Accept(ConnId),
    Connected(ConnId),
    Refused(ConnId),
    Arrive(ConnId, Side),
    Limit(ConnId, Side, Limit),
    Circuit(ConnId, Side),
    ThreadTurn(ConnId, Side),
    Datagram(u64),
    BeaconDue,
    Mapped,
}

#[derive(Debug)]
pub struct Process {
    pub slot: Slot,
    pub id: PeerId,
    pub addr: SocketAddr,
    /// `None` while it is lent out.
    pub driver: Option<Box<Driver>>,
    pub exchange: Arc<HelloExchange>,
    /// `None` without beacons.
    pub discoverer: Option<Discoverer>,
    /// What its sessions state with heartbeats and acknowledgements.
    pub vitals: Vitals,
    pub config: Config,
    pub clock: Clock,
    pub alive: bool,
    pub paused: bool,
    pub paused_since: Micros,
    pub deferred: Vec<Deferred>,
    pub turn_at: Option<Micros>,
    /// How late each turn of the coordinator is, and those of session threads are at most.
    pub late: Micros,
    /// How long a session took to see the last request for a heartbeat.
    pub session_delay: Duration,
    /// The longest heartbeat interval that it told its peers.
    pub longest_told: Micros,
    /// The events of its sessions, each with the moment at which it was reported.
    pub inbox: VecDeque<(Moment, SessionId, ConnId, Side, SessionEvent)>,
    /// The coordinator's ends of outboxes.
    pub handles: BTreeMap<SessionId, (ConnId, Side)>,
    /// Sockets that the kernel would close.
    pub conns: BTreeSet<(ConnId, Side)>,
    pub accepted: u64,
    pub key_rates: KeyRates,
    /// Its sessions that are up or closing.
    pub places: SessionLimits<(ConnId, Side)>,
    pub is_liar: bool,
    /// An attacker has no mesh; its driver never runs.
    pub is_attacker: bool,
    /// `None` while it is lent out, and once the attack is over.
    pub attacker: Option<Attacker>,
    pub oracle: Oracle,
}

impl Process {
    pub fn is_listening(&self) -> bool {
        self.alive && !self.is_attacker && !self.is_leaving()
    }

    pub fn is_leaving(&self) -> bool {
        self.driver().is_leaving()
    }

    pub fn driver(&self) -> &Driver {
        self.driver.as_ref().expect("the driver is not lent out")
    }

    pub fn mesh(&self) -> &Mesh {
        self.driver().mesh()
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
        let config = self.config(slot, restart);
        let addr = self.slots[slot].addr;
        let hello = self.hello(slot);
        let is_mapped_later = self.is_mapped(slot) && hello.advertised.is_empty();
        let instance = hello.instance;
        let id = self.slots[self.scenario.key_of[slot]].key;
        let seed = self.rng.u64(..);
        let mut mesh = Mesh::new(config.clone(), id, hello.instance, seed, clock.local(self.now));
        let mut oracle = Oracle::new(id, clock.elapsed(self.now));
        oracle.pins = config.connect.iter().filter_map(|connect| connect.pin).collect();
        mesh.set_wall_clock(self.wall(slot));
        if restart.memory {
            let known = self.slots[slot].memory[usize::from(self.rng.u32(..4) == 0)].clone();
            oracle.restore(&known, self.now);
            mesh.restore(clock.local(self.now), known);
        }
        let ring = self.slots[slot].ring.clone();
        let exchange = HelloExchange::new(hello, ring.iter().flat_map(KeyRing::keys).cloned().collect());
        if let Some(ring) = ring {
            mesh.set_key_ring(clock.local(self.now), ring);
        }
        let proc = self.procs.len();
        let attack = self.scenario.attacks.iter().find(|attack| attack.slot == slot).cloned();
        let attacker = attack.map(|attack| Attacker::new(attack, seed));
        let discoverer = match attacker {
            None => self.discoverer(slot, instance, clock.local(self.now)),
            Some(_) => None,
        };
        self.note(|| format!("p{proc} starts at slot {slot} {addr} as {} {:?}", id.short(), config.connect));
        self.procs.push(Process {
            slot,
            id,
            addr,
            driver: Some(Box::new(Driver::new(mesh))),
            exchange: Arc::new(exchange),
            discoverer,
            vitals: Vitals::default(),
            places: SessionLimits::new(config.peers_max + SESSIONS_BESIDE_MEMBERS),
            key_rates: KeyRates::default(),
            config,
            clock,
            alive: true,
            paused: false,
            paused_since: 0,
            deferred: Vec::new(),
            turn_at: None,
            late: 0,
            session_delay: Duration::ZERO,
            longest_told: 0,
            inbox: VecDeque::new(),
            handles: BTreeMap::new(),
            conns: BTreeSet::new(),
            accepted: 0,
            is_liar: self.scenario.liars.contains(&slot),
            is_attacker: attacker.is_some(),
            attacker,
            oracle,
        });
        self.procs[proc].oracle.access = self.slots[slot].access.clone();
        self.slots[slot].proc = Some(proc);
        if self.procs[proc].is_attacker {
            self.schedule(self.now, world::Event::Attack(proc));
        } else {
            self.want_turn(proc, self.now);
            if self.procs[proc].discoverer.is_some() {
                self.schedule(self.now, world::Event::BeaconDue(proc));
            }
            if is_mapped_later {
                let answered_at = self.now + self.rng.u64(0..=2 * SECOND);
                self.schedule(answered_at, world::Event::Mapped(proc));
            }
        }
    }

    /// The configuration of a process of this slot.
    fn config(&self, slot: Slot, restart: Restart) -> Config {
        let connect: &[Slot] = if restart.no_connect { &[] } else { &self.scenario.connect[slot] };
        let one = connect.iter().map(|&other| {
            let pin = self.scenario.pins.then(|| self.slots[self.scenario.key_of[other]].key.into());
            let addr = self.name(other).unwrap_or(self.slots[other].addr.into());
            match pin {
                Some(pin) => ConnectAddr::pinned(pin, addr),
                None => addr.into(),
            }
        });
        let all = self.scenario.name_of_all.then(|| ConnectAddr::from(all_slots()));
        let connect = one.chain(all);
        let faults = &self.scenario.faults;
        let (heartbeat_ms, timeout_ms) = self.scenario.rhythm[slot];
        Config::default()
            .port(self.slots[slot].listen_port)
            .heartbeat(Duration::from_millis(heartbeat_ms))
            .timeout(Duration::from_millis(timeout_ms))
            .period(Duration::from_millis(faults.ping_period_ms))
            .connect(connect.collect::<Vec<_>>())
            .access(self.slots[slot].access.clone())
            .strict(faults.strict)
            .alerts(self.scenario.alerts.contains(&slot))
            .relay(self.scenario.relay)
            .peers_max(faults.peers_max)
    }

    /// The Hello of a new process of this slot.
    fn hello(&mut self, slot: Slot) -> Hello {
        Hello {
            instance: self.rng.u64(..),
            name: String::new(),
            listen_port: self.slots[slot].listen_port,
            advertised: self.advertised(slot),
            heartbeat_ms: self.scenario.rhythm[slot].0 as u32,
            capabilities: [PUNCH_CAPABILITY, REACHABLE_AT_CAPABILITY]
                .into_iter()
                .chain(self.capabilities(slot))
                .collect(),
            proofs: Vec::new(),
        }
    }

    /// The addresses that a node advertises: its name if it has one, and sometimes its address although others see it
    /// anyway. Others need the address of a node behind a router, which the node may learn later from the router.
    fn advertised(&mut self, slot: Slot) -> Vec<DialAddr> {
        match self.name(slot) {
            Some(name) => vec![name],
            _ if self.rng.bool() => vec![self.slots[slot].addr.into()],
            _ => Vec::new(),
        }
    }

    /// Whether the node is behind a router that passes on connections to it at another port.
    fn is_mapped(&self, slot: Slot) -> bool {
        self.slots[slot].addr.port() != self.slots[slot].listen_port
    }

    /// Ends the process. Its kernel closes its sockets, unless the machine is gone, too.
    pub fn stop(&mut self, proc: ProcId, kernel_closes: bool) {
        self.note(|| format!("p{proc} is gone"));
        let process = &mut self.procs[proc];
        process.alive = false;
        process.paused = false;
        process.deferred.clear();
        process.inbox.clear();
        process.handles.clear();
        let conns = std::mem::take(&mut process.conns);
        self.slots[process.slot].proc = None;
        for (conn, side) in conns {
            self.conns[conn].disturbed = true;
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
        if self.procs[proc].is_leaving() || self.procs[proc].paused {
            return;
        }
        self.note(|| format!("p{proc} leaves"));
        for (conn, _) in self.procs[proc].conns.clone() {
            self.conns[conn].disturbed = true;
        }
        self.drive(proc, |driver, node| driver.leave(node));
        self.want_turn(proc, self.now);
    }

    /// The user of the slot's process changes the key of the network.
    pub fn rotate_key(&mut self, slot: Slot, grace: Duration) {
        let running = self.slots[slot].proc.filter(|&proc| !self.procs[proc].paused);
        if let Some(proc) = running.filter(|&proc| !self.procs[proc].is_leaving()) {
            let key = sample::network_key(std::array::from_fn(|_| self.rng.u8(..)));
            self.drive(proc, |driver, node| {
                // A user who changes the key too often is told so.
                let _ = driver.rotate_network_key(node, key, grace);
            });
            self.want_turn(proc, self.now);
        }
    }

    pub fn pause(&mut self, proc: ProcId) {
        let process = &mut self.procs[proc];
        if !process.paused && !process.is_leaving() {
            process.paused = true;
            process.paused_since = self.now;
            for (conn, _) in self.procs[proc].conns.clone() {
                self.conns[conn].disturbed = true;
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
        let due = process.mesh().poll_timeout();
        let late = due.map_or(Duration::ZERO, |at| process.clock.local(now).saturating_duration_since(at));
        process.oracle.stalled(now, held, micros(late).min(held));
        let deferred = std::mem::take(&mut process.deferred);
        self.note(|| format!("p{proc} goes on"));
        // Threads continue one after another, in the order in which their events came.
        let mut at = now;
        for late in deferred {
            at += self.rng.u64(0..=100);
            self.schedule(
                at,
                match late {
                    Deferred::Accept(conn) => world::Event::Accept(conn),
                    Deferred::Connected(conn) => world::Event::SynAck(conn),
                    Deferred::Refused(conn) => world::Event::Refused(conn),
                    Deferred::Arrive(conn, side) => world::Event::Arrive(conn, side),
                    Deferred::Limit(conn, side, limit) => world::Event::Limit(conn, side, limit),
                    Deferred::Circuit(conn, side) => world::Event::Circuit(conn, side),
                    Deferred::ThreadTurn(conn, side) => world::Event::ThreadTurn(conn, side),
                    Deferred::Datagram(number) => world::Event::Datagram(number),
                    Deferred::BeaconDue => world::Event::BeaconDue(proc),
                    Deferred::Mapped => world::Event::Mapped(proc),
                },
            );
        }
        let at = now + self.rng.u64(0..=20 * MS);
        self.procs[proc].turn_at = None;
        self.want_turn(proc, at);
    }

    /// The node of this slot refuses exactly these peers from now on, also after a restart.
    pub fn deny(&mut self, slot: Slot, denied: &[Slot]) {
        let deny = denied.iter().map(|&other| self.slots[self.scenario.key_of[other]].key);
        let access = Access::default().deny(deny);
        let running = self.slots[slot].proc;
        // A suspended process handles no signal.
        let is_deaf = running.is_some_and(|proc| self.procs[proc].paused);
        if self.slots[slot].access == access || is_deaf {
            return;
        }
        self.slots[slot].access = access.clone();
        if let Some(proc) = running {
            self.procs[proc].oracle.access = access.clone();
            self.procs[proc].oracle.access_changed = self.now;
            self.drive(proc, |driver, node| driver.set_access(node, access));
            self.with_mesh(proc, |world, mesh| world.check_admission(proc, mesh));
            self.want_turn(proc, self.now);
        }
    }

    /// Lets a thread of this process handle something: now, or once the process is resumed.
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
            Deferred::Circuit(conn, side) => self.circuit_news(conn, side),
            Deferred::ThreadTurn(conn, side) => self.thread_turn(conn, side),
            Deferred::Datagram(number) => self.read_datagram(proc, number),
            Deferred::BeaconDue => self.beacon_due(proc),
            Deferred::Mapped => {
                let mapped = Some(self.procs[proc].addr);
                self.drive(proc, |driver, node| driver.port_mapped(node, mapped));
                self.want_turn(proc, self.now);
            }
        }
    }

    /// Schedules a turn of the coordinator at this time, unless an earlier one is scheduled.
    pub fn want_turn(&mut self, proc: ProcId, at: Micros) {
        if self.procs[proc].is_attacker {
            return self.schedule(at, world::Event::WakeAttacker(proc));
        }
        let at = at + self.procs[proc].late;
        if self.procs[proc].turn_at.is_none_or(|turn| at < turn) {
            self.procs[proc].turn_at = Some(at);
            self.schedule(at, world::Event::Turn(proc));
        }
    }

    /// One turn of the coordinator. The driver runs it, as it does in the coordinator's thread.
    pub fn turn(&mut self, proc: ProcId) {
        if self.procs[proc].turn_at != Some(self.now) {
            return;
        }
        self.procs[proc].turn_at = None;
        if !self.procs[proc].alive || self.procs[proc].paused {
            return;
        }
        self.drive(proc, |driver, node| driver.turn(node, |_, node| node.next_event()));
        self.with_mesh(proc, |world, mesh| world.check_after_turn(proc, mesh));
        let is_done = self.drive(proc, |driver, node| driver.is_done(node));
        if is_done {
            self.stop(proc, true);
        } else if !self.procs[proc].inbox.is_empty() {
            self.want_turn(proc, self.now);
        } else if let Some(at) = self.procs[proc].driver().poll_timeout() {
            let at = self.procs[proc].clock.global(at).max(self.now);
            self.want_turn(proc, at);
        }
    }

    /// Lends out a process's driver together with the effects that it has on the world.
    pub fn drive<T>(&mut self, proc: ProcId, call: impl FnOnce(&mut Driver, &mut Node<'_>) -> T) -> T {
        let mut driver = self.procs[proc].driver.take().expect("the driver is lent out once");
        let result = call(&mut driver, &mut Node { world: self, proc });
        self.procs[proc].driver = Some(driver);
        result
    }

    /// Lends out a process's mesh together with the world.
    pub fn with_mesh<T>(&mut self, proc: ProcId, call: impl FnOnce(&mut Self, &Mesh) -> T) -> T {
        self.drive(proc, |driver, node| call(node.world, driver.mesh()))
    }

    /// An IP address of a name, as the session's thread gets it from its resolver. Of several, a thread tries up to four;
    /// here it tries one.
    pub fn look_up(&mut self, addr: &DialAddr, skip: &[SocketAddr]) -> Result<SocketAddr, DialError> {
        let lost_permille = self.scenario.faults.lookup_lost_permille;
        let asks = addr.socket().is_none() && lost_permille > 0 && !self.faults_ended;
        let is_lost = asks && self.rng.u32(..1000) < lost_permille;
        let found = if is_lost { Vec::new() } else { self.resolve(addr) };
        if found.is_empty() {
            return Err(DialError::Failed("no such name".to_owned()));
        }
        let new: Vec<SocketAddr> = found.iter().copied().filter(|addr| !skip.contains(addr)).collect();
        let usable = if new.is_empty() { found } else { new };
        Ok(if usable.len() == 1 { usable[0] } else { usable[self.rng.usize(..usable.len())] })
    }

    /// Stores the known peers on the process's disk.
    pub fn persist(&mut self, proc: ProcId, mesh: &Mesh) {
        if !self.restores_nothing {
            let known = mesh.known_peers();
            self.check_memory(proc, &known);
            let memory = &mut self.slots[self.procs[proc].slot].memory;
            memory[1] = std::mem::replace(&mut memory[0], known);
        }
    }
}
