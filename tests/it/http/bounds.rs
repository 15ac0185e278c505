//! Tests of bad HTTP clients: they cost the mesh nothing and other clients little.

use std::io::{BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::client::{Events, connect, get, page_of, plain, request, wait_until, with_page};
use crate::support::history::History;
use crate::support::{Cluster, assert_mesh_stays_up};

#[test]
fn silent_and_slow_connections_do_not_block_other_clients() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("a"), [plain("b"), plain("c")]);
    cluster.wait_full_mesh(&nodes);
    let page = page_of(&cluster, nodes[0]);
    let mark = cluster.mark();
    let mut held: Vec<TcpStream> = Vec::new();
    for round in 0..200 {
        let mut socket = connect(page);
        if round % 2 == 1 {
            // The server may have closed the connection already, to make room.
            let _ = socket.write_all(b"GET /status HTTP/1.1\r\nHost: loc");
        }
        held.push(socket);
        if round % 10 == 9 {
            assert_eq!(get(page, "/status").code, 200);
        }
    }
    // The server closes the remaining connections at their request timeout, and told those that gave way.
    for mut socket in held {
        let mut answer = String::new();
        // It closes with or without an answer, or with a reset if the client wrote after the close.
        if socket.read_to_string(&mut answer).is_ok() {
            let is_told = ["HTTP/1.1 408 ", "HTTP/1.1 503 "].iter().any(|status| answer.starts_with(status));
            assert!(answer.is_empty() || is_told, "{answer}");
        }
    }
    cluster.check_steady(&nodes, mark);
    assert_mesh_stays_up(&cluster, &nodes);
}

#[test]
fn clients_that_stay_after_their_answer_keep_no_other_client_out() {
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    let ask = |path| {
        let mut socket = connect(page);
        socket.write_all(request("GET", path, "localhost", "").as_bytes()).unwrap();
        socket
    };
    let mut stayers: Vec<TcpStream> = (0..40).map(|_| ask("/status")).collect();
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..65 {
            scope.spawn(|| {
                let reply = get(page, "/page.js");
                assert!([200, 503].contains(&reply.code), "{reply:?}");
                assert_eq!(reply.field("content-length").unwrap(), reply.body.len().to_string());
                answered.fetch_add(usize::from(reply.code == 200), Ordering::Relaxed);
            });
        }
    });
    eprintln!("beside 40 that stay, {answered:?} of 65 were answered, the others got a 503");
    // Each of them has its answer as well, and sees the end although it has not closed the connection.
    for socket in &mut stayers {
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(
            ["HTTP/1.1 200 ", "HTTP/1.1 503 "].iter().any(|status| answer.starts_with(status)),
            "{answer}"
        );
    }
}

#[test]
fn client_beyond_the_limit_gets_a_503() {
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    let silent: Vec<TcpStream> = (0..32).map(|_| connect(page)).collect();
    let mut late = connect(page);
    // The oldest of them has been told that it gave way, and a request that it sends now does no harm.
    let mut oldest = &silent[0];
    let _ = late.write_all(request("GET", "/healthz", "localhost", "").as_bytes());
    let mut answer = String::new();
    late.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let _ = oldest.write_all(request("GET", "/healthz", "localhost", "").as_bytes());
    answer.clear();
    oldest.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[test]
fn event_reader_that_does_not_read_is_dropped() {
    let mut cluster = Cluster::new();
    let chatty = |name: &str| plain(name).with_period(0.01).with_log("info");
    let nodes = cluster.start_star(with_page("a"), [chatty("b"), chatty("c"), chatty("d")]);
    cluster.wait_full_mesh(&nodes);
    let page = page_of(&cluster, nodes[0]);
    let mark = cluster.mark();
    let mut slow = connect(page);
    slow.write_all(request("GET", "/events", "localhost", "").as_bytes()).unwrap();
    let mut prompt = Events::open(page, "/events", "").unwrap();
    let reader = std::thread::spawn(move || while prompt.next().is_some() {});
    // Its queue is full, or on a busy machine, where pings are fewer, a write to it takes too long first.
    let dropped = |history: &History| {
        let reasons = ["does not keep up", "cannot write an HTTP response"];
        reasons.map(|reason| history.log_count(nodes[0], reason)).iter().sum::<usize>()
    };
    cluster
        .wait_for("the drop of the slow reader", &nodes[..1], |history| (dropped(history) > 0).then_some(()));
    // The slow reader still gets the bytes sent before, then the end.
    let mut rest = Vec::new();
    let _ = BufReader::new(slow).read_to_end(&mut rest);
    assert!(String::from_utf8_lossy(&rest).contains("\"event\":\"ping\""));
    cluster.check_steady(&nodes, mark);
    cluster.check(&nodes[..1], |history| {
        let count = dropped(history);
        (count != 1).then(|| format!("{count} readers were dropped"))
    });
    // The prompt reader was served all the time.
    assert!(!reader.is_finished());
    cluster.terminate(nodes[0]);
    reader.join().unwrap();
}

#[test]
fn event_readers_leave_room_for_other_requests() {
    let mut cluster = Cluster::new();
    let node = cluster.start(with_page("a"));
    let page = page_of(&cluster, node);
    let mut readers: Vec<Events> = (0..8).map(|_| Events::open(page, "/events", "").unwrap()).collect();
    let refused = Events::open(page, "/events", "").err().unwrap();
    assert!(refused.contains(" 503 "), "{refused}");
    assert_eq!(get(page, "/metrics").code, 200);
    // One reader leaves; the server notices although no event happens.
    readers.pop();
    wait_until(page, "/healthz", |_| Events::open(page, "/events", "").is_ok());
}

#[test]
fn request_storm_costs_the_mesh_nothing() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(with_page("a"), [plain("b"), plain("c")]);
    cluster.wait_full_mesh(&nodes);
    let page = page_of(&cluster, nodes[0]);
    let mark = cluster.mark();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for path in ["/metrics", "/peers", "/status", "/"].iter().cycle().take(100) {
                    assert_eq!(get(page, path).code, 200);
                }
            });
        }
    });
    cluster.check_steady(&nodes, mark);
    cluster.wait_pings(&nodes, 3, cluster.mark());
    // A client that reads nothing of a large answer blocks no other client.
    let mut unread = connect(page);
    unread.write_all(request("GET", "/", "localhost", "").as_bytes()).unwrap();
    unread.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(get(page, "/healthz").code, 200);
}
