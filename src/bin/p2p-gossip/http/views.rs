//! The JSON of `/status` and `/peers`. Fields may be added within a version; removing one, or changing its
//! meaning, requires a new version.

use std::time::Duration;

use jiff::Timestamp;
use p2p_gossip::{DialAddr, PeerId, PeerInfo, PeerState, Queues, Status, Totals, Verdict};
use serde::{Serialize, Serializer};

use super::node_info::NodeInfo;
use crate::output::event_json::{Time, escape};

const VERSION: u32 = 1;

#[derive(Serialize)]
struct StatusView<'a> {
    version: u32,
    time: String,
    node: NodeView<'a>,
    members: usize,
    joined: bool,
    isolated: bool,
    peers: StateCounts,
    dials_in_flight: usize,
    circuits_carried: usize,
    network_key: Option<NetworkKeyView>,
    totals: Totals,
    queues: Queues,
}

/// The key of a closed network that may change while the node runs.
#[derive(Serialize)]
struct NetworkKeyView {
    generation: u64,
    holders: usize,
    earlier_keys: usize,
    grace_s: u64,
}

#[derive(Serialize)]
struct NodeView<'a> {
    id: PeerId,
    name: &'a str,
    addr: String,
    program: &'static str,
    started: String,
    period_s: f64,
    heartbeat_s: f64,
    timeout_s: f64,
}

/// The number of peers in each state.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct StateCounts {
    pub(super) up: usize,
    pub(super) unstable: usize,
    pub(super) dead: usize,
    pub(super) left: usize,
    pub(super) rumour: usize,
}

impl StateCounts {
    pub(super) fn count(peers: &[PeerInfo]) -> Self {
        let count = |state| peers.iter().filter(|peer| peer.state == state).count();
        Self {
            up: count(PeerState::Up),
            unstable: count(PeerState::Unstable),
            dead: count(PeerState::Dead),
            left: count(PeerState::Left),
            rumour: count(PeerState::Rumour),
        }
    }
}

#[derive(Serialize)]
struct PeersView<'a> {
    version: u32,
    time: String,
    peers: Vec<PeerView<'a>>,
}

/// A peer, in `/peers` and in `/why`.
#[derive(Serialize)]
pub(super) struct PeerView<'a> {
    id: PeerId,
    name: &'a str,
    addr: &'a DialAddr,
    addrs: &'a [DialAddr],
    state: &'static str,
    since_s: f64,
    #[serde(serialize_with = "milliseconds")]
    rtt_ms: Option<Duration>,
    #[serde(serialize_with = "milliseconds")]
    rtt_min_ms: Option<Duration>,
    #[serde(serialize_with = "milliseconds")]
    rtt_mean_ms: Option<Duration>,
    pings_received: u64,
    pings_sent: u64,
    reconnects: u64,
    silence_s: Option<f64>,
    via: Option<PeerId>,
    reached_by: &'a [PeerId],
    verdict: Option<VerdictView>,
}

/// What the other members said of the loss of a peer.
#[derive(Serialize)]
struct VerdictView {
    verdict: Verdict,
    asked: usize,
    seen_by: usize,
    #[serde(serialize_with = "milliseconds")]
    heard_ms: Option<Duration>,
}

impl<'a> From<&'a PeerInfo> for PeerView<'a> {
    fn from(peer: &'a PeerInfo) -> Self {
        Self {
            id: peer.id,
            name: &peer.name,
            addr: &peer.addr,
            addrs: &peer.addrs,
            state: peer.state.word(),
            since_s: seconds(peer.since),
            rtt_ms: peer.rtt,
            rtt_min_ms: peer.rtt_min,
            rtt_mean_ms: peer.rtt_mean,
            pings_received: peer.pings_received,
            pings_sent: peer.pings_sent,
            reconnects: peer.reconnects,
            silence_s: peer.silence.map(seconds),
            via: peer.via,
            reached_by: &peer.reached_by,
            verdict: peer.verdict.map(|said| VerdictView {
                verdict: said.verdict,
                asked: said.asked,
                seen_by: said.seen_by,
                heard_ms: said.heard,
            }),
        }
    }
}

/// Seconds, rounded to a millisecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

/// Milliseconds, rounded to a microsecond.
fn milliseconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3).serialize(serializer)
}

/// The JSON of `/status`.
pub(super) fn status(info: &NodeInfo, status: &Status, now: Timestamp) -> Result<String, serde_json::Error> {
    let view = StatusView {
        version: VERSION,
        time: Time(now).to_string(),
        node: NodeView {
            id: info.id,
            name: &info.name,
            addr: info.addr.to_string(),
            program: concat!("p2p-gossip ", env!("CARGO_PKG_VERSION")),
            started: Time(info.started).to_string(),
            period_s: seconds(info.period),
            heartbeat_s: seconds(info.heartbeat),
            timeout_s: seconds(info.timeout),
        },
        members: status.mesh.members,
        joined: status.mesh.is_joined,
        isolated: status.mesh.is_isolated,
        peers: StateCounts::count(&status.mesh.peers),
        dials_in_flight: status.mesh.dials_in_flight,
        circuits_carried: status.mesh.circuits_carried,
        network_key: status.mesh.network_key.map(|key| NetworkKeyView {
            generation: key.generation,
            holders: key.holders,
            earlier_keys: key.earlier_keys,
            grace_s: key.grace_left.as_secs(),
        }),
        totals: status.totals,
        queues: status.queues,
    };
    serde_json::to_string(&view).map(|json| line(&json))
}

/// The JSON of `/peers`.
pub(super) fn peers(status: &Status, now: Timestamp) -> Result<String, serde_json::Error> {
    let peers = status.mesh.peers.iter().map(PeerView::from).collect();
    serde_json::to_string(&PeersView { version: VERSION, time: Time(now).to_string(), peers })
        .map(|json| line(&json))
}

/// Escapes unsafe characters and ends the line.
pub(super) fn line(json: &str) -> String {
    let mut line = String::with_capacity(json.len() + 1);
    escape(&mut line, json);
    line.push('\n');
    line
}
