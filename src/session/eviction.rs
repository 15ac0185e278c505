//! Ends a session from another thread, because others need what it holds.

use std::sync::Arc;

use super::session_limits::Surplus;
use crate::net::waker::Waker;
use crate::util::sync::OnceLock;

/// Tells a session's thread to end at once.
#[derive(Debug)]
pub(crate) struct Eviction {
    waker: Arc<Waker>,
    why: OnceLock<Evicted>,
}

/// Why a session must end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evicted {
    /// Newer connections need the place of its unfinished handshake.
    Pending,
    /// It was up.
    Surplus(Surplus),
}

impl Eviction {
    /// For the session whose thread this waker wakes.
    pub(crate) fn new(waker: &Arc<Waker>) -> Arc<Self> {
        Arc::new(Self { waker: Arc::clone(waker), why: OnceLock::new() })
    }

    /// Ends the session. The first reason counts.
    pub(super) fn evict(&self, why: Evicted) {
        let _ = self.why.set(why);
        self.waker.wake();
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.why.get().is_some()
    }

    /// Why the session must end, if it must.
    pub(super) fn why(&self) -> Option<Evicted> {
        self.why.get().copied()
    }
}
