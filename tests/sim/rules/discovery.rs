//! Beacons: an address from a beacon is dialled as the claim of its machine, and no more.

use std::net::SocketAddr;

use p2p_gossip::internals::Expected;
use p2p_gossip::internals::beacon::Beacon;
use p2p_gossip::internals::mesh::{
    BEACON_DIALS_MAX, BEACON_DIALS_PER_MACHINE, CREDIT_MAX, DisconnectReason, Input, Output, Report,
    SessionId,
};
use p2p_gossip::internals::wire::ByeReason;
use p2p_gossip::{Access, Config};

use super::{MINUTE, SECOND, reported};
use crate::sim::mesh_harness::{MeshHarness, OWN_INSTANCE, addr, dialled, dials, events_of, id, known};

/// A beacon of the process with this number from this address.
fn beacon(instance: u64, addr: SocketAddr) -> Input {
    Input::Beacon(Beacon { instance, addr })
}

/// A beacon from this address arrives. Returns the dials within a second, all of which stay open.
fn hears(node: &mut MeshHarness, addr: SocketAddr) -> Vec<(SessionId, Expected)> {
    hears_process(node, 1_000, addr)
}

/// A beacon of the process with this number arrives from this address. Returns the dials as [`hears`].
fn hears_process(node: &mut MeshHarness, instance: u64, addr: SocketAddr) -> Vec<(SessionId, Expected)> {
    let mut outputs = node.handle(beacon(instance, addr));
    outputs.extend(node.wait_with_dials_open(SECOND));
    let dials = dialled(&outputs).into_iter();
    dials
        .map(|(session, to, expected)| {
            assert_eq!(to, addr.into());
            (session, expected)
        })
        .collect()
}

#[test]
fn any_peer_may_answer_where_a_beacon_came_from() {
    let mut node = MeshHarness::new(&[]);
    let [(session, expected)] = hears(&mut node, addr(3))[..] else { panic!("one dial") };
    assert_eq!(expected, Expected::AnyPeer);
    assert!(hears(&mut node, addr(3)).is_empty(), "the dial is under way");
    let outputs = node.up(session, id(3), 1);
    assert_eq!(events_of(&outputs).len(), 1, "{outputs:?}");
    assert!(hears(&mut node, addr(3)).is_empty(), "the peer is connected");
    // The peer is lost: it is redialled like any other, and its next beacon is dialled, too.
    let outputs = node.down(session, DisconnectReason::Closed);
    assert_eq!(events_of(&outputs).len(), 1, "{outputs:?}");
    assert!(!hears(&mut node, addr(3)).is_empty());
}

#[test]
fn beacon_of_a_peer_that_is_connected_from_there_is_not_dialled() {
    let mut node = MeshHarness::new(&[]);
    node.meets(3);
    assert!(hears(&mut node, addr(3)).is_empty());
}

#[test]
fn process_with_two_addresses_is_dialled_at_one() {
    let mut node = MeshHarness::new(&[]);
    let second: SocketAddr = "192.168.0.3:8080".parse().unwrap();
    let [(session, _)] = hears_process(&mut node, 7, addr(3))[..] else { panic!("one dial") };
    assert!(hears_process(&mut node, 7, second).is_empty(), "the first dial is under way");
    node.dial_fails(session);
    let [(session, _)] = hears_process(&mut node, 7, second)[..] else { panic!("one dial") };
    node.up_at(session, id(3), 7, second);
    assert!(hears_process(&mut node, 7, addr(3)).is_empty(), "the process is connected");
    // Another process comes to the first address.
    assert_eq!(hears_process(&mut node, 8, addr(3)).len(), 1);
    assert!(hears_process(&mut node, OWN_INSTANCE, addr(4)).is_empty(), "its own beacon");
}

#[test]
fn failed_dial_waits_for_the_next_beacon() {
    let mut node = MeshHarness::new(&[]);
    let [(session, _)] = hears(&mut node, addr(3))[..] else { panic!("one dial") };
    node.dial_fails(session);
    assert_eq!(dials(&node.wait(10 * MINUTE)), 0);
    assert_eq!(hears(&mut node, addr(3)).len(), 1);
}

#[test]
fn refused_peer_is_not_dialled_for_its_beacons() {
    let access = Access::default().deny([id(3)]);
    let mut node = MeshHarness::with(Config::default().access(access));
    let [(session, _)] = hears(&mut node, addr(3))[..] else { panic!("one dial") };
    let outputs = node.up(session, id(3), 1);
    assert!(events_of(&outputs).is_empty(), "{outputs:?}");
    assert!(hears(&mut node, addr(3)).is_empty());
    node.handle(Input::Access(Access::default()));
    assert_eq!(hears(&mut node, addr(3)).len(), 1, "the lists admit it now");
}

#[test]
fn strict_node_expects_the_peer_that_owns_the_address() {
    let mut node = MeshHarness::with(Config::default().strict(true));
    node.restore(vec![known(3)]);
    // The peer's own dial waits; the beacon comes first.
    let outputs = node.handle(beacon(1_000, addr(3)));
    assert_eq!(dials(&outputs), 0);
    let outputs = node.wait_with_dials_open(SECOND);
    let all = dialled(&outputs);
    assert!(
        !all.is_empty() && all.iter().all(|(.., expected)| *expected == Expected::Peer(id(3))),
        "{all:?}"
    );

    // The lists refuse that peer.
    let access = Access::default().deny([id(3)]);
    let mut node = MeshHarness::with(Config::default().strict(true).access(access));
    node.restore(vec![known(3)]);
    assert!(hears(&mut node, addr(3)).is_empty());
}

