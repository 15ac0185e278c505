//! The events that a session sends to the coordinator.

use std::sync::Arc;
use std::time::Instant;

use super::outlet::Shared;
use super::session_handle::SessionHandle;
use crate::mesh::{DialError, DisconnectReason, SessionId, SessionUp};
use crate::wire::Message;

/// An event of a session. The session blocks while the coordinator's inbox is full; TCP then slows the peer down.
#[derive(Debug)]
pub(crate) enum SessionEvent {
    /// The session is authenticated, and both sides have sent their Hello.
    Up(Box<Established>),
    /// A message, and the time at which it arrived.
    Received(Message, Instant),
    /// All frames that had arrived at the request to drain have been delivered.
    Drained,
    /// The session was up and has ended; no event follows.
    Down(DisconnectReason),
    /// The dial ended without a session; no event follows.
    DialFailed(DialError),
}

/// A session that has come up, with its sending side.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) up: SessionUp,
    /// For an accepted session; the coordinator already has the handle of a dialled one.
    pub(crate) handle: Option<SessionHandle>,
    pub(crate) outlet: Arc<Shared>,
}

/// A [`Routine`](crate::mesh::Routine) message that arrived.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) session: SessionId,
    pub(crate) message: Message,
    pub(crate) arrived: Instant,
}
