//! Standing: strangers, whose keys are free, take no place of peers that were members for a minute.

use p2p_gossip::internals::mesh::{DisconnectReason, Output, Report, SessionId};
use p2p_gossip::internals::wire::ByeReason;
use p2p_gossip::{Config, ConnectAddr, DownReason, Event};

use super::{MINUTE, SECOND, closes_with};
use crate::sim::mesh_harness::{MeshHarness, addr, closes, dials_to, events_of, id, known};

/// Lets this many seconds pass, with a heartbeat of the session in each.
fn stay(node: &mut MeshHarness, session: SessionId, seconds: u32) {
    for _ in 0..seconds {
        node.wait(SECOND);
        node.heartbeat(session, 0);
    }
}

/// A node on which at most three peers may be connected, and which are strangers 4, 5 and 6. Peer 3 was a member for
/// this many seconds.
fn full_node(seconds: u32) -> MeshHarness {
    let mut node = MeshHarness::new(&[]);
    node.mesh.set_connected_max(3);
    let session = node.meets(3);
    stay(&mut node, session, seconds);
    node.down(session, DisconnectReason::Closed);
    for n in [5, 4, 6] {
        node.meets(n);
    }
    assert_eq!(node.mesh.members(), 4);
    node
}

#[test]
fn acquainted_peer_takes_the_place_of_the_newest_stranger() {
    let mut node = full_node(61);
    let session = SessionId::accepted(1);
    let outputs = node.up(session, id(3), 1);
    assert!(closes_with(&outputs, SessionId::accepted(1006), ByeReason::Full), "{outputs:?}");
    assert!(outputs.contains(&Output::Report(Report::Displaced { peer: id(6) })));
    let events = events_of(&outputs);
    assert!(
        matches!(events[..], [Event::Down { peer: gone, reason: DownReason::Displaced, .. }, Event::Up { peer, .. }]
            if gone == id(6) && peer == id(3)),
        "{events:?}"
    );
    assert_eq!(node.mesh.members(), 4);
    // The stranger gets time to find its place elsewhere.
    assert_eq!(dials_to(&node.wait_with_dials_open(MINUTE / 2), id(6)), 0);
}

#[test]
fn stranger_takes_no_place_of_another() {
    let mut node = full_node(50);
    let session = SessionId::accepted(1);
    assert!(closes_with(&node.up(session, id(3), 1), session, ByeReason::Full));
    assert!(closes_with(&node.up(SessionId::accepted(2), id(7), 1), SessionId::accepted(2), ByeReason::Full));
    assert_eq!(node.mesh.members(), 4);
}

#[test]
fn peer_of_a_previous_run_and_pinned_peer_are_no_strangers() {
    let pinned: ConnectAddr = format!("{}@{}", id(8), addr(8)).parse().unwrap();
    let mut node = MeshHarness::with(Config::default().connect([pinned]));
    node.mesh.set_connected_max(3);
    node.restore(vec![known(3)]);
    for n in [5, 4, 6] {
        node.meets(n);
    }
    for (n, newcomer) in [(1, 3), (2, 8)] {
        let session = SessionId::accepted(n);
        assert!(!closes(&node.up(session, id(newcomer), 1), session), "{newcomer}");
    }
    // Only one stranger is left. It gives way to no other stranger, and a second session needs no other place.
    assert_eq!(node.mesh.open_sessions(&id(5)).len(), 1);
    let late = SessionId::accepted(9);
    assert!(closes_with(&node.up(late, id(7), 1), late, ByeReason::Full));
    node.up(SessionId::accepted(3), id(3), 1);
    assert_eq!(node.mesh.members(), 4);
}

#[test]
fn acquainted_peers_do_not_displace_each_other() {
    let mut node = MeshHarness::new(&[]);
    node.mesh.set_connected_max(1);
    node.restore(vec![known(3), known(4)]);
    node.meets(3);
    let session = SessionId::accepted(1);
    assert!(closes_with(&node.up(session, id(4), 1), session, ByeReason::Full));
}

#[test]
fn full_table_forgets_dead_strangers_before_acquainted_peers() {
    let mut node = MeshHarness::with(Config::default().peers_max(3));
    let session = node.meets(3);
    stay(&mut node, session, 61);
    node.down(session, DisconnectReason::Closed);
    for n in 20..40 {
        let session = node.meets(n);
        node.down(session, DisconnectReason::Closed);
    }
    assert!(node.info(id(3)).is_some());
    assert_eq!(node.mesh.known_peers().len(), 3);
}

#[test]
fn peer_is_acquainted_after_a_minute_in_all_and_a_trusted_one_at_once() {
    let pinned: ConnectAddr = format!("{}@{}", id(8), addr(8)).parse().unwrap();
    let mut node = MeshHarness::with(Config::default().connect([pinned]));
    node.restore(vec![known(4)]);
    let is_acquainted = |node: &MeshHarness, n: u8| node.mesh.is_acquainted(node.now(), &id(n));
    for n in [4, 8] {
        node.meets(n);
        assert!(is_acquainted(&node, n), "{n}");
    }
    for _ in 0..2 {
        let session = node.meets(3);
        assert!(!is_acquainted(&node, 3));
        stay(&mut node, session, 31);
        node.down(session, DisconnectReason::Closed);
    }
    assert!(is_acquainted(&node, 3) && !is_acquainted(&node, 5));
}
