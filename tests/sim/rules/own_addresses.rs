//! The addresses of a node that its peers do not see: which of them are told, and what a peer's word does.

use std::net::SocketAddr;

use p2p_gossip::internals::limits::ADDRS_MAX;
use p2p_gossip::internals::mesh::{DisconnectReason, Input, Output, SessionId};
use p2p_gossip::internals::wire::{Hello, Message, REACHABLE_AT_CAPABILITY};
use p2p_gossip::{Config, DialAddr};

use super::relay::{at, entered, offer};
use super::{MINUTE, SECOND, joined_node};
use crate::sim::mesh_harness::{INNER, MeshHarness, addr, dialled, hello, id, listed, sent};

fn outside(port: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 7], port))
}

/// The sessions on which the node tells this address.
fn told(outputs: &[Output], at: SocketAddr) -> Vec<SessionId> {
    let is_told = |message: &Message| *message == Message::ReachableAt { addr: at };
    sent(outputs).into_iter().filter(|(_, message)| is_told(message)).map(|(session, _)| session).collect()
}

fn persists(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Persist))
}

#[test]
fn connected_and_new_peers_are_told_if_they_understand() {
    let mut node = MeshHarness::new(&[]);
    let understands = || Hello { capabilities: vec![REACHABLE_AT_CAPABILITY], ..hello() };
    let [first, old, second, third] = [1, 2, 3, 4].map(SessionId::accepted);
    node.up_with_hello(first, id(3), addr(3), understands());
    node.up(old, id(4), 1);
    assert_eq!(told(&node.handle(Input::Mapped(Some(outside(1)))), outside(1)), [first]);
    // The router has another address now.
    assert_eq!(told(&node.handle(Input::Mapped(Some(outside(2)))), outside(2)), [first]);
    assert_eq!(told(&node.up_with_hello(second, id(5), addr(5), understands()), outside(2)), [second]);
    assert!(sent(&node.handle(Input::Mapped(None))).is_empty());
    let outputs = node.up_with_hello(third, id(6), addr(6), understands());
    assert_eq!(told(&outputs, outside(2)), []);
}

/// Found by seed 982000547.
#[test]
fn leaving_node_tells_no_address() {
    let mut node = MeshHarness::new(&[]);
    let understands = Hello { capabilities: vec![REACHABLE_AT_CAPABILITY], ..hello() };
    node.up_with_hello(SessionId::accepted(1), id(3), addr(3), understands);
    node.handle(Input::Leave);
    assert!(sent(&node.handle(Input::Mapped(Some(outside(1))))).is_empty());
}

#[test]
fn lost_peer_is_dialled_where_its_router_passes_on_connections() {
    let (mut node, three) = joined_node();
    for _ in 0..MINUTE.as_secs() + 1 {
        node.heartbeat(three, 0);
        node.wait(SECOND);
    }
    assert!(persists(&node.receives(three, Message::ReachableAt { addr: outside(1) })));
    assert!(!persists(&node.receives(three, Message::ReachableAt { addr: outside(1) })), "it is no news");
    node.down(three, DisconnectReason::Closed);
    let dialled = dialled(&node.wait(10 * SECOND));
    assert!(dialled.iter().any(|(_, at, _)| *at == outside(1).into()), "{dialled:?}");
}

#[test]
fn peer_that_names_ever_more_addresses_keeps_only_a_few() {
    let (mut node, three) = joined_node();
    let named = (1..1000)
        .filter(|&port| persists(&node.receives(three, Message::ReachableAt { addr: outside(port) })));
    assert!(named.count() < ADDRS_MAX);
    assert_eq!(node.info(id(3)).unwrap().addrs.len(), ADDRS_MAX);
}

/// The carrier sees this node at the address of its NAT, or at its own. A NAT may let in connections of the carrier.
/// Found by seed 991000041.
#[test]
fn peer_inside_a_circuit_is_not_told_an_address_behind_a_nat() {
    let cases = [(None, false), (Some(outside(1)), false), (Some(INNER), true)];
    for ((seen_at, is_told), is_carrier_dialled) in cases.into_iter().flat_map(|c| [(c, true), (c, false)]) {
        let mut node = MeshHarness::with(Config::default().connect([addr(3).into()]));
        let three = if is_carrier_dialled { node.first_dial() } else { SessionId::accepted(1) };
        node.up_at(three, id(3), 1, addr(3));
        if let Some(addr) = seen_at {
            node.receives(three, Message::SeenAt { addr });
        }
        let outputs = offer(&mut node, at(three, 1), 20);
        let [(inside, _)] = entered(&outputs)[..] else { panic!("{outputs:?}") };
        let understands = Hello { capabilities: vec![REACHABLE_AT_CAPABILITY], ..hello() };
        let outputs = node.up_with_hello(inside, id(20), addr(3), understands);
        let at = told(&outputs, SocketAddr::new(INNER.ip(), 8080));
        assert_eq!(at, if is_told { vec![inside] } else { vec![] }, "{seen_at:?}, {is_carrier_dialled}");
    }
}

/// Found by seed 987089147: of eight nodes most could not connect to each other, and two that could never heard of it.
#[test]
fn peer_inside_a_circuit_hears_where_this_node_listens_and_is_listed_where_it_says_that_it_does() {
    let (mut node, three) = joined_node();
    node.receives(three, Message::SeenAt { addr: INNER });
    let outputs = offer(&mut node, at(three, 1), 20);
    let [(inside, _)] = entered(&outputs)[..] else { panic!("{outputs:?}") };
    let understands = Hello { capabilities: vec![REACHABLE_AT_CAPABILITY], ..hello() };
    let outputs = node.up_with_hello(inside, id(20), addr(3), understands);
    assert_eq!(told(&outputs, SocketAddr::new(INNER.ip(), 8080)), [inside]);
    let listed_to = |node: &mut MeshHarness, n| {
        let session = node.meets(n);
        let records = listed(&node.receives(session, Message::PeersRequest));
        records.into_iter().filter(|record| record.id == id(20)).flat_map(|record| record.addrs).collect()
    };
    let addrs: Vec<DialAddr> = listed_to(&mut node, 4);
    assert_eq!(addrs, [], "20 has said nothing, and the carrier has not told where it is");
    node.receives(inside, Message::ReachableAt { addr: addr(20) });
    assert_eq!(dialled(&node.wait(SECOND)).len(), 1, "it is dialled beside the circuit");
    let addrs: Vec<DialAddr> = listed_to(&mut node, 5);
    assert_eq!(addrs, [addr(20).into()]);
}
