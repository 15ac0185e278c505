//! The file of known peers: its format, strict parsing, and writing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use toml::Spanned;

use crate::config::{ConfigError, check_name};
use crate::limits::PEERS_LIMIT;
use crate::mesh::{ACQUAINTED_AFTER, KnownAddr, KnownPeer, UnixTime};
use crate::net::addr::DialAddr;
use crate::net::dial_addr_error::DialAddrError;
use crate::store::files::{Directory, FileRequirement, PRIVATE, ReadError};
use crate::store::known_peers_error::{ADDRS_READ_MAX, KnownPeersError, KnownPeersProblem, VERSION};
use crate::trust::peer_id::{ParsePeerIdError, PeerId};
use crate::util::text;

/// Largest accepted file in bytes: twice the size of a full table with the longest names and addresses.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const HEADER: &str = "\
# Peers that this node has connected to, with the ids of their keys.
# Written by p2p-gossip; stop the node before you edit it.
";

/// Reads the known peers from their file; none if there is no file.
///
/// # Errors
/// The file can't be read or is damaged. The error names the file, the line and the remedy. A damaged file is
/// never taken for an empty one, because then any key would be trusted.
pub(crate) fn read(directory: &Directory, name: &OsStr) -> Result<Vec<KnownPeer>, KnownPeersError> {
    let file = || directory.path_of(name);
    let bytes = match directory.read(name, FILE_BYTES_MAX, FileRequirement::InPlace) {
        Ok(bytes) => bytes,
        Err(ReadError::System(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(ReadError::System(source)) => return Err(KnownPeersError::Read { file: file(), source }),
        Err(ReadError::Link | ReadError::NoFile) => return Err(KnownPeersError::NotAFile { file: file() }),
        Err(_) => return Err(KnownPeersError::TooLarge { file: file() }),
    };
    parse(&bytes).map_err(|problem| {
        let file = file();
        match problem {
            Problem::Version(version) => KnownPeersError::Version { file, version },
            Problem::Damaged { line, problem } => KnownPeersError::Damaged { file, line, problem },
        }
    })
}

/// Writes the known peers. Even after a crash, the file holds either the old peers or these.
pub(crate) fn write(directory: &Directory, name: &OsStr, peers: &[KnownPeer]) -> io::Result<()> {
    // TOML's error may quote a value.
    let text = render(peers).map_err(|_| io::Error::other("the known peers cannot be written as TOML"))?;
    directory.replace(name, &text, PRIVATE)
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    Version(u32),
    Damaged { line: usize, problem: KnownPeersProblem },
}

/// The part that all versions of the file share.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<P> {
    version: u32,
    #[serde(default = "Vec::new", rename = "peer")]
    peers: Vec<P>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PeerEntry {
    #[serde(deserialize_with = "id")]
    id: PeerId,
    name: Name,
    first_seen: Time,
    last_seen: Time,
    left: bool,
    /// Whole seconds of connected time.
    /// A file without it comes from a version that did not count: its peers count as acquainted.
    #[serde(default = "acquainted")]
    connected_s: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    missed_s: u64,
    #[serde(default, rename = "address")]
    addrs: Vec<AddrEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddrEntry {
    addr: Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_success: Option<Time>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    origin: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    foreign: bool,
}

fn acquainted() -> u64 {
    ACQUAINTED_AFTER.as_secs()
}

// serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(seconds: &u64) -> bool {
    *seconds == 0
}

/// Reads an id. Its error has one text, which [`KnownPeersProblem`] knows too.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PeerId, D::Error> {
    let text = String::deserialize(deserializer)?;
    let problem = KnownPeersProblem::Id(ParsePeerIdError::NotHexadecimal);
    text.parse().map_err(|_| de::Error::custom(problem))
}

struct Name(String);

impl Serialize for Name {
    /// Replaces unsafe characters of a peer's name, because people read the file on terminals.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let safe: String = self.0.chars().map(|c| if text::is_unsafe(c) { '?' } else { c }).collect();
        serializer.serialize_str(&safe)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match check_name(&name) {
            Ok(()) => Ok(Self(name)),
            Err(ConfigError::NameLength(_)) => Err(de::Error::custom(KnownPeersProblem::NameLength)),
            Err(_) => Err(de::Error::custom(KnownPeersProblem::NameCharacter)),
        }
    }
}

