//! A member that asks for circuits and breaks their rules. Each ends one circuit, and harms no session.

use p2p_gossip::internals::wire::{CIRCUIT_BYTES_MAX, CircuitId, CircuitReason, Message};

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw};

/// Circuits that a stranger may have at a carrier.
const OF_A_STRANGER: u64 = 32;

/// Reads until the node closes this circuit. Returns the reason.
fn closed(raw: &mut Raw, wanted: CircuitId) -> CircuitReason {
    loop {
        match raw.receive() {
            Ok(Message::CircuitClose { circuit, reason }) if circuit == wanted => return reason,
            Ok(_) => {}
            Err(ending) => panic!("the session ended: {ending:?}"),
        }
    }
}

/// Reads until the circuit is open.
fn wait_accepted(raw: &mut Raw, wanted: CircuitId) {
    loop {
        match raw.receive() {
            Ok(Message::CircuitAccept { circuit }) if circuit == wanted => return,
            Ok(_) => {}
            Err(ending) => panic!("the session ended: {ending:?}"),
        }
    }
}

#[test]
fn bad_circuits_end_alone() {
    let attack = Attack::start();
    let (victim, honest) = (attack.cluster.id(attack.victim), attack.cluster.id(attack.honest));
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    attack.wait_up(me.id());
    // The names that this end of the session gives.
    let name = |n: u64| n << 1 | u64::from(me.id() > victim);
    let open = |raw: &mut Raw, n, target| {
        raw.send(&Message::CircuitOpen { circuit: name(n), target }).unwrap();
    };
    // To itself, to the carrier, to a peer that does not exist.
    for (n, target) in [(1, me.id()), (2, victim), (3, Credentials::new().id())] {
        open(&mut raw, n, target);
        assert_eq!(closed(&mut raw, name(n)), CircuitReason::NotConnected);
    }
    // A name that the carrier gives.
    raw.send(&Message::CircuitOpen { circuit: name(4) ^ 1, target: honest }).unwrap();
    assert_eq!(closed(&mut raw, name(4) ^ 1), CircuitReason::Limit);
    // Data and credit for circuits that are not open, and an answer to a question that was not asked.
    let bytes = vec![7; CIRCUIT_BYTES_MAX];
    for circuit in [name(5), name(5) ^ 1] {
        raw.send(&Message::CircuitData { circuit, bytes: bytes.clone() }).unwrap();
        raw.send(&Message::CircuitCredit { circuit, bytes: u32::MAX }).unwrap();
        raw.send(&Message::CircuitAccept { circuit }).unwrap();
        raw.send(&Message::CircuitClose { circuit, reason: CircuitReason::Ended }).unwrap();
    }
    // More credit than bytes were received, and no bytes at all.
    for (n, empty) in [
        (6, Message::CircuitCredit { circuit: name(6), bytes: 1 << 20 }),
        (7, Message::CircuitData { circuit: name(7), bytes: Vec::new() }),
    ] {
        open(&mut raw, n, honest);
        wait_accepted(&mut raw, name(n));
        raw.send(&empty).unwrap();
        assert_eq!(closed(&mut raw, name(n)), CircuitReason::Credit);
    }
    // More bytes than the window, which are no handshake either: the honest peer or the carrier ends the circuit.
    open(&mut raw, 8, honest);
    wait_accepted(&mut raw, name(8));
    for _ in 0..64 {
        raw.send(&Message::CircuitData { circuit: name(8), bytes: bytes.clone() }).unwrap();
    }
    closed(&mut raw, name(8));
    // Opens without end: first as many as it may have, then more.
    for n in 100..100 + OF_A_STRANGER {
        open(&mut raw, n, honest);
        wait_accepted(&mut raw, name(n));
    }
    for n in 1_000..2_000 {
        open(&mut raw, n, honest);
        assert_eq!(closed(&mut raw, name(n)), CircuitReason::Limit);
    }
    drop(raw);
    attack.end();
}
