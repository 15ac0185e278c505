//! The verb `peers`: lists the peers in a state directory.

use std::cmp::Reverse;
use std::path::Path;

use p2p_gossip::{Escaped, PeerId, StateDir};
use p2p_gossip::{KnownAddr, KnownPeer};

use super::VerbError;
use crate::cli::Output;
use crate::output::table::format_table;

const TITLES: [&str; 6] = ["ID", "NAME", "FIRST SEEN", "LAST SEEN", "", "ADDRESSES"];

/// Lists the known peers as a table or as one JSON object a line, the latest seen first.
pub(super) fn peers(state: &Path, output: Output) -> Result<String, VerbError> {
    list(StateDir::peek(state)?, output)
}

fn list(mut known: Vec<KnownPeer>, output: Output) -> Result<String, VerbError> {
    known.sort_by_key(|peer| (Reverse(peer.last_seen), peer.id));
    match output {
        Output::Text => Ok(table(&known)),
        Output::Json => {
            let mut lines = String::new();
            for peer in &known {
                lines.push_str(&serde_json::to_string(&PeerObject::new(peer))?);
                lines.push('\n');
            }
            Ok(lines)
        }
    }
}

/// A known peer as JSON.
#[derive(serde::Serialize)]
struct PeerObject {
    id: PeerId,
    name: String,
    first_seen: String,
    last_seen: String,
    left: bool,
    addresses: Vec<AddressObject>,
}

#[derive(serde::Serialize)]
struct AddressObject {
    addr: String,
    last_success: Option<String>,
}

impl PeerObject {
    fn new(peer: &KnownPeer) -> Self {
        let address = |known: &KnownAddr| AddressObject {
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

fn table(known: &[KnownPeer]) -> String {
    let mut rows = vec![TITLES.map(str::to_owned)];
    for peer in known {
        let addrs: Vec<String> = peer.addrs.iter().map(|known| known.addr.to_string()).collect();
        rows.push([
            peer.id.short().to_string(),
            Escaped(&peer.name).to_string(),
            peer.first_seen.to_string(),
            peer.last_seen.to_string(),
            if peer.left { "left".to_owned() } else { String::new() },
            addrs.join(" "),
        ]);
    }
    format_table(&rows)
}

#[cfg(test)]
mod tests {
    use p2p_gossip::UnixTime;
    use p2p_gossip::internals::sample;

    use super::*;

    fn peer(n: u8, name: &str, left: bool) -> KnownPeer {
        let mut peer = sample::known_peer(PeerId::from_bytes([n; 32]), "127.0.0.1:1".parse().unwrap());
        peer.name = name.to_owned();
        peer.first_seen = UnixTime(1_769_860_800);
        peer.last_seen = UnixTime(1_769_860_800 + u64::from(n));
        peer.left = left;
        peer.addrs[0].last_success = Some(UnixTime(0));
        peer
    }

    #[test]
    fn known_peers_are_listed_in_an_aligned_table() {
        let known = [peer(0xab, "bob\u{1b}", true), peer(1, "", false)];
        assert_eq!(
            table(&known),
            "\
ID          NAME       FIRST SEEN            LAST SEEN                   ADDRESSES
ababababab  bob\\u{1b}  2026-01-31T12:00:00Z  2026-01-31T12:02:51Z  left  127.0.0.1:1
0101010101             2026-01-31T12:00:00Z  2026-01-31T12:00:01Z        127.0.0.1:1
"
        );
        assert_eq!(table(&[]), "ID  NAME  FIRST SEEN  LAST SEEN  ADDRESSES\n");
    }

    #[test]
    fn known_peers_are_json_lines_latest_seen_first() {
        let lines = list(vec![peer(1, "", false), peer(2, "bob", true)], Output::Json).unwrap();
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
