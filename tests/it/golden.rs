//! Golden frames of protocol version 2. Every build encodes and decodes them identically, because nodes of different
//! builds are members of one mesh.
//!
//! `tests/fixtures/golden/v2.txt` has a line for each frame: its name, and its bytes in hexadecimal. A later build
//! decodes for ever what a release has sent once, so lines are added, never changed:
//! `P2P_GOSSIP_WRITE_GOLDEN=1 cargo test --test it golden` adds missing lines.
//!
//! A node ends the session at a message of a kind that it does not know. So a new kind of message is an `Extension`,
//! which a node skips if it does not know it, or goes only to peers whose Hello has a capability for it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use p2p_gossip::internals::limits::{ADDRS_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PING_TEXT_BYTES_MAX};
use p2p_gossip::internals::sample;
use p2p_gossip::internals::wire::{
    ByeReason, CAPABILITIES_MAX, CIRCUIT_BYTES_MAX, CircuitReason, EXTENSION_BYTES_MAX, FrameReader, Hearing,
    Hello, INCIDENT_PEERS_MAX, IncidentNews, Message, Notice, PROOFS_MAX, PeerRecord, RECORDS_MAX,
    SIGHTINGS_MAX, Sighting, Stage, Subject, encode,
};
use p2p_gossip::{DialAddr, PeerId};

