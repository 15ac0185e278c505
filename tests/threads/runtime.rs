//! Subscribers, the listener and the end of a thread, and their checks.

use std::sync::Arc;
use std::time::Instant;

#[path = "../../src/runtime/command.rs"]
pub(crate) mod command;
#[path = "../../src/runtime/listener.rs"]
mod listener;
#[path = "../../src/runtime/subscribers.rs"]
pub(crate) mod subscribers;

pub(crate) mod history {
    pub(crate) use p2p_gossip::{HistoryEntry, PeerHistory};
}

pub(crate) mod status {
    pub(crate) use p2p_gossip::Status;
}

use listener::Listener;
use p2p_gossip::PeerId;
use p2p_gossip::internals::sample;
use subscribers::{Subscribers, subscription};

use crate::Check;
use crate::event::Event;
use crate::net::listen::{ListenSocket, System};
use crate::session::Context;
use crate::util::sync::{AtomicBool, Ordering, thread};
use crate::util::worker::Worker;

pub(crate) const CHECKS: &[Check] = &[
    ("subscriber_gets_each_event_that_is_not_counted_as_dropped", each_event_is_read_or_counted),
    ("end_of_a_thread_is_seen_after_its_work", end_of_a_thread),
    ("listener_stops_and_ends_pending_connections", || listener_stops(System::Shutdown)),
    ("listener_stops_where_a_connection_ends_its_accept", || listener_stops(System::Connection)),
];

fn left(members: usize) -> Event {
    sample::left(PeerId::from_bytes([7; 32]), "", "192.0.2.1:1".parse().unwrap(), members)
}

/// The queue has room for two events, and the last event always has room.
fn each_event_is_read_or_counted() {
    let (subscriber, events) = subscription();
    let reader = thread::spawn(move || {
        let seen: Vec<Event> = events.iter().collect();
        (seen, events.dropped())
    });
    let mut subscribers = Subscribers::default();
    subscribers.add(subscriber);
    (1..=3).for_each(|n| subscribers.publish(&left(n), true));
    subscribers.publish(&Event::Stopped, false);
    drop(subscribers);
    let (mut seen, dropped) = reader.join().unwrap();
    assert_eq!(seen.pop(), Some(Event::Stopped));
    assert_eq!(seen.len() as u64 + dropped, 3);
    assert!(dropped <= 1 && seen[..2] == [left(1), left(2)], "{seen:?}");
}

fn end_of_a_thread() {
    let is_done = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&is_done);
    let worker = Worker::spawn("work", move || theirs.store(true, Ordering::Relaxed)).unwrap();
    assert!(worker.ended().recv().is_err() && is_done.load(Ordering::Relaxed));
    assert!(worker.join_until(Instant::now()));
}

/// One connection waits to be accepted, and its peer stays silent. The session's thread must end, or loom finds a
/// deadlock.
fn listener_stops(system: System) {
    let context = Arc::new(Context::default());
    let mut listener = Listener::start(ListenSocket::new(system, 1), Arc::clone(&context), 1, 2).unwrap();
    listener.stop();
    assert!(Arc::into_inner(context).is_some(), "the listener's thread has not ended");
}
