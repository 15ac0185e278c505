//! Tests of the answer of each path, and of refused requests.

use std::collections::BTreeSet;

use serde_json::Value;

use super::client::{get, get_with, page_of, plain, request, send, wait_until, with_page};
use crate::support::{Cluster, unique_addr};

/// The parts of the page, which the list of paths does not name.
const PAGE_PARTS: [(&str, &str); 2] =
    [("/page.css", "text/css; charset=utf-8"), ("/page.js", "text/javascript; charset=utf-8")];

const PATHS: [(&str, &str); 6] = [
    ("/", "text/html; charset=utf-8"),
    ("/status", "application/json"),
    ("/peers", "application/json"),
    ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ("/healthz", "text/plain; charset=utf-8"),
    ("/readyz", "text/plain; charset=utf-8"),
];

#[test]
fn every_path_answers_with_headers_that_keep_other_sites_out() {
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    for (path, content_type) in PATHS.into_iter().chain(PAGE_PARTS) {
        let reply = get(page, path);
        assert_eq!((reply.code, reply.field("content-type")), (200, Some(content_type)), "{path}");
        assert_eq!(reply.field("content-length").unwrap(), reply.body.len().to_string(), "{path}");
        assert_eq!(reply.field("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.field("referrer-policy"), Some("no-referrer"));
        assert_eq!(reply.field("cache-control"), Some("no-store"));
        assert_eq!(reply.field("access-control-allow-origin"), None);
        let policy = reply.field("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; ") && policy.ends_with("frame-ancestors 'none'"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");

        let head = send(page, request("HEAD", path, "localhost", "").as_bytes());
        assert_eq!((head.code, head.body.as_str()), (200, ""), "{path}");
        assert_eq!(head.field("content-type"), Some(content_type));
    }
    let head = send(page, request("HEAD", "/events", "localhost", "").as_bytes());
    assert_eq!((head.code, head.field("content-type")), (200, Some("text/event-stream")));

    let reply = get(page, "/nothing");
    assert_eq!(reply.code, 404);
    for path in PATHS.iter().map(|(path, _)| *path).chain(["/events"]) {
        assert!(
            reply.body.lines().any(|line| line.starts_with(&format!("{path} "))),
            "{path}: {}",
            reply.body
        );
    }
    assert_eq!(get(page, "/../status").code, 404);
}

#[test]
fn slash_after_a_path_redirects() {
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    for (path, place) in [
        ("/metrics/", "../metrics"),
        ("/healthz/", "../healthz"),
        ("/events/?recent=20&x", "../events?recent=20&x"),
    ] {
        let reply = get(page, path);
        assert_eq!((reply.code, reply.field("location")), (308, Some(place)), "{path}: {reply:?}");
    }
    for path in ["//", "/nothing/", "/metrics//", "/200/", "/the/"] {
        assert_eq!(get(page, path).code, 404, "{path}");
    }
}

#[test]
fn malformed_requests_are_refused() {
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    let expect = |bytes: &[u8], code| {
        let reply = send(page, bytes);
        assert_eq!(
            reply.code,
            code,
            "{:?}: {reply:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(60)])
        );
        reply
    };
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        let reply = expect(request(method, "/status", "localhost", "Content-Length: 3\r\n").as_bytes(), 405);
        assert_eq!(reply.field("allow"), Some("GET, HEAD"));
    }
    expect(b"GET / HTTP/1.1\r\n\r\n", 400);
    expect(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400);
    expect(b"GET status HTTP/1.1\r\nHost: localhost\r\n\r\n", 400);
    // The first bytes of a TLS client and of an HTTP/2 client.
    expect(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n\n\n", 400);
    expect(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    let long = "x".repeat(33_000);
    expect(request("GET", &format!("/{long}"), "localhost", "").as_bytes(), 431);
    expect(request("GET", "/", "localhost", &format!("X: {long}\r\n")).as_bytes(), 431);
    expect(request("GET", "/", "localhost", &"X: y\r\n".repeat(200)).as_bytes(), 431);
    // The server does not read a body and answers all the same.
    let body = request("GET", "/healthz", "localhost", "Content-Length: 50000\r\n") + &long;
    expect(body.as_bytes(), 200);
    expect(b"GET /healthz HTTP/1.0\r\n\r\n", 200);
    // Cookies that other programs have set for the same host.
    let cookies = format!("Cookie: a={}\r\n", "x".repeat(31_000));
    expect(request("GET", "/", "localhost", &cookies).as_bytes(), 200);
}

#[test]
fn loopback_page_refuses_foreign_host_names() {
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    let port = page.port();
    for path in PATHS.iter().map(|(path, _)| *path).chain(["/events", "/nothing"]) {
        for host in ["evil.example", &format!("evil.example:{port}"), "192.0.2.1", "localhost.evil.example"] {
            let reply = send(page, request("GET", path, host, "").as_bytes());
            assert_eq!(reply.code, 421, "{path} as {host}");
            assert!(!reply.body.contains(&cluster.id(node).to_string()));
        }
    }
    for host in [
        "localhost",
        &format!("LOCALHOST:{port}"),
        "mesh.localhost",
        "127.0.0.1",
        "127.9.9.9:1",
        "[::1]:9090",
    ] {
        assert_eq!(send(page, request("GET", "/status", host, "").as_bytes()).code, 200, "{host}");
    }
    let whole = format!("GET http://evil.example/status HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    assert_eq!(send(page, whole.as_bytes()).code, 421);
}

/// The names of a JSON object's fields.
fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Removing or renaming a field breaks readers. A new field belongs in these lists.
#[test]
fn status_and_peers_have_the_documented_fields() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("a\u{e9} <b>"), [plain("b"), plain("c")]);
    cluster.wait_full_mesh(&nodes);
    let page = page_of(&cluster, nodes[0]);
    let peers = wait_until(page, "/peers", |reply| {
        let peers = &reply.json()["peers"];
        peers.as_array().unwrap().iter().all(|peer| peer["rtt_ms"].is_number())
    });
    let (status, peers) = (get(page, "/status").json(), peers.json());

    let documented = [
        "version",
        "time",
        "node",
        "members",
        "joined",
        "isolated",
        "peers",
        "dials_in_flight",
        "circuits_carried",
        "network_key",
        "totals",
        "queues",
    ];
    assert_eq!(fields(&status), documented.into());
    let documented = ["id", "name", "addr", "program", "started", "period_s", "heartbeat_s", "timeout_s"];
    assert_eq!(fields(&status["node"]), documented.into());
    assert_eq!(status["node"]["id"], cluster.id(nodes[0]).to_string());
    assert_eq!(status["node"]["name"], "a\u{e9} <b>");
    assert_eq!(status["node"]["addr"], cluster.addr(nodes[0]).to_string());
    assert_eq!(
        (&status["version"], &status["members"], &status["joined"]),
        (&1.into(), &3.into(), &true.into())
    );
    assert_eq!(
        status["peers"],
        serde_json::json!({ "up": 2, "unstable": 0, "dead": 0, "left": 0, "rumour": 0 })
    );
    assert!(status["totals"]["handshakes_accepted_completed"].as_u64().unwrap() >= 2);
    assert_eq!(fields(&status["queues"]), ["inbox", "events", "outboxes", "outbox_longest"].into());

    assert_eq!(fields(&peers), ["version", "time", "peers"].into());
    let list = peers["peers"].as_array().unwrap();
    let ids: BTreeSet<&str> = list.iter().map(|peer| peer["id"].as_str().unwrap()).collect();
    let wanted = [cluster.id(nodes[1]).to_string(), cluster.id(nodes[2]).to_string()];
    assert_eq!(ids, wanted.iter().map(String::as_str).collect());
    let documented = [
        "id",
        "name",
        "addr",
        "addrs",
        "state",
        "since_s",
        "rtt_ms",
        "rtt_min_ms",
        "rtt_mean_ms",
        "pings_received",
        "pings_sent",
        "reconnects",
        "silence_s",
        "via",
        "reached_by",
        "verdict",
    ];
    for peer in list {
        assert_eq!(fields(peer), documented.into());
        assert_eq!((&peer["state"], &peer["reached_by"]), (&"up".into(), &serde_json::json!([])));
        let (least, mean) = (peer["rtt_min_ms"].as_f64().unwrap(), peer["rtt_mean_ms"].as_f64().unwrap());
        assert!(least > 0.0 && least <= mean, "{peer}");
    }
}

#[test]
fn left_and_dead_peers_are_told_apart() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("a"), [plain("killed"), plain("leaver")]);
    cluster.wait_full_mesh(&nodes);
    let page = page_of(&cluster, nodes[0]);
    cluster.kill(nodes[1]);
    cluster.terminate(nodes[2]);
    let reply = wait_until(page, "/peers", |reply| {
        let peers = reply.json();
        let state = |name: &str| {
            let mut list = peers["peers"].as_array().unwrap().iter();
            list.find(|peer| peer["name"] == name).map(|peer| peer["state"].clone())
        };
        (state("killed"), state("leaver")) == (Some("dead".into()), Some("left".into()))
    });
    for peer in reply.json()["peers"].as_array().unwrap() {
        assert_eq!((&peer["rtt_ms"], &peer["silence_s"]), (&Value::Null, &Value::Null), "{peer}");
    }
    let metrics = get_with(page, "/metrics", "").body;
    for line in [
        r#"peers{state="up"} 0"#,
        r#"peers{state="dead"} 1"#,
        r#"peers{state="left"} 1"#,
        "isolated 0",
        r#"downs_total{verdict="link"} 0"#,
    ] {
        assert!(metrics.lines().any(|found| found == format!("p2p_gossip_{line}")), "{line}:\n{metrics}");
    }
}

#[test]
fn node_is_ready_when_it_has_joined() {
    let mut cluster = Cluster::new();
    let bootstrap = unique_addr();
    let node = cluster.start(with_page("a").with_connect(bootstrap));
    let page = page_of(&cluster, node);
    assert_eq!((get(page, "/healthz").code, get(page, "/readyz").code), (200, 503));
    assert_eq!(get(page, "/status").json()["joined"], false);
    cluster.start(plain("b").with_bind(bootstrap));
    wait_until(page, "/readyz", |reply| reply.code == 200);
    assert_eq!(get(page, "/status").json()["joined"], true);
}
