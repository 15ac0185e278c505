//! Tests of the static program in an empty root: no libraries, no devices, no resolver, no /proc.
//!
//! `make test-static` builds the program and sets `P2P_GOSSIP_STATIC`. Without that, root or chroot(8)
//! the tests are skipped and say so.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use crate::support::executable::copy_program;
use crate::support::process::Spec;
use crate::support::skip::{has, skip};
use crate::support::{Cluster, assert_mesh_stays_up, unique_addr};

/// Root directories that hold only the static program. Removed when dropped.
struct EmptyRoots {
    program: PathBuf,
    dir: tempfile::TempDir,
}

impl EmptyRoots {
    /// `None`, with the reason on stderr, if the tests cannot run.
    fn new() -> Option<Self> {
        let Some(program) = std::env::var_os("P2P_GOSSIP_STATIC") else {
            return skip("P2P_GOSSIP_STATIC does not name the static program: run make test-static");
        };
        if !rustix::process::geteuid().is_root() {
            return skip("chroot(8) needs root");
        }
        if !has("chroot", "Debian: coreutils") {
            return None;
        }
        Some(Self { program: program.into(), dir: tempfile::tempdir().unwrap() })
    }

    /// Makes a root directory with the program in it.
    fn root(&self, name: &str) -> PathBuf {
        let root = self.dir.path().join(name);
        fs::create_dir(&root).unwrap();
        copy_program(&self.program, &root.join("p2p-gossip"));
        root
    }
}

/// Starts a DNS server that answers every name with 127.0.0.1; returns its loopback address.
fn dns_server() -> Option<IpAddr> {
    let ip = unique_addr().ip();
    let socket = match UdpSocket::bind((ip, 53)) {
        Ok(socket) => socket,
        Err(error) => return skip(&format!("cannot bind the DNS port: {error}")),
    };
    // The thread ends with the process.
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            // RFC 1035: a header of 12 bytes; the name, up to an empty label; type and class, two bytes each.
            let name = query[12..length].iter().position(|&byte| byte == 0).unwrap();
            let question = &query[12..12 + name + 5];
            let is_ipv4 = question[name + 1..] == [0, 1, 0, 1];
            let header = [query[0], query[1], 0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0];
            let answer: &[u8] = &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1];
            let answer = if is_ipv4 { answer } else { &[] };
            socket.send_to(&[&header, question, answer].concat(), from).unwrap();
        }
    });
    Some(ip)
}

/// Runs the program to its end in this root.
fn run(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("chroot");
    command.arg(root).arg("/p2p-gossip").args(args).stdin(Stdio::null());
    command.output().unwrap()
}

/// The sorted names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nodes_in_empty_roots_connect_and_keep_their_identity() {
    let Some(roots) = EmptyRoots::new() else { return };
    let (bare, kept) = (roots.root("bare"), roots.root("kept"));
    let mut cluster = Cluster::new();
    let first = cluster.start(Spec::named("bare").with_root(&bare).with_args("--bind 127.0.0.1"));
    let spec = Spec::named("kept").with_root(&kept).with_state(Path::new("/state"));
    let spec = spec.with_args("--bind 127.0.0.1");
    let second = cluster.start(spec.clone().with_connect(cluster.addr(first)));
    cluster.wait_full_mesh(&[first, second]);
    assert_mesh_stays_up(&cluster, &[first, second]);
    let id = cluster.id(second);
    assert!(cluster.terminate(second).success());

    // Without a bootstrap address the node finds the mesh again, under the same id.
    let again = cluster.start(spec);
    cluster.wait_full_mesh(&[first, again]);
    assert_eq!(cluster.id(again), id);

    assert!(cluster.terminate(again).success() && cluster.terminate(first).success());
    assert_eq!(names(&bare), ["p2p-gossip"]);
    assert_eq!(names(&kept), ["p2p-gossip", "state"]);
    assert_eq!(names(&kept.join("state")), ["cert.pem", "key.pem", "known_peers.toml", "lock"]);
}

#[test]
fn verbs_work_in_an_empty_root() {
    let Some(roots) = EmptyRoots::new() else { return };
    let root = roots.root("verbs");
    let made = run(&root, &["keygen", "--key", "/key.pem", "--cert", "/cert.pem"]);
    assert!(made.status.success(), "{made:?}");
    let id = run(&root, &["id", "--cert", "/cert.pem"]);
    assert_eq!((id.status.code(), &id.stdout), (Some(0), &made.stdout), "{id:?}");
    assert!(run(&root, &["--version"]).status.success());
    assert_eq!(names(&root), ["cert.pem", "key.pem", "p2p-gossip"]);
}

/// Host names need a resolver, which an empty root lacks: the node logs that and runs on.
#[test]
fn host_name_without_a_resolver_is_logged_and_harmless() {
    let Some(roots) = EmptyRoots::new() else { return };
    let mut cluster = Cluster::new();
    let first =
        cluster.start(Spec::named("first").with_root(&roots.root("first")).with_args("--bind 127.0.0.1"));
    let spec = Spec::named("second").with_root(&roots.root("second"));
    let spec = spec.with_args("--bind 127.0.0.1 --connect peer.example:8080");
    let second = cluster.start(spec.with_connect(cluster.addr(first)));
    cluster.wait_full_mesh(&[first, second]);
    cluster.wait_for("the name that can't be resolved", &[second], |history| {
        let is_logged =
            history.log_mentions(second, "peer.example:8080") && history.log_mentions(second, "looked up");
        is_logged.then_some(())
    });
    assert_mesh_stays_up(&cluster, &[first, second]);
}

/// A resolver needs only its configuration files: the C library in the program must not load further
/// parts of itself.
#[test]
fn host_name_in_the_hosts_file_is_found() {
    let Some(roots) = EmptyRoots::new() else { return };
    // systemd's usual line; the program has only `files` and `dns` built in.
    let sources = "hosts: mymachines resolve files myhostname dns\n";
    assert_connects_by_name(&roots, &[("hosts", "127.0.0.1 peer.example\n"), ("nsswitch.conf", sources)]);
}

#[test]
fn host_name_from_a_dns_server_is_found() {
    let Some(roots) = EmptyRoots::new() else { return };
    let Some(server) = dns_server() else { return };
    assert_connects_by_name(&roots, &[("resolv.conf", &format!("nameserver {server}\n"))]);
}

/// Asserts that a node with these files in its /etc connects to another by host name.
fn assert_connects_by_name(roots: &EmptyRoots, files: &[(&str, &str)]) {
    let root = roots.root("named");
    fs::create_dir(root.join("etc")).unwrap();
    for (name, content) in files {
        fs::write(root.join("etc").join(name), content).unwrap();
    }
    let mut cluster = Cluster::new();
    let spec = Spec::named("first").with_root(&roots.root("first"));
    let first = cluster.start(spec.with_args("--bind 127.0.0.1"));
    let join = format!("--bind 127.0.0.1 --connect peer.example:{}", cluster.addr(first).port());
    let second = cluster.start(Spec::named("second").with_root(&root).with_args(&join));
    cluster.wait_full_mesh(&[first, second]);
}
