//! Lost, left and leaving peers: a lost peer is redialled, a peer that left may return, a leaving node is silent.

use std::time::Duration;

use p2p_gossip::internals::Expected;
use p2p_gossip::internals::limits::{HEARTBEAT, TIMEOUT};
use p2p_gossip::internals::mesh::{DisconnectReason, GRACE, Input, Output, Report, SessionId};
use p2p_gossip::internals::wire::{ByeReason, Message};
use p2p_gossip::{Config, Event, PeerState};

use super::{
    MINUTE, SECOND, closes_with, joined_node, make_node_request, ms, node_with_strangers, reports,
    wait_with_heartbeats,
};
use crate::sim::mesh_harness::{MeshHarness, addr, closes, dialled, dials, dials_to, events_of, id, sent};

#[test]
fn lost_peer_is_redialled_with_backoff() {
    let lost_by: [fn(&mut MeshHarness, SessionId); 6] = [
        |node, session| drop(node.down(session, DisconnectReason::Closed)),
        |node, session| drop(node.down(session, DisconnectReason::Protocol)),
        |node, session| drop(node.down(session, DisconnectReason::Slow)),
        |node, session| {
            node.down(session, DisconnectReason::Bye(ByeReason::Duplicate));
            node.wait(GRACE - ms(1));
        },
        |node, _| drop(node.wait(TIMEOUT)),
        |node, _| {
            node.stall(10 * SECOND);
            node.wait(TIMEOUT);
        },
    ];
    for (which, is_lost) in lost_by.into_iter().enumerate() {
        for dials_first in [false, true] {
            let mut node = MeshHarness::new(&[]);
            let mut session = node.meets(3);
            if dials_first {
                node.down(session, DisconnectReason::Closed);
                (session, ..) = dialled(&node.wait_for_dial())[0].clone();
                node.up(session, id(3), 1);
            }
            is_lost(&mut node, session);
            let outputs = node.wait(10 * SECOND);
            assert_eq!(node.mesh.members(), 1);
            assert!(dials_to(&outputs, id(3)) >= 5, "way {which}, dialled {dials_first}: {outputs:?}");
        }
    }
}

/// Number of dials in the second after a session of this length, which follows a minute of failed dials.
fn dials_after_session(time: Duration) -> usize {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.down(session, DisconnectReason::Closed);
    node.wait(MINUTE);
    let again = SessionId::accepted(1);
    node.up(again, id(3), 1);
    wait_with_heartbeats(&mut node, again, None, time);
    node.down(again, DisconnectReason::Closed);
    dials_to(&node.wait(SECOND), id(3))
}

#[test]
fn lasting_session_resets_the_backoff() {
    assert!(dials_after_session(10 * SECOND) >= 2);
    assert_eq!(dials_after_session(SECOND), 0);
}

#[test]
fn bootstrap_address_that_answered_resets_its_backoff() {
    let mut node = MeshHarness::new(&[addr(3)]);
    node.wait(MINUTE);
    let (session, ..) = dialled(&node.wait_for_dial())[0].clone();
    node.up(session, id(3), 1);
    node.down(session, DisconnectReason::Closed);
    let outputs = node.wait(4 * SECOND);
    let bootstrap_dials =
        dialled(&outputs).iter().filter(|(.., expected)| *expected == Expected::AnyPeer).count();
    assert!(bootstrap_dials >= 3, "{bootstrap_dials}");
}

/// Whether the node dials a bootstrap address within some seconds.
fn dials_bootstrap_address(node: &mut MeshHarness) -> bool {
    let outputs = node.wait_with_dials_open(TIMEOUT - ms(1));
    dialled(&outputs).iter().any(|(.., expected)| *expected == Expected::AnyPeer)
}

#[test]
fn bootstrap_address_is_not_dialled_while_its_peer_is_connected() {
    let mut node = MeshHarness::new(&[addr(3)]);
    let session = node.first_dial();
    node.up(session, id(3), 1);
    node.down(session, DisconnectReason::Closed);
    node.meets(3);
    assert!(!dials_bootstrap_address(&mut node));
}

#[test]
fn bootstrap_address_is_not_dialled_if_its_peer_is_connected_otherwise() {
    let mut node = MeshHarness::new(&[addr(3)]);
    let dial = node.first_dial();
    node.dial_fails(dial);
    let list = node.meets(5);
    node.list(list, [(id(3), addr(3))].into_iter());
    let (session, _, expected) = dialled(&node.wait_for_dial())[0].clone();
    assert_eq!(expected, Expected::Peer(id(3)));
    node.up_at(session, id(3), 1, addr(3));
    assert!(!dials_bootstrap_address(&mut node));
}

