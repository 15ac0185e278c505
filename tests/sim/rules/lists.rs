//! What peers tell each other of third ones, and when.

use std::net::SocketAddr;
use std::time::Duration;

use p2p_gossip::PeerId;
use p2p_gossip::internals::limits::PEERS_LIMIT;
use p2p_gossip::internals::mesh::{DisconnectReason, Output, SessionId};
use p2p_gossip::internals::wire::{Message, PeerRecord, RECORDS_MAX};

use super::{MINUTE, SECOND, asked_in_vain, joined, make_it_ask, ms, with_heartbeats, with_strangers};
use crate::sim::mesh_harness::{MeshHarness, addr, dialled, dials_to, id, listed, requests, sent};

const LONGER_THAN_JOINING: Duration = Duration::from_millis(2_100);

#[test]
fn loopback_addresses_are_listed_on_loopback_only() {
    let mut node = MeshHarness::new(&[]);
    let local = |n: u8| SocketAddr::from(([127, 0, 0, n], 40_000));
    node.up_at(SessionId::accepted(1), id(3), 1, local(3));
    let [near, far] = [2, 3].map(SessionId::accepted);
    node.up_at(near, id(4), 1, local(4));
    node.up_at(far, id(5), 1, addr(5));
    let names = |outputs: &[Output]| -> Vec<PeerId> { listed(outputs).into_iter().map(|r| r.id).collect() };
    node.wait(LONGER_THAN_JOINING);
    assert_eq!(names(&node.receives(near, Message::PeersRequest)), [id(3), id(5)]);
    assert_eq!(names(&node.receives(far, Message::PeersRequest)), []);
}

#[test]
fn joiner_gets_earlier_peers_first_and_later_all() {
    let mut node = MeshHarness::new(&[]);
    let [first, second, third] = [3, 4, 5].map(|n| node.meets(n));
    let mut told = |session| -> Vec<PeerId> {
        node.wait(ms(300));
        let outputs = node.receives(session, Message::PeersRequest);
        listed(&outputs).into_iter().map(|record| record.id).collect()
    };
    // Of two that join at once one is to dial the other, however late they ask.
    assert_eq!(told(first), []);
    assert_eq!(told(third), [id(3), id(4)]);
    assert_eq!(told(second), [id(3)]);
    assert_eq!(told(second), [id(3), id(5)]);
    assert_eq!(told(first), [id(4), id(5)]);

    // A peer that asks for the first time when it is no longer new would miss a peer.
    let mut node = MeshHarness::new(&[]);
    let [early, _] = [3, 4].map(|n| node.meets(n));
    node.wait(LONGER_THAN_JOINING);
    assert_eq!(listed(&node.receives(early, Message::PeersRequest)).len(), 1);
}

#[test]
fn recently_dead_peers_are_listed_as_not_connected() {
    let (mut node, session) = joined();
    let dead = node.meets(5);
    let tells = |node: &mut MeshHarness, wait: Duration| -> Vec<(PeerId, bool)> {
        with_heartbeats(node, session, None, wait);
        let outputs = node.receives(session, Message::PeersRequest);
        listed(&outputs).into_iter().map(|record| (record.id, record.connected)).collect()
    };
    assert_eq!(tells(&mut node, LONGER_THAN_JOINING), [(id(5), true)]);
    node.down(dead, DisconnectReason::Closed);
    assert_eq!(tells(&mut node, 9 * MINUTE), [(id(5), false)]);
    assert_eq!(tells(&mut node, 2 * MINUTE), []);
}

#[test]
fn digest_differences_are_asked_about_at_a_limited_rate() {
    let mut node = MeshHarness::new(&[]);
    let sessions: Vec<SessionId> = (20..120).map(|n| node.meets(n)).collect();
    node.wait(SECOND);
    let mut asked = 0;
    for second in 0..20 {
        for (&session, other) in sessions.iter().zip(1..) {
            // Each tells another roster, and each a new one each time.
            asked += requests(&node.heartbeat(session, 1000 * second + other));
        }
        asked += requests(&node.wait_in_vain(SECOND));
    }
    // 8 at once and 4 a second. No peer answers, and after five seconds all may be asked again.
    assert!((60..=88).contains(&asked), "{asked}");
}

