//! Names of hosts: how often a name is dialled, which of its addresses are skipped, and what waits for a lookup.

use std::net::SocketAddr;

use p2p_gossip::internals::mesh::{
    DIALS_IN_FLIGHT_MAX, DialError, DisconnectReason, Input, NAME_ROUND, Output, Report, SessionId, Skip,
};
use p2p_gossip::internals::wire::{ByeReason, Message, PeerRecord};
use p2p_gossip::{Config, ConnectAddr, DialAddr, PeerState};

use super::{MINUTE, SECOND, reports};
use crate::sim::mesh_harness::{MeshHarness, OWN_INSTANCE, addr, closes, dialled, dials, id};
use crate::sim::world::all_slots;

/// Node 9 with one name of many nodes as its `--connect` address.
fn node_with_a_name() -> MeshHarness {
    MeshHarness::with(Config::default().connect([ConnectAddr::from(all_slots())]))
}

/// What the last dial to the name skips.
fn skipped(outputs: &[Output]) -> Option<Skip> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Dial { addr, skip, .. } if *addr == all_slots() => Some(skip.clone()),
        _ => None,
    })
}

#[test]
fn name_that_led_to_this_node_is_dialled_again() {
    let mut node = node_with_a_name();
    let session = node.first_dial();
    let outputs = node.up(session, id(9), OWN_INSTANCE);
    assert!(closes(&outputs, session) && reports(&outputs, is_own) == 1, "{outputs:?}");
    for _ in 0..3 {
        let outputs = node.wait_for_dial();
        let (dial, at, _) = dialled(&outputs)[0].clone();
        assert_eq!((at, reports(&outputs, is_own)), (all_slots(), 0));
        node.handle(Input::DialFailed { session: dial, reason: DialError::OwnAddress });
    }
}

fn is_own(report: &Report) -> bool {
    matches!(report, Report::BootstrapIsSelf { .. })
}

#[test]
fn name_is_dialled_until_peers_are_connected_at_all_its_addresses_and_then_ever_more_slowly() {
    let mut node = node_with_a_name();
    let session = node.first_dial();
    node.up(session, id(3), 1);
    let outputs = node.wait_with_dials_open(2 * SECOND);
    assert!(skipped(&outputs).unwrap().addrs.iter().all(|at| *at == addr(3)), "{outputs:?}");
    let (second, ..) = dialled(&outputs)[0];
    node.up(second, id(4), 1);
    node.heartbeat(session, node.mesh.digest());
    let outputs = node.wait_with_dials_open(2 * SECOND);
    let Skip { mut addrs, peers, private } = skipped(&outputs).unwrap();
    addrs.sort();
    addrs.dedup();
    assert_eq!((&addrs[..], &peers[..], private), (&[addr(3), addr(4)][..], &[id(3), id(4)][..], false));
    let (dial, ..) = dialled(&outputs)[0];
    node.handle(Input::DialFailed { session: dial, reason: DialError::NothingNew });
    let mut lookups = 0;
    for _ in 0..5 * 60 {
        for peer in [session, second] {
            node.heartbeat(peer, node.mesh.digest());
        }
        for (dial, at, _) in dialled(&node.wait_with_dials_open(SECOND)) {
            lookups += usize::from(at == all_slots());
            node.handle(Input::DialFailed { session: dial, reason: DialError::NothingNew });
        }
    }
    // The waits of the first minute double from two seconds.
    let rounds = 5 + 4 * MINUTE.as_secs() / NAME_ROUND.as_secs();
    assert!((rounds - 1..=rounds * 4 / 3 + 2).contains(&(lookups as u64)), "{lookups} lookups");
}

/// A proxy leads to another node each time, behind one address.
#[test]
fn name_with_one_address_is_dialled_until_it_leads_to_another_peer() {
    let proxy = addr(50);
    let mut node = node_with_a_name();
    let first = node.first_dial();
    node.up_at(first, id(3), 1, proxy);
    let mut dials = 0;
    for _ in 0..30 {
        node.heartbeat(first, node.mesh.digest());
        let outputs = node.wait_with_dials_open(SECOND);
        for (dial, ..) in dialled(&outputs) {
            dials += 1;
            let skip = skipped(&outputs).unwrap();
            assert!(skip.addrs.contains(&proxy) && skip.peers == [id(3)], "{skip:?}");
            node.handle(Input::DialFailed { session: dial, reason: DialError::NothingNew });
        }
    }
    assert!((4..=7).contains(&dials), "{dials} dials in half a minute");
    let other = loop {
        node.heartbeat(first, node.mesh.digest());
        if let Some((dial, ..)) = dialled(&node.wait_with_dials_open(SECOND)).first() {
            break *dial;
        }
    };
    node.up_at(other, id(4), 1, proxy);
    let joined = |n| node.info(id(n)).is_some_and(|info| info.state == PeerState::Up);
    assert!(joined(3) && joined(4));
    // More may be there.
    assert_eq!(dialled(&node.wait_with_dials_open(2 * SECOND)).len(), 1);
}

