//! One connection above TLS, as a value: bytes, requests and time go in; bytes and events come out.
//!
//! It owns the exchange of Hellos, frames, heartbeats and their acknowledgements, the rate limit of received frames,
//! goodbyes, and protocol errors. A session's thread and the simulator both drive it, in this order:
//!
//! 1. [`Protocol::handle_request`] for each request of the coordinator, while [`Protocol::wants_requests`]; then
//!    [`Protocol::handle_circuits`].
//! 2. [`Protocol::handle_timeout`].
//! 3. [`Protocol::poll_transmit`] until it returns `None`, then [`Protocol::handle_transmitted`].
//! 4. [`Protocol::poll_event`]. From step 3 again after an event, and while [`Protocol::has_transmits`].
//! 5. Unless [`Protocol::is_closed`]: wait for a request, for bytes if [`Protocol::wants_bytes`], for the connection
//!    to take bytes, or until [`Protocol::poll_timeout`]; then [`Protocol::handle_bytes`] or [`Protocol::handle_end`].
//!
//! Invariant: no thread, socket or clock. At most one event ends the session ([`SessionEvent::is_end`]), and no event
//! follows it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::circuits::Circuits;
use super::failure::Failure;
use super::heartbeats::Heartbeats;
use super::hello::{Exported, HelloExchange, Role};
use super::pipe::PipeEnd;
use super::rate_limit::KeyRateLimit;
use super::session_event::SessionEvent;
use crate::limits::{LINGER, WRITE_STALL};
use crate::mesh::{DisconnectReason, SessionId, Vitals};
use crate::trust::peer_id::PeerId;
use crate::wire::{
    self, ByeReason, CircuitId, CircuitReason, Frame, FrameReader, HELLO_FRAME_BYTES_MAX, Message,
};

/// The two ends of a connection whose TLS handshake is complete.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The session's name.
    pub session: SessionId,
    /// This node's id.
    pub own: PeerId,
    /// The peer's id, proven by the handshake.
    pub peer: PeerId,
    /// The peer's socket address.
    pub remote: SocketAddr,
    /// The address of this end in its one form; `None` inside a circuit.
    pub local: Option<SocketAddr>,
}

/// A request of the coordinator to an established session.
#[derive(Debug)]
pub enum Request {
    /// Send this frame.
    Send(Frame),
    /// Send a heartbeat.
    Heartbeat,
    /// Deliver all messages that have arrived, then report [`SessionEvent::Drained`]. The driver passes the bytes that
    /// have arrived in before this request, and passes it in even if the protocol wants no requests.
    DrainUnread,
    /// Say goodbye with this reason, then close.
    Bye(ByeReason),
    /// End without a goodbye: the coordinator has no use for this session any more.
    Release,
    /// Pass the bytes of this circuit to this end of a pipe, and back. The session's peer is acquainted from this time on,
    /// if it stays connected.
    Attach(CircuitId, PipeEnd, Instant),
    /// Close a circuit, or refuse to open it.
    CloseCircuit(CircuitId, CircuitReason),
}

/// An action on the connection.
#[derive(Clone, Debug)]
pub enum Transmit {
    /// Send these bytes.
    Frame(Frame),
    /// Close this direction after the bytes before.
    Close,
}

/// Treatment of messages that arrive after our goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LateMessages {
    Deliver,
    Discard,
}

#[derive(Debug)]
enum State {
    /// The peer's Hello has not arrived.
    AwaitingHello {
        role: Role,
        exchange: Arc<HelloExchange>,
        exported: Exported,
        /// The deadline of the whole handshake.
        by: Instant,
        /// The coordinator wants to say goodbye with this reason. The peer may count this session already and have
        /// sent messages, so the session comes up first.
        stop: Option<ByeReason>,
    },
    /// The peer was told why it is refused, and may read that until this time.
    Refusing {
        until: Instant,
    },
    Established,
    /// This node said goodbye. Messages that the peer sent before it read the goodbye still arrive.
    Closing {
        until: Instant,
        late: LateMessages,
        reason: DisconnectReason,
        is_sent: bool,
    },
    /// The peer said goodbye and reads on. Frames that the coordinator queued before it learned of that still go out.
    PeerClosing {
        until: Instant,
        is_last: bool,
    },
    Closed,
}

