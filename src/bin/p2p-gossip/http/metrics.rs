//! `/metrics`: the node's figures as OpenMetrics or in Prometheus's older text format.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use p2p_gossip::{PeerState, Status};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::node_info::NodeInfo;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The two text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    OpenMetrics,
    /// Prometheus's text format 0.0.4, which browsers show and all scrapers accept.
    Plain,
}

impl Format {
    /// Chooses OpenMetrics if the `Accept` field names it and does not prefer plain text (RFC 9110 section 12.5.1).
    pub(super) fn accepted(accept: &str) -> Self {
        let quality = |wanted: &str| {
            let quality_of = |range: &str| {
                let mut parts = range.split(';').map(str::trim);
                let is_wanted = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
                let q = parts.find_map(|part| part.strip_prefix("q=")).map_or(Some(1.0), |q| q.parse().ok());
                q.filter(|q: &f64| is_wanted && *q > 0.0)
            };
            accept.split(',').filter_map(quality_of).fold(0.0, f64::max)
        };
        let openmetrics = quality("application/openmetrics-text");
        if openmetrics > 0.0 && openmetrics >= quality("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Plain
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => OPENMETRICS,
            Self::Plain => prometheus_text::CONTENT_TYPE,
        }
    }
}

pub(super) fn encode(format: Format, info: &NodeInfo, status: Arc<Status>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("p2p_gossip");
    let started_s = info.started.duration_since(jiff::Timestamp::UNIX_EPOCH).as_secs_f64();
    registry.register_collector(Box::new(Scrape { status, started_s }));
    let mut out = String::new();
    match format {
        Format::OpenMetrics => text::encode(&mut out, &registry)?,
        Format::Plain => prometheus_text::encode(&mut out, &registry)?,
    }
    Ok(out)
}

/// The figures of one scrape.
#[derive(Debug)]
struct Scrape {
    status: Arc<Status>,
    started_s: f64,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut encoder = Encoder(encoder);
        self.members(&mut encoder)?;
        self.traffic(&mut encoder)?;
        self.process(&mut encoder)
    }
}

impl Scrape {
    fn members(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let mesh = &self.status.mesh;
        encoder.gauge("members", "Live members of the mesh, this node included", None, &mesh.members)?;
        let help = "1 if this node is connected to a peer, or has no address to join through";
        encoder.gauge("joined", help, None, &u32::from(mesh.is_joined))?;
        let count = |state| mesh.peers.iter().filter(|peer| peer.state == state).count();
        let peers = PeerState::ALL.map(|state| ([("state", state.word())], count(state)));
        encoder.gauges("peers", "Known peers by state", &peers)?;
        let unreached = mesh.peers.iter().filter(|peer| !peer.reached_by.is_empty()).count();
        let help = "Peers that others are connected to and this node is not";
        encoder.gauge("peers_reached_by_others_only", help, None, &unreached)?;

        let mut metric = encoder.0.encode_descriptor(
            "rtt",
            "Round-trip times of heartbeats to all peers",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let seconds = |bound: Option<Duration>| bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64());
        let buckets = mesh.rtt.buckets().map(|(bound, count)| (seconds(bound), count)).collect::<Vec<_>>();
        let sum = mesh.rtt.sum().as_secs_f64();
        metric.encode_histogram::<NoLabelSet>(sum, mesh.rtt.count(), &buckets, None)
    }

    fn traffic(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let totals = &self.status.totals;
        let handshakes = [
            ([("direction", "dialled"), ("result", "completed")], totals.handshakes_dialled_completed),
            ([("direction", "dialled"), ("result", "failed")], totals.handshakes_dialled_failed),
            ([("direction", "accepted"), ("result", "completed")], totals.handshakes_accepted_completed),
            ([("direction", "accepted"), ("result", "failed")], totals.handshakes_accepted_failed),
        ];
        encoder.counters("handshakes", "Handshakes by direction and result", None, &handshakes)?;
        encoder.counter(
            "connections_accepted",
            "Accepted connections, also those whose handshake failed",
            totals.connections_accepted,
        )?;
        encoder.counter("dials", "Started dials", totals.dials)?;
        encoder.gauge("dials_in_flight", "Dials under way", None, &self.status.mesh.dials_in_flight)?;
        let both =
            |received, sent| [([("direction", "received")], received), ([("direction", "sent")], sent)];
        let frames = both(totals.frames_received, totals.frames_sent);
        encoder.counters("frames", "Frames on sessions that were up", None, &frames)?;
        let bytes = both(totals.bytes_received, totals.bytes_sent);
        encoder.counters("network", "Bytes to and from peers, TLS included", Some(&Unit::Bytes), &bytes)?;
        encoder.counter(
            "peers_too_slow",
            "Peers disconnected because they did not read",
            totals.peers_too_slow,
        )?;
        encoder.counter(
            "messages_missed",
            "Broadcast messages dropped because a peer was too slow",
            totals.messages_missed,
        )
    }

    fn process(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let queues = &self.status.queues;
        let lengths = [
            ([("queue", "inbox")], queues.inbox),
            ([("queue", "events")], queues.events),
            ([("queue", "outboxes")], queues.outboxes),
            ([("queue", "outbox_longest")], queues.outbox_longest),
        ];
        encoder.gauges("queue_length", "Entries in the node's bounded queues", &lengths)?;
        encoder.gauge(
            "start_time",
            "Start time of the node, since 1970",
            Some(&Unit::Seconds),
            &self.started_s,
        )?;
        let mut metric =
            encoder.0.encode_descriptor("build", "Version of the program", None, MetricType::Info)?;
        metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
    }
}

/// Writes the kinds of metric that this file uses.
struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: &impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(value)
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: &[([(&str, &str); N], impl EncodeGaugeValue)],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.iter().try_for_each(|(labels, value)| metric.encode_family(labels)?.encode_gauge(value))
    }

    fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter(&value, None::<&Exemplar<NoLabelSet, f64>>)
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: &[([(&str, &str); N], u64)],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        values.iter().try_for_each(|(labels, value)| {
            metric.encode_family(labels)?.encode_counter(value, None::<&Exemplar<NoLabelSet, f64>>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_chosen_only_if_accepted_and_not_less_preferred() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("application/OpenMetrics-text"), Format::OpenMetrics);
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let plain_first = "text/plain, application/openmetrics-text;q=0.5";
        for accept in
            ["", "*/*", browser, plain_first, "application/openmetrics-text;q=0", "text/plain", ";q=,,;"]
        {
            assert_eq!(Format::accepted(accept), Format::Plain, "{accept}");
        }
    }
}
