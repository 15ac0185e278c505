//! A session that is up: frames both ways, and the goodbyes at its end.

use std::io;
use std::time::Instant;

use crossbeam_channel::{SendError, TryRecvError, TrySendError};

use super::link::{Link, LinkError, Stream};
use super::pace::Pace;
use super::{Ending, Heartbeat, Outgoing, Received, Session, SessionEvent};
use crate::config::{LEAVE_FLUSH, LINGER, WRITE_STALL};
use crate::delivery::Receipt;
use crate::log_limit::LogLimit;
use crate::mesh::{DisconnectReason, SessionId};
use crate::wire::{self, ByeReason, FrameReader, Message};

/// Bytes encrypted before the socket is asked to take them, several frames to a system call.
const WRITE_BATCH_BYTES: usize = 16 * 1024;

/// How far the coordinator's question for unread messages has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Idle,
    Asked,
    /// The socket has been read since; what came from it goes first.
    Read,
}

/// Whether what arrives after our goodbye still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ears {
    Open,
    Deaf,
}

/// What the coordinator wants of a session, beside sending frames.
enum Next {
    Probe,
    Bye(ByeReason),
    /// The end, without a word.
    Gone,
}

impl Session {
    /// Carries frames both ways until the session ends.
    pub(super) fn relay(
        &mut self,
        link: &mut Link,
        frames: &mut FrameReader,
        ending: &mut Ending<'_>,
    ) -> Result<DisconnectReason, LinkError> {
        let mut arrived = Instant::now();
        let mut pace = Pace::new(arrived);
        let mut stalled_since = None;
        let mut probe = Probe::Idle;
        let mut stream = Stream::Open;
        if let Some(reason) = self.stop {
            self.say_bye(link, frames, ending, reason, stream, Ears::Open)?;
            return Ok(DisconnectReason::Closed);
        }
        loop {
            let mut next = None;
            while link.flush()? {
                stalled_since = None;
                self.acknowledge();
                next = self.queue_batch(link)?;
                if next.is_some() || !link.is_write_pending() {
                    break;
                }
            }
            match next {
                Some(Next::Bye(reason)) => {
                    self.say_bye(link, frames, ending, reason, stream, Ears::Open)?;
                    return Ok(DisconnectReason::Closed);
                }
                Some(Next::Gone) => return Ok(DisconnectReason::Closed),
                Some(Next::Probe) => probe = Probe::Asked,
                None => {}
            }

            let now = Instant::now();
            let resume_at = loop {
                // At the end of the stream nothing more can flood in.
                if stream == Stream::Open
                    && let Err(resume_at) = pace.admit(now)
                {
                    break Some(resume_at);
                }
                match frames.next_message() {
                    Ok(None) => {
                        pace.take_back();
                        break None;
                    }
                    Ok(Some(Message::Bye(reason))) => {
                        let _ = self.hear_bye(link, ending, reason);
                        return Ok(DisconnectReason::Bye(reason));
                    }
                    Ok(Some(Message::Hello(_))) => {
                        return self.protocol_error(link, frames, ending, stream, &"a second Hello");
                    }
                    Ok(Some(message)) => {
                        self.context.counters.frames_received.one();
                        if self.hand_over(ending, message, arrived).is_err() {
                            return Ok(DisconnectReason::Closed);
                        }
                    }
                    Err(error) => return self.protocol_error(link, frames, ending, stream, &error),
                }
            };
            if stream == Stream::Ended {
                return Ok(DisconnectReason::Closed);
            }
            if probe == Probe::Read {
                probe = Probe::Idle;
                if ending.inbox.send((self.id, SessionEvent::Quiet)).is_err() {
                    return Ok(DisconnectReason::Closed);
                }
            }

            let mut deadline = resume_at;
            if link.is_write_pending() {
                let stall_ends = *stalled_since.get_or_insert(now) + WRITE_STALL;
                if now >= stall_ends {
                    return Ok(DisconnectReason::Slow);
                }
                deadline = Some(deadline.map_or(stall_ends, |at| at.min(stall_ends)));
            }
            let is_asked = probe == Probe::Asked;
            if is_asked {
                probe = Probe::Read;
            }
            if is_asked || link.wait(&self.waker, resume_at.is_none(), deadline)?.readable {
                stream = match link.read(frames) {
                    Ok(stream) => stream,
                    Err(error @ (LinkError::Tls(_) | LinkError::Rejected(_))) => {
                        return self.protocol_error(link, frames, ending, stream, &error);
                    }
                    // What came before the connection broke still counts, above all a Bye.
                    Err(LinkError::Io(_)) => Stream::Ended,
                };
                arrived = Instant::now();
            }
        }
    }

