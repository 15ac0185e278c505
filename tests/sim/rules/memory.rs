//! Peers known from an earlier life.

use std::time::Duration;

use p2p_gossip::internals::limits::FORGET_AFTER;
use p2p_gossip::internals::mesh::{DialError, DisconnectReason, Input, Output, Report, SessionId, UnixTime};
use p2p_gossip::internals::wire::{ByeReason, Message};
use p2p_gossip::{Config, PeerId};

use super::{MINUTE, SECOND, reported, says, with_heartbeats};
use crate::sim::mesh_harness::{
    MeshHarness, WALL, addr, asks_for_a_list, dialled, dials, dials_to, id, known,
};

#[test]
fn known_peer_keeps_its_first_seen_time() {
    let mut node = MeshHarness::remembering(vec![known(3), known(4)]);
    assert!(asks_for_a_list(&node.up(SessionId::accepted(1), id(3), 7)));
    node.list(SessionId::accepted(1), std::iter::empty());
    // Both sides were apart, so what the second says is asked for as well: a stranger's is not.
    assert!(asks_for_a_list(&node.up(SessionId::accepted(2), id(4), 7)));
    assert!(!asks_for_a_list(&node.up(SessionId::accepted(3), id(5), 7)));
    let memory = node.mesh.known_peers();
    assert_eq!(memory[0].first_seen, known(3).first_seen);
    assert_eq!((memory[0].last_seen, memory[2].first_seen), (WALL, WALL));
}

#[test]
fn peer_that_left_in_a_previous_run_is_dialled_once_it_is_listed() {
    let mut left = known(3);
    (left.left, left.missed) = (true, MINUTE);
    let mut node = MeshHarness::remembering(vec![left.clone()]);
    assert_eq!(dials(&node.wait(60 * SECOND)), 0);
    assert!(node.mesh.known_peers()[0].left);
    let mut node = MeshHarness::remembering(vec![left]);
    let session = SessionId::accepted(1);
    assert!(asks_for_a_list(&node.up(session, id(4), 1)));
    node.list(session, [(id(3), addr(3))].into_iter());
    assert!(dials(&node.wait(SECOND)) > 0);
}

#[test]
fn restored_peers_are_not_listed_before_they_are_proven() {
    let mut node = MeshHarness::remembering(vec![known(3), known(4)]);
    node.up(SessionId::accepted(1), id(3), 1);
    let session = SessionId::accepted(2);
    node.up(session, id(5), 1);
    let answer = node.receives(session, Message::PeersRequest);
    let told = answer.iter().find_map(|output| match output {
        Output::Send { message: Message::Peers { records, .. }, .. } => Some(records.clone()),
        _ => None,
    });
    let told = told.expect("an answer");
    assert_eq!(told.iter().map(|record| record.id).collect::<Vec<_>>(), [id(3)]);
}

fn ids(node: &MeshHarness) -> Vec<PeerId> {
    node.mesh.known_peers().iter().map(|peer| peer.id).collect()
}

/// As of now, of which the mesh learns with a turn.
fn missed(node: &mut MeshHarness, peer: PeerId) -> Option<Duration> {
    node.mesh.handle_timeout(node.now());
    node.mesh.known_peers().iter().find(|known| known.id == peer).map(|known| known.missed)
}

fn forgetting_after(forget_after: Duration) -> MeshHarness {
    MeshHarness::with(Config::default().forget_after(forget_after))
}

/// What the next process with the same state directory begins with.
fn restarted(node: &MeshHarness, wall: UnixTime) -> MeshHarness {
    let mut next = forgetting_after(100 * SECOND);
    next.recall_at(wall, node.mesh.known_peers());
    next
}

const DAY: u64 = 24 * 60 * 60;
/// Clocks on the wall that are wrong, or right after time off.
const WALLS: [UnixTime; 5] = [
    UnixTime(0),
    UnixTime(WALL.0 - 3 * DAY),
    UnixTime(WALL.0 + 3 * DAY),
    UnixTime(WALL.0 + 400 * DAY),
    UnixTime(u64::MAX),
];

