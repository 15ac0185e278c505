//! Heartbeats, timeouts and round-trip times.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_gossip::internals::limits::{HEARTBEAT, TIMEOUT};
use p2p_gossip::internals::mesh::{Input, Output, Report, Routine, SessionId};
use p2p_gossip::internals::wire::{Echo, Hello, Message};
use p2p_gossip::{Config, Event};

use super::{MINUTE, SECOND, joined_node, ms, reported, wait_with_heartbeats};
use crate::sim::mesh_harness::{MeshHarness, addr, drains, events_of, hello, id, posted, sent};

#[test]
fn any_message_is_a_sign_of_life() {
    let (mut node, session) = joined_node();
    let ping = |seq| Message::Ping { seq, text: String::new() };
    let mut outputs = Vec::new();
    for n in 0..4 {
        outputs.extend(node.wait(TIMEOUT - ms(1)));
        outputs.extend(node.receives(session, if n % 2 == 0 { ping(n) } else { Message::PeersRequest }));
    }
    assert!(events_of(&outputs).iter().all(|event| matches!(event, Event::Ping { .. })), "{outputs:?}");
}

/// Number of heartbeats that are sent at once, and of those that are posted for the peer's next heartbeat.
fn heartbeats(outputs: &[Output]) -> (usize, usize) {
    let count = |messages: Vec<(SessionId, &Message)>| {
        messages.iter().filter(|(_, message)| matches!(message, Message::Heartbeat { .. })).count()
    };
    (count(sent(outputs)), count(posted(outputs)))
}

/// Node 9 after it has met node 3, the leader of the two. It sends nothing but heartbeats.
fn following_node() -> (MeshHarness, SessionId) {
    let mut node = MeshHarness::with(Config::default().period(60 * MINUTE));
    let session = node.meets(3);
    node.list(session, std::iter::empty());
    (node, session)
}

#[test]
fn heartbeat_is_sent_once_an_interval_and_the_first_is_answered_at_once() {
    let mut node = MeshHarness::new(&[]);
    // Node 9 is the leader. It sends the first heartbeat once membership has settled.
    let session = node.meets(12);
    assert_eq!(heartbeats(&node.wait(ms(300))), (1, 0));
    let outputs = node.heartbeat(session, 0);
    let echo = |(_, message): &(SessionId, &Message)| {
        matches!(message, Message::Heartbeat { echo: Some(Echo { seq: 1, .. }), .. })
    };
    assert_eq!(sent(&outputs).iter().filter(|beat| echo(beat)).count(), 1, "{outputs:?}");
    node.wait(SECOND);
    let outputs = wait_with_heartbeats(&mut node, session, None, 20 * HEARTBEAT);
    let (at_once, posted_beats) = heartbeats(&outputs);
    assert!((20..=21).contains(&at_once) && posted_beats == 0, "{at_once}, {posted_beats}");
}

#[test]
fn settled_digest_goes_to_some_peers_at_once_and_to_others_in_time() {
    let mut node = MeshHarness::new(&[]);
    for n in 10..60 {
        node.meets(n);
    }
    let (first, posted_beats) = heartbeats(&node.wait(ms(300)));
    assert!((1..50).contains(&first) && posted_beats == 0, "{first}, {posted_beats}");
    let (at_once, _) = heartbeats(&node.wait(HEARTBEAT));
    assert!((50..=50 + first).contains(&at_once), "{first}, then {at_once}");
}

#[test]
fn heartbeats_to_peers_that_came_together_are_spread() {
    let mut node = MeshHarness::new(&[]);
    for n in 10..74 {
        node.meets(n);
    }
    node.wait(2 * HEARTBEAT);
    let interval = HEARTBEAT.as_millis();
    let at_once: Vec<usize> =
        (0..interval).map(|_| heartbeats(&node.wait(ms(1))).0).filter(|&n| n > 0).collect();
    assert_eq!(at_once.iter().sum::<usize>(), 64, "{at_once:?}");
    assert!(at_once.iter().all(|&n| n <= 64 / 2), "{at_once:?}");
}

