//! The network's key: which peers are told of a change, and which may cause one.

use std::time::Duration;

use p2p_gossip::internals::mesh::{Input, KEY_GRACE_MIN, Output, Report, SessionId};
use p2p_gossip::internals::sample;
use p2p_gossip::internals::wire::Message;
use p2p_gossip::{KeyRing, NetworkKey};

use super::SECOND;
use crate::sim::mesh_harness::{MeshHarness, id};

const HOUR: Duration = Duration::from_secs(3600);

fn key(n: u8) -> NetworkKey {
    sample::network_key([n; 32])
}

/// A node of a closed network, whose peers 3 and 4 have proven the current key, and 5 none.
fn node() -> (MeshHarness, [SessionId; 3]) {
    let mut node = MeshHarness::new(&[]);
    node.mesh.set_key_ring(node.now(), KeyRing::new(key(1)));
    let peers = [(3, Some(key(1))), (4, Some(key(1))), (5, None)];
    let sessions = peers.map(|(n, proof)| node.meets_with_key(n, proof));
    (node, sessions)
}

/// The sessions on which these outputs tell a network key, with the key.
fn told(outputs: &[Output]) -> Vec<(SessionId, u64, NetworkKey)> {
    let told = outputs.iter().filter_map(|output| match output {
        Output::Send { session, message: Message::NetworkKey { generation, key, .. } } => {
            Some((*session, *generation, key.clone()))
        }
        _ => None,
    });
    told.collect()
}

fn stored(outputs: &[Output]) -> Option<&KeyRing> {
    let mut rings = outputs.iter().filter_map(|output| match output {
        Output::NetworkKeys(ring) => Some(ring),
        _ => None,
    });
    rings.next_back()
}

fn tells(generation: u64, n: u8) -> Message {
    Message::NetworkKey { generation, key: key(n), grace_s: 3600 }
}

#[test]
fn changed_key_is_told_to_peers_that_have_proven_one_and_stored() {
    let (mut node, [three, four, _]) = node();
    let outputs = node.handle(Input::RotateNetworkKey { key: key(2), grace: HOUR });
    assert_eq!(told(&outputs), [(three, 1, key(2)), (four, 1, key(2))]);
    let ring = stored(&outputs).expect("the keys are stored");
    assert_eq!(ring.keys().cloned().collect::<Vec<_>>(), [key(2), key(1)]);
    assert_eq!(node.mesh.network_key_status().map(|status| status.holders), Some(1));
    node.receives(three, Message::NetworkKeyHeld { generation: 1 });
    // An answer about another generation says nothing.
    node.receives(four, Message::NetworkKeyHeld { generation: 0 });
    assert_eq!(node.mesh.network_key_status().map(|status| status.holders), Some(2));
}

#[test]
fn key_that_a_member_tells_is_adopted_and_told_on() {
    let (mut node, [three, four, _]) = node();
    let outputs = node.receives(three, tells(1, 2));
    assert_eq!(told(&outputs), [(four, 1, key(2))]);
    assert!(
        outputs
            .contains(&Output::Send { session: three, message: Message::NetworkKeyHeld { generation: 1 } })
    );
    assert_eq!(stored(&outputs).map(|ring| ring.current().clone()), Some(key(2)));
    // The same key again only gets an answer.
    let outputs = node.receives(four, tells(1, 2));
    assert_eq!((told(&outputs).len(), stored(&outputs)), (0, None));
    assert_eq!(node.mesh.network_key_status().map(|status| status.holders), Some(3));
}

#[test]
fn stranger_without_a_key_changes_nothing() {
    let (mut node, [_, _, five]) = node();
    let outputs = node.receives(five, tells(1, 2));
    assert_eq!((told(&outputs).len(), stored(&outputs)), (0, None), "{outputs:?}");
    node.receives(five, Message::NetworkKeyHeld { generation: 0 });
    assert_eq!(
        node.mesh.network_key_status().map(|status| (status.generation, status.holders)),
        Some((0, 3))
    );
}

#[test]
fn peer_with_an_earlier_key_gets_the_current_one_when_it_comes_back() {
    let (mut node, _) = node();
    node.handle(Input::RotateNetworkKey { key: key(2), grace: HOUR });
    let late = node.meets_with_key_outputs(6, Some(key(1)));
    assert_eq!(told(&late), [(SessionId::accepted(1006), 1, key(2))]);
    // A peer that tells an earlier key has missed the change, too.
    let outputs = node.receives(SessionId::accepted(1006), tells(0, 1));
    assert_eq!(told(&outputs), [(SessionId::accepted(1006), 1, key(2))]);
    assert_eq!(told(&node.meets_with_key_outputs(7, Some(key(2)))), []);
}

#[test]
fn earlier_key_is_dropped_after_its_grace_of_connected_time() {
    let (mut node, sessions) = node();
    node.handle(Input::RotateNetworkKey { key: key(2), grace: Duration::ZERO });
    assert_eq!(node.mesh.network_key_status().map(|status| status.grace_left), Some(KEY_GRACE_MIN));
    let mut outputs = Vec::new();
    for _ in 0..KEY_GRACE_MIN.as_secs() + 1 {
        outputs = node.wait(SECOND);
        for session in sessions {
            node.heartbeat(session, 0);
        }
        if stored(&outputs).is_some() {
            break;
        }
    }
    let handed_out = outputs.iter().filter(|output| matches!(output, Output::NetworkKeys(_)));
    assert_eq!(handed_out.count(), 1, "the disk writes the keys once");
    assert_eq!(stored(&outputs).map(KeyRing::earlier_keys), Some(0));
    assert_eq!(node.mesh.network_key_status().map(|status| status.earlier_keys), Some(0));
}

#[test]
fn peers_cause_a_limited_number_of_changes() {
    let (mut node, [three, ..]) = node();
    let changes = (1..=100).filter(|&generation| {
        let n = u8::try_from(generation).unwrap_or(0);
        stored(&node.receives(three, tells(generation, n))).is_some()
    });
    assert_eq!(changes.count(), 8);
    // The peer tells its key again later.
    for _ in 0..30 {
        node.wait(SECOND);
        node.heartbeat(three, 0);
    }
    assert!(stored(&node.receives(three, tells(100, 100))).is_some());
}

#[test]
fn node_whose_key_is_in_a_file_reports_the_change_and_keeps_its_key() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets_with_key(3, Some(key(1)));
    let outputs = node.receives(session, tells(1, 2));
    assert!(outputs.contains(&Output::Report(Report::NetworkKeyOutdated { by: id(3) })), "{outputs:?}");
    assert_eq!(stored(&outputs), None);
}
