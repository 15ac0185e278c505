//! What a session's thread puts into the coordinator's inbox, and the report of the session's end.
//!
//! Invariant: the end of a session, or of a dial, is reported exactly once, also if the thread panics.

use super::session_event::SessionEvent;
use super::session_handle::SessionHandle;
use crate::mesh::{DialError, SessionId};
use crate::util::sync::Sender;

/// An event in the coordinator's inbox.
#[derive(Debug)]
pub(crate) struct FromSession {
    pub(crate) session: SessionId,
    pub(crate) event: SessionEvent,
    /// The handle of an accepted session that has come up. The coordinator already has that of a dialled one.
    pub(crate) handle: Option<SessionHandle>,
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
    /// The end of a session that has just started. The coordinator knows of those that it ordered already.
    pub(super) fn new(inbox: Sender<FromSession>, session: SessionId) -> Self {
        let ended = DialError::Failed("the session's thread panicked or did not start".to_owned());
        let event = (!session.is_accepted()).then_some(SessionEvent::DialFailed(ended));
        Self { inbox, session, event }
    }

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
