//! `/metrics`: the node's figures in Prometheus's text format 0.0.4, which every scraper reads and a browser
//! shows (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::{self, Display, Write as _};

use p2p_gossip::{PeerState, Status, Verdict};

use super::node_info::NodeInfo;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All figures. No label has a value that a peer chooses, so that no value needs to be escaped and the number of
/// series is fixed.
pub(super) fn encode(info: &NodeInfo, status: &Status) -> Result<String, fmt::Error> {
    let mut metrics = Metrics(String::new());
    write_members(&mut metrics, status)?;
    write_traffic(&mut metrics, status)?;
    let queues = &status.queues;
    let lengths = [
        ("queue=\"inbox\"", queues.inbox),
        ("queue=\"events\"", queues.events),
        ("queue=\"outboxes\"", queues.outboxes),
        ("queue=\"outbox_longest\"", queues.outbox_longest),
    ];
    metrics.gauges("queue_length", "Entries in the node's bounded queues", &lengths)?;
    let started_s = info.started.duration_since(jiff::Timestamp::UNIX_EPOCH).as_secs_f64();
    metrics.gauge("start_time_seconds", "Start time of the node, since 1970", started_s)?;
    let version = concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"");
    metrics.gauges("build_info", "Version of the program", &[(version, 1)])?;
    Ok(metrics.0)
}

fn write_members(metrics: &mut Metrics, status: &Status) -> fmt::Result {
    let mesh = &status.mesh;
    metrics.gauge("members", "Live members of the mesh, this node included", mesh.members)?;
    let help = "1 if this node is connected to a peer, or has no address to join through";
    metrics.gauge("joined", help, u32::from(mesh.is_joined))?;
    let help = "1 if this node has lost more than half of its peers at once and has not joined them again";
    metrics.gauge("isolated", help, u32::from(mesh.is_isolated))?;
    let downs = Verdict::ALL.map(|verdict| {
        (format!("verdict=\"{verdict}\""), mesh.downs.get(&verdict).copied().unwrap_or_default())
    });
    metrics.counters("downs_total", "Lost peers by the first verdict of the members", &downs)?;
    let count = |state| mesh.peers.iter().filter(|peer| peer.state == state).count();
    let peers = PeerState::ALL.map(|state| (format!("state=\"{}\"", state.word()), count(state)));
    metrics.gauges("peers", "Known peers by state", &peers)?;
    let unreached = mesh.peers.iter().filter(|peer| !peer.reached_by.is_empty()).count();
    let help = "Peers that others are connected to and this node is not";
    metrics.gauge("peers_reached_by_others_only", help, unreached)?;

    let carried = mesh.peers.iter().filter(|peer| peer.via.is_some()).count();
    metrics.gauge("peers_via_carrier", "Peers that this node reaches through another one", carried)?;
    let help = "Circuits between other peers that this node carries";
    metrics.gauge("circuits_carried", help, mesh.circuits_carried)?;

    metrics.family("rtt_seconds", "histogram", "Round-trip times of heartbeats to all peers")?;
    let mut count = 0;
    for (bound, in_bucket) in mesh.rtt.buckets() {
        count += in_bucket;
        let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.as_secs_f64().to_string());
        metrics.sample("rtt_seconds_bucket", &format!("le=\"{bound}\""), count)?;
    }
    metrics.sample("rtt_seconds_sum", "", mesh.rtt.sum().as_secs_f64())?;
    metrics.sample("rtt_seconds_count", "", mesh.rtt.count())
}

fn write_traffic(metrics: &mut Metrics, status: &Status) -> fmt::Result {
    let totals = &status.totals;
    let handshakes = [
        ("direction=\"dialled\",result=\"completed\"", totals.handshakes_dialled_completed),
        ("direction=\"dialled\",result=\"failed\"", totals.handshakes_dialled_failed),
        ("direction=\"accepted\",result=\"completed\"", totals.handshakes_accepted_completed),
        ("direction=\"accepted\",result=\"failed\"", totals.handshakes_accepted_failed),
    ];
    metrics.counters("handshakes_total", "Handshakes by direction and result", &handshakes)?;
    let help = "Accepted connections, also those whose handshake failed";
    metrics.counter("connections_accepted_total", help, totals.connections_accepted)?;
    metrics.counter("dials_total", "Started dials", totals.dials)?;
    metrics.gauge("dials_in_flight", "Dials under way", status.mesh.dials_in_flight)?;
    let both = |received, sent| [("direction=\"received\"", received), ("direction=\"sent\"", sent)];
    let frames = both(totals.frames_received, totals.frames_sent);
    metrics.counters("frames_total", "Frames on sessions that were up", &frames)?;
    let bytes = both(totals.bytes_received, totals.bytes_sent);
    metrics.counters("network_bytes_total", "Bytes to and from peers, TLS included", &bytes)?;
    let help = "Peers disconnected because they did not read";
    metrics.counter("peers_too_slow_total", help, totals.peers_too_slow)?;
    let help = "Broadcast messages dropped because a peer was too slow";
    metrics.counter("messages_missed_total", help, totals.messages_missed)
}

/// The text so far. Names are without the prefix `p2p_gossip_`; labels are as they are written.
struct Metrics(String);

impl Metrics {
    fn family(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        writeln!(self.0, "# HELP p2p_gossip_{name} {help}\n# TYPE p2p_gossip_{name} {kind}")
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) -> fmt::Result {
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        writeln!(self.0, "p2p_gossip_{name}{open}{labels}{close} {value}")
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) -> fmt::Result {
        self.gauges(name, help, &[("", value)])
    }

    fn gauges(&mut self, name: &str, help: &str, values: &[(impl AsRef<str>, impl Display)]) -> fmt::Result {
        self.family(name, "gauge", help)?;
        values.iter().try_for_each(|(labels, value)| self.sample(name, labels.as_ref(), value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, &[("", value)])
    }

    fn counters(&mut self, name: &str, help: &str, values: &[(impl AsRef<str>, u64)]) -> fmt::Result {
        self.family(name, "counter", help)?;
        values.iter().try_for_each(|(labels, value)| self.sample(name, labels.as_ref(), value))
    }
}
