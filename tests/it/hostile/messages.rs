//! Peers with a valid key that violate the protocol.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use p2p_gossip::Event;
use p2p_gossip::internals::wire::{self, ByeReason, FRAME_BYTES_MAX, HELLO_FRAME_BYTES_MAX, Message, Notice};

use super::attack_harness::{Attack, HANDSHAKE_TOO_LONG};
use super::raw::{Credentials, Raw, frame, hello};
use crate::support::localhost;

/// Length 2^40 in bincode's encoding.
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

/// Joins and sends these bytes; the node ends the session and logs this text.
fn check_violation(attack: &Attack, bytes: &[u8], logged: &str) {
    check_session_end(attack, bytes);
    attack.wait_log(logged);
}

/// The same without a check of the log, which may have reached its rate limit.
fn check_session_end(attack: &Attack, bytes: &[u8]) {
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    attack.wait_up(me.id());
    raw.send_bytes(bytes).unwrap();
    let ending = raw.wait_end();
    assert_eq!(ending.bye, Some(ByeReason::Protocol), "{ending:?}");
}

/// Sends these bytes instead of a Hello; the node closes the connection, logs this text and counts no member.
fn check_refusal(attack: &Attack, bytes: &[u8], logged: &str) {
    let me = Credentials::new();
    let mut raw = Raw::dial(attack.addr(), &me);
    raw.send_bytes(bytes).unwrap();
    raw.wait_end();
    attack.wait_log(logged);
    check_not_member(attack, &me);
}

fn check_not_member(attack: &Attack, me: &Credentials) {
    attack.cluster.check(&[attack.victim], |history| {
        let counted = history.ups_since(attack.victim, 0).contains(&me.id());
        counted.then(|| "a peer without a Hello was counted".to_owned())
    });
}

#[test]
fn frames_of_forbidden_lengths_end_the_session() {
    let attack = Attack::start();
    check_violation(&attack, &length_only(0), "frame of 0 bytes");
    check_violation(&attack, &length_only(u32::MAX as usize), "frame of 4294967295 bytes");
    check_violation(&attack, &length_only(FRAME_BYTES_MAX + 1), "frame of 65537 bytes");
    check_violation(&attack, &wire::encode(&Message::Hello(hello("again"))).unwrap(), "a second Hello");
    let trailing = [body(&Message::PeersRequest), vec![0]].concat();
    check_violation(&attack, &frame(&trailing), "after the message");
    attack.end();
}

#[test]
fn messages_that_claim_more_than_they_hold_end_the_session() {
    let attack = Attack::start();
    // 1,900 records without an address fit into a frame, but exceed the limit of records.
    let records: Vec<u8> = (0..1900_u16).flat_map(|_| [&[9; 32][..], &[0, 1]].concat()).collect();
    let list = [&[PEERS, 251][..], &1900_u16.to_le_bytes(), &records, &[0]].concat();
    check_violation(&attack, &frame(&list), "1900 of at most");
    // A text and lists of 2^40 entries, invalid UTF-8, an unknown tag, and a truncated message.
    check_violation(&attack, &frame(&[&[PING, 1][..], &HUGE, b"boo"].concat()), "malformed message");
    check_violation(&attack, &frame(&[&[PEERS][..], &HUGE].concat()), "malformed message");
    let id_and_addrs = [&[PEERS, 1][..], &[7; 32], &HUGE].concat();
    check_violation(&attack, &frame(&[PING, 1, 3, 0xff, 0xfe, 0xfd]), "a text in it is not UTF-8");
    check_violation(&attack, &frame(&[200]), "unknown tag");
    check_session_end(&attack, &frame(&id_and_addrs));
    check_session_end(&attack, &frame(&[PING, 1, 200, b'x']));
    attack.end();
}

#[test]
fn connection_without_a_hello_at_the_start_is_refused() {
    let attack = Attack::start();
    let ping = Message::Ping { seq: 1, text: "too early".to_owned() };
    check_refusal(&attack, &wire::encode(&ping).unwrap(), "not a Hello");
    check_refusal(&attack, &length_only(0), "frame of 0 bytes");
    check_refusal(&attack, &length_only(HELLO_FRAME_BYTES_MAX + 1), "frame of 4097 bytes");
    // A name of 2^40 bytes, and a name that is not UTF-8.
    check_refusal(&attack, &frame(&[&[HELLO, 1][..], &HUGE].concat()), "malformed message");
    check_refusal(&attack, &frame(&[HELLO, 1, 2, 0xff, 0xff, 0, 0, 1]), "a text in it is not UTF-8");
    attack.end();
}

