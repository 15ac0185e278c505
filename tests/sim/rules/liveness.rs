//! Heartbeats and silence.

use std::time::Duration;

use p2p_gossip::Event;
use p2p_gossip::config::{HEARTBEAT, TIMEOUT};
use p2p_gossip::mesh::{Output, SessionId};
use p2p_gossip::wire::{Echo, Hello, Message};

use super::{MINUTE, SECOND, joined, ms, with_heartbeats};
use crate::sim::puppet::{Puppet, addr, hello, id, sent, told};

#[test]
fn whatever_a_peer_says_it_is_alive() {
    let (mut node, session) = joined();
    let ping = |seq| Message::Ping { seq, text: String::new() };
    let mut outputs = Vec::new();
    for n in 0..4 {
        outputs.extend(node.wait(TIMEOUT - ms(1)));
        outputs.extend(node.receives(session, if n % 2 == 0 { ping(n) } else { Message::PeersRequest }));
    }
    assert!(told(&outputs).iter().all(|event| matches!(event, Event::Ping { .. })), "{outputs:?}");
}

#[test]
fn a_heartbeat_goes_out_once_an_interval_and_the_first_is_answered_at_once() {
    let (mut node, session) = joined();
    let beats = |outputs: &[Output]| {
        sent(outputs).iter().filter(|(_, message)| matches!(message, Message::Heartbeat { .. })).count()
    };
    let outputs = node.heartbeat(session, 0);
    let echo = |(_, message): &(SessionId, &Message)| {
        matches!(message, Message::Heartbeat { echo: Some(Echo { seq: 1, .. }), .. })
    };
    assert_eq!(sent(&outputs).iter().filter(|beat| echo(beat)).count(), 1, "{outputs:?}");
    node.wait(SECOND);
    let outputs = with_heartbeats(&mut node, session, None, 20 * HEARTBEAT);
    assert!((20..=21).contains(&beats(&outputs)), "{}", beats(&outputs));
}

#[test]
fn the_time_that_an_echo_was_held_is_no_part_of_the_round_trip() {
    let (mut node, session) = joined();
    let seq = loop {
        let outputs = node.wait(ms(1));
        if let Some((_, Message::Heartbeat { seq, .. })) = sent(&outputs).first() {
            break *seq;
        }
    };
    node.stand_still(ms(80));
    let echo = Some(Echo { seq, held_us: 50_000 });
    node.receives(session, Message::Heartbeat { seq: 1, echo, roster: 0 });
    let rtt = node.info(id(3)).and_then(|peer| peer.rtt).unwrap();
    assert!(rtt >= ms(30) && rtt <= ms(31), "{rtt:?}");
}

/// How long a silent peer lives that says it has this heartbeat interval.
fn lives_silently(node: &mut Puppet, session: SessionId, heartbeat_ms: u32) -> Duration {
    node.up_as(session, id(3), addr(3), Hello { heartbeat_ms, ..hello() });
    let mut lived = Duration::ZERO;
    while node.mesh.members() > 1 && lived < 10 * MINUTE {
        node.wait(ms(10));
        lived += ms(10);
    }
    lived
}

#[test]
fn a_slow_peer_has_three_of_its_own_heartbeats_and_a_minute_at_most() {
    // Dead a heartbeat of ours after its silence is up, when nothing was found unread.
    let around =
        |lived: Duration, timeout: Duration| lived >= timeout && lived <= timeout + HEARTBEAT + ms(20);
    let mut node = Puppet::new(&[]);
    for (at, (heartbeat_ms, timeout)) in
        [(100, TIMEOUT), (5_000, 15 * SECOND), (1_000, TIMEOUT), (u32::MAX, MINUTE)].into_iter().enumerate()
    {
        let lived = lives_silently(&mut node, SessionId::accepted(at as u64), heartbeat_ms);
        assert!(around(lived, timeout), "{heartbeat_ms} ms: {lived:?}");
    }
    // Its newest session counts.
    node.up_as(SessionId::accepted(10), id(3), addr(3), Hello { heartbeat_ms: 20_000, ..hello() });
    let lived = lives_silently(&mut node, SessionId::accepted(11), 1_000);
    assert!(around(lived, TIMEOUT), "{lived:?}");
}
