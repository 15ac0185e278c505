//! The stable fields of `--output json`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use p2p_gossip::{Config, DialAddr, DownReason, Identity, Node, PeerId};
use serde_json::Value;

use crate::support::process::Spec;
use crate::support::{Cluster, localhost};

/// The fields of each event. Removing or renaming a field breaks programs that read it. A new field must be
/// added here.
const FIELDS: [(&str, &[&str]); 8] = [
    ("listening", &["time", "event", "id", "addr"]),
    ("up", &["time", "event", "peer", "name", "addr", "via", "members"]),
    ("down", &["time", "event", "peer", "name", "addr", "reason", "members"]),
    ("verdict", &["time", "event", "peer", "name", "addr", "verdict", "asked", "seen_by", "heard_ms"]),
    ("left", &["time", "event", "peer", "name", "addr", "members"]),
    ("ping", &["time", "event", "peer", "name", "addr", "via", "seq", "text", "rtt_ms"]),
    ("message", &["time", "event", "peer", "name", "addr", "text"]),
    ("stopped", &["time", "event"]),
];

#[test]
fn every_event_has_its_documented_fields() {
    let mut cluster = Cluster::new();
    let spec = |name| Spec::named(name).with_bind(localhost());
    let nodes = cluster.start_star(spec("a"), [spec("killed"), spec("leaver")]);
    cluster.wait_full_mesh(&nodes);
    // The first ping may arrive before a round trip was measured; the test needs pings with and without one.
    cluster.wait_pings(&nodes, 10, 0);
    broadcast_from_another_node("hello", cluster.addr(nodes[0]));
    cluster.wait_for("the message", &nodes[..1], |history| {
        history.records().iter().any(|record| record.json["text"] == "hello").then_some(())
    });
    let (killed, leaver) = (cluster.id(nodes[1]), cluster.id(nodes[2]));
    cluster.kill(nodes[1]);
    cluster.wait_down(&nodes[..1], killed, DownReason::Closed, 0);
    for member in [nodes[0], nodes[2]] {
        cluster.wait_for("the verdict", &[member], |history| {
            let mut records = history.records().iter().filter(|record| record.member == member);
            records.any(|record| record.json["event"] == "verdict").then_some(())
        });
    }
    cluster.terminate(nodes[2]);
    cluster.wait_left(&nodes[..1], leaver, 0);
    cluster.terminate(nodes[0]);

    cluster.check(&nodes, |history| {
        let mut missing: BTreeSet<&str> = FIELDS.iter().map(|(event, _)| *event).collect();
        for record in history.records() {
            let event = record.json["event"].as_str().expect("checked when it was parsed");
            missing.remove(event);
            if let Some(deviation) = deviation(event, &record.json) {
                return Some(format!("{deviation}: {}", record.json));
            }
        }
        (!missing.is_empty()).then(|| format!("never seen: {missing:?}"))
    });
}

/// Starts another node, which joins, broadcasts the text and leaves.
fn broadcast_from_another_node(text: &str, through: SocketAddr) {
    let bind = "127.0.0.1".parse().expect("an address");
    let config = Config::default().port(0).bind(bind).connect([through.into()]);
    let speaker = Node::start(config, Identity::generate().expect("a key")).expect("a node");
    assert!(speaker.wait_settled());
    assert!(speaker.broadcast(text).expect("a short message").reached() >= 1);
}

/// Describes the first deviation of an event from its documented fields.
fn deviation(event: &str, json: &Value) -> Option<String> {
    let Some((_, documented)) = FIELDS.iter().find(|(name, _)| *name == event) else {
        return Some("an undocumented event".to_owned());
    };
    let fields = json.as_object().expect("an object, since it has fields");
    let found: BTreeSet<&str> = fields.keys().map(String::as_str).collect();
    if found != documented.iter().copied().collect() {
        return Some(format!("fields other than {documented:?}"));
    }
    let wrong = fields.iter().find(|(field, value)| !has_documented_form(field, value));
    wrong.map(|(field, _)| format!("{field} does not have the documented form"))
}

fn has_documented_form(field: &str, value: &Value) -> bool {
    let text = value.as_str();
    match field {
        "time" => text.is_some_and(is_timestamp),
        "id" | "peer" => {
            text.is_some_and(|id| id.parse::<PeerId>().is_ok_and(|parsed| parsed.to_string() == id))
        }
        "via" => value.is_null() || has_documented_form("peer", value),
        "addr" => {
            text.is_some_and(|addr| addr.parse::<DialAddr>().is_ok() || addr.parse::<SocketAddr>().is_ok())
        }
        "members" | "seq" => value.as_u64().is_some_and(|n| n >= 1),
        "asked" | "seen_by" => value.is_u64(),
        "heard_ms" => value.is_null() || value.is_u64(),
        "rtt_ms" => value.is_null() || value.as_f64().is_some_and(|ms| ms >= 0.0),
        _ => text.is_some(),
    }
}

/// UTC with milliseconds: `2026-01-31T12:00:00.123Z`.
fn is_timestamp(text: &str) -> bool {
    let form = "dddd-dd-ddTdd:dd:dd.dddZ";
    let fits = |(c, f): (char, char)| if f == 'd' { c.is_ascii_digit() } else { c == f };
    text.len() == form.len() && text.chars().zip(form.chars()).all(fits)
}