#[test]
fn wrong_wall_clock_at_the_start_forgets_no_peer() {
    for wall in WALLS {
        for last_seen in WALLS {
            let mut node = MeshHarness::new(&[]);
            let mut seen = known(3);
            seen.last_seen = last_seen;
            node.recall_at(wall, vec![seen, known(4), known(9)]);
            let outputs = node.wait(3 * SECOND);
            assert_eq!(ids(&node), [id(3), id(4)], "{last_seen:?} at {wall:?}");
            let recalled = Report::Restored { peers: 2, forgotten: 0, surplus: 0 };
            assert!(reported(&outputs).contains(&&recalled), "{outputs:?}");
            assert!(dials_to(&outputs, id(3)) > 0 && dials_to(&outputs, id(4)) > 0, "{outputs:?}");
        }
    }
}

#[test]
fn strict_node_protects_restored_addresses_at_any_wall_clock() {
    for wall in WALLS {
        let mut node = MeshHarness::with(Config::default().strict(true));
        node.recall_at(wall, vec![known(3)]);
        let session = SessionId::accepted(1);
        let outputs = node.up_at(session, id(7), 1, addr(3));
        assert!(says(&outputs, session, ByeReason::AddressTaken), "{wall:?}: {outputs:?}");
    }
}

#[test]
fn wall_clock_jump_forgets_no_peer_and_keeps_times_in_order() {
    for wall in WALLS {
        let mut node = MeshHarness::remembering(vec![known(5)]);
        node.meets(3);
        node.mesh.set_wall_clock(wall);
        let seen = |node: &MeshHarness| {
            let known = node.mesh.known_peers();
            known.iter().map(|peer| (peer.first_seen, peer.last_seen)).collect::<Vec<_>>()
        };
        assert_eq!(seen(&node)[0], (WALL, wall.max(WALL)));
        let session = node.meets(4);
        node.down(session, DisconnectReason::Closed);
        node.meets(5);
        node.wait(60 * SECOND);
        assert_eq!(ids(&node), [id(3), id(4), id(5)]);
        assert!(seen(&node).iter().all(|(first, last)| first <= last), "{:?}", seen(&node));
        assert_eq!(node.mesh.known_peers()[2].first_seen, known(5).first_seen);
    }
}

#[test]
fn lost_peer_is_forgotten_after_connected_time_only() {
    let mut node = forgetting_after(100 * SECOND);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Closed);
    // Alone: that tells nothing of the peer.
    node.wait(1_000 * SECOND);
    assert_eq!(missed(&mut node, id(3)), Some(Duration::ZERO));
    let other = node.meets(4);
    with_heartbeats(&mut node, other, None, 60 * SECOND);
    assert_eq!(missed(&mut node, id(3)), Some(60 * SECOND));
    node.down(other, DisconnectReason::Closed);
    node.wait(1_000 * SECOND);
    assert_eq!(missed(&mut node, id(3)), Some(60 * SECOND));
    let other = node.meets(4);
    with_heartbeats(&mut node, other, None, 39 * SECOND);
    assert_eq!(ids(&node), [id(3), id(4)]);
    let outputs = with_heartbeats(&mut node, other, None, SECOND);
    assert!(outputs.contains(&Output::Persist));
    assert_eq!(ids(&node), [id(4)]);
}

#[test]
fn returned_peer_has_missed_no_time() {
    let mut node = forgetting_after(100 * SECOND);
    let other = node.meets(4);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Closed);
    with_heartbeats(&mut node, other, None, 90 * SECOND);
    let session = node.meets(3);
    assert_eq!(missed(&mut node, id(3)), Some(Duration::ZERO));
    node.down(session, DisconnectReason::Closed);
    with_heartbeats(&mut node, other, None, 99 * SECOND);
    assert_eq!(missed(&mut node, id(3)), Some(99 * SECOND));
}

