//! Tests of `--stdin`, which sends each line of standard input to every peer, and of `message` events.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use p2p_gossip::internals::limits::MESSAGE_BYTES_MAX;
use rustix::process::Signal;

use super::program::{Files, Node, STOP_MAX, addr_of, assert_usage_error, program};
use crate::support::unique_addr;

/// Starts a node on loopback with `--stdin` and writes the input to it.
fn speaker(args: &[&str], input: &[u8]) -> Node {
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--output", "json", "--stdin"]).args(args);
    let mut node = Node::spawn(command.stdin(Stdio::piped()));
    node.stdin().write_all(input).unwrap();
    node
}

/// The text of the node's next message.
fn next_message(node: &Node) -> String {
    node.event("message")["text"].as_str().unwrap().to_owned()
}

#[test]
fn piped_lines_reach_the_whole_mesh_and_the_node_exits() {
    let first = Node::start(&[]);
    let addr = addr_of(&first.event("listening"));
    let others = [(); 3].map(|()| Node::start(&["--connect", &addr]));
    for other in &others {
        while other.event("up")["members"] != 4 {}
    }
    let mut speaker =
        speaker(&["--connect", &addr, "--name", "bob", "--exit-after-stdin"], b"hello\nyou all");
    speaker.close_stdin();
    let id = speaker.event("listening")["id"].clone();
    for node in others.iter().chain([&first]) {
        let message = node.event("message");
        assert_eq!(
            (&message["peer"], &message["name"], &message["text"]),
            (&id, &"bob".into(), &"hello".into())
        );
        assert_eq!(next_message(node), "you all");
        assert_eq!(node.event("left")["peer"], id);
    }
    let (status, stdout, stderr) = speaker.wait();
    assert_eq!(status.code(), Some(0), "{stderr:?}");
    assert!(stdout.last().unwrap().contains("\"stopped\""), "{stdout:?}");
    others.into_iter().chain([first]).for_each(Node::stop);
}

#[test]
fn many_lines_arrive_in_order_and_the_node_stays_up() {
    let first = Node::start(&[]);
    let addr = addr_of(&first.event("listening"));
    let lines: Vec<String> = (0..1000).map(|n| format!("line {n}")).collect();
    let mut speaker = speaker(&["--connect", &addr], (lines.join("\n") + "\n").as_bytes());
    for line in &lines {
        assert_eq!(next_message(&first), *line);
    }
    speaker.close_stdin();
    // Pings after the end of its input show that the node stays.
    for _ in 0..2 {
        first.event("ping");
    }
    speaker.stop();
    first.stop();
}

#[test]
fn lines_wait_for_the_first_peer() {
    let addr = unique_addr();
    let speaker = speaker(&["--connect", &addr.to_string()], b"hello?\n");
    speaker.log_line("cannot join");
    let (bind, port) = (addr.ip().to_string(), addr.port().to_string());
    let first = Node::spawn(program().args(["--bind", &bind, "--port", &port, "--output", "json"]));
    assert_eq!(next_message(&first), "hello?");
    speaker.stop();
    first.stop();
}

#[test]
fn unsendable_line_is_logged_skipped_and_counted() {
    let first = Node::start(&[]);
    let addr = addr_of(&first.event("listening"));
    let longest = "x".repeat(MESSAGE_BYTES_MAX);
    let input = [b"one\n", longest.as_bytes(), b"\n", longest.as_bytes(), b"x\nbad \xff\nlast\n"].concat();
    let mut faulty = speaker(&["--connect", &addr, "--exit-after-stdin"], &input);
    faulty.close_stdin();
    for line in ["one", &longest, "last"] {
        assert_eq!(next_message(&first), line);
    }
    let (status, _, stderr) = faulty.wait();
    assert_eq!(status.code(), Some(1), "{stderr:?}");
    for (number, reason) in [(3, "4096 bytes"), (4, "not UTF-8")] {
        let names_it = |line: &&String| line.contains(&format!("line={number} ")) && line.contains(reason);
        assert!(stderr.iter().any(|line| names_it(&line)), "{stderr:?}");
    }
    let last = stderr.last().unwrap();
    assert!(last.starts_with("p2p-gossip: 2 lines"), "{last}");
    first.stop();
}

#[test]
fn stopped_peer_delays_the_others_only_until_its_timeout() {
    let first = Node::start(&[]);
    let addr = addr_of(&first.event("listening"));
    let stopped = Node::start(&["--connect", &addr]);
    first.event("up");
    // More than the buffers of a connection without a reader hold.
    const LINES: usize = 4000;
    let files = Files::new();
    let lines: String = (0..LINES).map(|n| format!("{n} {}\n", "x".repeat(MESSAGE_BYTES_MAX - 10))).collect();
    let input = fs::File::open(files.private("lines", &lines)).unwrap();
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--connect", &addr, "--stdin", "--exit-after-stdin"]);
    command.env("RUST_LOG", "warn").stdin(Stdio::from(input));
    let mut speaker = Node::spawn(&mut command);
    // Both peers get the first line.
    assert!(next_message(&stopped).starts_with("0 "));
    stopped.signal(Signal::STOP);
    let (status, _, stderr) = speaker.wait();
    assert_eq!(status.code(), Some(0), "{stderr:?}");
    let is_lost = |line: &String| line.contains("peer down") && line.contains("reason=timeout");
    assert!(stderr.iter().any(is_lost), "the stopped peer never timed out: {stderr:?}");
    let mut last = None;
    loop {
        let event: serde_json::Value = serde_json::from_str(&first.line()).unwrap();
        if event["event"] == "message" {
            let text = event["text"].as_str().unwrap();
            let number: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert!(last < Some(number), "{number} after {last:?}");
            last = Some(number);
        } else if event["event"] == "left" {
            break;
        }
    }
    // A busy machine may drop some of the events, but not most of them.
    assert!(last > Some(LINES / 2), "{last:?}");
    first.stop();
}

