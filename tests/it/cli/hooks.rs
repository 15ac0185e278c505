//! Tests of `--on-event`: the program that a node runs for each event.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::program::{Files, Node, PATIENCE, STOP_MAX, addr_of, assert_failure, assert_usage_error, program};
use crate::support::skip::say_skipped;

/// Prints the event on stdin and the variables to stdout, which the node passes on to its stderr.
const PRINTS_INPUT: &str = r#"
sed 's/^/stdin /'
env | sed -n 's/^P2P_GOSSIP_/variable /p; s/^NOTIFY_SOCKET/inherited &/p'
echo end"#;

/// The output of one run of the script: the object on its stdin, and its variables.
fn hook_output(node: &Node) -> (Value, BTreeMap<String, String>) {
    let line = node.log_line("stdin {");
    let object = serde_json::from_str(line.strip_prefix("stdin ").unwrap()).unwrap();
    let mut variables = BTreeMap::new();
    loop {
        let line = node.log_line("");
        assert!(!line.contains("inherited"), "{line}");
        if line == "end" {
            return (object, variables);
        }
        if let Some((name, value)) = line.strip_prefix("variable ").and_then(|line| line.split_once('=')) {
            variables.insert(name.to_lowercase(), value.to_owned());
        }
    }
}

#[test]
fn hook_gets_the_fields_and_the_order_of_stdout() {
    let files = Files::new();
    let script = files.script("hook", PRINTS_INPUT);
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--output", "json", "--period", "0.01"]);
    command.args(["--on-event", &script]).env("P2P_GOSSIP_STALE", "x").env("NOTIFY_SOCKET", "/nonexistent");
    let first = Node::spawn(&mut command);
    let addr = addr_of(&first.event("listening"));
    let mut speaker = program();
    speaker.args(["--port", "0", "--bind", "127.0.0.1", "--name", "bob smith", "--period", "0.01"]);
    speaker.args(["--connect", &addr, "--stdin", "--exit-after-stdin", "--output", "json"]);
    let mut speaker = Node::spawn(speaker.stdin(Stdio::piped()));
    let id = speaker.event("listening")["id"].clone();
    // Pings arrive too, but the hook runs for none of them.
    first.event("ping");
    speaker.stdin().write_all("$(reboot) \u{1b}[2J; \"quoted\"\n".as_bytes()).unwrap();
    speaker.close_stdin();
    assert_eq!(speaker.wait().0.code(), Some(0));
    for kind in ["up", "message", "left"] {
        let (object, variables) = hook_output(&first);
        assert_eq!((&object["event"], &object["peer"]), (&kind.into(), &id), "{object}");
        let fields = object.as_object().unwrap();
        let names: Vec<&String> = variables.keys().collect();
        assert_eq!(names, fields.keys().collect::<Vec<_>>());
        for (name, value) in fields {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let shown = if value.is_null() { String::new() } else { shown };
            assert_eq!(variables[name], shown, "{name}");
        }
        assert_eq!(variables["name"], "bob smith");
    }
    first.stop();
}

#[test]
fn hook_stdin_is_the_json_line_of_stdout() {
    let files = Files::new();
    let script = files.script("hook", "sed 's/^/stdin /'");
    let first = Node::start(&["--on-event", &script, "--on-event-pings"]);
    let addr = addr_of(&first.event("listening"));
    let second = Node::start(&["--connect", &addr]);
    for kind in ["up", "ping"] {
        let line = first.log_line("stdin {");
        let object: Value = serde_json::from_str(line.strip_prefix("stdin ").unwrap()).unwrap();
        assert_eq!(object, first.event(kind));
    }
    second.stop();
    first.stop();
}

#[test]
fn failed_hook_is_logged_and_the_next_event_still_runs_it() {
    let files = Files::new();
    let script = files.script("hook", "[ \"$P2P_GOSSIP_EVENT\" = up ] && exit 3\nkill -9 $$");
    let first = Node::start(&["--on-event", &script]);
    let addr = addr_of(&first.event("listening"));
    let second = Node::start(&["--connect", &addr]);
    second.event("up");
    second.stop();
    let up = first.log_line("--on-event failed");
    assert!(up.contains("event=up") && up.contains("exit status: 3"), "{up}");
    let left = first.log_line("--on-event failed");
    assert!(left.contains("event=left") && left.contains("signal: 9"), "{left}");
    first.stop();
}

/// Whether a process with this id exists and has not ended.
fn is_running(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z')
}