#[test]
fn newcomer_moves_few_heartbeats_of_others() {
    let mut node = MeshHarness::new(&[]);
    for n in 10..60 {
        node.meets(n);
    }
    let phases = |node: &mut MeshHarness, from: Duration| -> BTreeMap<SessionId, Duration> {
        let mut phases = BTreeMap::new();
        for at in from.as_millis()..(from + HEARTBEAT).as_millis() {
            let outputs = node.wait(ms(1));
            let phase = ms(u64::try_from(at % HEARTBEAT.as_millis()).unwrap());
            phases.extend(sent(&outputs).iter().map(|(session, _)| (*session, phase)));
        }
        phases
    };
    let settled = ms(300);
    node.wait(HEARTBEAT + settled);
    let before = phases(&mut node, HEARTBEAT + settled);
    node.meets(60);
    node.wait(settled);
    let after = phases(&mut node, 2 * HEARTBEAT + 2 * settled);
    let moved = before.iter().filter(|(session, phase)| after.get(session) != Some(phase)).count();
    assert!(before.len() == 50 && moved <= 50 / 4, "{moved} of {}", before.len());
}

#[test]
fn first_heartbeat_waits_two_intervals_at_most() {
    let mut node = MeshHarness::new(&[]);
    let first = node.meets(10);
    let mut after = Duration::ZERO;
    let is_beat = |(session, message): &(SessionId, &Message)| {
        *session == first && matches!(message, Message::Heartbeat { .. })
    };
    // A peer joins every fifth of a second, the last one well after the first heartbeat.
    let last_join = 2 * HEARTBEAT + SECOND;
    let mut newcomers = (ms(200).as_millis()..=last_join.as_millis()).step_by(200).zip(11..);
    let mut next = newcomers.next();
    let mut heard = Vec::new();
    while let Some((at, n)) = next {
        after += ms(1);
        if sent(&node.wait(ms(1))).iter().any(is_beat) {
            heard.push(after);
        }
        if after.as_millis() == at {
            node.meets(n);
            next = newcomers.next();
        }
    }
    assert!(heard[0] <= 2 * HEARTBEAT && heard[0] + HEARTBEAT / 8 >= 2 * HEARTBEAT, "{heard:?}");
    assert!(heard.len() == 2 && heard[1] - heard[0] <= HEARTBEAT, "{heard:?}");
}

#[test]
fn follower_answers_each_heartbeat_of_its_leader_and_sends_no_other() {
    let (mut node, session) = following_node();
    // By then the first ping is sent, although no round-trip time is known.
    wait_with_heartbeats(&mut node, session, None, 6 * SECOND);
    let outputs = wait_with_heartbeats(&mut node, session, None, 20 * HEARTBEAT);
    assert_eq!(heartbeats(&outputs), (0, 20), "{outputs:?}");
}

#[test]
fn follower_sends_its_own_heartbeat_when_the_leader_is_late() {
    let (mut node, session) = following_node();
    wait_with_heartbeats(&mut node, session, None, 2 * SECOND);
    node.heartbeat(session, node.mesh.digest());
    let alone = HEARTBEAT + HEARTBEAT / 8;
    assert_eq!(heartbeats(&node.wait(alone - ms(1))), (0, 1));
    assert_eq!(heartbeats(&node.wait(ms(2))), (1, 0));
    assert_eq!(heartbeats(&node.wait(HEARTBEAT)), (1, 0));
    // The leader is back: the node answers its heartbeat at once, because none was posted.
    node.wait(HEARTBEAT / 2 + ms(10));
    let outputs = node.heartbeat(session, node.mesh.digest());
    assert_eq!(heartbeats(&outputs).0 + heartbeats(&node.wait(HEARTBEAT / 2)).0, 1);
    assert_eq!(heartbeats(&wait_with_heartbeats(&mut node, session, None, 5 * HEARTBEAT)).0, 0);
}

#[test]
fn heartbeat_posted_just_before_the_leaders_is_sent_again() {
    let (mut node, session) = following_node();
    wait_with_heartbeats(&mut node, session, None, 2 * SECOND);
    let digest = node.mesh.digest();
    node.heartbeat(session, digest);
    for late in [false, true] {
        while heartbeats(&node.wait(ms(1))).1 == 0 {}
        if late {
            node.wait(ms(10));
        }
        assert_eq!(heartbeats(&node.heartbeat(session, digest)).0, usize::from(!late));
    }
}

