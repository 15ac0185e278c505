//! Another path to a peer that has fallen silent, and the way back to a direct one.

use std::time::Duration;

use p2p_gossip::internals::mesh::{DialError, DisconnectReason, Input, Output, SessionId};
use p2p_gossip::internals::wire::{ByeReason, CircuitReason, Hearing, Hello, Message, Sighting};
use p2p_gossip::{Config, Event};

use super::relay::{accept, asked, at, closed, entered, offer, open, refuse};
use super::{SECOND, closes_with, joined_node, ms, wait_with_heartbeats};
use crate::sim::mesh_harness::{
    MeshHarness, addr, closes, dialled, dials_to, events_of, hello, id, questions, sent,
};

/// Node 9 with the direct peers 20, 3, 4 and 5, and their sessions. All but 20 go on to send heartbeats, until 9 asks the
/// first of them whether they hear 20.
fn node_with_a_silent_peer() -> (MeshHarness, SessionId, Vec<SessionId>) {
    let mut node = MeshHarness::new(&[]);
    let silent = node.meets(20);
    let members: Vec<SessionId> = (3..6).map(|n| node.meets(n)).collect();
    let outputs = live(&mut node, &members, 16);
    let about: Vec<_> = questions(&outputs).into_iter().map(|(_, about)| about).collect();
    assert_eq!(about, [vec![id(20)], vec![id(20)], vec![id(20)]], "one question to each member");
    assert_eq!((asked(&outputs), events_of(&outputs)), (vec![], vec![]));
    (node, silent, members)
}

/// Lets tenths of a second pass while these peers send heartbeats.
fn live(node: &mut MeshHarness, sessions: &[SessionId], tenths: u32) -> Vec<Output> {
    live_at(node, sessions, tenths, ms(1))
}

/// The same with this round-trip time.
fn live_at(node: &mut MeshHarness, sessions: &[SessionId], tenths: u32, rtt: Duration) -> Vec<Output> {
    let mut outputs = Vec::new();
    for _ in 0..tenths {
        sessions.iter().for_each(|session| outputs.extend(node.measures(*session, rtt)));
        outputs.extend(node.wait_with_dials_open(ms(100)));
    }
    outputs
}

/// A member tells when it has heard 20.
fn tells(node: &mut MeshHarness, session: SessionId, hearing: Hearing, ago_ms: u32) -> Vec<Output> {
    let sightings = vec![Sighting { peer: id(20), hearing, ago_ms }];
    node.receives(session, Message::WitnessReport { sightings })
}

