//! State directories of tests, read through `p2p-gossip peers` as a user would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use p2p_gossip::PeerId;
use serde_json::Value;

use crate::support::DEADLINE;
use crate::support::executable::RunToEnd as _;

/// State directories of one test, removed with it.
pub(super) struct Store(tempfile::TempDir);

impl Store {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The state directory of this node; the node makes it.
    pub(super) fn dir(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

pub(super) fn program(args: &[&str], state: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-gossip"));
    command.arg(args[0]).arg("--state").arg(state).args(&args[1..]);
    command.stdin(Stdio::null()).run_to_end()
}

/// The known peers in the directory, which must be readable at any moment.
#[track_caller]
pub(super) fn known(state: &Path) -> Vec<Value> {
    let output = program(&["peers", "--output", "json"], state);
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn ids(known: &[Value]) -> Vec<PeerId> {
    let mut ids: Vec<PeerId> =
        known.iter().map(|peer| peer["id"].as_str().unwrap().parse().unwrap()).collect();
    ids.sort();
    ids
}

/// Waits until `wanted` accepts the known peers in the directory.
#[track_caller]
pub(super) fn wait_until_known(state: &Path, awaited: &str, mut wanted: impl FnMut(&[Value]) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let known = known(state);
        if wanted(&known) {
            return;
        }
        assert!(Instant::now() < deadline, "waited for {awaited}; the known peers are {known:?}");
        // No event announces the change of a file.
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until these peers are known and none is marked as left.
#[track_caller]
pub(super) fn wait_until_all_known(state: &Path, peers: &[PeerId]) {
    wait_until_known(state, &format!("{peers:?}"), |known| {
        let is_known =
            |id: &PeerId| known.iter().any(|peer| peer["id"] == id.to_string() && peer["left"] == false);
        peers.iter().all(is_known)
    });
}
