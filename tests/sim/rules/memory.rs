//! Peers restored from a previous run, and the time after which a node forgets a peer.

use std::time::Duration;

use p2p_gossip::internals::limits::FORGET_AFTER;
use p2p_gossip::internals::mesh::{DialError, DisconnectReason, Input, Output, Report, SessionId, UnixTime};
use p2p_gossip::internals::wire::{ByeReason, Hello, Message};
use p2p_gossip::{Config, DialAddr, PeerId};

use super::{MINUTE, SECOND, closes_with, reported, wait_with_heartbeats};
use crate::sim::mesh_harness::{
    MeshHarness, WALL, addr, dialled, dials, dials_to, hello, id, known, requests_list,
};

#[test]
fn known_peer_keeps_its_first_seen_time() {
    let mut node = MeshHarness::remembering(vec![known(3), known(4)]);
    assert!(requests_list(&node.up(SessionId::accepted(1), id(3), 7)));
    node.list(SessionId::accepted(1), std::iter::empty());
    // After a separation the node requests the list of every known peer, but not of a stranger.
    assert!(requests_list(&node.up(SessionId::accepted(2), id(4), 7)));
    assert!(!requests_list(&node.up(SessionId::accepted(3), id(5), 7)));
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
    assert!(requests_list(&node.up(session, id(4), 1)));
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
    let records = answer.iter().find_map(|output| match output {
        Output::Send { message: Message::Peers { records, .. }, .. } => Some(records.clone()),
        _ => None,
    });
    let records = records.expect("an answer");
    assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [id(3)]);
}

fn ids(node: &MeshHarness) -> Vec<PeerId> {
    node.mesh.known_peers().iter().map(|peer| peer.id).collect()
}

/// The missed time of a peer as of now.
fn missed(node: &mut MeshHarness, peer: PeerId) -> Option<Duration> {
    node.mesh.handle_timeout(node.now());
    node.mesh.known_peers().iter().find(|known| known.id == peer).map(|known| known.missed)
}

fn forgetting_after(forget_after: Duration) -> MeshHarness {
    MeshHarness::with(Config::default().forget_after(forget_after))
}

/// The next run of the node, with the same state directory.
fn restarted(node: &MeshHarness, wall: UnixTime) -> MeshHarness {
    let mut next = forgetting_after(100 * SECOND);
    next.restore_at(wall, node.mesh.known_peers());
    next
}

const DAY: u64 = 24 * 60 * 60;
/// Wall clocks that are wrong, or right after a downtime.
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
            node.restore_at(wall, vec![seen, known(4), known(9)]);
            let outputs = node.wait(3 * SECOND);
            assert_eq!(ids(&node), [id(3), id(4)], "{last_seen:?} at {wall:?}");
            let restored = Report::Restored { peers: 2, forgotten: 0, surplus: 0 };
            assert!(reported(&outputs).contains(&&restored), "{outputs:?}");
            assert!(dials_to(&outputs, id(3)) > 0 && dials_to(&outputs, id(4)) > 0, "{outputs:?}");
        }
    }
}

#[test]
fn strict_node_protects_restored_addresses_at_any_wall_clock() {
    for wall in WALLS {
        let mut node = MeshHarness::with(Config::default().strict(true));
        node.restore_at(wall, vec![known(3)]);
        let session = SessionId::accepted(1);
        let outputs = node.up_at(session, id(7), 1, addr(3));
        assert!(closes_with(&outputs, session, ByeReason::AddressTaken), "{wall:?}: {outputs:?}");
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
    // Without any connection the node cannot know whether the peer is there, so the time does not count.
    node.wait(1_000 * SECOND);
    assert_eq!(missed(&mut node, id(3)), Some(Duration::ZERO));
    let other = node.meets(4);
    wait_with_heartbeats(&mut node, other, None, 60 * SECOND);
    assert_eq!(missed(&mut node, id(3)), Some(60 * SECOND));
    node.down(other, DisconnectReason::Closed);
    node.wait(1_000 * SECOND);
    assert_eq!(missed(&mut node, id(3)), Some(60 * SECOND));
    let other = node.meets(4);
    wait_with_heartbeats(&mut node, other, None, 39 * SECOND);
    assert_eq!(ids(&node), [id(3), id(4)]);
    let outputs = wait_with_heartbeats(&mut node, other, None, SECOND);
    assert!(outputs.contains(&Output::Persist));
    assert_eq!(ids(&node), [id(4)]);
}

#[test]
fn returned_peer_has_missed_no_time() {
    let mut node = forgetting_after(100 * SECOND);
    let other = node.meets(4);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Closed);
    wait_with_heartbeats(&mut node, other, None, 90 * SECOND);
    let session = node.meets(3);
    assert_eq!(missed(&mut node, id(3)), Some(Duration::ZERO));
    node.down(session, DisconnectReason::Closed);
    wait_with_heartbeats(&mut node, other, None, 99 * SECOND);
    assert_eq!(missed(&mut node, id(3)), Some(99 * SECOND));
}