#[test]
fn silent_peer_is_reached_through_a_member_that_hears_it_before_it_is_lost() {
    let (mut node, silent, members) = node_with_a_silent_peer();
    // 20 was heard 1.6 s ago; a peer that died then may have been heard half a second later.
    assert_eq!(asked(&tells(&mut node, members[0], Hearing::Hears, 1_100)), []);
    assert_eq!(asked(&tells(&mut node, members[1], Hearing::Silent, 300)), [], "it hears nothing");
    let outputs = tells(&mut node, members[0], Hearing::Hears, 300);
    let [(at, 20)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
    assert_eq!(at.session, members[0]);
    let (inside, _) = entered(&accept(&mut node, at))[0];
    let outputs = node.up_at(inside, id(20), 1, addr(3));
    let events = events_of(&outputs);
    assert!(matches!(events[..], [Event::Path { via: Some(via), .. }] if via == id(3)), "{events:?}");
    assert!(closes(&outputs, silent), "9 opened the circuit, so it gives up the direct session");

    // The circuit falls silent as well: another member is asked, not the carrier.
    let outputs = live(&mut node, &members, 16);
    assert!(questions(&outputs).iter().all(|(session, _)| *session != members[0]), "{outputs:?}");
    assert_eq!(asked(&tells(&mut node, members[0], Hearing::Hears, 10)), []);
    assert_eq!(asked(&tells(&mut node, members[1], Hearing::Hears, 10)).len(), 1);
}

#[test]
fn dead_peer_costs_no_circuit_and_is_lost_in_time() {
    let (mut node, _, members) = node_with_a_silent_peer();
    let mut outputs = Vec::new();
    for tenth in 0..20_u32 {
        // All have heard it last a moment before it died.
        for member in &members {
            outputs.extend(tells(&mut node, *member, Hearing::Hears, 900 + 100 * tenth));
        }
        outputs.extend(live(&mut node, &members, 1));
    }
    assert_eq!(asked(&outputs), []);
    let is_down = |event: &Event| matches!(event, Event::Down { peer, .. } if *peer == id(20));
    assert_eq!(events_of(&outputs).iter().filter(|event| is_down(event)).count(), 1);
    assert!(questions(&outputs).len() <= 3 * 8, "{}", questions(&outputs).len());
}

#[test]
fn four_carriers_are_asked_about_one_silence_and_the_peer_is_lost_in_time() {
    let mut node = MeshHarness::new(&[]);
    node.meets(20);
    let members: Vec<SessionId> = (30..50).map(|n| node.meets(n)).collect();
    let mut outputs = live(&mut node, &members, 16);
    let mut circuits = 0;
    for _ in 0..20 {
        let mut said = Vec::new();
        for member in &members {
            said.extend(tells(&mut node, *member, Hearing::Hears, 0));
        }
        // Carriers that claim to hear the peer, and lead nowhere.
        circuits += asked(&said).len();
        for (at, _) in asked(&said) {
            said.extend(refuse(&mut node, at, CircuitReason::NotConnected));
        }
        outputs.extend(said);
        outputs.extend(live(&mut node, &members, 1));
    }
    assert_eq!(circuits, 4);
    let downs: Vec<Event> = events_of(&outputs);
    let is_down = |event: &&Event| matches!(event, Event::Down { peer, .. } if *peer == id(20));
    assert_eq!(downs.iter().filter(is_down).count(), 1);
}

/// An answer takes two round trips.
#[test]
fn circuit_that_a_member_was_asked_for_is_waited_for_beyond_the_timeout() {
    for is_accepted in [true, false] {
        let (mut node, _, members) = node_with_a_silent_peer();
        live(&mut node, &members, 12);
        let [(at, 20)] = asked(&tells(&mut node, members[0], Hearing::Hears, 0))[..] else { panic!() };
        // It has been silent for 2.8 s, and for 3.2 s then.
        assert_eq!(events_of(&live(&mut node, &members, 4)), []);
        if is_accepted {
            let (inside, _) = entered(&accept(&mut node, at))[0];
            let events = events_of(&node.up_at(inside, id(20), 1, addr(3)));
            assert!(matches!(events[..], [Event::Path { via: Some(_), .. }]), "{events:?}");
        } else {
            let events = events_of(&live(&mut node, &members, 10));
            assert!(matches!(events[..], [Event::Down { .. }]), "{events:?}");
        }
    }
}

/// Node 9 has a timeout of 0.6 s. Its peer 20 has been silent for 0.4 s, and its peer 3, which is 0.1 s away, was asked
/// for a circuit.
fn node_with_a_short_timeout() -> (MeshHarness, SessionId, SessionId) {
    let mut node = MeshHarness::with(Config::default().heartbeat(ms(200)).timeout(ms(600)));
    let [silent, three] = [(1, 20), (2, 3)].map(|(session, peer)| {
        let session = SessionId::accepted(session);
        node.up_with_hello(session, id(peer), addr(peer), Hello { heartbeat_ms: 200, ..hello() });
        session
    });
    live_at(&mut node, &[three], 4, ms(100));
    assert_eq!(asked(&tells(&mut node, three, Hearing::Hears, 0)).len(), 1);
    (node, silent, three)
}

/// Found by seed 990093775: round trips of the carrier are long beside the timeout.
#[test]
fn circuit_that_was_asked_for_before_the_peer_was_last_heard_is_not_waited_for() {
    let (mut node, silent, three) = node_with_a_short_timeout();
    node.receives(silent, Message::Broadcast { text: "the last word".to_owned() });
    // The carrier has 0.9 s for its answer, and the peer 0.6 s.
    let events = events_of(&live_at(&mut node, &[three], 8, ms(100)));
    assert!(matches!(events[..], [Event::Down { peer, .. }, ..] if peer == id(20)), "{events:?}");
}

/// Found by seed 991002185: the second beyond the timeout is longer than the timeout.
#[test]
fn peer_that_is_heard_while_a_circuit_is_waited_for_and_falls_silent_again_is_lost_in_time() {
    let (mut node, silent, three) = node_with_a_short_timeout();
    // It has been silent for 0.7 s.
    assert_eq!(events_of(&live_at(&mut node, &[three], 3, ms(100))), []);
    node.receives(silent, Message::Broadcast { text: "the last word".to_owned() });
    let events = events_of(&live_at(&mut node, &[three], 7, ms(100)));
    assert!(matches!(events[..], [Event::Down { peer, .. }, ..] if peer == id(20)), "{events:?}");
}

#[test]
fn session_in_an_open_circuit_is_waited_for_a_second_beyond_the_timeout() {
    for (comes_up, is_opened_here) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut node, _, members) = node_with_a_silent_peer();
        live(&mut node, &members, 12);
        let inside = if is_opened_here {
            let [(at, 20)] = asked(&tells(&mut node, members[0], Hearing::Hears, 0))[..] else { panic!() };
            entered(&accept(&mut node, at))[0].0
        } else {
            entered(&offer(&mut node, at(members[0], 1), 20))[0].0
        };
        // It has been silent for 2.8 s, and for 3.7 s then.
        let outputs = live(&mut node, &members, 9);
        assert_eq!((events_of(&outputs), closes(&outputs, inside)), (vec![], false));
        let outputs =
            if comes_up { node.up_at(inside, id(20), 1, addr(3)) } else { live(&mut node, &members, 5) };
        let events = events_of(&outputs);
        match &events[..] {
            [Event::Path { via: Some(via), .. }] if comes_up => assert_eq!(*via, id(3)),
            [Event::Down { peer, .. }] if !comes_up => assert_eq!(*peer, id(20)),
            _ => panic!("{events:?}"),
        }
    }
}