struct Time(UnixTime);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = text.parse::<Timestamp>().ok();
        let seconds = time.and_then(|time| u64::try_from(time.as_second()).ok());
        seconds
            .map(|seconds| Self(UnixTime(seconds)))
            .ok_or_else(|| de::Error::custom(KnownPeersProblem::Time))
    }
}

/// Formats as RFC 3339 in UTC. A time after the year 9999 is shown as its end.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).fmt(f)
    }
}

/// An address, in the file with the name of its interface.
struct Addr(DialAddr);

impl Serialize for Addr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.with_interface_name())
    }
}

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let addr = String::deserialize(deserializer)?.parse::<DialAddr>();
        addr.map(|addr| Self(addr.with_interface_index())).map_err(|error| match error {
            // This error quotes a character.
            DialAddrError::NotAscii(_) => de::Error::custom(DialAddrError::BadHost),
            other => de::Error::custom(other),
        })
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<KnownPeer>, Problem> {
    let line_of = |at: usize| 1 + bytes.iter().take(at).filter(|&&byte| byte == b'\n').count();
    let damaged = |at: usize, problem| Problem::Damaged { line: line_of(at), problem };
    let text =
        std::str::from_utf8(bytes).map_err(|e| damaged(e.valid_up_to(), KnownPeersProblem::NotText))?;
    let from_toml = |error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        damaged(at, KnownPeersProblem::from_toml(error.message().trim_end()))
    };
    // A later version may change all other fields.
    let AnyVersion { version } = toml::from_str(text).map_err(from_toml)?;
    if version != VERSION {
        return Err(Problem::Version(version));
    }
    let content: Content<Spanned<PeerEntry>> = toml::from_str(text).map_err(from_toml)?;
    let mut ids = BTreeSet::new();
    let mut peers = Vec::new();
    for entry in content.peers {
        let at = entry.span().start;
        let entry = entry.into_inner();
        if !ids.insert(entry.id) {
            return Err(damaged(at, KnownPeersProblem::Twice));
        }
        if ids.len() > PEERS_LIMIT {
            return Err(damaged(at, KnownPeersProblem::Peers));
        }
        if entry.addrs.len() > ADDRS_READ_MAX {
            return Err(damaged(at, KnownPeersProblem::Addrs));
        }
        let known = |AddrEntry { addr, last_success, origin, foreign }: AddrEntry| KnownAddr {
            addr: addr.0,
            is_origin: origin,
            is_foreign: foreign,
            last_success: last_success.map(|time| time.0),
        };
        peers.push(KnownPeer {
            id: entry.id,
            name: entry.name.0,
            first_seen: entry.first_seen.0,
            last_seen: entry.last_seen.0,
            left: entry.left,
            connected: Duration::from_secs(entry.connected_s),
            missed: Duration::from_secs(entry.missed_s),
            addrs: entry.addrs.into_iter().map(known).collect(),
        });
    }
    Ok(peers)
}

