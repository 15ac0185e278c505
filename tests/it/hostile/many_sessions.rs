//! Peers that open one session after another: the rates and the memory of a node belong to keys, and its threads and
//! descriptors are bounded in all states of a session.

use std::fs;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use p2p_gossip::internals::limits::{LONG_FRAMES_MAX, SESSIONS_PER_KEY_MAX, UNAUTHENTICATED_MAX};
use p2p_gossip::internals::wire::{self, FRAME_BYTES_MAX, Message};

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw, client_config, hello};
use super::resources::{alone, raise_descriptor_limit};
use crate::support::process::Spec;
use crate::support::skip::say_skipped;
use crate::support::{Cluster, localhost, unique_addr};

/// Threads of the attacker. Each waits for its handshakes.
const ATTACKERS: usize = 8;
/// Threads of a node beside its sessions: those of HTTP, dials and the newcomer's session.
const THREADS_ELSE: usize = 32;
/// A socket of the attacker that takes no bytes for this long is left alone.
const WRITE_MAX: Duration = Duration::from_millis(20);

/// Joins as far as the node lets it. The Hello and `bytes` go out at once, and no answer is awaited.
fn join_and_send(to: SocketAddr, me: &Credentials, bytes: &[u8]) -> Option<Raw> {
    let socket = std::net::TcpStream::connect(to).ok()?;
    let mut raw = Raw::over(socket, client_config(me));
    raw.shake_hands().ok()?;
    raw.socket.set_write_timeout(Some(WRITE_MAX)).unwrap();
    raw.send(&Message::Hello(hello("many"))).ok()?;
    let _ = raw.send_bytes(bytes);
    Some(raw)
}

/// Opens sessions on several threads until `count` are tried or `over` is set, at most one every `every`, and
/// keeps all of them. `me` gives the key of each. Returns the sessions.
fn open_sessions<'a>(
    to: SocketAddr,
    count: usize,
    every: Duration,
    over: &AtomicBool,
    me: impl Fn(usize) -> &'a Credentials + Sync,
    bytes: &[u8],
) -> Vec<Raw> {
    let (next, start) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        let open = || {
            let mut sessions = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let n = next.fetch_add(1, Ordering::SeqCst);
                if n >= count {
                    break;
                }
                let due = start + every * u32::try_from(n).unwrap();
                thread::sleep(due.saturating_duration_since(Instant::now()));
                sessions.extend(join_and_send(to, me(n), bytes));
            }
            sessions
        };
        let attackers: Vec<_> = (0..ATTACKERS).map(|_| scope.spawn(open)).collect();
        attackers.into_iter().flat_map(|attacker| attacker.join().unwrap()).collect()
    })
}

/// Runs `during` beside an attack, which ends afterwards.
fn beside<T: Send>(attack: impl FnOnce(&AtomicBool) -> T + Send, during: impl FnOnce()) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let attack = scope.spawn(|| attack(&over));
        let result = catch_unwind(AssertUnwindSafe(during));
        over.store(true, Ordering::SeqCst);
        let attacked = attack.join().unwrap();
        result.unwrap_or_else(|panic| resume_unwind(panic));
        attacked
    })
}

/// Waits for pings of the honest peer to the victim, one after the other. Returns the longest wait.
fn longest_wait_for_ping(attack: &Attack, mut until: impl FnMut() -> bool) -> Duration {
    let mut longest = Duration::ZERO;
    let pair = [attack.victim, attack.honest];
    while !until() {
        let (mark, start) = (attack.cluster.mark(), Instant::now());
        attack.cluster.wait_pings(&pair, 1, mark);
        longest = longest.max(start.elapsed());
    }
    longest
}

#[test]
fn peer_that_connects_endlessly_and_floods_delays_no_other_peer() {
    if !raise_descriptor_limit() {
        say_skipped("this process may not have the descriptors that the attack needs");
        return;
    }
    let _alone = alone();
    let attack = Attack::start();
    let (addr, me, before) = (attack.addr(), Credentials::new(), attack.resources());
    let ping = wire::encode(&Message::Ping { seq: 1, text: "x".to_owned() }).unwrap();
    let pings = ping.repeat(4000);
    let is_done = AtomicBool::new(false);
    let (mut longest, mut most) = (Duration::ZERO, before);
    let flood = |over: &AtomicBool| {
        // 250 sessions a second.
        let sessions = open_sessions(addr, 1500, Duration::from_millis(4), over, |_| &me, &pings);
        is_done.store(true, Ordering::SeqCst);
        sessions
    };
    let sessions = beside(flood, || {
        longest = longest_wait_for_ping(&attack, || {
            most = most.max(attack.resources());
            is_done.load(Ordering::SeqCst)
        });
    });
    eprintln!(
        "{} sessions; longest wait for a ping {longest:?}; before {before:?}, most {most:?}",
        sessions.len()
    );
    let bound = before.threads + SESSIONS_PER_KEY_MAX + UNAUTHENTICATED_MAX + THREADS_ELSE;
    assert!(most.threads <= bound, "{most:?}");
    drop(sessions);
    attack.wait_log("opens sessions too often");
    attack.end();
}