#[test]
fn line_without_a_peer_is_logged_as_unsent() {
    let mut alone = speaker(&["--exit-after-stdin"], b"hello\n");
    alone.close_stdin();
    alone.log_line("no peer is connected");
    assert_eq!(alone.wait().0.code(), Some(0));
}

#[test]
fn node_that_only_sends_its_input_gives_up_if_no_peer_answers() {
    let addr = unique_addr().to_string();
    let args = ["--connect", &addr, "--exit-after-stdin", "--join-timeout=1s"];
    let mut alone = speaker(&args, b"hello\n");
    alone.close_stdin();
    let (status, stdout, stderr) = alone.wait();
    assert_eq!(status.code(), Some(1), "{stderr:?}");
    let last = stderr.last().unwrap();
    assert!(last.contains("no peer has answered within 1s (--join-timeout)"), "{last}");
    assert!(stdout.last().unwrap().contains("\"stopped\""), "{stdout:?}");
}

#[test]
fn node_that_has_joined_reads_its_input_for_longer_than_the_join_timeout() {
    let first = Node::start(&[]);
    let addr = addr_of(&first.event("listening"));
    let mut speaker =
        speaker(&["--connect", &addr, "--exit-after-stdin", "--join-timeout=1s", "--period=0.1"], b"one\n");
    assert_eq!(next_message(&first), "one");
    // Pings for more than a second.
    (0..15).for_each(|_| drop(first.event("ping")));
    speaker.stdin().write_all(b"two\n").unwrap();
    speaker.close_stdin();
    assert_eq!(next_message(&first), "two");
    assert_eq!(speaker.wait().0.code(), Some(0));
    first.stop();
}

#[test]
fn node_waiting_for_input_or_a_peer_still_stops_in_time() {
    for args in [&[][..], &["--connect", "127.0.0.1:9"]] {
        let mut node = speaker(args, b"");
        node.event("listening");
        let began = std::time::Instant::now();
        node.signal(Signal::TERM);
        assert_eq!(node.wait().0.code(), Some(0));
        assert!(began.elapsed() < STOP_MAX, "took {:?}", began.elapsed());
    }
}

#[test]
fn quiet_hides_pings_only() {
    let talker = speaker(&["--period", "0.01"], b"");
    let addr = addr_of(&talker.event("listening"));
    for option in ["--quiet", "--pings=off"] {
        let mut talker = speaker(&["--period", "0.01", "--connect", &addr], b"");
        let own = addr_of(&talker.event("listening"));
        let quiet = Node::start(&["--period", "0.01", "--connect", &own, option]);
        let id = quiet.event("listening")["id"].clone();
        // Pings go both ways at the same rate, so the quiet node has received some too.
        let mut pings = 0;
        while pings < 20 {
            pings += i32::from(talker.event("ping")["peer"] == id);
        }
        talker.stdin().write_all(b"psst\n").unwrap();
        let events: Vec<String> =
            std::iter::repeat_with(|| quiet.line()).take_while(|line| !line.contains("\"psst\"")).collect();
        // The quiet node may be connected to the first talker by then, or not.
        assert!(
            !events.is_empty() && events.iter().all(|line| line.contains("\"event\":\"up\"")),
            "{events:?}"
        );
        quiet.stop();
        talker.stop();
    }
    talker.stop();
    assert_usage_error(&["--quiet", "--pings=on"], &["contradict"]);
    assert_usage_error(&["--pings=maybe"], &["--pings", "\"off\""]);
    assert_usage_error(&["--exit-after-stdin"], &["--stdin"]);
}

#[test]
fn control_characters_of_a_message_are_escaped() {
    let first = Node::spawn(program().args(["--port", "0", "--bind", "127.0.0.1"]));
    let listening = first.line();
    let addr = listening.split_whitespace().last().unwrap().to_owned();
    let mut speaker =
        speaker(&["--connect", &addr, "--exit-after-stdin"], "a\u{1b}[2Jb\u{202e}c\n".as_bytes());
    speaker.close_stdin();
    let line = std::iter::repeat_with(|| first.line()).find(|line| line.contains("  message  ")).unwrap();
    assert!(line.ends_with("  a\\u{1b}[2Jb\\u{202e}c"), "{line:?}");
    assert_eq!(speaker.wait().0.code(), Some(0));
    first.stop();
}
