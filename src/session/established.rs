//! The loop of a session whose TLS handshake is complete: waits, reads, decrypts, encrypts and writes. Every rule is
//! in [`Protocol`].

use std::time::Instant;

use crossbeam_channel::TryRecvError;

use super::base::Session;
use super::eviction::Evicted;
use super::failure::Failure;
use super::handshake::Secured;
use super::hello::Role;
use super::link::{Link, LinkError, Stream};
use super::pending::PendingGuard;
use super::places::Place;
use super::protocol::{Ends, Protocol, Request, Transmit};
use super::rate_limit::KeyRateLimit;
use super::report::FromSession;
use super::session_event::SessionEvent;
use super::session_handle::Outgoing;
use crate::limits::CIRCUIT_WINDOW_BYTES;
use crate::mesh::{DisconnectReason, SessionId};
use crate::net::addr::canonical;
use crate::session::delivery::Receipt;
use crate::util::log_limit::{LogLimit, limited_log};
use crate::wire::CIRCUIT_BYTES_MAX;

/// Requests are handled until their frames have this many bytes; then the socket is asked to take them.
const WRITE_BATCH_BYTES: usize = 16 * 1024;

/// Messages of each circuit that are passed on before the socket is asked to take them: a window.
const CIRCUIT_ROUNDS: usize = CIRCUIT_WINDOW_BYTES / CIRCUIT_BYTES_MAX;

/// Whether to look for requests again without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requests {
    AllTaken,
    MoreLeft,
}

pub(super) struct Established {
    session: Session,
    ends: Ends,
    protocol: Protocol,
    link: Box<Link>,
    /// Receipts of messages that are encrypted and not yet handed to the system.
    unwritten: Vec<Receipt>,
    /// For an accepted connection, until the session is up.
    pending: Option<PendingGuard>,
    /// From the time at which the session is up.
    place: Option<Place>,
    /// Whether the eviction of this session has been handled.
    is_evicted: bool,
    /// The connection takes no more frames after the bytes that wait.
    is_closing: bool,
    /// The connection broke: nothing more is written.
    is_broken: bool,
}

impl Established {
    pub(super) fn new(session: Session, secured: Secured, frames: KeyRateLimit) -> Self {
        let Secured { link, early, peer, remote, exported, deadline, pending } = secured;
        let (now, id) = (Instant::now(), session.id);
        let role = if id.is_dialled() { Role::Dialler } else { Role::Acceptor };
        let local = link.local_addr().map(canonical);
        let ends = Ends { session: id, own: session.context.id, peer, remote, local };
        let exchange = session.context.hello_exchange.get();
        let vitals = session.context.vitals.get();
        let mut protocol = Protocol::new(now, ends, role, exchange, exported, vitals, deadline);
        protocol.share_rate_limit(frames);
        protocol.handle_bytes(now, &early);
        Self {
            session,
            ends,
            protocol,
            link,
            unwritten: Vec::new(),
            pending,
            place: None,
            is_evicted: false,
            is_closing: false,
            is_broken: false,
        }
    }

    pub(super) fn id(&self) -> SessionId {
        self.session.id
    }

    /// Runs until the session has ended, and reports its end.
    pub(super) fn run(mut self) {
        self.carry();
        self.count_frames();
        if let Some(violation) = self.protocol.take_violation() {
            limited_log!(LogLimit::new(), warn, { session:% = self.ends.session, reason:% = violation },
                "peer broke the protocol; session closed");
        }
        if let Some(failure) = self.protocol.take_failure() {
            self.report_failure(failure);
        }
    }

    fn carry(&mut self) {
        loop {
            let now = Instant::now();
            self.protocol.set_vitals(self.session.context.vitals.get());
            self.handle_eviction(now);
            let requests = self.take_requests(now);
            self.protocol.handle_timeout(now);
            if !self.deliver_events(now) {
                return;
            }
            if self.protocol.is_closed() {
                return;
            }
            self.count_frames();
            if self.protocol.is_up() {
                self.session.end.signals.set_heard(self.protocol.heard());
            }
            if let Some(place) = &mut self.place {
                place.note(!self.protocol.is_open(), self.protocol.holds_memory());
            }
            self.wait(now, requests);
        }
    }

    /// Ends the session without a goodbye if others need what it holds.
    fn handle_eviction(&mut self, now: Instant) {
        if self.is_evicted {
            return;
        }
        let Some(why) = self.session.eviction.why() else {
            return;
        };
        self.is_evicted = true;
        if self.protocol.is_up() {
            self.log_evicted(why);
            self.protocol.handle_request(now, Request::Release);
        } else {
            self.protocol.fail(Failure::Evicted);
        }
    }

    /// Reports all events. Returns whether the session goes on. Answers go out first, because this thread may wait for
    /// room in the coordinator's inbox.
    fn deliver_events(&mut self, now: Instant) -> bool {
        loop {
            self.transmit(now);
            let Some(event) = self.protocol.poll_event(now) else {
                if self.protocol.has_transmits() {
                    continue;
                }
                return true;
            };
            self.transmit(now);
            if !self.deliver(event) {
                return false;
            }
        }
    }

