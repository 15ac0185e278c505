//! An established session: carries frames both ways, and exchanges goodbyes at its end.

use std::ops::ControlFlow;
use std::time::Instant;

use crossbeam_channel::{SendError, TrySendError};

use super::events::{Received, SessionEvent};
use super::link::{self, Interest, LinkError, Stream};
use super::outlet::{Next, Outlet, Shared};
use super::rate_limit::FrameRateLimit;
use super::thread::{Ending, Session};
use crate::limits::{LEAVE_FLUSH, LINGER, WRITE_STALL};
use crate::mesh::{DisconnectReason, SessionId};
use crate::util::log_limit::{LogLimit, limited_log};
use crate::wire::{self, ByeReason, FrameReader, Message};

/// Progress of the coordinator's request to drain unread frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    Idle,
    Requested,
    /// The socket has been read since the request. The frames from that read are delivered first.
    Read,
}

/// Treatment of frames that arrive after our goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LateFrames {
    Deliver,
    Discard,
}

/// The receiving side of an established session.
struct Incoming<'a> {
    frames: &'a mut FrameReader,
    stream: Stream,
    /// Time of the last read from the socket.
    arrived: Instant,
    rate_limit: FrameRateLimit,
    drain: Drain,
}

impl<'a> Incoming<'a> {
    fn new(frames: &'a mut FrameReader, now: Instant) -> Self {
        let rate_limit = FrameRateLimit::new(now);
        Self { frames, stream: Stream::Open, arrived: now, rate_limit, drain: Drain::Idle }
    }

    /// Reads from the socket.
    ///
    /// # Errors
    /// The TLS connection failed. If the socket failed, the stream has ended, without an error.
    fn read(&mut self, shared: &Shared) -> Result<(), LinkError> {
        let read = shared.lock().link.read(self.frames);
        self.stream = match read {
            Ok(stream) => stream,
            Err(error @ (LinkError::Tls(_) | LinkError::Rejected(_))) => return Err(error),
            // Frames that arrived before the connection broke still count, above all a Bye.
            Err(LinkError::Io(_)) => Stream::Ended,
        };
        self.arrived = Instant::now();
        Ok(())
    }
}

impl Session {
    /// Carries frames both ways until the session ends.
    pub(super) fn run_established(
        &mut self,
        shared: &Shared,
        frames: &mut FrameReader,
        ending: &mut Ending<'_>,
    ) -> Result<DisconnectReason, LinkError> {
        let mut incoming = Incoming::new(frames, Instant::now());
        let socket = shared.lock().link.socket();
        if let Some(reason) = self.stop {
            return self.close(shared, &mut incoming, ending, reason);
        }
        loop {
            let (next, stalled_since) = {
                let mut outlet = shared.lock();
                outlet.pump()?;
                (outlet.next.take(), outlet.stalled_since)
            };
            match next {
                Some(Next::Bye(reason)) => return self.close(shared, &mut incoming, ending, reason),
                Some(Next::Gone) => return Ok(DisconnectReason::Closed),
                Some(Next::DrainUnread) => incoming.drain = Drain::Requested,
                None => {}
            }

            let now = Instant::now();
            let resume_at = match self.deliver_frames(shared, &mut incoming, ending, now) {
                ControlFlow::Continue(resume_at) => resume_at,
                ControlFlow::Break(reason) => return Ok(reason),
            };
            if incoming.stream == Stream::Ended {
                return Ok(DisconnectReason::Closed);
            }
            if incoming.drain == Drain::Read {
                incoming.drain = Drain::Idle;
                if ending.inbox.send((self.id, SessionEvent::Drained)).is_err() {
                    return Ok(DisconnectReason::Closed);
                }
            }

            let stall_ends = stalled_since.map(|since| since + WRITE_STALL);
            if stall_ends.is_some_and(|at| now >= at) {
                return Ok(DisconnectReason::Slow);
            }
            let deadline = resume_at.into_iter().chain(stall_ends).min();
            let interest = Interest { reading: resume_at.is_none(), writing: stalled_since.is_some() };
            let reads_at_once = incoming.drain == Drain::Requested;
            if reads_at_once {
                incoming.drain = Drain::Read;
            }
            if (reads_at_once || link::wait(&socket, &self.waker, interest, deadline)?.readable)
                && let Err(error) = incoming.read(shared)
            {
                return Ok(self.protocol_error(shared, &mut incoming, ending, &error));
            }
        }
    }

