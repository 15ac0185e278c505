//! Drives a [`Mesh`]: the order in which it gets session events, due timers and requests of the user, and in which its
//! outputs take effect.
//!
//! The coordinator's thread and the simulator both call this, so the order that is simulated is the order that ships.
//!
//! Invariants:
//! - Every output takes effect before the next input.
//! - Session events come before timers: a message that arrived while this node was busy counts before the peer's
//!   deadline. At most [`EVENTS_PER_TURN`] of them come first, so that timers fire during a flood.
//! - A session's handle is released after the mesh has handled the session's end: until then the mesh may send on it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::event::{AlertPhase, Event};
use crate::limits::LEAVE_FLUSH;
use crate::mesh::{
    CircuitAt, DialError, DialSource, DisconnectReason, Input, Mesh, Output, Report, RotateError, SessionId,
    Skip, UnixTime, Vitals,
};
use crate::net::addr::DialAddr;
use crate::net::beacon::Beacon;
use crate::session::{OutboxFull, SessionEvent};
use crate::trust::access::Access;
use crate::trust::key_ring::KeyRing;
use crate::trust::network_key::NetworkKey;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::{ConnectAddr, Expected};
use crate::wire::{ByeReason, CircuitReason, Message};

/// Session events handled before the timers are checked.
pub const EVENTS_PER_TURN: usize = 256;

/// The effects of a node on the world around it, and the clocks that it reads.
pub trait Effects {
    /// The time now.
    fn now(&self) -> Instant;
    /// The wall clock's time now, to be stored and shown.
    fn wall_clock(&self) -> UnixTime;
    /// Starts a dial. `skip` is what a dial to a name leaves out.
    ///
    /// # Errors
    /// It cannot start; no event about this session follows.
    fn dial(
        &mut self,
        session: SessionId,
        addr: DialAddr,
        expected: Expected,
        source: DialSource,
        skip: Skip,
    ) -> Result<(), DialError>;
    /// Queues a message for a session.
    ///
    /// # Errors
    /// The peer does not read, so the session's outbox is full.
    fn send(&mut self, session: SessionId, message: Message) -> Result<(), OutboxFull>;
    /// Joins two circuits: the bytes of one go out on the other.
    ///
    /// # Errors
    /// The outbox of this session is full.
    fn carry(&mut self, circuits: [CircuitAt; 2], acquainted_at: [Instant; 2]) -> Result<(), SessionId>;
    /// Starts a session with this peer inside an open circuit. `remote` and `acquainted_at` are the carrier's.
    ///
    /// # Errors
    /// It cannot start; no event about this session follows.
    fn enter_circuit(
        &mut self,
        session: SessionId,
        at: CircuitAt,
        peer: PeerId,
        remote: SocketAddr,
        acquainted_at: Instant,
    ) -> Result<(), DialError>;
    /// Connects to this address from the local port of the session `beside`, at the same time as the peer.
    ///
    /// # Errors
    /// It cannot start; no event about this session follows.
    fn punch(
        &mut self,
        session: SessionId,
        peer: PeerId,
        addr: SocketAddr,
        beside: SessionId,
    ) -> Result<(), DialError>;
    /// Closes a circuit, or refuses to open it.
    ///
    /// # Errors
    /// The peer does not read, so the session's outbox is full.
    fn close_circuit(&mut self, at: CircuitAt, reason: CircuitReason) -> Result<(), OutboxFull>;
    /// Makes a session send a heartbeat. A request that the session has not seen yet is enough.
    fn heartbeat(&mut self, session: SessionId);
    /// The time at which a session last heard its peer; `None` if it is not up.
    fn heard(&self, session: SessionId) -> Option<Instant>;
    /// Asks a session for everything that has arrived; the answer is [`SessionEvent::Drained`].
    fn drain_unread(&mut self, session: SessionId);
    /// Makes a session say goodbye and end, or cancels a dial.
    ///
    /// # Errors
    /// There is no room for the goodbye.
    fn close(&mut self, session: SessionId, reason: ByeReason) -> Result<(), OutboxFull>;
    /// Releases a session's handle. A session that has not ended then ends without a goodbye.
    fn release(&mut self, session: SessionId);
    /// Whether no session has a handle.
    fn has_no_sessions(&self) -> bool;
    /// How long the thread of a session last took to start, or to see a request for a heartbeat; zero if none has done
    /// either since the last call.
    fn take_session_delay(&mut self) -> Duration;
    /// Sets the vitals that sessions send with heartbeats and acknowledgements.
    fn set_vitals(&mut self, vitals: Vitals);
    /// Accepts these network keys from now on, and stores them.
    fn set_key_ring(&mut self, ring: &KeyRing, mesh: &Mesh);
    /// [`Mesh::known_peers`] has changed and should be stored soon.
    fn persist_soon(&mut self, now: Instant, mesh: &Mesh);
    /// Stores [`Mesh::known_peers`] for the last time.
    fn persist_last(&mut self, now: Instant, mesh: &Mesh);
    /// Delivers an event to the subscribers. An acquainted peer comes or goes, or a stranger, whose keys are free.
    fn notify(&mut self, event: Event, is_acquainted: bool);
    /// Writes a report to the log.
    fn report(&mut self, report: Report);
    /// Called before each input of the mesh, for checks.
    fn before_input(&mut self, _input: &Input, _mesh: &Mesh) {}
    /// Called after each input of the mesh and its outputs, for checks.
    fn after_input(&mut self, _mesh: &Mesh) {}
    /// Called before each output of the mesh, for checks.
    fn before_output(&mut self, _output: &Output, _mesh: &Mesh) {}
}

