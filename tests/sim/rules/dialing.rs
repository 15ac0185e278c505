//! Dials: targets, addresses, times, and how many at once.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use p2p_gossip::internals::Expected;
use p2p_gossip::internals::limits::TIMEOUT;
use p2p_gossip::internals::mesh::backoff::{CAP, LONG_OUTAGE};
use p2p_gossip::internals::mesh::{
    ACQUAINTED_AFTER, CREDIT_MAX, DIALS_BURST, DIALS_IN_FLIGHT_MAX, DIALS_PER_SECOND, DialError, DialSource,
    DisconnectReason, Input, Output, STRANGER_REDIAL, SessionId,
};
use p2p_gossip::internals::wire::{ByeReason, Hello};
use p2p_gossip::{ConnectAddr, DialAddr, PeerState};

use super::{MINUTE, SECOND, ms, node_with_strangers, wait_with_heartbeats};
use crate::sim::mesh_harness::{
    MeshHarness, OWN_INSTANCE, addr, closes, dialled, dials, dials_to, hello, id, known, requests_list,
};

#[test]
fn dials_to_strangers_leave_slots_for_known_peers() {
    let mut node = MeshHarness::new(&[]);
    let (session, known) = (node.meets(3), node.meets(5));
    node.list(session, (20..60).map(|n| (id(n), addr(n))));
    let strangers = dials(&node.wait_with_dials_open(ms(1)));
    assert!(strangers > 0 && strangers < DIALS_IN_FLIGHT_MAX, "{strangers}");
    node.down(known, DisconnectReason::Closed);
    assert_eq!(dials_to(&node.wait_with_dials_open(SECOND), id(5)), 1);
}

#[test]
fn dial_names_the_source_of_its_address() {
    let mut node = MeshHarness::new(&[addr(1)]);
    let (session, known) = (node.meets(3), node.meets(5));
    node.down(known, DisconnectReason::Closed);
    node.list(session, [(id(20), addr(20))].into_iter());
    let outputs = node.wait(SECOND);
    let source_of = |wanted: SocketAddr| {
        let sources = outputs.iter().filter_map(|output| match output {
            Output::Dial { addr, source, .. } if addr.socket() == Some(wanted) => Some(*source),
            _ => None,
        });
        let mut sources: Vec<DialSource> = sources.collect();
        sources.dedup();
        sources
    };
    assert_eq!(source_of(addr(1)), [DialSource::User]);
    assert_eq!(source_of(addr(5)), [DialSource::KnownPeer]);
    assert_eq!(source_of(addr(20)), [DialSource::UnknownPeer]);
}

/// Found by seed 70001170: the rumours took every right to start a dial, and then waited for the dial under way.
#[test]
fn many_rumours_of_one_address_do_not_delay_a_lost_peer() {
    let mut node = MeshHarness::new(&[]);
    let (lister, known) = (node.meets(3), node.meets(250));
    node.list(lister, (20..120).map(|n| (id(n), addr(20))));
    for _ in 0..5 {
        node.wait_with_dials_open(SECOND);
        [lister, known].into_iter().for_each(|session| drop(node.heartbeat(session, 0)));
    }
    node.down(known, DisconnectReason::Closed);
    assert_eq!(dials_to(&node.wait_with_dials_open(SECOND), id(250)), 1);
}

#[test]
fn ended_dial_frees_its_slot() {
    let (mut node, _, outputs) = node_with_strangers(30);
    for (dial, ..) in dialled(&outputs) {
        assert_eq!(dials(&node.dial_fails(dial)), 1);
    }
}

#[test]
fn every_stranger_is_dialled_eventually() {
    let mut node = MeshHarness::new(&[]);
    let tellers: Vec<SessionId> = (1..=5).map(|n| node.meets(n)).collect();
    for (session, first) in tellers.into_iter().zip((10u8..).step_by(50)) {
        node.list(session, (first..=first.saturating_add(49)).map(|n| (id(n), addr(n))));
    }
    let outputs = node.wait(10 * MINUTE);
    let met: BTreeSet<u8> = (10..=255).filter(|&n| dials_to(&outputs, id(n)) > 0).collect();
    assert_eq!(met.len(), 246);
}

