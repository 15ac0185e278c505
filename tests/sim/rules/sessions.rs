//! Sessions: one active session for each peer, one arbiter for each pair, one process for each key, and a full table.

use p2p_gossip::internals::mesh::{
    DisconnectReason, GRACE, Output, Report, SESSIONS_PER_PEER_MAX, SessionId,
};
use p2p_gossip::internals::wire::{ByeReason, Hello};
use p2p_gossip::{Config, ConnectAddr, DialAddr, DownReason, Event, PeerId, PeerState};

use super::{SECOND, closes_with, ms, wait_with_heartbeats};
use crate::sim::mesh_harness::{
    MeshHarness, addr, closes, dialled, dials_to, events_of, hello, id, known, requests_list, sent,
};

#[test]
fn non_arbiter_keeps_both_sessions_and_sends_on_the_newest() {
    let mut node = MeshHarness::new(&[]);
    let older = node.meets(3);
    let newest = SessionId::accepted(1);
    assert!(!closes(&node.up(newest, id(3), 1), older));
    assert_eq!(node.mesh.open_sessions(&id(3)), [older, newest]);
    // With a round-trip time the first ping goes out.
    node.wait(SECOND);
    node.measures(newest, ms(1));
    let outputs = node.wait(SECOND);
    assert!(!sent(&outputs).is_empty() && sent(&outputs).iter().all(|(session, _)| *session == newest));
}

#[test]
fn arbiter_keeps_the_newest_session() {
    let mut node = MeshHarness::new(&[]);
    let older = node.meets(12);
    let newest = SessionId::accepted(1);
    assert!(closes_with(&node.up(newest, id(12), 1), older, ByeReason::Duplicate));
    assert_eq!(node.mesh.open_sessions(&id(12)), [newest]);
}

#[test]
fn arbiter_cancels_its_dial_and_the_other_continues() {
    for (peer, is_arbiter) in [(12, true), (4, false)] {
        let mut node = MeshHarness::new(&[]);
        let list = node.meets(3);
        node.list(list, [(id(peer), addr(peer))].into_iter());
        let (dial, ..) = dialled(&node.wait_for_dial())[0].clone();
        let accepted = SessionId::accepted(1);
        let outputs = node.up(accepted, id(peer), 1);
        assert_eq!(closes(&outputs, dial), is_arbiter);
        // The other end may already count the dialled session.
        node.up(dial, id(peer), 1);
        let open = node.mesh.open_sessions(&id(peer));
        assert_eq!(open, if is_arbiter { vec![accepted] } else { vec![accepted, dial] });
    }
}

#[test]
fn excess_sessions_with_one_peer_are_closed() {
    let mut node = MeshHarness::new(&[]);
    let sessions: Vec<SessionId> = (1..=7).map(SessionId::accepted).collect();
    for &session in &sessions {
        node.up(session, id(3), 1);
    }
    assert_eq!(node.mesh.open_sessions(&id(3)), &sessions[7 - SESSIONS_PER_PEER_MAX..]);
}

/// The session that should follow may be one which this node has given up. Found by seed 1020265 of the verdicts.
#[test]
fn end_of_a_duplicate_is_no_loss_within_the_grace() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    assert!(events_of(&node.down(session, DisconnectReason::Bye(ByeReason::Duplicate))).is_empty());
    assert_eq!(dials_to(&node.wait(GRACE / 4 - ms(1)), id(3)), 0, "the session that follows may come first");
    let outputs = node.wait_with_dials_open(GRACE / 4 + ms(1));
    assert!(dials_to(&outputs, id(3)) == 1 && events_of(&outputs).is_empty(), "{outputs:?}");
    let (dial, ..) = dialled(&outputs)[0].clone();
    node.dial_fails(dial);
    assert!(events_of(&node.wait(GRACE / 2 - ms(1))).is_empty());
    let outputs = node.wait_with_dials_open(ms(1));
    assert!(
        matches!(events_of(&outputs)[..], [Event::Down { reason: DownReason::Closed, .. }]),
        "{outputs:?}"
    );
    assert_eq!(dials_to(&outputs, id(3)), 1);
}

#[test]
fn session_that_follows_a_duplicate_in_time_needs_no_dial() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Bye(ByeReason::Duplicate));
    let next = SessionId::accepted(1);
    node.wait(GRACE / 5);
    assert!(events_of(&node.up(next, id(3), 1)).is_empty());
    assert_eq!(dials_to(&wait_with_heartbeats(&mut node, next, None, 2 * GRACE), id(3)), 0);
}

#[test]
fn stall_extends_the_grace() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Bye(ByeReason::Duplicate));
    node.wait(GRACE / 4);
    node.stall(10 * SECOND);
    assert!(events_of(&node.wait_with_dials_open(ms(1))).is_empty());
    assert!(events_of(&node.up(SessionId::accepted(1), id(3), 1)).is_empty());
}

