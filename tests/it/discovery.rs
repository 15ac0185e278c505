//! `--discover`: nodes on one local network find each other by beacons, each in a network namespace of its own.
//!
//! They need root, network namespaces, and the tools ip, ss and nft; without these they print a message and pass.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use p2p_gossip::internals::beacon::{BEACON_BYTES, BEACON_PORT};
use p2p_gossip::{DownReason, NetworkKey};

use crate::support::history::Member;
use crate::support::netns::{Network, addr};
use crate::support::process::Spec;
use crate::support::{Cluster, DEADLINE};

/// Datagrams of the flood, per millisecond: ten thousand a second.
const FLOOD_PER_MS: usize = 10;

fn spec(network: &Network, node: usize) -> Spec {
    spec_in("home", network, node)
}

/// A node that looks for the nodes of the network with this name.
fn spec_in(name: &str, network: &Network, node: usize) -> Spec {
    let spec = Spec { port: addr(node).port(), ..Spec::named(format!("n{node}")) };
    spec.with_namespace(network.namespace(node)).with_option("--discover", name)
}

/// Waits until the member sees exactly these.
fn wait_sees(cluster: &Cluster, member: Member, seen: &[Member]) {
    let ids: Vec<_> = seen.iter().map(|&other| cluster.id(other)).collect();
    cluster.wait_for("the peers that beacons lead to", &[member], |history| {
        let view = history.view(member);
        (view.len() == ids.len() && ids.iter().all(|id| view.contains(id))).then_some(())
    });
}

/// Runs in the node's namespace, on a thread of its own.
fn inside<T: Send>(network: &Network, node: usize, body: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/run/netns/{}", network.namespace(node))).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            body()
        });
        thread.join().unwrap()
    })
}

#[test]
fn twenty_nodes_find_each_other_without_an_address() {
    const NODES: usize = 20;
    let Some(network) = Network::new(NODES) else { return };
    let mut cluster = Cluster::new();
    let start = Instant::now();
    let members: Vec<Member> = (1..=NODES).map(|node| cluster.spawn(spec(&network, node))).collect();
    for &member in &members {
        cluster.id(member);
    }
    let listening = Instant::now();
    cluster.wait_full_mesh(&members);
    let _ = writeln!(
        std::io::stderr(),
        "{NODES} nodes: all listen after {:.2?}, and are a whole mesh {:.2?} later",
        listening - start,
        listening.elapsed()
    );
}

#[test]
fn one_way_of_beacons_is_enough() {
    let multicast = "ip daddr 224.0.0.0/4 drop";
    let broadcast = "pkttype broadcast ip protocol udp drop";
    for faults in [[multicast, "meta protocol ip6 drop"], [broadcast, "meta protocol ip6 drop"]] {
        let Some(network) = Network::new(3) else { return };
        network.set_faults(&faults.map(str::to_owned));
        let mut cluster = Cluster::new();
        // Its beacons name another network, and the full mesh below does not include it.
        cluster.start(spec_in("elsewhere", &network, 3));
        let pair = [1, 2].map(|node| cluster.spawn(spec(&network, node)));
        cluster.wait_full_mesh(&pair);
    }
}

#[test]
fn nodes_meet_over_ipv6_alone() {
    let Some(network) = Network::new(2) else { return };
    for node in [1, 2] {
        network.ip(node, "addr flush dev eth0 scope global");
    }
    let mut cluster = Cluster::new();
    let pair = [1, 2].map(|node| cluster.spawn(spec(&network, node)));
    cluster.wait_full_mesh(&pair);
}

/// Node 3 is not on the bridge. The link between nodes 2 and 3 is made while both run.
#[test]
fn nodes_meet_over_an_interface_that_comes_later() {
    let Some(network) = Network::new(3) else { return };
    network.ip(3, "link set eth0 down");
    let mut cluster = Cluster::new();
    let [one, two, three] = [1, 2, 3].map(|node| cluster.spawn(spec(&network, node)));
    wait_sees(&cluster, two, &[one]);
    let other = network.namespace(3);
    network.ip(2, &format!("link add eth1 type veth peer name eth1 netns {other}"));
    for (node, ip) in [(2, "10.79.0.2"), (3, "10.79.0.3")] {
        network.ip(node, &format!("addr add {ip}/24 dev eth1\nlink set eth1 up"));
    }
    wait_sees(&cluster, two, &[one, three]);
    wait_sees(&cluster, three, &[two]);
}

