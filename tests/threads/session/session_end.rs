//! The end of each session is reported once, and no thread waits for a coordinator that has ended.

use super::report::{Ending, FromSession};
use super::session_event::SessionEvent;
use crate::mesh::{DisconnectReason, SessionId};
use crate::util::sync::{Receiver, Sender, bounded, thread};

/// A session that comes up and ends with a report, or without one, as after a panic.
fn session(inbox: Sender<FromSession>, id: SessionId, reports: bool) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut ending = Ending::new(inbox, id);
        ending.event = Some(SessionEvent::Down(DisconnectReason::Closed));
        if reports {
            ending.report(SessionEvent::Down(DisconnectReason::Slow));
        }
    })
}

/// Two sessions share an inbox with room for one event.
fn two_sessions() -> (Receiver<FromSession>, [thread::JoinHandle<()>; 2]) {
    let (inbox, events) = bounded(1);
    let sessions =
        [session(inbox.clone(), SessionId::accepted(1), true), session(inbox, SessionId::accepted(2), false)];
    (events, sessions)
}

pub(super) fn reported_once() {
    let (events, sessions) = two_sessions();
    let mut ended: Vec<u64> = Vec::new();
    while let Ok(FromSession { session, event, .. }) = events.recv() {
        assert!(event.is_end());
        ended.push(if session == SessionId::accepted(1) { 1 } else { 2 });
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 2]);
    sessions.into_iter().for_each(|session| session.join().unwrap());
}

pub(super) fn without_a_coordinator() {
    let (events, sessions) = two_sessions();
    assert!(events.recv().is_ok());
    drop(events);
    sessions.into_iter().for_each(|session| session.join().unwrap());
}
