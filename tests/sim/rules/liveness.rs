//! Heartbeats, timeouts and round-trip times.

use std::collections::BTreeMap;
use std::time::Duration;

use p2p_gossip::internals::limits::{HEARTBEAT, TIMEOUT};
use p2p_gossip::internals::mesh::{DisconnectReason, GRACE, Input, Output, Report, SessionId, Vitals};
use p2p_gossip::internals::wire::{Hello, Message};
use p2p_gossip::{Config, Event};

use super::{MINUTE, SECOND, joined_node, ms, reported, wait_with_heartbeats};
use crate::sim::mesh_harness::{MeshHarness, addr, dialled, dials_to, events_of, hello, id, sent};

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

/// Number of heartbeats that the node makes its sessions send.
fn beats(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Heartbeat { .. })).count()
}

#[test]
fn leader_sends_a_heartbeat_once_an_interval() {
    let mut node = MeshHarness::new(&[]);
    // Node 9 is the leader. It sends the first heartbeat once membership has settled.
    let session = node.meets(12);
    assert_eq!(beats(&node.wait(ms(300))), 1);
    node.wait(SECOND);
    let sent = beats(&wait_with_heartbeats(&mut node, session, None, 20 * HEARTBEAT));
    assert!((20..=21).contains(&sent), "{sent}");
}

#[test]
fn heartbeat_with_a_settled_digest_is_not_followed_by_another_one_at_once() {
    for phase in (0..HEARTBEAT.as_millis()).step_by(20) {
        let mut node = MeshHarness::new(&[]);
        node.wait(ms(u64::try_from(phase).unwrap()));
        node.meets(12);
        let at_once: Vec<usize> = (0..300).map(|_| beats(&node.wait(ms(1)))).filter(|&n| n > 0).collect();
        assert!(at_once.iter().all(|&n| n == 1), "{phase} ms after the start: {at_once:?}");
    }
}

#[test]
fn settled_digest_goes_to_some_peers_at_once_and_to_others_in_time() {
    let mut node = MeshHarness::new(&[]);
    for n in 10..60 {
        node.meets(n);
    }
    let first = beats(&node.wait(ms(300)));
    assert!((1..50).contains(&first), "{first}");
    let later = beats(&node.wait(HEARTBEAT));
    assert!((50 - first..=50 + first).contains(&later), "{first}, then {later}");
}

#[test]
fn heartbeats_to_peers_that_came_together_are_spread() {
    let mut node = MeshHarness::new(&[]);
    for n in 10..74 {
        node.meets(n);
    }
    node.wait(2 * HEARTBEAT);
    let interval = HEARTBEAT.as_millis();
    let at_once: Vec<usize> = (0..interval).map(|_| beats(&node.wait(ms(1)))).filter(|&n| n > 0).collect();
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
            let beats = outputs.iter().filter_map(|output| match output {
                Output::Heartbeat { session } => Some((*session, phase)),
                _ => None,
            });
            phases.extend(beats);
        }
        phases
    };
    // The peers are silent, but none is dead before the test ends.
    node.answers_drains = false;
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
fn first_heartbeat_waits_one_interval_at_most() {
    let mut node = MeshHarness::new(&[]);
    let first = node.meets(10);
    let mut after = Duration::ZERO;
    let is_beat = |output: &Output| *output == Output::Heartbeat { session: first };
    // A peer joins every fifth of a second, the last one well after the first heartbeat.
    let last_join = HEARTBEAT + SECOND;
    let mut newcomers = (ms(200).as_millis()..=last_join.as_millis()).step_by(200).zip(11..);
    let mut next = newcomers.next();
    let mut heard = Vec::new();
    while let Some((at, n)) = next {
        after += ms(1);
        if node.wait(ms(1)).iter().any(is_beat) {
            heard.push(after);
        }
        if after.as_millis() == at {
            node.meets(n);
            next = newcomers.next();
        }
    }
    assert!(heard[0] <= HEARTBEAT && heard[0] + HEARTBEAT / 8 >= HEARTBEAT, "{heard:?}");
    assert!(heard.len() == 2 && heard[1] - heard[0] <= HEARTBEAT, "{heard:?}");
}

