//! Peers with a good key that break the protocol.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use p2p_gossip::Event;
use p2p_gossip::internals::wire::{self, ByeReason, FRAME_BYTES_MAX, HELLO_FRAME_BYTES_MAX, Message, Notice};

use super::attack_harness::{AttackHarness, HANDSHAKE_TOO_LONG};
use super::raw::{Credentials, Raw, frame, hello};
use crate::support::localhost;

/// Length 2^40 as bincode writes it.
const HUGE: [u8; 9] = [253, 0, 0, 0, 0, 0, 1, 0, 0];

const HELLO: u8 = 0;
const PING: u8 = 1;
const PEERS: u8 = 4;

fn length_only(length: usize) -> Vec<u8> {
    u32::try_from(length).unwrap().to_be_bytes().to_vec()
}

fn body(message: &Message) -> Vec<u8> {
    wire::encode(message).unwrap()[4..].to_vec()
}

/// Joins, sends these bytes, and is told goodbye for it; the log says why.
fn breach(attack: &AttackHarness, bytes: &[u8], logged: &str) {
    expelled(attack, bytes);
    attack.wait_log(logged);
}

/// The same where the log may have said enough for a while.
fn expelled(attack: &AttackHarness, bytes: &[u8]) {
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    attack.wait_up(me.id());
    raw.send_bytes(bytes).unwrap();
    let ending = raw.wait_end();
    assert_eq!(ending.bye, Some(ByeReason::Protocol), "{ending:?}");
}

/// Sends these bytes instead of a Hello: the connection ends, and no peer becomes a member.
fn refused(attack: &AttackHarness, bytes: &[u8], logged: &str) {
    let me = Credentials::new();
    let mut raw = Raw::dial(attack.addr(), &me);
    raw.send_bytes(bytes).unwrap();
    raw.wait_end();
    attack.wait_log(logged);
    never_was_a_member(attack, &me);
}

fn never_was_a_member(attack: &AttackHarness, me: &Credentials) {
    attack.cluster.check(&[attack.victim], |history| {
        let counted = history.ups_since(attack.victim, 0).contains(&me.id());
        counted.then(|| "a peer without a Hello was counted".to_owned())
    });
}

#[test]
fn frames_of_forbidden_lengths_end_the_session() {
    let attack = AttackHarness::begin();
    breach(&attack, &length_only(0), "frame of 0 bytes");
    breach(&attack, &length_only(u32::MAX as usize), "frame of 4294967295 bytes");
    breach(&attack, &length_only(FRAME_BYTES_MAX + 1), "frame of 65537 bytes");
    breach(&attack, &wire::encode(&Message::Hello(hello("again"))).unwrap(), "a second Hello");
    let trailing = [body(&Message::PeersRequest), vec![0]].concat();
    breach(&attack, &frame(&trailing), "after the message");
    attack.lift();
}

#[test]
fn messages_that_claim_more_than_they_hold_end_the_session() {
    let attack = AttackHarness::begin();
    // 1,900 records without an address fit into a frame; so many are not allowed in one.
    let records: Vec<u8> = (0..1900_u16).flat_map(|_| [&[9; 32][..], &[0, 1]].concat()).collect();
    let list = [&[PEERS, 251][..], &1900_u16.to_le_bytes(), &records, &[0]].concat();
    breach(&attack, &frame(&list), "1900 of at most");
    // Text and list of 2^40 entries, a message cut off, text that is not UTF-8, no such message.
    breach(&attack, &frame(&[&[PING, 1][..], &HUGE, b"boo"].concat()), "malformed message");
    breach(&attack, &frame(&[&[PEERS][..], &HUGE].concat()), "malformed message");
    let id_and_addrs = [&[PEERS, 1][..], &[7; 32], &HUGE].concat();
    breach(&attack, &frame(&[PING, 1, 3, 0xff, 0xfe, 0xfd]), "a text in it is not UTF-8");
    breach(&attack, &frame(&[200]), "unknown tag");
    expelled(&attack, &frame(&id_and_addrs));
    expelled(&attack, &frame(&[PING, 1, 200, b'x']));
    attack.lift();
}