type Row = (&'static str, Message);

/// Every kind of message with its smallest, usual and largest values. Rows are added, never changed.
fn corpus() -> Vec<Row> {
    [
        hellos(),
        pings(),
        heartbeats(),
        peer_lists(),
        notices(),
        byes(),
        broadcasts(),
        extensions(),
        network_keys(),
        witnesses(),
        incidents(),
        circuits(),
    ]
    .concat()
}

fn hellos() -> Vec<Row> {
    let empty = Hello {
        instance: 0,
        name: String::new(),
        listen_port: 0,
        advertised: Vec::new(),
        heartbeat_ms: 0,
        capabilities: Vec::new(),
        proofs: Vec::new(),
    };
    let usual = Hello {
        instance: 0x0123_4567_89ab_cdef,
        name: "web-1 äöü".to_owned(),
        listen_port: 8080,
        advertised: addrs(&["192.0.2.7:8080"]),
        heartbeat_ms: 1000,
        capabilities: vec![1, 2, 300],
        proofs: vec![std::array::from_fn(|at| u8::try_from(at).unwrap())],
    };
    let longest = Hello {
        instance: u64::MAX,
        name: "x".repeat(NAME_BYTES_MAX),
        listen_port: u16::MAX,
        advertised: addrs(&[&longest_name(), "[2001:db8::7]:65535", "255.255.255.254:1", "a:251"]),
        heartbeat_ms: u32::MAX,
        capabilities: vec![u32::MAX; CAPABILITIES_MAX],
        proofs: vec![[0xff; 32]],
    };
    assert_eq!(longest.advertised.len(), ADDRS_MAX);
    let proofs = (0..PROOFS_MAX).map(|at| [u8::try_from(at).unwrap(); 32]);
    let with_proofs = Hello { proofs: proofs.collect(), ..usual.clone() };
    let without_capabilities = Hello { capabilities: Vec::new(), ..usual.clone() };
    vec![
        ("hello-empty", Message::Hello(empty)),
        ("hello-without-capabilities", Message::Hello(without_capabilities)),
        ("hello-with-capabilities", Message::Hello(usual)),
        ("hello-with-proofs", Message::Hello(with_proofs)),
        ("hello-longest", Message::Hello(longest)),
    ]
}

fn pings() -> Vec<Row> {
    let ping = |seq, text: &str| Message::Ping { seq, text: text.to_owned() };
    vec![
        ("ping-empty", ping(0, "")),
        ("ping-usual", ping(1, "ping")),
        // The encoding of a number becomes longer at these values.
        ("ping-250", ping(250, "")),
        ("ping-251", ping(251, "")),
        ("ping-65535", ping(65_535, "")),
        ("ping-65536", ping(65_536, "")),
        ("ping-4294967295", ping(4_294_967_295, "")),
        ("ping-4294967296", ping(4_294_967_296, "")),
        ("ping-longest", ping(u64::MAX, &"\u{10ffff}".repeat(PING_TEXT_BYTES_MAX / 4))),
    ]
}

fn heartbeats() -> Vec<Row> {
    let heartbeat =
        |seq, digest, interval_ms, rtt_us| Message::Heartbeat { seq, digest, interval_ms, rtt_us };
    let ack = |seq, digest, interval_ms| Message::HeartbeatAck { seq, digest, interval_ms };
    vec![
        ("heartbeat-zero", heartbeat(0, 0, 0, 0)),
        ("heartbeat-first", heartbeat(1, 0xfedc_ba98_7654_3210, 1000, 0)),
        ("heartbeat-usual", heartbeat(86_400, 0xfedc_ba98_7654_3210, 2000, 421)),
        ("heartbeat-last", heartbeat(u64::MAX, u64::MAX, u32::MAX, u32::MAX)),
        ("heartbeat-ack-zero", ack(0, 0, 0)),
        ("heartbeat-ack-first", ack(1, 0x0123_4567_89ab_cdef, 1000)),
        ("heartbeat-ack-usual", ack(86_400, 0x0123_4567_89ab_cdef, 2000)),
        ("heartbeat-ack-last", ack(u64::MAX, u64::MAX, u32::MAX)),
    ]
}

fn peer_lists() -> Vec<Row> {
    let peers = |records, more| Message::Peers { records, more };
    let record = |byte, addrs, connected| PeerRecord { id: PeerId::from_bytes([byte; 32]), addrs, connected };
    let usual = vec![
        record(1, addrs(&["127.0.0.1:8081", "node.example.org:7000"]), true),
        record(0xfe, addrs(&["[fe80::1]:8080"]), false),
    ];
    let longest = record(0xff, addrs(&[longest_name().as_str(); ADDRS_MAX]), true);
    let many = (0..RECORDS_MAX).map(|at| {
        let addr = format!("10.0.0.{}:{}", at + 1, 250 + at);
        record(u8::try_from(at).unwrap(), addrs(&[&addr]), at % 2 == 0)
    });
    vec![
        ("peers-request", Message::PeersRequest),
        ("peers-none", peers(Vec::new(), false)),
        ("peers-more", peers(vec![record(0, Vec::new(), false)], true)),
        ("peers-usual", peers(usual, false)),
        ("peers-longest", peers(vec![longest], true)),
        ("peers-many", peers(many.collect(), false)),
    ]
}

fn notices() -> Vec<Row> {
    let notice = |at: &str| Message::Notice(Notice::KeyInUse(at.parse().unwrap()));
    vec![
        ("notice-key-in-use-v4", notice("192.0.2.7:40000")),
        ("notice-key-in-use-v6", notice("[2001:db8::7]:40000")),
    ]
}

fn byes() -> Vec<Row> {
    let bye = Message::Bye;
    vec![
        ("bye-leaving", bye(ByeReason::Leaving)),
        ("bye-duplicate", bye(ByeReason::Duplicate)),
        ("bye-silent", bye(ByeReason::Silent)),
        ("bye-protocol", bye(ByeReason::Protocol)),
        ("bye-replaced", bye(ByeReason::Replaced)),
        ("bye-cloned", bye(ByeReason::Cloned)),
        ("bye-own-address", bye(ByeReason::OwnAddress)),
        ("bye-full", bye(ByeReason::Full)),
        ("bye-not-admitted", bye(ByeReason::NotAdmitted)),
        ("bye-address-taken", bye(ByeReason::AddressTaken)),
        ("bye-network-key-missing", bye(ByeReason::NetworkKeyMissing)),
        ("bye-network-key-wrong", bye(ByeReason::NetworkKeyWrong)),
        ("bye-network-key-unknown", bye(ByeReason::NetworkKeyUnknown)),
        // Numbers that no later version is likely to give a reason.
        ("bye-other-250", bye(ByeReason::Other(250))),
        ("bye-other-251", bye(ByeReason::Other(251))),
        ("bye-other-65535", bye(ByeReason::Other(u16::MAX))),
    ]
}

fn broadcasts() -> Vec<Row> {
    let broadcast = |text: &str| Message::Broadcast { text: text.to_owned() };
    vec![
        ("broadcast-empty", broadcast("")),
        ("broadcast-usual", broadcast("backup done")),
        ("broadcast-longest", broadcast(&"0123456789abcdef".repeat(MESSAGE_BYTES_MAX / 16))),
    ]
}

fn extensions() -> Vec<Row> {
    let extension = |kind, bytes: &[u8]| Message::Extension { kind, bytes: bytes.to_vec() };
    let longest: Vec<u8> = (0..=u8::MAX).cycle().take(EXTENSION_BYTES_MAX).collect();
    vec![
        ("extension-empty", extension(0, b"")),
        ("extension-usual", extension(1, b"\x00later\xff")),
        ("extension-longest", extension(u32::MAX, &longest)),
    ]
}

fn network_keys() -> Vec<Row> {
    let key = |generation, byte, grace_s| Message::NetworkKey {
        generation,
        key: sample::network_key([byte; 32]),
        grace_s,
    };
    let held = |generation| Message::NetworkKeyHeld { generation };
    vec![
        ("network-key-zero", key(0, 0, 0)),
        ("network-key-usual", key(3, 0xa5, 604_800)),
        ("network-key-last", key(u64::MAX, 0xff, u64::MAX)),
        ("network-key-held-zero", held(0)),
        ("network-key-held-usual", held(3)),
        ("network-key-held-last", held(u64::MAX)),
    ]
}

fn witnesses() -> Vec<Row> {
    let request = |lost| Message::WitnessRequest { lost };
    let report = |sightings| Message::WitnessReport { sightings };
    let sighting = |byte, hearing, ago_ms| Sighting { peer: PeerId::from_bytes([byte; 32]), hearing, ago_ms };
    let usual = vec![
        sighting(1, Hearing::Hears, 240),
        sighting(2, Hearing::Silent, 2140),
        sighting(3, Hearing::Lost, 3000),
        sighting(0xfe, Hearing::Unknown, u32::MAX),
    ];
    vec![
        ("witness-request-none", request(Vec::new())),
        ("witness-request-usual", request(vec![sighting(1, Hearing::Lost, 3000)])),
        ("witness-request-longest", request(vec![sighting(0xff, Hearing::Lost, u32::MAX); SIGHTINGS_MAX])),
        ("witness-report-none", report(Vec::new())),
        ("witness-report-usual", report(usual)),
        ("witness-report-longest", report(vec![sighting(0xff, Hearing::Unknown, u32::MAX); SIGHTINGS_MAX])),
    ]
}

fn incidents() -> Vec<Row> {
    let id = |byte| PeerId::from_bytes([byte; 32]);
    let news = |subject, number, incident, stage, peers| {
        Message::Incident(IncidentNews { subject, number, incident, stage, peers })
    };
    let usual = 0x0123_4567_89ab_cdef;
    vec![
        ("incident-zero", news(Subject::Peer(id(0)), 0, 0, Stage::Open, Vec::new())),
        ("incident-node", news(Subject::Peer(id(7)), 1, usual, Stage::Begun, vec![id(7)])),
        ("incident-link", news(Subject::Link(id(1), id(2)), 2, usual, Stage::Over, vec![id(1), id(2)])),
        ("incident-isolated", news(Subject::Isolated(id(3)), 3, usual, Stage::Done, vec![id(4), id(5)])),
        (
            "incident-longest",
            news(
                Subject::Link(id(0xfe), id(0xff)),
                u32::MAX,
                u64::MAX,
                Stage::Done,
                vec![id(0xff); INCIDENT_PEERS_MAX],
            ),
        ),
    ]
}

fn circuits() -> Vec<Row> {
    let peer = |byte| PeerId::from_bytes([byte; 32]);
    let data = |circuit, bytes: &[u8]| Message::CircuitData { circuit, bytes: bytes.to_vec() };
    let credit = |circuit, bytes| Message::CircuitCredit { circuit, bytes };
    let close = |reason| Message::CircuitClose { circuit: 3, reason };
    let longest: Vec<u8> = (0..=u8::MAX).cycle().take(CIRCUIT_BYTES_MAX).collect();
    vec![
        ("circuit-open-usual", Message::CircuitOpen { circuit: 3, target: peer(1) }),
        ("circuit-open-last", Message::CircuitOpen { circuit: u64::MAX, target: peer(0xff) }),
        ("circuit-offer-usual", Message::CircuitOffer { circuit: 2, from: peer(1) }),
        ("circuit-offer-last", Message::CircuitOffer { circuit: u64::MAX, from: peer(0xff) }),
        ("circuit-accept-usual", Message::CircuitAccept { circuit: 3 }),
        ("circuit-accept-last", Message::CircuitAccept { circuit: u64::MAX }),
        ("circuit-data-empty", data(0, b"")),
        ("circuit-data-usual", data(3, b"\x16\x03\x03")),
        ("circuit-data-longest", data(u64::MAX, &longest)),
        ("circuit-credit-zero", credit(0, 0)),
        ("circuit-credit-usual", credit(3, 16_384)),
        ("circuit-credit-last", credit(u64::MAX, u32::MAX)),
        ("circuit-close-ended", close(CircuitReason::Ended)),
        ("circuit-close-not-carrying", close(CircuitReason::NotCarrying)),
        ("circuit-close-not-connected", close(CircuitReason::NotConnected)),
        ("circuit-close-limit", close(CircuitReason::Limit)),
        ("circuit-close-not-admitted", close(CircuitReason::NotAdmitted)),
        ("circuit-close-gone", close(CircuitReason::Gone)),
        ("circuit-close-credit", close(CircuitReason::Credit)),
        ("circuit-close-refused", close(CircuitReason::Refused)),
        ("circuit-close-other-65535", close(CircuitReason::Other(u16::MAX))),
        ("seen-at-ipv4", Message::SeenAt { addr: "192.0.2.7:40000".parse().unwrap() }),
        ("seen-at-ipv6", Message::SeenAt { addr: "[2001:db8::7]:40000".parse().unwrap() }),
        ("punch-ipv4", Message::Punch { addr: "192.0.2.7:40000".parse().unwrap() }),
        ("punch-ipv6", Message::Punch { addr: "[2001:db8::7]:65535".parse().unwrap() }),
        ("reachable-at-ipv4", Message::ReachableAt { addr: "203.0.113.7:40000".parse().unwrap() }),
        ("reachable-at-ipv6", Message::ReachableAt { addr: "[2001:db8::7]:1024".parse().unwrap() }),
    ]
}

/// The prefix of the names for this kind of message. A new kind does not compile until it has one.
fn kind(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "hello",
        Message::Ping { .. } => "ping",
        Message::Heartbeat { .. } => "heartbeat",
        Message::PeersRequest => "peers-request",
        Message::Peers { .. } => "peers",
        Message::Notice(Notice::KeyInUse(_)) => "notice-key-in-use",
        Message::Broadcast { .. } => "broadcast",
        Message::HeartbeatAck { .. } => "heartbeat-ack",
        Message::Extension { .. } => "extension",
        Message::NetworkKey { .. } => "network-key",
        Message::NetworkKeyHeld { .. } => "network-key-held",
        Message::WitnessRequest { .. } => "witness-request",
        Message::WitnessReport { .. } => "witness-report",
        Message::Incident(_) => "incident",
        Message::CircuitOpen { .. } => "circuit-open",
        Message::CircuitOffer { .. } => "circuit-offer",
        Message::CircuitAccept { .. } => "circuit-accept",
        Message::CircuitData { .. } => "circuit-data",
        Message::CircuitCredit { .. } => "circuit-credit",
        Message::SeenAt { .. } => "seen-at",
        Message::Punch { .. } => "punch",
        Message::ReachableAt { .. } => "reachable-at",
        Message::CircuitClose { reason, .. } => match reason {
            CircuitReason::Ended => "circuit-close-ended",
            CircuitReason::NotCarrying => "circuit-close-not-carrying",
            CircuitReason::NotConnected => "circuit-close-not-connected",
            CircuitReason::Limit => "circuit-close-limit",
            CircuitReason::NotAdmitted => "circuit-close-not-admitted",
            CircuitReason::Gone => "circuit-close-gone",
            CircuitReason::Credit => "circuit-close-credit",
            CircuitReason::Refused => "circuit-close-refused",
            CircuitReason::Other(_) => "circuit-close-other",
        },
        Message::Bye(reason) => match reason {
            ByeReason::Leaving => "bye-leaving",
            ByeReason::Duplicate => "bye-duplicate",
            ByeReason::Silent => "bye-silent",
            ByeReason::Protocol => "bye-protocol",
            ByeReason::Replaced => "bye-replaced",
            ByeReason::Cloned => "bye-cloned",
            ByeReason::OwnAddress => "bye-own-address",
            ByeReason::Full => "bye-full",
            ByeReason::NotAdmitted => "bye-not-admitted",
            ByeReason::AddressTaken => "bye-address-taken",
            ByeReason::NetworkKeyMissing => "bye-network-key-missing",
            ByeReason::NetworkKeyWrong => "bye-network-key-wrong",
            ByeReason::NetworkKeyUnknown => "bye-network-key-unknown",
            ByeReason::Other(_) => "bye-other",
        },
    }
}