/// Found by seed 122 of the story of far nodes whose links are cut: 20 is silent inside a circuit, and its carrier, which
/// moves to another path, ends the session there before the new circuit has led to 20.
#[test]
fn circuit_is_waited_for_beyond_the_timeout_although_the_silent_session_has_ended() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum New {
        Asked,
        OpenedHere,
        OpenedByPeer,
        AskedTooLate,
    }
    for new in [New::Asked, New::OpenedHere, New::OpenedByPeer, New::AskedTooLate] {
        for comes_up in [true, false] {
            let (mut node, _, members) = node_with_a_silent_peer();
            let [(at_three, 20)] = asked(&tells(&mut node, members[0], Hearing::Hears, 0))[..] else {
                panic!()
            };
            let (old, _) = entered(&accept(&mut node, at_three))[0];
            node.up_at(old, id(20), 1, addr(3));
            live(&mut node, &members, 27);
            let question = match new {
                New::Asked | New::OpenedHere => asked(&tells(&mut node, members[1], Hearing::Hears, 0)),
                New::OpenedByPeer | New::AskedTooLate => vec![],
            };
            let mut opened = match new {
                New::OpenedHere => entered(&accept(&mut node, question[0].0)),
                New::OpenedByPeer => entered(&offer(&mut node, at(members[1], 1), 20)),
                New::Asked | New::AskedTooLate => vec![],
            };
            live(&mut node, &members, 1);
            let ended = node.down(old, DisconnectReason::Closed);
            // Without a session any member is asked, also one that may not hear 20.
            assert_eq!(
                asked(&ended).len(),
                usize::from(matches!(new, New::OpenedByPeer | New::AskedTooLate))
            );
            // It has been silent for 2.8 s, and for 3.1 s then.
            let outputs = [ended, live(&mut node, &members, 3)].concat();
            let is_lost = !events_of(&outputs).is_empty();
            assert_eq!(is_lost, new == New::AskedTooLate, "{new:?}: {outputs:?}");
            if is_lost {
                continue;
            }
            if new == New::Asked {
                opened = entered(&accept(&mut node, question[0].0));
            }
            let inside = opened[0].0;
            let outputs = live(&mut node, &members, 4);
            assert_eq!((events_of(&outputs), closes(&outputs, inside)), (vec![], false), "{new:?}");
            let outputs =
                if comes_up { node.up_at(inside, id(20), 1, addr(4)) } else { live(&mut node, &members, 7) };
            match &events_of(&outputs)[..] {
                [Event::Path { via: Some(via), .. }] if comes_up => assert_eq!(*via, id(4)),
                [Event::Down { peer, .. }] if !comes_up => assert_eq!(*peer, id(20)),
                events => panic!("{new:?}: {events:?}"),
            }
        }
    }
}

