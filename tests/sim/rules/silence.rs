//! Unread messages at the time a peer's timeout ends.

use p2p_gossip::internals::limits::{HEARTBEAT, TIMEOUT};
use p2p_gossip::internals::mesh::{Input, SessionId};
use p2p_gossip::internals::wire::Message;
use p2p_gossip::{DownReason, Event};

use super::SECOND;
use crate::sim::mesh_harness::{MeshHarness, closes, drains, events_of, id};

/// A node whose peer has reached its timeout, and the session that the node has asked to drain.
fn silent_for_its_timeout() -> (MeshHarness, SessionId) {
    let mut node = MeshHarness::new(&[]);
    let session = SessionId::accepted(1);
    node.up(session, id(3), 1);
    assert!(!drains(&node.wait(TIMEOUT - SECOND / 10), session));
    assert!(drains(&node.wait(SECOND / 5), session));
    (node, session)
}

#[test]
fn silent_peer_is_dead_once_its_session_is_drained() {
    let (mut node, session) = silent_for_its_timeout();
    let outputs = node.handle(Input::Drained { session });
    let events = events_of(&outputs);
    assert!(matches!(events[..], [Event::Down { reason: DownReason::Timeout, .. }]), "{events:?}");
    assert!(closes(&outputs, session));
}

#[test]
fn unread_heartbeat_keeps_its_sender_alive() {
    let (mut node, session) = silent_for_its_timeout();
    let message = Message::Heartbeat { seq: 1, echo: None, digest: 0 };
    node.receives(session, message);
    assert!(events_of(&node.handle(Input::Drained { session })).is_empty());
    assert!(events_of(&node.wait(TIMEOUT - SECOND / 10)).is_empty());
}

#[test]
fn undrained_session_gets_one_heartbeat_of_time() {
    let (mut node, _) = silent_for_its_timeout();
    assert!(events_of(&node.wait(HEARTBEAT * 4 / 5)).is_empty());
    let events = events_of(&node.wait(HEARTBEAT / 5));
    assert!(matches!(events[..], [Event::Down { reason: DownReason::Timeout, .. }]), "{events:?}");
}

/// Found by seed 149911.
#[test]
fn leaving_node_says_goodbye_once_despite_a_late_drain() {
    let (mut node, session) = silent_for_its_timeout();
    assert!(closes(&node.handle(Input::Leave), session));
    assert!(node.handle(Input::Drained { session }).is_empty());
}