/// One connection above TLS. The module's documentation says how a driver uses it.
#[derive(Debug)]
pub struct Protocol {
    ends: Ends,
    state: State,
    frames: FrameReader,
    /// The time at which the last bytes arrived.
    arrived: Instant,
    /// The time at which the last complete message arrived.
    heard: Instant,
    /// Whether the peer can still send.
    is_ended: bool,
    rate_limit: KeyRateLimit,
    /// The end of a pause that the rate limit demands.
    paused_until: Option<Instant>,
    /// The coordinator awaits [`SessionEvent::Drained`].
    is_draining: bool,
    heartbeats: Heartbeats,
    circuits: Circuits,
    /// What this node tells with heartbeats and acknowledgements.
    vitals: Vitals,
    /// The heartbeat interval that this node's Hello tells, in milliseconds.
    told_interval_ms: u32,
    transmits: VecDeque<Transmit>,
    /// The connection has not taken all bytes since this time.
    blocked_since: Option<Instant>,
    /// When the connection took bytes again, until the requests that have waited for that are handled. The thread was
    /// woken for them once, and is not woken again.
    unblocked_at: Option<Instant>,
    events: VecDeque<SessionEvent>,
    failure: Option<Failure>,
    violation: Option<String>,
    frames_sent: usize,
    frames_received: usize,
}

impl Protocol {
    /// A connection whose TLS handshake is complete. The dialler's Hello goes out first, so a stranger that dials
    /// learns nothing without a proof of the network key. `by` is the deadline for the peer's Hello.
    #[must_use]
    pub fn new(
        now: Instant,
        ends: Ends,
        role: Role,
        exchange: Arc<HelloExchange>,
        exported: Exported,
        vitals: Vitals,
        by: Instant,
    ) -> Self {
        let mut protocol = Self {
            ends,
            state: State::Closed,
            frames: FrameReader::new(),
            arrived: now,
            heard: now,
            is_ended: false,
            rate_limit: KeyRateLimit::new(now),
            paused_until: None,
            is_draining: false,
            heartbeats: Heartbeats::default(),
            circuits: Circuits::default(),
            vitals,
            told_interval_ms: vitals.interval_ms,
            transmits: VecDeque::new(),
            blocked_since: None,
            unblocked_at: None,
            events: VecDeque::new(),
            failure: None,
            violation: None,
            frames_sent: 0,
            frames_received: 0,
        };
        if role == Role::Dialler {
            match exchange.hello(role, &exported, None, vitals.interval_ms) {
                Ok(frame) => protocol.transmits.push_back(Transmit::Frame(frame)),
                Err(error) => {
                    protocol.fail(error.into());
                    return protocol;
                }
            }
        }
        protocol.state = State::AwaitingHello { role, exchange, exported, by, stop: None };
        protocol
    }

    /// Replaces the rate limit of received frames by that of the peer's key, which all of its sessions share.
    pub fn share_rate_limit(&mut self, frames: KeyRateLimit) {
        self.rate_limit = frames;
    }

    /// Sets this node's vitals for the next heartbeats and acknowledgements.
    pub fn set_vitals(&mut self, vitals: Vitals) {
        self.vitals = vitals;
    }

    /// Takes decrypted bytes that arrived now.
    pub fn handle_bytes(&mut self, now: Instant, bytes: &[u8]) {
        self.arrived = now;
        if matches!(self.state, State::Refusing { .. } | State::PeerClosing { .. } | State::Closed) {
            return;
        }
        self.frames.buffer().extend_from_slice(bytes);
    }

    /// The peer sends no more bytes, or the connection broke. Messages that arrived before still count.
    pub fn handle_end(&mut self) {
        self.is_ended = true;
    }

    /// The connection cannot be understood any more: TLS reported an error.
    pub(super) fn handle_tls_error(&mut self, failure: Failure) {
        if self.is_up() {
            self.violation = Some(failure.to_string());
            self.end(DisconnectReason::Protocol);
        } else {
            self.fail(failure);
        }
    }

