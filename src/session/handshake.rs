//! Brings a session up: connection, TLS handshake, Hellos both ways, all under one absolute deadline.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, TryRecvError};

use super::connect;
use super::connect::Route;
use super::failure::Failure;
use super::link::{Link, LinkError, Stream};
use super::outgoing::Outgoing;
use super::thread::{Origin, Session};
use crate::limits::{HANDSHAKE_TIMEOUT, LINGER};
use crate::mesh::SessionUp;
use crate::session::pending::PendingGuard;
use crate::trust::tls::{NewConnection, Tls, authenticated_peer};
use crate::trust::tls_error::TlsError;
use crate::wire::{self, ByeReason, FrameReader, Hello, Message};

/// A connection whose handshake is not complete.
struct Opening {
    /// For an accepted connection.
    pending: Option<PendingGuard>,
    link: Box<Link>,
    frames: FrameReader,
    remote: SocketAddr,
    deadline: Instant,
}

impl Opening {
    fn is_evicted(&self) -> bool {
        self.pending.as_ref().is_some_and(PendingGuard::is_evicted)
    }
}

impl Session {
    /// Connects or accepts, and completes the handshake and the exchange of Hellos.
    ///
    /// # Errors
    /// The session did not come up within [`HANDSHAKE_TIMEOUT`]; the connection is closed.
    pub(super) fn establish(
        &mut self,
        origin: Origin,
    ) -> Result<(Box<Link>, FrameReader, SessionUp), Failure> {
        let mut opening = self.open(origin, Instant::now() + HANDSHAKE_TIMEOUT)?;
        while opening.link.is_handshaking() {
            self.step(&mut opening)?;
        }
        let peer = authenticated_peer(opening.link.tls())?;
        let hello = self.exchange_hellos(&mut opening)?;
        while !opening.link.flush()? {
            self.step(&mut opening)?;
        }
        opening.frames.after_hello();
        let Opening { pending, link, frames, remote, .. } = opening;
        if let Some(pending) = pending
            && !pending.complete()
        {
            return Err(Failure::Evicted);
        }
        let up = SessionUp { session: self.id, peer, hello, remote };
        Ok((link, frames, up))
    }

    /// Connects if this node dials, and starts TLS.
    fn open(&mut self, origin: Origin, deadline: Instant) -> Result<Opening, Failure> {
        let (link, remote, pending) = match origin {
            Origin::Accept { socket, remote, pending } => {
                socket.set_nonblocking(true).map_err(LinkError::Io)?;
                (self.begin(socket, Tls::accept)?, remote, Some(pending))
            }
            Origin::Dial { addr, expected, source } => {
                let Self { context, outbox, stop, .. } = self;
                let interrupted = || stop_request(outbox, stop) != StopRequest::None;
                let route = Route { addr: &addr, source, from: context.source };
                let opened = connect::open(route, context, &self.waker, deadline, interrupted);
                let (socket, remote) = opened.map_err(|error| match error.kind() {
                    io::ErrorKind::Interrupted => Failure::Cancelled,
                    _ => Failure::Connect(error),
                })?;
                (self.begin(socket, |tls| tls.dial(expected))?, remote, None)
            }
        };
        Ok(Opening { pending, link, frames: FrameReader::new(), remote, deadline })
    }

    /// Sends our Hello and returns the peer's. The dialler speaks first, so a stranger that dials learns
    /// nothing without a proof of the network key.
    fn exchange_hellos(&mut self, opening: &mut Opening) -> Result<Hello, Failure> {
        let context = Arc::clone(&self.context);
        let is_dialler = opening.pending.is_none();
        if is_dialler {
            opening.link.queue(&context.hello_exchange.hello(opening.link.tls(), None)?)?;
        }
        let hello = loop {
            match opening.frames.next_message()? {
                Some(Message::Hello(hello)) => break hello,
                Some(Message::Bye(reason)) => return Err(Failure::Refused(reason)),
                Some(_) => return Err(Failure::NoHello),
                None => self.step(opening)?,
            }
        };
        match context.hello_exchange.check(opening.link.tls(), &hello) {
            Ok(_) if is_dialler => {}
            Ok(key) => opening.link.queue(&context.hello_exchange.hello(opening.link.tls(), key)?)?,
            Err(mismatch) => {
                opening.deadline = opening.deadline.min(Instant::now() + LINGER);
                self.refuse(opening, mismatch.reason())?;
                return Err(Failure::NetworkKey(mismatch));
            }
        }
        Ok(hello)
    }

