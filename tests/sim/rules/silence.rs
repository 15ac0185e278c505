//! Unread messages at the time a peer's timeout ends.

use p2p_gossip::internals::limits::TIMEOUT;
use p2p_gossip::internals::mesh::{DisconnectReason, Input, SessionId};
use p2p_gossip::internals::wire::{ByeReason, Message};
use p2p_gossip::{DownReason, Event};

use super::SECOND;
use crate::sim::mesh_harness::{MeshHarness, closes, drains, events_of, id};

/// A node whose peer has reached its timeout, and the session that the node has asked to drain.
fn silent_for_its_timeout() -> (MeshHarness, SessionId) {
    let mut node = MeshHarness::new(&[]);
    let session = SessionId::accepted(1);
    node.up(session, id(3), 1);
    // Half of the timeout is enough for a suspicion.
    assert!(drains(&node.wait(TIMEOUT - SECOND), session));
    node.answers_drains = false;
    assert!(!drains(&node.wait(SECOND - SECOND / 50), session));
    assert!(drains(&node.wait(SECOND / 25), session));
    (node, session)
}

#[test]
fn silent_peer_is_dead_once_its_session_is_drained() {
    let (mut node, session) = silent_for_its_timeout();
    let heard = node.now() - 2 * TIMEOUT;
    let outputs = node.handle(Input::Drained { session, heard });
    let events = events_of(&outputs);
    assert!(matches!(events[..], [Event::Down { reason: DownReason::Timeout, .. }]), "{events:?}");
    assert!(closes(&outputs, session));
}

#[test]
fn unread_heartbeat_keeps_its_sender_alive() {
    let (mut node, session) = silent_for_its_timeout();
    let heard = node.now() - SECOND;
    assert!(events_of(&node.handle(Input::Drained { session, heard })).is_empty());
    node.answers_drains = true;
    assert!(events_of(&node.wait(TIMEOUT - SECOND * 11 / 10)).is_empty());
    assert_eq!(events_of(&node.wait(SECOND / 5)).len(), 1);
}

/// The session's thread may be waiting for a processor, so the peer lives until its timeout has passed once more.
#[test]
fn session_that_does_not_answer_gets_the_timeout_once_more() {
    let (mut node, _) = silent_for_its_timeout();
    assert!(events_of(&node.wait(TIMEOUT * 9 / 10)).is_empty());
    let events = events_of(&node.wait(TIMEOUT / 5));
    assert!(matches!(events[..], [Event::Down { reason: DownReason::Timeout, .. }]), "{events:?}");
}

/// A slow answer gives a silent peer more time, not one that was heard meanwhile.
#[test]
fn peer_that_a_slow_answer_shows_alive_is_looked_at_again_when_it_would_be_suspected() {
    let (mut node, session) = silent_for_its_timeout();
    node.wait(SECOND / 2);
    let heard = node.now() - SECOND / 10;
    node.handle(Input::Drained { session, heard });
    node.answers_drains = true;
    assert!(drains(&node.wait(TIMEOUT / 2 - SECOND / 20), session));
}

/// A question to a session that has ended gives the peer no more time.
#[test]
fn peer_whose_session_ended_before_it_answered_is_asked_for_on_another_one() {
    let mut node = MeshHarness::new(&[]);
    let (older, newest) = (SessionId::accepted(1), SessionId::accepted(2));
    node.up(older, id(3), 1);
    node.up(newest, id(3), 1);
    assert_eq!(node.mesh.open_sessions(&id(3)), [older, newest]);
    node.answers_drains = false;
    assert!(drains(&node.wait(TIMEOUT - SECOND / 2), newest));
    node.down(newest, DisconnectReason::Closed);
    node.answers_drains = true;
    let events = events_of(&node.wait(SECOND));
    assert!(matches!(events[..], [Event::Down { reason: DownReason::Timeout, .. }]), "{events:?}");
}

/// Found by seed 149911.
#[test]
fn leaving_node_says_goodbye_once_despite_a_late_drain() {
    let (mut node, session) = silent_for_its_timeout();
    assert!(closes(&node.handle(Input::Leave), session));
    let heard = node.now() - 2 * TIMEOUT;
    assert!(node.handle(Input::Drained { session, heard }).is_empty());
}

/// A session that this node has ended may be that of a process which it refused.
#[test]
fn ping_on_an_ended_session_is_shown_but_is_no_sign_of_life() {
    let mut node = MeshHarness::new(&[]);
    let (older, newest) = (SessionId::accepted(1), SessionId::accepted(2));
    node.up(older, id(12), 1);
    assert!(closes(&node.up(newest, id(12), 1), older));
    node.wait(TIMEOUT / 2);
    let events = events_of(&node.receives(older, Message::Ping { seq: 1, text: String::new() }));
    assert!(matches!(events[..], [Event::Ping { .. }]), "{events:?}");
    let events = events_of(&node.wait(TIMEOUT / 2 + SECOND / 50));
    assert!(matches!(events[..], [Event::Down { reason: DownReason::Timeout, .. }]), "{events:?}");
}

/// A peer that refused this node is a member once it sends something on a session that stays.
#[test]
fn ping_on_an_ended_session_of_a_peer_that_is_no_member_yet_is_not_shown() {
    let mut node = MeshHarness::new(&[]);
    let [refused, older, newest] = [1, 2, 3].map(SessionId::accepted);
    node.up(refused, id(12), 1);
    node.down(refused, DisconnectReason::Bye(ByeReason::Full));
    assert!(events_of(&node.up(older, id(12), 1)).is_empty());
    assert!(closes(&node.up(newest, id(12), 1), older));
    let ping = Message::Ping { seq: 1, text: String::new() };
    assert!(events_of(&node.receives(older, ping.clone())).is_empty());
    let events = events_of(&node.receives(newest, ping));
    assert!(matches!(events[..], [Event::Up { .. }, Event::Ping { .. }]), "{events:?}");
}
