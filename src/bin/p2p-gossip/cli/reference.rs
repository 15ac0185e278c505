//! The reference in the manual page: details of options, and events as JSON.
//!
//! The events, their fields and the reasons come from the code. A test fails if one of them has no text here,
//! or if a text describes none of them.

use std::fmt::Write as _;

use argh::ArgsInfo as _;
use jiff::Timestamp;
use p2p_gossip::internals::beacon::BEACON_PORT;
use p2p_gossip::internals::limits::{
    FORGET_AFTER_MAX, FORGET_AFTER_MIN, HEARTBEAT_MAX, HEARTBEAT_MIN, MESSAGE_BYTES_MAX, NAME_BYTES_MAX,
    PEERS_LIMIT, PERIOD_MAX, PERIOD_MIN, TIMEOUT_MAX,
};
use p2p_gossip::internals::{PIN_DIGITS_MIN, sample};
use p2p_gossip::{DialAddr, DownReason, Event, PeerId, Verdict};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::roff::{roff, roff_sentences};
use super::values::{JOIN_TIMEOUT_MAX, JOIN_TIMEOUT_MIN};
use crate::output::event_json;

/// Details of options beyond their lines in the help: option and text, one sentence on each line.
pub(super) fn option_details() -> Vec<(&'static str, String)> {
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let text = |option, text: &str| (option, text.to_owned());
    vec![
        (
            "--period",
            format!(
                "A number of seconds, or numbers with units: 0.5, 500ms, 90s, 5m, 1d12h.\n\
                 From {} to {} seconds.",
                seconds(PERIOD_MIN),
                seconds(PERIOD_MAX)
            ),
        ),
        text("--port", "With 0 the first line of output shows the port."),
        (
            "--connect",
            format!(
                "An address is host:port, [ipv6]:port or a DNS name with a port.\n\
                 The address need not answer yet: the node retries for as long as it runs.\n\
                 With ID@ the node accepts only that peer there; the first {PIN_DIGITS_MIN} digits of the id are enough.\n\
                 A link-local address needs its interface, which may come later: [fe80::1%eth0]:8080."
            ),
        ),
        (
            "--discover",
            format!(
                "The node sends beacons with its port by multicast and broadcast, on each interface that is up, to UDP port {BEACON_PORT}.\n\
                 It dials the nodes whose beacons name the same network, and the handshake, lists and pins decide as at any other address.\n\
                 With --network-key only holders of that key understand the beacon."
            ),
        ),
        text(
            "--key",
            "PKCS#8, SEC1 or PKCS#1; Ed25519, P-256, P-384 or RSA of 2048 to 4096 bits.\n\
             The file must be readable by its owner only, unless it is a systemd credential \
             (LoadCredential=).\n\
             It overrides the key of --state.",
        ),
        text("--cert", "It needs --key.\nThe names, dates and issuer in the certificate are ignored."),
        text(
            "--state",
            "The node creates the directory if it is missing; other users must have no access to it.\n\
             Without this option and --key each start makes a new key, and the node is a new peer to others.",
        ),
        text(
            "--allow",
            "An id has 64 hexadecimal digits.\n\
             With this option or --allow-file the node refuses every peer that is not listed.",
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
            "The node refuses another key at a known peer's address.\n\
             Without this option the other key is a new peer, and the node logs a warning.",
        ),
        text(
            "--relay",
            "A node that carries passes encrypted bytes between peers that cannot reach each other, and reads none.\n\
             Other nodes carry for this one in any case.",
        ),
        text(
            "--port-mapping",
            "A home router that speaks NAT-PMP then passes on connections from outside, and peers learn the address.\n\
             A node that listens on loopback or at a public address does not ask.",
        ),
        text(
            "--network-key",
            "The file must be readable by its owner only.\n\
             If the option is given twice, the node accepts both keys and proves the first.",
        ),
        text(
            "--closed",
            "Nodes of a closed network accept each other only.\n\
             Needs --state. Prints on a terminal the command with which other nodes join; so does invite.\n\
             The node uses the key from then on, also without this option.",
        ),
        text(
            "--join",
            "Needs --state, which keeps the key. The option may stay when the node starts again.\n\
             Other users of the machine can see a ticket on the command line; a file and stdin hide it.",
        ),
        text(
            "--bind",
            "The node also dials from this address, and peers know the node by it.\n\
             A link-local address needs its interface: fe80::1%eth0.",
        ),
        text(
            "--advertise",
            "Use it if peers reach this node at another address than its connections come from, \
             for example behind a NAT: host:port, [ipv6]:port or a DNS name with a port.",
        ),
        (
            "--name",
            format!(
                "At most {NAME_BYTES_MAX} bytes; a longer host name is shortened at a dot.\nNames prove nothing: any node can use any name."
            ),
        ),
        (
            "--max-peers",
            format!(
                "From 1 to {PEERS_LIMIT}; peers in every state count, also dead ones and those that left."
            ),
        ),
        ("--heartbeat", format!("From {} to {} seconds.", seconds(HEARTBEAT_MIN), seconds(HEARTBEAT_MAX))),
        (
            "--timeout",
            format!(
                "From two heartbeats to {} seconds.\n\
                 A peer with slower heartbeats gets three of its own heartbeats.",
                seconds(TIMEOUT_MAX)
            ),
        ),
        (
            "--forget-after",
            format!(
                "Until then the node dials a dead peer again.\n\
                 The time counts only while this node runs and is connected to another peer.\n\
                 From {}s to {}d.",
                seconds(FORGET_AFTER_MIN),
                FORGET_AFTER_MAX.as_secs() / (24 * 60 * 60)
            ),
        ),
        text("--output", "The text format is for people and may change; see JSON."),
        text("--pings", "Without pings stdout shows membership changes and messages only."),
        (
            "--stdin",
            format!(
                "A line has at most {MESSAGE_BYTES_MAX} bytes of UTF-8.\n\
                 A node that joins a mesh begins to read when it is connected to the members.\n\
                 Each line arrives at most once; a peer that is not connected misses it."
            ),
        ),
        text("--exit-after-stdin", "It needs --stdin.\nThe exit status is 1 if a line could not be sent."),
        (
            "--join-timeout",
            format!(
                "It needs --exit-after-stdin.\n\
                 The exit status is 1 if no peer has answered in this time, from {} to {} seconds.",
                seconds(JOIN_TIMEOUT_MIN),
                seconds(JOIN_TIMEOUT_MAX)
            ),
        ),
        text(
            "--on-event",
            "The program runs once for each event, one run at a time, in order, for ten seconds at most.\n\
             It gets the event's JSON object on standard input and the fields as environment variables; \
             see ENVIRONMENT.\n\
             Its output goes to standard error.",
        ),
        text("--on-event-pings", "It needs --on-event."),
        text(
            "--alert",
            "Of the nodes with this option one runs its program when a node is lost, a link is broken for 30 seconds, \
             several members fall silent together, or this node and those with it are cut off; and again when that is over.\n\
             If the program fails or takes longer than four seconds, another node runs its own.\n\
             It is run as that of --on-event.",
        ),
        text(
            "--http",
            "9090 and :9090 serve this machine only; 192.0.2.7:9090 serves every client that reaches the \
             address.\n\
             Port 0 takes any free port, which the first lines of output show.\n\
             There is no password; see HTTP.",
        ),
        text(
            "--control",
            "Verbs such as members, why and leave ask the running node through this Unix socket, and curl \
             --unix-socket can, too.\n\
             Only the owner of the node and root may use it.\n\
             A socket that a dead process has left is replaced.",
        ),
    ]
}

