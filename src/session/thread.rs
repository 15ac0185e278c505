//! Starts the threads of a session: first one of the node's handshake threads, then the session's own.
//!
//! A handshake touches 25 kB of stack more than the session, which would keep them as long as it lasts. So the handshake
//! threads do that for one session after the other.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use super::base::Session;
use super::connect::DialTarget;
use super::context::Context;
use super::established::Established;
use super::eviction::Eviction;
use super::handshake::{CircuitEnd, Origin};
use super::pending::PendingGuard;
use super::pipe::Wake;
use super::punch::PunchTarget;
use super::session_handle::{SessionHandle, handle_and_end};
use crate::limits::SESSION_STACK_BYTES;
use crate::mesh::SessionId;
use crate::net::addr::canonical;
use crate::net::waker::Waker;
use crate::util::log_limit::{LogLimit, limited_log};
use crate::util::worker::spawn_detached;

/// Starts a session that dials. If the session does not come up, its thread reports `DialFailed`.
///
/// # Errors
/// No thread or descriptor is left; the session reports nothing.
pub(crate) fn dial(context: &Arc<Context>, id: SessionId, target: DialTarget) -> io::Result<SessionHandle> {
    // Not joined: the system's resolver may block a thread for an unbounded time.
    start(context, id, Arc::new(Waker::new()?), Origin::Dial(target))
}

/// Starts a session inside a circuit, whose socket wakes this waker. If the session does not come up, its thread reports
/// `DialFailed`.
///
/// # Errors
/// No thread is left; the session reports nothing.
pub(crate) fn enter_circuit(
    context: &Arc<Context>,
    id: SessionId,
    circuit: CircuitEnd,
    waker: Arc<Waker>,
) -> io::Result<SessionHandle> {
    start(context, id, waker, Origin::Circuit(circuit))
}

/// Starts a session that connects through NATs at the same time as its peer. If it does not come up, its thread reports
/// `DialFailed`.
///
/// # Errors
/// As [`dial`].
pub(crate) fn punch(context: &Arc<Context>, id: SessionId, target: PunchTarget) -> io::Result<SessionHandle> {
    start(context, id, Arc::new(Waker::new()?), Origin::Punch(target))
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
    eviction: Arc<Eviction>,
) -> io::Result<()> {
    let (handle, end) = handle_and_end(waker);
    let origin = Origin::Accept { socket, remote: canonical(remote), pending };
    let own_context = Arc::clone(context);
    context.handshakes.run(move || {
        run(Session::new(own_context, id, end, eviction, Some(handle)), origin);
    })
}

/// Starts a session that the coordinator has ordered, and so gets its handle at once.
fn start(
    context: &Arc<Context>,
    id: SessionId,
    waker: Arc<Waker>,
    origin: Origin,
) -> io::Result<SessionHandle> {
    let eviction = Eviction::new(&waker);
    let (handle, end) = handle_and_end(waker);
    let own_context = Arc::clone(context);
    context.handshakes.run(move || {
        run(Session::new(own_context, id, end, eviction, None), origin);
    })?;
    Ok(handle)
}

impl Wake for Waker {
    fn wake(&self) {
        Self::wake(self);
    }
}

fn run(mut session: Session, origin: Origin) {
    let remote = match &origin {
        Origin::Accept { remote, .. } => Some(*remote),
        Origin::Dial(_) | Origin::Circuit(_) | Origin::Punch(_) => None,
    };
    let secured = session.secure(origin).and_then(|secured| {
        let frames = session.context.places.admit(session.id, secured.peer)?;
        if session.id.is_dialled()
            && let Some(local) = secured.link.share_port()
        {
            session.end.signals.set_local_addr(local);
        }
        Ok((secured, frames))
    });
    match secured {
        Ok((secured, frames)) => go_on_apart(Established::new(session, secured, frames)),
        Err(failure) => session.report_failure(remote, failure),
    }
}

/// Lets the session run on a thread of its own.
fn go_on_apart(established: Established) {
    let session = established.id();
    let started =
        spawn_detached(format!("session-{session}"), SESSION_STACK_BYTES, move || established.run());
    if let Err(error) = started {
        // What was the session has reported its end as it was dropped.
        limited_log!(LogLimit::new(), warn, { session:% = session, reason:% = error },
            "no thread for a session; it is closed");
    }
}
