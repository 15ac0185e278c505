//! What a running node tells of itself through its control socket, as the verbs use it, and as tables.

use std::cmp::Ordering;
use std::time::Duration;

use p2p_gossip::Escaped;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::VerbError;
use crate::http::Client;
use crate::output::peer_table::two_units;
use crate::output::table::format_table;

/// Digits of an id that a table shows.
const SHORT_ID_DIGITS: usize = 10;
const TITLES: [&str; 9] = ["NAME", "ID", "STATE", "VERDICT", "SINCE", "RTT", "SILENCE", "ADDRESS", "VIA"];

/// The answer of `/status`.
#[derive(Debug, Deserialize)]
pub(super) struct NodeStatus {
    pub(super) node: NodeFacts,
    pub(super) members: usize,
    pub(super) joined: bool,
    pub(super) dials_in_flight: usize,
    /// The key of a closed network that may change while the node runs.
    pub(super) network_key: Option<KeyStatus>,
}

#[derive(Debug, Deserialize)]
pub(super) struct KeyStatus {
    pub(super) generation: u64,
    pub(super) holders: usize,
    pub(super) earlier_keys: usize,
    pub(super) grace_s: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct NodeFacts {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) addr: String,
    pub(super) program: String,
    pub(super) started: String,
    pub(super) timeout_s: f64,
}

/// The answer of `/peers`.
#[derive(Debug, Deserialize)]
pub(super) struct Peers {
    pub(super) peers: Vec<Peer>,
}

/// A peer. A node of another version may lack the fields with a default, or have more.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Peer {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) addr: String,
    pub(super) state: String,
    pub(super) since_s: f64,
    pub(super) rtt_ms: Option<f64>,
    pub(super) silence_s: Option<f64>,
    /// The member that carries the connection.
    #[serde(default)]
    pub(super) via: Option<String>,
    /// What other members say of the loss: a word, or an object with it.
    #[serde(default)]
    pub(super) verdict: serde_json::Value,
    #[serde(default)]
    pub(super) reached_by: Vec<String>,
}

/// The order of the peers in a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    #[default]
    State,
    Name,
    RoundTrip,
}

/// Asks the node, and parses its answer.
pub(super) fn ask<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, VerbError> {
    parse(&client.get(path)?)
}

pub(super) fn parse<T: DeserializeOwned>(answer: &str) -> Result<T, VerbError> {
    serde_json::from_str(answer).map_err(|_| VerbError::Answer)
}

/// The answer of `/peers` as one object a line. The objects stay as the node wrote them.
pub(super) fn peers_as_lines(answer: &str) -> Result<String, VerbError> {
    #[derive(Deserialize)]
    struct RawPeers<'a> {
        #[serde(borrow)]
        peers: Vec<&'a serde_json::value::RawValue>,
    }
    let raw: RawPeers<'_> = serde_json::from_str(answer).map_err(|_| VerbError::Answer)?;
    Ok(raw.peers.iter().map(|peer| format!("{peer}\n")).collect())
}

pub(super) fn short(id: &str) -> &str {
    id.get(..SHORT_ID_DIGITS).unwrap_or(id)
}

impl NodeStatus {
    /// The node and the number of its peers in each state, in one line.
    pub(super) fn line(&self, peers: &[Peer]) -> String {
        let node = &self.node;
        let name = if node.name.is_empty() { String::new() } else { format!("{} ", Escaped(&node.name)) };
        format!("{name}{} at {}: {}\n", short(&node.id), Escaped(&node.addr), count_states(peers))
    }
}

impl Peer {
    fn verdict(&self) -> &str {
        self.verdict.as_str().or_else(|| self.verdict["verdict"].as_str()).unwrap_or_default()
    }

    pub(super) fn order(&self, other: &Self, order: Order) -> Ordering {
        let by_state = || self.state_rank().cmp(&other.state_rank());
        let first = match order {
            Order::State => by_state(),
            Order::Name => self.name.cmp(&other.name),
            // A peer without a round-trip time comes last.
            Order::RoundTrip => {
                let rtt = |peer: &Self| peer.rtt_ms.unwrap_or(f64::INFINITY);
                rtt(self).total_cmp(&rtt(other))
            }
        };
        first.then_with(by_state).then_with(|| self.id.cmp(&other.id))
    }

