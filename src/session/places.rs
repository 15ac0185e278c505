//! The limits of a node's sessions, shared by their threads.

use std::sync::Arc;
use std::time::Instant;

use super::eviction::{Evicted, Eviction};
use super::key_rates::{KeyRates, TooManySessions};
use super::rate_limit::KeyRateLimit;
use super::session_limits::{SessionLimits, Surplus};
use crate::mesh::SessionId;
use crate::trust::peer_id::PeerId;
use crate::util::sync::{Mutex, MutexGuard, PoisonError};

/// The sessions of a node that are up or closing, and the rates of their keys.
#[derive(Debug)]
pub(crate) struct Places {
    limits: Mutex<SessionLimits<Arc<Eviction>>>,
    rates: Mutex<KeyRates>,
}

impl Places {
    /// Places for at most `sessions_max` sessions.
    pub(crate) fn new(sessions_max: usize) -> Arc<Self> {
        Arc::new(Self { limits: Mutex::new(SessionLimits::new(sessions_max)), rates: Mutex::default() })
    }

    /// Admits a session whose handshake is complete; see [`KeyRates::admit`].
    pub(super) fn admit(&self, session: SessionId, key: PeerId) -> Result<KeyRateLimit, TooManySessions> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.admit(Instant::now(), key, session.is_dialled())
    }

    /// Takes a place for a session that is up. Another session may be evicted. `None` if there is no place.
    pub(super) fn take(
        self: &Arc<Self>,
        session: SessionId,
        key: PeerId,
        eviction: &Arc<Eviction>,
    ) -> Option<Place> {
        let victim = self.lock().add(session, key, Arc::clone(eviction));
        evict(victim);
        let place = Place { places: Arc::clone(self), session, noted: (false, false) };
        (!eviction.is_evicted()).then_some(place)
    }

    fn lock(&self) -> MutexGuard<'_, SessionLimits<Arc<Eviction>>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn evict(victim: Option<(Arc<Eviction>, Surplus)>) {
    if let Some((victim, surplus)) = victim {
        victim.evict(Evicted::Surplus(surplus));
    }
}

/// The place of a session. Dropping this frees the place.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    session: SessionId,
    /// What the limits know: whether the session is closing, and whether it holds memory.
    noted: (bool, bool),
}

impl Place {
    /// Notes the state of the session before it waits; see [`SessionLimits::note`]. Another session may be evicted.
    pub(super) fn note(&mut self, is_closing: bool, holds_memory: bool) {
        let state = (is_closing, holds_memory);
        // Most rounds change nothing and need no lock.
        if std::mem::replace(&mut self.noted, state) != state {
            let victim = self.places.lock().note(self.session, is_closing, holds_memory);
            evict(victim);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.session);
    }
}
