//! Owns the thread of one session, from its start to the report of its end.
//!
//! Invariant: the thread reports the end of a session, or of a dial, exactly once, also when it panics.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, never};

use super::context::Context;
use super::events::{Established, SessionEvent};
use super::failure::{Failure, log_refused};
use super::outgoing::Outgoing;
use super::outlet::Shared;
use super::pending::PendingGuard;
use super::session_handle::{SessionHandle, handle_and_outbox};
use super::stacks;
use crate::mesh::{DialError, DialSource, DisconnectReason, Routine, SessionId};
use crate::net::addr::{DialAddr, canonical};
use crate::net::waker::Waker;
use crate::trust::pin::Expected;
use crate::util::log_limit::{LogLimit, limited_log};
use crate::util::worker::spawn_detached;
use crate::wire::ByeReason;

/// The start of a session.
pub(super) enum Origin {
    Dial { addr: DialAddr, expected: Expected, source: DialSource },
    Accept { socket: TcpStream, remote: SocketAddr, pending: PendingGuard },
}

/// Starts a session that dials. If the session does not come up, its thread reports `DialFailed`.
///
/// # Errors
/// No thread or descriptor is left; the session reports nothing.
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

/// Starts a session on an accepted connection. The event `Up` carries its handle.
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
    // Not joined: the system's resolver may block a thread for an unbounded time.
    spawn_detached(name, stacks::OWN_BYTES, body)
}

pub(super) struct Session {
    pub(super) context: Arc<Context>,
    pub(super) id: SessionId,
    pub(super) waker: Arc<Waker>,
    pub(super) outbox: Receiver<Outgoing>,
    /// The handle of an accepted session, until the event `Up` carries it to the coordinator.
    pub(super) handle: Option<SessionHandle>,
    /// Reason of a goodbye that the coordinator asked for before the session was up.
    pub(super) stop: Option<ByeReason>,
    pub(super) routine: Routine,
}

/// Reports the end of a session exactly once, at the latest when this is dropped.
pub(super) struct Ending<'a> {
    pub(super) inbox: &'a Sender<(SessionId, SessionEvent)>,
    pub(super) id: SessionId,
    /// The event that dropping this reports. `None` once the end has been reported, or if the coordinator
    /// does not know the session.
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
            // Fails only if the coordinator has ended.
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
        let (link, mut frames, up) = match self.establish(origin) {
            Ok(established) => established,
            Err(failure) => return self.report_failure(&mut ending, remote, failure),
        };
        let (peer, remote) = (up.peer, up.remote);
        if self.id.is_dialled() {
            self.context.counters.handshakes_dialled_completed.one();
        } else {
            self.context.counters.handshakes_accepted_completed.one();
        }
        limited_log!(LogLimit::debug(), debug, { session:% = self.id, peer:% = peer.short(), addr:% = remote },
            "session up");
        ending.event = Some(SessionEvent::Down(DisconnectReason::Closed));
        let outlet = Arc::new(Shared::new(link, std::mem::replace(&mut self.outbox, never())));
        let established = Established { up, handle: self.handle.take(), outlet: Arc::clone(&outlet) };
        if inbox.send((self.id, SessionEvent::Up(Box::new(established)))).is_err() {
            return;
        }
        let ended = self.run_established(&outlet, &mut frames, &mut ending);
        outlet.close();
        let reason = ended.unwrap_or_else(|error| {
            limited_log!(LogLimit::debug(), debug, { peer:% = peer.short(), addr:% = remote, reason:% = error },
                "connection broke; session closed");
            DisconnectReason::Closed
        });
        ending.report(SessionEvent::Down(reason));
    }

    /// Reports that the session did not come up. `remote` is the address of an accepted connection.
    fn report_failure(&self, ending: &mut Ending<'_>, remote: Option<SocketAddr>, failure: Failure) {
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
    }
}
