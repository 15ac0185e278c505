//! What a session's thread owns from its start to its end.

use std::net::SocketAddr;
use std::sync::Arc;

use super::context::Context;
use super::eviction::Eviction;
use super::failure::{Failure, log_refused};
use super::report::Ending;
use super::session_event::SessionEvent;
use super::session_handle::{SessionEnd, SessionHandle};
use crate::mesh::SessionId;

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

impl Session {
    pub(super) fn new(
        context: Arc<Context>,
        id: SessionId,
        end: SessionEnd,
        eviction: Arc<Eviction>,
        handle: Option<SessionHandle>,
    ) -> Self {
        context.session_delay.note(end.signals.age());
        let ending = Ending::new(context.inbox.clone(), id);
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
