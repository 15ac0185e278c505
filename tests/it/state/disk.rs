//! A disk that does not take what a node knows: the node runs on, keeps the old file, says so once,
//! and catches up.

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
use crate::support::{Cluster, DEADLINE, own_addr};

const REFUSED: &str = "cannot write the known peers";
const AGAIN: &str = "the known peers can be written again";

fn wait_for_log(cluster: &Cluster, node: Member, text: &str) {
    cluster.wait_for(&format!("{text:?}"), &[node], |history| history.log_mentions(node, text).then_some(()));
}

#[test]
fn a_node_that_cannot_write_says_so_once_runs_on_and_catches_up() {
    let store = Store::new();
    let mut cluster = Cluster::new();
    let spec = |name: &str| Spec::named(name).with_bind(own_addr());
    let state = store.of("a");
    let a = cluster.start(spec("a").with_state(&state));
    let b = cluster.start(spec("b").with_connect(cluster.addr(a)));
    wait_until_all_known(&state, &[cluster.id(b)]);
    // A directory is where the new file would be written first: not even root can write there.
    let in_the_way = state.join(".known_peers.toml.tmp");
    fs::create_dir(&in_the_way).unwrap();
    let c = cluster.start(spec("c").with_connect(cluster.addr(a)));
    wait_for_log(&cluster, a, REFUSED);
    let d = cluster.start(spec("d").with_connect(cluster.addr(a)));
    let nodes = [a, b, c, d];
    cluster.wait_full_mesh(&nodes);
    let mark = cluster.mark();
    cluster.wait_pings(&nodes, 10, mark);
    cluster.check_steady(&nodes, mark);
    assert_eq!(ids(&known(&state)), [cluster.id(b)], "the old file stays");

    fs::remove_dir(&in_the_way).unwrap();
    wait_for_log(&cluster, a, AGAIN);
    wait_until_all_known(&state, &[b, c, d].map(|node| cluster.id(node)));
    cluster.check(&nodes, |history| {
        let said = history.log_count(a, REFUSED);
        (said != 1).then(|| format!("said {said} times that it cannot write"))
    });
}

/// A file system of its own for one node, small enough to be filled.
struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    fn new(store: &Store) -> Result<Self, String> {
        let mount = store.of("disk");
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

    /// Leaves no room at all.
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
        // Whoever still has a file open there keeps the memory a little longer, and nothing else.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

#[test]
fn a_full_disk_keeps_the_old_file_and_a_node_running() {
    let store = Store::new();
    let disk = match SmallDisk::new(&store) {
        Ok(disk) => disk,
        Err(why) => return eprintln!("SKIPPED: no small file system can be mounted here: {why}"),
    };
    let mut cluster = Cluster::new();
    let spec = |name: &str| Spec::named(name).with_bind(own_addr());
    let a = cluster.start(spec("a").with_state(&disk.state()));
    let b = cluster.start(spec("b").with_connect(cluster.addr(a)));
    wait_until_all_known(&disk.state(), &[cluster.id(b)]);
    disk.fill();
    let c = cluster.start(spec("c").with_connect(cluster.addr(a)));
    wait_for_log(&cluster, a, REFUSED);
    cluster.wait_full_mesh(&[a, b, c]);
    assert_eq!(ids(&known(&disk.state())), [cluster.id(b)], "the old file stays");
    wait_until_no_temporary_is_left(&disk.state());

    // One that is started now has its key, and does not need the disk for anything else.
    let again = cluster.spec_in_place(a);
    cluster.kill(a);
    let a = cluster.start(again);
    cluster.wait_full_mesh(&[a, b, c]);
    fs::remove_file(disk.filler()).unwrap();
    wait_until_known(&disk.state(), "both", |known| known.len() == 2);
    cluster.terminate(a);
}

/// A failed attempt removes what it wrote, and the next is not before a second has passed.
fn wait_until_no_temporary_is_left(state: &Path) {
    let deadline = Instant::now() + DEADLINE;
    let is_temporary = |name: OsString| name.to_string_lossy().ends_with(".tmp");
    while fs::read_dir(state).unwrap().any(|entry| is_temporary(entry.unwrap().file_name())) {
        assert!(Instant::now() < deadline, "half a file stays in the way");
        thread::yield_now();
    }
}
