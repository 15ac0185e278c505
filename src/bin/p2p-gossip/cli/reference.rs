//! The reference in the manual page: what it says about options beyond the help, and about events as JSON.
//!
//! The events, their fields and the reasons come from the code: a test fails if one of them has no text
//! here, or if a text has lost what it describes.

use std::fmt::Write as _;

use jiff::Timestamp;
use p2p_gossip::internals::PIN_DIGITS_MIN;
use p2p_gossip::internals::limits::{
    FORGET_AFTER_MAX, FORGET_AFTER_MIN, HEARTBEAT_MAX, HEARTBEAT_MIN, MESSAGE_BYTES_MAX, NAME_BYTES_MAX,
    PEERS_LIMIT, PERIOD_MAX, PERIOD_MIN, TIMEOUT_MAX,
};
use p2p_gossip::{DialAddr, DownReason, Event, PeerId};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::dist::{roff, roff_sentences};
use crate::output::event_json;

/// What an option does beyond its line in the help, a sentence a line.
pub(super) fn option_details() -> Vec<(&'static str, String)> {
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let text = |option, text: &str| (option, text.to_owned());
    vec![
        (
            "--period",
            format!("From {} to {} seconds; decimals are allowed.", seconds(PERIOD_MIN), seconds(PERIOD_MAX)),
        ),
        text("--port", "With 0 the first line of output shows the port."),
        (
            "--connect",
            format!(
                "An address is host:port, [ipv6]:port or a DNS name with a port.\n\
                 It need not answer yet: the node dials it for as long as it runs.\n\
                 With ID@ only that peer is accepted there; the first {PIN_DIGITS_MIN} digits of the id are enough.\n\
                 A link-local address needs its interface: [fe80::1%eth0]:8080."
            ),
        ),
        text(
            "--key",
            "PKCS#8, SEC1 or PKCS#1; Ed25519, P-256, P-384 or RSA of 2048 to 4096 bits.\n\
             Only its owner may be able to read the file, unless systemd lends it (LoadCredential=).\n\
             It overrides the key of --state.",
        ),
        text("--cert", "It needs --key.\nNames, dates and issuer in a certificate mean nothing."),
        text(
            "--state",
            "The directory is made if it is missing, and must be closed to other users.\n\
             Without it nothing outlives the process: each start makes a new key, and so a new peer.",
        ),
        text(
            "--allow",
            "An id has 64 hexadecimal digits.\n\
             With this option or --allow-file every peer that is not named is refused.",
        ),
        text(
            "--allow-file",
            "Blank lines and comments after # are ignored.\n\
             An empty file allows no peer.\nSIGHUP reads the file again.",
        ),
        text("--deny", "Deny overrides allow."),
        text("--deny-file", "SIGHUP reads the file again."),
        text(
            "--strict",
            "Another key at a known peer's address is refused.\n\
             Without this option it is a new peer, and the log warns of it.",
        ),
        text(
            "--network-key",
            "Only its owner may be able to read the file.\n\
             If the option is given twice, the node accepts both keys and proves the first.",
        ),
        text(
            "--bind",
            "The node also dials from this address, and others know it by it.\n\
             A link-local address needs its interface: fe80::1%eth0.",
        ),
        text(
            "--advertise",
            "Where others reach this node if that is not where its connections come from, \
             for example behind a NAT: host:port, [ipv6]:port or a DNS name with a port.",
        ),
        ("--name", format!("At most {NAME_BYTES_MAX} bytes.\nAny node can claim any name.")),
        (
            "--max-peers",
            format!("From 1 to {PEERS_LIMIT}; peers in every state count, also those that are gone."),
        ),
        ("--heartbeat", format!("From {} to {} seconds.", seconds(HEARTBEAT_MIN), seconds(HEARTBEAT_MAX))),
        (
            "--timeout",
            format!(
                "From two heartbeats to {} seconds.\n\
                 A peer with slower heartbeats gets three of its own.",
                seconds(TIMEOUT_MAX)
            ),
        ),
        (
            "--forget-after",
            format!(
                "Until then a dead peer is dialled again.\n\
                 Only time counts in which this node runs and is connected to another peer.\n\
                 A whole number of seconds, or with a unit: s, m, h or d; from {}s to {}d.",
                seconds(FORGET_AFTER_MIN),
                FORGET_AFTER_MAX.as_secs() / (24 * 60 * 60)
            ),
        ),
        text("--output", "Text is for people and may change; see JSON."),
        text("--pings", "Without pings stdout shows which peers come and go, and messages."),
        (
            "--stdin",
            format!(
                "A line has at most {MESSAGE_BYTES_MAX} bytes of UTF-8.\n\
                 A node that joins others begins to read when it has met them.\n\
                 Each line arrives at most once; a peer that is away misses it."
            ),
        ),
        text("--exit-after-stdin", "It needs --stdin.\nThe exit status is 1 if a line could not be sent."),
        text(
            "--on-event",
            "The program runs once for each event, one at a time, in order, for ten seconds at most.\n\
             It gets the event's JSON object on standard input and its fields as variables; \
             see ENVIRONMENT.\n\
             What it prints goes to standard error.",
        ),
        text("--on-event-pings", "It needs --on-event."),
        text(
            "--http",
            "9090 and :9090 serve this machine only, 192.0.2.7:9090 every program that reaches the address.\n\
             Port 0 takes any free port, which the first lines of output show.\n\
             There is no password; see HTTP.",
        ),
    ]
}