/// Processor time of the thread that hears beacons, in clock ticks of a hundredth of a second.
fn discovery_ticks(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let stat = stats.into_iter().find(|stat| stat.contains("(discovery)")).expect("the thread runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// An attacker on the network of a closed mesh repeats the beacon of a node that is gone, and sends some with wrong tags,
/// ten thousand a second.
#[test]
fn flood_of_forged_and_repeated_beacons_delays_no_join_and_lures_no_node() {
    let Some(network) = Network::new(3) else { return };
    let mut cluster = Cluster::new();
    let key = cluster.path("network.key");
    NetworkKey::generate().unwrap().write_new(&key).unwrap();
    let spec = |node| spec(&network, node).with_option("--network-key", &key);
    let (listening, hearing) = inside(&network, 3, || {
        let hearing = UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, BEACON_PORT)).unwrap();
        hearing.set_read_timeout(Some(DEADLINE)).unwrap();
        (TcpListener::bind(addr(3)).unwrap(), hearing)
    });
    listening.set_nonblocking(true).unwrap();
    let victim = cluster.start(spec(1));
    // The beacons of a node that is connected would be ignored.
    let gone = cluster.start(spec(2));
    let mut beacon = [0; BEACON_BYTES + 1];
    let length = loop {
        let (length, from) = hearing.recv_from(&mut beacon).unwrap();
        if from.ip() == addr(2).ip() {
            break length;
        }
    };
    assert_eq!(length, BEACON_BYTES);
    cluster.wait_full_mesh(&[victim, gone]);
    let (id, mark) = (cluster.id(gone), cluster.mark());
    cluster.kill(gone);
    cluster.wait_down(&[victim], id, DownReason::Closed, mark);

    let (stop, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let attack = || {
        let to = SocketAddr::new(addr(1).ip(), BEACON_PORT);
        let mut beacon = beacon[..BEACON_BYTES].to_vec();
        let start = Instant::now();
        while !stop.load(Ordering::Relaxed) && start.elapsed() < DEADLINE {
            for n in 0..FLOOD_PER_MS {
                // Some have a wrong tag, the others are copies.
                beacon[BEACON_BYTES - 1] ^= u8::from(n % 3 > 0);
                let _ = hearing.send_to(&beacon, to);
            }
            let sent = sent.fetch_add(FLOOD_PER_MS, Ordering::Relaxed) + FLOOD_PER_MS;
            let due = start + Duration::from_millis((sent / FLOOD_PER_MS) as u64);
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    };
    thread::scope(|scope| {
        scope.spawn(attack);
        let (ticks, begin) = (discovery_ticks(cluster.pid(victim)), Instant::now());
        let newcomer = cluster.spawn(spec(2));
        cluster.id(newcomer);
        let started = Instant::now();
        cluster.wait_full_mesh(&[victim, newcomer]);
        let joined = started.elapsed();
        // Half a minute of the flood would make the test long; five pings of each second are enough to measure.
        let mark = cluster.mark();
        cluster.wait_pings(&[victim, newcomer], 25, mark);
        let ticks = discovery_ticks(cluster.pid(victim)) - ticks;
        let time = begin.elapsed();
        stop.store(true, Ordering::Relaxed);
        let percent = ticks as f64 / time.as_secs_f64();
        let rate = sent.load(Ordering::Relaxed) as f64 / time.as_secs_f64();
        let _ = writeln!(
            std::io::stderr(),
            "joined in {joined:.2?} during a flood of {rate:.0} beacons a second; the thread took {percent:.1} % of a core"
        );
        assert!(percent < 20.0, "{percent} % of a core");
    });
    assert!(listening.accept().is_err(), "a node dialled the attacker");
}
