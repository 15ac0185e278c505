//! The thread of one session, from its start to the report of its end.
//!
//! Invariant: the thread reports the end of a session, or of a dial, exactly once, also when it panics.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, never};

use super::context::Context;
use super::events::{Established, SessionEvent};
use super::failure::log_refused;
use super::outgoing::Outgoing;
use super::outlet::Shared;
use super::pending::PendingGuard;
use super::session_handle::{SessionHandle, handle_and_outbox};
use super::stacks;
use crate::mesh::{DialError, DialSource, DisconnectReason, Routine, SessionId};
use crate::net::addr::{DialAddr, canonical};
use crate::net::waker::Waker;
use crate::trust::pin::Expected;
use crate::util::log_limit::LogLimit;
use crate::wire::ByeReason;

/// How a session begins.
pub(super) enum Origin {
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

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // Not joined: a thread may be inside the system's resolver for as long as that likes.
    thread::Builder::new().name(name).stack_size(stacks::OWN_BYTES).spawn(body).map(drop)
}

pub(super) struct Session {
    pub(super) context: Arc<Context>,
    pub(super) id: SessionId,
    pub(super) waker: Arc<Waker>,
    pub(super) outbox: Receiver<Outgoing>,
    /// Until it is handed to the coordinator, if that does not have it from the beginning.
    pub(super) handle: Option<SessionHandle>,
    /// The goodbye that ended a session before it was up.
    pub(super) stop: Option<ByeReason>,
    pub(super) routine: Routine,
}

/// Reports the end exactly once, at the latest when it is dropped.
pub(super) struct Ending<'a> {
    pub(super) inbox: &'a Sender<(SessionId, SessionEvent)>,
    pub(super) id: SessionId,
    /// What dropping this reports; nothing once the end has been reported, or if nobody need know.
    pub(super) event: Option<SessionEvent>,
}

impl Ending<'_> {
    pub(super) fn report(&mut self, event: SessionEvent) {
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
