//! Direct connections through NATs: which attempts a node proposes and accepts, and what a bad peer achieves.

use std::net::SocketAddr;

use p2p_gossip::internals::mesh::{CREDIT_MAX, CircuitAt, DisconnectReason, Input, Output, SessionId};
use p2p_gossip::internals::wire::{ByeReason, Hello, Message, PUNCH_CAPABILITY};
use p2p_gossip::{Access, Config, Event};

use super::{MINUTE, SECOND, ms};
use crate::sim::mesh_harness::{INNER, MeshHarness, addr, closes, events_of, hello, id, sent};

/// Where the carrier sees node 9, and where it sees the peer.
const OWN: SocketAddr = outside(9);
const THEIRS: SocketAddr = outside(20);

const fn outside(n: u8) -> SocketAddr {
    use std::net::{IpAddr, Ipv4Addr};
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, n)), 40_000)
}

/// Node 9, which has dialled 3 and reaches this peer through a circuit that 3 offered.
fn carried_node(peer: u8) -> (MeshHarness, SessionId, SessionId) {
    let carrier = addr(3);
    let mut node = MeshHarness::new(&[carrier]);
    let three = node.first_dial();
    node.up_at(three, id(3), 1, carrier);
    node.list(three, std::iter::empty());
    node.receives(three, Message::SeenAt { addr: OWN });
    let inside = enter(&mut node, three, peer);
    (node, three, inside)
}

/// The carrier offers a circuit, and the session inside comes up.
fn enter(node: &mut MeshHarness, carrier: SessionId, peer: u8) -> SessionId {
    enter_from(node, carrier, peer, addr(3))
}

/// The same with a carrier at this address.
fn enter_from(node: &mut MeshHarness, carrier: SessionId, peer: u8, remote: SocketAddr) -> SessionId {
    let hello = Hello { capabilities: vec![PUNCH_CAPABILITY], ..hello() };
    enter_with_hello(node, carrier, peer, remote, hello)
}

fn enter_with_hello(
    node: &mut MeshHarness,
    carrier: SessionId,
    peer: u8,
    remote: SocketAddr,
    hello: Hello,
) -> SessionId {
    let circuit = u64::from(peer) * 2;
    let outputs = node.receives(carrier, Message::CircuitOffer { circuit, from: id(peer) });
    let entered = outputs.iter().find_map(|output| match *output {
        Output::EnterCircuit { session, at, .. } if at == CircuitAt { session: carrier, circuit } => {
            Some(session)
        }
        _ => None,
    });
    let inside = entered.expect("the node enters the circuit");
    node.up_with_hello(inside, id(peer), remote, hello);
    inside
}

/// The number of proposals, or answers, to this session.
fn proposals(outputs: &[Output], to: SessionId) -> usize {
    let own = Message::Punch { addr: OWN };
    sent(outputs).iter().filter(|(session, message)| *session == to && **message == own).count()
}

/// The attempts: session, address, and the session from whose port they go.
fn punches(outputs: &[Output]) -> Vec<(SessionId, SocketAddr, SessionId)> {
    let punch = |output: &Output| match *output {
        Output::Punch { session, addr, beside, .. } => Some((session, addr, beside)),
        _ => None,
    };
    outputs.iter().filter_map(punch).collect()
}

/// The peer hears this node, and this node the peers.
fn wait_alive(node: &mut MeshHarness, sessions: &[SessionId], seconds: u64) -> Vec<Output> {
    let mut outputs = Vec::new();
    for _ in 0..seconds {
        let digest = node.mesh.digest();
        sessions.iter().for_each(|session| outputs.extend(node.heartbeat(*session, digest)));
        outputs.extend(node.wait(SECOND));
    }
    outputs
}

#[test]
fn leader_of_a_pair_proposes_four_attempts_and_then_one_in_ten_minutes() {
    let (mut node, three, inside) = carried_node(20);
    let mut count = 0;
    for seconds in [1, 5, 15, 80] {
        let outputs = wait_alive(&mut node, &[three, inside], seconds);
        count += proposals(&outputs, inside);
        assert_eq!(punches(&outputs), [], "the peer has not answered");
        let outputs = node.receives(inside, Message::Punch { addr: THEIRS });
        let [(punch, THEIRS, beside)] = punches(&outputs)[..] else { panic!("{outputs:?}") };
        assert!(beside == three && punch.is_punched() && punch.is_dialled());
        // An answer that nothing asked for, and one while the attempt is under way.
        assert_eq!(punches(&node.receives(inside, Message::Punch { addr: THEIRS })), []);
        node.dial_fails(punch);
        assert_eq!(punches(&node.receives(inside, Message::Punch { addr: THEIRS })), []);
    }
    assert_eq!(count, 4);
    assert_eq!(proposals(&wait_alive(&mut node, &[three, inside], 500), inside), 0);
    assert_eq!(proposals(&wait_alive(&mut node, &[three, inside], 300), inside), 1);
}

