//! What is left unread when a peer's silence is up.

use p2p_gossip::internals::limits::{HEARTBEAT, TIMEOUT};
use p2p_gossip::internals::mesh::{Input, SessionId};
use p2p_gossip::internals::wire::Message;
use p2p_gossip::{DownReason, Event};

use super::SECOND;
use crate::sim::mesh_harness::{MeshHarness, closes, id, probes, told};

/// A live peer whose silence is up, and the session that was asked for what may lie there unread.
fn silent_for_its_timeout() -> (MeshHarness, SessionId) {
    let mut node = MeshHarness::new(&[]);
    let session = SessionId::accepted(1);
    node.up(session, id(3), 1);
    assert!(!probes(&node.wait(TIMEOUT - SECOND / 10), session));
    assert!(probes(&node.wait(SECOND / 5), session));
    (node, session)
}

#[test]
fn silent_peer_is_dead_once_its_session_is_drained() {
    let (mut node, session) = silent_for_its_timeout();
    let outputs = node.tell(Input::Drained { session });
    let events = told(&outputs);
    assert!(matches!(events[..], [Event::Down { reason: DownReason::Timeout, .. }]), "{events:?}");
    assert!(closes(&outputs, session));
}

#[test]
fn unread_heartbeat_keeps_its_sender_alive() {
    let (mut node, session) = silent_for_its_timeout();
    let message = Message::Heartbeat { seq: 1, echo: None, digest: 0 };
    node.receives(session, message);
    assert!(told(&node.tell(Input::Drained { session })).is_empty());
    assert!(told(&node.wait(TIMEOUT - SECOND / 10)).is_empty());
}

#[test]
fn undrained_session_gets_one_heartbeat_of_time() {
    let (mut node, _) = silent_for_its_timeout();
    assert!(told(&node.wait(HEARTBEAT * 4 / 5)).is_empty());
    let events = told(&node.wait(HEARTBEAT / 5));
    assert!(matches!(events[..], [Event::Down { reason: DownReason::Timeout, .. }]), "{events:?}");
}

/// Found by seed 149911.
#[test]
fn leaving_node_says_goodbye_once_despite_a_late_drain() {
    let (mut node, session) = silent_for_its_timeout();
    assert!(closes(&node.tell(Input::Leave), session));
    assert!(node.tell(Input::Drained { session }).is_empty());
}
