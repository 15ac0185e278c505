//! Pending connections: each is completed or evicted, and an evicted one is woken.

use std::sync::Arc;

use super::eviction::Eviction;
use super::pending::{PendingConnections, PendingGuard};
use super::wait_for_eviction;
use crate::mesh::SessionId;
use crate::net::waker::Waker;
use crate::util::sync::thread;

struct Connection {
    pending: PendingGuard,
    eviction: Arc<Eviction>,
    waker: Arc<Waker>,
}

fn add(connections: &Arc<PendingConnections>, n: u64) -> Connection {
    let waker = Arc::new(Waker::new().unwrap());
    let eviction = Eviction::new(&waker);
    let pending = connections.add(SessionId::accepted(n), ([192, 0, 2, 1], 1).into(), &eviction);
    Connection { pending, eviction, waker }
}

/// The table has room for one connection: the second evicts the first, and the node's end evicts the second.
pub(super) fn evicted() {
    let connections = PendingConnections::new(1);
    let sessions = [1, 2].map(|n| {
        let Connection { pending, eviction, waker } = add(&connections, n);
        thread::spawn(move || {
            wait_for_eviction(&eviction, &waker);
            drop(pending);
        })
    });
    connections.evict_all();
    sessions.into_iter().for_each(|session| session.join().unwrap());
}

/// The first connection completes its handshake while the second one may evict it.
pub(super) fn completed_or_evicted() {
    let connections = PendingConnections::new(1);
    let Connection { pending, eviction, .. } = add(&connections, 1);
    let session = thread::spawn(move || pending.complete());
    let second = add(&connections, 2);
    let is_completed = session.join().unwrap();
    assert_ne!(is_completed, eviction.is_evicted());
    assert!(!second.eviction.is_evicted());
    drop(second.pending);
    assert_eq!(connections.evict_some(), 0, "a place is still taken");
}
