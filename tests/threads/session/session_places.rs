//! The places of sessions that are up: a session without one is woken to end, and a place that is free can be taken.

use std::sync::Arc;

use super::eviction::Eviction;
use super::places::{Place, Places};
use super::wait_for_eviction;
use crate::mesh::SessionId;
use crate::net::waker::Waker;
use crate::trust::peer_id::PeerId;
use crate::util::sync::thread;

/// A session that takes a place, its eviction and its waker.
fn take(places: &Arc<Places>, n: u64, key: u8) -> (Option<Place>, Arc<Eviction>, Arc<Waker>) {
    let waker = Arc::new(Waker::new().unwrap());
    let eviction = Eviction::new(&waker);
    let place = places.take(SessionId::accepted(n), PeerId::from_bytes([key; 32]), &eviction);
    (place, eviction, waker)
}

/// One key has both places. The session of another key takes the place of the older.
pub(super) fn surplus() {
    let places = Places::new(2);
    let (first, eviction, waker) = take(&places, 1, 1);
    let first = thread::spawn(move || {
        wait_for_eviction(&eviction, &waker);
        drop(first);
    });
    let (second, ..) = take(&places, 2, 1);
    let (third, ..) = take(&places, 3, 2);
    assert!(second.is_some() && third.is_some());
    first.join().unwrap();
    drop(second);
    assert!(take(&places, 4, 3).0.is_some());
}

/// The sessions of two keys come up at the same moment, and there is one place.
pub(super) fn last_place() {
    let places = Places::new(1);
    let theirs = Arc::clone(&places);
    let other = thread::spawn(move || take(&theirs, 1, 1).0);
    let (place, ..) = take(&places, 2, 2);
    let other = other.join().unwrap();
    assert_ne!(place.is_some(), other.is_some());
    drop((place, other));
    assert!(take(&places, 3, 3).0.is_some());
}
