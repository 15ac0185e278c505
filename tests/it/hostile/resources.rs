//! Connections that exhaust resources: threads, descriptors, time.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use p2p_gossip::internals::limits::UNAUTHENTICATED_MAX;
use p2p_gossip::internals::wire::{self, Message};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use super::attack_harness::{Attack, HANDSHAKE_TOO_LONG};
use super::raw::{Credentials, Raw, client, client_config, hello, wait_closed};
use crate::support::process::Spec;
use crate::support::skip::say_skipped;

/// Runs one flood at a time; parallel floods would starve each other's honest peers.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Descriptors for the attacker, which holds thousands, and for the tests that run in parallel.
const DESCRIPTORS: u64 = 4096;

/// Raises the soft limit of this process and keeps it raised. Nodes that must run out of descriptors have
/// their own limit. False if the hard limit is too low.
pub(super) fn raise_descriptor_limit() -> bool {
    let limit = getrlimit(Resource::Nofile);
    let is_enough = |limit: Option<u64>| limit.is_none_or(|descriptors| descriptors >= DESCRIPTORS);
    let raised = Rlimit { current: Some(DESCRIPTORS), maximum: limit.maximum };
    is_enough(limit.current) || is_enough(limit.maximum) && setrlimit(Resource::Nofile, raised).is_ok()
}

/// Opens connections that send nothing.
fn open_silent(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(to).expect("the backlog takes it")).collect()
}

#[test]
fn newcomer_joins_beside_two_thousand_silent_connections() {
    if !raise_descriptor_limit() {
        say_skipped(&format!(
            "this process may not have the {DESCRIPTORS} descriptors that the attack needs"
        ));
        return;
    }
    let _alone = alone();
    let mut attack = Attack::start();
    let threads_before = attack.threads();
    let crowd = open_silent(attack.addr(), 2000);
    attack.newcomer_joins();
    let extra = attack.threads().saturating_sub(threads_before);
    assert!(extra <= UNAUTHENTICATED_MAX + 16, "{extra} threads for strangers");
    attack.wait_log("closed the oldest of the source that holds the most");
    let lines = attack.log_count("unfinished handshakes; closed the oldest");
    assert!(lines <= 50, "{lines} lines for one cause");
    drop(crowd);
    attack.end();
}

#[test]
fn unfinished_handshakes_are_closed_at_the_deadline() {
    let _alone = alone();
    let attack = Attack::start();
    let addr = attack.addr();
    let mut hello_bytes = Vec::new();
    client(client_config(&Credentials::new())).write_tls(&mut hello_bytes).unwrap();
    let dripping = open_silent(addr, 200);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in &hello_bytes {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                for mut socket in &dripping {
                    let _ = socket.write_all(&[*byte]);
                }
                thread::sleep(Duration::from_secs(1));
            }
        });
        // In parallel: a completed TLS handshake without a Hello, half a Hello, and half a ClientHello.
        let mute = Raw::dial(addr, &Credentials::new());
        let mut half = Raw::dial(addr, &Credentials::new());
        let whole = wire::encode(&Message::Hello(hello("half"))).unwrap();
        half.send_bytes(&whole[..whole.len() / 2]).unwrap();
        let stuck = TcpStream::connect(addr).unwrap();
        (&stuck).write_all(&hello_bytes[..hello_bytes.len() / 2]).unwrap();
        mute.wait_end();
        half.wait_end();
        wait_closed(&stuck);
        dripping.iter().for_each(wait_closed);
        over.store(true, Ordering::SeqCst);
    });
    attack.wait_log(HANDSHAKE_TOO_LONG);
    let lines = attack.log_count(HANDSHAKE_TOO_LONG);
    assert!(lines <= 20, "{lines} lines for one cause");
    attack.end();
}

#[test]
fn newcomer_joins_beside_connections_that_open_and_close_endlessly() {
    let _alone = alone();
    let mut attack = Attack::start();
    let (addr, over) = (attack.addr(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // The rate is limited, because the honest nodes need processor time.
            while !over.load(Ordering::SeqCst) {
                (0..20).for_each(|_| drop(TcpStream::connect(addr)));
                thread::sleep(Duration::from_millis(20));
            }
        });
        let joined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attack.newcomer_joins()));
        over.store(true, Ordering::SeqCst);
        joined.unwrap();
    });
    attack.end();
}

#[test]
fn newcomer_joins_when_silent_connections_hold_all_descriptors() {
    let _alone = alone();
    let mut attack = Attack::start();
    // The node has planned with more. It runs as a program does that needs most of its descriptors for other work.
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    let pid = i32::try_from(attack.cluster.pid(attack.victim)).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Nofile, few).expect("the limit of a child may be lowered");
    let crowd = open_silent(attack.addr(), 200);
    attack.wait_log("cannot accept connections");
    // The silent connections were evicted before the handshake deadline.
    attack.wait_log("it gave way to a newer connection");
    attack.newcomer_joins();
    let lines = attack.log_count("cannot accept connections");
    assert!(lines <= 30, "{lines} lines for one cause");
    drop(crowd);
    attack.end();
}

#[test]
fn newcomer_joins_when_silent_connections_hold_all_threads() {
    // The limit does not apply to root, so the node runs under a user id that no other process has, not even a
    // second run of these tests. The id is below the one that the command-line tests use.
    let number = 20_000 + std::process::id() % 30_000;
    let as_unique_user = format!("setpriv --reuid {number} --regid {number} --clear-groups");
    let program = env!("CARGO_BIN_EXE_p2p-gossip");
    let possible = Command::new("sh")
        .args(["-c", &format!("prlimit --nproc=16 {as_unique_user} \"$0\" --version"), program])
        .output()
        .is_ok_and(|output| output.status.success());
    if !possible {
        say_skipped("this needs root, setpriv, prlimit and a program that others may run");
        return;
    }
    let _alone = alone();
    let limits = format!("exec prlimit --nproc=16 {as_unique_user} \"$0\" \"$@\"");
    let mut attack = Attack::start_on(Spec::named("victim").with_limits(limits));
    let crowd = open_silent(attack.addr(), 100);
    attack.wait_log("cannot accept connections");
    // The silent connections were evicted before the handshake deadline.
    attack.wait_log("it gave way to a newer connection");
    attack.newcomer_joins();
    drop(crowd);
    attack.end();
}
