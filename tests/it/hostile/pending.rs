//! Silent connections from more addresses than the node has places for unfinished handshakes.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use p2p_gossip::internals::limits::UNAUTHENTICATED_MAX;
use socket2::{Domain, Socket, Type};

use super::attack_harness::Attack;
use super::resources::alone;
use crate::support::history::Member;
use crate::support::netns::Namespace;
use crate::support::process::Spec;
use crate::support::{Cluster, localhost, unique_addr};

/// More than there are places, so that some of the connections are always evicted.
const SOURCES: u16 = 300;
/// The attacker opens at most one connection in this time: 500 a second, so that the node's honest work
/// keeps a part of a small machine.
const OPEN_EVERY: Duration = Duration::from_millis(2);
/// Text of the node's log line about an eviction.
const EVICTED: &str = "closed the oldest of all";

/// Opens a silent connection from each source, and opens each again as soon as the node has closed it.
fn flood(to: SocketAddr, sources: &[SocketAddr], over: &AtomicBool) {
    let mut connections: Vec<Option<TcpStream>> = sources.iter().map(|_| None).collect();
    while !over.load(Ordering::SeqCst) {
        for (connection, &source) in connections.iter_mut().zip(sources) {
            if !connection.as_ref().is_some_and(is_open) {
                *connection = open(source, to);
                thread::sleep(OPEN_EVERY);
            }
        }
        thread::sleep(OPEN_EVERY);
    }
}

fn is_open(connection: &TcpStream) -> bool {
    connection.peek(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn open(source: SocketAddr, to: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&source.into()).expect("the source is an address of this machine");
    socket.connect(&to.into()).ok()?;
    socket.set_nonblocking(true).unwrap();
    Some(socket.into())
}

/// Starts a newcomer that joins through the victim during the flood; at most one of its dials may fail.
fn join_during_flood(cluster: &mut Cluster, victim: Member, newcomer: Spec) {
    let addr = cluster.addr(victim);
    let victim_id = cluster.id(victim);
    cluster.wait_for("evictions", &[victim], |history| history.log_mentions(victim, EVICTED).then_some(()));
    let began = Instant::now();
    let newcomer = cluster.start(newcomer.with_connect(addr));
    let newcomer_id = cluster.id(newcomer);
    let involved = [victim, newcomer];
    cluster.wait_for("the newcomer to join", &involved, |history| {
        let connected =
            history.view(newcomer).contains(&victim_id) && history.view(victim).contains(&newcomer_id);
        // The log shows failed dials before this line.
        (connected && history.log_mentions(newcomer, "peer up")).then_some(())
    });
    eprintln!("the newcomer joined {:?} after its start", began.elapsed());
    cluster.check(&involved, |history| {
        let is_failure = |line: &&String| line.contains("dial failed") || line.contains("cannot join");
        let failed = history.log(newcomer).iter().filter(is_failure).count();
        (failed > 1).then(|| format!("{failed} dials of the newcomer failed"))
    });
    cluster.terminate(newcomer);
}

/// Runs a flood on a thread that `enter` has prepared, and `during` on this thread.
fn with_flood(to: SocketAddr, sources: &[SocketAddr], enter: impl FnOnce() + Send, during: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            enter();
            flood(to, sources, &over);
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        over.store(true, Ordering::SeqCst);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn newcomer_joins_beside_silent_connections_from_300_ipv4_addresses() {
    assert!(usize::from(SOURCES) > UNAUTHENTICATED_MAX);
    let _alone = alone();
    let mut attack = Attack::start();
    let source = |n: u16| {
        let [high, low] = n.to_be_bytes();
        SocketAddr::from(([127, 1, high, low], 0))
    };
    let sources: Vec<SocketAddr> = (1..=SOURCES).map(source).collect();
    let (to, victim) = (attack.addr(), attack.victim);
    with_flood(
        to,
        &sources,
        || {},
        || {
            // One newcomer has the highest of all addresses, the other the lowest.
            let highest = unique_addr();
            assert!(sources.iter().all(|source| source.ip() < highest.ip()));
            join_during_flood(&mut attack.cluster, victim, Spec::named("highest").with_bind(highest));
            join_during_flood(&mut attack.cluster, victim, Spec::named("lowest").with_bind(localhost()));
            let lines = attack.log_count(EVICTED);
            assert!(lines <= 50, "{lines} lines for one cause");
        },
    );
    attack.end();
}

#[test]
fn newcomer_joins_beside_silent_connections_from_300_ipv6_subnets() {
    let at = |subnet: u16| Ipv6Addr::new(0xfd77, 0, 0, subnet, 0, 0, 0, 1);
    let (lowest, highest) = (at(0), at(u16::MAX));
    let subnets = 1..=SOURCES;
    let commands: String = subnets
        .clone()
        .map(at)
        .chain([lowest, highest])
        .fold("link set lo up\n".to_owned(), |commands, ip| {
            commands + &format!("addr add {ip}/128 dev lo nodad\n")
        });
    let Some(namespace) = Namespace::new(&commands) else {
        return;
    };
    let _alone = alone();
    let mut cluster = Cluster::new();
    let spec = |name: &str, ip: Ipv6Addr| {
        Spec::named(name).with_namespace(namespace.name().to_owned()).with_bind(SocketAddr::from((ip, 0)))
    };
    let victim = cluster.start(spec("victim", lowest));
    let to = cluster.addr(victim);
    let sources: Vec<SocketAddr> = subnets.map(|subnet| SocketAddr::from((at(subnet), 0))).collect();
    let enter = || {
        let file = File::open(format!("/run/netns/{}", namespace.name())).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    };
    with_flood(to, &sources, enter, || {
        join_during_flood(&mut cluster, victim, spec("highest", highest));
        join_during_flood(&mut cluster, victim, spec("lowest", lowest));
    });
}
