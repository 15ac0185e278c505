//! A process: its driver, the effects that the driver has on the world, and how a process starts, stops and is
//! suspended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_gossip::internals::beacon::Discoverer;
use p2p_gossip::internals::driver::{Driver, Effects};
use p2p_gossip::internals::limits::SESSIONS_BESIDE_MEMBERS;
use p2p_gossip::internals::mesh::{
    CircuitAt, DialError, DialSource, Input, Mesh, Output, Report, SessionId, Skip, UnixTime, Vitals,
};
use p2p_gossip::internals::session::{
    HelloExchange, KeyRates, OutboxFull, Request, SessionEvent, SessionLimits,
};
use p2p_gossip::internals::wire::{
    self, ByeReason, CircuitReason, Hearing, Hello, Message, PUNCH_CAPABILITY,
};
use p2p_gossip::internals::{Expected, sample};
use p2p_gossip::{Access, Config, ConnectAddr, DialAddr, Event, KeyRing, PeerId};

use super::attacker::Attacker;
use super::clock::{Clock, MS, Micros, micros};
use super::net::{ConnId, Packet, Side};
use super::oracle::{Moment, Oracle};
use super::scenario::{Restart, Slot};
use super::session::Limit;
use super::world::{self, World, all_slots};

pub type ProcId = usize;

/// Number of peers up to which the whole table is checked after each input.
const TABLE_CHECKED_MAX: usize = 64;

/// What a suspended process finds when it runs again.
#[derive(Debug)]
pub enum Deferred {
    Accept(ConnId),
    Connected(ConnId),
    Refused(ConnId),
    Arrive(ConnId, Side),
    Limit(ConnId, Side, Limit),
    Circuit(ConnId, Side),
    Datagram(u64),
    BeaconDue,
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
            capabilities: [PUNCH_CAPABILITY].into_iter().chain(self.capabilities(slot)).collect(),
            proofs: Vec::new(),
        }
    }

    /// The addresses that a node advertises: its name if it has one, else its address if others need it, and sometimes
    /// its address although others see it anyway.
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
                    Deferred::Datagram(number) => world::Event::Datagram(number),
                    Deferred::BeaconDue => world::Event::BeaconDue(proc),
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
            Deferred::Datagram(number) => self.read_datagram(proc, number),
            Deferred::BeaconDue => self.beacon_due(proc),
        }
    }

    /// Schedules a turn of the coordinator at this time, unless an earlier one is scheduled.
    pub fn want_turn(&mut self, proc: ProcId, at: Micros) {
        if self.procs[proc].is_attacker {
            return self.schedule(at, world::Event::WakeAttacker(proc));
        }
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
    fn look_up(&mut self, addr: &DialAddr, skip: &[SocketAddr]) -> Result<SocketAddr, DialError> {
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

    fn persist(&mut self, proc: ProcId, mesh: &Mesh) {
        if !self.restores_nothing {
            let known = mesh.known_peers();
            self.check_memory(proc, &known);
            let memory = &mut self.slots[self.procs[proc].slot].memory;
            memory[1] = std::mem::replace(&mut memory[0], known);
        }
    }
}

/// One process as its driver sees it: the effects on the simulated world.
pub struct Node<'a> {
    world: &'a mut World,
    proc: ProcId,
}

impl Node<'_> {
    fn process(&mut self) -> &mut Process {
        &mut self.world.procs[self.proc]
    }

    fn conn(&self, session: SessionId) -> Option<(ConnId, Side)> {
        self.world.procs[self.proc].handles.get(&session).copied()
    }

    fn is_bad_carrier(&self) -> bool {
        self.world.scenario.bad_carriers.contains(&self.world.procs[self.proc].slot)
    }

    /// The next event in the coordinator's inbox.
    fn next_event(&mut self) -> Option<(SessionId, SessionEvent)> {
        let (moment, session, conn, side, event) = self.process().inbox.pop_front()?;
        self.process().oracle.input_from = Some((conn, side));
        if let SessionEvent::Up(up) = &event {
            self.process().handles.insert(session, (conn, side));
            self.world.saw_session_up(self.proc, up, conn, side);
        }
        self.world.saw_event(self.proc, moment, session, &event);
        Some((session, event))
    }
}

