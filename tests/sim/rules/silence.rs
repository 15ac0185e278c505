//! Unread messages at the time a peer's timeout ends.

use p2p_gossip::internals::limits::TIMEOUT;
use p2p_gossip::internals::mesh::{Input, SessionId};
use p2p_gossip::{DownReason, Event};

use super::SECOND;
use crate::sim::mesh_harness::{MeshHarness, closes, drains, events_of, id};

/// A node whose peer has reached its timeout, and the session that the node has asked to drain.
fn silent_for_its_timeout() -> (MeshHarness, SessionId) {
    let mut node = MeshHarness::new(&[]);
    let session = SessionId::accepted(1);
    node.up(session, id(3), 1);
    node.heartbeat(session, node.mesh.digest());
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

/// Found by seed 149911.
#[test]
fn leaving_node_says_goodbye_once_despite_a_late_drain() {
    let (mut node, session) = silent_for_its_timeout();
    assert!(closes(&node.handle(Input::Leave), session));
    let heard = node.now() - 2 * TIMEOUT;
    assert!(node.handle(Input::Drained { session, heard }).is_empty());
}