#[test]
fn peer_that_cannot_punch_gets_no_proposal() {
    let (mut node, three, capable) = carried_node(20);
    let incapable = enter_with_hello(&mut node, three, 21, addr(3), hello());
    let outputs = wait_alive(&mut node, &[three, capable, incapable], 120);
    assert!(proposals(&outputs, capable) > 0, "the node proposes to a peer that can");
    assert_eq!(proposals(&outputs, incapable), 0);
}

/// The peer could only go to the port at which this node listens.
#[test]
fn nothing_is_punched_beside_a_connection_that_the_carrier_made() {
    let mut node = MeshHarness::new(&[]);
    let three = node.meets(3);
    node.receives(three, Message::SeenAt { addr: OWN });
    let inside = enter(&mut node, three, 20);
    let outputs = wait_alive(&mut node, &[three, inside], 5);
    assert_eq!(proposals(&outputs, inside), 0);
    assert_eq!(punches(&node.receives(inside, Message::Punch { addr: THEIRS })), []);
}

#[test]
fn other_node_of_a_pair_answers_and_starts_when_its_answer_has_arrived() {
    let (mut node, three, inside) = carried_node(5);
    node.measures(inside, ms(80));
    assert_eq!(proposals(&node.wait(SECOND), inside), 0, "5 leads the pair");
    let outputs = node.receives(inside, Message::Punch { addr: THEIRS });
    assert_eq!((proposals(&outputs, inside), punches(&outputs)), (1, vec![]));
    assert_eq!(punches(&node.wait(ms(39))), []);
    let outputs = node.wait(ms(1));
    let [(punch, THEIRS, beside)] = punches(&outputs)[..] else { panic!("{outputs:?}") };
    assert!(beside == three && punch.is_punched() && !punch.is_dialled());
}

#[test]
fn punched_connection_replaces_the_circuit_without_a_loss() {
    let (mut node, three, inside) = carried_node(20);
    node.wait(SECOND);
    let outputs = node.receives(inside, Message::Punch { addr: THEIRS });
    let [(punch, ..)] = punches(&outputs)[..] else { panic!("{outputs:?}") };
    let outputs = node.up_at(punch, id(20), 1, THEIRS);
    assert!(closes(&outputs, inside), "9 is the arbiter of the pair");
    let events = events_of(&outputs);
    assert!(matches!(events[..], [Event::Path { peer, via: None, .. }] if peer == id(20)), "{events:?}");
    node.down(inside, DisconnectReason::Closed);
    let outputs = wait_alive(&mut node, &[three, punch], 60);
    assert_eq!(proposals(&outputs, punch), 0, "nothing is left to punch for");
}

#[test]
fn carrier_tells_both_ends_once_where_it_sees_them() {
    let mut node = MeshHarness::with(Config::default().connect([outside(4).into()]));
    let capable = || Hello { capabilities: vec![PUNCH_CAPABILITY], ..hello() };
    let four = node.first_dial();
    let [three, five] = [3, 5].map(|n| SessionId::accepted(1000 + n));
    node.up_with_hello(three, id(3), outside(3), capable());
    node.up_with_hello(four, id(4), outside(4), capable());
    // A peer of an earlier version.
    node.up(five, id(5), 1);
    let mut told = Vec::new();
    for (circuit, target) in [(1, 4), (3, 4), (5, 5)] {
        let outputs = node.receives(three, Message::CircuitOpen { circuit: circuit - 1, target: id(target) });
        told.extend(sent(&outputs).into_iter().filter_map(|(to, message)| match message {
            Message::SeenAt { addr } => Some((to, *addr)),
            _ => None,
        }));
    }
    assert_eq!(told, [(three, outside(3)), (four, outside(4))]);
}

#[test]
fn peers_word_leads_to_no_more_attempts_than_addresses_in_a_list() {
    let (mut node, three, inside) = carried_node(5);
    let mut started = 0;
    for n in 0..200 {
        // Each time another machine, and all of them within a minute.
        let outputs = node.receives(inside, Message::Punch { addr: outside(n) });
        let outputs: Vec<Output> = outputs.into_iter().chain(node.wait(ms(100))).collect();
        for (punch, ..) in punches(&outputs) {
            started += 1;
            node.dial_fails(punch);
        }
        if n % 10 == 0 {
            node.heartbeat(three, 1);
            node.heartbeat(inside, 1);
        }
    }
    let most = CREDIT_MAX as usize + 2;
    assert!(started > 10 && started <= most, "{started} attempts");
    // What means this machine, or this node itself, is not tried at all.
    node.wait(MINUTE * 20);
    let (mut node, _, inside) = carried_node(5);
    for addr in ["127.0.0.1:80", "0.0.0.0:80", "198.51.100.9:40000", "[2001:db8::1]:80", "198.51.100.20:0"] {
        let outputs = node.receives(inside, Message::Punch { addr: addr.parse().unwrap() });
        assert_eq!((proposals(&outputs, inside), punches(&node.wait(ms(1)))), (0, vec![]), "{addr}");
    }
}

