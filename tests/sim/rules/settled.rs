//! The time at which a node counts as settled.

use p2p_gossip::internals::mesh::SessionId;

use super::SECOND;
use crate::sim::mesh_harness::{MeshHarness, addr, dialled, id, known};

#[test]
fn node_is_settled_after_trying_every_peer_it_heard_of() {
    let mut node = MeshHarness::new(&[addr(3)]);
    assert!(!node.is_settled(), "it has no peer yet");
    let session = node.first_dial();
    node.up(session, id(3), 3);
    node.wait(SECOND);
    assert!(!node.is_settled(), "the list has not arrived yet");
    node.list(session, [(id(4), addr(4))].into_iter());
    assert!(!node.is_settled(), "the list names a peer");
    node.wait(SECOND / 2);
    assert!(node.is_settled(), "no peer answers");
}

#[test]
fn lone_node_is_settled_only_without_known_peers() {
    assert!(MeshHarness::new(&[]).is_settled());
    let mut node = MeshHarness::remembering(vec![known(3)]);
    assert!(!node.is_settled(), "it dials a known peer");
    let (session, ..) = dialled(&node.wait_for_dial())[0];
    node.up(session, id(3), 3);
    node.list(session, std::iter::empty());
    node.wait(SECOND / 2);
    assert!(node.is_settled());
}

#[test]
fn endless_lists_do_not_prevent_settling() {
    let mut node = MeshHarness::new(&[addr(3)]);
    let session = node.first_dial();
    node.up(session, id(3), 3);
    // The list never arrives, and new members keep joining.
    for n in 10..250 {
        if node.is_settled() {
            return;
        }
        node.wait(SECOND / 10);
        node.up(SessionId::accepted(u64::from(n)), id(n), u64::from(n));
        node.heartbeat(session, 0);
    }
    panic!("the node never settles");
}