    /// Handles a request of the coordinator. Returns whether it has an effect: after a goodbye nothing is sent.
    pub fn handle_request(&mut self, now: Instant, request: Request) -> bool {
        match (&mut self.state, request) {
            (State::AwaitingHello { stop, .. }, Request::Bye(reason)) => *stop = Some(reason),
            (State::AwaitingHello { .. } | State::Refusing { .. }, Request::Release) => {
                self.fail(Failure::Cancelled);
            }
            (State::Established | State::PeerClosing { is_last: false, .. }, Request::Send(frame)) => {
                self.send(frame);
            }
            (State::Established, Request::Heartbeat) => self.send_heartbeat(now),
            (State::Established, Request::Attach(circuit, end, acquainted_at)) => {
                self.rate_limit.set_acquainted_at(now, acquainted_at);
                self.circuits.attach(circuit, end);
            }
            (State::Established, Request::CloseCircuit(circuit, reason)) => {
                self.circuits.close(circuit, reason);
                self.send_message(&Message::CircuitClose { circuit, reason });
            }
            (State::Established, Request::DrainUnread) => self.is_draining = true,
            (State::Established, Request::Bye(reason)) => self.close(now, reason),
            (State::Established, Request::Release) => self.end(DisconnectReason::Closed),
            (&mut State::Closing { reason, .. }, Request::Release) => self.end(reason),
            (State::PeerClosing { is_last, .. }, Request::Bye(_) | Request::Release) if !*is_last => {
                *is_last = true;
                self.transmits.push_back(Transmit::Close);
            }
            _ => return false,
        }
        true
    }

    /// Sends what the circuits have for the peer, unless the connection takes no bytes. Returns whether more is left.
    pub fn handle_circuits(&mut self) -> bool {
        if self.blocked_since.is_some() {
            return false;
        }
        self.unblocked_at = None;
        if self.circuits.is_empty() || !self.is_open() {
            return false;
        }
        for message in self.circuits.take() {
            self.send_message(&message);
        }
        self.circuits.has_news()
    }

    /// Whether the coordinator's next request may be passed in. While the connection takes no bytes, requests wait in
    /// the session's outbox, whose length is limited.
    #[must_use]
    pub fn wants_requests(&self) -> bool {
        self.blocked_since.is_none() || matches!(self.state, State::Closing { .. } | State::Refusing { .. })
    }

