//! Admission of peers: access lists, pins, and addresses that belong to a known peer.

use std::net::SocketAddr;

use p2p_gossip::internals::Expected;
use p2p_gossip::internals::mesh::{DialError, DisconnectReason, Input, Output, Report, SessionId};
use p2p_gossip::internals::wire::{ByeReason, Message};
use p2p_gossip::{Access, Config, DialAddr, DownReason, Event, PeerId};

use super::{SECOND, reported};
use crate::sim::mesh_harness::{MeshHarness, addr, closes, dialled, dials, events_of, id, known};

fn denying(denied: &[PeerId]) -> Access {
    Access::default().deny(denied.iter().copied())
}

fn dials_expecting(outputs: &[Output]) -> Vec<(SessionId, Expected)> {
    let dial = |output: &Output| match output {
        Output::Dial { session, expected, .. } => Some((*session, *expected)),
        _ => None,
    };
    outputs.iter().filter_map(dial).collect()
}

#[test]
fn denied_peer_is_refused_and_not_dialled_until_admitted_again() {
    let mut node = MeshHarness::new(&[]);
    let session = SessionId::accepted(1);
    node.up(session, id(3), 1);
    let outputs = node.handle(Input::Access(denying(&[id(3)])));
    let close = Output::Close { session, reason: ByeReason::NotAdmitted };
    assert!(outputs.contains(&close), "{outputs:?}");
    assert!(
        matches!(events_of(&outputs)[..], [Event::Down { reason: DownReason::Denied, .. }]),
        "{outputs:?}"
    );
    node.down(session, DisconnectReason::Closed);
    let mut quiet = node.wait(600 * SECOND);
    // Neither a list that names the peer nor a handshake that ends after the change of the access lists admits it.
    let other = SessionId::accepted(2);
    quiet.extend(node.up(other, id(4), 1));
    quiet.extend(node.list(other, [(id(3), addr(5))].into_iter()));
    quiet.extend(node.wait(2 * SECOND));
    let late = SessionId::accepted(3);
    quiet.extend(node.up(late, id(3), 1));
    assert!(closes(&quiet, late));
    assert_eq!(dials(&quiet), 0, "{quiet:?}");
    assert_eq!(node.mesh.members(), 2);
    node.handle(Input::Access(Access::default()));
    assert!(dials(&node.wait(SECOND / 5)) > 0);
}

#[test]
fn denied_peer_is_not_listed() {
    let mut node = MeshHarness::new(&[]);
    node.up(SessionId::accepted(1), id(3), 1);
    node.up(SessionId::accepted(2), id(4), 1);
    node.handle(Input::Access(denying(&[id(3)])));
    let outputs = node.receives(SessionId::accepted(2), Message::PeersRequest);
    let empty = |output: &Output| matches!(output, Output::Send { message: Message::Peers { records, .. }, .. } if records.is_empty());
    assert!(outputs.iter().any(empty), "{outputs:?}");
}

#[test]
fn dial_to_a_newly_denied_peer_is_cancelled() {
    let mut node = MeshHarness::new(&[]);
    node.up(SessionId::accepted(1), id(3), 1);
    node.list(SessionId::accepted(1), [(id(4), addr(4))].into_iter());
    let (dial, _) = dials_expecting(&node.wait_for_dial())[0];
    assert!(closes(&node.handle(Input::Access(denying(&[id(4)]))), dial));
    node.handle(Input::DialFailed { session: dial, reason: DialError::Cancelled });
    assert!(node.mesh.peers(std::time::Instant::now()).iter().all(|peer| peer.id != id(4)));
}

#[test]
fn allow_list_applies_to_bootstrap_addresses_too() {
    let pinned = format!("{}@{}", id(3), addr(3)).parse().unwrap();
    let access = Access::default().allow([id(4)]);
    let mut node = MeshHarness::with(Config::default().connect([pinned]).access(access));
    let outputs = node.wait(300 * SECOND);
    assert_eq!(dials(&outputs), 0);
    assert!(matches!(reported(&outputs)[..], [Report::BootstrapUnreachable { .. }]), "{outputs:?}");
    node.handle(Input::Access(Access::default()));
    assert!(dials(&node.wait(SECOND)) > 0);
}