#[test]
fn failed_dials_to_the_rumours_of_one_peer_are_limited() {
    let mut node = MeshHarness::new(&[]);
    let (session, other) = (node.meets(3), node.meets(4));
    node.list(session, (10..=255).map(|n| (id(n), addr(n))));
    let to_rumours = |outputs: &[Output]| -> usize { (10..=255).map(|n| dials_to(outputs, id(n))).sum() };
    let first = to_rumours(&node.wait(MINUTE - SECOND));
    assert!((CREDIT_MAX as usize..CREDIT_MAX as usize + 4).contains(&first), "{first}");
    let later = to_rumours(&node.wait(10 * MINUTE));
    assert!(later <= 10 * 4 + 1, "{later}");
    // Another peer's account is not empty.
    node.down(other, DisconnectReason::Closed);
    let other = SessionId::accepted(7);
    node.up(other, id(4), 1);
    node.list(other, [(id(255), addr(255)), (id(8), addr(8))].into_iter());
    let outputs = node.wait(SECOND);
    assert!(dials_to(&outputs, id(8)) > 0);
}

#[test]
fn failed_dials_to_one_address_are_limited_for_all_tellers_together() {
    let mut node = MeshHarness::new(&[]);
    let target = |port: u16| SocketAddr::from(([10, 9, 9, 9], port));
    let tellers: Vec<SessionId> = (1..=5).map(|n| node.meets(n)).collect();
    for (session, first) in tellers.into_iter().zip((10u8..).step_by(40)) {
        node.list(session, (first..first + 40).map(|n| (id(n), target(n.into()))));
    }
    let outputs = node.wait(MINUTE - SECOND);
    let is_target = |addr: &DialAddr| addr.socket().is_some_and(|addr| addr.ip() == target(1).ip());
    let first = dialled(&outputs).iter().filter(|(_, addr, _)| is_target(addr)).count();
    assert!((CREDIT_MAX as usize..CREDIT_MAX as usize + 4).contains(&first), "{first}");
}

#[test]
fn sessions_that_come_up_cost_their_teller_nothing() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.list(session, (10..=255).map(|n| (id(n), addr(n))));
    let mut met = BTreeSet::new();
    let mut outputs = node.wait_with_dials_open(SECOND);
    while met.len() < 246 {
        let open = dialled(&outputs);
        assert!(!open.is_empty(), "{} of 246 were dialled", met.len());
        outputs = Vec::new();
        for (session, at, expected) in open {
            let Expected::Peer(peer) = expected else { panic!("{expected} has no id") };
            met.insert(peer);
            outputs.extend(node.up_at(session, peer, 1, at.socket().unwrap()));
        }
        outputs.extend(node.wait_with_dials_open(ms(100)));
    }
}

#[test]
fn stranger_that_left_is_dialled_only_where_it_came_from() {
    let mut node = MeshHarness::new(&[]);
    let session = SessionId::accepted(1);
    let third_party = SocketAddr::from(([10, 9, 9, 9], 22));
    let hello = Hello { advertised: vec![third_party.into()], ..hello() };
    node.up_with_hello(session, id(3), addr(3), hello.clone());
    node.down(session, DisconnectReason::Closed);
    let outputs = node.wait(MINUTE);
    let addrs: BTreeSet<DialAddr> = dialled(&outputs).into_iter().map(|(_, addr, _)| addr).collect();
    assert_eq!(addrs, [addr(3).into()].into());
    // It counts as left after a minute.
    node.wait(MINUTE);
    assert_eq!(dials(&node.wait(10 * MINUTE)), 0);
    assert_eq!(node.info(id(3)).unwrap().state, PeerState::Left);
    assert_eq!(node.mesh.known_peers()[0].addrs.len(), 1);
}

/// Found by seed 980000832. The stranger is dialled at the name that it claims while it may come back, and another peer
/// answers there.
#[test]
fn stranger_that_left_is_not_dialled_at_a_claim_where_another_peer_answered() {
    let mut node = MeshHarness::new(&[]);
    let (other, session) = (node.meets(4), SessionId::accepted(77));
    let claimed: DialAddr = "third.example:22".parse().unwrap();
    let hello = Hello { advertised: vec![claimed.clone()], ..hello() };
    node.up_with_hello(session, id(3), addr(3), hello);
    let mut outputs = node.down(session, DisconnectReason::Bye(ByeReason::Silent));
    let mut dialled_at = BTreeSet::new();
    while node.info(id(3)).unwrap().state == PeerState::Up {
        for (dial, at, _) in dialled(&outputs) {
            node.dial_finds(dial, id(4));
            dialled_at.insert(at);
        }
        outputs = node.wait_with_dials_open(ms(10));
    }
    assert!(dialled_at.contains(&claimed), "it may come back there: {dialled_at:?}");
    for _ in 0..60 {
        node.heartbeat(other, 0);
        outputs.extend(node.wait(SECOND));
    }
    let dials = dialled(&outputs);
    assert!(dials.iter().all(|(_, at, _)| *at == addr(3).into()), "{dials:?}");
}