    /// Tells the coordinator of a message, without waking it if it is routine.
    fn hand_over(
        &mut self,
        ending: &Ending<'_>,
        mut message: Message,
        arrived: Instant,
    ) -> Result<(), SendError<(SessionId, SessionEvent)>> {
        self.waits.received(&mut message);
        if self.routine.is_routine(&message) {
            let received = Received { session: self.id, message, arrived };
            match self.context.routine.try_send(received) {
                Ok(()) => return Ok(()),
                // Nobody has looked for long: whoever must be woken is, and this session waits.
                Err(TrySendError::Full(received) | TrySendError::Disconnected(received)) => {
                    message = received.message;
                }
            }
        }
        ending.inbox.send((self.id, SessionEvent::Received(message, arrived)))
    }

    /// Encrypts what waits in the outbox, up to a batch or to what is no frame.
    fn queue_batch(&mut self, link: &mut Link) -> Result<Option<Next>, LinkError> {
        let mut bytes = 0;
        while bytes < WRITE_BATCH_BYTES {
            let frame = match self.outbox.try_recv() {
                Ok(Outgoing::Frame(frame)) => frame,
                Ok(Outgoing::Heartbeat(Heartbeat { seq, echo, roster, decided })) => {
                    let echo = self.waits.sending(seq, echo, decided, Instant::now());
                    wire::encode(&Message::Heartbeat { seq, echo, roster }).map_err(io::Error::other)?
                }
                Ok(Outgoing::Message(frame, receipt)) => {
                    self.unwritten.push(receipt);
                    frame
                }
                Ok(Outgoing::Probe) => return Ok(Some(Next::Probe)),
                Ok(Outgoing::Bye(reason)) => return Ok(Some(Next::Bye(reason))),
                Err(TryRecvError::Disconnected) => return Ok(Some(Next::Gone)),
                Err(TryRecvError::Empty) => break,
            };
            bytes += frame.len();
            link.queue(&frame)?;
            self.context.counters.frames_sent.one();
        }
        Ok(None)
    }

    /// Everything that was queued has been handed to the system.
    fn acknowledge(&mut self) {
        self.unwritten.drain(..).for_each(Receipt::written);
    }

    /// Says goodbye, then takes in what the other side sent before it read that.
    fn say_bye(
        &mut self,
        link: &mut Link,
        frames: &mut FrameReader,
        ending: &Ending<'_>,
        reason: ByeReason,
        mut stream: Stream,
        ears: Ears,
    ) -> Result<(), LinkError> {
        let deadline = Instant::now() + LINGER;
        if let Ok(frame) = wire::encode(&Message::Bye(reason)) {
            link.queue(&frame)?;
        }
        link.close_notify();
        let mut is_shut = false;
        loop {
            if link.flush()? && !is_shut {
                self.acknowledge();
                link.shutdown_write();
                is_shut = true;
            }
            if ears == Ears::Deaf {
                *frames = FrameReader::new();
            }
            loop {
                match frames.next_message() {
                    Ok(Some(Message::Bye(_) | Message::Hello(_))) | Err(_) => return Ok(()),
                    Ok(Some(message)) => {
                        if self.hand_over(ending, message, Instant::now()).is_err() {
                            return Ok(());
                        }
                    }
                    Ok(None) => break,
                }
            }
            let is_over = stream == Stream::Ended && is_shut;
            if is_over || Instant::now() >= deadline {
                return Ok(());
            }
            let ready = link.wait(&self.waker, stream == Stream::Open, Some(deadline))?;
            if ready.woken && matches!(self.outbox.try_recv(), Err(TryRecvError::Disconnected)) {
                return Ok(());
            }
            if ready.readable {
                stream = link.read(frames)?;
            }
        }
    }

    /// The other side said goodbye and reads on: what we had to say before we knew still goes out.
    fn hear_bye(
        &mut self,
        link: &mut Link,
        ending: &mut Ending<'_>,
        reason: ByeReason,
    ) -> Result<(), LinkError> {
        ending.report(SessionEvent::Down(DisconnectReason::Bye(reason)));
        let deadline = Instant::now() + LEAVE_FLUSH;
        let mut is_last = false;
        loop {
            while link.flush()? {
                self.acknowledge();
                if is_last {
                    return Ok(());
                }
                // The coordinator drops its end once it knows, so nothing is missed.
                if self.queue_batch(link)?.is_some() {
                    is_last = true;
                    link.close_notify();
                } else if !link.is_write_pending() {
                    break;
                }
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
            link.wait(&self.waker, false, Some(deadline))?;
        }
    }

    fn protocol_error(
        &mut self,
        link: &mut Link,
        frames: &mut FrameReader,
        ending: &Ending<'_>,
        stream: Stream,
        error: &dyn std::fmt::Display,
    ) -> Result<DisconnectReason, LinkError> {
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(suppressed) = LIMIT.check() {
            log::warn!(session:% = self.id, reason:% = error, suppressed;
                "peer broke the protocol; session closed");
        }
        // What follows in the stream can't be understood, and must not count past the pacing.
        let _ = self.say_bye(link, frames, ending, ByeReason::Protocol, stream, Ears::Deaf);
        Ok(DisconnectReason::Protocol)
    }
}