#[test]
fn follower_sends_no_heartbeats() {
    // Node 3 is the leader. The sessions themselves acknowledge its heartbeats.
    let (mut node, session) = joined_node();
    let outputs = wait_with_heartbeats(&mut node, session, None, 20 * HEARTBEAT);
    assert_eq!(beats(&outputs), 0, "{outputs:?}");
}

fn pings(outputs: &[Output]) -> usize {
    sent(outputs).iter().filter(|(_, message)| matches!(message, Message::Ping { .. })).count()
}

#[test]
fn first_ping_waits_for_settling_and_a_round_trip_time_or_its_limit() {
    let (mut node, session) = joined_node();
    assert_eq!(pings(&node.wait(SECOND)), 0);
    node.measures(session, ms(1));
    assert_eq!(pings(&node.wait(ms(100))), 1);

    // Membership does not settle while new peers keep joining.
    let (mut node, session) = joined_node();
    let mut outputs = Vec::new();
    for n in 0..13 {
        node.up(SessionId::accepted(3_000 + u64::from(n)), id(20 + n), 1);
        outputs.extend(node.measures(session, ms(1)));
        outputs.extend(node.wait(ms(200)));
    }
    assert_eq!(pings(&outputs), 0);
    assert!(node.info(id(3)).unwrap().rtt.is_some());
    // With 14 peers the ping follows within 140 ms.
    assert_eq!(pings(&node.wait(ms(300 + 140))), 1);
}

#[test]
fn stall_of_this_node_is_no_silence_of_its_peers() {
    let (mut node, session) = joined_node();
    wait_with_heartbeats(&mut node, session, None, 2 * SECOND);
    let arrived = node.now();
    let stalled = ms(1_500);
    node.stall(stalled);
    let vitals = Vitals { digest: node.mesh.digest(), interval_ms: 1000 };
    let outputs = node.handle(Input::Heartbeat { session, vitals, arrived, rtt: None });
    let gap = reported(&outputs).into_iter().find_map(|report| match report {
        Report::Stalled { gap } => Some(*gap),
        _ => None,
    });
    let dead_at = TIMEOUT + gap.unwrap();
    assert!(events_of(&node.wait(dead_at - stalled - ms(1))).is_empty());
    assert_eq!(events_of(&node.wait(ms(2))).len(), 1);
}

/// A laptop's lid: the peers gave up the sessions, and their goodbyes were lost with the network.
#[test]
fn session_that_broke_while_this_node_stood_still_gets_the_grace() {
    let (mut node, session) = joined_node();
    wait_with_heartbeats(&mut node, session, None, 2 * SECOND);
    node.stall(20 * SECOND);
    let mut outputs = node.down(session, DisconnectReason::Closed);
    outputs.extend(node.wait_with_dials_open(ms(100)));
    assert_eq!((events_of(&outputs).len(), dials_to(&outputs, id(3))), (0, 1), "{outputs:?}");
    let (session, ..) = dialled(&outputs)[0];
    assert!(events_of(&node.up(session, id(3), 1)).is_empty());

    // No peer comes this time.
    wait_with_heartbeats(&mut node, session, None, 2 * SECOND);
    node.stall(20 * SECOND);
    assert!(events_of(&node.down(session, DisconnectReason::Closed)).is_empty());
    assert!(events_of(&node.wait(GRACE - ms(1))).is_empty());
    let events = events_of(&node.wait(SECOND));
    assert!(matches!(events[..], [Event::Down { .. }]), "{events:?}");

    // A short stall, or a session of a node that has been awake for a while: the peer is lost at once.
    for (asleep, awake) in [(SECOND, Duration::ZERO), (20 * SECOND, TIMEOUT + SECOND)] {
        let (mut node, session) = joined_node();
        wait_with_heartbeats(&mut node, session, None, 2 * SECOND);
        node.stall(asleep);
        wait_with_heartbeats(&mut node, session, None, awake);
        let events = events_of(&node.down(session, DisconnectReason::Closed));
        assert!(matches!(events[..], [Event::Down { .. }]), "{events:?}");
    }
}

/// Time until a silent peer with this heartbeat interval is dead.
fn time_until_dead(node: &mut MeshHarness, session: SessionId, heartbeat_ms: u32, instance: u64) -> Duration {
    node.up_with_hello(session, id(3), addr(3), Hello { heartbeat_ms, instance, ..hello() });
    let mut lived = Duration::ZERO;
    while node.mesh.members() > 1 && lived < 10 * MINUTE {
        node.wait(ms(10));
        lived += ms(10);
    }
    lived
}

