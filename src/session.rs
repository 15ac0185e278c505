//! One session's life on its own thread: dial or accept → TLS handshake → Hello → relay frames
//! both ways until closed (guide: architecture, "The life of a session").
//!
//! Invariant: the thread reports the end of a session, or of a dial, exactly once, also when it panics.

mod connect;
mod establish;
mod greeting;
mod link;
mod lookups;
mod outlet;
mod pace;
mod relay;
mod stacks;
mod waits;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError, never};

#[cfg(test)]
use crate::access::Access;
use crate::addr::{DialAddr, LocalIp, canonical};
use crate::config::{OUTBOX_FRAMES, OUTBOX_FRAMES_WITH_MESSAGES};
use crate::counters::Counters;
use crate::delivery::Receipt;
#[cfg(test)]
use crate::identity::Identity;
use crate::log_limit::LogLimit;
use crate::mesh::{DialError, DialSource, DisconnectReason, Routine, SessionId, SessionUp};
use crate::pending::PendingGuard;
use crate::pin::Expected;
use crate::queue;
use crate::tls::Tls;
use crate::waker::Waker;
#[cfg(test)]
use crate::wire::Hello;
use crate::wire::{ByeReason, Echo, Frame, Message};
use establish::log_refused;
pub(crate) use greeting::Greeting;
pub(crate) use lookups::Lookups;
use outlet::Shared;
pub(crate) use stacks::Stacks;

/// What all sessions of a node share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) tls: Tls,
    pub(crate) greeting: Greeting,
    pub(crate) stacks: Stacks,
    pub(crate) lookups: Lookups,
    /// Where dials come from, if we listen on one address only.
    pub(crate) source: Option<LocalIp>,
    pub(crate) inbox: Sender<(SessionId, SessionEvent)>,
    /// For what the coordinator need not be woken for.
    pub(crate) routine: queue::Sender<Received>,
    pub(crate) counters: Counters,
}

/// What a session tells the coordinator. A session may block on that: it is TCP's backpressure.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// Authenticated, and both sides have said Hello.
    Up(Box<Established>),
    /// A message arrived, at that time.
    Received(Message, Instant),
    /// Whatever had arrived when it was probed has been reported.
    Quiet,
    /// It was up and has ended; nothing follows.
    Down(DisconnectReason),
    /// It was dialled and never came up; nothing follows.
    DialFailed(DialError),
}

/// A session that has come up, and what the coordinator sends by.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) up: SessionUp,
    /// Unless whoever dialled has it.
    pub(crate) handle: Option<SessionHandle>,
    pub(crate) outlet: Arc<Shared>,
}

/// A [`Routine`] message that arrived.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) session: SessionId,
    pub(crate) message: Message,
    pub(crate) arrived: Instant,
}

/// A heartbeat that is to be sent.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) seq: u64,
    pub(crate) echo: Option<Echo>,
    pub(crate) roster: u64,
    /// When the mesh decided to send it, and counted until when it held what it echoes.
    pub(crate) decided: Instant,
}

#[derive(Debug)]
enum Outgoing {
    Frame(Frame),
    Heartbeat(Heartbeat),
    Message(Frame, Receipt),
    Probe,
    Bye(ByeReason),
}

/// The coordinator's end of a session. Dropping it ends the session without a word.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    outbox: Option<queue::Sender<Outgoing>>,
    waker: Arc<Waker>,
    /// Once the session is up.
    outlet: Option<Arc<Shared>>,
}

/// Frames that the coordinator sends itself: what lay ready, and what it is for. The thread of a session that
/// has more to send is at it.
const FEW_FRAMES: usize = 2;

/// A peer's outbox is full: it does not read what it is sent.
#[derive(Debug)]
pub(crate) struct OutboxFull;

impl SessionHandle {
    /// The session is up: what is sent from now on may go this way.
    pub(crate) fn connect(&mut self, outlet: Arc<Shared>) {
        self.outlet = Some(outlet);
    }

    /// Sends a frame, or queues it; never blocks.
    pub(crate) fn send(&self, frame: Frame) -> Result<(), OutboxFull> {
        self.put_now(Outgoing::Frame(frame))
    }