#[test]
fn peer_that_timed_out_on_us_is_redialled_without_a_down() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    let mut outputs = node.down(session, DisconnectReason::Bye(ByeReason::Silent));
    outputs.extend(node.wait_with_dials_open(ms(100)));
    assert!(events_of(&outputs).is_empty(), "{outputs:?}");
    let (dial, ..) = dialled(&outputs)[0].clone();
    assert!(events_of(&node.up(dial, id(3), 1)).is_empty());
    assert_eq!(node.mesh.members(), 2);
}

#[test]
fn refusing_peer_is_up_again_only_after_it_admits_us() {
    const FULL: DisconnectReason = DisconnectReason::Bye(ByeReason::Full);
    let reports = |outputs: &[Output]| outputs.iter().filter(|o| matches!(o, Output::Report(_))).count();
    let mut node = MeshHarness::new(&[]);
    let met = node.meets(3);
    node.heartbeat(met, 0);
    let outputs = node.down(met, FULL);
    assert!(
        matches!(events_of(&outputs)[..], [Event::Down { reason: DownReason::Refused, .. }]),
        "{outputs:?}"
    );
    assert_eq!(reports(&outputs), 2);
    // The peer refuses again, and the node does not report it again.
    for _ in 0..3 {
        let (session, ..) = dialled(&node.wait_for_dial())[0];
        let outputs = node.up(session, id(3), 1);
        assert_eq!((events_of(&outputs), node.mesh.members()), (vec![], 1));
        assert_eq!(node.info(id(3)).map(|peer| peer.state), Some(PeerState::Dead));
        assert!(requests_list(&outputs), "an answer shows that the peer admits this node");
        let outputs = node.down(session, FULL);
        assert_eq!((events_of(&outputs), reports(&outputs)), (vec![], 0), "{outputs:?}");
    }
    // A refusal for another reason is reported.
    let (session, ..) = dialled(&node.wait_for_dial())[0];
    node.up(session, id(3), 1);
    let outputs = node.down(session, DisconnectReason::Bye(ByeReason::NotAdmitted));
    assert_eq!((events_of(&outputs), reports(&outputs)), (vec![], 1), "{outputs:?}");
    // The peer admits this node.
    let (session, ..) = dialled(&node.wait_for_dial())[0];
    assert_eq!(events_of(&node.up(session, id(3), 1)), []);
    let outputs = node.heartbeat(session, 0);
    assert!(matches!(events_of(&outputs)[..], [Event::Up { members: 2, .. }]), "{outputs:?}");
    assert_eq!(events_of(&node.heartbeat(session, 0)), []);
    // From then on the peer is an ordinary peer.
    let outputs = node.down(session, DisconnectReason::Closed);
    assert!(matches!(events_of(&outputs)[..], [Event::Down { members: 1, .. }]), "{outputs:?}");
    let (session, ..) = dialled(&node.wait_for_dial())[0];
    assert!(matches!(events_of(&node.up(session, id(3), 1))[..], [Event::Up { members: 2, .. }]));
}

#[test]
fn full_table_displaces_no_connected_peer() {
    let mut node = MeshHarness::with(Config::default().peers_max(3));
    for n in 3..6 {
        node.meets(n);
    }
    let session = SessionId::accepted(1);
    let outputs = node.up(session, id(6), 1);
    assert_eq!(
        outputs,
        [
            Output::Report(Report::TableFull { peer: id(6) }),
            Output::Close { session, reason: ByeReason::Full }
        ]
    );
    assert_eq!(node.mesh.members(), 4);
    node.down(SessionId::accepted(1003), DisconnectReason::Closed);
    assert!(!closes(&node.up(SessionId::accepted(2), id(6), 1), SessionId::accepted(2)));
}

#[test]
fn full_table_evicts_rumours_then_left_then_dead_peers() {
    let mut node = MeshHarness::with(Config::default().peers_max(4));
    let (dead, left, alive) = (node.meets(3), node.meets(4), node.meets(5));
    node.list(alive, std::iter::empty());
    node.list(dead, (20..40).map(|n| (id(n), addr(n))));
    node.down(dead, DisconnectReason::Closed);
    node.down(left, DisconnectReason::Bye(ByeReason::Leaving));
    let known =
        |node: &MeshHarness| -> Vec<PeerId> { (3..60).map(id).filter(|n| node.info(*n).is_some()).collect() };
    assert_eq!(known(&node), [3, 4, 5, 20].map(id));
    for (newcomer, left_over) in [(6, [3, 4, 5, 6]), (7, [3, 5, 6, 7]), (8, [5, 6, 7, 8])] {
        node.meets(newcomer);
        assert_eq!(known(&node), left_over.map(id));
    }
}