    /// Handles the deadlines that have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|at| now >= at) {
            self.paused_until = None;
        }
        match self.state {
            State::AwaitingHello { by, .. } if now >= by => self.fail(Failure::Deadline),
            State::Refusing { until } | State::PeerClosing { until, .. } if now >= until => {
                self.state = State::Closed;
            }
            State::Closing { until, reason, .. } if now >= until => self.end(reason),
            State::Established if self.blocked_since.is_some_and(|since| now >= since + WRITE_STALL) => {
                self.end(DisconnectReason::Slow);
            }
            _ => {}
        }
    }

    /// The time until which the driver may wait; `None` if there is no deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = match self.state {
            State::AwaitingHello { by, .. } => Some(by),
            State::Refusing { until } | State::Closing { until, .. } | State::PeerClosing { until, .. } => {
                Some(until)
            }
            State::Established => self.blocked_since.map(|since| since + WRITE_STALL),
            State::Closed => None,
        };
        deadline.into_iter().chain(self.paused_until).chain(self.unblocked_at).min()
    }

    /// Whether the driver should read. A pause of the rate limit leaves bytes to TCP, which slows the peer down.
    #[must_use]
    pub fn wants_bytes(&self) -> bool {
        let is_reading = !matches!(self.state, State::PeerClosing { .. } | State::Closed);
        is_reading && !self.is_ended && self.paused_until.is_none()
    }

    /// The next event, in order. Decodes messages as the rate limit allows.
    pub fn poll_event(&mut self, now: Instant) -> Option<SessionEvent> {
        while self.events.is_empty() && self.handle_next_message(now) {}
        if self.events.is_empty() {
            self.handle_all_read();
            self.circuits.wake();
        }
        self.events.pop_front()
    }

    /// The next action on the connection, in order.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Whether [`Protocol::poll_transmit`] has an action.
    #[must_use]
    pub fn has_transmits(&self) -> bool {
        !self.transmits.is_empty()
    }

    /// The driver has passed every [`Transmit`] on. `is_done` says whether the connection has taken all bytes.
    pub fn handle_transmitted(&mut self, now: Instant, is_done: bool) {
        if !is_done {
            self.blocked_since.get_or_insert(now);
            self.unblocked_at = None;
            return;
        }
        if self.blocked_since.take().is_some() {
            self.unblocked_at = Some(now);
        }
        match &mut self.state {
            State::Closing { is_sent, .. } => *is_sent = true,
            State::PeerClosing { is_last: true, .. } => self.state = State::Closed,
            State::Established => {
                if let Some(seq) = self.heartbeats.take_delayed_ack() {
                    self.acknowledge(seq);
                }
            }
            _ => {}
        }
    }

    /// Whether the session is over and the connection may be dropped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Whether [`SessionEvent::Up`] has been reported, or is about to be.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Established | State::Closing { .. } | State::PeerClosing { .. })
    }

    /// Whether the session is up and neither side has said goodbye.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Established)
    }

    /// Whether it keeps more received bytes than every session may: a part of a long frame, or frames that wait for the
    /// rate limit.
    #[must_use]
    pub fn holds_memory(&self) -> bool {
        self.frames.waiting() > HELLO_FRAME_BYTES_MAX
    }

    /// The time at which the peer's last message arrived.
    #[must_use]
    pub fn heard(&self) -> Instant {
        self.heard
    }

    /// Why the session did not come up, as a text, once it is closed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.as_ref().map(ToString::to_string)
    }

    /// Why the session did not come up, once it is closed.
    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        self.failure.take()
    }

    /// How the peer broke the protocol, for the log.
    pub(super) fn take_violation(&mut self) -> Option<String> {
        self.violation.take()
    }

    /// The numbers of frames sent and received since the last call, on a session that was up.
    pub(super) fn take_frame_counts(&mut self) -> (usize, usize) {
        (std::mem::take(&mut self.frames_sent), std::mem::take(&mut self.frames_received))
    }

    /// The session does not come up.
    pub(super) fn fail(&mut self, failure: Failure) {
        debug_assert!(!self.is_up(), "an established session ends with a reason, not a failure");
        self.failure.get_or_insert(failure);
        self.state = State::Closed;
    }

    fn send_heartbeat(&mut self, now: Instant) {
        if self.ends.own < self.ends.peer {
            let (seq, rtt_us) = self.heartbeats.send(now);
            self.tell_heartbeat(seq, rtt_us);
        }
    }

    fn tell_heartbeat(&mut self, seq: u64, rtt_us: u32) {
        let Vitals { digest, interval_ms } = self.vitals;
        self.send_message(&Message::Heartbeat { seq, digest, interval_ms, rtt_us });
    }

    fn acknowledge(&mut self, seq: u64) {
        let Vitals { digest, interval_ms } = self.vitals;
        self.send_message(&Message::HeartbeatAck { seq, digest, interval_ms });
    }

    fn send_message(&mut self, message: &Message) {
        // The messages of this module are within all limits.
        if let Ok(frame) = wire::encode(message) {
            self.send(frame);
        }
    }

    fn send(&mut self, frame: Frame) {
        self.frames_sent += 1;
        self.transmits.push_back(Transmit::Frame(frame));
    }

    fn send_bye(&mut self, reason: ByeReason) {
        if let Ok(frame) = wire::encode(&Message::Bye(reason)) {
            self.transmits.push_back(Transmit::Frame(frame));
        }
        self.transmits.push_back(Transmit::Close);
    }

    /// Says goodbye as the coordinator asks.
    fn close(&mut self, now: Instant, reason: ByeReason) {
        self.say_goodbye(now, reason, LateMessages::Deliver, DisconnectReason::Closed);
    }

    /// Ends the session of a peer that broke the protocol. The rest of the stream cannot be understood.
    fn protocol_error(&mut self, now: Instant, violation: String) {
        self.violation = Some(violation);
        self.say_goodbye(now, ByeReason::Protocol, LateMessages::Discard, DisconnectReason::Protocol);
    }

    fn say_goodbye(&mut self, now: Instant, bye: ByeReason, late: LateMessages, reason: DisconnectReason) {
        self.paused_until = None;
        self.circuits.close_all();
        self.send_bye(bye);
        self.state = State::Closing { until: now + LINGER, late, reason, is_sent: false };
    }

    /// Reports the end of an established session.
    fn end(&mut self, reason: DisconnectReason) {
        debug_assert!(self.is_up(), "only an established session ends with a reason");
        self.circuits.close_all();
        // The peer's goodbye has been reported already.
        if !matches!(self.state, State::PeerClosing { .. }) {
            debug_assert!(!self.events.iter().any(SessionEvent::is_end), "a session ends once");
            self.events.push_back(SessionEvent::Down(reason));
        }
        self.state = State::Closed;
    }
}

mod received;
#[cfg(test)]
mod tests;