/// When each event happens.
const EVENTS: [(&str, &str); 7] = [
    ("listening", "The port accepts connections."),
    ("up", "A peer is connected and authenticated, and was not a member before."),
    ("down", "A connected peer is lost; it is dialled again."),
    ("left", "A peer said goodbye; it is not dialled again."),
    ("ping", "A ping of a peer arrived."),
    ("message", "A peer sent a message to every peer."),
    ("stopped", "The node has left the mesh; nothing follows."),
];

/// What each field holds.
const FIELDS: [(&str, &str); 12] = [
    ("time", "when it happened: UTC with milliseconds, as in RFC 3339"),
    ("event", "the name of the event"),
    ("id", "this node's id, 64 hexadecimal digits"),
    ("peer", "the peer's id, 64 hexadecimal digits"),
    ("name", "the label that the peer gives itself, empty if it has none"),
    ("addr", "where this node listens, or where the peer listens as far as known"),
    ("members", "number of live members now, this node included"),
    ("reason", "why the peer is lost"),
    ("seq", "the peer's count of pings to this node, from 1"),
    ("text", "what the ping or the message says"),
    ("rtt_ms", "last measured round-trip time to the peer in milliseconds, null before the first"),
    ("http", "where the page of --http is; absent without that option"),
];

/// What each reason of `down` means.
const REASONS: [(&str, &str); 7] = [
    ("closed", "the connection was closed or broke"),
    ("timeout", "nothing was heard of the peer for the timeout"),
    ("restarted", "a new process with the same key took its place; up follows"),
    ("slow", "the peer did not read what it was sent"),
    ("protocol", "the peer sent something that the protocol does not allow"),
    ("refused", "the peer refused this node"),
    ("denied", "the lists of this node keep the peer out now"),
];

fn text_of(texts: &[(&'static str, &'static str)], name: &str) -> &'static str {
    let found = texts.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("the reference has no text for {name:?}; see src/cli/reference.rs")).1
}

/// One of each event.
fn samples() -> Vec<Event> {
    let peer = PeerId::from_bytes([0xab; 32]);
    let addr: DialAddr = "127.0.0.1:8081".parse().expect("an address");
    let (name, text) = ("bob".to_owned(), "hello".to_owned());
    vec![
        Event::Listening { id: peer, addr: "127.0.0.1:8080".parse().expect("an address") },
        Event::Up { peer, name: name.clone(), addr: addr.clone(), members: 2 },
        Event::Down { peer, name: name.clone(), addr: addr.clone(), reason: DownReason::Timeout, members: 1 },
        Event::Left { peer, name: name.clone(), addr: addr.clone(), members: 1 },
        Event::Ping {
            peer,
            name: name.clone(),
            addr: addr.clone(),
            seq: 1,
            text: text.clone(),
            rtt_ms: Some(0.41),
        },
        Event::Message { peer, name, addr, text },
        Event::Stopped,
    ]
}

