//! The sessions that came up and have not ended, also those on which this node said goodbye.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::io::SessionId;
use crate::trust::peer_id::PeerId;

/// Sessions kept with one peer until the arbiter has chosen. Two dials can cross; only a peer that breaks
/// the rules opens more sessions.
pub const SESSIONS_PER_PEER_MAX: usize = 4;

/// A session that came up and has not ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) peer: PeerId,
    pub(super) remote: SocketAddr,
    /// The address of this end; `None` inside a circuit.
    pub(super) local: Option<SocketAddr>,
    /// This node said goodbye on it: pings and broadcasts that still arrive count, and this node sends nothing more.
    pub(super) closing: bool,
}

/// Sessions by name.
#[derive(Debug, Default)]
pub(super) struct SessionTable {
    sessions: BTreeMap<SessionId, Session>,
}

impl SessionTable {
    /// A session came up.
    pub(super) fn insert(&mut self, id: SessionId, session: Session) {
        let old = self.sessions.insert(id, session);
        debug_assert!(old.is_none(), "session {id} came up twice");
    }

    /// A session ended.
    pub(super) fn remove(&mut self, id: SessionId) -> Option<Session> {
        self.sessions.remove(&id)
    }

    pub(super) fn get(&self, id: SessionId) -> Option<Session> {
        self.sessions.get(&id).copied()
    }

    /// The same, unless this node has said goodbye on it.
    pub(super) fn get_open(&self, id: SessionId) -> Option<Session> {
        self.get(id).filter(|session| !session.closing)
    }

    /// Notes that this node says goodbye on a session, if it came up.
    pub(super) fn close(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.closing = true;
        }
    }

    /// The sessions on which this node has not said goodbye.
    pub(super) fn open(&self) -> impl Iterator<Item = (SessionId, Session)> {
        self.sessions.iter().filter(|(_, session)| !session.closing).map(|(id, session)| (*id, *session))
    }
}