#[test]
fn pin_accepts_its_peer_only_and_reports_another_once() {
    let pin = format!("{}", id(3))[..16].to_owned();
    let connect = format!("{pin}@{}", addr(3)).parse().unwrap();
    let mut node = MeshHarness::with(Config::default().connect([connect, addr(3).into()]));
    let wrong = DialError::WrongId { found: id(4) };
    let first = node.first_dial();
    let outputs = node.handle(Input::DialFailed { session: first, reason: wrong.clone() });
    assert!(
        matches!(reported(&outputs)[..], [Report::WrongPin { found, .. }] if *found == id(4)),
        "{outputs:?}"
    );
    assert!(node.mesh.peers(std::time::Instant::now()).is_empty(), "the node records no peer");
    // Meeting another peer at that address, through a list, does not satisfy the pin.
    node.up(SessionId::accepted(1), id(5), 1);
    node.list(SessionId::accepted(1), [(id(4), addr(3))].into_iter());
    let (mut again, mut pinned, mut is_met) = (Vec::new(), 0, false);
    while pinned < 5 || !is_met {
        let outputs = node.wait_for_dial();
        for (session, expected) in dials_expecting(&outputs) {
            let is_pinned = expected == Expected::Pinned(pin.parse().unwrap());
            assert!(is_pinned || expected != Expected::AnyPeer);
            pinned += usize::from(is_pinned);
            if expected == Expected::Peer(id(4)) && !is_met {
                node.up_at(session, id(4), 1, addr(3));
                is_met = true;
            } else {
                again.extend(node.handle(Input::DialFailed { session, reason: wrong.clone() }));
            }
        }
    }
    assert!(!reported(&again).iter().any(|report| matches!(report, Report::WrongPin { .. })));
    // After the pinned peer has connected, the node does not dial the pinned address.
    node.up(SessionId::accepted(2), id(3), 1);
    let outputs = node.wait(2 * SECOND);
    assert!(!dials_expecting(&outputs).iter().any(|(_, expected)| matches!(expected, Expected::Pinned(_))));
}

/// A node that has met node 3 at its bootstrap address and has lost it.
fn node_that_lost_its_peer(strict: bool) -> MeshHarness {
    let mut node = MeshHarness::with(Config::default().connect([addr(3).into()]).strict(strict));
    let session = node.first_dial();
    node.up(session, id(3), 1);
    node.down(session, DisconnectReason::Closed);
    node
}

#[test]
fn other_key_at_a_known_address_is_reported_once_as_another_peer() {
    let mut node = node_that_lost_its_peer(false);
    let (session, expected) = dials_expecting(&node.wait_for_dial())[0];
    assert_eq!(expected, Expected::Peer(id(3)));
    let outputs = node.handle(Input::DialFailed { session, reason: DialError::WrongId { found: id(4) } });
    let wrong = |report: &&&Report| matches!(report, Report::WrongId { is_refused: false, .. });
    assert_eq!(reported(&outputs).iter().filter(wrong).count(), 1, "{outputs:?}");
    loop {
        let outputs = node.wait_for_dial();
        let (session, expected) = dials_expecting(&outputs)[0];
        if expected.is_met_by(&id(4)) {
            let outputs = node.up_at(session, id(4), 1, addr(3));
            assert_eq!(reported(&outputs).iter().filter(wrong).count(), 0, "{outputs:?}");
            break;
        }
        node.handle(Input::DialFailed { session, reason: DialError::WrongId { found: id(4) } });
    }
    let peers = node.mesh.peers(std::time::Instant::now());
    assert_eq!(peers.iter().map(|peer| peer.id).collect::<Vec<_>>(), [id(3), id(4)]);
}

#[test]
fn strict_node_dials_only_the_known_peer_at_its_address() {
    let mut node = node_that_lost_its_peer(true);
    let mut outputs = Vec::new();
    for _ in 0..10 {
        let new = node.wait_for_dial();
        let (session, expected) = dials_expecting(&new)[0];
        assert_eq!(expected, Expected::Peer(id(3)), "the bootstrap address belongs to node 3, too");
        outputs.extend(new);
        outputs
            .extend(node.handle(Input::DialFailed { session, reason: DialError::WrongId { found: id(4) } }));
    }
    let wrong = |report: &&&Report| matches!(report, Report::WrongId { is_refused: true, .. });
    assert_eq!(reported(&outputs).iter().filter(wrong).count(), 1);
    assert_eq!(node.mesh.peers(std::time::Instant::now()).len(), 1);
    // Node 3 returns to its address.
    let (session, _) = dials_expecting(&node.wait_for_dial())[0];
    node.up(session, id(3), 2);
    assert_eq!(node.mesh.members(), 2);
}

#[test]
fn strict_node_refuses_a_claim_to_a_known_address() {
    let mut node = node_that_lost_its_peer(true);
    let stranger = SessionId::accepted(1);
    let outputs = node.up_at(stranger, id(4), 1, SocketAddr::from((addr(3).ip(), 40_000)));
    let close = Output::Close { session: stranger, reason: ByeReason::AddressTaken };
    assert!(outputs.contains(&close), "{outputs:?}");
    // The node admits the peer from another address, and lists do not make it dial the peer at the protected one.
    node.up(SessionId::accepted(2), id(5), 1);
    node.list(SessionId::accepted(2), [(id(4), addr(3))].into_iter());
    let outputs = node.wait(2 * SECOND);
    assert!(dials_expecting(&outputs).iter().all(|(_, expected)| *expected != Expected::Peer(id(4))));
    assert!(!closes(&node.up(SessionId::accepted(3), id(4), 1), SessionId::accepted(3)));
    assert_eq!(node.mesh.members(), 3);
}