/// A mesh and its progress.
#[derive(Debug)]
pub struct Driver {
    mesh: Mesh,
    /// The deadline for the last goodbyes; `Some` once the node leaves.
    leave_by: Option<Instant>,
}

impl Driver {
    /// A driver of a mesh that has had no input.
    #[must_use]
    pub fn new(mesh: Mesh) -> Self {
        Self { mesh, leave_by: None }
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Whether the node leaves the mesh, or has left it.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leave_by.is_some()
    }

    /// Whether the node has left the mesh.
    #[must_use]
    pub fn is_done(&self, effects: &impl Effects) -> bool {
        self.leave_by.is_some_and(|at| effects.has_no_sessions() || effects.now() >= at)
    }

    /// The time at which [`Driver::turn`] must be called next; `None` if no timer is set.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leave_by.into_iter().chain(self.mesh.poll_timeout()).min()
    }

    /// One turn: the events that `next_event` has, then the timers that are due.
    pub fn turn<E: Effects>(
        &mut self,
        effects: &mut E,
        mut next_event: impl FnMut(&mut Self, &mut E) -> Option<(SessionId, SessionEvent)>,
    ) {
        for _ in 0..EVENTS_PER_TURN {
            let Some((session, event)) = next_event(self, effects) else {
                break;
            };
            self.handle_session_event(effects, session, event);
        }
        let now = self.tick(effects);
        if self.mesh.poll_timeout().is_some_and(|at| at <= now) {
            self.mesh.note_session_delay(effects.take_session_delay());
            self.mesh.handle_timeout(now);
        }
        self.execute_outputs(effects);
        effects.after_input(&self.mesh);
    }

    /// A beacon of this network arrived.
    pub fn beacon(&mut self, effects: &mut impl Effects, beacon: Beacon) {
        self.handle(effects, Input::Beacon(beacon));
    }

    /// Replaces the access lists.
    pub fn set_access(&mut self, effects: &mut impl Effects, access: Access) {
        self.handle(effects, Input::Access(access));
    }

    /// Changes the key of the network. Returns the number of changes since the network began.
    ///
    /// # Errors
    /// The keys of this node can't change while it runs, or too many earlier keys are still accepted.
    pub fn rotate_network_key(
        &mut self,
        effects: &mut impl Effects,
        key: NetworkKey,
        grace: Duration,
    ) -> Result<u64, RotateError> {
        self.mesh.may_rotate_network_key()?;
        self.handle(effects, Input::RotateNetworkKey { key, grace });
        Ok(self.mesh.network_key_status().map_or(0, |status| status.generation))
    }

    /// Joins through one more address.
    pub fn connect(&mut self, effects: &mut impl Effects, connect: ConnectAddr) {
        self.handle(effects, Input::Connect(connect));
    }

    /// A router passes on connections to this node at this address from now on, or no more.
    pub fn port_mapped(&mut self, effects: &mut impl Effects, mapped: Option<SocketAddr>) {
        self.handle(effects, Input::Mapped(mapped));
    }

    /// Sends a ping to a peer.
    pub fn ping(&mut self, effects: &mut impl Effects, peer: PeerId) {
        self.handle(effects, Input::Ping(peer));
    }

    /// Forgets a peer that is not connected.
    pub fn forget(&mut self, effects: &mut impl Effects, peer: PeerId) {
        self.handle(effects, Input::Forget(peer));
    }

    /// The alert program has run for this phase of the incident with this id.
    pub fn alert_done(&mut self, effects: &mut impl Effects, incident: u64, phase: AlertPhase) {
        self.handle(effects, Input::AlertDone { incident, phase });
    }

    /// Says goodbye to all peers. [`Driver::is_done`] tells when that is over.
    pub fn leave(&mut self, effects: &mut impl Effects) {
        if self.leave_by.is_none() {
            let now = self.tick(effects);
            self.leave_by = Some(now + LEAVE_FLUSH);
            // The known peers are stored before further goodbyes arrive. If all nodes stop at once, each
            // looks for the others again at its next start.
            effects.persist_last(now, &self.mesh);
            self.handle(effects, Input::Leave);
        }
    }

    /// Tells the mesh when each session last heard its peer, for a look at the mesh.
    pub fn refresh(&mut self, effects: &impl Effects) {
        let sessions: Vec<SessionId> = self.mesh.active_sessions().map(|(_, session)| session).collect();
        sessions.into_iter().for_each(|session| self.note_heard(effects, session));
    }

    fn handle_session_event(
        &mut self,
        effects: &mut impl Effects,
        session: SessionId,
        mut event: SessionEvent,
    ) {
        if let SessionEvent::Drained { heard } = &mut event {
            // The session may have heard its peer since it answered.
            *heard = effects.heard(session).map_or(*heard, |latest| latest.max(*heard));
        }
        if let SessionEvent::Received { message: Message::WitnessRequest { lost }, .. } = &event {
            // The answer tells when each of these peers was last heard.
            for sighting in lost {
                if let Some(&session) = self.mesh.open_sessions(&sighting.peer).last() {
                    self.note_heard(effects, session);
                }
            }
        }
        let is_about_circuit = match &event {
            SessionEvent::Received { message: Message::CircuitOpen { .. }, .. } => true,
            SessionEvent::Up(_) => session.is_carried(),
            _ => false,
        };
        if is_about_circuit {
            // This node carries only to a peer that it hears, and keeps a direct session on which it hears the peer.
            self.refresh(effects);
        }
        let is_end = event.is_end();
        if is_end {
            // An older session may stay, and has heard the peer less recently.
            self.note_heard(effects, session);
        }
        self.handle(effects, event.into_input(session));
        if is_end {
            effects.release(session);
        }
    }

    /// Tells the mesh when a session last heard its peer.
    fn note_heard(&mut self, effects: &impl Effects, session: SessionId) {
        if let Some(heard) = effects.heard(session) {
            self.mesh.note_heard(effects.now(), session, heard);
        }
    }

    fn handle(&mut self, effects: &mut impl Effects, input: Input) {
        self.feed(effects, input);
        self.execute_outputs(effects);
        effects.after_input(&self.mesh);
    }

    fn feed(&mut self, effects: &mut impl Effects, input: Input) {
        let now = self.tick(effects);
        effects.before_input(&input, &self.mesh);
        self.mesh.handle(now, input);
    }

    /// Returns the time now, and sets the wall clock of the mesh.
    fn tick(&mut self, effects: &impl Effects) -> Instant {
        self.mesh.set_wall_clock(effects.wall_clock());
        effects.now()
    }

    /// Ends the session of a peer that does not read, without a goodbye, because the peer would not read that either.
    fn drop_slow_peer(&mut self, effects: &mut impl Effects, session: SessionId) {
        self.note_heard(effects, session);
        effects.release(session);
        self.feed(effects, Input::SessionDown { session, reason: DisconnectReason::Slow });
    }

    fn execute_outputs(&mut self, effects: &mut impl Effects) {
        while let Some(output) = self.mesh.poll_output() {
            effects.before_output(&output, &self.mesh);
            let now = effects.now();
            match output {
                Output::Dial { session, addr, expected, source, skip } => {
                    if let Err(reason) = effects.dial(session, addr, expected, source, skip) {
                        self.feed(effects, Input::DialFailed { session, reason });
                    }
                }
                Output::Send { session, message } => {
                    if let Err(OutboxFull) = effects.send(session, message) {
                        self.drop_slow_peer(effects, session);
                    }
                }
                Output::Carry { circuits, acquainted_at } => {
                    if let Err(session) = effects.carry(circuits, acquainted_at) {
                        self.drop_slow_peer(effects, session);
                    }
                }
                Output::EnterCircuit { session, at, peer, remote, acquainted_at } => {
                    if let Err(reason) = effects.enter_circuit(session, at, peer, remote, acquainted_at) {
                        self.feed(effects, Input::DialFailed { session, reason });
                    }
                }
                Output::Punch { session, peer, addr, beside } => {
                    if let Err(reason) = effects.punch(session, peer, addr, beside) {
                        self.feed(effects, Input::DialFailed { session, reason });
                    }
                }
                Output::CloseCircuit { at, reason } => {
                    if let Err(OutboxFull) = effects.close_circuit(at, reason) {
                        self.drop_slow_peer(effects, at.session);
                    }
                }
                Output::Heartbeat { session } => effects.heartbeat(session),
                Output::DrainUnread { session, since } => match effects.heard(session) {
                    // The session has heard its peer since the mesh last knew.
                    Some(heard) if heard > since => {
                        self.feed(effects, Input::Drained { session, heard });
                    }
                    _ => effects.drain_unread(session),
                },
                Output::Close { session, reason } => {
                    if let Err(OutboxFull) = effects.close(session, reason) {
                        effects.release(session);
                    }
                }
                Output::Vitals(vitals) => effects.set_vitals(vitals),
                Output::NetworkKeys(ring) => effects.set_key_ring(&ring, &self.mesh),
                Output::Persist if self.leave_by.is_some() => {}
                Output::Persist => effects.persist_soon(now, &self.mesh),
                Output::Notify(event) => {
                    let is_acquainted = event.peer().is_some_and(|peer| self.mesh.is_acquainted(now, peer));
                    effects.notify(event, is_acquainted);
                }
                Output::Report(report) => effects.report(report),
            }
        }
    }
}