    fn take_requests(&mut self, now: Instant) -> Requests {
        if self.session.end.signals.take_drain_request() {
            self.read();
            self.protocol.handle_request(now, Request::DrainUnread);
        }
        if self.protocol.wants_requests()
            && let Some(asked) = self.session.end.signals.take_heartbeat_request()
        {
            self.session.context.session_delay.note(now.saturating_duration_since(asked));
            self.protocol.handle_request(now, Request::Heartbeat);
        }
        let mut bytes = 0;
        while self.protocol.wants_requests() {
            if bytes >= WRITE_BATCH_BYTES {
                return Requests::MoreLeft;
            }
            let (request, receipt) = match self.session.end.outbox.try_recv() {
                Ok(Outgoing::Request(request)) => (request, None),
                Ok(Outgoing::Message(frame, receipt)) => (Request::Send(frame), Some(receipt)),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    self.protocol.handle_request(now, Request::Release);
                    break;
                }
            };
            if let Request::Send(frame) = &request {
                bytes += frame.len();
            }
            let is_sent = self.protocol.handle_request(now, request);
            self.unwritten.extend(receipt.filter(|_| is_sent));
        }
        // Each call passes on one message of each circuit at most.
        for _ in 0..CIRCUIT_ROUNDS {
            if !self.protocol.handle_circuits() {
                return Requests::AllTaken;
            }
        }
        Requests::MoreLeft
    }

    /// Encrypts and writes what the protocol sends, as far as the socket takes it.
    fn transmit(&mut self, now: Instant) {
        if self.is_broken {
            while self.protocol.poll_transmit().is_some() {}
            return self.protocol.handle_transmitted(now, true);
        }
        if !self.protocol.has_transmits() && !self.link.is_write_pending() {
            return;
        }
        match self.try_transmit() {
            Ok(is_done) => {
                if is_done {
                    self.unwritten.drain(..).for_each(Receipt::written);
                }
                if is_done && self.is_closing {
                    self.link.shutdown_write();
                }
                self.protocol.handle_transmitted(now, is_done);
            }
            Err(error) => self.broken(&error),
        }
    }

    fn try_transmit(&mut self) -> Result<bool, LinkError> {
        while let Some(transmit) = self.protocol.poll_transmit() {
            match transmit {
                Transmit::Frame(frame) => self.link.queue(&frame)?,
                Transmit::Close => {
                    self.link.close_notify();
                    self.is_closing = true;
                }
            }
        }
        self.link.flush()
    }

    /// Reports an event. Returns whether the session goes on.
    fn deliver(&mut self, event: SessionEvent) -> bool {
        if event.is_end() {
            if matches!(event, SessionEvent::Down(_)) {
                self.session.end.signals.set_heard(self.protocol.heard());
            }
            self.session.ending.report(event);
            return true;
        }
        let mut handle = None;
        if matches!(event, SessionEvent::Up(_)) {
            if self.pending.take().is_some_and(|pending| !pending.complete()) {
                self.report_failure(Failure::Evicted);
                return false;
            }
            let Ends { session, peer, .. } = self.ends;
            self.place = self.session.context.places.take(session, peer, &self.session.eviction);
            if self.place.is_none() {
                self.report_failure(Failure::NoPlace);
                return false;
            }
            self.log_up();
            self.session.end.signals.set_heard(self.protocol.heard());
            self.session.ending.event = Some(SessionEvent::Down(DisconnectReason::Closed));
            handle = self.session.handle.take();
        }
        // Fails only if the coordinator has ended.
        let session = self.ends.session;
        self.session.context.inbox.send(FromSession { session, event, handle }).is_ok()
    }

    /// Waits for a request, bytes, room in the socket or the next deadline; then reads.
    fn wait(&mut self, now: Instant, requests: Requests) {
        let deadline = match requests {
            Requests::AllTaken => self.protocol.poll_timeout(),
            Requests::MoreLeft => Some(now),
        };
        match self.link.wait(&self.session.end.waker, self.protocol.wants_bytes(), deadline) {
            Ok(ready) => {
                if ready.readable {
                    self.read();
                }
            }
            Err(error) => self.broken(&error),
        }
    }

    fn read(&mut self) {
        let (now, protocol) = (Instant::now(), &mut self.protocol);
        match self.link.read(|bytes| protocol.handle_bytes(now, bytes)) {
            Ok(Stream::Open) => {}
            Ok(Stream::Ended) | Err(LinkError::Io(_)) => protocol.handle_end(),
            Err(error @ (LinkError::Tls(_) | LinkError::Rejected(_))) => {
                protocol.handle_tls_error(Failure::Link(error));
            }
        }
    }

    /// Nothing can be written any more. What the peer sent before still counts, above all its goodbye.
    fn broken(&mut self, error: &LinkError) {
        limited_log!(LogLimit::debug(), debug,
            { peer:% = self.ends.peer.short(), addr:% = self.ends.remote, reason:% = error },
            "connection broke; session closed");
        if !self.is_broken {
            self.is_broken = true;
            self.link.stop_writing();
            self.read();
            self.protocol.handle_end();
        }
    }

    fn report_failure(&mut self, failure: Failure) {
        let session = self.ends.session;
        let remote = session.is_accepted().then_some(self.ends.remote);
        self.session.report_failure(remote, failure);
    }

    fn log_up(&self) {
        let counters = &self.session.context.counters;
        if self.ends.session.is_dialled() {
            counters.handshakes_dialled_completed.one();
        } else {
            counters.handshakes_accepted_completed.one();
        }
        limited_log!(LogLimit::debug(), debug,
            { session:% = self.ends.session, peer:% = self.ends.peer.short(), addr:% = self.ends.remote },
            "session up");
    }

    fn log_evicted(&self, why: Evicted) {
        let reason = match why {
            Evicted::Pending => return,
            Evicted::Surplus(surplus) => surplus.describe(),
        };
        limited_log!(LogLimit::new(), warn,
            { session:% = self.ends.session, peer:% = self.ends.peer.short(), addr:% = self.ends.remote, reason },
            "session closed for others");
    }

    fn count_frames(&mut self) {
        let (sent, received) = self.protocol.take_frame_counts();
        self.session.context.counters.frames_sent.add(sent);
        self.session.context.counters.frames_received.add(received);
    }
}
