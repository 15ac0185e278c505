//! Lists of peers: their content, and the times at which nodes request them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_gossip::PeerId;
use p2p_gossip::internals::limits::PEERS_LIMIT;
use p2p_gossip::internals::mesh::{DisconnectReason, Output, SessionId, membership_digest};
use p2p_gossip::internals::wire::{ByeReason, Message, PeerRecord, RECORDS_MAX};

use super::{
    MINUTE, SECOND, joined_node, make_node_request, ms, node_with_strangers, requests_without_news,
    wait_with_heartbeats,
};
use crate::sim::mesh_harness::{
    MeshHarness, addr, dialled, dials_to, id, listed, requests, requests_list, sent,
};

const LONGER_THAN_JOINING: Duration = Duration::from_millis(2_100);

#[test]
fn loopback_addresses_are_listed_on_loopback_only() {
    let mut node = MeshHarness::new(&[]);
    let local = |n: u8| SocketAddr::from(([127, 0, 0, n], 40_000));
    node.up_at(SessionId::accepted(1), id(3), 1, local(3));
    let [near, far] = [2, 3].map(SessionId::accepted);
    node.up_at(near, id(4), 1, local(4));
    node.up_at(far, id(5), 1, addr(5));
    let listed_ids =
        |outputs: &[Output]| -> Vec<PeerId> { listed(outputs).into_iter().map(|r| r.id).collect() };
    node.wait(LONGER_THAN_JOINING);
    assert_eq!(listed_ids(&node.receives(near, Message::PeersRequest)), [id(3), id(5)]);
    assert_eq!(listed_ids(&node.receives(far, Message::PeersRequest)), []);
}

/// The digests still differ when the only session with the peer has gone, and another one is expected.
#[test]
fn request_that_cannot_be_sent_is_not_open() {
    let (mut node, session) = joined_node();
    wait_with_heartbeats(&mut node, session, None, 3 * SECOND);
    node.heartbeat(session, 1);
    node.down(session, DisconnectReason::Bye(ByeReason::Duplicate));
    assert_eq!(requests(&node.wait(ms(700))), 0);
    let next = SessionId::accepted(7);
    assert_eq!(requests(&node.up(next, id(3), 1)), 0);
    node.list(next, [(id(20), addr(20))].into_iter());
    assert!(node.info(id(20)).is_none(), "a list without a request");
}

#[test]
fn joiner_gets_earlier_peers_first_and_later_all() {
    let mut node = MeshHarness::new(&[]);
    let [first, second, third] = [3, 4, 5].map(|n| node.meets(n));
    let mut listed_to = |session| -> Vec<PeerId> {
        node.wait(ms(300));
        let outputs = node.receives(session, Message::PeersRequest);
        listed(&outputs).into_iter().map(|record| record.id).collect()
    };
    // Of two nodes that join at once only the later one gets the other's record, so only that one dials.
    assert_eq!(listed_to(first), []);
    assert_eq!(listed_to(third), [id(3), id(4)]);
    assert_eq!(listed_to(second), [id(3)]);
    assert_eq!(listed_to(second), [id(3), id(5)]);
    assert_eq!(listed_to(first), [id(4), id(5)]);

    // A peer whose first request comes after the joining phase gets all other peers.
    let mut node = MeshHarness::new(&[]);
    let [early, _] = [3, 4].map(|n| node.meets(n));
    node.wait(LONGER_THAN_JOINING);
    assert_eq!(listed(&node.receives(early, Message::PeersRequest)).len(), 1);
}

#[test]
fn recently_dead_peers_are_listed_as_not_connected() {
    let (mut node, session) = joined_node();
    let dead = node.meets(5);
    let listed_after = |node: &mut MeshHarness, wait: Duration| -> Vec<(PeerId, bool)> {
        wait_with_heartbeats(node, session, None, wait);
        let outputs = node.receives(session, Message::PeersRequest);
        listed(&outputs).into_iter().map(|record| (record.id, record.connected)).collect()
    };
    assert_eq!(listed_after(&mut node, LONGER_THAN_JOINING), [(id(5), true)]);
    node.down(dead, DisconnectReason::Closed);
    assert_eq!(listed_after(&mut node, 9 * MINUTE), [(id(5), false)]);
    assert_eq!(listed_after(&mut node, 2 * MINUTE), []);
}