/// Waits until all these processes, which have been killed, have ended.
fn wait_for_end(pids: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    while pids.iter().any(|pid| is_running(pid)) {
        assert!(Instant::now() < deadline, "{pids:?} still run");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const HANGS: &str = "[ \"$P2P_GOSSIP_EVENT\" = up ] || exit 0\nsleep 1000 &\necho hangs $$ $!\nwait";

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "looks into /proc")]
fn hanging_hook_is_killed_with_its_children_and_slows_no_peer() {
    let files = Files::new();
    let script = files.script("hook", HANGS);
    let first = Node::start(&["--on-event", &script]);
    let addr = addr_of(&first.event("listening"));
    let second = Node::start(&["--connect", &addr, "--period", "0.05", "--timeout", "60"]);
    let line = first.log_line("hangs ");
    let pids: Vec<&str> = line.split(' ').skip(1).collect();
    // More than two seconds of pings while it hangs.
    (0..50).for_each(|_| drop(first.event("ping")));
    second.stop();
    let killed = first.log_line("--on-event failed");
    assert!(killed.contains("event=up") && killed.contains("killed after 10s"), "{killed}");
    wait_for_end(&pids);
    first.stop();
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "looks into /proc")]
fn leaving_node_does_not_wait_for_a_hanging_hook() {
    let files = Files::new();
    let script = files.script("hook", HANGS);
    let mut first = Node::start(&["--on-event", &script]);
    let addr = addr_of(&first.event("listening"));
    let second = Node::start(&["--connect", &addr]);
    let line = first.log_line("hangs ");
    let pids: Vec<&str> = line.split(' ').skip(1).collect();
    let began = Instant::now();
    first.signal(Signal::TERM);
    let killed = first.log_line("--on-event failed");
    assert!(killed.contains("killed") && !killed.contains("10s"), "{killed}");
    assert_eq!(first.wait().0.code(), Some(0));
    assert!(began.elapsed() < STOP_MAX, "took {:?}", began.elapsed());
    wait_for_end(&pids);
    second.stop();
}

/// As the first process of a container, the node becomes the parent of what its hooks leave behind.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs a namespace of processes")]
fn first_process_of_a_container_reaps_what_hooks_leave_behind() {
    let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let possible = Command::new("unshare").args(unshare).arg("true").output();
    if !possible.is_ok_and(|output| output.status.success()) {
        say_skipped("a namespace of processes needs root and unshare");
        return;
    }
    let files = Files::new();
    // Each run leaves a child that ends after it, and prints how many have ended without being reaped.
    let script = files.script(
        "hook",
        "(sleep 0.01 &)\necho \"run by $PPID zombies $(grep -l '^State:.Z' /proc/[0-9]*/status | wc -l)\"\nexit 3",
    );
    let mut command = Command::new("unshare");
    command.args(unshare).arg(env!("CARGO_BIN_EXE_p2p-gossip")).stdin(Stdio::null()).env_remove("RUST_LOG");
    command.args(["--port", "0", "--bind", "127.0.0.1", "--output", "json"]);
    let first = Node::spawn(command.args(["--on-event", &script, "--on-event-pings"]));
    let addr = addr_of(&first.event("listening"));
    let second = Node::start(&["--connect", &addr, "--period", "0.01"]);
    let mut lines = std::iter::repeat_with(|| first.log_line("run by 1 zombies ")).skip(20).take(200);
    assert!(lines.any(|line| line.ends_with(" zombies 0")), "zombies are left");
    // The reaper takes no exit status from the hook's own wait.
    assert!(first.log_line("--on-event failed").contains("exit status: 3"));
    second.stop();
}

#[test]
fn hook_that_cannot_run_fails_the_start() {
    let files = Files::new();
    let plain = files.with_mode("plain", "x", 0o644);
    assert_failure(&["--port=0", "--on-event", &plain], &["--on-event", "not executable"]);
    let windows = files.script("windows", "");
    fs::write(&windows, "#!/bin/sh\r\nexit\r\n").unwrap();
    assert_failure(&["--port=0", "--on-event", &windows], &[&windows, "CR LF", "sed -i"]);
    assert_failure(&["--port=0", "--on-event", "/nonexistent/x"], &["/nonexistent/x", "No such file"]);
    assert_failure(&["--port=0", "--on-event", "no-such-program"], &["--on-event", "PATH"]);
    assert_usage_error(&["--on-event-pings"], &["--on-event-pings", "needs --on-event"]);
    assert_usage_error(&["--on-event="], &["--on-event", "empty"]);
}
