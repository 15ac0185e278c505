//! Tests of the text and the JSON on stdout, and of the log on stderr.

use jiff::Timestamp;
use rustix::process::Signal;

use super::program::assert_failure;
use super::program::{Node, addr_of, program};

#[test]
fn text_output_shows_a_join_command_that_works() {
    let first = Node::spawn(program().args(["--port", "0", "--name", "alice", "--period", "0.1"]));
    let (listening, id, join) = (first.line(), first.line(), first.line());
    assert!(listening.contains("  listening  "), "{listening}");
    let id = id.split_whitespace().last().unwrap().to_owned();
    assert_eq!(id.len(), 64);
    let command = join.split_once("p2p-gossip ").expect("a command").1;

    let args: Vec<&str> = command.split(' ').collect();
    let second = Node::spawn(program().args(args).args(["--output", "json", "--name", "bob"]));
    let up = second.event("up");
    assert_eq!((&up["peer"], &up["name"], &up["members"]), (&id.into(), &"alice".into(), &2.into()));
    let first_line_of = |word: &str| loop {
        let line = first.line();
        assert!(!line.contains('\x1b'), "colour in a pipe: {line:?}");
        if line.split_whitespace().nth(1) == Some(word) {
            break line;
        }
    };
    assert!(first_line_of("up").contains("bob"));
    second.stop();
    assert!(first_line_of("left").contains("bob"));
    first.stop();
}

#[test]
fn times_on_stdout_and_stderr_are_in_utc() {
    let begun = Timestamp::now().as_second();
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1"]).env("TZ", "UTC-9").env("RUST_LOG", "info");
    let mut node = Node::spawn(&mut command);
    let event = node.line();
    node.signal(Signal::TERM);
    let (_, _, log) = node.wait();
    let seconds: Vec<Timestamp> = (begun..=Timestamp::now().as_second())
        .map(|second| Timestamp::from_second(second).unwrap())
        .collect();
    let is_now = |line: &str, format: &str| {
        seconds.iter().any(|time| line.starts_with(&time.strftime(format).to_string()))
    };
    assert!(is_now(&event, "%H:%M:%SZ  listening "), "{event}");
    assert!(!log.is_empty() && log.iter().all(|line| is_now(line, "%Y-%m-%dT%H:%M:%SZ ")), "{log:?}");
}

#[test]
fn json_events_have_the_documented_fields() {
    let first = Node::start(&["--name", "alice", "--period", "0.1"]);
    let listening = first.event("listening");
    let second = Node::start(&["--name", "bob", "--connect", &addr_of(&listening), "--period", "0.1"]);
    let id = second.event("listening")["id"].clone();
    let up = first.event("up");
    let ping = first.event("ping");
    second.stop();
    let left = first.event("left");
    for event in [&listening, &up, &ping, &left] {
        let time = event["time"].as_str().unwrap();
        let is_utc_with_millis = time.len() == "2026-01-31T12:00:00.123Z".len() && time.ends_with('Z');
        assert!(is_utc_with_millis, "{event}");
        assert!(event["addr"].is_string(), "{event}");
    }
    for event in [&up, &ping, &left] {
        assert_eq!((&event["peer"], &event["name"]), (&id, &"bob".into()), "{event}");
    }
    assert_eq!((&up["members"], &left["members"]), (&2.into(), &1.into()));
    assert!(ping["seq"].is_u64() && ping["text"].is_string(), "{ping}");
    first.stop();
}

#[test]
fn log_level_on_stderr_is_info_unless_rust_log_sets_another() {
    let start = |filter: Option<&str>| {
        let mut command = program();
        command.args(["--port", "0", "--bind", "127.0.0.1", "--output", "json"]);
        filter.map(|filter| command.env("RUST_LOG", filter));
        Node::spawn(&mut command)
    };
    let logs_of = |filter: Option<&str>| {
        let first = start(filter);
        let addr = addr_of(&first.event("listening"));
        let second = Node::start(&["--connect", &addr, "--name", "bob smith"]);
        first.event("up");
        second.stop();
        first.event("left");
        first.signal(Signal::TERM);
        let mut first = first;
        let (status, _, stderr) = first.wait();
        assert_eq!(status.code(), Some(0));
        stderr
    };
    let lines = logs_of(None);
    let up = lines.iter().find(|line| line.contains("peer up")).unwrap();
    for part in ["Z INFO ", " peer=", " name=\"bob smith\"", " addr=127."] {
        assert!(up.contains(part), "{up}");
    }
    assert!(!up.contains('\x1b'), "{up:?}");
    assert_eq!(logs_of(Some("off")), Vec::<String>::new());
    assert_eq!(logs_of(Some("error")), Vec::<String>::new());
    for ignored in ["p2p_gossip=loud", "level=debug", "*=debug", "p2p_gossip::sesion=debug"] {
        let lines = logs_of(Some(ignored));
        assert!(lines[0].contains(&format!("RUST_LOG: '{ignored}' is ignored")), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.contains("RUST_LOG")).count(), 1, "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("peer up")), "{lines:?}");
    }
    let lines = logs_of(Some("p2p-gossip=debug"));
    assert!(lines.iter().any(|line| line.contains(" DEBUG ")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("RUST_LOG")), "{lines:?}");
}

#[test]
fn http_address_is_shown_and_a_port_in_use_fails_the_start() {
    let text = Node::spawn(program().args(["--port", "0", "--bind", "127.0.0.1", "--http", ":0"]));
    let lines: Vec<String> = (0..4).map(|_| text.line()).collect();
    let (_, page) = lines[3].split_once("http://127.0.0.1:").expect("the fourth line shows the page");
    let port = page.trim_end_matches('/').to_owned();
    assert!(port.parse::<u16>().is_ok_and(|port| port != 0), "{lines:?}");

    assert_failure(&["--port", "0", "--bind", "127.0.0.1", "--http", &port], &["127.0.0.1:", "--http"]);
    let json = Node::start(&["--http", "0"]);
    let listening = json.event("listening");
    assert!(listening["http"].as_str().unwrap().starts_with("http://127.0.0.1:"), "{listening}");
    assert_eq!(Node::start(&[]).event("listening").get("http"), None);
    text.stop();
    json.stop();
}
