//! A peer that sends many messages to a node whose hook is slow.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use p2p_gossip::DownReason;
use p2p_gossip::Event;
use p2p_gossip::internals::wire::{self, Message};

use super::raw::{Credentials, Raw};
use crate::support::executable::write_script;
use crate::support::process::Spec;
use crate::support::{Cluster, DEADLINE, localhost};

/// Messages of the flood: as many as the queue of the hook holds. With 20 ms for each, all take 40 s.
const MESSAGES: usize = 2000;
/// Time between two reads of the hook's file.
const POLL_EVERY: Duration = Duration::from_millis(20);

#[test]
fn end_of_a_peer_reaches_a_slow_hook_before_a_flood_of_messages() {
    let files = tempfile::tempdir().unwrap();
    let (script, record) = (files.path().join("hook"), files.path().join("record"));
    let text = format!("#!/bin/sh\nsleep 0.02\necho $P2P_GOSSIP_EVENT >> {}\n", record.display());
    write_script(&script, &text);
    let mut cluster = Cluster::new();
    let victim =
        cluster.start(Spec::named("victim").with_bind(localhost()).with_option("--on-event", &script));
    let addr = cluster.addr(victim);
    let honest = cluster.start(Spec::named("honest").with_bind(localhost()).with_connect(addr));
    cluster.wait_full_mesh(&[victim, honest]);

    let mut raw = Raw::join(addr, &Credentials::new());
    let message = wire::encode(&Message::Broadcast { text: "x".to_owned() }).unwrap();
    raw.send_bytes(&message.repeat(MESSAGES)).unwrap();
    cluster.wait_for("all messages", &[victim], |history| {
        let messages = history.events_since(victim, 0).filter(|event| matches!(event, Event::Message { .. }));
        (messages.count() == MESSAGES).then_some(())
    });
    let mark = cluster.mark();
    let honest_id = cluster.id(honest);
    cluster.kill(honest);
    cluster.wait_down(&[victim], honest_id, DownReason::Closed, mark);
    let deadline = Instant::now() + DEADLINE;
    let before = loop {
        let runs = fs::read_to_string(&record).unwrap_or_default();
        if let Some(at) = runs.lines().position(|event| event == "down") {
            break runs.lines().take(at).filter(|&event| event == "message").count();
        }
        assert!(Instant::now() < deadline, "the hook did not run for `down`");
        thread::sleep(POLL_EVERY);
    };
    eprintln!("the hook ran for {before} of {MESSAGES} messages before `down`");
    assert!(before < MESSAGES / 2);
    drop(raw);
}
