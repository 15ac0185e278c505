//! Peers that repeat an action which the node logs.

use p2p_gossip::Event;
use p2p_gossip::internals::wire::{ByeReason, Message};

use std::io::Write as _;
use std::net::TcpStream;

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw, wait_closed};
use crate::support::process::Spec;
use crate::support::{Cluster, localhost, unique_addr};

/// Connections of the attacker. A log without a limit has a line for at least every second one.
const ROUNDS: usize = 400;
/// Each cause may have some lines at once, and one every two seconds after that.
const LINES_MAX: usize = ROUNDS / 4;

#[test]
fn goodbyes_of_peers_that_refuse_the_node_do_not_fill_the_log() {
    // Up and left lines have their own limit and test.
    let mut attack = Attack::start_on(Spec::named("victim").with_log("info,p2p_gossip::members=off"));
    let others = [ByeReason::NotAdmitted, ByeReason::Cloned, ByeReason::AddressTaken, ByeReason::Replaced];
    let reasons = others.iter().flat_map(|&other| [ByeReason::Full, other]).cycle();
    for reason in reasons.take(ROUNDS) {
        let mut raw = Raw::join(attack.addr(), &Credentials::new());
        raw.send(&Message::Bye(reason)).unwrap();
        raw.wait_end();
    }
    attack.cluster.wait_for("the victim to count all goodbyes", &[attack.victim], |history| {
        (history.downs_since(attack.victim, 0).len() >= ROUNDS).then_some(())
    });
    // Another thread writes the log; it has caught up when the newcomer has joined and left.
    attack.newcomer_joins();
    attack.wait_log("its --max-peers");
    let lines = attack.log_count("");
    eprintln!("{lines} lines for {ROUNDS} goodbyes");
    assert!(lines <= LINES_MAX);
    attack.end();
}

#[test]
fn source_that_fails_for_the_same_reason_again_and_again_gets_one_line() {
    let attack = Attack::start();
    for _ in 0..50 {
        let mut socket = TcpStream::connect(attack.addr()).unwrap();
        socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        wait_closed(&socket);
    }
    // Another reason of the same source is news.
    let mut raw = Raw::dial(attack.addr(), &Credentials::new());
    raw.send(&Message::PeersRequest).unwrap();
    raw.wait_end();
    attack.wait_log("not a Hello");
    let lines = attack.log_count("incoming connection refused");
    assert_eq!(lines, 2, "{lines} lines for 50 connections of one source and one other reason");
    attack.end();
}

/// Starts of a node that has a new key each time.
const STARTS: usize = 6;

#[test]
fn address_with_a_new_key_after_each_restart_gets_one_line_and_one_dial() {
    let mut cluster = Cluster::new();
    let victim = cluster.start(Spec::named("victim").with_bind(localhost()));
    let (through, at) = (cluster.addr(victim), unique_addr());
    let spec = || Spec::named("restarts").with_bind(at).with_connect(through);
    for _ in 0..STARTS {
        let node = cluster.start(spec());
        cluster.wait_full_mesh(&[victim, node]);
        cluster.kill(node);
    }
    let last = cluster.start(spec());
    let id = cluster.id(last);
    // Without an answer, an old peer would be dialled again every two seconds.
    cluster.wait_for("pings of the last node for some seconds", &[victim, last], |history| {
        let is_from_last = |event: &&Event| matches!(event, Event::Ping { peer, .. } if *peer == id);
        (history.events_since(victim, 0).filter(is_from_last).count() >= 25).then_some(())
    });
    cluster.check(&[victim], |history| {
        let lines = history.log_count(victim, "at a known address");
        let dials = history.log(victim).iter().filter(|line| line.contains(" answered")).count();
        (lines > 1 || dials > 1).then(|| format!("{lines} lines and {dials} dials to one address"))
    });
}