/// A list names the stranger as connected while this node's last dial to it is under way.
#[test]
fn listed_stranger_that_is_given_up_waits_for_no_dial() {
    let mut node = MeshHarness::new(&[]);
    node.up_at(SessionId::accepted(1), id(3), 1, addr(3));
    node.down(SessionId::accepted(1), DisconnectReason::Closed);
    node.wait(STRANGER_REDIAL - 10 * SECOND);
    let outputs = node.wait_for_dial();
    let [(dial, ..)] = dialled(&outputs)[..] else { panic!("one dial: {outputs:?}") };
    node.wait_with_dials_open(10 * SECOND);
    let teller = node.meets(4);
    node.list(teller, [(id(3), addr(3))].into_iter());
    // The mesh asserts that no timer is set for nothing.
    node.dial_fails(dial);
    assert_eq!(node.info(id(3)).unwrap().state, PeerState::Left);
}

#[test]
fn acquainted_peer_is_dialled_at_every_address_that_it_claims() {
    let mut node = MeshHarness::remembering(vec![known(3)]);
    let session = SessionId::accepted(1);
    let hello = Hello { advertised: vec![addr(33).into()], ..hello() };
    node.up_with_hello(session, id(3), addr(3), hello);
    node.down(session, DisconnectReason::Closed);
    let outputs = node.wait(5 * MINUTE);
    let addrs: BTreeSet<DialAddr> = dialled(&outputs).into_iter().map(|(_, addr, _)| addr).collect();
    assert_eq!(addrs, [addr(3).into(), addr(33).into()].into());
}

#[test]
fn one_address_has_one_dial_at_a_time() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.list(session, (20..40).map(|n| (id(n), addr(7))));
    assert_eq!(dials(&node.wait_with_dials_open(TIMEOUT - ms(1))), 1);
}

#[test]
fn stranger_is_forgotten_after_five_failed_rounds() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.list(session, [(id(20), addr(20))].into_iter());
    let outputs = node.wait(10 * MINUTE);
    assert_eq!(dials_to(&outputs, id(20)), 5);
    assert!(node.info(id(20)).is_none());
}

#[test]
fn other_peer_that_answers_is_dialled_there_next() {
    let (mut node, _, outputs) = node_with_strangers(40);
    let (dial, at, _) = dialled(&outputs)[0].clone();
    let found = (20..60).map(id).rfind(|peer| dials_to(&outputs, *peer) == 0).unwrap();
    let next = dialled(&node.dial_finds(dial, found));
    assert_eq!((&next[0].1, next[0].2), (&at, Expected::Peer(found)));
}

#[test]
fn address_where_another_peer_answered_becomes_last() {
    let mut node = MeshHarness::new(&[addr(3)]);
    node.restore(vec![known(3)]);
    let session = node.first_dial();
    let hello = Hello { advertised: vec![addr(33).into()], ..hello() };
    node.up_with_hello(session, id(3), addr(3), hello);
    assert_eq!(node.info(id(3)).unwrap().addrs[0], addr(3).into());
    node.down(session, DisconnectReason::Closed);
    let (dial, at, _) = dialled(&node.wait_for_dial())[0].clone();
    assert_eq!(at, addr(3).into());
    node.dial_finds(dial, id(4));
    assert_eq!(node.info(id(3)).unwrap().addrs[0], addr(33).into());
}

#[test]
fn new_peer_at_a_lost_peers_address_is_dialled_as_well() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    wait_with_heartbeats(&mut node, session, None, ACQUAINTED_AFTER);
    node.down(session, DisconnectReason::Closed);
    let (dial, ..) = dialled(&node.wait_for_dial())[0].clone();
    node.dial_finds(dial, id(4));
    let outputs = node.wait(SECOND);
    assert!(dials_to(&outputs, id(4)) > 0 && dials_to(&outputs, id(3)) > 0, "{outputs:?}");
}

/// Node 9 after forty keys came from one address, the port of node 3, and went again at once.
fn node_that_saw_a_crash_loop() -> MeshHarness {
    let mut node = MeshHarness::new(&[]);
    for n in 20..60 {
        let session = SessionId::accepted(n.into());
        node.up_at(session, id(n), 1, SocketAddr::from((addr(3).ip(), 40_000 + u16::from(n))));
        node.down(session, DisconnectReason::Closed);
        node.wait(ms(200));
    }
    node
}

#[test]
fn keys_of_a_crash_loop_are_not_dialled_once_a_peer_is_there() {
    let mut node = node_that_saw_a_crash_loop();
    let session = node.meets(3);
    assert_eq!(dials(&wait_with_heartbeats(&mut node, session, None, MINUTE)), 0);
    assert!((20..60).all(|n| node.info(id(n)).is_none_or(|info| info.state == PeerState::Left)));
}

