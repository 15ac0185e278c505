//! One session's life on its own thread: dial or accept → TLS handshake → Hello → relay frames
//! both ways until closed (DESIGN section 2).
//!
//! Invariant: the thread reports the end of a session, or of a dial, exactly once, also when it panics.

mod connect;
mod link;
mod pace;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};

use crate::config::{
    DialAddr, HANDSHAKE_TIMEOUT, LEAVE_FLUSH, LINGER, OUTBOX_FRAMES, SESSION_STACK_BYTES, WRITE_STALL,
    canonical,
};
use crate::identity::PeerId;
use crate::listener::Admission;
use crate::log_limit::LogLimit;
use crate::mesh::{DialError, DisconnectReason, SessionId, SessionUp};
use crate::tls::{Rejection, Tls, authenticated_peer};
use crate::waker::Waker;
use crate::wire::{self, ByeReason, Frame, FrameReader, Message};
use link::{Link, LinkError, Stream};
use pace::Pace;

/// Bytes encrypted before the socket is asked to take them, several frames to a system call.
const WRITE_BATCH_BYTES: usize = 16 * 1024;

/// What all sessions of a node share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) tls: Tls,
    /// Our Hello, encoded once.
    pub(crate) hello: Frame,
    /// Where dials come from, if we listen on one address only.
    pub(crate) source: Option<IpAddr>,
    pub(crate) inbox: Sender<(SessionId, SessionEvent)>,
}

/// What a session tells the coordinator. A session may block on that: it is TCP's backpressure.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// Authenticated, and both sides have said Hello; with the handle, unless whoever dialled has it.
    Up(Box<(SessionUp, Option<SessionHandle>)>),
    /// A message arrived.
    Received(Message),
    /// Whatever had arrived when it was probed has been reported.
    Quiet,
    /// It was up and has ended; nothing follows.
    Down(DisconnectReason),
    /// It was dialled and never came up; nothing follows.
    DialFailed(DialError),
}

#[derive(Debug)]
enum Outgoing {
    Frame(Frame),
    Probe,
    Bye(ByeReason),
}

/// The coordinator's end of a session. Dropping it ends the session without a word.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    outbox: Option<Sender<Outgoing>>,
    waker: Arc<Waker>,
}

/// A peer's outbox is full: it does not read what it is sent.
#[derive(Debug)]
pub(crate) struct OutboxFull;

impl SessionHandle {
    /// Queues a frame; never blocks.
    pub(crate) fn send(&self, frame: Frame) -> Result<(), OutboxFull> {
        self.put(Outgoing::Frame(frame))
    }

    /// Asks for `Quiet` after everything that has arrived by now; never blocks.
    pub(crate) fn probe(&self) -> Result<(), OutboxFull> {
        self.put(Outgoing::Probe)
    }

    /// Says goodbye after what is queued, then closes; never blocks.
    pub(crate) fn bye(&self, reason: ByeReason) -> Result<(), OutboxFull> {
        self.put(Outgoing::Bye(reason))
    }

    fn put(&self, outgoing: Outgoing) -> Result<(), OutboxFull> {
        match self.outbox.as_ref().map(|outbox| outbox.try_send(outgoing)) {
            Some(Err(TrySendError::Full(_))) => Err(OutboxFull),
            // A session that has ended has said so, or is about to.
            Some(Err(TrySendError::Disconnected(_))) | None => Ok(()),
            Some(Ok(())) => {
                self.waker.wake();
                Ok(())
            }
        }
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        // The sender goes first, so that the woken thread finds its outbox closed.
        self.outbox = None;
        self.waker.wake();
    }
}

/// How a session begins.
enum Origin {
    Dial { addr: DialAddr, expected: Option<PeerId> },
    Accept { socket: TcpStream, remote: SocketAddr, admission: Admission },
}

/// Starts a session that dials. Its end, if it never comes up, is reported as `DialFailed`.
///
/// # Errors
/// No thread or descriptor is left; nothing will be reported.
pub(crate) fn dial(
    context: &Arc<Context>,
    id: SessionId,
    addr: DialAddr,
    expected: Option<PeerId>,
) -> io::Result<SessionHandle> {
    let waker = Arc::new(Waker::new()?);
    let (handle, outbox) = handle_and_outbox(&waker);
    let (context, origin) = (Arc::clone(context), Origin::Dial { addr, expected });
    let name = format!("dial-{id}");
    spawn(name, move || Session { context, id, waker, outbox, handle: None, stop: None }.run(origin))?;
    Ok(handle)
}

