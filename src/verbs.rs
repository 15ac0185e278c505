//! What the verbs do: each ends with a text for stdout or an error.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use p2p_gossip::mesh::{KnownAddr, KnownPeer, UnixTime};
use p2p_gossip::network_key::NetworkKeyError;
use p2p_gossip::text::Escaped;
use p2p_gossip::{Identity, IdentityError, NetworkKey, PeerId, StateDir, StateError};

use crate::cli::{IdPrefix, KeySource, Keygen, Output, Verb};
use crate::local_time;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerbError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    NetworkKey(#[from] NetworkKeyError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("a node uses {}{}; stop it first, as it would write the peer back", path.display(), by(*pid))]
    NodeRuns { path: PathBuf, pid: Option<u32> },
    #[error("no known peer has an id that begins with {0}")]
    NoSuchPeer(IdPrefix),
    #[error("{count} known peers have ids that begin with {prefix}; give more digits")]
    Ambiguous { prefix: IdPrefix, count: usize },
    #[error("cannot show the peers as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Does what the verb says; what is to be printed.
pub(crate) fn perform(verb: Verb) -> Result<String, VerbError> {
    match verb {
        Verb::Keygen(keys) => keygen(&keys),
        Verb::Peers(state, output) => peers(StateDir::peek(&state)?, output),
        Verb::Forget(state, prefix) => forget(&state, prefix),
        Verb::Id(source) => id(&source).map(|id| format!("{id}\n")),
    }
}

fn id(source: &KeySource) -> Result<PeerId, VerbError> {
    Ok(match source {
        KeySource::Key(key) => Identity::from_key_file(key)?.id(),
        KeySource::State(state) => StateDir::peek_id(state)?,
        KeySource::Certificate(cert) => PeerId::of_certificate_file(cert)?,
    })
}

fn keygen(keys: &Keygen) -> Result<String, VerbError> {
    // Before a node's key is made that the next failure would leave alone.
    if let Some(file) = keys.network.as_ref().filter(|file| file.symlink_metadata().is_ok()) {
        let source = io::ErrorKind::AlreadyExists.into();
        return Err(NetworkKeyError::Write { file: file.clone(), source }.into());
    }
    let mut printed = String::new();
    if let Some((key, cert)) = &keys.node {
        printed = format!("{}\n", Identity::create_files(key, cert)?.id());
    }
    if let Some(file) = &keys.network {
        NetworkKey::generate()?.write_new(file)?;
    }
    Ok(printed)
}

/// Those seen last come first.
fn peers(mut known: Vec<KnownPeer>, output: Output) -> Result<String, VerbError> {
    known.sort_by_key(|peer| (std::cmp::Reverse(peer.last_seen), peer.id));
    match output {
        Output::Text => Ok(table(&known, &local_time::zone())),
        Output::Json => {
            let mut lines = String::new();
            for peer in &known {
                lines.push_str(&serde_json::to_string(&Object::of(peer))?);
                lines.push('\n');
            }
            Ok(lines)
        }
    }
}

/// A known peer as JSON.
#[derive(serde::Serialize)]
struct Object {
    id: PeerId,
    name: String,
    first_seen: String,
    last_seen: String,
    left: bool,
    addresses: Vec<Address>,
}

#[derive(serde::Serialize)]
struct Address {
    addr: String,
    last_success: Option<String>,
}

impl Object {
    fn of(peer: &KnownPeer) -> Self {
        let address = |known: &KnownAddr| Address {
            addr: known.addr.to_string(),
            last_success: known.last_success.map(|time| time.to_string()),
        };
        Self {
            id: peer.id,
            name: peer.name.clone(),
            first_seen: peer.first_seen.to_string(),
            last_seen: peer.last_seen.to_string(),
            left: peer.left,
            addresses: peer.addrs.iter().map(address).collect(),
        }
    }
}

fn table(known: &[KnownPeer], zone: &TimeZone) -> String {
    let time = |UnixTime(seconds)| {
        let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        let time = time.unwrap_or(Timestamp::MAX).to_zoned(zone.clone());
        time.strftime("%Y-%m-%d %H:%M:%S").to_string()
    };
    let mut rows = vec![["ID", "NAME", "FIRST SEEN", "LAST SEEN", "", "ADDRESSES"].map(str::to_owned)];
    for peer in known {
        let addrs: Vec<String> = peer.addrs.iter().map(|known| known.addr.to_string()).collect();
        rows.push([
            peer.id.short().to_string(),
            Escaped(&peer.name).to_string(),
            time(peer.first_seen),
            time(peer.last_seen),
            if peer.left { "left".to_owned() } else { String::new() },
            addrs.join(" "),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // Nobody has left: no column. Writing into a String does not fail.
            if width > 0 {
                let _ = write!(line, "{cell:<width$}  ");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn forget(path: &Path, prefix: IdPrefix) -> Result<String, VerbError> {
    let mut state = StateDir::open_existing(path).map_err(|error| match error {
        StateError::InUse { path, pid } => VerbError::NodeRuns { path, pid },
        other => other.into(),
    })?;
    let found: Vec<PeerId> =
        state.known_peers().iter().map(|peer| peer.id).filter(|id| prefix.matches(id)).collect();
    match found[..] {
        [] => Err(VerbError::NoSuchPeer(prefix)),
        [id] => {
            state.forget(&id)?;
            Ok(format!("forgot {id}\n"))
        }
        _ => Err(VerbError::Ambiguous { prefix, count: found.len() }),
    }
}

fn by(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8, name: &str, left: bool) -> KnownPeer {
        KnownPeer {
            id: PeerId::from_bytes([n; 32]),
            name: name.to_owned(),
            first_seen: UnixTime(1_769_860_800),
            last_seen: UnixTime(1_769_860_800 + u64::from(n)),
            left,
            missed: std::time::Duration::ZERO,
            addrs: vec![KnownAddr { addr: "127.0.0.1:1".parse().unwrap(), last_success: Some(UnixTime(0)) }],
        }
    }

    #[test]
    fn known_peers_are_an_aligned_table() {
        let known = [peer(0xab, "bob\u{1b}", true), peer(1, "", false)];
        assert_eq!(
            table(&known, &TimeZone::UTC),
            "\
ID          NAME       FIRST SEEN           LAST SEEN                  ADDRESSES
ababababab  bob\\u{1b}  2026-01-31 12:00:00  2026-01-31 12:02:51  left  127.0.0.1:1
0101010101             2026-01-31 12:00:00  2026-01-31 12:00:01        127.0.0.1:1
"
        );
        assert_eq!(table(&[], &TimeZone::UTC), "ID  NAME  FIRST SEEN  LAST SEEN  ADDRESSES\n");
    }

    #[test]
    fn as_json_each_is_an_object_of_its_own_and_the_last_seen_comes_first() {
        let lines = peers(vec![peer(1, "", false), peer(2, "bob", true)], Output::Json).unwrap();
        let id = "02".repeat(32);
        assert!(
            lines.starts_with(&format!(
                "{{\"id\":\"{id}\",\"name\":\"bob\",\"first_seen\":\"2026-01-31T12:00:00Z\",\
                 \"last_seen\":\"2026-01-31T12:00:02Z\",\"left\":true,\"addresses\":[{{\
                 \"addr\":\"127.0.0.1:1\",\"last_success\":\"1970-01-01T00:00:00Z\"}}]}}\n"
            )),
            "{lines}"
        );
        assert_eq!(lines.lines().count(), 2);
    }
}
