//! Nodes embedded in another program: the public API of the library.

use std::time::{Duration, Instant};

use p2p_gossip::internals::limits::MESSAGE_BYTES_MAX;
use p2p_gossip::{BroadcastError, Config, Event, Events, Identity, Node, PeerState};

/// Deadline for events that normally arrive within moments.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(connect: &[&Node]) -> Node {
    let connect = connect.iter().map(|node| node.local_addr().into());
    let bind = "127.0.0.1".parse().unwrap();
    let config = Config::default().port(0).bind(bind).connect(connect);
    Node::start(config, Identity::generate().unwrap()).unwrap()
}

/// Starts a first node and others that join through it; returns when all are connected to each other.
fn mesh(size: usize) -> Vec<Node> {
    let mut nodes = vec![start(&[])];
    for _ in 1..size {
        nodes.push(start(&[&nodes[0]]));
    }
    for node in &nodes {
        wait_for(node.events(), |event| matches!(event, Event::Up { members, .. } if *members == size));
    }
    nodes
}

fn wait_for(events: &Events, wanted: impl Fn(&Event) -> bool) -> Event {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = events.recv_deadline(deadline).expect("the event comes in time");
        if wanted(&event) {
            return event;
        }
    }
}

fn next_message(events: &Events) -> String {
    match wait_for(events, |event| matches!(event, Event::Message { .. })) {
        Event::Message { text, .. } => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn broadcasts_reach_every_peer_in_order() {
    let nodes = mesh(3);
    let sender = &nodes[1];
    let readers = [&nodes[0], &nodes[2]].map(Node::subscribe);
    let sent: Vec<String> = (0..100).map(|n| format!("message {n}")).collect();
    for text in &sent {
        let delivery = sender.broadcast(text.clone()).unwrap();
        assert_eq!((delivery.reached(), delivery.missed()), (2, 0));
        assert_eq!(delivery.wait(PATIENCE), 2);
    }
    for reader in &readers {
        let received: Vec<String> = sent.iter().map(|_| next_message(reader)).collect();
        assert_eq!(received, sent);
    }
    // The sender does not receive its own broadcasts, and every reader of events gets the same ones.
    assert!(sender.events().try_iter().all(|event| !matches!(event, Event::Message { .. })));
    assert_eq!(next_message(nodes[0].events()), sent[0]);
}

#[test]
fn subscriber_receives_messages_sent_after_its_subscription() {
    let nodes = mesh(2);
    for round in 0..500 {
        let events = nodes[0].subscribe();
        nodes[1].broadcast(round.to_string()).unwrap();
        assert_eq!(next_message(&events), round.to_string());
    }
}

#[test]
fn broadcast_of_a_settled_joiner_reaches_every_peer() {
    let nodes = mesh(6);
    for _ in 0..5 {
        let joiner = start(&[&nodes[0]]);
        assert!(joiner.wait_settled());
        let delivery = joiner.broadcast("hello, all").unwrap();
        assert_eq!((delivery.reached(), delivery.wait(PATIENCE)), (6, 6));
    }
    assert!(nodes[0].wait_settled(), "a node without bootstrap addresses is settled at once");
}

#[test]
fn wait_settled_returns_false_when_the_node_stops() {
    let unreachable = Config::default().port(0).connect(["127.0.0.1:9".parse().unwrap()]);
    let node = Node::start(unreachable, Identity::generate().unwrap()).unwrap();
    let handle = node.handle();
    let waiting = std::thread::spawn({
        let handle = handle.clone();
        move || handle.wait_settled()
    });
    // The reply to this later request shows that the node keeps the earlier request waiting.
    assert!(!node.status().unwrap().mesh.is_joined);
    node.shutdown();
    assert!(!waiting.join().unwrap());
    assert!(!handle.wait_settled() && handle.status().is_none() && handle.peers().is_empty());
    assert_eq!(handle.broadcast("x").unwrap_err(), BroadcastError::Stopped);
    assert_eq!(handle.subscribe().recv().ok(), None);
}

#[test]
fn broadcast_before_shutdown_arrives() {
    let mut nodes = mesh(2);
    let leaver = nodes.pop().unwrap();
    leaver.broadcast("last words").unwrap();
    leaver.shutdown();
    assert_eq!(next_message(nodes[0].events()), "last words");
    wait_for(nodes[0].events(), |event| matches!(event, Event::Left { .. }));
}

#[test]
fn too_long_message_is_refused_and_not_sent() {
    let nodes = mesh(2);
    let too_long = "x".repeat(MESSAGE_BYTES_MAX + 1);
    let error = nodes[0].broadcast(too_long).unwrap_err();
    assert!(matches!(error, BroadcastError::TooLong { bytes, .. } if bytes == MESSAGE_BYTES_MAX + 1));
    let longest = "y".repeat(MESSAGE_BYTES_MAX);
    nodes[0].broadcast(longest.clone()).unwrap();
    assert_eq!(next_message(nodes[1].events()), longest);
}

#[test]
fn status_reports_peers_and_totals() {
    let nodes = mesh(2);
    wait_for(nodes[0].events(), |event| matches!(event, Event::Ping { rtt_ms: Some(_), .. }));
    let status = nodes[0].status().unwrap();
    assert_eq!((status.mesh.members, status.mesh.is_joined), (2, true));
    let [peer] = &status.mesh.peers[..] else { panic!("{status:?}") };
    assert_eq!((peer.id, peer.state), (nodes[1].id(), PeerState::Up));
    assert!(peer.pings_received >= 1 && peer.rtt_min <= peer.rtt_mean && peer.rtt.is_some(), "{peer:?}");
    assert!(peer.silence.is_some_and(|silence| silence < PATIENCE));
    let measured = status.mesh.rtt.count();
    assert!(measured >= 1);
    let totals = status.totals;
    assert!(totals.connections_accepted >= 1 && totals.handshakes_accepted_completed >= 1, "{totals:?}");
    assert!(totals.frames_received >= 2 && totals.bytes_received > totals.frames_received, "{totals:?}");
    let joiner = nodes[1].status().unwrap().totals;
    assert!(joiner.dials >= 1 && joiner.handshakes_dialled_completed >= 1, "{joiner:?}");
}

#[test]
fn dropped_node_leaves_the_mesh() {
    let mut nodes = mesh(2);
    let events = nodes[1].subscribe();
    let id = nodes[1].id();
    drop(nodes.pop());
    let left = wait_for(nodes[0].events(), |event| matches!(event, Event::Left { .. }));
    assert!(matches!(left, Event::Left { peer, .. } if peer == id));
    assert_eq!(events.iter().last(), Some(Event::Stopped));
}
