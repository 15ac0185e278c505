//! What arrives on a connection: the Hello, messages, goodbyes and the end of the stream.

use std::time::Instant;

use super::{Ends, LateMessages, Protocol, State, Transmit};
use crate::limits::{LEAVE_FLUSH, LINGER};
use crate::mesh::{DisconnectReason, SessionUp, Vitals};
use crate::session::circuits::Overrun;
use crate::session::failure::Failure;
use crate::session::hello::Role;
use crate::session::session_event::SessionEvent;
use crate::wire::{CircuitId, CircuitReason, FrameReader, Hello, Message, PROBE_CAPABILITY, WireError};

impl Protocol {
    /// Decodes and handles one message. Returns whether another may follow now.
    pub(super) fn handle_next_message(&mut self, now: Instant) -> bool {
        match self.state {
            State::AwaitingHello { .. } => match self.frames.next_message() {
                Ok(None) => return false,
                Ok(Some(Message::Hello(hello))) => self.handle_hello(now, hello),
                Ok(Some(Message::Bye(reason))) => self.fail(Failure::Refused(reason)),
                Ok(Some(_)) => self.fail(Failure::NoHello),
                Err(error) => self.fail(error.into()),
            },
            State::Established => return self.handle_established(now),
            State::Closing { late, reason, .. } => {
                if late == LateMessages::Discard {
                    self.frames = FrameReader::new();
                }
                match self.next_admitted(now) {
                    Ok(None) => return false,
                    Ok(Some(Message::Bye(_) | Message::Hello(_))) | Err(_) => self.end(reason),
                    Ok(Some(message)) => self.deliver(now, message),
                }
            }
            State::Refusing { .. } | State::PeerClosing { .. } | State::Closed => return false,
        }
        true
    }

    fn handle_established(&mut self, now: Instant) -> bool {
        match self.next_admitted(now) {
            Ok(None) => return false,
            Ok(Some(Message::Bye(reason))) => {
                self.heard = self.arrived;
                self.events.push_back(SessionEvent::Down(DisconnectReason::Bye(reason)));
                self.circuits.close_all();
                self.state = State::PeerClosing { until: now + LEAVE_FLUSH, is_last: false };
            }
            Ok(Some(Message::Hello(_))) => self.protocol_error(now, "a second Hello".to_owned()),
            Ok(Some(message)) => self.deliver(now, message),
            Err(error) => self.protocol_error(now, error.to_string()),
        }
        true
    }

    /// The next message. `None` if no whole one has arrived, or the rate limit demands a pause.
    fn next_admitted(&mut self, now: Instant) -> Result<Option<Message>, WireError> {
        if !self.admit_frame(now) {
            return Ok(None);
        }
        let next = self.frames.next_message();
        if matches!(next, Ok(None)) && !self.is_ended {
            self.rate_limit.give_back();
        }
        next
    }

    /// Whether the rate limit admits a frame now. Otherwise a pause begins.
    fn admit_frame(&mut self, now: Instant) -> bool {
        if self.paused_until.is_some() {
            return false;
        }
        // At the end of the stream nothing more can flood in.
        if !self.is_ended
            && let Err(resume_at) = self.rate_limit.admit(now)
        {
            self.paused_until = Some(resume_at);
            return false;
        }
        true
    }

    /// The frame that was admitted has bytes of a circuit, which have a limit of their own.
    fn charge_circuit(&mut self, now: Instant, bytes: usize) {
        if !self.is_ended {
            self.rate_limit.charge_circuit(now, bytes);
        }
    }

    /// All complete messages have been handled, or the rate limit demands a pause.
    pub(super) fn handle_all_read(&mut self) {
        if std::mem::take(&mut self.is_draining) && matches!(self.state, State::Established) {
            self.events.push_back(SessionEvent::Drained { heard: self.heard });
        }
        if !self.is_ended || self.paused_until.is_some() {
            return;
        }
        match self.state {
            State::AwaitingHello { .. } => self.fail(Failure::ClosedEarly),
            State::Refusing { .. } => self.state = State::Closed,
            State::Established => self.end(DisconnectReason::Closed),
            State::Closing { reason, is_sent: true, .. } => self.end(reason),
            State::Closing { .. } | State::PeerClosing { .. } | State::Closed => {}
        }
    }