#[test]
fn slow_peer_gets_three_of_its_heartbeats_up_to_a_minute() {
    let around =
        |lived: Duration, timeout: Duration| lived >= timeout && lived <= timeout + HEARTBEAT + ms(20);
    let mut node = MeshHarness::new(&[]);
    for (at, (heartbeat_ms, timeout)) in
        [(100, TIMEOUT), (5_000, 15 * SECOND), (1_000, TIMEOUT), (u32::MAX, MINUTE)].into_iter().enumerate()
    {
        // A restarted peer is up at once, however often it was lost.
        let lived = time_until_dead(&mut node, SessionId::accepted(at as u64), heartbeat_ms, at as u64);
        assert!(around(lived, timeout), "{heartbeat_ms} ms: {lived:?}");
    }
    // The heartbeat interval of the newest session counts.
    let slow = Hello { heartbeat_ms: 20_000, instance: 10, ..hello() };
    node.up_with_hello(SessionId::accepted(10), id(3), addr(3), slow);
    let lived = time_until_dead(&mut node, SessionId::accepted(11), 1_000, 10);
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

#[test]
fn first_ping_without_a_round_trip_time_comes_after_a_period_but_within_five_seconds() {
    for (period, first) in [(SECOND, SECOND), (MINUTE, 5 * SECOND)] {
        let mut node = MeshHarness::with(Config::default().period(period));
        let session = node.meets(3);
        let pinged = |outputs: &[Output]| {
            sent(outputs).iter().any(|(_, message)| matches!(message, Message::Ping { .. }))
        };
        let mut waited = Duration::ZERO;
        while !pinged(&node.wait(ms(100))) {
            node.heartbeat(session, 0);
            waited += ms(100);
            assert!(waited <= MINUTE, "no ping");
        }
        assert!(waited <= first && waited + ms(200) >= first, "{period:?}: {waited:?}");
    }
}

#[test]
fn ping_that_the_user_asks_for_goes_out_at_once_and_has_the_next_number() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    for wanted in 1..=2 {
        assert_eq!(node.mesh.next_ping(&id(3)), Ok(wanted));
        let outputs = node.handle(Input::Ping(id(3)));
        let is_it = |output: &Output| {
            matches!(output, Output::Send { session: to, message: Message::Ping { seq, .. } }
                if (*to, *seq) == (session, wanted))
        };
        assert!(outputs.iter().any(is_it), "{outputs:?}");
    }
    node.down(session, DisconnectReason::Closed);
    assert!(node.mesh.next_ping(&id(3)).is_err());
    assert!(node.handle(Input::Ping(id(3))).is_empty());
}

/// The send times of heartbeats are further apart than these pings.
#[test]
fn pings_more_frequent_than_heartbeats_keep_their_period() {
    let period = ms(300);
    let mut node = MeshHarness::with(Config::default().period(period));
    let session = node.meets(3);
    wait_with_heartbeats(&mut node, session, None, 5 * SECOND);
    let sent = pings(&wait_with_heartbeats(&mut node, session, None, 30 * SECOND));
    assert!((99..=101).contains(&sent), "{sent} pings");
}

#[test]
fn small_mesh_looks_at_all_its_peers_twice_an_interval() {
    let mut node = MeshHarness::with(Config::default().period(MINUTE));
    // Each is heard once an interval, at a time of its own.
    let sessions: Vec<SessionId> = [2, 3, 4, 12, 13, 14, 15].map(|n| node.meets(n)).to_vec();
    let step = ms(10);
    let mut wakes = 0;
    for n in 0..1500_usize {
        if n % 100 % 13 == 0
            && let Some(&session) = sessions.get(n % 100 / 13)
        {
            let now = node.now();
            node.mesh.note_heard(now, session, now);
        }
        let is_due = node.mesh.poll_timeout().is_some_and(|due| due <= node.now() + step);
        wakes += usize::from(is_due && n >= 500);
        node.wait(step);
    }
    assert!(wakes <= 2 * 10 + 2, "{wakes} times in ten intervals");
}