/// Starts a session that somebody else dialled. Its handle comes with its `Up`.
///
/// # Errors
/// No thread is left; the connection is closed.
pub(crate) fn accept(
    context: &Arc<Context>,
    id: SessionId,
    socket: TcpStream,
    remote: SocketAddr,
    admission: Admission,
    waker: Arc<Waker>,
) -> io::Result<()> {
    let (handle, outbox) = handle_and_outbox(&waker);
    let context = Arc::clone(context);
    let origin = Origin::Accept { socket, remote: canonical(remote), admission };
    let session = Session { context, id, waker, outbox, handle: Some(handle), stop: None };
    spawn(format!("accept-{id}"), move || session.run(origin))
}

fn handle_and_outbox(waker: &Arc<Waker>) -> (SessionHandle, Receiver<Outgoing>) {
    let (sender, receiver) = bounded(OUTBOX_FRAMES);
    (SessionHandle { outbox: Some(sender), waker: Arc::clone(waker) }, receiver)
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Not joined: a thread may be inside the system's resolver for as long as that likes.
    thread::Builder::new().name(name).stack_size(SESSION_STACK_BYTES).spawn(body).map(drop)
}

/// Why a session did not come up.
#[derive(Debug, thiserror::Error)]
enum Failure {
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
    #[error("it refused us ({0:?})")]
    Refused(ByeReason),
    #[error("given up")]
    Cancelled,
    #[error("too many unfinished handshakes; the oldest gave way")]
    Evicted,
}

impl Failure {
    fn into_dial_error(self) -> DialError {
        if let Self::Link(LinkError::Tls(error)) = &self
            && let Some(Rejection::WrongId { found, .. }) = Rejection::of(error)
        {
            return DialError::WrongId { found: *found };
        }
        match self {
            Self::Cancelled => DialError::Cancelled,
            other => DialError::Failed(other.to_string()),
        }
    }
}

struct Session {
    context: Arc<Context>,
    id: SessionId,
    waker: Arc<Waker>,
    outbox: Receiver<Outgoing>,
    /// Until it is handed to the coordinator, if that does not have it from the beginning.
    handle: Option<SessionHandle>,
    /// The goodbye that ended a session before it was up.
    stop: Option<ByeReason>,
}

/// Reports the end exactly once, at the latest when it is dropped.
struct Ending<'a> {
    inbox: &'a Sender<(SessionId, SessionEvent)>,
    id: SessionId,
    /// What dropping this reports; nothing once the end has been reported, or if nobody need know.
    event: Option<SessionEvent>,
}

impl Ending<'_> {
    fn report(&mut self, event: SessionEvent) {
        if self.event.is_some() {
            self.event = Some(event);
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        if let Some(event) = self.event.take() {
            // Without a coordinator nobody is left to be told.
            let _ = self.inbox.send((self.id, event));
        }
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.deliver();
    }
}

impl Session {
    fn run(mut self, origin: Origin) {
        let inbox = self.context.inbox.clone();
        let panicked = DialError::Failed("the session's thread panicked".to_owned());
        let event = self.id.is_dialled().then_some(SessionEvent::DialFailed(panicked));
        let mut ending = Ending { inbox: &inbox, id: self.id, event };
        let remote = match &origin {
            Origin::Accept { remote, .. } => Some(*remote),
            Origin::Dial { .. } => None,
        };
        let (mut link, mut frames, up) = match self.establish(origin) {
            Ok(established) => established,
            Err(failure) => {
                match remote {
                    Some(remote) => {
                        log_refused(remote, &failure);
                        ending.event = None;
                    }
                    None => ending.report(SessionEvent::DialFailed(failure.into_dial_error())),
                }
                return;
            }
        };
        let (peer, remote) = (up.peer, up.remote);
        log::debug!(session:% = self.id, peer:% = peer.short(), addr:% = remote; "session up");
        ending.event = Some(SessionEvent::Down(DisconnectReason::Closed));
        let up = SessionEvent::Up(Box::new((up, self.handle.take())));
        if inbox.send((self.id, up)).is_err() {
            return;
        }
        match self.relay(&mut link, &mut frames, &mut ending) {
            Ok(reason) => ending.report(SessionEvent::Down(reason)),
            Err(error) => {
                log::debug!(peer:% = peer.short(), addr:% = remote, reason:% = error; "connection broke");
                ending.report(SessionEvent::Down(DisconnectReason::Closed));
            }
        }
    }