#[test]
fn connection_without_a_hello_is_refused() {
    let attack = AttackHarness::begin();
    let ping = Message::Ping { seq: 1, text: "too early".to_owned() };
    refused(&attack, &wire::encode(&ping).unwrap(), "not a Hello");
    refused(&attack, &length_only(0), "frame of 0 bytes");
    refused(&attack, &length_only(HELLO_FRAME_BYTES_MAX + 1), "frame of 4097 bytes");
    // A name of 2^40 bytes, and one that is not UTF-8.
    refused(&attack, &frame(&[&[HELLO, 1][..], &HUGE].concat()), "malformed message");
    refused(&attack, &frame(&[HELLO, 1, 2, 0xff, 0xff, 0, 0, 1]), "a text in it is not UTF-8");
    attack.lift();
}

#[test]
fn half_a_hello_does_no_harm() {
    let attack = AttackHarness::begin();
    let me = Credentials::new();
    let mut raw = Raw::dial(attack.addr(), &me);
    let whole = wire::encode(&Message::Hello(hello("half"))).unwrap();
    raw.send_bytes(&whole[..whole.len() / 2]).unwrap();
    raw.tls.send_close_notify();
    raw.flush().unwrap();
    raw.socket.shutdown(std::net::Shutdown::Write).unwrap();
    raw.wait_end();
    // Not at the deadline: until then the thread would spin on a socket that is at its end.
    attack.wait_log("closed during the handshake");
    assert!(!attack.has_logged(HANDSHAKE_TOO_LONG));
    never_was_a_member(&attack, &me);
    attack.lift();
}

#[test]
fn messages_after_a_protocol_error_are_ignored() {
    let attack = AttackHarness::begin();
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    attack.wait_up(me.id());
    raw.send(&Message::Hello(hello("again"))).unwrap();
    while !matches!(raw.receive(), Ok(Message::Bye(ByeReason::Protocol))) {}
    // May fail: the node need not read on.
    let _ = raw.send(&Message::Ping { seq: 1, text: "too late".to_owned() });
    drop(raw);
    let (cluster, victim) = (&attack.cluster, attack.victim);
    cluster.wait_down(&[victim], me.id(), p2p_gossip::DownReason::Protocol, 0);
    cluster.check(&[victim], |history| {
        let is_late = |e: &&Event| matches!(e, Event::Ping { text, .. } if text == "too late");
        history.events_since(victim, 0).find(is_late).map(ToString::to_string)
    });
    attack.lift();
}

#[test]
fn ping_flood_is_rate_limited_and_disturbs_no_other_peer() {
    let mut attack = AttackHarness::begin();
    let (addr, over) = (attack.addr(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut raw = Raw::join(addr, &Credentials::new());
                let ping = wire::encode(&Message::Ping { seq: 1, text: "x".repeat(200) }).unwrap();
                let batch = ping.repeat(50);
                while raw.send_bytes(&batch).is_ok() {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                }
            });
        }
        let mark = attack.cluster.mark();
        let calm = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            attack.newcomer_joins();
            attack.cluster.wait_pings(&[attack.victim, attack.honest], 10, mark);
        }));
        over.store(true, Ordering::SeqCst);
        calm.unwrap();
    });
    attack.lift();
}

#[test]
fn peer_that_renews_its_tls_keys_endlessly_is_disconnected() {
    let attack = AttackHarness::begin();
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    attack.wait_up(me.id());
    // Each asks for a key of the node's in return.
    while raw.tls.refresh_traffic_keys().is_ok() && raw.flush().is_ok() {}
    raw.wait_end();
    attack.wait_log("TLS key updates");
    attack.lift();
}

#[test]
fn false_reports_of_a_shared_key_do_not_fill_the_log() {
    let attack = AttackHarness::begin();
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    let lie = wire::encode(&Message::Notice(Notice::KeyInUse(localhost()))).unwrap();
    raw.send_bytes(&lie.repeat(1000)).unwrap();
    raw.send(&Message::Ping { seq: 77, text: "end".to_owned() }).unwrap();
    attack.cluster.wait_for("the ping behind the lies", &[attack.victim], |history| {
        let is_end = |e: &Event| matches!(e, Event::Ping { seq: 77, .. });
        history.events_since(attack.victim, 0).any(is_end).then_some(())
    });
    attack.wait_log("uses our key");
    let lines = attack.log_count("uses our key");
    assert!(lines <= 20, "{lines} lines for one cause");
    drop(raw);
    attack.lift();
}