/// Each attempt holds a thread.
#[test]
fn sixteen_attempts_at_most_are_under_way_at_once() {
    let (mut node, three, first) = carried_node(20);
    let mut all = vec![three, first];
    for peer in 21..40 {
        wait_alive(&mut node, &all, 1);
        all.push(enter(&mut node, three, peer));
    }
    let inside = &all[1..];
    wait_alive(&mut node, &all, 8);
    let mut started = Vec::new();
    for (session, peer) in inside.iter().zip(20..) {
        started.extend(punches(&node.receives(*session, Message::Punch { addr: outside(peer) })));
    }
    assert_eq!(started.len(), 16);
    // The end of one makes room for another.
    let (ended, ..) = started[0];
    node.dial_fails(ended);
    let mut more = 0;
    for _ in 0..30 {
        wait_alive(&mut node, &all, 1);
        for (session, peer) in inside.iter().zip(20..) {
            more += punches(&node.receives(*session, Message::Punch { addr: outside(peer) })).len();
        }
    }
    assert_eq!(more, 1);
}

/// Found by seed 990048195: the connection to the carrier was a duplicate, and the program knew it no more.
#[test]
fn nothing_is_punched_beside_a_connection_that_this_node_closes() {
    for is_closed_first in [false, true] {
        let (mut node, _, inside) = carried_node(8);
        node.measures(inside, ms(100));
        let deny = Input::Access(Access::default().deny([id(3)]));
        let mut outputs = Vec::new();
        if is_closed_first {
            node.handle(deny.clone());
        }
        outputs.extend(node.receives(inside, Message::Punch { addr: THEIRS }));
        assert_eq!(proposals(&outputs, inside), usize::from(!is_closed_first));
        if !is_closed_first {
            node.handle(deny);
        }
        outputs.extend(node.wait(SECOND));
        assert_eq!(punches(&outputs), []);
    }
}

/// Keys are free: each of these peers comes through a circuit once, and gives way to the next.
#[test]
fn forgotten_peers_leave_no_attempts_behind() {
    let carrier = addr(3);
    let mut node = MeshHarness::with(Config::default().peers_max(4).connect([carrier.into()]));
    let three = node.first_dial();
    node.up_at(three, id(3), 1, carrier);
    for peer in 20..60 {
        let inside = enter(&mut node, three, peer);
        // The mesh asserts that it keeps no more attempts than it knows peers.
        node.down(inside, DisconnectReason::Bye(ByeReason::Leaving));
    }
}

/// Node 9 behind a NAT, with a public carrier, and a peer that the carrier lists at this address.
fn node_with_peer_at(peer: u8, listed: SocketAddr, knows_peer: bool) -> (MeshHarness, [SessionId; 2]) {
    let named = if knows_peer { [id(3), id(peer)] } else { [id(3); 2] };
    let config = Config::default().connect([outside(3).into()]);
    let config = if knows_peer { config.access(Access::default().allow(named)) } else { config };
    let mut node = MeshHarness::with(config);
    let three = node.first_dial();
    node.up_at(three, id(3), 1, outside(3));
    node.list(three, [(id(peer), listed)].into_iter());
    node.receives(three, Message::SeenAt { addr: OWN });
    let inside = enter_from(&mut node, three, peer, outside(3));
    (node, [three, inside])
}

/// The addresses that the node proposes, or answers with, in this session.
fn told(outputs: &[Output], to: SessionId) -> Vec<SocketAddr> {
    let punch = |(session, message): (SessionId, &Message)| match message {
        Message::Punch { addr } if session == to => Some(*addr),
        _ => None,
    };
    sent(outputs).into_iter().filter_map(punch).collect()
}

/// Where the peer is inside, in the same network as this node.
const THEIR_INNER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 20)), 50_000);

#[test]
fn inner_addresses_are_named_to_and_taken_from_known_peers_behind_the_same_nat_only() {
    let own_nat = SocketAddr::new(OWN.ip(), 8080);
    for (listed, knows_peer) in [(own_nat, true), (own_nat, false), (outside(20), true)] {
        let is_inside = listed == own_nat && knows_peer;
        // Node 9 leads the pair.
        let (mut node, [_, inside]) = node_with_peer_at(20, listed, knows_peer);
        let outputs = node.wait_with_dials_open(SECOND);
        assert_eq!(told(&outputs, inside), [if is_inside { INNER } else { OWN }]);
        let outputs = node.receives(inside, Message::Punch { addr: THEIR_INNER });
        assert_eq!(punches(&outputs).len(), usize::from(is_inside), "{listed} {knows_peer}");
        // The peer leads it.
        let (mut node, [_, inside]) = node_with_peer_at(5, listed, knows_peer);
        let outputs = node.receives(inside, Message::Punch { addr: THEIR_INNER });
        assert_eq!(told(&outputs, inside), if is_inside { vec![INNER] } else { vec![] });
        // An outside address is answered by an outside one.
        let (mut node, [_, inside]) = node_with_peer_at(5, listed, knows_peer);
        let outputs = node.receives(inside, Message::Punch { addr: THEIRS });
        assert_eq!(told(&outputs, inside), [OWN]);
    }
    // One attempt goes through the NAT.
    let (mut node, sessions) = node_with_peer_at(20, own_nat, true);
    let outputs = wait_alive(&mut node, &sessions, 5);
    assert_eq!(told(&outputs, sessions[1]), [INNER, OWN]);
}