#[test]
fn pin_overrides_a_known_address_of_a_strict_node() {
    let pinned = format!("{}@{}", id(4), addr(3)).parse().unwrap();
    let connect = vec![format!("{}@{}", id(3), addr(3)).parse().unwrap(), pinned];
    let mut node = MeshHarness::with(Config::default().connect(connect).strict(true));
    let session = node.first_dial();
    node.up(session, id(3), 1);
    node.down(session, DisconnectReason::Closed);
    let replacement = SessionId::accepted(1);
    node.up_at(replacement, id(4), 1, SocketAddr::from((addr(3).ip(), 40_000)));
    assert_eq!(node.mesh.open_sessions(&id(4)), [replacement]);
}

#[test]
fn strict_node_protects_restored_addresses() {
    let mut node = MeshHarness::with(Config::default().strict(true));
    node.restore(vec![known(3)]);
    let stranger = SessionId::accepted(1);
    let outputs = node.up_at(stranger, id(4), 1, SocketAddr::from((addr(3).ip(), 40_000)));
    let close = Output::Close { session: stranger, reason: ByeReason::AddressTaken };
    assert!(outputs.contains(&close), "{outputs:?}");
}

/// A node with `--strict`, to which a peer has dialled from its usual address. The peer is dead now.
fn strict_node_whose_caller_died() -> MeshHarness {
    let mut node = MeshHarness::with(Config::default().strict(true));
    node.up(SessionId::accepted(1), id(3), 1);
    node.down(SessionId::accepted(1), DisconnectReason::Closed);
    node
}

#[test]
fn strict_node_protects_the_address_that_a_peer_came_from() {
    let mut node = strict_node_whose_caller_died();
    let stranger = SessionId::accepted(2);
    let from = SocketAddr::from((addr(3).ip(), 40_000));
    assert!(closes(&node.up_at(stranger, id(4), 1, from), stranger));
    let same = SessionId::accepted(3);
    assert!(!closes(&node.up_at(same, id(3), 1, from), same));
    // The next run protects it, too.
    let known = node.mesh.known_peers();
    let mut node = MeshHarness::with(Config::default().strict(true));
    node.restore(known);
    assert!(closes(&node.up_at(stranger, id(4), 1, from), stranger));
}

#[test]
fn strict_node_protects_the_address_of_a_stranger_without_a_place_in_the_table() {
    let mut node = MeshHarness::with(Config::default().strict(true).peers_max(4));
    node.up(SessionId::accepted(1), id(3), 1);
    node.down(SessionId::accepted(1), DisconnectReason::Closed);
    for n in 20..60 {
        let session = node.meets(n);
        node.down(session, DisconnectReason::Closed);
    }
    assert!(node.info(id(3)).is_none());
    let (other, same) = (SessionId::accepted(2), SessionId::accepted(3));
    assert!(closes(&node.up_at(other, id(4), 1, addr(3)), other));
    assert!(!closes(&node.up_at(same, id(3), 1, addr(3)), same));
}

#[test]
fn strict_node_admits_all_peers_behind_one_address_translation() {
    let mut node = MeshHarness::with(Config::default().strict(true));
    let router = |port: u16| SocketAddr::from((addr(3).ip(), port));
    for n in 3..6 {
        let session = SessionId::accepted(n.into());
        let outputs = node.up_at(session, id(n), 1, router(40_000 + u16::from(n)));
        assert!(!closes(&outputs, session), "{outputs:?}");
    }
}

/// Node 4 answers at an address of node 3, which node 3 only claims. With `is_owned` node 5 was met there.
#[test]
fn peer_that_answers_in_place_of_another_is_dialled_there_unless_a_strict_node_protects_the_address() {
    for (strict, is_owned) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut node = MeshHarness::with(Config::default().strict(strict));
        let mut claiming = known(3);
        claiming.addrs[0].addr = addr(5).into();
        claiming.addrs[0].last_success = None;
        node.restore(if is_owned { vec![claiming, known(5)] } else { vec![claiming] });
        let mut is_found = false;
        while !is_found {
            for (session, at, expected) in dialled(&node.wait_for_dial()) {
                if expected == Expected::Peer(id(3)) && at == addr(5).into() {
                    node.dial_finds(session, id(4));
                    is_found = true;
                } else {
                    node.dial_fails(session);
                }
            }
        }
        let there = (DialAddr::from(addr(5)), Expected::Peer(id(4)));
        let outputs = node.wait(2 * SECOND);
        let is_dialled = dialled(&outputs).into_iter().any(|(_, at, expected)| (at, expected) == there);
        assert_eq!(is_dialled, !(strict && is_owned), "strict: {strict}, owned: {is_owned}");
    }
}
