//! Tests of a node under systemd: notifications, journal format, and the shipped unit.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::program::{Files, Node, PATIENCE, addr_of, program};
use crate::support::executable::RunToEnd as _;
use crate::support::skip::has;

/// A service manager's notification socket.
struct Manager(UnixDatagram);

impl Manager {
    /// The next notification.
    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = loop {
            match self.0.recv(&mut buffer) {
                // A socket with a timeout is also interrupted by a stop of the test's process.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.expect("a notification in time"),
            }
        };
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next notification that is no watchdog ping.
    fn next_without_watchdog(&self) -> String {
        std::iter::repeat_with(|| self.next()).find(|notice| notice != "WATCHDOG=1\n").unwrap()
    }
}

/// Starts a node that notifies the returned manager.
fn managed(files: &Files, watchdog: bool) -> (Manager, Node) {
    let path = files.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--output", "json"]).env("NOTIFY_SOCKET", &path);
    if watchdog {
        command.env("WATCHDOG_USEC", "100000");
    }
    (Manager(socket), Node::spawn(&mut command))
}

#[test]
fn manager_is_notified_of_ready_status_reload_and_stop() {
    let files = Files::new();
    let (manager, mut node) = managed(&files, true);
    let ready = manager.next();
    let status = ready.strip_prefix("READY=1\nSTATUS=1 ").expect("the first notification says ready");
    let addr: SocketAddr = status
        .split_whitespace()
        .find_map(|word| word.parse().ok())
        .expect("the status has the node's address");
    TcpStream::connect(addr).expect("ready means that it accepts connections");
    let listening = node.event("listening");
    let id = listening["id"].as_str().unwrap();
    assert_eq!((addr_of(&listening), status.contains(&id[..10])), (addr.to_string(), true), "{status}");

    let second = Node::start(&["--connect", &addr.to_string()]);
    assert!(manager.next_without_watchdog().starts_with("STATUS=2 "));
    for _ in 0..5 {
        while manager.next() != "WATCHDOG=1\n" {}
    }
    second.signal(Signal::KILL);
    assert!(manager.next_without_watchdog().starts_with("STATUS=1 "));

    // SIGHUP reloads, also when the node has no file to read again.
    node.signal(Signal::HUP);
    let reloading = manager.next_without_watchdog();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the node announces the reload");
    assert!(time.trim_end().parse::<u64>().is_ok_and(|time| time > 0), "{reloading}");
    assert_eq!(manager.next_without_watchdog(), "READY=1\n");

    node.signal(Signal::TERM);
    assert_eq!(manager.next_without_watchdog(), "STOPPING=1\n");
    assert_eq!(node.wait().0.code(), Some(0));
}

#[test]
fn no_watchdog_means_no_pings_and_a_lost_manager_does_no_harm() {
    let files = Files::new();
    let (manager, node) = managed(&files, false);
    assert!(manager.next().starts_with("READY=1\n"));
    let addr = addr_of(&node.event("listening"));
    let second = Node::start(&["--connect", &addr]);
    assert!(manager.next().starts_with("STATUS=2 "));
    drop(manager);
    second.event("up");
    second.stop();
    node.event("left");
    node.stop();
}

/// Runs the program and returns the lines of its stderr.
fn stderr_of(args: &[&str], is_read_by_journal: bool) -> Vec<String> {
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--stdin", "--exit-after-stdin"]).args(args);
    command.env("RUST_LOG", "debug");
    Node::spawn_for_journal(command, is_read_by_journal).wait().2
}

#[test]
fn journal_gets_levels_and_no_time_stamps() {
    let lines = stderr_of(&[], true);
    assert!(lines.iter().any(|line| line.starts_with("<6>leaving")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("<7>p2p_gossip")), "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with('<')), "{lines:?}");
    let lines = stderr_of(&["--key", "/nonexistent"], true);
    assert!(lines[0].starts_with("<3>p2p-gossip: ") && lines.len() == 1, "{lines:?}");
    // A stderr redirected elsewhere gets the usual format.
    let lines = stderr_of(&[], false);
    assert!(lines.iter().any(|line| line.contains("Z INFO  leaving")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with('<')), "{lines:?}");
}

/// The journal takes `<0>` at the start of a line for the priority "emergency", and a peer chooses its name.
#[test]
fn every_line_in_the_journal_begins_with_our_priority() {
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--output", "json"]);
    let mut node = Node::spawn_for_journal(command, true);
    let peer = Node::start(&["--connect", &addr_of(&node.event("listening")), "--name", "<0>fire"]);
    node.event("up");
    node.signal(Signal::USR1);
    let table = [node.log_line(" sees "), node.log_line(""), node.log_line("")];
    assert!(table.iter().all(|line| line.starts_with("<6>")), "{table:?}");
    assert!(table[2].starts_with("<6><0>fire  "), "{table:?}");
    peer.stop();
    node.signal(Signal::TERM);
    let (_, _, lines) = node.wait();
    assert!(
        !lines.is_empty() && lines.iter().all(|line| line.starts_with('<') && !line.starts_with("<0>")),
        "{lines:?}"
    );
}

#[test]
fn unit_is_valid_and_sandboxed() {
    const UNIT: &str = include_str!("../../../src/dist/p2p-gossip.service");
    if !has("systemd-analyze", "Debian: systemd") {
        return;
    }
    let files = Files::new();
    let unit = UNIT.replace("/usr/local/bin/p2p-gossip", env!("CARGO_BIN_EXE_p2p-gossip"));
    assert_ne!(unit, UNIT);
    let path = files.with_mode("p2p-gossip.service", &unit, 0o644);
    // A threshold of 20 is an exposure of 2.0 out of 10; a unit without sandboxing has 9.6.
    for args in [&["verify", "--man=no"][..], &["security", "--offline=true", "--threshold=20", "--no-pager"]]
    {
        let output = Command::new("systemd-analyze").args(args).arg(&path).stdin(Stdio::null()).run_to_end();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success(), "{args:?}: {text}");
        assert!(args[0] != "verify" || text.is_empty(), "{text}");
    }
    // The program knows every option of the unit.
    let line = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let options: Vec<&str> = line.split(' ').filter(|word| word.starts_with("--")).collect();
    let help = String::from_utf8(program().arg("--help").run_to_end().stdout).unwrap();
    assert!(!options.is_empty() && options.iter().all(|option| help.contains(option)), "{options:?}");
}