#[test]
fn hurried_leader_is_answered_at_a_limited_rate() {
    let (mut node, session) = following_node();
    let mut outputs = Vec::new();
    for _ in 0..1000 {
        let digest = node.mesh.digest();
        outputs.extend(node.heartbeat(session, digest));
        outputs.extend(node.wait(ms(10)));
    }
    let (at_once, posted_beats) = heartbeats(&outputs);
    // A heartbeat posted just before may have missed the leader's, so the node sends it again.
    assert!(
        at_once <= 21 && (10..=21).contains(&posted_beats),
        "{at_once}, {posted_beats} within ten seconds"
    );
}

#[test]
fn message_takes_a_posted_heartbeat_along() {
    let (mut node, session) = joined_node();
    wait_with_heartbeats(&mut node, session, None, 2 * SECOND);
    for _ in 0..30 {
        let digest = node.mesh.digest();
        assert_eq!(heartbeats(&node.heartbeat(session, digest)).0, 0, "no heartbeat was posted");
        let outputs = node.wait(SECOND);
        let pings =
            sent(&outputs).iter().filter(|(_, message)| matches!(message, Message::Ping { .. })).count();
        // One heartbeat answers the leader's; one replaces each that a ping took along.
        assert!((1..=1 + pings).contains(&heartbeats(&outputs).1), "{outputs:?}");
    }
}

#[test]
fn new_session_has_no_posted_heartbeat() {
    let (mut node, session) = following_node();
    wait_with_heartbeats(&mut node, session, None, 3 * SECOND);
    let digest = node.mesh.digest();
    node.heartbeat(session, digest);
    assert_eq!(heartbeats(&node.wait(HEARTBEAT)), (0, 1));
    let newer = SessionId::accepted(77);
    node.up(newer, id(3), 1);
    let outputs = node.heartbeat(newer, digest);
    let to: Vec<SessionId> = sent(&outputs).iter().map(|(session, _)| *session).collect();
    assert_eq!((to, heartbeats(&outputs).0), (vec![newer], 1), "{outputs:?}");
}

#[test]
fn first_ping_waits_for_settling_and_a_round_trip_time_or_its_limit() {
    let pings = |outputs: &[Output]| {
        sent(outputs).iter().filter(|(_, message)| matches!(message, Message::Ping { .. })).count()
    };
    let (mut node, session) = joined_node();
    let seq = loop {
        let outputs = node.wait(ms(1));
        assert_eq!(pings(&outputs), 0);
        if let Some((_, Message::Heartbeat { seq, .. })) = sent(&outputs).first() {
            break *seq;
        }
    };
    let echo = Some(Echo { seq, held_us: 0 });
    node.receives(session, Message::Heartbeat { seq: 1, echo, digest: 0 });
    assert_eq!(pings(&node.wait(ms(100))), 1);

    // Membership does not settle while new peers keep joining.
    let (mut node, session) = joined_node();
    let mut outputs = Vec::new();
    for n in 0..24 {
        node.up(SessionId::accepted(3_000 + u64::from(n)), id(20 + n), 1);
        let seq = sent(&outputs).iter().find_map(|(to, message)| match message {
            Message::Heartbeat { seq, .. } if *to == session => Some(*seq),
            _ => None,
        });
        let echo = seq.map(|seq| Echo { seq, held_us: 0 });
        outputs.extend(node.receives(session, Message::Heartbeat { seq: n.into(), echo, digest: 0 }));
        outputs.extend(node.wait(ms(200)));
    }
    assert_eq!(pings(&outputs), 0);
    assert!(node.info(id(3)).unwrap().rtt.is_some());
    // With 25 peers the ping follows within a quarter of a second.
    assert_eq!(pings(&node.wait(ms(300 + 250))), 1);
}