#[test]
fn missed_time_is_stored_between_runs() {
    let mut node = forgetting_after(100 * SECOND);
    for wall in WALLS {
        let (other, session) = (node.meets(4), node.meets(3));
        node.down(session, DisconnectReason::Bye(ByeReason::Leaving));
        for run in 1..=4_u32 {
            with_heartbeats(&mut node, other, None, 20 * SECOND);
            assert_eq!(missed(&mut node, id(3)), Some(run * 20 * SECOND));
            assert_eq!(missed(&mut node, id(4)), Some(Duration::ZERO));
            node = restarted(&node, wall);
            // The whole site comes back, but for one.
            node.wait(1_000 * SECOND);
            assert_eq!(node.meets(4), other);
        }
    }
    let other = node.meets(4);
    with_heartbeats(&mut node, other, None, 20 * SECOND);
    assert_eq!(ids(&node), [id(4)]);
}

#[test]
fn peer_that_missed_the_forget_time_is_forgotten_at_the_start() {
    let (mut gone, mut late) = (known(3), known(4));
    gone.missed = FORGET_AFTER;
    late.missed = FORGET_AFTER - SECOND;
    let mut node = MeshHarness::remembering(vec![gone, late]);
    assert_eq!(ids(&node), [id(4)]);
    let outputs = node.wait(SECOND);
    assert!(outputs.contains(&Output::Persist));
    let recalled = Report::Restored { peers: 1, forgotten: 1, surplus: 0 };
    assert!(reported(&outputs).contains(&&recalled), "{outputs:?}");
}

/// For a weekend, as by SIGSTOP.
#[test]
fn stalled_time_is_not_missed_time() {
    let mut node = forgetting_after(100 * SECOND);
    let other = node.meets(4);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Closed);
    with_heartbeats(&mut node, other, None, 50 * SECOND);
    node.stand_still(60 * 60 * 60 * SECOND);
    // What is written down before the next turn must not count it either.
    let written = node.mesh.known_peers()[0].missed;
    assert!(written <= 50 * SECOND, "{written:?}");
    with_heartbeats(&mut node, other, None, 40 * SECOND);
    let missed = missed(&mut node, id(3)).expect("still known");
    assert!((89 * SECOND..=91 * SECOND).contains(&missed), "{missed:?}");
}

/// A list that is older than the peer's goodbye still shows the peer, for ten seconds at most.
#[test]
fn list_of_a_restored_departed_peer_counts_once_it_must_have_returned() {
    for (missed, is_believed) in [(0, false), (5, false), (11, true), (80_000, true)] {
        let mut left = known(3);
        (left.left, left.missed) = (true, Duration::from_secs(missed));
        let mut node = MeshHarness::new(&[]);
        node.recall_at(UnixTime(WALL.0 + 3 * DAY), vec![left]);
        let session = node.meets(4);
        node.list(session, [(id(3), addr(3))].into_iter());
        assert_eq!(dials(&node.wait(SECOND)) > 0, is_believed, "after {missed} s");
    }
}

#[test]
fn full_table_restores_the_peers_that_missed_least() {
    let seen = |n: u8| {
        let mut peer = known(n);
        peer.missed = Duration::from_secs(600 - u64::from(n));
        peer.last_seen = UnixTime(WALL.0 - u64::from(n));
        peer
    };
    let mut node = MeshHarness::with(Config::default().peers_max(2));
    node.restore((1..=5).map(seen).collect());
    assert_eq!(ids(&node), [id(4), id(5)]);
}

#[test]
fn other_key_at_a_restored_address_is_reported() {
    let mut node = MeshHarness::remembering(vec![known(3)]);
    let (session, ..) = dialled(&node.wait_for_dial())[0];
    let outputs = node.tell(Input::DialFailed { session, reason: DialError::WrongId { found: id(7) } });
    let since = known(3).first_seen;
    let wrong =
        |report: &&Report| matches!(report, Report::WrongId { first_seen, .. } if *first_seen == since);
    assert!(reported(&outputs).into_iter().any(|report| wrong(&report)), "{outputs:?}");
    assert_eq!(node.mesh.known_peers().len(), 1);
}
