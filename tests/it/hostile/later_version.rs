//! Peers of a later version: they have capabilities, messages and reasons that this version does not know.

use std::io;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use p2p_gossip::internals::wire::{ByeReason, EXTENSION_BYTES_MAX, Hello, Message};
use p2p_gossip::{DownReason, Event};

use super::raw::{Credentials, Raw, hello};
use crate::support::process::Spec;
use crate::support::{Cluster, localhost};

/// A reason that this version does not know, and the text that shows it.
const REASON: (ByeReason, &str) = (ByeReason::Other(999), "for reason 999, which only a later version knows");

/// A time in which a node without backoff would dial thousands of times.
const OBSERVED: Duration = Duration::from_secs(4);

fn extension(kind: u32, bytes: usize) -> Message {
    Message::Extension { kind, bytes: vec![0xff; bytes] }
}

#[test]
fn unknown_capabilities_extensions_and_reasons_are_understood_as_far_as_possible() {
    let mut cluster = Cluster::new();
    let node = cluster.start(Spec::named("node").with_bind(localhost()));
    let entrance = TcpListener::bind(localhost()).unwrap();
    let later = Credentials::new();
    let mut raw = Raw::dial(cluster.addr(node), &later);
    raw.exchange_hello(Hello {
        listen_port: entrance.local_addr().unwrap().port(),
        capabilities: vec![0, 7, 300, u32::MAX],
        ..hello("later")
    });

    for (kind, bytes) in [(0, 0), (7, 100), (u32::MAX, EXTENSION_BYTES_MAX)] {
        raw.send(&extension(kind, bytes)).unwrap();
    }
    raw.send(&Message::Heartbeat { seq: 1, digest: 0, interval_ms: 1000, rtt_us: 0 }).unwrap();
    while !matches!(raw.receive().expect("the session goes on"), Message::HeartbeatAck { seq: 1, .. }) {}
    raw.send(&Message::Ping { seq: 77, text: "later".to_owned() }).unwrap();
    cluster.wait_for("the ping behind the extensions", &[node], |history| {
        let is_ours = |e: &Event| matches!(e, Event::Ping { peer, seq: 77, .. } if *peer == later.id());
        history.events_since(node, 0).any(is_ours).then_some(())
    });
    raw.send(&extension(8, 1)).unwrap();
    raw.send(&Message::Bye(REASON.0)).unwrap();
    assert_eq!(raw.wait_end().bye, None, "the node has no reason for a goodbye of its own");

    cluster.wait_down(&[node], later.id(), DownReason::Refused, 0);
    cluster.wait_for("the reason in the log", &[node], |history| {
        history.log_mentions(node, REASON.1).then_some(())
    });
    // The node takes the goodbye for a refusal and dials again after a minute.
    entrance.set_nonblocking(true).unwrap();
    std::thread::sleep(OBSERVED);
    assert!(entrance.accept().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    assert!(cluster.terminate(node).success());
}

#[test]
fn peer_that_refuses_with_an_unknown_reason_is_redialled_with_backoff() {
    let entrance = TcpListener::bind(localhost()).unwrap();
    let mut cluster = Cluster::new();
    let spec = Spec::named("node").with_bind(localhost()).with_connect(entrance.local_addr().unwrap());
    let node = cluster.start(spec);
    let later = Credentials::new();
    let refuse = || {
        let mut raw = Raw::accept(entrance.accept().unwrap().0, &later);
        let began = Instant::now();
        raw.shake_hands().unwrap();
        raw.send(&Message::Bye(REASON.0)).unwrap();
        raw.wait_end();
        began
    };
    // Waits of at least three quarters of 0.25, 0.5 and 1 second.
    let first = refuse();
    let [.., last] = [(); 3].map(|()| refuse());
    let waited = last - first;
    assert!(waited >= Duration::from_millis(1300), "four dials within {waited:?}");
    cluster.wait_for("the reason in the log", &[node], |history| {
        history.log_mentions(node, REASON.1).then_some(())
    });
    cluster.check(&[node], |history| {
        let is_change = !history.changes_since(node, 0).is_empty();
        is_change.then(|| "a peer that refused counted as a member".to_owned())
    });
    assert!(cluster.terminate(node).success());
}
