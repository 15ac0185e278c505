//! What a session's thread owns from its start to its end, and the report of that end.
//!
//! Invariant: the end of a session, or of a dial, is reported exactly once, also if the thread panics.

use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::context::{Context, FromSession};
use super::eviction::Eviction;
use super::failure::{Failure, log_refused};
use super::session_event::SessionEvent;
use super::session_handle::{SessionEnd, SessionHandle};
use crate::mesh::{DialError, SessionId};

/// What a session needs from its start to its end.
pub(super) struct Session {
    pub(super) context: Arc<Context>,
    pub(super) id: SessionId,
    pub(super) end: SessionEnd,
    pub(super) eviction: Arc<Eviction>,
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
    pub(super) fn new(
        context: Arc<Context>,
        id: SessionId,
        end: SessionEnd,
        eviction: Arc<Eviction>,
        handle: Option<SessionHandle>,
    ) -> Self {
        let panicked = DialError::Failed("the session's thread panicked".to_owned());
        let event = id.is_dialled().then_some(SessionEvent::DialFailed(panicked));
        let ending = Ending { inbox: context.inbox.clone(), session: id, event };
        Self { context, id, end, eviction, handle, ending }
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
