//! Carrying: what a node carries for others, within which limits, and what a bad peer achieves.

use p2p_gossip::internals::mesh::{CircuitAt, DisconnectReason, Output, SessionId};
use p2p_gossip::internals::wire::{CircuitReason, Message};
use p2p_gossip::{Access, Config};

use super::relay::{accept, at, carried_node, closed, open, refuse};
use super::{SECOND, joined_node};
use crate::sim::mesh_harness::{MeshHarness, closes, id, known, sent};

#[test]
fn carrier_joins_the_circuits_of_two_peers() {
    let (mut node, three) = joined_node();
    let four = node.meets(4);
    let outputs = open(&mut node, at(three, 1), 4);
    let [Output::Carry { circuits: [from, to], .. }, Output::Send { session, message }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((*from, to.session, *session), (at(three, 1), four, four));
    assert_eq!(*message, Message::CircuitOffer { circuit: to.circuit, from: id(3) });
    assert_eq!(node.mesh.status(node.now()).circuits_carried, 1);
    // The peer that asked cannot accept its own circuit.
    assert_eq!(accept(&mut node, *from), []);
    assert_eq!(sent(&accept(&mut node, *to)), [(three, &Message::CircuitAccept { circuit: 2 })]);
    refuse(&mut node, *to, CircuitReason::Ended);
    assert_eq!(node.mesh.status(node.now()).circuits_carried, 0);
    // A session that ends takes its circuits with it.
    open(&mut node, at(three, 2), 4);
    node.down(four, DisconnectReason::Closed);
    assert_eq!(node.mesh.status(node.now()).circuits_carried, 0);
}

#[test]
fn carrier_refuses_what_it_cannot_or_may_not_carry() {
    let (mut node, three) = joined_node();
    node.meets(4);
    // To itself, to the carrier, to an unknown peer.
    for target in [3, 9, 77] {
        let outputs = open(&mut node, at(three, 1), target);
        assert_eq!(closed(&outputs), [(at(three, 1), CircuitReason::NotConnected)]);
    }
    // A name that is taken, and one that only the carrier gives.
    open(&mut node, at(three, 1), 4);
    assert_eq!(closed(&open(&mut node, at(three, 1), 4)), [(at(three, 1), CircuitReason::Limit)]);
    let odd = CircuitAt { session: three, circuit: 3 };
    assert_eq!(closed(&open(&mut node, odd, 4)), [(odd, CircuitReason::Limit)]);

    let mut node = MeshHarness::with(Config::default().relay(false));
    let (three, _) = (node.meets(3), node.meets(4));
    let outputs = open(&mut node, at(three, 1), 4);
    assert_eq!(closed(&outputs), [(at(three, 1), CircuitReason::NotCarrying)]);
}

#[test]
fn stranger_gets_its_share_of_circuits_and_leaves_others_theirs() {
    let (mut node, three) = joined_node();
    let (five, _) = (node.meets(5), node.meets(4));
    let carried = |node: &mut MeshHarness, session| {
        (1..1000).take_while(|&n| closed(&open(node, at(session, n), 4)).is_empty()).count()
    };
    assert_eq!((carried(&mut node, three), carried(&mut node, five)), (32, 32));
    assert_eq!(closed(&open(&mut node, at(three, 2000), 4)), [(at(three, 2000), CircuitReason::Limit)]);
}

/// The number of circuits of 2000 that a peer opens to 4, each closed at once, until one is refused.
fn churned(node: &mut MeshHarness, from: SessionId, first: u64) -> usize {
    let opens_and_closes = |n: &u64| {
        let is_open = closed(&open(node, at(from, *n), 4)).is_empty();
        refuse(node, at(from, *n), CircuitReason::Ended);
        is_open
    };
    (first..first + 2_000).take_while(opens_and_closes).count()
}

#[test]
fn peer_that_opens_and_closes_circuits_without_end_costs_the_target_few() {
    let mut node = MeshHarness::remembering(vec![known(5)]);
    let [three, five, six, _] = [3, 5, 6, 4].map(|n| node.meets(n));
    assert_eq!(churned(&mut node, three, 1), 128);
    let outputs = open(&mut node, at(three, 5_000), 4);
    assert_eq!(closed(&outputs), [(at(three, 5_000), CircuitReason::Limit)]);
    assert_eq!(outputs.len(), 1, "the target hears nothing of it");
    // Others keep theirs, and a peer above strangers has more.
    assert_eq!((churned(&mut node, six, 1), churned(&mut node, five, 1)), (128, 512));
    // It may go on at its rate.
    node.wait(SECOND);
    assert_eq!(churned(&mut node, three, 10_000), 8);
}

#[test]
fn strangers_together_open_and_close_circuits_at_a_limited_rate() {
    let mut node = MeshHarness::remembering(vec![known(5)]);
    let strangers = [1, 2, 3, 6, 7].map(|n| node.meets(n));
    let [five, _] = [5, 4].map(|n| node.meets(n));
    let opened: usize = strangers.into_iter().map(|stranger| churned(&mut node, stranger, 1)).sum();
    assert_eq!((opened, churned(&mut node, five, 1)), (512, 512));
}

#[test]
fn nothing_is_carried_inside_a_circuit() {
    let (mut node, _, inside, _) = carried_node();
    // 20 names its circuits with odd numbers, as its id is larger.
    let within = CircuitAt { session: inside, circuit: 3 };
    assert_eq!(closed(&open(&mut node, within, 4)), [(within, CircuitReason::NotCarrying)]);
    let outputs = node.receives(inside, Message::CircuitOffer { circuit: 3, from: id(50) });
    assert_eq!(closed(&outputs), [(within, CircuitReason::NotConnected)]);
}

#[test]
fn carrier_that_has_said_goodbye_to_the_opener_closes_the_circuit() {
    let mut node = MeshHarness::new(&[]);
    let (twenty, _) = (node.meets(20), node.meets(4));
    let outputs = open(&mut node, CircuitAt { session: twenty, circuit: 3 }, 4);
    let [Output::Carry { circuits: [_, to], .. }, ..] = outputs[..] else { panic!("{outputs:?}") };
    assert!(closes(&node.up(SessionId::accepted(7), id(20), 1), twenty), "9 is the arbiter of the pair");
    let outputs = accept(&mut node, to);
    assert_eq!((sent(&outputs), closed(&outputs)), (vec![], vec![(to, CircuitReason::Gone)]));
    assert_eq!(node.mesh.status(node.now()).circuits_carried, 0);
}

#[test]
fn peer_that_the_lists_exclude_is_not_carried_for() {
    let deny = Access::default().deny([id(3)]);
    let mut node = MeshHarness::with(Config::default().access(deny));
    node.meets(4);
    let three = node.meets(3);
    assert_eq!(open(&mut node, at(three, 1), 4), [], "this node has said goodbye on that session");
    assert_eq!(node.mesh.status(node.now()).circuits_carried, 0);
}