#[test]
fn half_a_hello_and_a_close_end_the_handshake_at_once() {
    let attack = Attack::start();
    let me = Credentials::new();
    let mut raw = Raw::dial(attack.addr(), &me);
    let whole = wire::encode(&Message::Hello(hello("half"))).unwrap();
    raw.send_bytes(&whole[..whole.len() / 2]).unwrap();
    raw.tls.send_close_notify();
    raw.flush().unwrap();
    raw.socket.shutdown(std::net::Shutdown::Write).unwrap();
    raw.wait_end();
    // It ends before the deadline; otherwise the thread would spin on a closed socket until then.
    attack.wait_log("closed during the handshake");
    assert!(!attack.has_logged(HANDSHAKE_TOO_LONG));
    check_not_member(&attack, &me);
    attack.end();
}

#[test]
fn messages_after_a_violation_are_discarded() {
    let attack = Attack::start();
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    attack.wait_up(me.id());
    raw.send(&Message::Hello(hello("again"))).unwrap();
    while !matches!(raw.receive(), Ok(Message::Bye(ByeReason::Protocol))) {}
    // May fail: the node may have stopped reading.
    let _ = raw.send(&Message::Ping { seq: 1, text: "too late".to_owned() });
    drop(raw);
    let (cluster, victim) = (&attack.cluster, attack.victim);
    cluster.wait_down(&[victim], me.id(), p2p_gossip::DownReason::Protocol, 0);
    cluster.check(&[victim], |history| {
        let is_late = |e: &&Event| matches!(e, Event::Ping { text, .. } if text == "too late");
        history.events_since(victim, 0).find(is_late).map(ToString::to_string)
    });
    attack.end();
}

/// Sends pings as fast as the node reads them, until `over` is set or the node closes the connection.
fn flood_with_pings(addr: SocketAddr, over: &AtomicBool) {
    let mut raw = Raw::join(addr, &Credentials::new());
    let ping = wire::encode(&Message::Ping { seq: 1, text: "x".repeat(200) }).unwrap();
    let batch = ping.repeat(50);
    while raw.send_bytes(&batch).is_ok() {
        if over.load(Ordering::SeqCst) {
            break;
        }
    }
}

#[test]
fn ping_flood_is_rate_limited_and_does_not_disturb_other_peers() {
    let mut attack = Attack::start();
    let (addr, over) = (attack.addr(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| flood_with_pings(addr, &over));
        }
        let mark = attack.cluster.mark();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            attack.newcomer_joins();
            attack.cluster.wait_pings(&[attack.victim, attack.honest], 10, mark);
        }));
        over.store(true, Ordering::SeqCst);
        result.unwrap();
    });
    attack.end();
}

#[test]
fn peer_that_updates_its_tls_keys_endlessly_is_disconnected() {
    let attack = Attack::start();
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    attack.wait_up(me.id());
    // Each update requests an update by the node.
    while raw.tls.refresh_traffic_keys().is_ok() && raw.flush().is_ok() {}
    raw.wait_end();
    attack.wait_log("TLS key updates");
    attack.end();
}

#[test]
fn false_notices_about_a_shared_key_do_not_fill_the_log() {
    let attack = Attack::start();
    let me = Credentials::new();
    let mut raw = Raw::join(attack.addr(), &me);
    let notice = wire::encode(&Message::Notice(Notice::KeyInUse(localhost()))).unwrap();
    raw.send_bytes(&notice.repeat(1000)).unwrap();
    raw.send(&Message::Ping { seq: 77, text: "end".to_owned() }).unwrap();
    attack.cluster.wait_for("the ping behind the notices", &[attack.victim], |history| {
        let is_end = |e: &Event| matches!(e, Event::Ping { seq: 77, .. });
        history.events_since(attack.victim, 0).any(is_end).then_some(())
    });
    attack.wait_log("uses our key");
    let lines = attack.log_count("uses our key");
    assert!(lines <= 20, "{lines} lines for one cause");
    drop(raw);
    attack.end();
}