/// Found by seed 157 of the same story: two circuits cross. 2, the arbiter, gives up its own for that of 9, which must not
/// take what it heard in the circuit of 2 for a sign of life on the silent connection.
#[test]
fn circuit_is_kept_beside_one_of_the_peer_although_a_silent_connection_is_still_open() {
    let mut node = MeshHarness::new(&[]);
    let silent = node.meets(2);
    let members: Vec<SessionId> = (3..6).map(|n| node.meets(n)).collect();
    live(&mut node, &members, 20);
    let sightings = vec![Sighting { peer: id(2), hearing: Hearing::Hears, ago_ms: 0 }];
    let [(question, 2)] = asked(&node.receives(members[0], Message::WitnessReport { sightings }))[..] else {
        panic!("9 asks for no circuit")
    };
    live(&mut node, &members, 1);
    let (inside, _) = entered(&accept(&mut node, question))[0];
    let (of_two, _) = entered(&offer(&mut node, at(members[1], 1), 2))[0];
    node.up_at(of_two, id(2), 1, addr(4));
    assert_eq!(
        node.mesh.open_sessions(&id(2)),
        [silent, of_two],
        "2 decides whether 9 gives up the connection"
    );
    live(&mut node, &members, 1);
    let outputs = node.up_at(inside, id(2), 1, addr(3));
    assert_eq!(node.mesh.open_sessions(&id(2)), [of_two, inside], "{outputs:?}");
    node.down(of_two, DisconnectReason::Bye(ByeReason::Duplicate));
    assert_eq!(node.mesh.open_sessions(&id(2)), [inside]);
}