#[test]
fn frequent_list_requests_are_not_answered() {
    let (mut node, session) = joined();
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
    let (mut node, session) = joined();
    node.list(session, [(id(20), addr(20))].into_iter());
    assert_eq!(known(&node), 0);
}

#[test]
fn peer_without_news_is_asked_less_and_less_often() {
    let (mut node, session) = joined();
    let asked = asked_in_vain(&mut node, session, 77, 10 * MINUTE);
    assert!((8..=20).contains(&asked), "{asked} times");
    // Another roster is another reason.
    assert!(asked_in_vain(&mut node, session, 78, 4 * SECOND) >= 2);
    asked_in_vain(&mut node, session, 78, 10 * MINUTE);
    let asks = |_: &u32| requests(&with_heartbeats(&mut node, session, Some(78), SECOND)) > 0;
    assert!((0..100).find(asks).is_some());
    // So is an answer that brought news.
    node.list(session, [(id(20), addr(20))].into_iter());
    assert!(asked_in_vain(&mut node, session, 78, 62 * SECOND) >= 2);
}

#[test]
fn unreachable_peer_is_asked_about_again_soon() {
    let (mut node, session) = joined();
    make_it_ask(&mut node, session, 77);
    node.list(session, [(id(20), addr(20))].into_iter());
    let mut asked = 0;
    for _ in 0..30 {
        if node.info(id(20)).is_none() {
            break;
        }
        // No node answers a dial, which takes its time, and the list keeps naming the stranger.
        let outputs = with_heartbeats(&mut node, session, Some(77), 2 * SECOND);
        for (dial, ..) in dialled(&outputs) {
            node.fails(dial);
        }
        if requests(&outputs) > 0 {
            asked += 1;
            node.list(session, [(id(20), addr(20))].into_iter());
        }
    }
    assert!(asked >= 3, "{asked}: so the next wait would be long");
    assert_eq!(requests(&with_heartbeats(&mut node, session, Some(77), 2 * SECOND)), 1);
}

#[test]
fn unanswered_request_is_repeated() {
    let (mut node, session) = joined();
    assert!(requests(&with_heartbeats(&mut node, session, Some(77), MINUTE)) >= 3);
}

#[test]
fn smaller_id_dials_and_the_other_waits() {
    let both = || [(id(4), addr(4)), (id(12), addr(12))].into_iter();
    let (mut node, session) = joined();
    make_it_ask(&mut node, session, 77);
    node.list(session, both());
    let outputs = node.wait_in_vain(ms(600));
    assert_eq!((dials_to(&outputs, id(4)), dials_to(&outputs, id(12))), (0, 1));
    assert_eq!(dials_to(&node.wait_in_vain(SECOND), id(4)), 1);

    let (mut node, session) = joined();
    node.down(session, DisconnectReason::Closed);
    let again = SessionId::accepted(1);
    assert_eq!(requests(&node.up(again, id(3), 1)), 1);
    node.list(again, both());
    let outputs = node.wait_in_vain(ms(200));
    assert_eq!((dials_to(&outputs, id(4)), dials_to(&outputs, id(12))), (0, 1));
    assert_eq!(dials_to(&node.wait_in_vain(ms(500)), id(4)), 1);
}

#[test]
fn digests_are_compared_once_membership_is_settled() {
    let (mut node, session) = joined();
    let mut outputs = Vec::new();
    for n in 20..28 {
        node.meets(n);
        outputs.extend(node.heartbeat(session, 77));
        outputs.extend(node.wait(ms(200)));
    }
    assert_eq!(requests(&outputs), 0);
    assert_eq!(requests(&with_heartbeats(&mut node, session, Some(77), 2 * SECOND)), 1);
}

#[test]
fn digests_are_compared_in_time_despite_endless_strangers() {
    let (mut node, session, _) = with_strangers(1);
    let outputs = with_heartbeats(&mut node, session, Some(77), 10 * SECOND);
    assert_eq!(requests(&outputs), 0, "a stranger that is being dialled may be the difference");
    assert!(requests(&with_heartbeats(&mut node, session, Some(77), 10 * SECOND)) > 0);
}
