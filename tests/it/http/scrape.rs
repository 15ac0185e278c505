//! Tests of `/metrics`, some with Prometheus's own tools. Those need Debian's package prometheus.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use super::client::{get, get_with, page_of, plain, send, wait_until, with_page};
use crate::support::executable::RunToEnd as _;
use crate::support::skip::has;
use crate::support::{Cluster, DEADLINE, unique_addr};

#[test]
fn metrics_are_consistent() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("a"), [plain("b")]);
    cluster.wait_full_mesh(&nodes);
    let page = page_of(&cluster, nodes[0]);
    wait_until(page, "/metrics", |reply| !reply.body.contains("p2p_gossip_rtt_seconds_count 0"));
    // A scraper that prefers another format gets the only one.
    let reply = get_with(page, "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n");
    assert_eq!(reply.field("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));

    let mut families: Vec<&str> = Vec::new();
    let mut bucket = 0_u64;
    for line in reply.body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(!families.contains(&name), "{name} twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            families.push(name);
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(name.starts_with(families.last().unwrap()), "{line} is in the wrong family");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            if name == "p2p_gossip_rtt_seconds_bucket" {
                let value = value.parse().unwrap();
                assert!(value >= bucket, "{line}: fewer than in the bucket before");
                bucket = value;
            }
        }
    }
    let count = format!("p2p_gossip_rtt_seconds_count {bucket}");
    assert!(bucket > 0 && reply.body.lines().any(|line| line == count), "{}", reply.body);
    let last_bucket = format!("p2p_gossip_rtt_seconds_bucket{{le=\"+Inf\"}} {bucket}");
    for line in
        ["p2p_gossip_members 2", "p2p_gossip_joined 1", "p2p_gossip_peers{state=\"up\"} 1", &last_bucket]
    {
        assert!(reply.body.lines().any(|found| found == line), "{line} is missing:\n{}", reply.body);
    }
}

#[test]
fn promtool_accepts_the_metrics() {
    if !has("promtool", "Debian: prometheus") {
        return;
    }
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("a"), [plain("b")]);
    cluster.wait_full_mesh(&nodes);
    let metrics = get(page_of(&cluster, nodes[0]), "/metrics").body;
    let output = Command::new("promtool").args(["check", "metrics"]).run_to_end_on(metrics.as_bytes());
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && text.is_empty(), "{text}");
}

/// The text of a file of the repository.
fn file(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The shipped alert rules.
fn alert_rules() -> String {
    file("src/dist/alerts.yml")
}

/// The queries of the shipped dashboard, with values for Grafana's variables.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&file("src/dist/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries: Vec<String> = targets
        .map(|target| target["expr"].as_str().unwrap())
        .map(|query| query.replace("$instance", ".*").replace("$__rate_interval", "10s"))
        .collect();
    assert!(!queries.is_empty() && queries.iter().all(|query| !query.contains('$')), "{queries:?}");
    queries
}

/// The scrape configuration in the guide.
fn scrape_config() -> String {
    let page = file("src/guide/operations.md");
    let mut blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let config = blocks.next().expect("the guide shows a configuration").to_owned();
    assert!(blocks.next().is_none(), "the guide shows YAML that no test looks at");
    config
}

#[test]
fn promtool_accepts_the_alert_rules_and_the_guides_configuration() {
    if !has("promtool", "Debian: prometheus") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (kind, text) in [("config", scrape_config()), ("rules", alert_rules())] {
        let file = dir.path().join("p2p-gossip.yml");
        fs::write(&file, text).unwrap();
        let mut promtool = Command::new("promtool");
        // The rule files that the configuration names do not exist here.
        let flags: &[&str] = if kind == "config" { &["--syntax-only"] } else { &[] };
        let output = promtool.args(["check", kind]).args(flags).arg(&file).stdin(Stdio::null()).run_to_end();
        assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A Prometheus that scrapes one page every second. Killed when dropped.
struct Prometheus {
    process: Child,
    addr: SocketAddr,
    /// Its configuration and data. Removed after the process has ended.
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn start(page: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rules = dir.path().join("rules.yml");
        // Without its delays the alert fires within seconds.
        fs::write(&rules, alert_rules().replace("for: 1m", "for: 0s").replace("for: 5m", "for: 0s")).unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{ job_name: p2p-gossip, static_configs: [{{ targets: ['{page}'] }}] }}]\n",
            rules.display()
        );
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let addr = unique_addr();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={addr}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, addr, _dir: dir }
    }

    /// Repeats the request until `is_awaited` accepts the JSON of the answer; panics at `DEADLINE`.
    #[track_caller]
    fn wait_for(&self, awaited: &str, path: &str, is_awaited: impl Fn(&Value) -> bool) {
        let addr = self.addr;
        let deadline = Instant::now() + DEADLINE;
        loop {
            let head = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
            // Prometheus does not listen at once.
            let is_there = TcpStream::connect(addr).is_ok();
            let body = if is_there { send(addr, head.as_bytes()).body } else { String::new() };
            // A chunked answer has sizes around the JSON.
            let json = body.find('{').zip(body.rfind('}')).map(|(from, to)| &body[from..=to]);
            let json = json.and_then(|json| serde_json::from_str::<Value>(json).ok());
            if json.as_ref().is_some_and(&is_awaited) {
                return;
            }
            assert!(Instant::now() < deadline, "waited for {awaited}; the last answer: {body}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn prometheus_scrapes_a_node_and_the_shipped_alert_fires() {
    if !has("prometheus", "Debian: prometheus") {
        return;
    }
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("a"), [plain("b"), plain("c")]);
    cluster.wait_full_mesh(&nodes);
    let prometheus = Prometheus::start(page_of(&cluster, nodes[0]));

    let value = |json: &Value| json["data"]["result"][0]["value"][1].clone();
    prometheus.wait_for("members", "/api/v1/query?query=p2p_gossip_members", |json| value(json) == "3");
    prometheus.wait_for("the target", "/api/v1/query?query=up", |json| value(json) == "1");
    prometheus.wait_for("round trips", "/api/v1/query?query=p2p_gossip_rtt_seconds_count", |json| {
        value(json).as_str().is_some_and(|count| count != "0")
    });
    prometheus.wait_for("the kind", "/api/v1/targets/metadata?metric=p2p_gossip_rtt_seconds", |json| {
        json["data"][0]["type"] == "histogram"
    });
    cluster.kill(nodes[2]);
    for query in dashboard_queries() {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        prometheus.wait_for(&query, &format!("/api/v1/query?query={encoded}"), |json| {
            assert_ne!(json["status"], "error", "{query}: {json}");
            json["data"]["result"].as_array().is_some_and(|found| !found.is_empty())
        });
    }
    prometheus.wait_for("the alert", "/api/v1/alerts", |json| {
        let alerts = json["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts
            .iter()
            .any(|alert| alert["state"] == "firing" && alert["labels"]["alertname"] == "P2pGossipPeerDead")
    });
}