#[test]
fn name_is_dialled_again_soon_after_any_peer_behind_it_is_lost() {
    let mut node = node_with_a_name();
    let first = node.first_dial();
    node.up(first, id(3), 1);
    let (last, ..) = dialled(&node.wait_with_dials_open(2 * SECOND))[0];
    node.up(last, id(4), 1);
    let elsewhere = node.meets(5);
    let name_dials = |node: &mut MeshHarness, open: &[SessionId]| {
        open.iter().for_each(|session| drop(node.heartbeat(*session, node.mesh.digest())));
        let outputs = node.wait_with_dials_open(2 * SECOND);
        let dials = dialled(&outputs).into_iter().filter(|(_, at, _)| *at == all_slots());
        let dials: Vec<SessionId> = dials.map(|(dial, ..)| dial).collect();
        for &session in &dials {
            node.handle(Input::DialFailed { session, reason: DialError::NothingNew });
        }
        dials.len()
    };
    let open = [first, last, elsewhere];
    for _ in 0..60 {
        name_dials(&mut node, &open);
    }
    // After the next dial the name rests for most of a minute.
    while name_dials(&mut node, &open) == 0 {}
    node.down(elsewhere, DisconnectReason::Closed);
    assert_eq!(name_dials(&mut node, &[first, last]), 0);
    node.down(first, DisconnectReason::Closed);
    assert_eq!(name_dials(&mut node, &[last]), 1);
}

/// Found by seed 70000143: the first node of a mesh has no `--connect` address itself, and starts again without what it knew.
#[test]
fn name_is_dialled_again_soon_after_its_last_peer_left() {
    let name: DialAddr = "first.example:8080".parse().unwrap();
    let mut node = MeshHarness::with(Config::default().connect([name.clone().into()]));
    let first = node.first_dial();
    node.up(first, id(3), 1);
    let other = node.meets(4);
    node.down(first, DisconnectReason::Bye(ByeReason::Leaving));
    let mut tries = 0;
    for _ in 0..20 {
        node.heartbeat(other, node.mesh.digest());
        let outputs = node.wait(SECOND);
        tries += dialled(&outputs).iter().filter(|(_, addr, _)| *addr == name).count();
    }
    assert!((5..=20).contains(&tries), "{tries} dials");
}

#[test]
fn lookups_hold_no_slot_of_dials_to_addresses() {
    let name = |n: u8| ConnectAddr::from(format!("n{n}.example:1").parse::<DialAddr>().unwrap());
    let mut node = MeshHarness::with(Config::default().connect((0..50).map(name).collect::<Vec<_>>()));
    let sessions: Vec<SessionId> = (20..34).map(|n| node.meets(n)).collect();
    // No name server answers.
    let lookups = dials(&node.wait_with_dials_open(SECOND));
    assert!((1..=DIALS_IN_FLIGHT_MAX).contains(&lookups), "{lookups}");
    sessions.into_iter().for_each(|session| drop(node.down(session, DisconnectReason::Closed)));
    let (mut met, mut outputs) = (0, Vec::new());
    while met < 14 {
        outputs.extend(node.wait_with_dials_open(SECOND));
        let peers = dialled(&std::mem::take(&mut outputs));
        assert!(!peers.is_empty(), "{met} of 14 peers met, and no dial");
        for (dial, _, expected) in peers {
            met += 1;
            outputs.extend(node.up(dial, expected.id().unwrap(), 1));
        }
    }
}

#[test]
fn name_that_only_peers_outside_of_private_networks_tell_leads_into_none() {
    let mut node = MeshHarness::new(&[]);
    let near = node.meets(3);
    let far = SessionId::accepted(100);
    node.up_at(far, id(4), 1, SocketAddr::from(([192, 0, 2, 4], 8080)));
    let name = |n: u8| format!("n{n}.example:8080").parse::<DialAddr>().unwrap();
    let tell = |node: &mut MeshHarness, teller, n| {
        let record = PeerRecord { id: id(n), addrs: vec![name(n)], connected: true };
        node.receives(teller, Message::Peers { records: vec![record], more: false })
    };
    for (teller, n) in [(far, 20), (near, 21)] {
        tell(&mut node, teller, n);
    }
    let outputs = node.wait_with_dials_open(3 * SECOND);
    let private_skipped = |n| {
        let dial = outputs.iter().find_map(|output| match output {
            Output::Dial { addr, skip, .. } if *addr == name(n) => Some(skip.private),
            _ => None,
        });
        dial.unwrap_or_else(|| panic!("no dial to {}", name(n)))
    };
    assert_eq!([20, 21].map(private_skipped), [true, false]);
}
