//! Tests of signals, and of standard streams that are full or closed.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::program::{Node, STOP_MAX, addr_of, full_pipe, program};

#[test]
fn sigint_and_sigterm_stop_cleanly_and_peers_see_the_leave() {
    for signal in [Signal::INT, Signal::TERM] {
        let first = Node::start(&[]);
        let addr = addr_of(&first.event("listening"));
        let mut second = Node::start(&["--connect", &addr]);
        first.event("up");
        let began = Instant::now();
        second.signal(signal);
        let (status, stdout, _) = second.wait();
        assert_eq!(status.code(), Some(0));
        assert!(began.elapsed() < STOP_MAX, "took {:?}", began.elapsed());
        let last: Value = serde_json::from_str(stdout.last().unwrap()).unwrap();
        assert_eq!(last["event"], "stopped");
        first.event("left");
        first.stop();
    }
}

/// A leaving node waits half a second for a full stdout, which gives time for a second signal. On a busy
/// machine that signal may come too late; the test then tries again.
#[test]
fn second_signal_ends_the_node_at_once() {
    let first = Node::start(&[]);
    let addr = addr_of(&first.event("listening"));
    for _ in 0..20 {
        let (_reader, writer) = full_pipe();
        let mut command = program();
        command.args(["--port", "0", "--bind", "127.0.0.1", "--connect", &addr]);
        let mut second = Node::spawn_with(&mut command, writer.into(), Stdio::piped());
        first.event("up");
        second.signal(Signal::TERM);
        second.log_line("leaving the mesh");
        second.signal(Signal::INT);
        let (status, _, _) = second.wait();
        if status.signal() == Some(Signal::INT.as_raw()) {
            return;
        }
        assert_eq!(status.code(), Some(0));
    }
    panic!("the second signal never ended the node");
}

#[test]
fn full_stdout_and_stderr_block_neither_heartbeats_nor_leaving() {
    let first = Node::start(&["--period", "0.01"]);
    let addr = addr_of(&first.event("listening"));
    let (_unread_stdout, stdout) = full_pipe();
    let (_unread_stderr, stderr) = full_pipe();
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--period", "0.01", "--connect", &addr]);
    command.env("RUST_LOG", "trace");
    let mut second = Node::spawn_with(&mut command, stdout.into(), stderr.into());
    let id = first.event("up")["peer"].clone();
    // For longer than the timeout of three seconds, the second node cannot write any event.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        let event: Value = serde_json::from_str(&first.line()).unwrap();
        assert_eq!((&event["event"], &event["peer"]), (&"ping".into(), &id), "{event}");
    }
    let began = Instant::now();
    second.signal(Signal::TERM);
    let (status, _, _) = second.wait();
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < STOP_MAX, "took {:?}", began.elapsed());
    first.event("left");
    first.stop();
}

#[test]
fn events_behind_a_blocked_stdout_keep_the_time_at_which_they_happened() {
    let first = Node::start(&[]);
    let addr = addr_of(&first.event("listening"));
    let (reader, writer) = full_pipe();
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--output", "json", "--connect", &addr]);
    command.args(["--period", "0.01"]);
    let mut second = Node::spawn_with(&mut command, writer.into(), Stdio::piped());
    // The second node sends pings once its peer is up, and cannot write that event yet.
    first.event("ping");
    let happened_before = jiff::Timestamp::now();
    for _ in 0..10 {
        first.event("ping");
    }
    second.signal(Signal::TERM);
    // The command holds an end of the pipe. The first line begins with the bytes that filled the pipe.
    drop(command);
    let lines = BufReader::new(File::from(reader)).lines().skip(1).map(Result::unwrap);
    let events: Vec<Value> = lines.map(|line| serde_json::from_str(&line).unwrap()).collect();
    let up = events.iter().find(|event| event["event"] == "up").expect("an up event");
    let time: jiff::Timestamp = up["time"].as_str().unwrap().parse().unwrap();
    assert!(time < happened_before, "{up}, but the peer was up at {happened_before}");
    assert_eq!(events.last().unwrap()["event"], "stopped");
    assert_eq!(second.wait().0.code(), Some(0));
    first.stop();
}

#[test]
fn closed_stdout_is_logged_once_and_the_node_runs_on() {
    let first = Node::start(&["--period", "0.01"]);
    let addr = addr_of(&first.event("listening"));
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--period", "0.01", "--connect", &addr]);
    let mut second = Node::spawn_with(&mut command, writer.into(), Stdio::piped());
    second.log_line("cannot write to stdout");
    for _ in 0..50 {
        first.event("ping");
    }
    second.signal(Signal::TERM);
    let (status, _, stderr) = second.wait();
    assert_eq!(status.code(), Some(0));
    assert!(!stderr.iter().any(|line| line.contains("stdout")), "{stderr:?}");
    first.event("left");
    first.stop();
}

#[test]
fn closed_stderr_keeps_the_exit_code_of_a_failure() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    let second = writer.try_clone().unwrap();
    let mut node = Node::spawn_with(program().arg("--port"), Stdio::null(), writer.into());
    assert_eq!(node.wait().0.code(), Some(2));
    let mut node = Node::spawn_with(program().args(["--key", "/nonexistent"]), Stdio::null(), second.into());
    assert_eq!(node.wait().0.code(), Some(1));
}