fn addrs(texts: &[&str]) -> Vec<DialAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn longest_name() -> String {
    let label = "x".repeat(63);
    format!("{label}.{label}.{label}.{}.:65535", "y".repeat(61))
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/v2.txt")
}

/// The golden frames in hexadecimal, by name.
fn golden_frames() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(file()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let frames: Vec<_> = lines.map(|line| line.split_once(' ').expect("a name and a frame")).collect();
    let by_name: BTreeMap<_, _> =
        frames.iter().map(|&(name, hex)| (name.to_owned(), hex.to_owned())).collect();
    assert_eq!(by_name.len(), frames.len(), "a name occurs twice");
    by_name
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "two digits a byte");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Adds missing frames of the corpus to the file if the environment variable is set.
fn add_missing() {
    if std::env::var_os("P2P_GOSSIP_WRITE_GOLDEN").is_none() {
        return;
    }
    let golden = golden_frames();
    let mut text = std::fs::read_to_string(file()).unwrap();
    for (name, message) in corpus().iter().filter(|(name, _)| !golden.contains_key(*name)) {
        writeln!(text, "{name} {}", to_hex(&encode(message).unwrap())).unwrap();
    }
    std::fs::write(file(), text).unwrap();
}

#[test]
fn frames_of_version_2_are_read_and_written_unchanged() {
    add_missing();
    let mut golden = golden_frames();
    for (name, message) in corpus() {
        assert!(name.starts_with(kind(&message)), "{name} is of another kind");
        let hex = golden.remove(name).unwrap_or_else(|| panic!("{name} is missing in {:?}", file()));
        let frame = from_hex(&hex);
        let mut reader = FrameReader::new();
        // A Hello is decoded under the length limit of the first frame.
        if !matches!(message, Message::Hello(_)) {
            reader.after_hello();
        }
        reader.buffer().extend_from_slice(&frame);
        assert_eq!(
            reader.next_message().as_ref(),
            Ok(&Some(message.clone())),
            "{name} is decoded differently"
        );
        assert!(reader.is_empty(), "{name} has bytes left");
        assert_eq!(to_hex(&encode(&message).unwrap()), hex, "{name} is encoded differently");
    }
    assert!(golden.is_empty(), "no message of the corpus is called {:?}", golden.keys());
}

#[test]
fn every_kind_of_message_has_a_golden_frame() {
    let mut kinds: Vec<_> = corpus().iter().map(|(_, message)| kind(message)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    // The number of results of `kind`: 22 kinds without a reason, and the reasons of two kinds, of which unknown ones are
    // one each.
    let reasons = ByeReason::KNOWN.len() + 1 + CircuitReason::KNOWN.len() + 1;
    assert_eq!(kinds.len(), 22 + reasons, "{kinds:?}");
}
