//! Tests of restarted nodes: they know their peers and find them at new addresses.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use p2p_gossip::{Config, Event, Identity, Node, PeerId, StateDir, StateError};
use serde_json::Value;

use super::store::{Store, ids, known, wait_until_all_known, wait_until_known};
use crate::support::history::Member;
use crate::support::process::Spec;
use crate::support::{Cluster, DEADLINE, assert_mesh_stays_up, unique_addr};

/// A node on an address that no other process uses, with a state directory.
fn spec(store: &Store, name: &str) -> Spec {
    Spec::named(name).with_bind(unique_addr()).with_state(&store.dir(name))
}

#[test]
fn restarted_node_finds_its_mesh_by_one_unchanged_address() {
    let store = Store::new();
    let mut cluster = Cluster::new();
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| spec(&store, name));
    let nodes = cluster.start_star(a, [b, c, d]);
    cluster.wait_full_mesh(&nodes);
    let all: Vec<_> = nodes.iter().map(|&node| cluster.id(node)).collect();
    wait_until_all_known(&store.dir("d"), &all[..3]);
    cluster.kill(nodes[3]);

    // While `d` is down, `b` and `c` move; only `a`, which stays, learns their addresses.
    let unmoved = cluster.addr(nodes[0]);
    let moved = ["b", "c"].map(|name| spec(&store, name).with_connect(unmoved));
    cluster.kill(nodes[1]);
    cluster.kill(nodes[2]);
    let mut now = vec![nodes[0]];
    now.extend(moved.map(|spec| cluster.start(spec)));
    cluster.wait_full_mesh(&now);
    // `d` moves too, so no peer can find it, and gets no bootstrap address.
    now.push(cluster.start(spec(&store, "d")));
    cluster.wait_full_mesh(&now);
    assert_eq!(now.iter().map(|&node| cluster.id(node)).collect::<Vec<_>>(), all);
    assert_mesh_stays_up(&cluster, &now);
}

#[test]
fn stopped_mesh_reforms_without_bootstrap_addresses() {
    let store = Store::new();
    let mut cluster = Cluster::new();
    let specs = ["a", "b", "c"].map(|name| spec(&store, name));
    let [first, others @ ..] = specs.clone();
    let nodes = cluster.start_star(first, others);
    cluster.wait_full_mesh(&nodes);
    let all: Vec<_> = nodes.iter().map(|&node| cluster.id(node)).collect();
    for (at, name) in ["a", "b", "c"].iter().enumerate() {
        let others: Vec<_> = all.iter().copied().filter(|id| *id != all[at]).collect();
        wait_until_all_known(&store.dir(name), &others);
    }
    // One after the other, so that the last node has seen all others leave.
    let back: Vec<_> = nodes.iter().map(|&node| cluster.restart_spec(node)).collect();
    for &node in &nodes {
        assert!(cluster.terminate(node).success());
    }
    let nodes: Vec<_> = back.into_iter().map(|spec| cluster.start(without_bootstrap(spec))).collect();
    cluster.wait_full_mesh(&nodes);
    assert_eq!(nodes.iter().map(|&node| cluster.id(node)).collect::<Vec<_>>(), all);
}

fn without_bootstrap(spec: Spec) -> Spec {
    Spec { connect: Vec::new(), ..spec }
}

/// Listens at the address of a stopped node, to see dials to it.
fn listen_at(addr: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match TcpListener::bind(addr) {
            Ok(listener) => return listener,
            // The kernel may still hold connections of the stopped node.
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{addr}: {error}"),
        }
    }
}