fn render(peers: &[KnownPeer]) -> Result<Vec<u8>, toml::ser::Error> {
    let entry = |peer: &KnownPeer| PeerEntry {
        id: peer.id,
        name: Name(peer.name.clone()),
        first_seen: Time(peer.first_seen),
        last_seen: Time(peer.last_seen),
        left: peer.left,
        connected_s: peer.connected.as_secs(),
        missed_s: peer.missed.as_secs(),
        addrs: peer
            .addrs
            .iter()
            .map(|known| AddrEntry {
                addr: Addr(known.addr.clone()),
                last_success: known.last_success.map(Time),
                origin: known.is_origin,
                foreign: known.is_foreign,
            })
            .collect(),
    };
    let content = Content { version: VERSION, peers: peers.iter().map(entry).collect() };
    Ok(format!("{HEADER}{}", toml::to_string(&content)?).into_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::ADDRS_MAX;

    fn peer(n: u8) -> KnownPeer {
        KnownPeer {
            id: PeerId::from_bytes([n; 32]),
            name: format!("node {n}"),
            first_seen: UnixTime(1_769_860_800),
            last_seen: UnixTime(1_769_947_200),
            left: n.is_multiple_of(2),
            connected: Duration::from_secs(100),
            missed: Duration::from_secs(u64::from(n) - 1),
            addrs: vec![
                KnownAddr {
                    addr: "127.0.0.1:8080".parse().unwrap(),
                    last_success: Some(UnixTime(1)),
                    is_origin: false,
                    is_foreign: false,
                },
                KnownAddr {
                    addr: "node.example:1".parse().unwrap(),
                    last_success: None,
                    is_origin: true,
                    is_foreign: true,
                },
            ],
        }
    }

    fn problem(text: &str) -> (usize, String) {
        match parse(text.as_bytes()).unwrap_err() {
            Problem::Damaged { line, problem } => (line, problem.to_string()),
            other => panic!("{other:?}"),
        }
    }

    fn text(peers: &[KnownPeer]) -> String {
        String::from_utf8(render(peers).unwrap()).unwrap()
    }

    #[test]
    fn written_peers_are_read_back() {
        let peers: Vec<KnownPeer> = (1..4).map(peer).collect();
        assert_eq!(parse(&render(&peers).unwrap()).unwrap(), peers);
        assert_eq!(parse(&render(&[]).unwrap()).unwrap(), []);
    }

    #[test]
    fn file_has_the_documented_format() {
        let mut one = peer(1);
        one.name = "bob".to_owned();
        let id = "01".repeat(32);
        assert_eq!(
            text(&[one]),
            format!(
                "\
{HEADER}version = 1

[[peer]]
id = \"{id}\"
name = \"bob\"
first_seen = \"2026-01-31T12:00:00Z\"
last_seen = \"2026-02-01T12:00:00Z\"
left = false
connected_s = 100

[[peer.address]]
addr = \"127.0.0.1:8080\"
last_success = \"1970-01-01T00:00:01Z\"

[[peer.address]]
addr = \"node.example:1\"
origin = true
foreign = true
"
            )
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn link_local_address_is_stored_with_the_name_of_its_interface() {
        let mut named = peer(1);
        // Interface 1 of every network namespace is the loopback interface.
        named.addrs[0].addr = "[fe80::1%1]:8080".parse().unwrap();
        named.addrs[1].addr = "[fe80::1%absent0]:8080".parse().unwrap();
        let written = text(&[named.clone()]);
        assert!(written.contains("[fe80::1%lo]:8080") && written.contains("[fe80::1%absent0]"), "{written}");
        assert_eq!(parse(written.as_bytes()).unwrap(), [named]);
    }

    #[test]
    fn damage_is_reported_by_line() {
        let good = text(&[peer(1), peer(3)]);
        let line_of = |needle: &str| 1 + good.lines().position(|line| line.contains(needle)).unwrap();
        let bad = |from: &str, to: &str| problem(&good.replacen(from, to, 1));
        for (from, to, needle) in [
            ("first_seen = \"2026", "first_seen = \"1926", "no time since 1970"),
            ("first_seen = \"2026", "first_seen = \"20x6", "no time since 1970"),
            ("id = \"01", "id = \"0", "64 hexadecimal digits"),
            ("name = \"node", "name = \"\\u001b", "control character"),
            ("name = \"node", &format!("name = \"{}", "x".repeat(70)), "at most 64"),
            ("left = false", "left = 7", "true or false is needed"),
            ("left = false", "left = fals", "not valid TOML"),
            ("name = \"node", "nam = \"node", "unknown field"),
            ("id = \"0101", "id = 7 # \"", "a text in quotes is needed"),
            ("addr = \"127.0.0.1:8080\"", "addr = \"127.0.0.1\"", "port is missing"),
            ("left = false", "left = false\ncolour = 1", "unknown field"),
            ("missed_s = 2", "missed_s = -2", "a whole number, 0 or more"),
        ] {
            let (line, detail) = bad(from, to);
            let expected = line_of(from) + to.matches('\n').count();
            assert_eq!(line, expected, "{to}: {detail}");
            assert!(detail.contains(needle) && !detail.contains('\n'), "{to}: {detail}");
        }
        assert!(problem("").1.contains("version"));
        let without = good.replacen("left = false\n", "", 1);
        assert_eq!(problem(&without), (line_of("[[peer]]"), "the field left is missing".to_owned()));
        assert_eq!(problem(&format!("{good}\n[[peer]]\n")).0, good.lines().count() + 2);
        let twice = text(&[peer(1), peer(3), peer(1)]);
        let third = twice.lines().enumerate().filter(|(_, l)| *l == "[[peer]]").nth(2).unwrap().0 + 1;
        assert_eq!(problem(&twice), (third, "this peer has two entries".to_owned()));
        let not_text = [good.as_bytes(), b"\xff"].concat();
        let Problem::Damaged { line, .. } = parse(&not_text).unwrap_err() else { panic!() };
        assert_eq!(line, good.lines().count() + 1);
    }

    #[test]
    fn errors_show_no_text_of_the_file() {
        let secret = include_str!("../../tests/fixtures/keys/ed25519.pem");
        let piece = &secret.lines().nth(1).unwrap()[8..40];
        let good = text(&[peer(1)]);
        let line = |field: &str| good.lines().find(|line| line.starts_with(field)).unwrap();
        let mut texts =
            vec![secret.to_owned(), piece.to_owned(), format!("{piece} = 1"), format!("version = '{piece}'")];
        for field in ["version", "id", "name", "first_seen", "last_seen", "left", "addr", "last_success"] {
            for new in [
                format!("{field} = '{piece}'"),
                format!("{field} = {piece}"),
                format!("{field} = ['{piece}']"),
                format!("{field} = {{ {piece} = 1 }}"),
                format!("{piece} = 1"),
                format!("{field} = '[fe80::1%{piece}]:1'"),
                format!("{field} = '{}'", piece.repeat(3)),
            ] {
                texts.push(good.replacen(line(field), &new, 1));
            }
        }
        for text in texts {
            // Some texts are valid names.
            let Err(problem) = parse(text.as_bytes()) else { continue };
            let shown = format!("{problem:?}");
            assert!(
                !piece.as_bytes().windows(6).any(|w| shown.contains(std::str::from_utf8(w).unwrap())),
                "{shown}"
            );
        }
    }

    #[test]
    fn truncated_file_is_damaged_or_holds_complete_peers() {
        let peers: Vec<KnownPeer> = (1..4).map(peer).collect();
        let whole = render(&peers).unwrap();
        for end in 0..whole.len() {
            if let Ok(read) = parse(&whole[..end]) {
                assert!(read.len() <= peers.len());
                for (known, peer) in read.iter().zip(&peers) {
                    assert_eq!(known.id, peer.id);
                }
            }
        }
    }

    #[test]
    fn extreme_times_do_not_damage_the_file() {
        let mut early = peer(1);
        (early.first_seen, early.last_seen) = (UnixTime(0), UnixTime(u64::MAX));
        let read = parse(&render(&[early]).unwrap()).unwrap();
        assert_eq!(read[0].first_seen, UnixTime(0));
        assert!(read[0].last_seen.to_string().starts_with("9999-12-3"), "{}", read[0].last_seen);
    }

    #[test]
    fn peer_without_missed_time_reads_as_zero() {
        let without = text(&[peer(3)]).replace("missed_s = 2\n", "");
        assert_eq!(parse(without.as_bytes()).unwrap(), [KnownPeer { missed: Duration::ZERO, ..peer(3) }]);
    }

    #[test]
    fn other_version_is_refused_before_other_fields_are_read() {
        assert_eq!(parse(b"version = 2\ncolour = 'blue'\n").unwrap_err(), Problem::Version(2));
    }

    #[test]
    fn file_with_more_peers_than_the_limit_is_refused() {
        let many = |count: usize| -> Vec<KnownPeer> {
            let bytes = |n: usize| {
                let mut id = [0; 32];
                id[..8].copy_from_slice(&n.to_be_bytes());
                id
            };
            (0..count).map(|n| KnownPeer { id: PeerId::from_bytes(bytes(n)), ..peer(1) }).collect()
        };
        assert_eq!(parse(&render(&many(PEERS_LIMIT)).unwrap()).unwrap().len(), PEERS_LIMIT);
        assert!(problem(&text(&many(PEERS_LIMIT + 1))).1.contains("more than 4096 peers"));
        let mut largest = peer(1);
        largest.name = "x".repeat(64);
        largest.addrs = vec![
            KnownAddr {
                addr: format!("{}.example:65535", ["a"; 8].map(|c| c.repeat(29)).join(".")).parse().unwrap(),
                last_success: Some(UnixTime(1)),
                is_origin: false,
                is_foreign: false,
            };
            ADDRS_MAX + 1
        ];
        let one = text(&[largest]).len() - HEADER.len();
        assert!((one * PEERS_LIMIT) as u64 <= FILE_BYTES_MAX / 2, "{one} bytes a peer");
    }

    proptest! {
        /// The file can be read again with any name of a peer.
        #[test]
        fn arbitrary_name_does_not_damage_the_file(name in "\\PC{0,20}|[\\x00-\\x20\u{202e}\u{feff}\"'\\\\]{0,16}") {
            let mut named = peer(1);
            named.name = name.chars().take(16).collect();
            let read = parse(&render(&[named.clone()]).unwrap()).unwrap();
            prop_assert_eq!(read[0].name.chars().count(), named.name.chars().count());
        }

        #[test]
        fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