    /// Delivers the complete frames that have been read, as the rate limit allows. Returns the time at which
    /// the rate limit allows more, `None` if no complete frame is left, or the reason why the session ends.
    fn deliver_frames(
        &mut self,
        shared: &Shared,
        incoming: &mut Incoming<'_>,
        ending: &mut Ending<'_>,
        now: Instant,
    ) -> ControlFlow<DisconnectReason, Option<Instant>> {
        loop {
            // At the end of the stream nothing more can flood in.
            if incoming.stream == Stream::Open
                && let Err(resume_at) = incoming.rate_limit.admit(now)
            {
                return ControlFlow::Continue(Some(resume_at));
            }
            match incoming.frames.next_message() {
                Ok(None) => {
                    incoming.rate_limit.give_back();
                    return ControlFlow::Continue(None);
                }
                Ok(Some(Message::Bye(reason))) => {
                    let _ = self.receive_bye(&mut shared.end(), ending, reason);
                    return ControlFlow::Break(DisconnectReason::Bye(reason));
                }
                Ok(Some(Message::Hello(_))) => {
                    let reason = self.protocol_error(shared, incoming, ending, &"a second Hello");
                    return ControlFlow::Break(reason);
                }
                Ok(Some(mut message)) => {
                    self.context.counters.frames_received.one();
                    shared.lock().waits.received(&mut message);
                    if self.deliver(ending, message, incoming.arrived).is_err() {
                        return ControlFlow::Break(DisconnectReason::Closed);
                    }
                }
                Err(error) => {
                    return ControlFlow::Break(self.protocol_error(shared, incoming, ending, &error));
                }
            }
        }
    }

    /// Passes a message to the coordinator, without waking it if the message is routine.
    fn deliver(
        &mut self,
        ending: &Ending<'_>,
        mut message: Message,
        arrived: Instant,
    ) -> Result<(), SendError<(SessionId, SessionEvent)>> {
        if self.routine.is_routine(&message) {
            let received = Received { session: self.id, message, arrived };
            match self.context.routine.try_send(received) {
                Ok(()) => return Ok(()),
                // The coordinator has not read this queue for long: it is woken, and this session waits.
                Err(TrySendError::Full(received) | TrySendError::Disconnected(received)) => {
                    message = received.message;
                }
            }
        }
        ending.inbox.send((self.id, SessionEvent::Received(message, arrived)))
    }

    /// Ends the session as the coordinator asks.
    fn close(
        &mut self,
        shared: &Shared,
        incoming: &mut Incoming<'_>,
        ending: &Ending<'_>,
        reason: ByeReason,
    ) -> Result<DisconnectReason, LinkError> {
        self.send_bye(&mut shared.end(), incoming, ending, reason, LateFrames::Deliver)?;
        Ok(DisconnectReason::Closed)
    }

    /// Sends a goodbye, then takes in the frames that the peer sent before it read the goodbye.
    fn send_bye(
        &mut self,
        outlet: &mut Outlet,
        incoming: &mut Incoming<'_>,
        ending: &Ending<'_>,
        reason: ByeReason,
        late_frames: LateFrames,
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
            if late_frames == LateFrames::Discard {
                *incoming.frames = FrameReader::new();
            }
            if !self.deliver_late_frames(outlet, incoming.frames, ending) {
                return Ok(());
            }
            let is_over = incoming.stream == Stream::Ended && is_shut;
            if is_over || Instant::now() >= deadline {
                return Ok(());
            }
            let reading = incoming.stream == Stream::Open;
            let ready = outlet.link.wait(&self.waker, reading, Some(deadline))?;
            if ready.woken && outlet.is_let_go() {
                return Ok(());
            }
            if ready.readable {
                incoming.stream = outlet.link.read(incoming.frames)?;
            }
        }
    }

    /// Delivers the complete frames that arrived after our goodbye. Returns whether more may follow.
    fn deliver_late_frames(
        &mut self,
        outlet: &mut Outlet,
        frames: &mut FrameReader,
        ending: &Ending<'_>,
    ) -> bool {
        loop {
            match frames.next_message() {
                Ok(None) => return true,
                Ok(Some(Message::Bye(_) | Message::Hello(_))) | Err(_) => return false,
                Ok(Some(mut message)) => {
                    outlet.waits.received(&mut message);
                    if self.deliver(ending, message, Instant::now()).is_err() {
                        return false;
                    }
                }
            }
        }
    }

    /// Ends the session after the peer's goodbye. The peer reads on, so the frames that were queued before
    /// the coordinator learns of the goodbye still go out.
    fn receive_bye(
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
            // The coordinator drops its handle once it knows, so no frame is missed. Its last request stays in
            // `next`, and nothing more is sent.
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

    /// Ends the session of a peer that broke the protocol.
    fn protocol_error(
        &mut self,
        shared: &Shared,
        incoming: &mut Incoming<'_>,
        ending: &Ending<'_>,
        error: &dyn std::fmt::Display,
    ) -> DisconnectReason {
        limited_log!(LogLimit::new(), warn, { session:% = self.id, reason:% = error },
            "peer broke the protocol; session closed");
        // The rest of the stream cannot be understood, and must not be delivered past the rate limit.
        let outlet = &mut shared.end();
        let _ = self.send_bye(outlet, incoming, ending, ByeReason::Protocol, LateFrames::Discard);
        DisconnectReason::Protocol
    }
}
