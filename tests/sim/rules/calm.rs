//! Calm: a peer that comes and goes is unstable for a while, and an isolated node blames no other node.

use p2p_gossip::internals::mesh::{DisconnectReason, SessionId};
use p2p_gossip::internals::wire::{ByeReason, Message};
use p2p_gossip::{Event, PeerState, Verdict};

use super::{SECOND, ms, wait_with_heartbeats};
use crate::sim::mesh_harness::{MeshHarness, all_events_of, events_of, id, listed, questions, verdicts_of};

const CLOSED: DisconnectReason = DisconnectReason::Closed;

/// A node that has lost its peer twice in a short time, and the number of sessions so far.
fn lost_twice() -> (MeshHarness, u64) {
    let mut node = MeshHarness::new(&[]);
    for n in 0..2 {
        let session = SessionId::accepted(n);
        let events = events_of(&node.up(session, id(3), 1));
        assert!(matches!(events[..], [Event::Up { .. }]), "nothing is held back after the first loss");
        wait_with_heartbeats(&mut node, session, None, 5 * SECOND);
        let events = events_of(&node.down(session, CLOSED));
        assert!(matches!(events[..], [Event::Down { .. }]), "{events:?}");
        node.wait(SECOND);
    }
    (node, 2)
}

#[test]
fn peer_that_was_lost_twice_is_up_only_after_it_has_held() {
    let (mut node, n) = lost_twice();
    let session = SessionId::accepted(n);
    let events = events_of(&node.up(session, id(3), 1));
    assert!(matches!(events[..], [Event::Unstable { losses: 2, .. }]), "{events:?}");
    let info = node.info(id(3)).unwrap();
    assert_eq!((info.state, node.mesh.members()), (PeerState::Unstable, 1));
    let outputs = wait_with_heartbeats(&mut node, session, None, 29 * SECOND);
    assert!(events_of(&outputs).is_empty(), "{outputs:?}");
    let events = events_of(&wait_with_heartbeats(&mut node, session, None, 2 * SECOND));
    assert!(matches!(events[..], [Event::Up { members: 2, .. }]), "{events:?}");
}

/// On a link that loses much, silences of half a timeout are frequent, and longer ones come sooner or later.
#[test]
fn unstable_peer_that_is_suspected_has_to_hold_anew() {
    let (mut node, n) = lost_twice();
    let session = SessionId::accepted(n);
    node.up(session, id(3), 1);
    for _ in 0..10 {
        assert!(events_of(&wait_with_heartbeats(&mut node, session, None, 18 * SECOND)).is_empty());
        assert!(events_of(&node.wait_with_dials_open(SECOND)).is_empty());
    }
    assert!(events_of(&wait_with_heartbeats(&mut node, session, None, 28 * SECOND)).is_empty());
    assert_eq!(events_of(&wait_with_heartbeats(&mut node, session, None, 4 * SECOND)).len(), 1);
}

/// Lists and the digest tell other nodes that the peer is connected, so they do not disagree about it.
#[test]
fn unstable_peer_counts_as_connected_for_other_nodes() {
    let (mut node, n) = lost_twice();
    let alone = node.mesh.digest();
    node.up(SessionId::accepted(n), id(3), 1);
    assert_ne!(node.mesh.digest(), alone);
    let other = node.meets(4);
    node.wait(3 * SECOND - ms(900));
    let listed = listed(&node.receives(other, Message::PeersRequest));
    assert!(listed.iter().any(|record| record.id == id(3) && record.connected), "{listed:?}");
}