    /// Sends a heartbeat, or queues it; never blocks.
    pub(crate) fn beat(&self, heartbeat: Heartbeat) -> Result<(), OutboxFull> {
        self.put_now(Outgoing::Heartbeat(heartbeat))
    }

    /// Queues a heartbeat that goes out when the thread wakes for another reason; never blocks.
    pub(crate) fn post(&self, heartbeat: Heartbeat) -> Result<(), OutboxFull> {
        self.leave(Outgoing::Heartbeat(heartbeat)).map(drop)
    }

    /// Queues a broadcast message if there is room for more than heartbeats; never blocks.
    pub(crate) fn offer(&self, frame: Frame, receipt: Receipt) -> Result<(), OutboxFull> {
        match &self.outbox {
            Some(outbox) if outbox.len() >= OUTBOX_FRAMES_WITH_MESSAGES => Err(OutboxFull),
            _ => self.put(Outgoing::Message(frame, receipt)),
        }
    }

    /// Frames waiting to be sent.
    pub(crate) fn backlog(&self) -> usize {
        self.outbox.as_ref().map_or(0, queue::Sender::len)
    }

    /// Asks for `Quiet` after everything that has arrived by now; never blocks.
    pub(crate) fn probe(&self) -> Result<(), OutboxFull> {
        self.put(Outgoing::Probe)
    }

    /// Says goodbye after what is queued, then closes; never blocks.
    pub(crate) fn bye(&self, reason: ByeReason) -> Result<(), OutboxFull> {
        self.put(Outgoing::Bye(reason))
    }

    /// Past the session's thread, if that does not have to wait and is not at work already.
    fn put_now(&self, outgoing: Outgoing) -> Result<(), OutboxFull> {
        if self.leave(outgoing)? {
            let outlet = self.outlet.as_ref().filter(|_| self.backlog() <= FEW_FRAMES);
            if !outlet.is_some_and(|outlet| outlet.try_send()) {
                self.waker.wake();
            }
        }
        Ok(())
    }

    fn put(&self, outgoing: Outgoing) -> Result<(), OutboxFull> {
        if self.leave(outgoing)? {
            self.waker.wake();
        }
        Ok(())
    }

