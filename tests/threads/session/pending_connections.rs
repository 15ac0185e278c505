//! Pending connections: each is completed or evicted, and an evicted one is woken.

use std::sync::Arc;

use super::pending::{PendingConnections, PendingGuard};
use super::wait_for_eviction;
use crate::mesh::SessionId;
use crate::net::waker::Waker;
use crate::util::sync::thread;

fn add(connections: &Arc<PendingConnections>, n: u64) -> (PendingGuard, Arc<Waker>) {
    let waker = Arc::new(Waker::new().unwrap());
    let source = ([192, 0, 2, 1], 1).into();
    (connections.add(SessionId::accepted(n), source, &waker), waker)
}

/// The table has room for one connection: the second evicts the first, and the node's end evicts the second.
pub(super) fn evicted() {
    let connections = Arc::new(PendingConnections::default());
    let sessions = [1, 2].map(|n| {
        let (pending, waker) = add(&connections, n);
        thread::spawn(move || wait_for_eviction(&pending, &waker))
    });
    connections.evict_all();
    sessions.into_iter().for_each(|session| session.join().unwrap());
}

/// The first connection completes its handshake while the second one may evict it.
pub(super) fn completed_or_evicted() {
    let connections = Arc::new(PendingConnections::default());
    let (first, waker) = add(&connections, 1);
    let session = thread::spawn(move || first.complete());
    let (second, _) = add(&connections, 2);
    let is_completed = session.join().unwrap();
    // An eviction wakes the session.
    assert_ne!(is_completed, waker.fd().is_readable());
    assert!(!second.is_evicted());
    drop(second);
    assert_eq!(connections.evict_some(), 0, "a place is still taken");
}