#[test]
fn one_dial_finds_out_who_is_at_the_address_of_many_strangers() {
    let mut node = node_that_saw_a_crash_loop();
    let (dial, at, _) = dialled(&node.wait_for_dial())[0].clone();
    assert_eq!(at, addr(3).into());
    let mut outputs = node.dial_finds(dial, id(3));
    outputs.extend(node.wait(MINUTE));
    assert!(dials_to(&outputs, id(3)) > 0);
    assert_eq!(dials(&outputs), dials_to(&outputs, id(3)), "a key of the crash loop is dialled");
}

#[test]
fn acquainted_peer_keeps_an_address_where_another_is_connected_at_the_pace_of_its_backoff() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    wait_with_heartbeats(&mut node, session, None, ACQUAINTED_AFTER);
    node.down(session, DisconnectReason::Closed);
    let other = SessionId::accepted(1);
    node.up_at(other, id(4), 1, addr(3));
    let mut dials = 0;
    for _ in 0..60 {
        let digest = node.mesh.digest();
        node.heartbeat(other, digest);
        for (dial, ..) in dialled(&node.wait_with_dials_open(SECOND)) {
            dials += 1;
            node.dial_finds(dial, id(4));
        }
    }
    let slowest = usize::try_from(MINUTE.as_secs() / CAP.as_secs()).unwrap();
    assert!((slowest - 5..slowest * 4 / 3 + 5).contains(&dials), "{dials} dials in a minute");
}

#[test]
fn accepted_peer_is_redialled_at_its_listening_port() {
    let mut node = MeshHarness::new(&[]);
    let session = SessionId::accepted(1);
    node.up_at(session, id(3), 1, SocketAddr::from((addr(3).ip(), 40_000)));
    node.down(session, DisconnectReason::Closed);
    let (_, at, expected) = dialled(&node.wait_for_dial())[0].clone();
    assert_eq!((at, expected), (addr(3).into(), Expected::Peer(id(3))));
}

/// Found by seed 3053389: the peer lost its only address, and the node never dialled it again.
#[test]
fn address_where_our_key_answers_stays_with_its_peer() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Closed);
    let outputs = node.wait_with_dials_open(SECOND);
    let dials = dialled(&outputs);
    assert_eq!(dials_to(&outputs, id(3)), 1);
    node.dial_finds(dials[0].0, id(9));
    assert!(dials_to(&node.wait(MINUTE), id(3)) > 1);
}

/// Found by seed 6001927: the peer was due while its cancelled dial was still in flight, and then never again.
#[test]
fn cancelled_dial_does_not_block_the_next() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    let outputs = node.list(session, [(id(20), addr(20))].into_iter());
    let outputs = [outputs, node.wait_with_dials_open(ms(1))].concat();
    let (cancelled, ..) = dialled(&outputs)[0];
    // The peer connects itself, so the node cancels its dial. The session is lost before the dial has ended.
    let accepted = node.meets(20);
    node.down(accepted, DisconnectReason::Closed);
    assert_eq!(dials_to(&node.wait_with_dials_open(SECOND), id(20)), 0);
    node.up(cancelled, id(20), 1);
    node.down(cancelled, DisconnectReason::Closed);
    assert!(dials_to(&node.wait(MINUTE), id(20)) > 0);
}

/// Found by seed 80: the node reported up and down once a second.
/// The dial may have begun before the network healed, and its next packet goes out only a second after the first.
#[test]
fn first_report_of_a_lost_peer_renews_a_dial_that_has_no_answer() {
    for age in [ms(100), ms(700)] {
        let mut node = MeshHarness::new(&[]);
        for n in [3, 4, 12] {
            let session = node.meets(n);
            node.down(session, DisconnectReason::Closed);
        }
        let mut outputs = node.wait_for_dial();
        while dials_to(&outputs, id(12)) == 0 {
            outputs.extend(node.wait_with_dials_open(ms(1)));
        }
        let dial_to_12 = |outputs: &[Output]| {
            dialled(outputs).into_iter().find(|(.., expected)| *expected == Expected::Peer(id(12))).unwrap().0
        };
        let first = dial_to_12(&outputs);
        node.wait_with_dials_open(age);
        let reports = |node: &mut MeshHarness, n: u8, wait| {
            let session = node.meets(n);
            node.list(session, [(id(12), addr(12))].into_iter());
            node.wait_with_dials_open(wait)
        };
        let early = reports(&mut node, 3, ms(150));
        assert_eq!(closes(&early, first), age > ms(500), "{age:?}");
        let late = node.wait_with_dials_open(ms(400));
        assert!(closes(&early, first) || closes(&late, first), "{age:?}");
        let outputs = node.handle(Input::DialFailed { session: first, reason: DialError::Cancelled });
        let second = dial_to_12(&outputs);
        // Later reports say the same.
        let outputs = [node.wait_with_dials_open(SECOND), reports(&mut node, 4, SECOND)].concat();
        assert!(!closes(&outputs, second));
    }
}

