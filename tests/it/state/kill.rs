//! Tests of SIGKILL while a node writes: the file is the old or the new one, never a part.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::store::{Store, ids, known, wait_until_all_known};
use crate::support::executable::RunToEnd as _;
use crate::support::process::Spec;
use crate::support::{Cluster, DEADLINE, unique_addr};

/// Rounds of each test; the environment variable `ROUNDS` overrides the usual number.
fn rounds(usual: u32) -> u32 {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

/// Waits until a node replaces this file or has just replaced it.
fn wait_for_write(file: &Path) {
    let inode = |file: &Path| fs::metadata(file).map(|metadata| metadata.ino()).ok();
    let temporary = file.with_file_name(".known_peers.toml.tmp");
    let before = inode(file);
    let deadline = Instant::now() + DEADLINE;
    while !temporary.exists() && inode(file) == before {
        assert!(Instant::now() < deadline, "nothing is written to {}", file.display());
        thread::yield_now();
    }
}

#[test]
fn killed_writer_leaves_whole_known_peers() {
    let store = Store::new();
    let mut cluster = Cluster::new();
    let spec = |name: &str| Spec::named(name).with_bind(unique_addr()).with_state(&store.dir(name));
    let others = cluster.start_star(spec("a"), [spec("b"), spec("c")]);
    let mut all: Vec<_> = others.iter().map(|&node| cluster.id(node)).collect();
    all.sort();
    let victim = spec("victim").with_connect(cluster.addr(others[0]));
    let state = store.dir("victim");
    let first = cluster.start(victim.clone());
    wait_until_all_known(&state, &all);
    cluster.kill(first);

    let mut rng = fastrand::Rng::with_seed(5);
    let file = state.join("known_peers.toml");
    for round in 0..rounds(15) {
        // The node writes soon, because its peers come up again.
        let node = cluster.start(victim.clone());
        wait_for_write(&file);
        thread::sleep(Duration::from_micros(rng.u64(..3_000)));
        cluster.kill(node);
        assert_eq!(ids(&known(&state)), all, "round {round}");
    }
    let node = cluster.start(victim);
    cluster.wait_full_mesh(&[others, vec![node]].concat());
}

/// Kills a process at random moments while it replaces a large file.
#[test]
fn killed_writer_leaves_the_old_or_the_new_large_file() {
    const PEERS: u32 = 500;
    let store = Store::new();
    let state = store.dir("a");
    let make = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-gossip"));
        command.args(args).arg("--state").arg(&state).stdin(Stdio::null());
        command
    };
    let mut text = "version = 1\n".to_owned();
    for n in 0..PEERS {
        let _ = write!(
            text,
            "[[peer]]\nid = \"{n:08x}{}\"\nname = \"\"\nfirst_seen = \"2026-01-31T12:00:00Z\"\n\
             last_seen = \"2026-01-31T12:00:00Z\"\nleft = false\n",
            "0".repeat(56)
        );
    }
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(state.join("known_peers.toml"), &text).unwrap();

    // The time that one undisturbed run takes.
    let began = Instant::now();
    assert!(make(&["forget", "00000000"]).run_to_end().status.success());
    let takes = began.elapsed();
    let mut rng = fastrand::Rng::with_seed(6);
    let (mut count, mut old, mut new) = (PEERS as usize - 1, 0, 0);
    for round in 1..=rounds(60) {
        let mut command = make(&["forget", &format!("{round:08x}")]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(takes.mul_f64(rng.f64() * 1.2));
        child.kill().unwrap();
        child.wait().unwrap();
        let left = known(&state).len();
        assert!(left == count || left == count - 1, "round {round}: {left} of {count}");
        if left == count {
            old += 1;
        } else {
            new += 1;
        }
        count = left;
    }
    println!("{old} times the old file, {new} times the new one");
    assert!(make(&["forget", "000001f3"]).run_to_end().status.success());
    assert_eq!(known(&state).len(), count - 1);
}
