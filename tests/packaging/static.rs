//! The static program where there is nothing else: no libraries, no devices, no resolver, no /proc.
//!
//! `make test-static` builds it and says where it is; without that, without root or without chroot(8)
//! the tests say that they were skipped.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use crate::support::executable::copy_program;
use crate::support::netns::skip;
use crate::support::process::Spec;
use crate::support::{Cluster, own_addr, stays_whole};

/// Directories that hold the static program and nothing else.
struct Empty {
    program: PathBuf,
    dir: tempfile::TempDir,
}

impl Empty {
    fn new() -> Option<Self> {
        let Some(program) = std::env::var_os("P2P_GOSSIP_STATIC") else {
            return skip("P2P_GOSSIP_STATIC does not say where the static program is: make test-static");
        };
        if !rustix::process::geteuid().is_root() {
            return skip("chroot(8) needs root");
        }
        if Command::new("chroot").arg("--version").output().is_err() {
            return skip("chroot(8) is missing; Debian has it in the package coreutils");
        }
        Some(Self { program: program.into(), dir: tempfile::tempdir().unwrap() })
    }

    fn root(&self, name: &str) -> PathBuf {
        let root = self.dir.path().join(name);
        fs::create_dir(&root).unwrap();
        copy_program(&self.program, &root.join("p2p-gossip"));
        root
    }
}

/// A DNS server on an address of loopback that answers every name with 127.0.0.1; where it is.
fn dns_server() -> Option<IpAddr> {
    let ip = own_addr().ip();
    let socket = match UdpSocket::bind((ip, 53)) {
        Ok(socket) => socket,
        Err(error) => return skip(&format!("no server can be at the port of DNS: {error}")),
    };
    // Ends with the process; it waits and does nothing else.
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            // A header of 12 bytes; the name, up to an empty label; type and class, of two bytes each.
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

/// Runs the program to its end in its root.
fn run(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("chroot");
    command.arg(root).arg("/p2p-gossip").args(args).stdin(Stdio::null());
    command.output().unwrap()
}

/// What there is in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn nodes_with_nothing_but_the_program_meet_and_are_the_same_after_a_restart() {
    let Some(empty) = Empty::new() else { return };
    let (bare, kept) = (empty.root("bare"), empty.root("kept"));
    let mut cluster = Cluster::new();
    let first = cluster.start(Spec::named("bare").with_root(&bare).with_args("--bind 127.0.0.1"));
    let spec = Spec::named("kept").with_root(&kept).with_state(Path::new("/state"));
    let spec = spec.with_args("--bind 127.0.0.1");
    let second = cluster.start(spec.clone().with_connect(cluster.addr(first)));
    cluster.wait_full_mesh(&[first, second]);
    stays_whole(&cluster, &[first, second]);
    let id = cluster.id(second);
    assert!(cluster.terminate(second).success());

    // It finds the mesh by itself, and is who it was.
    let again = cluster.start(spec);
    cluster.wait_full_mesh(&[first, again]);
    assert_eq!(cluster.id(again), id);

    assert!(cluster.terminate(again).success() && cluster.terminate(first).success());
    assert_eq!(names(&bare), ["p2p-gossip"]);
    assert_eq!(names(&kept), ["p2p-gossip", "state"]);
    assert_eq!(names(&kept.join("state")), ["cert.pem", "key.pem", "known_peers.toml", "lock"]);
}

#[test]
fn the_verbs_need_nothing_either() {
    let Some(empty) = Empty::new() else { return };
    let root = empty.root("verbs");
    let made = run(&root, &["keygen", "--key", "/key.pem", "--cert", "/cert.pem"]);
    assert!(made.status.success(), "{made:?}");
    let id = run(&root, &["id", "--cert", "/cert.pem"]);
    assert_eq!((id.status.code(), &id.stdout), (Some(0), &made.stdout), "{id:?}");
    assert!(run(&root, &["--version"]).status.success());
    assert_eq!(names(&root), ["cert.pem", "key.pem", "p2p-gossip"]);
}

/// Names need a resolver, which is more than the program: the log says so, and the node runs on.
#[test]
fn a_name_without_a_resolver_is_told_and_harms_nobody() {
    let Some(empty) = Empty::new() else { return };
    let mut cluster = Cluster::new();
    let first =
        cluster.start(Spec::named("first").with_root(&empty.root("first")).with_args("--bind 127.0.0.1"));
    let spec = Spec::named("second").with_root(&empty.root("second"));
    let spec = spec.with_args("--bind 127.0.0.1 --connect peer.example:8080");
    let second = cluster.start(spec.with_connect(cluster.addr(first)));
    cluster.wait_full_mesh(&[first, second]);
    cluster.wait_for("the name that can't be resolved", &[second], |history| {
        let told =
            history.log_mentions(second, "peer.example:8080") && history.log_mentions(second, "looked up");
        told.then_some(())
    });
    stays_whole(&cluster, &[first, second]);
}

/// With the files that a resolver needs names work, and nothing else is asked for: a C library that is
/// linked in must not look for parts of itself.
#[test]
fn a_name_in_the_file_of_hosts_is_found() {
    let Some(empty) = Empty::new() else { return };
    // As systemd has it: of what stands here, only files and DNS are built in.
    let sources = "hosts: mymachines resolve files myhostname dns\n";
    meets_by_name(&empty, &[("hosts", "127.0.0.1 peer.example\n"), ("nsswitch.conf", sources)]);
}

#[test]
fn a_name_that_a_dns_server_knows_is_found() {
    let Some(empty) = Empty::new() else { return };
    let Some(server) = dns_server() else { return };
    meets_by_name(&empty, &[("resolv.conf", &format!("nameserver {server}\n"))]);
}

/// Two nodes, of which one knows the other by name, with these files in its /etc.
fn meets_by_name(empty: &Empty, files: &[(&str, &str)]) {
    let root = empty.root("named");
    fs::create_dir(root.join("etc")).unwrap();
    for (name, content) in files {
        fs::write(root.join("etc").join(name), content).unwrap();
    }
    let mut cluster = Cluster::new();
    let spec = Spec::named("first").with_root(&empty.root("first"));
    let first = cluster.start(spec.with_args("--bind 127.0.0.1"));
    let join = format!("--bind 127.0.0.1 --connect peer.example:{}", cluster.addr(first).port());
    let second = cluster.start(Spec::named("second").with_root(&root).with_args(&join));
    cluster.wait_full_mesh(&[first, second]);
}