#[test]
fn missed_time_is_stored_between_runs() {
    let mut node = forgetting_after(100 * SECOND);
    let other = node.meets(4);
    for wall in WALLS {
        let session = node.meets(3);
        node.down(session, DisconnectReason::Bye(ByeReason::Leaving));
        for run in 1..=4_u32 {
            wait_with_heartbeats(&mut node, other, None, 20 * SECOND);
            assert_eq!(missed(&mut node, id(3)), Some(run * 20 * SECOND));
            assert_eq!(missed(&mut node, id(4)), Some(Duration::ZERO));
            node = restarted(&node, wall);
            // After a downtime all peers but one return.
            node.wait(1_000 * SECOND);
            assert_eq!(node.meets(4), other);
        }
    }
    wait_with_heartbeats(&mut node, other, None, 20 * SECOND);
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
    let restored = Report::Restored { peers: 1, forgotten: 1, surplus: 0 };
    assert!(reported(&outputs).contains(&&restored), "{outputs:?}");
}

/// SIGSTOP holds the process for a weekend.
#[test]
fn stalled_time_is_not_missed_time() {
    let mut node = forgetting_after(100 * SECOND);
    let other = node.meets(4);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Closed);
    wait_with_heartbeats(&mut node, other, None, 50 * SECOND);
    node.stall(60 * 60 * 60 * SECOND);
    // A record written before the next turn must not count the stall either.
    let written = node.mesh.known_peers()[0].missed;
    assert!(written <= 50 * SECOND, "{written:?}");
    wait_with_heartbeats(&mut node, other, None, 40 * SECOND);
    let missed = missed(&mut node, id(3)).expect("still known");
    assert!((89 * SECOND..=91 * SECOND).contains(&missed), "{missed:?}");
}

/// For ten seconds after a goodbye a list may be older than the goodbye and still show the peer.
#[test]
fn list_of_a_restored_departed_peer_counts_once_it_must_have_returned() {
    for (missed, is_believed) in [(0, false), (5, false), (11, true), (80_000, true)] {
        let mut left = known(3);
        (left.left, left.missed) = (true, Duration::from_secs(missed));
        let mut node = MeshHarness::new(&[]);
        node.restore_at(UnixTime(WALL.0 + 3 * DAY), vec![left]);
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
    let outputs = node.handle(Input::DialFailed { session, reason: DialError::WrongId { found: id(7) } });
    let since = known(3).first_seen;
    let wrong =
        |report: &&Report| matches!(report, Report::WrongId { first_seen, .. } if *first_seen == since);
    assert!(reported(&outputs).into_iter().any(|report| wrong(&report)), "{outputs:?}");
    assert_eq!(node.mesh.known_peers().len(), 1);
}

#[test]
fn peer_was_last_seen_when_its_last_session_ended() {
    let mut node = MeshHarness::remembering(vec![known(3)]);
    let session = node.meets(3);
    node.mesh.set_wall_clock(UnixTime(WALL.0 + 100));
    node.down(session, DisconnectReason::Closed);
    node.mesh.set_wall_clock(UnixTime(WALL.0 + 500));
    let memory = node.mesh.known_peers();
    assert_eq!((memory[0].first_seen, memory[0].last_seen), (known(3).first_seen, UnixTime(WALL.0 + 100)));
}

/// A name from the user may lead to many peers. It becomes an address of the peer there only if that peer says so.
#[test]
fn dialled_name_is_stored_only_if_the_peer_claims_it() {
    let name: DialAddr = "db.example:8080".parse().unwrap();
    for is_claimed in [false, true] {
        let mut node = MeshHarness::with(Config::default().connect([name.clone().into()]));
        let session = node.first_dial();
        let other = "other.example:8080".parse().unwrap();
        let advertised = vec![if is_claimed { name.clone() } else { other }];
        node.up_with_hello(session, id(3), addr(3), Hello { advertised, ..hello() });
        let proven = node.mesh.known_peers()[0].addrs.clone();
        let proven: Vec<_> = proven.into_iter().filter(|known| known.last_success.is_some()).collect();
        let expected = if is_claimed { name.clone() } else { addr(3).into() };
        assert_eq!(proven.iter().map(|known| &known.addr).collect::<Vec<_>>(), [&expected]);
    }
}
