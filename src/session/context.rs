//! The state that all sessions of a node share.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(test)]
use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;

use super::counters::Counters;
use super::hello::HelloExchange;
use super::lookups::Lookups;
use super::places::Places;
use super::report::FromSession;
use crate::limits::SESSION_STACK_BYTES;
use crate::mesh::Vitals;
use crate::net::interfaces::Interfaces;
use crate::net::local_ip::LocalIp;
#[cfg(test)]
use crate::trust::access::Access;
#[cfg(test)]
use crate::trust::identity::Identity;
use crate::trust::network_key::NetworkKey;
use crate::trust::peer_id::PeerId;
use crate::trust::tls::Tls;
use crate::util::thread_cache::ThreadCache;
#[cfg(test)]
use crate::wire::Hello;

/// The state that all sessions of a node share.
#[derive(Debug)]
pub(crate) struct Context {
    /// This node's id.
    pub(crate) id: PeerId,
    pub(crate) tls: Tls,
    pub(crate) hello_exchange: SharedHelloExchange,
    pub(crate) lookups: Lookups,
    pub(crate) places: Arc<Places>,
    pub(crate) interfaces: Interfaces,
    /// Source address of dials, if the node listens on one address only.
    pub(crate) source: Option<LocalIp>,
    pub(crate) inbox: Sender<FromSession>,
    /// This node's vitals, which the coordinator sets and the sessions send.
    pub(crate) vitals: SharedVitals,
    /// What sessions tell the coordinator of the load of this machine.
    pub(crate) session_delay: SessionDelay,
    pub(crate) counters: Arc<Counters>,
    /// The threads on which sessions connect, accept and shake hands.
    pub(crate) handshakes: ThreadCache,
}

/// The threads for handshakes of one node.
pub(crate) fn handshake_threads() -> ThreadCache {
    ThreadCache::new("handshake", SESSION_STACK_BYTES)
}

/// The Hello exchange of new sessions. The coordinator replaces it when the network's key changes.
#[derive(Debug)]
pub(crate) struct SharedHelloExchange(Mutex<Arc<HelloExchange>>);

impl SharedHelloExchange {
    pub(crate) fn new(exchange: HelloExchange) -> Self {
        Self(Mutex::new(Arc::new(exchange)))
    }

    /// The exchange for a session that begins now.
    pub(crate) fn get(&self) -> Arc<HelloExchange> {
        Arc::clone(&self.lock())
    }

    /// Sessions that begin from now on accept these keys; the first is current.
    pub(crate) fn set_keys(&self, keys: Vec<NetworkKey>) {
        let mut exchange = self.lock();
        *exchange = Arc::new(exchange.with_keys(keys));
    }

    fn lock(&self) -> MutexGuard<'_, Arc<HelloExchange>> {
        // A panic of another thread leaves a whole exchange behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Vitals that one thread sets and others read. A reader may get a new and an old part; the next heartbeat mends that.
#[derive(Debug, Default)]
pub(crate) struct SharedVitals {
    digest: AtomicU64,
    interval_ms: AtomicU32,
}

impl SharedVitals {
    pub(crate) fn set(&self, vitals: Vitals) {
        self.digest.store(vitals.digest, Ordering::Relaxed);
        self.interval_ms.store(vitals.interval_ms, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> Vitals {
        let digest = self.digest.load(Ordering::Relaxed);
        Vitals { digest, interval_ms: self.interval_ms.load(Ordering::Relaxed) }
    }
}

/// How long a session's thread took to start or to see a request, by which the coordinator judges the load. Only the
/// last one counts.
#[derive(Debug, Default)]
pub(crate) struct SessionDelay {
    nanos: AtomicU64,
}

impl SessionDelay {
    pub(super) fn note(&self, delay: Duration) {
        self.nanos.store(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The last delay; zero if there was none since the last call.
    pub(crate) fn take(&self) -> Duration {
        Duration::from_nanos(self.nanos.swap(0, Ordering::Relaxed))
    }
}

/// A context for tests, with the receiver of its sessions' events.
#[cfg(test)]
pub(crate) fn context(identity: &Identity) -> (Arc<Context>, Receiver<FromSession>) {
    let (inbox, events) = crossbeam_channel::bounded(1);
    let context = Context {
        id: identity.id(),
        tls: Tls::new(identity, Access::default()).unwrap(),
        hello_exchange: SharedHelloExchange::new(HelloExchange::new(Hello::plain(), Vec::new())),
        lookups: Lookups::new(crate::test_now()),
        places: Places::new(usize::MAX),
        interfaces: Interfaces::default(),
        source: None,
        inbox,
        vitals: SharedVitals::default(),
        session_delay: SessionDelay::default(),
        counters: Arc::default(),
        handshakes: handshake_threads(),
    };
    (Arc::new(context), events)
}