#[test]
fn heartbeat_without_news_is_routine() {
    let mut routine = Routine::default();
    let mut is_routine = |echo: bool, digest| {
        let echo = echo.then_some(Echo { seq: 1, held_us: 0 });
        routine.is_routine(&Message::Heartbeat { seq: 1, echo, digest })
    };
    // The first heartbeat and the first one with a round-trip time are news.
    assert_eq!([is_routine(false, 1), is_routine(false, 1), is_routine(true, 1)], [false, true, false]);
    assert_eq!([is_routine(true, 1), is_routine(true, 2), is_routine(false, 2)], [true, false, true]);
    assert!(!routine.is_routine(&Message::Ping { seq: 1, text: String::new() }));
    assert!(!routine.is_routine(&Message::PeersRequest));
}

#[test]
fn stall_of_this_node_is_no_silence_of_its_peers() {
    let (mut node, session) = joined_node();
    wait_with_heartbeats(&mut node, session, None, 2 * SECOND);
    let arrived = node.now();
    let stalled = ms(1_500);
    node.stall(stalled);
    let (seq, echo, digest) = (9, None, node.mesh.digest());
    let message = Message::Heartbeat { seq, echo, digest };
    let outputs = node.handle(Input::Received { session, message, arrived });
    let gap = reported(&outputs).into_iter().find_map(|report| match report {
        Report::Stalled { gap } => Some(*gap),
        _ => None,
    });
    let silent_at = TIMEOUT + gap.unwrap();
    assert!(!drains(&node.wait(silent_at - stalled - ms(1)), session));
    assert!(drains(&node.wait(ms(2)), session));
}

#[test]
fn holding_time_is_subtracted_from_the_round_trip() {
    let (mut node, session) = joined_node();
    let seq = loop {
        let outputs = node.wait(ms(1));
        if let Some((_, Message::Heartbeat { seq, .. })) = sent(&outputs).first() {
            break *seq;
        }
    };
    node.stall(ms(80));
    let echo = Some(Echo { seq, held_us: 50_000 });
    node.receives(session, Message::Heartbeat { seq: 1, echo, digest: 0 });
    let rtt = node.info(id(3)).and_then(|peer| peer.rtt).unwrap();
    assert!(rtt >= ms(30) && rtt <= ms(31), "{rtt:?}");
}

/// Time until a silent peer with this heartbeat interval is dead.
fn time_until_dead(node: &mut MeshHarness, session: SessionId, heartbeat_ms: u32) -> Duration {
    node.up_with_hello(session, id(3), addr(3), Hello { heartbeat_ms, ..hello() });
    let mut lived = Duration::ZERO;
    while node.mesh.members() > 1 && lived < 10 * MINUTE {
        node.wait(ms(10));
        lived += ms(10);
    }
    lived
}

#[test]
fn slow_peer_gets_three_of_its_heartbeats_up_to_a_minute() {
    // The peer is dead one heartbeat interval of this node after its timeout, because the session is not drained.
    let around =
        |lived: Duration, timeout: Duration| lived >= timeout && lived <= timeout + HEARTBEAT + ms(20);
    let mut node = MeshHarness::new(&[]);
    for (at, (heartbeat_ms, timeout)) in
        [(100, TIMEOUT), (5_000, 15 * SECOND), (1_000, TIMEOUT), (u32::MAX, MINUTE)].into_iter().enumerate()
    {
        let lived = time_until_dead(&mut node, SessionId::accepted(at as u64), heartbeat_ms);
        assert!(around(lived, timeout), "{heartbeat_ms} ms: {lived:?}");
    }
    // The heartbeat interval of the newest session counts.
    node.up_with_hello(SessionId::accepted(10), id(3), addr(3), Hello { heartbeat_ms: 20_000, ..hello() });
    let lived = time_until_dead(&mut node, SessionId::accepted(11), 1_000);
    assert!(around(lived, TIMEOUT), "{lived:?}");
}

#[test]
fn events_of_a_peer_arrive_in_order() {
    let mut node = MeshHarness::new(&[]);
    let mut outputs = node.up(SessionId::accepted(1), id(3), 1);
    outputs.extend(node.wait(10 * SECOND));
    let events = events_of(&outputs);
    assert!(matches!(events[..], [Event::Up { .. }, Event::Down { .. }]), "{events:?}");
}