#[test]
fn digest_differences_are_asked_about_at_a_limited_rate() {
    let mut node = MeshHarness::new(&[]);
    let sessions: Vec<SessionId> = (20..120).map(|n| node.meets(n)).collect();
    node.wait(SECOND);
    let mut asked = 0;
    for second in 0..20 {
        for (&session, other) in sessions.iter().zip(1..) {
            // Each peer sends another digest, and a new one each time.
            asked += requests(&node.heartbeat(session, 1000 * second + other));
        }
        asked += requests(&node.wait_with_dials_open(SECOND));
    }
    // 8 requests at once and 4 a second. No peer answers, and after five seconds the node may ask all again.
    assert!((60..=88).contains(&asked), "{asked}");
}

/// A member's sessions with all others come and go at different times, so the digests of all differ for most of the time.
#[test]
fn member_that_comes_and_goes_costs_few_lists() {
    let mut node = MeshHarness::new(&[]);
    let others: Vec<SessionId> = (20..28).map(|n| node.meets(n)).collect();
    let flapping = SessionId::accepted(1);
    node.up(flapping, id(5), 1);
    let whole = node.mesh.digest();
    let without = whole ^ membership_digest([&id(5)]);
    let mut asked = 0;
    for second in 0..60 {
        for (session, at) in others.iter().zip(0..) {
            let outputs = node.heartbeat(*session, if (second + at) % 4 < 2 { whole } else { without });
            asked += requests(&outputs);
        }
        let mut outputs = match second % 4 {
            0 => node.down(SessionId::accepted(1 + second), DisconnectReason::Closed),
            3 => node.up(SessionId::accepted(2 + second), id(5), 1),
            _ => Vec::new(),
        };
        outputs.extend(node.wait(SECOND));
        let to: Vec<SessionId> = sent(&outputs)
            .into_iter()
            .filter_map(|(to, message)| matches!(message, Message::PeersRequest).then_some(to))
            .filter(|to| others.contains(to))
            .collect();
        asked += to.len();
        for session in to {
            node.list(session, (20..28).chain([5]).map(|n| (id(n), addr(n))));
        }
    }
    assert_eq!(node.mesh.peers(node.now()).iter().filter(|peer| peer.reconnects == 0).count(), others.len());
    // The difference is one that the node knows: one list in ten seconds, for a new address of the lost member.
    assert!(asked <= 7, "{asked}");
}

#[test]
fn lost_member_that_only_a_digest_shows_is_dialled_again() {
    let (mut node, session) = joined_node();
    let lost = node.meets(12);
    let whole = node.mesh.digest();
    node.down(lost, DisconnectReason::Closed);
    let mut beat = |digest: Option<u64>| {
        node.heartbeat(session, digest.unwrap_or(node.mesh.digest()));
        let outputs = node.wait(SECOND);
        (dials_to(&outputs, id(12)), node.info(id(12)).unwrap().reached_by)
    };
    // After these failed dials the next wait is two seconds.
    (0..8).for_each(|_| drop(beat(None)));
    // The digests differ for half a second, then the node dials at the pace of a first loss.
    let (dials, reached_by) = beat(Some(whole));
    assert!(dials >= 1 && reached_by == [id(3)], "{dials} {reached_by:?}");
    let (more, _) = beat(Some(whole));
    assert!(dials + more >= 3, "{dials} {more}");
    // The member has lost it, too.
    assert!(beat(None).1.is_empty());
}