/// Found by seed 7468: the network delivered a handshake after its process was gone.
#[test]
fn late_messages_of_a_previous_run_exclude_no_peer() {
    let mut node = MeshHarness::new(&[]);
    node.up(SessionId::accepted(1), id(3), 3);
    node.wait(2 * SECOND);
    let late = SessionId::accepted(2);
    node.up(late, id(3), 2);
    node.down(late, DisconnectReason::Closed);
    node.wait(10 * SECOND);
    let returned = SessionId::accepted(3);
    assert!(!closes(&node.up(returned, id(3), 3), returned));
    assert_eq!(node.mesh.members(), 2);
}

#[test]
fn older_process_of_a_shared_key_stays_out() {
    let mut node = MeshHarness::new(&[]);
    node.up(SessionId::accepted(1), id(3), 1);
    node.up(SessionId::accepted(2), id(3), 2);
    node.wait(2 * SECOND);
    let older = SessionId::accepted(3);
    assert!(closes(&node.up(older, id(3), 1), older));
    assert_eq!(node.mesh.open_sessions(&id(3)), [SessionId::accepted(2)]);
}

#[test]
fn restart_is_reported_as_down_and_up() {
    let mut node = MeshHarness::new(&[]);
    node.up(SessionId::accepted(1), id(3), 1);
    let events = events_of(&node.up(SessionId::accepted(2), id(3), 2));
    assert!(
        matches!(events[..], [Event::Down { reason: DownReason::Restarted, .. }, Event::Up { .. }]),
        "{events:?}"
    );
}

#[test]
fn strangers_displace_strangers_only() {
    let mut node = MeshHarness::with(Config::default().peers_max(8));
    node.restore((1..=4).map(known).collect());
    for n in 20..60 {
        let session = node.meets(n);
        node.down(session, DisconnectReason::Closed);
    }
    let strangers = (20..60).filter(|&n| node.info(id(n)).is_some()).count();
    assert_eq!(strangers, 4);
    assert!((1..=4).all(|n| node.info(id(n)).is_some()));
    // A table of acquainted peers has no room for a stranger.
    let mut node = MeshHarness::with(Config::default().peers_max(4));
    node.restore((1..=4).map(known).collect());
    let session = SessionId::accepted(1);
    assert!(closes(&node.up(session, id(20), 1), session));
    assert!((1..=4).all(|n| node.info(id(n)).is_some()));
}

#[test]
fn trusted_peer_takes_the_place_of_a_connected_stranger() {
    let pinned = ConnectAddr::pinned(id(70).into(), addr(70).into());
    let mut node = MeshHarness::with(Config::default().peers_max(3).connect([pinned]));
    let sessions: Vec<SessionId> = (20..23).map(|n| node.meets(n)).collect();
    let session = SessionId::accepted(1);
    let outputs = node.up(session, id(70), 1);
    assert!(closes(&outputs, sessions[2]) && !closes(&outputs, session), "{outputs:?}");
    let events = events_of(&outputs);
    let displaced = |event: &Event| matches!(event, Event::Down { peer, reason: DownReason::Displaced, .. } if *peer == id(22));
    assert!(events.iter().any(displaced), "{events:?}");
    assert!(node.info(id(70)).is_some() && node.info(id(22)).is_none());
}

#[test]
fn rumours_of_one_peer_leave_room_for_those_of_another() {
    let mut node = MeshHarness::with(Config::default().peers_max(12));
    let (liar, honest) = (node.meets(3), node.meets(4));
    node.list(liar, (20..60).map(|n| (id(n), addr(n))));
    node.list(honest, (80..84).map(|n| (id(n), addr(n))));
    assert!((80..84).all(|n| node.info(id(n)).is_some()));
    assert_eq!((20..60).filter(|&n| node.info(id(n)).is_some()).count(), 6);
}

/// Found by seed 951046367. The grace is for members: a peer that refused this node and has not spoken since is none.
#[test]
fn peer_that_has_not_joined_is_not_dialled_at_what_it_claims() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Bye(ByeReason::Replaced));
    let claim: DialAddr = "n7.example:8080".parse().unwrap();
    let advertised = vec![claim.clone()];
    let again = SessionId::accepted(2);
    node.up_with_hello(again, id(3), addr(3), Hello { advertised, ..hello() });
    let mut outputs = node.down(again, DisconnectReason::Bye(ByeReason::Duplicate));
    outputs.extend(node.wait(5 * SECOND));
    let dialled: Vec<DialAddr> = dialled(&outputs).into_iter().map(|(_, at, _)| at).collect();
    assert!(!dialled.contains(&claim), "{dialled:?}");
}