fn is_dialled(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    match listener.accept() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn left_peer_is_dialled_after_a_restart_only_if_the_user_asks() {
    let store = Store::new();
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(spec(&store, "a"), ["left", "lost"].map(|name| spec(&store, name)));
    cluster.wait_full_mesh(&nodes);
    let [left, lost] = [nodes[1], nodes[2]].map(|node| (cluster.id(node), cluster.addr(node)));
    assert!(cluster.terminate(nodes[1]).success());
    cluster.kill(nodes[2]);
    wait_until_known(&store.dir("a"), "a left and a lost peer", |known| {
        let is = |(id, _): (p2p_gossip::PeerId, _), has_left: bool| {
            known.iter().any(|peer| peer["id"] == id.to_string() && peer["left"] == has_left)
        };
        is(left, true) && is(lost, false)
    });
    let again = cluster.restart_spec(nodes[0]);
    cluster.kill(nodes[0]);

    let (at_left, at_lost) = (listen_at(left.1), listen_at(lost.1));
    let node = cluster.start(again.clone());
    // A first dial of the left peer would come before the third dial of the lost one.
    for _ in 0..3 {
        at_lost.accept().unwrap();
    }
    assert!(!is_dialled(&at_left), "a peer that left was dialled");
    cluster.kill(node);
    cluster.start(again.with_connect(left.1));
    at_left.set_nonblocking(false).unwrap();
    at_left.accept().unwrap();
}

/// Starts nodes `a`, `b` and `c` through `a`, waits until they know each other, and kills them all.
/// Returns the members and their ids.
fn killed_mesh(store: &Store, cluster: &mut Cluster) -> (Vec<Member>, [PeerId; 3]) {
    let nodes = cluster.start_star(spec(store, "a"), ["b", "c"].map(|name| spec(store, name)));
    cluster.wait_full_mesh(&nodes);
    let [a, b, c] = [0, 1, 2].map(|n| cluster.id(nodes[n]));
    wait_until_all_known(&store.dir("a"), &[b, c]);
    wait_until_all_known(&store.dir("b"), &[a, c]);
    for &node in &nodes {
        cluster.kill(node);
    }
    (nodes, [a, b, c])
}

/// The known peers file of this node.
fn known_peers_file(store: &Store, name: &str) -> PathBuf {
    store.dir(name).join("known_peers.toml")
}

/// Changes the year of all times in the file, as if the node's wall clock had been wrong.
fn set_year(file: &Path, year: &str) {
    let line = |line: &str| match line.split_once(" = \"20") {
        Some((key, rest)) if rest.ends_with("Z\"") => format!("{key} = \"{year}{}\n", &rest[2..]),
        _ => format!("{line}\n"),
    };
    let text: String = fs::read_to_string(file).unwrap().lines().map(line).collect();
    assert_eq!(text.matches(&format!("\"{year}-")).count(), text.matches("Z\"").count(), "{text}");
    fs::write(file, text).unwrap();
}

#[test]
fn peer_missed_for_the_forget_time_is_forgotten_at_the_start() {
    let store = Store::new();
    let mut cluster = Cluster::new();
    let (_, [_, b, c]) = killed_mesh(&store, &mut cluster);
    let file = known_peers_file(&store, "a");
    let text = fs::read_to_string(&file).unwrap();
    let entry = text.find(&b.to_string()).unwrap();
    let at = entry + text[entry..].find("left = false").unwrap();
    fs::write(&file, text[..at].to_owned() + "missed_s = 86400\n" + &text[at..]).unwrap();

    let node = cluster.start(spec(&store, "a"));
    cluster.wait_for("the count of forgotten peers", &[node], |history| {
        history.log_mentions(node, "peers=1 forgotten=1").then_some(())
    });
    wait_until_known(&store.dir("a"), "the other alone", |known| ids(known) == [c]);
}

#[test]
fn known_peers_are_found_despite_a_wrong_wall_clock() {
    for year in ["1970", "2001", "9998"] {
        let store = Store::new();
        let mut cluster = Cluster::new();
        let (nodes, _) = killed_mesh(&store, &mut cluster);
        set_year(&known_peers_file(&store, "a"), year);
        let back = nodes[1..].iter().map(|&node| cluster.restart_spec(node)).collect::<Vec<_>>();
        let mut nodes: Vec<_> = back.into_iter().map(|spec| cluster.start(without_bootstrap(spec))).collect();
        // `a` starts at another address, so only its known peers lead to the others.
        nodes.push(cluster.start(spec(&store, "a")));
        let a = nodes[2];
        cluster.wait_full_mesh(&nodes);
        cluster.check(&[a], |history| {
            let kept = history.log_mentions(a, "peers=2 forgotten=0");
            (!kept).then(|| format!("peers are forgotten because their times are in {year}"))
        });
        let first = |known: &Value| known["first_seen"].as_str().unwrap().to_owned();
        for known in known(&store.dir("a")) {
            assert!(first(&known).starts_with(year), "{known}");
            assert!(known["last_seen"].as_str().unwrap() >= first(&known).as_str(), "{known}");
        }
    }
}

#[test]
fn strict_node_protects_known_addresses_despite_a_wrong_wall_clock() {
    for year in ["2001", "9998"] {
        let store = Store::new();
        let mut cluster = Cluster::new();
        let (nodes, [a, ..]) = killed_mesh(&store, &mut cluster);
        // `b` had dialled `a` at that address, which proved it.
        set_year(&known_peers_file(&store, "b"), year);
        let at = cluster.addr(nodes[0]);
        let strict = cluster.start(spec(&store, "b").with_switch("--strict"));
        let thief = Spec::named("thief").with_bind(at).with_connect(cluster.addr(strict));
        let thief = cluster.start(thief);
        let thief_id = cluster.id(thief);
        let words = ["--strict", &a.to_string(), &thief_id.to_string()];
        cluster.wait_for("the refusal", &[strict, thief], |history| {
            let log = history.log(strict);
            log.iter().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        });
        cluster.check(&[strict], |history| {
            let came = history.ups_since(strict, 0).contains(&thief_id);
            came.then(|| "the strict node took another key at a known address".to_owned())
        });
    }
}

#[test]
fn lost_peer_is_forgotten_after_the_forget_time() {
    let store = Store::new();
    let mut cluster = Cluster::new();
    let a = spec(&store, "a").with_option("--forget-after", "3");
    let nodes = cluster.start_star(a, ["b", "c"].map(|name| spec(&store, name)));
    cluster.wait_full_mesh(&nodes);
    let [b, c] = [1, 2].map(|n| cluster.id(nodes[n]));
    wait_until_all_known(&store.dir("a"), &[b, c]);
    cluster.kill(nodes[1]);
    wait_until_known(&store.dir("a"), "the other alone", |known| ids(known) == [c]);
}

#[test]
fn first_seen_time_survives_many_restarts_of_both_nodes() {
    let store = Store::new();
    let mut cluster = Cluster::new();
    let first = cluster.start(spec(&store, "a"));
    let second = cluster.start(spec(&store, "b").with_connect(cluster.addr(first)));
    let peer = cluster.id(second);
    wait_until_all_known(&store.dir("a"), &[peer]);
    let seen = known(&store.dir("a"))[0]["first_seen"].clone();
    let (mut a, mut b) = (first, second);
    for _ in 0..3 {
        let (again_a, again_b) = (cluster.restart_spec(a), cluster.restart_spec(b));
        cluster.kill(a);
        assert!(cluster.terminate(b).success());
        a = cluster.start(again_a);
        b = cluster.start(again_b);
        cluster.wait_full_mesh(&[a, b]);
    }
    let last = known(&store.dir("a"));
    assert_eq!((last.len(), &last[0]["first_seen"]), (1, &seen));
    // Either node may have dialled the other: `a` knows the address of `b` in both cases.
    assert!(
        last[0]["addresses"].as_array().unwrap().iter().any(|at| at["addr"] == cluster.addr(b).to_string())
    );
}

/// Opens a directory that a node in this process has just stopped using. On a busy machine the node's
/// last write may take longer than the node waits for it.
fn open(state: &Path) -> StateDir {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match StateDir::open(state) {
            Ok(directory) => return directory,
            Err(StateError::InUse { .. }) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn embedded_node_keeps_its_peers_and_identity() {
    let store = Store::new();
    let state = store.dir("a");
    let loopback = Config::default().port(0).bind("127.0.0.1".parse().unwrap());
    let other = Node::start(loopback.clone(), Identity::generate().unwrap()).unwrap();
    let run_until_connected = |connect: Vec<p2p_gossip::ConnectAddr>| {
        let directory = open(&state);
        let identity = directory.identity().unwrap();
        let config = loopback.clone().connect(connect);
        let node = Node::builder(config, identity).state(directory).start().unwrap();
        let up = |event: &Event| matches!(event, Event::Up { peer, .. } if *peer == other.id());
        let events = node.events().clone();
        let deadline = Instant::now() + DEADLINE;
        while !up(&events.recv_deadline(deadline).expect("the nodes connect")) {}
        wait_until_all_known(&state, &[other.id()]);
        let id = node.id();
        node.shutdown();
        id
    };
    let first = run_until_connected(vec![other.local_addr().into()]);
    assert_eq!(run_until_connected(Vec::new()), first);
    let mut directory = open(&state);
    assert!(directory.forget(&other.id()).unwrap() && !directory.forget(&other.id()).unwrap());
    assert!(directory.known_peers().is_empty() && known(&state).is_empty());
}
