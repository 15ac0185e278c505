//! The thread of one session, from its dial or accepted connection to the report of its end.
//!
//! Invariant: the thread reports the end of a session, or of a dial, exactly once, also when it panics.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::context::{Context, FromSession};
use super::established::Established;
use super::events::SessionEvent;
use super::failure::{Failure, log_refused};
use super::pending::PendingGuard;
use super::session_handle::{SessionEnd, SessionHandle, handle_and_end};
use crate::limits::SESSION_STACK_BYTES;
use crate::mesh::{DialError, DialSource, SessionId};
use crate::net::addr::{DialAddr, canonical};
use crate::net::waker::Waker;
use crate::trust::pin::Expected;
use crate::util::worker::spawn_detached;

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
    let (handle, end) = handle_and_end(Arc::new(Waker::new()?));
    let (context, origin) = (Arc::clone(context), Origin::Dial { addr, expected, source });
    spawn_detached(format!("dial-{id}"), SESSION_STACK_BYTES, move || {
        Session::new(context, id, end, None).run(origin);
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
    let (handle, end) = handle_and_end(waker);
    let context = Arc::clone(context);
    let origin = Origin::Accept { socket, remote: canonical(remote), pending };
    // Not joined: the system's resolver may block a thread for an unbounded time.
    spawn_detached(format!("accept-{id}"), SESSION_STACK_BYTES, move || {
        Session::new(context, id, end, Some(handle)).run(origin);
    })
}

/// What a session needs from its start to its end.
pub(super) struct Session {
    pub(super) context: Arc<Context>,
    pub(super) id: SessionId,
    pub(super) end: SessionEnd,
    /// The handle of an accepted session, until the event `Up` carries it to the coordinator.
    pub(super) handle: Option<SessionHandle>,
    pub(super) ending: Ending,
}

/// Reports the end of a session exactly once, at the latest when this is dropped.
pub(super) struct Ending {
    inbox: Sender<FromSession>,
    session: SessionId,
    /// The event that dropping this reports. `None` once the end has been reported, or if the coordinator
    /// does not know the session.
    pub(super) event: Option<SessionEvent>,
}

impl Ending {
    pub(super) fn report(&mut self, event: SessionEvent) {
        if self.event.is_some() {
            self.event = Some(event);
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        if let Some(event) = self.event.take() {
            // Fails only if the coordinator has ended.
            let _ = self.inbox.send(FromSession { session: self.session, event, handle: None });
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.deliver();
    }
}

impl Session {
    fn new(context: Arc<Context>, id: SessionId, end: SessionEnd, handle: Option<SessionHandle>) -> Self {
        let panicked = DialError::Failed("the session's thread panicked".to_owned());
        let event = id.is_dialled().then_some(SessionEvent::DialFailed(panicked));
        let ending = Ending { inbox: context.inbox.clone(), session: id, event };
        Self { context, id, end, handle, ending }
    }

    fn run(mut self, origin: Origin) {
        let remote = match &origin {
            Origin::Accept { remote, .. } => Some(*remote),
            Origin::Dial { .. } => None,
        };
        match self.secure(origin) {
            Ok(secured) => Established::new(self, secured).run(),
            Err(failure) => self.report_failure(remote, failure),
        }
    }

    /// Reports that the session did not come up. `remote` is the address of an accepted connection.
    pub(super) fn report_failure(&mut self, remote: Option<SocketAddr>, failure: Failure) {
        let counters = &self.context.counters;
        match remote {
            Some(remote) => {
                counters.handshakes_accepted_failed.one();
                log_refused(remote, &failure);
                self.ending.event = None;
            }
            None => {
                counters.handshakes_dialled_failed.one();
                self.ending.report(SessionEvent::DialFailed(failure.into_dial_error()));
            }
        }
    }
}