#[test]
fn losses_of_an_unstable_peer_are_not_reported_and_make_it_hold_longer() {
    let (mut node, n) = lost_twice();
    for n in n..n + 3 {
        let session = SessionId::accepted(n);
        let mut outputs = node.up(session, id(3), 1);
        outputs.extend(wait_with_heartbeats(&mut node, session, None, 5 * SECOND));
        outputs.extend(node.down(session, CLOSED));
        outputs.extend(node.wait(SECOND));
        let events = events_of(&outputs);
        let is_said = events.iter().filter(|event| matches!(event, Event::Unstable { .. })).count();
        assert_eq!((events.len(), is_said), (usize::from(n == 2), usize::from(n == 2)), "{events:?}");
    }
    let session = SessionId::accepted(n + 3);
    node.up(session, id(3), 1);
    assert!(events_of(&wait_with_heartbeats(&mut node, session, None, 59 * SECOND)).is_empty());
    assert_eq!(events_of(&wait_with_heartbeats(&mut node, session, None, 2 * SECOND)).len(), 1);
}

#[test]
fn restarted_or_returned_peer_is_up_at_once() {
    let (mut node, n) = lost_twice();
    let events = events_of(&node.up(SessionId::accepted(n), id(3), 2));
    assert!(matches!(events[..], [Event::Up { .. }]), "another process: {events:?}");

    // Goodbyes are no losses.
    let mut node = MeshHarness::new(&[]);
    for n in 0..5 {
        let session = SessionId::accepted(n);
        assert!(matches!(events_of(&node.up(session, id(3), 1))[..], [Event::Up { .. }]));
        node.down(session, DisconnectReason::Bye(ByeReason::Leaving));
        node.wait(SECOND);
    }
}

/// A network that splits and heals again and again makes no peer unstable.
#[test]
fn peers_that_are_lost_together_are_up_as_soon_as_they_are_back() {
    let mut node = MeshHarness::new(&[]);
    let steady = [node.meets(3), node.meets(4)];
    for round in 0..5 {
        let sessions = [5_u8, 6].map(|n| {
            let session = SessionId::accepted(round * 10 + u64::from(n));
            let events = events_of(&node.up(session, id(n), 1));
            assert!(matches!(events[..], [Event::Up { .. }]), "{events:?}");
            session
        });
        live(&mut node, &[&steady[..], &sessions[..]].concat(), 5);
        sessions.iter().for_each(|session| drop(node.down(*session, CLOSED)));
        live(&mut node, &steady, 3);
    }
}

/// Lets time pass while these peers send a heartbeat each second.
fn live(node: &mut MeshHarness, sessions: &[SessionId], seconds: u32) {
    for _ in 0..seconds {
        for session in sessions {
            node.heartbeat(*session, 0);
        }
        node.wait_with_dials_open(SECOND);
    }
}

#[test]
fn node_that_loses_most_peers_at_once_says_that_it_is_isolated() {
    let mut node = MeshHarness::new(&[]);
    let sessions: Vec<SessionId> = (3..8).map(|n| node.meets(n)).collect();
    live(&mut node, &sessions, 5);
    let events = all_events_of(&node.wait(5 * SECOND));
    let (first, rest) = events.split_first().unwrap();
    assert!(matches!(first, Event::Isolated { lost: 5, members: 6, .. }), "{first:?}");
    let quiet = rest.iter().filter(|event| matches!(event, Event::Down { quiet: true, .. })).count();
    let own = rest.iter().filter(|event| matches!(event, Event::Verdict { verdict: Verdict::Isolated, .. }));
    assert_eq!((quiet, own.count(), rest.len()), (5, 5, 10), "{rest:?}");

    // One peer of five is too few; three end it. None of them is held back, however often that happens.
    let mut told = Vec::new();
    for n in 3_u8..6 {
        told.extend(events_of(&node.up(SessionId::accepted(n.into()), id(n), 1)));
    }
    let is_rejoined = |event: &Event| matches!(event, Event::Rejoined { members: 4, .. });
    assert_eq!((told.len(), told.iter().position(is_rejoined)), (4, Some(3)), "{told:?}");
}