impl Effects for Node<'_> {
    fn now(&self) -> Instant {
        self.world.procs[self.proc].clock.local(self.world.now)
    }

    fn wall_clock(&self) -> UnixTime {
        self.world.wall(self.world.procs[self.proc].slot)
    }

    fn dial(
        &mut self,
        session: SessionId,
        addr: DialAddr,
        expected: Expected,
        _source: DialSource,
        skip: Skip,
    ) -> Result<(), DialError> {
        let addr = self.world.look_up(&addr, &skip.addrs)?;
        self.world.dial(self.proc, session, addr, expected, skip.peers);
        Ok(())
    }

    fn send(&mut self, session: SessionId, mut message: Message) -> Result<(), OutboxFull> {
        let world = &mut *self.world;
        if world.procs[self.proc].is_liar {
            world.distort(self.proc, &mut message);
        }
        if world.scenario.false_witnesses.contains(&world.procs[self.proc].slot) {
            world.bear_false_witness(&mut message);
        }
        if world.scenario.bad_carriers.contains(&world.procs[self.proc].slot)
            && let Message::WitnessReport { sightings } = &mut message
        {
            sightings
                .iter_mut()
                .for_each(|sighting| (sighting.hearing, sighting.ago_ms) = (Hearing::Hears, 0));
        }
        world.trace.mix(&session);
        world.stats.messages += 1;
        world.stats.lists += u64::from(matches!(message, Message::Peers { more: false, .. }));
        let frame = match wire::encode(&message) {
            Ok(frame) => frame,
            Err(error) => {
                world.violated("wire", format!("p{} can't send: {error}", self.proc));
                return Ok(());
            }
        };
        world.stats.bytes += frame.len() as u64;
        let Some((conn, side)) = self.conn(session) else {
            return Ok(());
        };
        if let Message::Ping { seq, .. } = message {
            let now = self.world.now;
            self.world.conns[conn].pings[side].push_back((seq, now));
        }
        let sent = self.world.put(conn, side, Request::Send(frame));
        if sent.is_err() {
            let proc = self.proc;
            self.world.note(|| format!("p{proc} ← {session} c{conn} is too slow"));
        }
        sent
    }

    fn carry(&mut self, circuits: [CircuitAt; 2], acquainted_at: [Instant; 2]) -> Result<(), SessionId> {
        let [Some(a), Some(b)] = circuits.map(|at| self.conn(at.session)) else {
            return Ok(());
        };
        self.world.carry(circuits, acquainted_at, [a, b])
    }

    fn enter_circuit(
        &mut self,
        session: SessionId,
        at: CircuitAt,
        peer: PeerId,
        remote: SocketAddr,
        acquainted_at: Instant,
    ) -> Result<(), DialError> {
        let outer = self.conn(at.session).ok_or(DialError::Failed("the carrier is gone".to_owned()))?;
        self.world.enter_circuit(self.proc, session, (at, outer), peer, (remote, acquainted_at))
    }

    fn punch(
        &mut self,
        session: SessionId,
        peer: PeerId,
        addr: SocketAddr,
        beside: SessionId,
    ) -> Result<(), DialError> {
        let world = &mut *self.world;
        world.trace.mix(&session);
        world.stats.punches += 1;
        let is_direct = beside.is_dialled() && !beside.is_carried();
        let Some(&(beside_conn, 0)) = world.procs[self.proc].handles.get(&beside).filter(|_| is_direct)
        else {
            world.violated("punch", format!("p{} has no connection {beside} to punch beside", self.proc));
            return Err(DialError::Failed("the carrier is gone".to_owned()));
        };
        if !world.scenario.nats.contains(&world.procs[self.proc].slot) {
            return Err(DialError::Failed("the NATs let nothing through".to_owned()));
        }
        world.punch(self.proc, session, peer, beside_conn, addr);
        Ok(())
    }

    fn close_circuit(&mut self, at: CircuitAt, reason: CircuitReason) -> Result<(), OutboxFull> {
        let Some((conn, side)) = self.conn(at.session) else {
            return Ok(());
        };
        if self.is_bad_carrier() && reason != CircuitReason::Ended && !at.session.is_carried() {
            // It claims to have opened the circuit.
            let accept =
                wire::encode(&Message::CircuitAccept { circuit: at.circuit }).expect("a short message");
            return self.world.put(conn, side, Request::Send(accept));
        }
        self.world.put(conn, side, Request::CloseCircuit(at.circuit, reason))
    }

    fn heartbeat(&mut self, session: SessionId) {
        let world = &mut *self.world;
        world.trace.mix(&session);
        world.stats.messages += 1;
        if world.procs[self.proc].is_liar
            && let Some(lie) = world.lie_instead_of_heartbeat(self.proc)
        {
            let _ = self.send(session, lie);
            return;
        }
        if let Some((conn, side)) = self.conn(session) {
            self.world.request_heartbeat(conn, side);
        }
    }

    fn heard(&self, session: SessionId) -> Option<Instant> {
        let (conn, side) = self.conn(session)?;
        self.world.conns[conn].ends[side].heard
    }

    fn drain_unread(&mut self, session: SessionId) {
        if let Some((conn, side)) = self.conn(session) {
            self.world.request_drain(conn, side);
        }
    }

    fn close(&mut self, session: SessionId, reason: ByeReason) -> Result<(), OutboxFull> {
        self.world.trace.mix(&session);
        let Some((conn, side)) = self.conn(session) else {
            return Ok(());
        };
        let closed = self.world.put(conn, side, Request::Bye(reason));
        self.world.conns[conn].disturbed |= closed.is_err();
        closed
    }

    fn release(&mut self, session: SessionId) {
        if let Some((conn, side)) = self.process().handles.remove(&session) {
            self.world.drop_handle(conn, side);
        }
    }

    fn has_no_sessions(&self) -> bool {
        self.world.procs[self.proc].handles.is_empty()
    }

    fn take_session_delay(&mut self) -> Duration {
        // A thread of the simulator runs at once, unless its whole process stands still.
        Duration::ZERO
    }

    fn set_vitals(&mut self, vitals: Vitals) {
        self.process().vitals = vitals;
        if self.process().is_liar {
            self.world.distort_vitals(self.proc);
        }
    }

    fn persist_soon(&mut self, _now: Instant, mesh: &Mesh) {
        self.world.persist(self.proc, mesh);
    }

    fn set_key_ring(&mut self, ring: &KeyRing, _mesh: &Mesh) {
        let process = &mut self.world.procs[self.proc];
        process.exchange = Arc::new(process.exchange.with_keys(ring.keys().cloned().collect()));
        if let Some(discoverer) = &mut process.discoverer {
            discoverer.set_keys(process.exchange.keys());
        }
        let slot = process.slot;
        self.world.slots[slot].ring = Some(ring.clone());
    }

    fn persist_last(&mut self, _now: Instant, mesh: &Mesh) {
        self.world.persist(self.proc, mesh);
    }

    fn notify(&mut self, event: Event, _is_acquainted: bool) {
        self.world.note_alarm(self.proc, &event);
    }

    fn report(&mut self, _report: Report) {}

    fn before_input(&mut self, input: &Input, _mesh: &Mesh) {
        let proc = self.proc;
        self.world.note(|| {
            let shown = format!("{input:?}");
            format!("p{proc} ← {}", shown.chars().take(230).collect::<String>())
        });
        self.world.saw_input(proc, input);
    }

    fn after_input(&mut self, mesh: &Mesh) {
        self.world.note_unstable(self.proc, mesh);
        self.world.check_newest(self.proc, mesh);
        self.process().oracle.input_from = None;
        // Only a session that comes up can displace a peer. All else in a large table waits for the next sample.
        if mesh.visible_states().nth(TABLE_CHECKED_MAX).is_none() || self.process().oracle.newcomer.is_some()
        {
            self.world.check_state(self.proc, mesh);
        }
        self.process().oracle.newcomer = None;
    }

    fn before_output(&mut self, output: &Output, mesh: &Mesh) {
        let proc = self.proc;
        self.world.note(|| {
            let shown = format!("{output:?}");
            format!("p{proc} → {}", shown.chars().take(230).collect::<String>())
        });
        self.world.note_unstable(proc, mesh);
        self.world.check_output(proc, output, mesh);
    }
}