/// Found by seed 80: the node reported up and down once a second.
#[test]
fn refused_node_waits_a_minute_at_bootstrap_addresses_too() {
    let mut node = MeshHarness::new(&[addr(3)]);
    let session = node.first_dial();
    node.up(session, id(3), 1);
    node.down(session, DisconnectReason::Bye(ByeReason::Cloned));
    assert_eq!(dials(&node.wait(59 * SECOND)), 0);
    assert!(dials(&node.wait(5 * SECOND)) > 0);
}

/// Found by seed 12738: a late message of a dead process displaced the node, so it must not wait a minute.
#[test]
fn replaced_process_asks_again_within_seconds() {
    let mut node = MeshHarness::new(&[addr(3)]);
    let session = node.first_dial();
    node.up(session, id(3), 1);
    node.down(session, DisconnectReason::Bye(ByeReason::Replaced));
    assert_eq!(dials(&node.wait(3 * SECOND)), 0);
    assert!(dials(&node.wait(3 * SECOND)) > 0);
}

#[test]
fn address_of_the_node_itself_is_dialled_once() {
    let mut node = MeshHarness::new(&[addr(9)]);
    let session = node.first_dial();
    assert!(closes(&node.up(session, id(9), OWN_INSTANCE), session));
    assert_eq!(dials(&node.wait(300 * SECOND)), 0);
}

/// Without this dial, the other links would heal only after a wait of ten seconds, or a minute after an hour.
#[test]
fn list_with_a_dead_peer_connected_triggers_a_dial() {
    let mut node = MeshHarness::new(&[]);
    node.up(SessionId::accepted(1), id(3), 1);
    node.down(SessionId::accepted(1), DisconnectReason::Closed);
    node.wait(LONG_OUTAGE + 60 * SECOND);
    let other = SessionId::accepted(2);
    assert!(requests_list(&node.up(other, id(4), 1)));
    node.list(other, [(id(3), addr(3))].into_iter());
    let dials = dials(&node.wait(2 * SECOND));
    assert!(dials >= 3, "{dials} dials: the first is immediate and resets the backoff");
}

#[test]
fn long_list_of_strangers_causes_no_dial_storm() {
    let mut node = MeshHarness::new(&[addr(3)]);
    let session = node.first_dial();
    node.up(session, id(3), 1);
    let strangers =
        (0..=255).filter(|n| ![3, 9].contains(n)).map(|n| (id(n), SocketAddr::from(([10, 1, 0, n], 8080))));
    let at_once = dials(&node.list(session, strangers));
    let later = dials(&node.wait(2 * SECOND));
    let most = (DIALS_BURST + 2 * DIALS_PER_SECOND) as usize;
    assert!(at_once + later > 0 && at_once + later <= most, "{} dials of at most {most}", at_once + later);
}

#[test]
fn address_that_the_user_adds_is_dialled_at_once_and_kept() {
    let mut node = MeshHarness::new(&[]);
    let connect = |n: u8| Input::Connect(ConnectAddr::from(addr(n)));
    node.handle(connect(1));
    let dials = dialled(&node.wait_with_dials_open(ms(1)));
    assert_eq!(dials.len(), 1);
    // While that dial is under way, the same request adds nothing.
    node.handle(connect(1));
    assert_eq!(dialled(&node.wait_with_dials_open(SECOND)).len(), 0);
    node.dial_fails(dials[0].0);
    assert_eq!(dialled(&node.wait_with_dials_open(CAP)).len(), 1);
}

#[test]
fn peer_that_the_user_forgets_is_not_dialled_and_a_connected_one_stays() {
    let mut node = MeshHarness::new(&[]);
    let (kept, lost) = (node.meets(3), node.meets(5));
    node.handle(Input::Forget(id(3)));
    assert_eq!(node.info(id(3)).map(|info| info.state), Some(PeerState::Up));
    node.down(lost, DisconnectReason::Closed);
    node.handle(Input::Forget(id(5)));
    assert!(node.info(id(5)).is_none());
    assert_eq!(dials_to(&wait_with_heartbeats(&mut node, kept, None, MINUTE), id(5)), 0);
}
