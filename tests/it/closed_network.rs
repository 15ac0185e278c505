//! Closed networks of the real program: one ticket lets a node in, and the key changes while the network runs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p2p_gossip::{Config, Event, Events, Node, StateDir};

use crate::support::executable::RunToEnd as _;
use crate::support::process::Spec;
use crate::support::{Cluster, DEADLINE, localhost};

/// Runs the program to its end, with this standard input. Returns the exit code, stdout and stderr.
fn run(args: &[&str], input: Option<&Path>) -> (Option<i32>, String, String) {
    let stdin = input.map_or_else(Stdio::null, |file| fs::File::open(file).unwrap().into());
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-gossip"));
    let output = command.args(args).stdin(stdin).env_remove("RUST_LOG").run_to_end();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The ticket in the line that `invite` prints.
fn invite(state: &Path) -> String {
    let (code, stdout, stderr) = run(&["invite", "--state", state.to_str().unwrap()], None);
    assert_eq!(code, Some(0), "{stderr}");
    let ticket = stdout.trim_end().strip_prefix("p2p-gossip --state DIR --join ").expect(&stdout);
    assert!(!ticket.contains(char::is_whitespace), "{ticket}");
    ticket.to_owned()
}

fn spec(cluster: &Cluster, name: &str) -> Spec {
    Spec::named(name).with_bind(localhost()).with_state(&cluster.path(name))
}

fn network_key(state: &Path) -> PathBuf {
    state.join("network.key")
}

#[test]
fn one_ticket_lets_nodes_join_and_others_stay_out() {
    let mut cluster = Cluster::new();
    let first = cluster.start(spec(&cluster, "first").with_switch("--closed"));
    let ticket = invite(&cluster.path("first"));
    let second = cluster.start(spec(&cluster, "second").with_option("--join", &ticket));
    cluster.wait_full_mesh(&[first, second]);
    // A node that has joined invites, too; here in a file with the whole line, wrapped as mail does.
    let again = invite(&cluster.path("second"));
    let (start, end) = again.split_at(60);
    let file = cluster.file("mail", &format!("Join us:\np2p-gossip --state DIR --join {start}\n{end}\n"));
    let third = cluster.start(spec(&cluster, "third").with_option("--join", &file));
    cluster.wait_full_mesh(&[first, second, third]);
    for name in ["first", "second", "third"] {
        let mode = fs::metadata(network_key(&cluster.path(name))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    // Without a ticket, and with the ticket of another network.
    let stranger =
        cluster.start(Spec::named("stranger").with_bind(localhost()).with_connect(cluster.addr(first)));
    let foreign = cluster.start(spec(&cluster, "foreign").with_switch("--closed"));
    let other = cluster.start(
        spec(&cluster, "other")
            .with_option("--join", invite(&cluster.path("foreign")))
            .with_connect(cluster.addr(first)),
    );
    cluster.wait_full_mesh(&[foreign, other]);
    cluster.wait_for("both are refused", &[stranger, other], |history| {
        let is_refused = |member| history.log_mentions(member, "network key");
        (is_refused(stranger) && is_refused(other)).then_some(())
    });
    cluster.wait_full_mesh(&[first, second, third]);

    // The same command line works again, and no flag is needed any more.
    cluster.terminate(second);
    cluster.terminate(third);
    let second = cluster.start(spec(&cluster, "second").with_option("--join", &ticket));
    let third = cluster.start(spec(&cluster, "third"));
    cluster.wait_full_mesh(&[first, second, third]);
    for member in [first, second, third, other] {
        cluster.check(&[member], |history| {
            let mut log = history.log(member).iter();
            log.find(|line| line.contains(&ticket[10..40]))
                .map(|line| format!("a log shows the ticket: {line}"))
        });
    }
}

#[test]
fn wrong_tickets_and_directories_are_refused_with_the_reason() {
    let mut cluster = Cluster::new();
    cluster.start(spec(&cluster, "first").with_switch("--closed"));
    cluster.start(spec(&cluster, "foreign").with_switch("--closed"));
    let (ticket, foreign) = (invite(&cluster.path("first")), invite(&cluster.path("foreign")));
    let dir = cluster.path("joiner");
    let dir = dir.to_str().unwrap();
    let mistyped =
        format!("{}{}", &ticket[..ticket.len() - 1], if ticket.ends_with('7') { '8' } else { '7' });
    let file = cluster.file("cut", &ticket[..50]);
    let cut = file.to_str().unwrap();
    let closed = cluster.path("closed");
    let state = StateDir::open(&closed).unwrap();
    state.identity().unwrap();
    state.close_network().unwrap();
    drop(state);
    let closed = closed.to_str().unwrap();
    let empty = cluster.path("empty");
    drop(StateDir::open(&empty).unwrap());
    for (args, code, reason) in [
        (vec!["--state", dir, "--join", &mistyped], 2, "mistyped"),
        (vec!["--state", dir, "--join", &ticket[..40]], 2, "the end of the ticket is missing"),
        (vec!["--state", dir, "--join", cut], 1, "the end of the ticket is missing"),
        (vec!["--state", dir, "--join", "nowhere"], 1, "cannot read the ticket nowhere"),
        (vec!["--join", &ticket], 2, "--join needs --state"),
        (vec!["--closed"], 2, "--closed needs --state"),
        (vec!["--state", dir, "--closed", "--join", &ticket], 2, "give one of them"),
        (vec!["--state", dir, "--closed", "--network-key", "k"], 2, "omit --network-key"),
        (vec!["--state", closed, "--join", &foreign], 1, "for another network"),
        (vec!["invite", "--state", empty.to_str().unwrap()], 1, "--closed or --join first"),
        (vec!["invite", "--state", closed], 1, "no address"),
    ] {
        let args =
            if args[0] == "invite" { args } else { [vec!["--port=0", "--bind=127.0.0.1"], args].concat() };
        let (found, stdout, stderr) = run(&args, None);
        assert_eq!((found, stdout.as_str()), (Some(code), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(reason), "{args:?}: {stderr}");
        assert!(!stderr.contains(&ticket[4..24]) && !stderr.contains(&foreign[4..24]), "{stderr}");
    }
    let (code, _, stderr) = run(&["--state", dir, "--port=0", "--join", "-"], Some(&file));
    assert!(code == Some(1) && stderr.contains("the end of the ticket"), "{stderr}");
}

#[test]
fn qr_code_has_the_ticket() {
    let mut cluster = Cluster::new();
    cluster.start(spec(&cluster, "first").with_switch("--closed"));
    let state = cluster.path("first");
    let (code, stdout, stderr) = run(&["invite", "--qr", "--state", state.to_str().unwrap()], None);
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    let width = lines[0].chars().count();
    assert!(lines[0].chars().all(|c| c == '\u{2588}'), "the margin: {}", lines[0]);
    assert!(lines[..lines.len() - 1].iter().all(|line| line.chars().count() == width), "{stdout}");
    assert!(width <= 80, "{width} columns");
}

#[test]
fn rotate_changes_the_key_of_all_members_and_old_tickets_end_with_the_grace() {
    let mut cluster = Cluster::new();
    let first = cluster.start(spec(&cluster, "first").with_switch("--closed"));
    let old = invite(&cluster.path("first"));
    let second = cluster.start(spec(&cluster, "second").with_option("--join", &old));
    cluster.wait_full_mesh(&[first, second]);
    let paths = ["first", "second", "third"].map(|name| (name, cluster.path(name)));
    let key = |wanted: &str| {
        let (_, path) = paths.iter().find(|(name, _)| *name == wanted).unwrap();
        StateDir::peek_key_ring(path).unwrap().unwrap()
    };
    let (before, state) = (key("first"), cluster.path("first"));
    let state = state.to_str().unwrap();
    let (code, stdout, stderr) = run(&["rotate", "--grace", "1h", "--state", state], None);
    assert!(code == Some(0) && stdout.contains("number 1") && stdout.contains("1h00m"), "{stdout}{stderr}");
    let deadline = Instant::now() + DEADLINE;
    while key("second").generation() != 1 || key("first").generation() != 1 {
        assert!(Instant::now() < deadline, "the key is not on every disk");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(key("first").current() == key("second").current() && key("first").current() != before.current());
    let (_, stdout, stderr) = run(&["status", "--state", state], None);
    assert!(stdout.contains("number 1, held by 2 of 2 members"), "{stdout}{stderr}");
    // The old ticket lets in as long as the key before is accepted, and brings the new key.
    let third = cluster.start(spec(&cluster, "third").with_option("--join", &old));
    cluster.wait_full_mesh(&[first, second, third]);
    while key("third").generation() != 1 {
        assert!(Instant::now() < deadline, "the third node has the new key");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_ne!(invite(&cluster.path("third")), old);
    // A node of an open network has no key to change.
    let open = cluster.start(spec(&cluster, "open"));
    let (code, _, stderr) = run(&["rotate", "--state", cluster.path("open").to_str().unwrap()], None);
    assert!(code == Some(1) && stderr.contains("no network key"), "{stderr}");
    cluster.terminate(open);
}

/// A node of a closed network in this process.
fn node(state: &Path, connect: Option<&Node>) -> Node {
    let connect = connect.map(|node| node.local_addr().into());
    let config = Config::default().port(0).bind("127.0.0.1".parse().unwrap()).connect(connect);
    let state = StateDir::open(state).unwrap();
    let identity = state.identity().unwrap();
    Node::builder(config, identity).state(state).start().unwrap()
}

fn wait_members(events: &Events, wanted: usize) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let event = events.recv_deadline(deadline).expect("the members come in time");
        if matches!(event, Event::Up { members, .. } if members == wanted) {
            return;
        }
    }
}

/// Waits until this many members of the node have its current key.
fn wait_holders(node: &Node, wanted: usize) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = node.status().expect("the node runs").mesh.network_key.expect("it has a key");
        if status.holders == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{status:?}, expected {wanted} holders");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn key_changes_in_the_running_network_and_a_node_that_was_away_gets_it() {
    let directory = tempfile::tempdir().unwrap();
    let dirs = ["a", "b", "c"].map(|name| directory.path().join(name));
    let ring = StateDir::open(&dirs[0]).unwrap().close_network().unwrap();
    for dir in &dirs[1..] {
        drop(StateDir::open(dir).unwrap());
        fs::copy(network_key(&dirs[0]), network_key(dir)).unwrap();
    }
    let a = node(&dirs[0], None);
    let b = node(&dirs[1], Some(&a));
    let c = node(&dirs[2], Some(&a));
    wait_members(a.events(), 3);
    wait_holders(&a, 3);
    c.shutdown();
    assert_eq!(a.handle().rotate_network_key(Duration::from_secs(3600)).unwrap(), 1);
    wait_holders(&a, 2);
    // The node that was away comes back with the old key.
    let kept = StateDir::open(&dirs[2]).unwrap().key_ring().unwrap().unwrap();
    assert_eq!((kept.generation(), kept.current()), (0, ring.current()));
    let c = node(&dirs[2], Some(&b));
    wait_holders(&a, 3);
    assert_eq!(c.status().unwrap().mesh.network_key.unwrap().generation, 1);
    for node in [a, b, c] {
        node.shutdown();
    }
    let rings = dirs.map(|dir| StateDir::open(&dir).unwrap().key_ring().unwrap().unwrap());
    for ring_now in &rings {
        assert_eq!((ring_now.generation(), ring_now.network()), (1, ring.network()));
        assert!(ring_now.current() == rings[0].current() && ring_now.current() != ring.current());
        assert_eq!(ring_now.earlier_keys(), 1);
    }
}
