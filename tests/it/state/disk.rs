//! Tests of a disk that refuses writes: the node runs on, keeps the old file, logs once and catches up.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use super::store::{Store, ids, known, wait_until_all_known, wait_until_known};
use crate::support::history::Member;
use crate::support::process::Spec;
use crate::support::skip::say_skipped;
use crate::support::{Cluster, DEADLINE, unique_addr};

const WRITE_FAILED: &str = "cannot write the known peers";
const WRITE_RECOVERED: &str = "written again";

fn wait_for_log(cluster: &Cluster, node: Member, text: &str) {
    cluster.wait_for(&format!("{text:?}"), &[node], |history| history.log_mentions(node, text).then_some(()));
}

#[test]
fn failed_write_is_logged_once_and_made_up_for_later() {
    let store = Store::new();
    let mut cluster = Cluster::new();
    let spec = |name: &str| Spec::named(name).with_bind(unique_addr());
    let state = store.dir("a");
    let a = cluster.start(spec("a").with_state(&state));
    let b = cluster.start(spec("b").with_connect(cluster.addr(a)));
    wait_until_all_known(&state, &[cluster.id(b)]);
    // A directory in place of the temporary file makes the write fail, also for root.
    let obstacle = state.join(".known_peers.toml.tmp");
    fs::create_dir(&obstacle).unwrap();
    let c = cluster.start(spec("c").with_connect(cluster.addr(a)));
    wait_for_log(&cluster, a, WRITE_FAILED);
    let d = cluster.start(spec("d").with_connect(cluster.addr(a)));
    let nodes = [a, b, c, d];
    cluster.wait_full_mesh(&nodes);
    let mark = cluster.mark();
    cluster.wait_pings(&nodes, 10, mark);
    cluster.check_steady(&nodes, mark);
    assert_eq!(ids(&known(&state)), [cluster.id(b)], "the old file stays");

    fs::remove_dir(&obstacle).unwrap();
    wait_for_log(&cluster, a, WRITE_RECOVERED);
    wait_until_all_known(&state, &[b, c, d].map(|node| cluster.id(node)));
    cluster.check(&nodes, |history| {
        let count = history.log_count(a, WRITE_FAILED);
        (count != 1).then(|| format!("logged {count} times that it cannot write"))
    });
}

/// A small file system for one node, which a test can fill. Unmounted when dropped.
struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    fn new(store: &Store) -> Result<Self, String> {
        let mount = store.dir("disk");
        fs::create_dir(&mount).map_err(|error| error.to_string())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k,mode=700", "p2p-gossip-test"])
            .arg(&mount)
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        if mounted.status.success() {
            Ok(Self { mount })
        } else {
            Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned())
        }
    }

    /// Fills the file system completely.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        while filler.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }

    fn state(&self) -> PathBuf {
        self.mount.join("state")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process with an open file keeps the memory a little longer, which does no harm.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

#[test]
fn full_disk_keeps_the_old_file_and_the_node_running() {
    let store = Store::new();
    let disk = match SmallDisk::new(&store) {
        Ok(disk) => disk,
        Err(error) => return say_skipped(&format!("no small file system can be mounted here: {error}")),
    };
    let mut cluster = Cluster::new();
    let spec = |name: &str| Spec::named(name).with_bind(unique_addr());
    let a = cluster.start(spec("a").with_state(&disk.state()));
    let b = cluster.start(spec("b").with_connect(cluster.addr(a)));
    wait_until_all_known(&disk.state(), &[cluster.id(b)]);
    disk.fill();
    let c = cluster.start(spec("c").with_connect(cluster.addr(a)));
    wait_for_log(&cluster, a, WRITE_FAILED);
    cluster.wait_full_mesh(&[a, b, c]);
    assert_eq!(ids(&known(&disk.state())), [cluster.id(b)], "the old file stays");
    wait_until_no_temporary_is_left(&disk.state());

    // A restarted node reads its key and needs the disk for nothing else.
    let again = cluster.restart_spec(a);
    cluster.kill(a);
    let a = cluster.start(again);
    cluster.wait_full_mesh(&[a, b, c]);
    fs::remove_file(disk.filler()).unwrap();
    wait_until_known(&disk.state(), "both", |known| known.len() == 2);
    cluster.terminate(a);
}

/// Waits until the directory has no temporary file: a failed attempt removes its own, and the next one
/// starts a second later.
fn wait_until_no_temporary_is_left(state: &Path) {
    let deadline = Instant::now() + DEADLINE;
    let is_temporary = |name: OsString| name.to_string_lossy().ends_with(".tmp");
    while fs::read_dir(state).unwrap().any(|entry| is_temporary(entry.unwrap().file_name())) {
        assert!(Instant::now() < deadline, "a temporary file is left");
        thread::yield_now();
    }
}