#[test]
fn late_message_of_a_previous_run_is_no_key_alarm() {
    let mut node = MeshHarness::new(&[]);
    let is_alarm = |report: &Report| matches!(report, Report::PeerKeyInUse { .. });
    let [first, second, late, back, again] = [1, 2, 3, 4, 5].map(SessionId::accepted);
    node.up(first, id(3), 1);
    node.up(second, id(3), 2);
    let outputs = node.up(late, id(3), 1);
    assert!(
        closes_with(&outputs, late, ByeReason::Replaced) && reports(&outputs, is_alarm) == 0,
        "{outputs:?}"
    );
    wait_with_heartbeats(&mut node, second, None, TIMEOUT);
    let outputs = node.up(back, id(3), 1);
    assert!(
        closes_with(&outputs, back, ByeReason::Cloned) && reports(&outputs, is_alarm) == 1,
        "{outputs:?}"
    );
    let notices = sent(&outputs);
    assert!(matches!(notices[..], [(on, Message::Notice(_))] if on == second), "{notices:?}");
    let outputs = node.up(again, id(3), 1);
    assert!(
        closes_with(&outputs, again, ByeReason::Cloned) && reports(&outputs, is_alarm) == 0,
        "{outputs:?}"
    );
}

#[test]
fn left_peer_is_not_dialled_although_a_dial_was_due() {
    let (mut node, _, outputs) = node_with_strangers(30);
    let under_way = dialled(&outputs);
    let waiting = (20..50).map(id).find(|peer| dials_to(&outputs, *peer) == 0).unwrap();
    let session = SessionId::accepted(1);
    node.up(session, waiting, 1);
    node.down(session, DisconnectReason::Bye(ByeReason::Leaving));
    let mut later: Vec<Output> = under_way.into_iter().flat_map(|(dial, ..)| node.dial_fails(dial)).collect();
    later.extend(node.wait(MINUTE));
    assert!(dials(&later) >= 18 && dials_to(&later, waiting) == 0);
}

#[test]
fn leaving_peer_leaves_with_all_its_sessions() {
    let mut node = MeshHarness::new(&[]);
    let (older, newest) = (node.meets(3), SessionId::accepted(1));
    node.up(newest, id(3), 1);
    let outputs = node.down(older, DisconnectReason::Bye(ByeReason::Leaving));
    assert!(
        matches!(events_of(&outputs)[..], [Event::Left { .. }]) && closes(&outputs, newest),
        "{outputs:?}"
    );
}

#[test]
fn peer_that_left_is_dialled_if_a_list_names_it_later_but_stays_left() {
    let (mut node, session) = joined_node();
    let left = node.meets(5);
    node.down(left, DisconnectReason::Bye(ByeReason::Leaving));
    for (digest, is_dialled) in [(71, false), (72, true)] {
        make_node_request(&mut node, session, digest);
        node.list(session, [(id(5), addr(5))].into_iter());
        let outputs = wait_with_heartbeats(&mut node, session, None, 2 * SECOND);
        assert_eq!(dials_to(&outputs, id(5)) > 0, is_dialled);
        assert_eq!(node.info(id(5)).unwrap().state, PeerState::Left);
        assert!(node.mesh.known_peers().iter().any(|known| known.id == id(5) && known.left));
        wait_with_heartbeats(&mut node, session, None, 10 * SECOND);
    }
}

#[test]
fn leaving_node_cancels_its_dials_and_stays_silent() {
    let mut node = MeshHarness::new(&[addr(3), addr(4)]);
    let dial = node.first_dial();
    let session = node.meets(5);
    let outputs = node.handle(Input::Leave);
    assert!(
        closes_with(&outputs, dial, ByeReason::Leaving) && closes_with(&outputs, session, ByeReason::Leaving)
    );
    assert_eq!(node.wait(10 * SECOND), []);
    let late = SessionId::accepted(1);
    assert_eq!(node.up(late, id(6), 1), [Output::Close { session: late, reason: ByeReason::Leaving }]);
    assert_eq!(node.dial_fails(dial), []);
    assert_eq!(node.wait(MINUTE), []);
}

#[test]
fn dead_peer_is_forgotten_after_the_forget_time() {
    let forget_after = 100 * SECOND;
    let mut node = MeshHarness::with(Config::default().forget_after(forget_after));
    let (dead, left) = (node.meets(3), node.meets(4));
    node.down(dead, DisconnectReason::Closed);
    node.down(left, DisconnectReason::Bye(ByeReason::Leaving));
    let connected = node.meets(5);
    wait_with_heartbeats(&mut node, connected, None, forget_after - SECOND);
    node.wait(SECOND - ms(1));
    assert!(node.info(id(3)).is_some() && node.info(id(4)).is_some());
    node.wait(ms(1));
    assert!(node.info(id(3)).is_none() && node.info(id(4)).is_none());
    assert_eq!(dials(&wait_with_heartbeats(&mut node, connected, None, 10 * MINUTE)), 0);
}

/// Found by seed 1027623: two nodes leave at the same moment and receive each other's goodbye.
#[test]
fn leaving_node_stays_silent_while_others_leave() {
    let mut node = MeshHarness::new(&[]);
    let sessions = [1, 2].map(SessionId::accepted);
    for (session, peer) in sessions.into_iter().zip([id(3), id(5)]) {
        node.up(session, peer, 7);
    }
    node.wait(HEARTBEAT / 5);
    assert!(closes(&node.handle(Input::Leave), sessions[1]));
    let outputs = node.down(sessions[0], DisconnectReason::Bye(ByeReason::Leaving));
    assert!(matches!(events_of(&outputs)[..], [Event::Left { .. }]), "{outputs:?}");
    let later = node.wait(HEARTBEAT);
    assert!(later.is_empty(), "{later:?}");
}