    /// Whether somebody is there who will take it.
    fn leave(&self, outgoing: Outgoing) -> Result<bool, OutboxFull> {
        match self.outbox.as_ref().map(|outbox| outbox.try_send(outgoing)) {
            Some(Err(TrySendError::Full(_))) => Err(OutboxFull),
            // A session that has ended has said so, or is about to.
            Some(Err(TrySendError::Disconnected(_))) | None => Ok(false),
            Some(Ok(())) => Ok(true),
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
    Dial { addr: DialAddr, expected: Expected, source: DialSource },
    Accept { socket: TcpStream, remote: SocketAddr, pending: PendingGuard },
}

/// Starts a session that dials. Its end, if it never comes up, is reported as `DialFailed`.
///
/// # Errors
/// No thread or descriptor is left; nothing will be reported.
pub(crate) fn dial(
    context: &Arc<Context>,
    id: SessionId,
    addr: DialAddr,
    expected: Expected,
    source: DialSource,
) -> io::Result<SessionHandle> {
    let waker = Arc::new(Waker::new()?);
    let (handle, outbox) = handle_and_outbox(&waker);
    let (context, origin) = (Arc::clone(context), Origin::Dial { addr, expected, source });
    let name = format!("dial-{id}");
    spawn(name, move || {
        Session::new(context, id, waker, outbox, None).run(origin);
    })?;
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
    pending: PendingGuard,
    waker: Arc<Waker>,
) -> io::Result<()> {
    let (handle, outbox) = handle_and_outbox(&waker);
    let context = Arc::clone(context);
    let origin = Origin::Accept { socket, remote: canonical(remote), pending };
    let session = Session::new(context, id, waker, outbox, Some(handle));
    spawn(format!("accept-{id}"), move || session.run(origin))
}

/// What the sessions of a node share, and where they report.
#[cfg(test)]
pub(crate) fn context(
    identity: &Identity,
) -> (Arc<Context>, Receiver<(SessionId, SessionEvent)>, Receiver<Received>) {
    let (inbox, reports) = crossbeam_channel::bounded(1);
    let (routine, beats) = queue::bounded(1);
    let context = Context {
        tls: Tls::new(identity, Access::default()).unwrap(),
        greeting: Greeting::new(Hello::plain(), Vec::new()),
        stacks: Stacks::default(),
        lookups: Lookups::new(crate::some_moment()),
        source: None,
        inbox,
        routine,
        counters: Counters::default(),
    };
    (Arc::new(context), reports, beats)
}

/// The coordinator's end of a session whose thread takes nothing out of the outbox.
#[cfg(test)]
pub(crate) fn stuck() -> io::Result<(SessionHandle, impl Drop)> {
    Ok(handle_and_outbox(&Arc::new(Waker::new()?)))
}

fn handle_and_outbox(waker: &Arc<Waker>) -> (SessionHandle, Receiver<Outgoing>) {
    let (sender, receiver) = queue::bounded(OUTBOX_FRAMES);
    (SessionHandle { outbox: Some(sender), waker: Arc::clone(waker), outlet: None }, receiver)
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Not joined: a thread may be inside the system's resolver for as long as that likes.
    thread::Builder::new().name(name).stack_size(stacks::OWN_BYTES).spawn(body).map(drop)
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
    routine: Routine,
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
    fn new(
        context: Arc<Context>,
        id: SessionId,
        waker: Arc<Waker>,
        outbox: Receiver<Outgoing>,
        handle: Option<SessionHandle>,
    ) -> Self {
        Self { context, id, waker, outbox, handle, stop: None, routine: Routine::default() }
    }

    fn run(mut self, origin: Origin) {
        let inbox = self.context.inbox.clone();
        let panicked = DialError::Failed("the session's thread panicked".to_owned());
        let event = self.id.is_dialled().then_some(SessionEvent::DialFailed(panicked));
        let mut ending = Ending { inbox: &inbox, id: self.id, event };
        let remote = match &origin {
            Origin::Accept { remote, .. } => Some(*remote),
            Origin::Dial { .. } => None,
        };
        let established = self.establish(origin);
        let (link, mut frames, up) = match established {
            Ok(established) => established,
            Err(failure) => {
                let counters = &self.context.counters;
                match remote {
                    Some(remote) => {
                        counters.handshakes_accepted_failed.one();
                        log_refused(remote, &failure);
                        ending.event = None;
                    }
                    None => {
                        counters.handshakes_dialled_failed.one();
                        ending.report(SessionEvent::DialFailed(failure.into_dial_error()));
                    }
                }
                return;
            }
        };
        let (peer, remote) = (up.peer, up.remote);
        if self.id.is_dialled() {
            self.context.counters.handshakes_dialled_completed.one();
        } else {
            self.context.counters.handshakes_accepted_completed.one();
        }
        static UP_LIMIT: LogLimit = LogLimit::debug();
        if let Some(suppressed) = UP_LIMIT.check() {
            log::debug!(session:% = self.id, peer:% = peer.short(), addr:% = remote, suppressed; "session up");
        }
        ending.event = Some(SessionEvent::Down(DisconnectReason::Closed));
        let outlet = Arc::new(Shared::new(link, std::mem::replace(&mut self.outbox, never())));
        let established = Established { up, handle: self.handle.take(), outlet: Arc::clone(&outlet) };
        if inbox.send((self.id, SessionEvent::Up(Box::new(established)))).is_err() {
            return;
        }
        let ended = self.relay(&outlet, &mut frames, &mut ending);
        outlet.close();
        match ended {
            Ok(reason) => ending.report(SessionEvent::Down(reason)),
            Err(error) => {
                static BROKE_LIMIT: LogLimit = LogLimit::debug();
                if let Some(suppressed) = BROKE_LIMIT.check() {
                    log::debug!(peer:% = peer.short(), addr:% = remote, reason:% = error, suppressed;
                        "connection broke");
                }
                ending.report(SessionEvent::Down(DisconnectReason::Closed));
            }
        }
    }
}