/// The direct path to 20 falls silent. A circuit through 3 replaces it.
fn moves_to_circuit(node: &mut MeshHarness, three: SessionId) -> SessionId {
    assert!(
        (0..50).any(|_| !questions(&live(node, &[three], 1)).is_empty()),
        "no question about the silence"
    );
    let outputs = tells(node, three, Hearing::Hears, 0);
    let [(at, 20)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
    let (inside, _) = entered(&accept(node, at))[0];
    let outputs = node.up_at(inside, id(20), 1, addr(3));
    assert_eq!(node.mesh.open_sessions(&id(20)), [inside], "{outputs:?}");
    inside
}

/// The tenths of a second until the node dials 20, and the dial.
fn until_dialled(node: &mut MeshHarness, sessions: &[SessionId]) -> (u64, SessionId) {
    let dial = |tenths| {
        let outputs = live(node, sessions, 1);
        let (session, ..) = *dialled(&outputs).iter().find(|(_, at, _)| *at == addr(20).into())?;
        Some((tenths, session))
    };
    (1..2_000).find_map(dial).expect("no dial")
}

#[test]
fn pair_whose_direct_path_keeps_falling_silent_stays_with_its_circuit() {
    let mut node = MeshHarness::new(&[]);
    let three = node.meets(3);
    node.meets(20);
    let mut dialled_after = Vec::new();
    for round in 0..4_u64 {
        let inside = moves_to_circuit(&mut node, three);
        let (tenths, session) = until_dialled(&mut node, &[three, inside]);
        dialled_after.push(tenths / 10);
        let events = events_of(&node.up(session, id(20), 1));
        assert!(matches!(events[..], [Event::Path { via: None, .. }]), "{round}: {events:?}");
    }
    assert_eq!(dialled_after[1..], [30, 60, 120], "{dialled_after:?}");
    assert!(dialled_after[0] <= 1, "the first time, a dial follows at once");
}

/// Found by seed 1072 of the story of cut links. The dial may have begun while the direct path was cut.
#[test]
fn silence_in_a_circuit_renews_a_dial_that_has_no_answer() {
    let mut node = MeshHarness::new(&[]);
    let three = node.meets(3);
    node.meets(20);
    let inside = moves_to_circuit(&mut node, three);
    let (_, dial) = until_dialled(&mut node, &[three, inside]);
    assert!(!closes(&live(&mut node, &[three, inside], 20), dial));
    assert!(closes(&live(&mut node, &[three], 16), dial));
    let outputs = node.handle(Input::DialFailed { session: dial, reason: DialError::Cancelled });
    assert_eq!(dials_to(&outputs, id(20)), 1, "{outputs:?}");
}

/// Found by seed 1600013644. The carrier's answer comes on a session that another one has just replaced.
#[test]
fn carrier_that_refuses_on_a_replaced_session_is_not_waited_for() {
    let mut node = MeshHarness::new(&[]);
    node.meets(20);
    let carrier = node.meets(12);
    live(&mut node, &[carrier], 27);
    let outputs = tells(&mut node, carrier, Hearing::Hears, 0);
    let [(at, 20)] = asked(&outputs)[..] else { panic!("{outputs:?}") };
    let newer = SessionId::accepted(5_000);
    assert!(closes(&node.up(newer, id(12), 1), carrier));
    refuse(&mut node, at, CircuitReason::NotCarrying);
    assert_eq!(events_of(&live(&mut node, &[newer], 2)), []);
    let events = events_of(&live(&mut node, &[newer], 2));
    assert!(matches!(events[..], [Event::Down { .. }]), "{events:?}");
}

/// Found by seed 870004143. The peer has opened the circuit, and has told no address.
#[test]
fn carrier_is_asked_where_a_peer_is_that_came_through_it() {
    let (mut node, three) = joined_node();
    let (inside, _) = entered(&offer(&mut node, at(three, 1), 20))[0];
    let outputs = node.up_at(inside, id(20), 1, addr(3));
    assert!(sent(&outputs).contains(&(three, &Message::PeersRequest)), "{outputs:?}");
    node.list(three, [(id(20), addr(20))].into_iter());
    let (tenths, _) = until_dialled(&mut node, &[three, inside]);
    assert!(tenths < 20, "{tenths}");
}

/// Found by seed 830001834.
#[test]
fn pair_leaves_its_circuit_soon_if_a_third_node_is_reached_only_that_way() {
    // Only 20 reaches another peer, and lists it; then 3 asks for a circuit to 20.
    for asks_for_circuit in [false, true] {
        let mut node = MeshHarness::new(&[]);
        let three = node.meets(3);
        node.meets(20);
        let first = moves_to_circuit(&mut node, three);
        let (_, direct) = until_dialled(&mut node, &[three, first]);
        node.up(direct, id(20), 1);
        let inside = moves_to_circuit(&mut node, three);
        assert_eq!(dials_to(&live(&mut node, &[three, inside], 50), id(20)), 0);
        if asks_for_circuit {
            let refused = closed(&open(&mut node, at(three, 7), 20));
            assert_eq!(refused, [(at(three, 7), CircuitReason::NotConnected)]);
        } else {
            wait_with_heartbeats(&mut node, inside, Some(1), 2 * SECOND);
            node.list(inside, [(id(40), addr(40))].into_iter());
        }
        let (tenths, _) = until_dialled(&mut node, &[three, inside]);
        // The wait avoids that all who want such a circuit cause a dial at one moment.
        let wait = if asks_for_circuit { 5..=10 } else { 5..=100 };
        assert!(wait.contains(&tenths), "{tenths}");
    }
}

#[test]
fn session_on_which_the_peer_sends_nothing_more_is_given_up_after_the_timeout() {
    let (mut node, three) = joined_node();
    let direct = node.meets(20);
    let (inside, _) = entered(&offer(&mut node, at(three, 1), 20))[0];
    node.up_at(inside, id(20), 1, addr(3));
    assert_eq!(node.mesh.open_sessions(&id(20)), [direct, inside]);
    // The goodbye of the peer is lost with the direct path.
    let outputs = live(&mut node, &[three, inside], 60);
    assert!(closes_with(&outputs, direct, ByeReason::Silent), "{outputs:?}");
    assert_eq!(node.mesh.open_sessions(&id(20)), [inside]);
    assert!(
        events_of(&outputs).iter().all(|event| !matches!(event, Event::Down { .. } | Event::Path { .. }))
    );
}