#[test]
fn stranger_in_a_digest_beside_a_lost_member_is_asked_about() {
    let (mut node, session) = joined_node();
    let lost = node.meets(5);
    let whole = node.mesh.digest();
    node.down(lost, DisconnectReason::Closed);
    let asked = |node: &mut MeshHarness, digest| {
        requests(&wait_with_heartbeats(node, session, Some(digest), 3 * SECOND))
    };
    assert_eq!(asked(&mut node, whole), 1, "the lost member may have a new address");
    node.list(session, [(id(5), addr(5))].into_iter());
    assert_eq!(asked(&mut node, whole), 0);
    assert_eq!(asked(&mut node, whole ^ 77), 1);
}

#[test]
fn frequent_list_requests_are_not_answered() {
    let (mut node, session) = joined_node();
    let answers = |outputs: &[Output]| {
        sent(outputs).iter().filter(|(_, message)| matches!(message, Message::Peers { .. })).count()
    };
    let mut answered = 0;
    for _ in 0..100 {
        answered += answers(&node.receives(session, Message::PeersRequest));
        node.wait(ms(10));
    }
    assert!((4..=6).contains(&answered), "{answered}");
}

#[test]
fn endless_and_unrequested_lists_are_ignored() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    let frames = u8::try_from(PEERS_LIMIT.div_ceil(RECORDS_MAX)).unwrap();
    for n in 20..30 + frames {
        let record = PeerRecord { id: id(n), addrs: vec![addr(n).into()], connected: true };
        node.receives(session, Message::Peers { records: vec![record], more: true });
    }
    let known = |node: &MeshHarness| (20..=255).filter(|&n| node.info(id(n)).is_some()).count();
    assert_eq!(known(&node), usize::from(frames));
    let (mut node, session) = joined_node();
    node.list(session, [(id(20), addr(20))].into_iter());
    assert_eq!(known(&node), 0);
}

#[test]
fn peer_without_news_is_asked_less_and_less_often() {
    let (mut node, session) = joined_node();
    let asked = requests_without_news(&mut node, session, 77, 10 * MINUTE);
    assert!((8..=20).contains(&asked), "{asked} times");
    // A new digest is a new reason to ask.
    assert!(requests_without_news(&mut node, session, 78, 4 * SECOND) >= 2);
    requests_without_news(&mut node, session, 78, 10 * MINUTE);
    let asks = |_: &u32| requests(&wait_with_heartbeats(&mut node, session, Some(78), SECOND)) > 0;
    assert!((0..100).find(asks).is_some());
    // An answer with news is a new reason, too.
    node.list(session, [(id(20), addr(20))].into_iter());
    assert!(requests_without_news(&mut node, session, 78, 62 * SECOND) >= 2);
}

#[test]
fn unreachable_peer_is_asked_about_again_soon() {
    let (mut node, session) = joined_node();
    make_node_request(&mut node, session, 77);
    node.list(session, [(id(20), addr(20))].into_iter());
    let mut asked = 0;
    for _ in 0..30 {
        if node.info(id(20)).is_none() {
            break;
        }
        // Dials to the stranger fail after a while, and the list keeps naming it.
        let outputs = wait_with_heartbeats(&mut node, session, Some(77), 2 * SECOND);
        for (dial, ..) in dialled(&outputs) {
            node.dial_fails(dial);
        }
        if requests(&outputs) > 0 {
            asked += 1;
            node.list(session, [(id(20), addr(20))].into_iter());
        }
    }
    assert!(asked >= 3, "after {asked} requests the next wait would be long");
    assert_eq!(requests(&wait_with_heartbeats(&mut node, session, Some(77), 2 * SECOND)), 1);
}

#[test]
fn unanswered_request_is_repeated() {
    let (mut node, session) = joined_node();
    assert!(requests(&wait_with_heartbeats(&mut node, session, Some(77), MINUTE)) >= 3);
}

