//! From nothing to a session: connection, TLS handshake, Hello both ways, under one absolute deadline.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, TryRecvError};

use super::connect::Route;
use super::greeting::{GreetingError, Mismatch};
use super::link::{Link, LinkError, Stream};
use super::{Origin, Outgoing, Session, connect};
use crate::config::{HANDSHAKE_TIMEOUT, LINGER};
use crate::log_limit::LogLimit;
use crate::mesh::{DialError, SessionUp};
use crate::pending::PendingGuard;
use crate::tls::{Rejection, Tls, Unproven, authenticated_peer};
use crate::tls_error::TlsError;
use crate::wire::{self, ByeReason, FrameReader, Message};

/// Why a session did not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("the connection was closed during the handshake")]
    ClosedEarly,
    #[error("handshake not complete after {} seconds", HANDSHAKE_TIMEOUT.as_secs())]
    Deadline,
    #[error("{0}")]
    Authentication(#[from] crate::tls::AuthenticationError),
    #[error("{0}")]
    Wire(#[from] wire::WireError),
    #[error("its first message was not a Hello")]
    NoHello,
    #[error("refused: {}", .0.in_words())]
    Refused(ByeReason),
    #[error("{0}")]
    Greeting(#[from] GreetingError),
    #[error("{0}")]
    NetworkKey(Mismatch),
    #[error("given up")]
    Cancelled,
    #[error("it gave way to a newer connection before its handshake was complete")]
    Evicted,
}

impl Failure {
    pub(super) fn into_dial_error(self) -> DialError {
        match self {
            Self::Cancelled => DialError::Cancelled,
            Self::Link(LinkError::Rejected(Rejection::WrongId { found, .. })) => DialError::WrongId { found },
            other => DialError::Failed(other.to_string()),
        }
    }
}

impl Session {
    /// Everything until both sides have said Hello, under one absolute deadline.
    pub(super) fn establish(
        &mut self,
        origin: Origin,
    ) -> Result<(Box<Link>, FrameReader, SessionUp), Failure> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let (mut link, remote, pending) = match origin {
            Origin::Accept { socket, remote, pending } => {
                socket.set_nonblocking(true).map_err(LinkError::Io)?;
                (self.begin(socket, Tls::accept)?, remote, Some(pending))
            }
            Origin::Dial { addr, expected, source } => {
                let Self { context, outbox, stop, .. } = self;
                let interrupted = || told_to_stop(outbox, stop) != Told::Nothing;
                let route = Route { addr: &addr, source, from: context.source };
                let opened = connect::open(route, context, &self.waker, deadline, interrupted);
                let (socket, remote) = match opened {
                    Ok(opened) => opened,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        return Err(Failure::Cancelled);
                    }
                    Err(error) => return Err(Failure::Connect(error)),
                };
                (self.begin(socket, |tls| tls.dial(expected))?, remote, None)
            }
        };
        let mut frames = FrameReader::new();
        while link.is_handshaking() {
            self.step(&mut link, &mut frames, deadline, pending.as_ref())?;
        }
        let peer = authenticated_peer(link.tls())?;
        // Who dialled speaks first: a stranger who comes here learns nothing without a proof.
        let context = Arc::clone(&self.context);
        if pending.is_none() {
            link.queue(&context.greeting.hello(link.tls(), None)?)?;
        }
        let hello = loop {
            match frames.next_message()? {
                Some(Message::Hello(hello)) => break hello,
                Some(Message::Bye(reason)) => return Err(Failure::Refused(reason)),
                Some(_) => return Err(Failure::NoHello),
                None => self.step(&mut link, &mut frames, deadline, pending.as_ref())?,
            }
        };
        match context.greeting.check(link.tls(), &hello) {
            Ok(key) if pending.is_some() => link.queue(&context.greeting.hello(link.tls(), key)?)?,
            Ok(_) => {}
            Err(mismatch) => {
                let deadline = deadline.min(Instant::now() + LINGER);
                self.turn_away(&mut link, mismatch.reason(), deadline, pending.as_ref())?;
                return Err(Failure::NetworkKey(mismatch));
            }
        }
        self.finish_writing(&mut link, &mut frames, deadline, pending.as_ref())?;
        frames.after_hello();
        if let Some(pending) = pending
            && !pending.complete()
        {
            return Err(Failure::Evicted);
        }
        let up = SessionUp { session: self.id, peer, hello, remote };
        Ok((link, frames, up))
    }

    /// TLS on a socket that is connected and does not block.
    fn begin(
        &self,
        socket: TcpStream,
        start: impl FnOnce(&Tls) -> Result<Unproven, TlsError>,
    ) -> Result<Box<Link>, LinkError> {
        let context = &self.context;
        context.stacks.run(|| Ok(Box::new(Link::new(socket, start(&context.tls)?, context)?)))?
    }

    fn finish_writing(
        &mut self,
        link: &mut Link,
        frames: &mut FrameReader,
        deadline: Instant,
        pending: Option<&PendingGuard>,
    ) -> Result<(), Failure> {
        while !link.flush()? {
            self.step(link, frames, deadline, pending)?;
        }
        Ok(())
    }

    /// Says why the other side is not let in, and waits until it has read that.
    fn turn_away(
        &mut self,
        link: &mut Link,
        reason: ByeReason,
        deadline: Instant,
        pending: Option<&PendingGuard>,
    ) -> Result<(), Failure> {
        link.queue(&wire::encode(&Message::Bye(reason))?)?;
        link.close_notify();
        let mut is_shut = false;
        loop {
            if link.flush()? && !is_shut {
                link.shutdown_write();
                is_shut = true;
            }
            let ready = link.wait(&self.waker, true, Some(deadline))?;
            let is_unwanted = pending.is_some_and(PendingGuard::is_evicted)
                || told_to_stop(&self.outbox, &mut self.stop) == Told::Vanish;
            if is_unwanted || Instant::now() >= deadline {
                return Ok(());
            }
            // What it still says means nothing any more.
            if ready.readable && link.read(&mut FrameReader::new())? == Stream::Ended {
                return Ok(());
            }
        }
    }

    /// One round of writing, waiting and reading before the session is up.
    fn step(
        &mut self,
        link: &mut Link,
        frames: &mut FrameReader,
        deadline: Instant,
        pending: Option<&PendingGuard>,
    ) -> Result<(), Failure> {
        link.flush()?;
        let ready = link.wait(&self.waker, true, Some(deadline))?;
        if ready.woken {
            if pending.is_some_and(PendingGuard::is_evicted) {
                return Err(Failure::Evicted);
            }
            // Once our Hello is out the other end may count this session, and have sent something
            // that matters: then it comes up, and ends like any other.
            let told = told_to_stop(&self.outbox, &mut self.stop);
            if told == Told::Vanish || (told == Told::Bye && link.is_handshaking()) {
                return Err(Failure::Cancelled);
            }
        }
        if Instant::now() >= deadline {
            return Err(Failure::Deadline);
        }
        if ready.readable {
            // What is to be answered goes out with what comes next: who dialled proves itself and says
            // Hello in one segment.
            let reading = || link.read(frames);
            let stream = self.context.stacks.run(reading).map_err(LinkError::Io)??;
            // What arrived with the end may still be the Hello, or the reason for the end; half of
            // it is neither, and a socket at its end would end every wait for the rest at once.
            if stream == Stream::Ended && !frames.has_message() {
                return Err(Failure::ClosedEarly);
            }
        }
        Ok(())
    }
}

