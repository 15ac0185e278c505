//! As a service of systemd: what it is told, what its journal reads, and the unit that is installed.

use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::program::{Files, Node, PATIENCE, addr_of, program};

/// A service manager that waits for this, and passes over feeding of the watchdog meanwhile.
struct Manager(UnixDatagram);

impl Manager {
    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.0.recv(&mut buffer).expect("the manager is told something");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn next_but_watchdog(&self) -> String {
        std::iter::repeat_with(|| self.next()).find(|said| said != "WATCHDOG=1\n").unwrap()
    }
}

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
fn the_manager_is_told_when_it_is_ready_who_is_there_and_when_it_stops() {
    let files = Files::new();
    let (manager, mut node) = managed(&files, true);
    let ready = manager.next();
    let status = ready.strip_prefix("READY=1\nSTATUS=1 ").expect("it is ready first");
    let addr: SocketAddr =
        status.split_whitespace().find_map(|word| word.parse().ok()).expect("where it listens");
    TcpStream::connect(addr).expect("ready means that it accepts connections");
    let listening = node.event("listening");
    let id = listening["id"].as_str().unwrap();
    assert_eq!((addr_of(&listening), status.contains(&id[..10])), (addr.to_string(), true), "{status}");

    let second = Node::start(&["--connect", &addr.to_string()]);
    assert!(manager.next_but_watchdog().starts_with("STATUS=2 "));
    for _ in 0..5 {
        while manager.next() != "WATCHDOG=1\n" {}
    }
    second.signal(Signal::KILL);
    assert!(manager.next_but_watchdog().starts_with("STATUS=1 "));

    // Without anything to read again it is no reason to end.
    node.signal(Signal::HUP);
    let reloading = manager.next_but_watchdog();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("it reloads");
    assert!(time.trim_end().parse::<u64>().is_ok_and(|time| time > 0), "{reloading}");
    assert_eq!(manager.next_but_watchdog(), "READY=1\n");

    node.signal(Signal::TERM);
    assert_eq!(manager.next_but_watchdog(), "STOPPING=1\n");
    assert_eq!(node.wait().0.code(), Some(0));
}

#[test]
fn without_a_watchdog_none_is_fed_and_a_manager_that_is_gone_is_no_harm() {
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

/// Runs the program with this as its stderr, which the journal reads or does not; what it wrote.
fn stderr_of(args: &[&str], is_read_by_journal: bool) -> Vec<String> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let stat = rustix::fs::fstat(&writer).unwrap();
    let inode = if is_read_by_journal { stat.st_ino } else { stat.st_ino + 1 };
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--stdin", "--exit-after-stdin"]).args(args);
    command.env("JOURNAL_STREAM", format!("{}:{inode}", stat.st_dev)).env("RUST_LOG", "debug");
    let mut node = Node::spawn_with(&mut command, Stdio::null(), writer.into());
    node.wait();
    // The command holds the writing end as well.
    drop(command);
    let mut lines = String::new();
    fs::File::from(reader).read_to_string(&mut lines).unwrap();
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn the_journal_gets_levels_and_no_time_stamps() {
    let lines = stderr_of(&[], true);
    assert!(lines.iter().any(|line| line.starts_with("<6>leaving")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("<7>p2p_gossip")), "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with('<')), "{lines:?}");
    let lines = stderr_of(&["--key", "/nonexistent"], true);
    assert!(lines[0].starts_with("<3>p2p-gossip: ") && lines.len() == 1, "{lines:?}");
    // Redirected elsewhere, it is like any other stderr.
    let lines = stderr_of(&[], false);
    assert!(lines.iter().any(|line| line.contains("Z INFO  leaving")), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with('<')), "{lines:?}");
}

#[test]
fn the_unit_is_valid_and_leaves_little_exposed() {
    const UNIT: &str = include_str!("../../../src/dist/p2p-gossip.service");
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: systemd-analyze is missing (Debian: systemd)");
        return;
    }
    let files = Files::new();
    let unit = UNIT.replace("/usr/local/bin/p2p-gossip", env!("CARGO_BIN_EXE_p2p-gossip"));
    assert_ne!(unit, UNIT);
    let path = files.with_mode("p2p-gossip.service", &unit, 0o644);
    // Ten is everything, and what a unit without a word about it gets is 9.6.
    for args in [&["verify", "--man=no"][..], &["security", "--offline=true", "--threshold=20", "--no-pager"]]
    {
        let output = Command::new("systemd-analyze").args(args).arg(&path).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{args:?}: {said}");
        assert!(args[0] != "verify" || said.is_empty(), "{said}");
    }
    // The options that it gives exist.
    let line = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let options: Vec<&str> = line.split(' ').filter(|word| word.starts_with("--")).collect();
    let help = String::from_utf8(program().arg("--help").output().unwrap().stdout).unwrap();
    assert!(!options.is_empty() && options.iter().all(|option| help.contains(option)), "{options:?}");
}