    fn handle_hello(&mut self, now: Instant, hello: Hello) {
        let State::AwaitingHello { role, exchange, exported, stop, .. } =
            std::mem::replace(&mut self.state, State::Established)
        else {
            return;
        };
        let proven = exchange.check(role, &exported, &hello);
        let network_key = proven.ok().flatten().cloned();
        let answer = match proven {
            Ok(_) if role == Role::Dialler => Ok(None),
            Ok(key) => {
                self.told_interval_ms = self.vitals.interval_ms;
                exchange.hello(role, &exported, key, self.told_interval_ms).map(Some)
            }
            Err(mismatch) => {
                self.state = State::Refusing { until: now + LINGER };
                self.failure = Some(Failure::NetworkKey(mismatch));
                self.send_bye(mismatch.reason());
                return;
            }
        };
        match answer {
            Ok(answer) => self.transmits.extend(answer.map(Transmit::Frame)),
            Err(error) => {
                self.state = State::Closed;
                self.failure = Some(error.into());
                return;
            }
        }
        if role == Role::Acceptor && hello.capabilities.contains(&PROBE_CAPABILITY) {
            self.state = State::Refusing { until: now + LINGER };
            self.failure = Some(Failure::Probed);
            self.transmits.push_back(Transmit::Close);
            return;
        }
        self.heard = self.arrived;
        self.frames.after_hello();
        let Ends { session, peer, remote, local, .. } = self.ends;
        let told_interval_ms = self.told_interval_ms;
        let up = SessionUp { session, peer, hello, remote, local, network_key, told_interval_ms };
        self.events.push_back(SessionEvent::Up(Box::new(up)));
        if let Some(reason) = stop {
            self.close(now, reason);
        }
    }

    /// Handles a message that is neither a Hello nor a goodbye.
    fn deliver(&mut self, now: Instant, message: Message) {
        self.frames_received += 1;
        self.heard = self.arrived;
        let arrived = self.arrived;
        match message {
            Message::Heartbeat { seq, digest, interval_ms, rtt_us } => {
                if !self.heartbeats.received(arrived, seq, rtt_us) {
                    // It repeats the last one to tell the round-trip time.
                } else if self.blocked_since.is_some() {
                    // The peer does not read. It gets one acknowledgement when it does, so none pile up.
                    self.heartbeats.delay_ack(seq);
                } else if matches!(self.state, State::Established) {
                    self.acknowledge(seq);
                }
                self.report_heartbeat(Vitals { digest, interval_ms });
            }
            Message::HeartbeatAck { seq, digest, interval_ms } => {
                let is_first = self.heartbeats.acknowledged(arrived, seq);
                if is_first && matches!(self.state, State::Established) {
                    // The peer learns the first round-trip time at once, and need not answer.
                    let (seq, rtt_us) = self.heartbeats.repeat();
                    self.tell_heartbeat(seq, rtt_us);
                }
                self.report_heartbeat(Vitals { digest, interval_ms });
            }
            // A later version of the program sent it.
            Message::Extension { .. } => {}
            Message::CircuitData { circuit, bytes } => {
                self.charge_circuit(now, bytes.len());
                let received = self.circuits.received(circuit, &bytes);
                self.note_overrun(circuit, received);
            }
            Message::CircuitCredit { circuit, bytes } => {
                self.charge_circuit(now, 0);
                let allowed = self.circuits.allowed(circuit, bytes);
                self.note_overrun(circuit, allowed);
            }
            Message::CircuitClose { circuit, reason } => {
                self.circuits.close(circuit, reason.passed_on());
                self.report_closed(circuit, reason);
            }
            message => {
                let rtt = self.heartbeats.take_rtt_news();
                self.events.push_back(SessionEvent::Received { message, arrived, rtt });
            }
        }
    }

    /// Closes a circuit whose peer broke its rules. The coordinator learns of it as if the peer had closed it.
    fn note_overrun(&mut self, circuit: CircuitId, result: Result<(), Overrun>) {
        if result == Err(Overrun) && self.is_open() {
            let reason = CircuitReason::Credit;
            self.send_message(&Message::CircuitClose { circuit, reason });
            self.report_closed(circuit, reason);
        }
    }

    fn report_closed(&mut self, circuit: CircuitId, reason: CircuitReason) {
        let (message, arrived) = (Message::CircuitClose { circuit, reason }, self.arrived);
        self.events.push_back(SessionEvent::Received { message, arrived, rtt: None });
    }

    fn report_heartbeat(&mut self, vitals: Vitals) {
        if let Some(rtt) = self.heartbeats.report(self.arrived, vitals) {
            self.events.push_back(SessionEvent::Heartbeat { vitals, arrived: self.arrived, rtt });
        }
    }
}