/// What the coordinator wants of a session that is not yet up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    /// End with the goodbye that has been noted.
    Bye,
    /// End without a word.
    Vanish,
}

fn told_to_stop(outbox: &Receiver<Outgoing>, stop: &mut Option<ByeReason>) -> Told {
    loop {
        match outbox.try_recv() {
            Ok(Outgoing::Bye(reason)) => *stop = Some(reason),
            Ok(Outgoing::Frame(_) | Outgoing::Heartbeat(_) | Outgoing::Message(..) | Outgoing::Probe) => {}
            Err(TryRecvError::Disconnected) => return Told::Vanish,
            Err(TryRecvError::Empty) if stop.is_some() => return Told::Bye,
            Err(TryRecvError::Empty) => return Told::Nothing,
        }
    }
}

/// Says why a connection that a peer opened came to nothing. Each cause has a limit of its own, so that a
/// flood of one does not hide the others.
pub(super) fn log_refused(remote: SocketAddr, failure: &Failure) {
    static DEADLINE: LogLimit = LogLimit::new();
    static CONNECTION: LogLimit = LogLimit::new();
    static AUTHENTICATION: LogLimit = LogLimit::new();
    static PROTOCOL: LogLimit = LogLimit::new();
    static REFUSED: LogLimit = LogLimit::new();
    static NETWORK_KEY: LogLimit = LogLimit::new();
    static OTHER: LogLimit = LogLimit::new();
    let limit = match failure {
        // Port scans and health checks connect and go; a dial that was given up does as well.
        Failure::ClosedEarly => return log_ended(remote, failure),
        Failure::Link(LinkError::Io(error))
            if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) =>
        {
            return log_ended(remote, failure);
        }
        // The eviction has been logged, with its reason.
        Failure::Evicted => return log_ended(remote, failure),
        Failure::Deadline => &DEADLINE,
        Failure::Connect(_) | Failure::Link(LinkError::Io(_)) => &CONNECTION,
        Failure::Link(_) | Failure::Authentication(_) => &AUTHENTICATION,
        Failure::Wire(_) | Failure::NoHello => &PROTOCOL,
        Failure::Refused(_) => &REFUSED,
        Failure::NetworkKey(_) => &NETWORK_KEY,
        Failure::Greeting(_) | Failure::Cancelled => &OTHER,
    };
    if let Some(suppressed) = limit.check() {
        log::warn!(addr:% = remote, reason:% = failure, suppressed; "incoming connection refused");
    }
}

/// Says at level debug why an incoming connection ended: the cause is ordinary, or has been logged.
fn log_ended(remote: SocketAddr, failure: &Failure) {
    static WENT_AWAY: LogLimit = LogLimit::debug();
    static EVICTED: LogLimit = LogLimit::debug();
    let limit = if matches!(failure, Failure::Evicted) { &EVICTED } else { &WENT_AWAY };
    if let Some(suppressed) = limit.check() {
        log::debug!(addr:% = remote, reason:% = failure, suppressed; "incoming connection ended");
    }
}
