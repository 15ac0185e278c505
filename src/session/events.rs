//! What a session tells the coordinator.

use std::sync::Arc;
use std::time::Instant;

use super::outlet::Shared;
use super::session_handle::SessionHandle;
use crate::mesh::{DialError, DisconnectReason, SessionId, SessionUp};
use crate::wire::Message;

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