    /// Starts TLS on a socket that is connected and does not block.
    fn begin(
        &self,
        socket: TcpStream,
        start: impl FnOnce(&Tls) -> Result<NewConnection, TlsError>,
    ) -> Result<Box<Link>, LinkError> {
        let context = &self.context;
        context.stacks.run(|| Ok(Box::new(Link::new(socket, start(&context.tls)?, &context.counters)?)))?
    }

    /// Sends the reason for a refusal, and waits until the peer has read it.
    fn refuse(&mut self, opening: &mut Opening, reason: ByeReason) -> Result<(), Failure> {
        opening.link.queue(&wire::encode(&Message::Bye(reason))?)?;
        opening.link.close_notify();
        let mut is_shut = false;
        loop {
            if opening.link.flush()? && !is_shut {
                opening.link.shutdown_write();
                is_shut = true;
            }
            let ready = opening.link.wait(&self.waker, true, Some(opening.deadline))?;
            let is_unwanted = opening.is_evicted()
                || stop_request(&self.outbox, &mut self.stop) == StopRequest::DropConnection;
            if is_unwanted || Instant::now() >= opening.deadline {
                return Ok(());
            }
            // Further frames of the peer have no meaning.
            if ready.readable && opening.link.read(&mut FrameReader::new())? == Stream::Ended {
                return Ok(());
            }
        }
    }

    /// One round of writing, waiting and reading before the session is up.
    fn step(&mut self, opening: &mut Opening) -> Result<(), Failure> {
        opening.link.flush()?;
        let ready = opening.link.wait(&self.waker, true, Some(opening.deadline))?;
        if ready.woken {
            if opening.is_evicted() {
                return Err(Failure::Evicted);
            }
            // Once our Hello is out, the peer may count this session and have sent frames that matter. Then
            // the session comes up, and ends like any other.
            let request = stop_request(&self.outbox, &mut self.stop);
            let is_cancelled = match request {
                StopRequest::None => false,
                StopRequest::Bye => opening.link.is_handshaking(),
                StopRequest::DropConnection => true,
            };
            if is_cancelled {
                return Err(Failure::Cancelled);
            }
        }
        if Instant::now() >= opening.deadline {
            return Err(Failure::Deadline);
        }
        if ready.readable {
            // An answer goes out with the next write: the dialler's proof and Hello travel in one segment.
            let Opening { link, frames, .. } = opening;
            let reading = || link.read(frames);
            let stream = self.context.stacks.run(reading).map_err(LinkError::Io)??;
            // A complete message may have arrived together with the end: the Hello, or the reason for the
            // end. An incomplete one stays so, and a socket at its end would end every wait at once.
            if stream == Stream::Ended && !opening.frames.has_message() {
                return Err(Failure::ClosedEarly);
            }
        }
        Ok(())
    }
}

/// A request of the coordinator to a session that is not yet up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopRequest {
    None,
    /// End with the goodbye that has been noted.
    Bye,
    /// End without a goodbye.
    DropConnection,
}

/// Takes the requests out of the outbox, and notes a goodbye in `stop`.
fn stop_request(outbox: &Receiver<Outgoing>, stop: &mut Option<ByeReason>) -> StopRequest {
    loop {
        match outbox.try_recv() {
            Ok(Outgoing::Bye(reason)) => *stop = Some(reason),
            Ok(
                Outgoing::Frame(_) | Outgoing::Heartbeat(_) | Outgoing::Message(..) | Outgoing::DrainUnread,
            ) => {}
            Err(TryRecvError::Disconnected) => return StopRequest::DropConnection,
            Err(TryRecvError::Empty) if stop.is_some() => return StopRequest::Bye,
            Err(TryRecvError::Empty) => return StopRequest::None,
        }
    }
}
