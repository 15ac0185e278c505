//! The effects that a process's driver has on the world.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_gossip::internals::Expected;
use p2p_gossip::internals::driver::Effects;
use p2p_gossip::internals::mesh::{
    CircuitAt, DialError, DialSource, Input, Mesh, Output, Report, SessionId, Skip, UnixTime, Vitals,
};
use p2p_gossip::internals::session::{OutboxFull, Request, SessionEvent};
use p2p_gossip::internals::wire::{self, ByeReason, CircuitReason, Hearing, Message};
use p2p_gossip::{DialAddr, Event, KeyRing, PeerId};

use super::clock::MS;
use super::net::{ConnId, Side};
use super::process::{ProcId, Process};
use super::world::World;

/// Number of peers up to which the whole table is checked after each input.
const TABLE_CHECKED_MAX: usize = 64;

/// One process as its driver sees it: the effects on the simulated world.
pub struct Node<'a> {
    pub world: &'a mut World,
    pub proc: ProcId,
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
    pub fn next_event(&mut self) -> Option<(SessionId, SessionEvent)> {
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
        std::mem::take(&mut self.process().session_delay)
    }

    fn set_vitals(&mut self, vitals: Vitals) {
        let process = self.process();
        process.vitals = vitals;
        process.longest_told = process.longest_told.max(u64::from(vitals.interval_ms) * MS);
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

    fn report(&mut self, report: Report) {
        self.world.stats.stalls += u64::from(matches!(report, Report::Stalled { .. }));
    }

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
