//! A leader that tells false round-trip times with its heartbeats.

use std::time::Duration;

use p2p_gossip::internals::wire::Message;
use p2p_gossip::{Config, Event, Identity, Node};

use super::raw::{Credentials, Raw};

/// Heartbeats of the liar, each with a ping behind it, so that the node hears of each time at once.
const HEARTBEATS: u64 = 300;

#[test]
fn false_round_trip_times_are_bounded_and_count_once() {
    let config = Config::default().port(0).bind("127.0.0.1".parse().unwrap());
    let node = Node::start(config, Identity::generate().unwrap()).unwrap();
    // The node with the smaller id leads.
    let liar = std::iter::repeat_with(Credentials::new).find(|liar| liar.id() < node.id()).unwrap();
    let mut raw = Raw::join(node.local_addr(), &liar);
    let start = std::time::Instant::now();
    for seq in 1..=HEARTBEATS {
        for rtt_us in [0, u32::MAX, 1] {
            raw.send(&Message::Heartbeat { seq, digest: 1, interval_ms: 1000, rtt_us }).unwrap();
            raw.send(&Message::Ping { seq, text: String::new() }).unwrap();
        }
    }
    let is_last = |event: &Event| matches!(event, Event::Ping { seq: HEARTBEATS, .. });
    while !is_last(&node.events().recv().expect("the node runs")) {}
    let gap = start.elapsed();
    let histogram = node.status().expect("the node runs").mesh.rtt;
    let counted_max = 1 + gap.as_secs() / 10;
    assert!(histogram.count() <= counted_max, "{} times of {gap:?}", histogram.count());
    assert!(histogram.sum() <= gap && gap < Duration::from_secs(60), "{:?} of {gap:?}", histogram.sum());
    drop(raw);
    node.shutdown();
}