/// An event as the program prints it, with a page if there can be one.
fn printed(event: &Event) -> String {
    let mut line = String::new();
    let time: Timestamp = "2026-01-31T12:00:00.123Z".parse().expect("a time");
    event_json::print(&mut line, time, event, Some("http://127.0.0.1:9090/"));
    line
}

/// The names of an object's fields, in their order.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Names;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Names, M::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

fn fields(json: &str) -> Vec<String> {
    let Names(names) = serde_json::from_str(json).expect("an object");
    names
}

/// The part of the manual page on events as JSON.
pub(super) fn roff_events() -> String {
    let mut page = String::new();
    let samples = samples();
    for event in &samples {
        let names = fields(&printed(event));
        let word = serde_json::from_str::<serde_json::Value>(&printed(event)).expect("an object")["event"]
            .as_str()
            .expect("a name")
            .to_owned();
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        let _ = write!(page, ".TP\n.B {word}\n{}", roff_sentences(text_of(&EVENTS, &word)));
        let _ = write!(page, ".br\n{}", roff_sentences(&format!("Fields: {}.", list.join(", "))));
    }
    page.push_str(".SS Fields\n");
    let mut described: Vec<String> = Vec::new();
    for name in samples.iter().flat_map(|event| fields(&printed(event))) {
        if !described.contains(&name) {
            let _ = write!(page, ".TP\n.B {name}\n{}", roff_sentences(text_of(&FIELDS, &name)));
            described.push(name);
        }
    }
    page.push_str(".SS Reasons\n");
    for (reason, text) in REASONS {
        let _ = write!(page, ".TP\n.B {reason}\n{}", roff_sentences(text));
    }
    page.push_str(".SS Examples\nAn object is one line; these are broken for the page.\n.PP\n.nf\n");
    for event in samples.iter().filter(|event| matches!(event, Event::Down { .. } | Event::Ping { .. })) {
        let line = printed(event).replace(&"ab".repeat(32), "<64 digits>");
        // A line of its own for each pair, as the page is narrow.
        let _ = writeln!(page, "{}", roff(line.trim_end()).replace(",\"", ",\n \""));
    }
    page.push_str(".fi\n");
    page
}

/// The variants that serde knows of a type: it lists them when it meets one that it does not know.
fn variants<T: for<'de> Deserialize<'de> + std::fmt::Debug>(json: &str) -> Vec<String> {
    let error = serde_json::from_str::<T>(json).expect_err("no variant has that name").to_string();
    let (_, list) = error.split_once("expected one of ").expect("serde lists the variants");
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn reference_describes_every_event_field_and_reason_and_nothing_else() {
    let names = |texts: &[(&str, &str)]| texts.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
    let sorted = |mut names: Vec<String>| {
        names.sort();
        names.dedup();
        names
    };
    let events = variants::<Event>(r#"{"event":"?"}"#);
    assert_eq!(sorted(events.clone()), sorted(names(&EVENTS)));
    assert_eq!(samples().len(), events.len(), "an event has no sample");
    let used = samples().iter().flat_map(|event| fields(&printed(event))).collect();
    assert_eq!(sorted(used), sorted(names(&FIELDS)));
    assert_eq!(sorted(variants::<DownReason>("\"?\"")), sorted(names(&REASONS)));
}

#[test]
fn every_option_with_a_value_has_details() {
    let details = option_details();
    let info = super::node_arguments::info();
    let options: Vec<&str> = info.flags.iter().map(|flag| flag.long).collect();
    for (option, text) in &details {
        assert!(options.contains(option), "{option} is no option");
        assert!(text.ends_with('.'), "{option}: {text}");
    }
    let with_value = info.flags.iter().filter(|flag| matches!(flag.kind, argh::FlagInfoKind::Option { .. }));
    for flag in with_value {
        assert!(details.iter().any(|(option, _)| *option == flag.long), "{} has no details", flag.long);
    }
}