/// Each event and its meaning.
const EVENTS: [(&str, &str); 13] = [
    ("listening", "The port accepts connections."),
    ("up", "A peer is connected and authenticated, and was not a member before."),
    ("down", "The connection to a peer is lost; the node dials it again."),
    ("path", "A member is reached on another path; nothing was lost."),
    ("left", "A peer left the mesh; the node does not dial it again."),
    ("verdict", "The other members have said whether they hear the lost peer. A later verdict refines it."),
    ("isolated", "This node has lost more than half of its peers at once. A quiet down of each follows."),
    ("rejoined", "This node is not isolated any more."),
    (
        "unstable",
        "A peer that was lost more than once is connected again. It is up once its connection has held for a while.",
    ),
    ("alert", "An incident begins or ends, and this node runs the program of --alert for it."),
    ("ping", "A ping from a peer arrived."),
    ("message", "A peer sent a message to every peer."),
    ("stopped", "The node has left the mesh; nothing follows."),
];

/// Each field and its content.
const FIELDS: [(&str, &str); 25] = [
    ("time", "time of the event: UTC with milliseconds, as in RFC 3339"),
    ("event", "the name of the event"),
    ("id", "this node's id, 64 hexadecimal digits"),
    ("peer", "the peer's id, 64 hexadecimal digits"),
    ("name", "the label that the peer gives itself, empty if it has none"),
    ("addr", "address on which this node listens, or the known address of the peer"),
    ("via", "id of the peer through which this node reaches the peer, null if directly"),
    ("members", "number of live members now, this node included"),
    ("reason", "reason for the loss of the peer"),
    ("seq", "number of the ping among the peer's pings to this node, from 1"),
    ("text", "text of the ping or of the message; of an alert, a line for people"),
    ("quiet", "true if the loss is part of an isolation of this node; else absent"),
    ("verdict", "what has failed; see Verdicts"),
    ("asked", "number of members that were asked whether they hear the peer"),
    ("seen_by", "number of members that hear the peer"),
    ("heard_ms", "time since a member last heard the peer in milliseconds, null if that is not known"),
    ("lost", "number of peers that this node has lost"),
    ("losses", "number of times that the peer was lost in the last ten minutes"),
    ("incident", "id of the incident, 16 hexadecimal digits, the same on every node"),
    ("kind", "node, link, partition or isolated"),
    ("phase", "begin or end"),
    ("peers", "ids of the peers that the incident is about; as a variable, one on each line"),
    ("names", "their names, in the same order; as a variable, one on each line"),
    (
        "rtt_ms",
        "last measured round-trip time to the peer in milliseconds, null before the first measurement",
    ),
    ("http", "URL of the page of --http; absent without that option"),
];

