//! A session that is up: frames both ways, and the goodbyes at its end.

use std::time::Instant;

use crossbeam_channel::{SendError, TrySendError};

use super::events::{Received, SessionEvent};
use super::link::{self, Interest, LinkError, Stream};
use super::outlet::{Next, Outlet, Shared};
use super::pace::Pace;
use super::thread::{Ending, Session};
use crate::limits::{LEAVE_FLUSH, LINGER, WRITE_STALL};
use crate::mesh::{DisconnectReason, SessionId};
use crate::util::log_limit::LogLimit;
use crate::wire::{self, ByeReason, FrameReader, Message};

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
enum LateFrames {
    Open,
    Deaf,
}

impl Session {
    /// Carries frames both ways until the session ends.
    pub(super) fn relay(
        &mut self,
        shared: &Shared,
        frames: &mut FrameReader,
        ending: &mut Ending<'_>,
    ) -> Result<DisconnectReason, LinkError> {
        let mut arrived = Instant::now();
        let mut pace = Pace::new(arrived);
        let mut probe = Probe::Idle;
        let mut stream = Stream::Open;
        let socket = shared.lock().link.socket();
        if let Some(reason) = self.stop {
            self.say_bye(&mut shared.end(), frames, ending, reason, stream, LateFrames::Open)?;
            return Ok(DisconnectReason::Closed);
        }
        loop {
            let (next, stalled_since) = {
                let mut outlet = shared.lock();
                outlet.pump()?;
                (outlet.next.take(), outlet.stalled_since)
            };
            match next {
                Some(Next::Bye(reason)) => {
                    self.say_bye(&mut shared.end(), frames, ending, reason, stream, LateFrames::Open)?;
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
                        let _ = self.hear_bye(&mut shared.end(), ending, reason);
                        return Ok(DisconnectReason::Bye(reason));
                    }
                    Ok(Some(Message::Hello(_))) => {
                        return self.protocol_error(
                            &mut shared.end(),
                            frames,
                            ending,
                            stream,
                            &"a second Hello",
                        );
                    }
                    Ok(Some(mut message)) => {
                        self.context.counters.frames_received.one();
                        shared.lock().waits.received(&mut message);
                        if self.hand_over(ending, message, arrived).is_err() {
                            return Ok(DisconnectReason::Closed);
                        }
                    }
                    Err(error) => {
                        return self.protocol_error(&mut shared.end(), frames, ending, stream, &error);
                    }
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
            if let Some(since) = stalled_since {
                let stall_ends = since + WRITE_STALL;
                if now >= stall_ends {
                    return Ok(DisconnectReason::Slow);
                }
                deadline = Some(deadline.map_or(stall_ends, |at| at.min(stall_ends)));
            }
            let is_asked = probe == Probe::Asked;
            if is_asked {
                probe = Probe::Read;
            }
            let interest = Interest { reading: resume_at.is_none(), writing: stalled_since.is_some() };
            if is_asked || link::wait(&socket, &self.waker, interest, deadline)?.readable {
                let read = shared.lock().link.read(frames);
                stream = match read {
                    Ok(stream) => stream,
                    Err(error @ (LinkError::Tls(_) | LinkError::Rejected(_))) => {
                        return self.protocol_error(&mut shared.end(), frames, ending, stream, &error);
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

    /// Says goodbye, then takes in what the other side sent before it read that.
    fn say_bye(
        &mut self,
        outlet: &mut Outlet,
        frames: &mut FrameReader,
        ending: &Ending<'_>,
        reason: ByeReason,
        mut stream: Stream,
        ears: LateFrames,
    ) -> Result<(), LinkError> {
        let deadline = Instant::now() + LINGER;
        if let Ok(frame) = wire::encode(&Message::Bye(reason)) {
            outlet.link.queue(&frame)?;
        }
        outlet.link.close_notify();
        let mut is_shut = false;
        loop {
            if outlet.link.flush()? && !is_shut {
                outlet.acknowledge();
                outlet.link.shutdown_write();
                is_shut = true;
            }
            if ears == LateFrames::Deaf {
                *frames = FrameReader::new();
            }
            loop {
                match frames.next_message() {
                    Ok(Some(Message::Bye(_) | Message::Hello(_))) | Err(_) => return Ok(()),
                    Ok(Some(mut message)) => {
                        outlet.waits.received(&mut message);
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
            let ready = outlet.link.wait(&self.waker, stream == Stream::Open, Some(deadline))?;
            if ready.woken && outlet.is_let_go() {
                return Ok(());
            }
            if ready.readable {
                stream = outlet.link.read(frames)?;
            }
        }
    }

    /// The other side said goodbye and reads on: what we had to say before we knew still goes out.
    fn hear_bye(
        &mut self,
        outlet: &mut Outlet,
        ending: &mut Ending<'_>,
        reason: ByeReason,
    ) -> Result<(), LinkError> {
        ending.report(SessionEvent::Down(DisconnectReason::Bye(reason)));
        let deadline = Instant::now() + LEAVE_FLUSH;
        let mut is_last = false;
        loop {
            outlet.pump()?;
            // The coordinator drops its end once it knows, so nothing is missed. What it wanted last stays where
            // it is, and nothing more is sent.
            if outlet.next.is_some() {
                if !is_last {
                    is_last = true;
                    outlet.link.close_notify();
                    continue;
                }
                if !outlet.link.is_write_pending() {
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                return Ok(());
            }
            outlet.link.wait(&self.waker, false, Some(deadline))?;
        }
    }

    fn protocol_error(
        &mut self,
        outlet: &mut Outlet,
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
        let _ = self.say_bye(outlet, frames, ending, ByeReason::Protocol, stream, LateFrames::Deaf);
        Ok(DisconnectReason::Protocol)
    }
}