#[test]
fn smaller_id_dials_and_the_other_waits() {
    let both = || [(id(4), addr(4)), (id(12), addr(12))].into_iter();
    let (mut node, session) = joined_node();
    make_node_request(&mut node, session, 77);
    node.list(session, both());
    let outputs = node.wait_with_dials_open(ms(600));
    assert_eq!((dials_to(&outputs, id(4)), dials_to(&outputs, id(12))), (0, 1));
    assert_eq!(dials_to(&node.wait_with_dials_open(SECOND), id(4)), 1);

    let (mut node, session) = joined_node();
    node.down(session, DisconnectReason::Closed);
    let again = SessionId::accepted(1);
    assert_eq!(requests(&node.up(again, id(3), 1)), 1);
    node.list(again, both());
    let outputs = node.wait_with_dials_open(ms(200));
    assert_eq!((dials_to(&outputs, id(4)), dials_to(&outputs, id(12))), (0, 1));
    assert_eq!(dials_to(&node.wait_with_dials_open(ms(500)), id(4)), 1);
}

#[test]
fn digests_are_compared_once_membership_is_settled() {
    let (mut node, session) = joined_node();
    let mut outputs = Vec::new();
    for n in 20..28 {
        node.meets(n);
        outputs.extend(node.heartbeat(session, 77));
        outputs.extend(node.wait(ms(200)));
    }
    assert_eq!(requests(&outputs), 0);
    assert_eq!(requests(&wait_with_heartbeats(&mut node, session, Some(77), 2 * SECOND)), 1);
}

#[test]
fn digests_are_compared_in_time_despite_endless_strangers() {
    let (mut node, session, _) = node_with_strangers(1);
    let outputs = wait_with_heartbeats(&mut node, session, Some(77), 2 * SECOND);
    assert_eq!(requests(&outputs), 0, "a stranger that is being dialled may be the difference");
    assert!(requests(&wait_with_heartbeats(&mut node, session, Some(77), 10 * SECOND)) > 0);
}

#[test]
fn joining_and_reconnecting_nodes_ask_for_a_list_at_once() {
    let mut node = MeshHarness::new(&[addr(3)]);
    let session = node.first_dial();
    assert!(requests_list(&node.up(session, id(3), 1)));
    node.list(session, std::iter::empty());
    node.down(session, DisconnectReason::Closed);
    assert!(requests_list(&node.up(SessionId::accepted(1), id(3), 1)));
}

#[test]
fn peer_that_only_others_reach_is_marked() {
    let mut node = MeshHarness::new(&[addr(3)]);
    let joins = node.first_dial();
    node.up(joins, id(3), 7);
    let reached_by = |node: &MeshHarness| -> Vec<PeerId> {
        let peers = node.mesh.peers(Instant::now());
        peers.into_iter().find(|peer| peer.id == id(5)).map(|peer| peer.reached_by).unwrap_or_default()
    };
    node.list(joins, [(id(5), addr(5))].into_iter());
    assert_eq!(reached_by(&node), [id(3)]);
    node.up(SessionId::accepted(1), id(5), 7);
    assert_eq!(reached_by(&node), []);
}

/// A peer comes and goes with pauses in which membership settles, but not for as long as a difference of digests must last.
#[test]
fn peer_that_comes_and_goes_delays_no_comparison_of_digests() {
    for pause in [100, 300, 500, 700] {
        let (mut node, session) = joined_node();
        let mut asked = 0;
        for turn in 0..5_000 / (2 * pause) {
            let flapping = SessionId::accepted(50_000 + turn);
            node.heartbeat(session, turn);
            node.up(flapping, id(5), 1);
            let mut outputs = node.wait_with_dials_open(ms(pause));
            node.down(flapping, DisconnectReason::Closed);
            outputs.extend(node.wait_with_dials_open(ms(pause)));
            asked += sent(&outputs)
                .iter()
                .filter(|(to, message)| *to == session && matches!(message, Message::PeersRequest))
                .count();
        }
        assert!(asked > 0, "a pause of {pause} ms");
    }
}
