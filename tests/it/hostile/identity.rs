//! Peers whose key has changed, and keys that two processes use.

use std::net::TcpListener;
use std::thread;

use p2p_gossip::internals::wire::{ByeReason, Message, Notice};

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw, hello};
use crate::support::history::History;
use crate::support::localhost;
use crate::support::process::Spec;

#[test]
fn new_key_at_a_known_address_is_a_new_peer() {
    let entrance = TcpListener::bind(localhost()).unwrap();
    let (owner, intruder) = (Credentials::new(), Credentials::new());
    let attack = Attack::start_on(Spec::named("victim").with_connect(entrance.local_addr().unwrap()));
    let mut raw = loop {
        let mut raw = Raw::accept(entrance.accept().unwrap().0, &owner);
        if raw.shake_hands().is_ok() {
            break raw;
        }
    };
    raw.exchange_hello(hello("owner"));
    attack.wait_up(owner.id());
    drop(raw);

    let end = entrance.local_addr().unwrap();
    let (intruder_id, owner_id) = (intruder.id(), owner.id());
    thread::scope(|scope| {
        scope.spawn(|| {
            // A dial that expects the owner fails. A dial without an expected id finds a new peer.
            let mut open = Vec::new();
            while let Ok((socket, _)) = entrance.accept() {
                let mut first = [0];
                if socket.peek(&mut first).is_ok() && first == [b'!'] {
                    break;
                }
                let mut raw = Raw::accept(socket, &intruder);
                if raw.shake_hands().is_ok() && raw.send(&Message::Hello(hello("intruder"))).is_ok() {
                    open.push(raw);
                }
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            attack.wait_log("at a known address");
            attack.wait_up(intruder_id);
        }));
        std::io::Write::write_all(&mut std::net::TcpStream::connect(end).unwrap(), b"!").unwrap();
        result.unwrap();
    });
    attack.cluster.check(&[attack.victim], |history| {
        let ups = history.ups_since(attack.victim, 0).into_iter().filter(|id| *id == owner_id).count();
        (ups != 1).then(|| format!("the owner came up {ups} times"))
    });
    drop(entrance);
    attack.end();
}

#[test]
fn two_processes_with_one_key_are_reported_and_do_not_disturb_other_peers() {
    let mut attack = Attack::start();
    let (victim, honest, through) = (attack.victim, attack.honest, attack.addr());
    let key = attack.cluster.new_key("shared");
    let twin = |name: &str| Spec::named(name).with_bind(localhost()).with_key(&key).with_connect(through);
    let older = attack.cluster.start(twin("older"));
    attack.cluster.wait_full_mesh(&[victim, honest, older]);
    let newer = attack.cluster.start(twin("newer"));
    let all = [victim, honest, older, newer];
    let reports = [
        (victim, "two processes use one key"),
        (honest, "two processes use one key"),
        (older, "uses our key"),
        (newer, "uses our key"),
    ];
    attack.cluster.wait_for("all members to report the shared key", &all, |history| {
        reports.iter().all(|&(member, text)| history.log_count(member, text) > 0).then_some(())
    });
    // The newer process stays connected although the older one keeps dialling.
    let (mark, shared) = (attack.cluster.mark(), attack.cluster.id(newer));
    attack.cluster.wait_for("pings of the newer one", &all, |history| {
        let pings = history.pings_since(mark);
        let enough = |member| pings.get(&(member, shared)).is_some_and(|seqs| seqs.len() >= 25);
        (enough(victim) && enough(honest)).then_some(())
    });
    attack.cluster.check_steady(&[victim, honest, newer], mark);
    let once = |history: &History, member, text| {
        let lines = history.log_count(member, text);
        (lines != 1).then(|| format!("{text:?} was logged {lines} times"))
    };
    attack.cluster.check(&[victim, honest], |history| {
        [victim, honest].into_iter().find_map(|member| once(history, member, "two processes use one key"))
    });
    for twin in [older, newer] {
        attack.cluster.terminate(twin);
    }
    attack.end();
}

#[test]
fn strangers_with_new_keys_do_not_fill_the_log() {
    /// Two lines for each, up and left, exceed the rate limit for strangers.
    const STRANGERS: usize = 700;
    let attack = Attack::start();
    let began = std::time::Instant::now();
    // The node logs the number of dropped lines with the next line that the limit allows.
    let mut strangers = 0;
    while strangers < STRANGERS || !attack.has_logged("lines suppressed") {
        assert!(strangers < 20 * STRANGERS, "the log has lines for each of {strangers} strangers");
        let mut raw = Raw::join(attack.addr(), &Credentials::new());
        raw.send(&Message::Bye(ByeReason::Leaving)).unwrap();
        raw.wait_end();
        strangers += 1;
    }
    let lines = attack.log_count("peer up") + attack.log_count("peer left");
    let allowed =
        p2p_gossip::internals::limits::PEERS_MAX + usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(lines <= allowed, "{lines} lines on {strangers} strangers");
    attack.end();
}

#[test]
fn word_of_one_peer_that_the_key_is_used_twice_is_shown_as_its_claim() {
    let attack = Attack::start();
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    attack.wait_up(me.id());
    let invented = "192.0.2.7:4000".parse().unwrap();
    raw.send(&Message::Notice(Notice::KeyInUse(invented))).unwrap();
    raw.send(&Message::Bye(ByeReason::Cloned)).unwrap();
    raw.wait_end();
    let peer = format!("peer={}", me.id().short());
    attack.cluster.wait_for("both claims in the log", &[attack.victim], |history| {
        let is_claim = |line: &&String| line.contains("this peer says") && line.contains(&peer);
        let claims: Vec<&String> = history.log(attack.victim).iter().filter(is_claim).collect();
        let tells = |text: &str| claims.iter().any(|line| line.contains(text));
        (claims.len() == 2 && tells("used_at=192.0.2.7:4000") && tells("used_at=unknown")).then_some(())
    });
    let errors = attack.log_count("ERROR");
    assert_eq!(errors, 0, "{errors} errors for the word of one peer");
    attack.end();
}