    /// Everything until both sides have said Hello, under one absolute deadline.
    fn establish(&mut self, origin: Origin) -> Result<(Link, FrameReader, SessionUp), Failure> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        let tls_error = |error| Failure::Link(LinkError::Tls(error));
        let io_error = |error| Failure::Link(LinkError::Io(error));
        let (mut link, remote, admission) = match origin {
            Origin::Accept { socket, remote, admission } => {
                let tls = self.context.tls.accept().map_err(tls_error)?;
                (Link::new(socket, tls).map_err(io_error)?, remote, Some(admission))
            }
            Origin::Dial { addr, expected } => {
                let Self { context, outbox, stop, .. } = self;
                let interrupted = || told_to_stop(outbox, stop) != Told::Nothing;
                let opened = connect::open(&addr, context.source, &self.waker, deadline, interrupted);
                let (socket, remote) = match opened {
                    Ok(opened) => opened,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        return Err(Failure::Cancelled);
                    }
                    Err(error) => return Err(Failure::Connect(error)),
                };
                let tls = self.context.tls.dial(expected).map_err(tls_error)?;
                (Link::new(socket, tls).map_err(io_error)?, remote, None)
            }
        };
        let mut frames = FrameReader::new();
        while link.is_handshaking() {
            self.step(&mut link, &mut frames, deadline, admission.as_ref())?;
        }
        let peer = authenticated_peer(link.tls())?;
        link.queue(&self.context.hello)?;
        let hello = loop {
            let hello_sent = link.flush()?;
            match frames.next_message()? {
                Some(Message::Hello(hello)) if hello_sent => break hello,
                Some(Message::Hello(hello)) => {
                    self.finish_writing(&mut link, &mut frames, deadline, admission.as_ref())?;
                    break hello;
                }
                Some(Message::Bye(reason)) => return Err(Failure::Refused(reason)),
                Some(_) => return Err(Failure::NoHello),
                None => self.step(&mut link, &mut frames, deadline, admission.as_ref())?,
            }
        };
        frames.after_hello();
        if let Some(admission) = admission
            && !admission.authenticated()
        {
            return Err(Failure::Evicted);
        }
        let up = SessionUp { session: self.id, peer, hello, remote };
        Ok((link, frames, up))
    }

    fn finish_writing(
        &mut self,
        link: &mut Link,
        frames: &mut FrameReader,
        deadline: Instant,
        admission: Option<&Admission>,
    ) -> Result<(), Failure> {
        while !link.flush()? {
            self.step(link, frames, deadline, admission)?;
        }
        Ok(())
    }

    /// One round of writing, waiting and reading before the session is up.
    fn step(
        &mut self,
        link: &mut Link,
        frames: &mut FrameReader,
        deadline: Instant,
        admission: Option<&Admission>,
    ) -> Result<(), Failure> {
        link.flush()?;
        let ready = link.wait(&self.waker, true, Some(deadline))?;
        if ready.woken {
            if admission.is_some_and(Admission::is_evicted) {
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
            let stream = link.read(frames)?;
            link.flush()?;
            // What arrived with the end may still be the Hello, or the reason for the end.
            if stream == Stream::Ended && frames.is_empty() {
                return Err(Failure::ClosedEarly);
            }
        }
        Ok(())
    }

    /// Carries frames both ways until the session ends.
    fn relay(
        &mut self,
        link: &mut Link,
        frames: &mut FrameReader,
        ending: &mut Ending<'_>,
    ) -> Result<DisconnectReason, LinkError> {
        let mut pace = Pace::new(Instant::now());
        let mut stalled_since = None;
        let mut probe = Probe::Idle;
        let mut stream = Stream::Open;
        if let Some(reason) = self.stop {
            self.say_bye(link, frames, ending, reason, stream)?;
            return Ok(DisconnectReason::Closed);
        }
        loop {
            let mut next = None;
            while link.flush()? {
                stalled_since = None;
                next = self.queue_batch(link)?;
                if next.is_some() || !link.is_write_pending() {
                    break;
                }
            }
            match next {
                Some(Next::Bye(reason)) => {
                    self.say_bye(link, frames, ending, reason, stream)?;
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
                        if ending.inbox.send((self.id, SessionEvent::Received(message))).is_err() {
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
                    Err(error @ LinkError::Tls(_)) => {
                        return self.protocol_error(link, frames, ending, stream, &error);
                    }
                    // What came before the connection broke still counts, above all a Bye.
                    Err(LinkError::Io(_)) => Stream::Ended,
                };
            }
        }
    }

    /// Encrypts what waits in the outbox, up to a batch or to what is no frame.
    fn queue_batch(&self, link: &mut Link) -> Result<Option<Next>, LinkError> {
        let mut bytes = 0;
        while bytes < WRITE_BATCH_BYTES {
            match self.outbox.try_recv() {
                Ok(Outgoing::Frame(frame)) => {
                    bytes += frame.len();
                    link.queue(&frame)?;
                }
                Ok(Outgoing::Probe) => return Ok(Some(Next::Probe)),
                Ok(Outgoing::Bye(reason)) => return Ok(Some(Next::Bye(reason))),
                Err(TryRecvError::Disconnected) => return Ok(Some(Next::Gone)),
                Err(TryRecvError::Empty) => break,
            }
        }
        Ok(None)
    }

    /// Says goodbye, then takes in what the other side sent before it read that.
    fn say_bye(
        &mut self,
        link: &mut Link,
        frames: &mut FrameReader,
        ending: &Ending<'_>,
        reason: ByeReason,
        mut stream: Stream,
    ) -> Result<(), LinkError> {
        let deadline = Instant::now() + LINGER;
        if let Ok(frame) = wire::encode(&Message::Bye(reason)) {
            link.queue(&frame)?;
        }
        link.close_notify();
        let mut is_shut = false;
        loop {
            if link.flush()? && !is_shut {
                link.shutdown_write();
                is_shut = true;
            }
            loop {
                match frames.next_message() {
                    Ok(Some(Message::Bye(_) | Message::Hello(_))) | Err(_) => return Ok(()),
                    Ok(Some(message)) => {
                        if ending.inbox.send((self.id, SessionEvent::Received(message))).is_err() {
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
        // What follows in the stream can't be understood.
        *frames = FrameReader::new();
        let _ = self.say_bye(link, frames, ending, ByeReason::Protocol, stream);
        Ok(DisconnectReason::Protocol)
    }
}

/// How far the coordinator's question for unread messages has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Idle,
    Asked,
    /// The socket has been read since; what came from it goes first.
    Read,
}

/// What the coordinator wants of a session, beside sending frames.
enum Next {
    Probe,
    Bye(ByeReason),
    /// The end, without a word.
    Gone,
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
            Ok(Outgoing::Frame(_) | Outgoing::Probe) => {}
            Err(TryRecvError::Disconnected) => return Told::Vanish,
            Err(TryRecvError::Empty) if stop.is_some() => return Told::Bye,
            Err(TryRecvError::Empty) => return Told::Nothing,
        }
    }
}

fn log_refused(remote: SocketAddr, failure: &Failure) {
    static LIMIT: LogLimit = LogLimit::new();
    let went_away = match failure {
        Failure::ClosedEarly => true,
        Failure::Link(LinkError::Io(error)) => {
            matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        }
        _ => false,
    };
    if went_away {
        // Port scans and health checks connect and go; a dial that was given up does as well.
        log::debug!(addr:% = remote, reason:% = failure; "incoming connection ended");
    } else if let Some(suppressed) = LIMIT.check() {
        log::warn!(addr:% = remote, reason:% = failure, suppressed; "incoming connection refused");
    }
}
