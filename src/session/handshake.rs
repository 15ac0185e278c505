//! From nothing to a session: connection, TLS handshake, Hello both ways, under one absolute deadline.

use std::io;
use std::net::TcpStream;
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
use crate::trust::tls::{Tls, Unproven, authenticated_peer};
use crate::trust::tls_error::TlsError;
use crate::wire::{self, ByeReason, FrameReader, Message};

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
        context.stacks.run(|| Ok(Box::new(Link::new(socket, start(&context.tls)?, &context.counters)?)))?
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