    /// Peers that are up first, rumours last.
    fn state_rank(&self) -> usize {
        let states = ["up", "unstable", "dead", "left", "rumour"];
        states.iter().position(|state| *state == self.state).unwrap_or(states.len())
    }

    fn row(&self) -> [String; 9] {
        let or_dash = |shown: Option<String>| shown.unwrap_or_else(|| "-".to_owned());
        [
            if self.name.is_empty() { "-".to_owned() } else { Escaped(&self.name).to_string() },
            short(&self.id).to_owned(),
            Escaped(&self.state).to_string(),
            Escaped(self.verdict()).to_string(),
            seconds(self.since_s),
            or_dash(self.rtt_ms.map(|ms| format!("{ms:.2} ms"))),
            or_dash(self.silence_s.map(|seconds| format!("{seconds:.1} s"))),
            Escaped(&self.addr).to_string(),
            self.via.as_deref().map_or_else(String::new, |via| short(via).to_owned()),
        ]
    }
}

/// Seconds as two units.
pub(super) fn seconds(seconds: f64) -> String {
    two_units(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// `3 up, 1 dead`.
fn count_states(peers: &[Peer]) -> String {
    let mut states: Vec<(usize, &str, usize)> = Vec::new();
    for peer in peers {
        match states.iter_mut().find(|(_, state, _)| *state == peer.state) {
            Some((.., count)) => *count += 1,
            None => states.push((peer.state_rank(), &peer.state, 1)),
        }
    }
    states.sort_unstable();
    let counts: Vec<String> =
        states.into_iter().map(|(_, state, count)| format!("{count} {}", Escaped(state))).collect();
    if counts.is_empty() { "no other node".to_owned() } else { counts.join(", ") }
}

/// A table of the peers in this order.
pub(super) fn table(peers: &mut [Peer], order: Order) -> String {
    peers.sort_by(|a, b| a.order(b, order));
    let mut rows: Vec<[String; 9]> = peers.iter().map(Peer::row).collect();
    // A title alone would keep its column.
    let mut titles = TITLES.map(str::to_owned);
    for (column, title) in titles.iter_mut().enumerate() {
        if ["VERDICT", "VIA"].contains(&title.as_str()) && rows.iter().all(|row| row[column].is_empty()) {
            title.clear();
        }
    }
    rows.insert(0, titles);
    format_table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, name: &str, state: &str, rtt_ms: Option<f64>) -> Peer {
        Peer {
            id: id.repeat(32),
            name: name.to_owned(),
            addr: "127.0.0.1:1".to_owned(),
            state: state.to_owned(),
            since_s: 61.5,
            rtt_ms,
            silence_s: rtt_ms.map(|_| 0.26),
            ..Peer::default()
        }
    }

    #[test]
    fn table_shows_peers_that_are_up_first_and_only_columns_in_use() {
        let mut peers = [peer("aa", "db2", "dead", None), peer("bb", "a\u{1b}", "up", Some(0.414))];
        assert_eq!(
            table(&mut peers, Order::State),
            "\
NAME     ID          STATE  SINCE  RTT      SILENCE  ADDRESS
a\\u{1b}  bbbbbbbbbb  up     1m01s  0.41 ms  0.3 s    127.0.0.1:1
db2      aaaaaaaaaa  dead   1m01s  -        -        127.0.0.1:1
"
        );
        peers[1].verdict = serde_json::json!({"verdict": "link"});
        peers[0].via = Some("cc".repeat(32));
        let shown = table(&mut peers, Order::Name);
        assert!(
            shown.contains("VERDICT") && shown.contains("link") && shown.contains("cccccccccc"),
            "{shown}"
        );
        assert_eq!(count_states(&peers), "1 up, 1 dead");
    }

    #[test]
    fn peers_without_a_round_trip_time_come_last_in_that_order() {
        let mut peers =
            [peer("aa", "", "up", None), peer("bb", "", "up", Some(9.0)), peer("cc", "", "up", Some(1.0))];
        peers.sort_by(|a, b| a.order(b, Order::RoundTrip));
        assert_eq!(peers.map(|peer| peer.id[..2].to_owned()), ["cc", "bb", "aa"]);
    }
}