/// Each verdict and its meaning.
const VERDICTS: [(&str, &str); 4] = [
    ("node", "the peer has failed: no other member hears it"),
    ("link", "the link to the peer has failed: other members hear the peer"),
    ("self", "this node is isolated"),
    ("unknown", "no member could be asked, or most have not answered"),
];

/// Each reason of `down` and its meaning.
const REASONS: [(&str, &str); 8] = [
    ("closed", "the connection was closed or broke"),
    ("timeout", "the peer was silent for the timeout"),
    ("restarted", "a new process with the same key replaced the peer; up follows"),
    ("slow", "the peer did not read fast enough"),
    ("protocol", "the peer violated the protocol"),
    ("refused", "the peer refused this node"),
    ("denied", "the access lists of this node now refuse the peer"),
    ("displaced", "the table of peers is full, and a peer in better standing took its place"),
];

fn text_of(texts: &[(&'static str, &'static str)], name: &str) -> &'static str {
    let found = texts.iter().find(|(known, _)| *known == name);
    found
        .unwrap_or_else(|| {
            panic!("the reference has no text for {name:?}; see src/bin/p2p-gossip/cli/reference.rs")
        })
        .1
}

/// One event of each kind.
fn samples() -> Vec<Event> {
    let peer = PeerId::from_bytes([0xab; 32]);
    let addr: DialAddr = "127.0.0.1:8081".parse().expect("an address");
    let (name, text) = ("bob", "hello");
    vec![
        sample::listening(peer, "127.0.0.1:8080".parse().expect("an address")),
        sample::up(peer, name, addr.clone(), 2),
        sample::path(peer, name, addr.clone(), Some(peer)),
        sample::quiet_down(peer, name, addr.clone(), DownReason::Timeout, 1),
        sample::left(peer, name, addr.clone(), 1),
        sample::verdict(peer, name, addr.clone(), Verdict::Node),
        sample::isolated(5, 8),
        sample::rejoined(8),
        sample::unstable(peer, name, addr.clone(), 3),
        sample::alert(peer, name),
        sample::ping(peer, name, addr.clone(), 1, text, Some(0.41)),
        sample::message(peer, name, addr, text),
        Event::Stopped,
    ]
}

/// The JSON line of an event, with the field `http` if the event can have it.
fn printed(event: &Event) -> String {
    let mut line = String::new();
    let time: Timestamp = "2026-01-31T12:00:00.123Z".parse().expect("a time");
    event_json::print(&mut line, time, event, Some("http://127.0.0.1:9090/"));
    line
}

/// The names of a JSON object's fields, in order.
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
    page.push_str(".SS Verdicts\n");
    for (verdict, text) in VERDICTS {
        let _ = write!(page, ".TP\n.B {verdict}\n{}", roff_sentences(text));
    }
    page.push_str(
        ".SS Examples\nEach object is one line; the page shows one field on each line.\n.PP\n.nf\n",
    );
    for event in samples.iter().filter(|event| matches!(event, Event::Down { .. } | Event::Ping { .. })) {
        let line = printed(event).replace(&"ab".repeat(32), "<64 digits>").replace(",\"quiet\":true", "");
        // One field on each line, as the page is narrow.
        let _ = writeln!(page, "{}", roff(line.trim_end()).replace(",\"", ",\n \""));
    }
    page.push_str(".fi\n");
    page
}

/// The variants of an enum by serde's names: serde lists them in the error about an unknown one.
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
    assert_eq!(sorted(variants::<Verdict>("\"?\"")), sorted(names(&VERDICTS)));
}

#[test]
fn options_with_a_value_have_details() {
    let details = option_details();
    let info = super::node_arguments::Arguments::get_args_info();
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