/// No member answers about the first loss, and a moment later it is clear why.
#[test]
fn isolation_explains_the_loss_just_before_it() {
    let mut node = MeshHarness::new(&[]);
    let sessions: Vec<SessionId> = (3..8).map(|n| node.meets(n)).collect();
    live(&mut node, &sessions, 5);
    live(&mut node, &sessions[1..], 2);
    let told = verdicts_of(&node.wait_with_dials_open(3 * SECOND));
    let about_first: Vec<Verdict> =
        told.iter().filter(|(peer, ..)| *peer == id(3)).map(|(_, verdict, ..)| *verdict).collect();
    assert_eq!(about_first, [Verdict::Unknown, Verdict::Isolated], "{told:?}");
    let own = told.iter().filter(|(_, verdict, ..)| *verdict == Verdict::Isolated);
    assert_eq!((told.len(), own.count()), (6, 5), "{told:?}");
}

#[test]
fn isolation_is_over_once_peers_that_were_only_suspected_are_heard() {
    let mut node = MeshHarness::new(&[]);
    let sessions: Vec<SessionId> = (3..8).map(|n| node.meets(n)).collect();
    live(&mut node, &sessions, 5);
    node.wait(ms(400));
    sessions[1..].iter().for_each(|session| drop(node.heartbeat(*session, 0)));
    let events = all_events_of(&node.wait(ms(1700)));
    assert!(matches!(events.first(), Some(Event::Isolated { lost: 5, .. })), "{events:?}");
    sessions[1..].iter().for_each(|session| drop(node.heartbeat(*session, 0)));
    let events = all_events_of(&node.wait(SECOND));
    assert!(matches!(events[..], [Event::Rejoined { members: 5, .. }]), "{events:?}");
}

/// The members know more about the peers that do not come back.
#[test]
fn members_are_asked_soon_after_an_isolation() {
    let mut node = MeshHarness::new(&[]);
    let sessions: Vec<SessionId> = (3..8).map(|n| node.meets(n)).collect();
    live(&mut node, &sessions, 5);
    node.wait(5 * SECOND);
    let back: Vec<SessionId> = (3_u8..6).map(|n| SessionId::accepted(n.into())).collect();
    for (n, session) in (3..6).zip(&back) {
        node.up(*session, id(n), 1);
    }
    let mut asked_after = None;
    for tenths in 1..=100 {
        back.iter().for_each(|session| drop(node.heartbeat(*session, 0)));
        let asked = questions(&node.wait_with_dials_open(ms(100)));
        if let Some((_, about)) = asked.first() {
            assert_eq!((asked.len(), &about[..]), (3, &[id(6), id(7)][..]));
            asked_after = Some(tenths);
            break;
        }
    }
    assert_eq!(asked_after, Some(50));
}

#[test]
fn closed_connections_and_the_loss_of_half_of_the_peers_are_no_isolation() {
    let mut node = MeshHarness::new(&[]);
    let sessions: Vec<SessionId> = (3..8).map(|n| node.meets(n)).collect();
    live(&mut node, &sessions, 5);
    let mut outputs = Vec::new();
    for session in sessions {
        outputs.extend(node.down(session, CLOSED));
    }
    outputs.extend(node.wait(2 * SECOND));
    let loud = events_of(&outputs);
    assert!(loud.iter().all(|event| matches!(event, Event::Down { quiet: false, .. })), "{loud:?}");

    let mut node = MeshHarness::new(&[]);
    let sessions: Vec<SessionId> = (3..7).map(|n| node.meets(n)).collect();
    live(&mut node, &sessions, 5);
    let mut events = Vec::new();
    for _ in 0..10 {
        sessions[..2].iter().for_each(|session| drop(node.heartbeat(*session, 0)));
        events.extend(events_of(&node.wait_with_dials_open(SECOND / 2)));
    }
    assert!(
        matches!(events[..], [Event::Down { quiet: false, .. }, Event::Down { quiet: false, .. }]),
        "{events:?}"
    );
}

#[test]
fn node_with_one_peer_does_not_call_itself_isolated() {
    let mut node = MeshHarness::new(&[]);
    node.meets(3);
    let outputs = node.wait(10 * SECOND);
    assert!(!events_of(&outputs).iter().any(|event| matches!(event, Event::Isolated { .. })));
    assert_eq!(verdicts_of(&outputs), [(id(3), Verdict::Unknown, 0, 0)]);
}