/// The warning of `ssh` about a changed key.
#[test]
fn strict_node_warns_once_of_another_peer_where_it_knows_one() {
    let mut node = MeshHarness::with(Config::default().strict(true));
    node.restore(vec![known(3)]);
    let dialled = hears(&mut node, addr(3));
    let warnings = |outputs: &[Output]| {
        let is_warning = |report: &&&Report| {
            matches!(report, Report::WrongId { expected, found, is_refused: true, .. }
                if *expected == id(3) && *found == id(4))
        };
        reported(outputs).iter().filter(is_warning).count()
    };
    let found: Vec<usize> =
        dialled.iter().map(|(dial, _)| warnings(&node.dial_finds(*dial, id(4)))).collect();
    assert_eq!(found.iter().sum::<usize>(), 1, "{dialled:?}: {found:?}");
}

#[test]
fn addresses_that_no_node_can_have_are_not_dialled() {
    let mut node = MeshHarness::new(&[]);
    for addr in ["10.0.0.1:0", "224.0.0.1:8080", "255.255.255.255:1", "[fe80::1]:1"] {
        assert_eq!(dials(&node.handle(beacon(1_000, addr.parse().unwrap()))), 0);
        assert_eq!(dials(&node.wait(SECOND)), 0, "{addr}");
    }
    node.handle(Input::Leave);
    node.handle(beacon(1_000, addr(3)));
    assert_eq!(node.mesh.poll_timeout(), None, "it leaves");
}

/// One machine sends beacons with ever more ports, at which nothing answers.
#[test]
fn flooding_machine_causes_few_dials_and_keeps_no_other_out() {
    let mut node = MeshHarness::new(&[]);
    let mut failed = 0;
    for n in 2_000..=4_000_u16 {
        let at: SocketAddr = ([10, 0, 0, 66], n).into();
        node.handle(beacon(n.into(), at));
        failed += dials(&node.wait(SECOND / 20));
    }
    // The flood took 100 seconds, which return six payments.
    let most = CREDIT_MAX as usize + 7;
    assert!((CREDIT_MAX as usize..=most).contains(&failed), "{failed} dials");
    assert_eq!(hears(&mut node, addr(3)).len(), 1);
}

/// Found by seed 1700035553: an honest stranger had told the rumours of a liar, and came back.
#[test]
fn machine_whose_strangers_told_false_rumours_is_found_by_its_beacons() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.list(session, (20..220).map(|n| (id(n), ([10, 7, 0, n], 22).into())));
    let failed = dials(&node.wait(2 * SECOND));
    assert_eq!(failed, CREDIT_MAX as usize, "the account of its strangers is not empty");
    node.down(session, DisconnectReason::Bye(ByeReason::Leaving));
    assert_eq!(hears(&mut node, addr(3)).len(), 1);
}

/// The machine's dials do not end soon, because it drops the packets.
#[test]
fn silent_machine_leaves_slots_for_the_beacons_of_others() {
    let mut node = MeshHarness::new(&[]);
    let mut outputs = Vec::new();
    for n in 2_000..=2_999_u16 {
        outputs.extend(node.handle(beacon(n.into(), ([10, 0, 0, 66], n).into())));
    }
    outputs.extend(node.wait_with_dials_open(SECOND));
    let held = dials(&outputs);
    assert!(held > 0 && held <= BEACON_DIALS_PER_MACHINE, "{held}");
    assert_eq!(hears(&mut node, addr(3)).len(), 1);
    let is_dial = |output: &Output| matches!(output, Output::Dial { .. });
    assert!(!node.wait_with_dials_open(SECOND).iter().any(is_dial), "the rest of the flood is dropped");
}

#[test]
fn lonely_node_that_looks_for_peers_has_not_joined() {
    let mut node = MeshHarness::with(Config::default().discover("home"));
    assert!(!node.is_settled());
    let [(session, _)] = hears(&mut node, addr(3))[..] else { panic!("one dial") };
    node.up(session, id(3), 1);
    node.list(session, std::iter::empty());
    node.wait(SECOND);
    assert!(node.is_settled());
}

/// A flood with false source addresses fills the queue, and no dial is answered. Once it is over, a beacon that arrives
/// finds room: what waited for its dial for long is left out.
#[test]
fn beacons_that_waited_for_long_are_left_out() {
    let mut node = MeshHarness::new(&[]);
    for n in 0..BEACON_DIALS_MAX {
        let at = SocketAddr::from(([10, 9, 0, u8::try_from(n).unwrap()], 8080));
        node.handle(beacon(n as u64 + 5_000, at));
    }
    let held = dialled(&node.wait_with_dials_open(6 * SECOND));
    assert!(!held.is_empty() && held.len() < BEACON_DIALS_MAX, "{}", held.len());
    for (session, ..) in held {
        let outputs = node.dial_fails(session);
        assert_eq!(dials(&outputs), 0, "{outputs:?}");
    }
    assert_eq!(hears(&mut node, addr(3)).len(), 1);
}