#[test]
fn sessions_that_one_key_never_closes_are_bounded() {
    if !raise_descriptor_limit() {
        say_skipped("this process may not have the descriptors that the attack needs");
        return;
    }
    let _alone = alone();
    let mut attack = Attack::start_on(Spec::named("victim").with_limits("ulimit -n 1024"));
    let (addr, me, before) = (attack.addr(), Credentials::new(), attack.resources());
    let over = AtomicBool::new(false);
    let sessions = open_sessions(addr, 1000, Duration::from_millis(4), &over, |_| &me, &[]);
    let now = attack.resources();
    eprintln!("{} sessions of one key; before {before:?}, now {now:?}", sessions.len());
    assert!(now.threads <= before.threads + SESSIONS_PER_KEY_MAX + THREADS_ELSE, "{now:?}");
    attack.newcomer_joins();
    drop(sessions);
    attack.end();
}

#[test]
fn sessions_of_six_hundred_keys_are_bounded_by_the_descriptors() {
    if !raise_descriptor_limit() {
        say_skipped("this process may not have the descriptors that the attack needs");
        return;
    }
    let _alone = alone();
    let attack = Attack::start_on(Spec::named("victim").with_limits("ulimit -n 1024"));
    let (addr, before) = (attack.addr(), attack.resources());
    let keys: Vec<Credentials> = (0..600).map(|_| Credentials::new()).collect();
    let over = AtomicBool::new(false);
    let sessions = open_sessions(addr, 1800, Duration::from_millis(2), &over, |n| &keys[n % keys.len()], &[]);
    let now = attack.resources();
    eprintln!("{} sessions of 600 keys; before {before:?}, now {now:?}", sessions.len());
    attack.wait_log("allows at most");
    assert!(now.descriptors < 1000, "{now:?}");
    assert!(!attack.has_logged("cannot accept connections"));
    drop(sessions);
    attack.end();
}

#[test]
fn half_sent_frames_hold_little_memory_and_give_it_back() {
    if !raise_descriptor_limit() {
        say_skipped("this process may not have the descriptors that the attack needs");
        return;
    }
    let _alone = alone();
    let attack = Attack::start();
    let (addr, before) = (attack.addr(), attack.resources());
    let keys: Vec<Credentials> = (0..1000).map(|_| Credentials::new()).collect();
    let mut half = u32::try_from(FRAME_BYTES_MAX).unwrap().to_be_bytes().to_vec();
    half.resize(FRAME_BYTES_MAX - 10, 4);
    let over = AtomicBool::new(false);
    let mut sessions = Vec::new();
    for some in keys.chunks(100) {
        let pace = Duration::from_millis(2);
        sessions.extend(open_sessions(addr, some.len(), pace, &over, |n| &some[n], &half));
        // A busy machine has not ended the others yet. Memory that all of them have at once stays with the process.
        attack.wait_threads(before.threads + LONG_FRAMES_MAX + THREADS_ELSE);
    }
    let now = attack.resources();
    eprintln!("{} half frames; before {before:?}, now {now:?}", sessions.len());
    drop(sessions);
    attack.wait_threads(before.threads + THREADS_ELSE);
    let after = attack.resources();
    eprintln!("after {after:?}");
    attack.wait_log("waited for longest");
    // Beside the frames themselves, each session has its own 40 kB.
    let bound = before.rss_kib + (LONG_FRAMES_MAX * 2 * FRAME_BYTES_MAX / 1024 + 1000 * 40) as u64;
    assert!(now.rss_kib <= bound, "{now:?}");
    attack.end();
}

#[test]
fn known_peer_joins_although_strangers_hold_all_places() {
    if !raise_descriptor_limit() {
        say_skipped("this process may not have the descriptors that the attack needs");
        return;
    }
    let _alone = alone();
    let mut cluster = Cluster::new();
    let state = cluster.path("state");
    let (key, at) = (cluster.new_key("honest"), unique_addr());
    let victim = || Spec::named("victim").with_bind(at).with_state(&state);
    let honest = || Spec::named("honest").with_bind(localhost()).with_key(&key).with_connect(at);
    let nodes = [cluster.start(victim()), cluster.start(honest())];
    cluster.wait_full_mesh(&nodes);
    for node in nodes {
        cluster.terminate(node);
    }
    // The peer was connected for a minute in previous runs. It comes late.
    let file = state.join("known_peers.toml");
    let known = fs::read_to_string(&file).unwrap();
    let (before, after) = known.split_once("connected_s = ").unwrap();
    let rest = after.split_once('\n').unwrap().1;
    fs::write(&file, format!("{before}connected_s = 60\n{rest}")).unwrap();
    let victim = cluster.start(victim().with_limits("ulimit -n 400"));
    let keys: Vec<Credentials> = (0..200).map(|_| Credentials::new()).collect();
    let over = AtomicBool::new(false);
    let strangers = open_sessions(at, keys.len(), Duration::from_millis(2), &over, |n| &keys[n], &[]);
    cluster.wait_for("a full table", &[victim], |history| {
        history.log_mentions(victim, "table of peers is full").then_some(())
    });
    let honest = cluster.start(honest());
    let honest_id = cluster.id(honest);
    cluster.wait_for("the known peer to join", &[victim, honest], |history| {
        history.view(victim).contains(&honest_id).then_some(())
    });
    cluster.wait_for("the stranger that gave way", &[victim], |history| {
        history.log_mentions(victim, "gave way to a known one").then_some(())
    });
    drop(strangers);
}
