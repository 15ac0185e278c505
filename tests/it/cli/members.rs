//! Tests of the table of members that a node logs on SIGUSR1.

use rustix::process::Signal;

use super::program::{Node, addr_of};

#[test]
fn sigusr1_logs_known_peers_and_the_node_runs_on() {
    let first = Node::start(&["--period", "0.05"]);
    let addr = addr_of(&first.event("listening"));
    first.signal(Signal::USR1);
    let alone = first.log_line(" sees ");
    assert!(!alone.contains(" up") && !alone.contains(" dead"), "{alone}");

    let named = Node::start(&["--connect", &addr, "--name", "bob", "--period", "0.05"]);
    let lost = Node::start(&["--connect", &addr, "--period", "0.05"]);
    first.event("up");
    first.event("up");
    let lost_id = lost.event("listening")["id"].as_str().unwrap()[..10].to_owned();
    lost.signal(Signal::KILL);
    assert_eq!(first.event("down")["reason"], "closed");
    // From this ping on the node has a round-trip time to show.
    while first.event("ping")["rtt_ms"].is_null() {}

    first.signal(Signal::USR1);
    let summary = first.log_line(" sees ");
    assert!(summary.contains("1 up") && summary.contains("1 dead"), "{summary}");
    let titles = first.log_line("");
    let rows = [first.log_line(""), first.log_line("")];
    let column = |title: &str| titles.find(title).unwrap_or_else(|| panic!("no {title}: {titles}"));
    let cell = |row: &str, title: &str| row[column(title)..].split("  ").next().unwrap().trim().to_owned();
    let named_id = named.event("listening")["id"].as_str().unwrap()[..10].to_owned();
    let cells = |row: &str| ["NAME", "ID", "STATE"].map(|title| cell(row, title));
    assert_eq!(cells(&rows[0]), ["bob", &named_id, "up"], "{rows:?}");
    assert_eq!(cells(&rows[1]), ["-", &lost_id, "dead"], "{rows:?}");
    assert!(cell(&rows[0], "ADDRESS").starts_with("127.0.0.1:"), "{rows:?}");
    assert!(cell(&rows[0], "RTT").ends_with(" ms") && cell(&rows[0], "SILENCE").ends_with(" s"), "{rows:?}");
    assert_eq!((cell(&rows[1], "RTT"), cell(&rows[1], "SILENCE")), ("-".to_owned(), "-".to_owned()));
    named.stop();
    first.stop();
}
