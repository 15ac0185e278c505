//! Circuits: nodes that cannot connect to each other meet through a third one.
//!
//! They need root, network namespaces, and the tools ip, ss and nft; without these they print a message and pass.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use p2p_gossip::{DownReason, Event, PeerId};

use crate::support::Cluster;
use crate::support::executable::RunToEnd as _;
use crate::support::history::{History, Member};
use crate::support::netns::{Network, addr, addr6, drop_dials, drop_from_to, partition};
use crate::support::process::Spec;

/// Nodes 1, 2, …, each in its own namespace.
struct World {
    // Dropped first: namespaces go after the nodes in them.
    cluster: Cluster,
    network: Network,
    nodes: Vec<Member>,
}

impl World {
    /// Starts nodes of which the first `hubs` reach all, and the others only those. All join through the hubs.
    fn start(hubs: usize, others: usize) -> Option<Self> {
        let count = hubs + others;
        let mut world = Self::prepare(count, hubs + 1..count + 1)?;
        for node in 1..=count {
            let control = format!("--control {}", world.control_socket(node).display());
            world.join(node, &(1..=hubs).filter(|&hub| hub < node).map(addr).collect::<Vec<_>>(), &control);
        }
        Some(world)
    }

    /// A network of that many nodes, of which these cannot reach each other.
    fn prepare(count: usize, apart: Range<usize>) -> Option<Self> {
        let network = Network::new(count)?;
        let pairs = apart.clone().flat_map(|a| apart.clone().filter(move |&b| b > a).map(move |b| (a, b)));
        let rules: Vec<String> = pairs.flat_map(|(a, b)| partition(&[a], &[b])).collect();
        network.set_faults(&rules);
        Some(Self { cluster: Cluster::new(), network, nodes: Vec::new() })
    }

    /// Starts the next node, which joins through these addresses.
    fn join(&mut self, node: usize, connect: &[SocketAddr], args: &str) {
        self.join_from(node, addr(node), connect, args);
    }

    /// The same with another `--bind`.
    fn join_from(&mut self, node: usize, bind: SocketAddr, connect: &[SocketAddr], args: &str) {
        let name = format!("n{node}");
        let key = self.cluster.new_key(&name);
        let spec = Spec::named(name).with_bind(bind).with_key(&key).with_period(0.2).with_args(args);
        let spec = spec.with_namespace(self.network.namespace(node));
        let spec = connect.iter().fold(spec, |spec, addr| spec.with_connect(*addr));
        let member = self.cluster.start(spec);
        self.nodes.push(member);
    }

    fn control_socket(&self, node: usize) -> PathBuf {
        self.cluster.path(&format!("n{node}.socket"))
    }

    /// What `why` shows at one node of another one.
    fn why(&self, node: usize, of: usize) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-gossip"));
        command.arg("why").arg(self.id(of).to_string()).arg("--control").arg(self.control_socket(node));
        let output = command.env_remove("RUST_LOG").stdin(Stdio::null()).run_to_end();
        String::from_utf8(output.stdout).expect("text")
    }

    fn id(&self, node: usize) -> PeerId {
        self.cluster.id(self.nodes[node - 1])
    }

    /// Waits until the last word of each of these nodes on the path to each other one satisfies `is_right`.
    fn wait_paths(&self, nodes: &[usize], is_right: impl Fn(Option<PeerId>) -> bool) {
        let ids: Vec<PeerId> = nodes.iter().map(|&node| self.id(node)).collect();
        let members: Vec<Member> = nodes.iter().map(|&node| self.nodes[node - 1]).collect();
        self.cluster.wait_for("the paths", &members, |history| {
            let told = |member: Member, to: PeerId| path(history, member, to);
            let is_well = |(at, &member): (usize, &Member)| {
                let mut others = ids.iter().enumerate().filter(|(other, _)| *other != at);
                others.all(|(_, &to)| told(member, to).is_some_and(&is_right))
            };
            members.iter().enumerate().all(is_well).then_some(())
        });
    }

    /// Checks that since the mark no node but these has been lost.
    fn check_no_loss_but(&self, lost: &[PeerId], mark: usize) {
        self.cluster.check(&self.nodes, |history| {
            let downs = self.nodes.iter().flat_map(|&node| history.downs_since(node, mark));
            let unexpected = downs.into_iter().find(|(peer, _)| !lost.contains(peer));
            unexpected.map(|(peer, why): (PeerId, DownReason)| format!("lost {}: {why}", peer.short()))
        });
    }
}

/// What the member last told of its path to a peer that is up: the carrier, if there is one.
fn path(history: &History, member: Member, to: PeerId) -> Option<Option<PeerId>> {
    let told = history.events_since(member, 0).filter_map(|event| match event {
        Event::Up { peer, via, .. } | Event::Path { peer, via, .. } if *peer == to => Some(Some(*via)),
        Event::Down { peer, .. } | Event::Left { peer, .. } if *peer == to => Some(None),
        _ => None,
    });
    told.last().flatten()
}

#[test]
fn nodes_that_cannot_connect_meet_through_a_third_one_until_they_can() {
    let Some(mut world) = World::start(1, 3) else { return };
    let started = Instant::now();
    world.cluster.wait_full_mesh(&world.nodes);
    println!("all pairs up {:.2} s after the last node listens", started.elapsed().as_secs_f64());
    let carrier = world.id(1);
    world.wait_paths(&[2, 3, 4], |via| via == Some(carrier));
    let through = format!("connected through n1 {}\n", carrier.short());
    let (carried, direct) = (world.why(2, 3), world.why(2, 1));
    assert!(carried.contains(&through) && !direct.contains("through"), "{carried}{direct}");
    let mark = world.cluster.mark();
    world.cluster.wait_pings(&world.nodes, 3, mark);
    world.cluster.check(&world.nodes, |history| {
        let mut pings = history.records().iter().filter_map(|record| match &record.event {
            Event::Ping { peer, via, .. } => Some((record.member, *peer, *via)),
            _ => None,
        });
        let hub = world.nodes[0];
        let is_wrong = |(member, peer, via): &(Member, PeerId, Option<PeerId>)| {
            *via != (*member != hub && *peer != carrier).then_some(carrier)
        };
        pings.find(is_wrong).map(|(_, peer, via)| format!("ping of {} via {via:?}", peer.short()))
    });
    // Dials go on: once the network lets them through, the pairs do without the carrier.
    world.network.clear_faults();
    world.wait_paths(&[2, 3, 4], |via| via.is_none());
    world.check_no_loss_but(&[], mark);
    world.cluster.check(&world.nodes, |history| {
        let mut paths = history.records().iter().filter(|record| matches!(record.event, Event::Path { .. }));
        let fields = ["time", "event", "peer", "name", "addr", "via"];
        let is_odd = |json: &serde_json::Value| {
            json.as_object().is_none_or(|json| {
                json.len() != fields.len() || !fields.iter().all(|f| json.contains_key(*f))
            })
        };
        paths.find(|record| is_odd(&record.json)).map(|record| record.json.to_string())
    });
    // Nothing is left of the circuits.
    let id = world.id(4);
    world.cluster.terminate(world.nodes[3]);
    world.cluster.wait_left(&world.nodes[..3], id, mark);
}

#[test]
fn carried_node_that_leaves_says_goodbye_to_all() {
    let Some(mut world) = World::start(1, 2) else { return };
    world.cluster.wait_full_mesh(&world.nodes);
    let (mark, id) = (world.cluster.mark(), world.id(3));
    world.cluster.terminate(world.nodes[2]);
    world.cluster.wait_left(&world.nodes[..2], id, mark);
    world.check_no_loss_but(&[], mark);
}

#[test]
fn pairs_move_to_another_carrier_when_theirs_is_killed_or_leaves() {
    for is_killed in [true, false] {
        // Five nodes apart are ten pairs. The last node, which reaches all as the first does, comes once all are carried.
        let Some(mut world) = World::prepare(7, 2..7) else { return };
        for node in 1..=6 {
            world.join(node, &[addr(1)][..usize::from(node > 1)], "");
        }
        let apart = [2, 3, 4, 5, 6];
        let carrier = world.id(1);
        world.wait_paths(&apart, |via| via == Some(carrier));
        world.join(7, &[addr(1)], "");
        world.cluster.wait_full_mesh(&world.nodes);
        let (mark, other) = (world.cluster.mark(), world.id(7));
        let started = Instant::now();
        if is_killed {
            world.cluster.kill(world.nodes[0]);
        } else {
            world.cluster.terminate(world.nodes[0]);
        }
        world.wait_paths(&apart, |via| via == Some(other));
        println!("ten pairs moved within {:.2} s", started.elapsed().as_secs_f64());
        world.cluster.wait_pings(&world.nodes[1..], 3, world.cluster.mark());
        world.check_no_loss_but(&[carrier], mark);
    }
}

/// Nodes with a shorter timeout, so that the tests with cut links take less time.
const QUICK: &str = "--heartbeat 0.5 --timeout 1.5";

/// Five nodes that reach each other.
fn five_nodes() -> Option<World> {
    let mut world = World::prepare(5, 1..1)?;
    for node in 1..=5 {
        world.join(node, &[addr(1)][..usize::from(node > 1)], QUICK);
    }
    world.cluster.wait_full_mesh(&world.nodes);
    Some(world)
}

#[test]
fn each_link_of_five_nodes_may_break_without_a_loss() {
    let Some(world) = five_nodes() else { return };
    let mark = world.cluster.mark();
    let links = (1..=5).flat_map(|a| (a + 1..=5).map(move |b| (a, b)));
    let mut longest = 0.0_f64;
    for (n, (a, b)) in links.enumerate() {
        // Both ways, or one of the two.
        let rules = match n % 3 {
            0 => partition(&[a], &[b]),
            1 => vec![drop_from_to(&[a], &[b])],
            _ => vec![drop_from_to(&[b], &[a])],
        };
        let cut = Instant::now();
        world.network.set_faults(&rules);
        world.wait_paths(&[a, b], |via| via.is_some());
        longest = longest.max(cut.elapsed().as_secs_f64());
    }
    println!("ten links cut in turn: both ends on another path after {longest:.2} s at most");
    world.cluster.wait_pings(&world.nodes, 3, world.cluster.mark());
    world.check_no_loss_but(&[], mark);
}

#[test]
fn partial_partition_causes_no_loss() {
    let Some(world) = five_nodes() else { return };
    let mark = world.cluster.mark();
    let bridge = world.id(5);
    let cut = Instant::now();
    world.network.set_faults(&partition(&[1, 2], &[3, 4]));
    for (a, b) in [(1, 3), (1, 4), (2, 3), (2, 4)] {
        world.wait_paths(&[a, b], |via| via == Some(bridge));
    }
    println!("four pairs on another path after {:.2} s", cut.elapsed().as_secs_f64());
    world.cluster.wait_pings(&world.nodes, 3, world.cluster.mark());
    world.check_no_loss_but(&[], mark);
    // No path to the fourth node is left to the first.
    world.network.set_faults(&partition(&[1], &[2, 3, 4, 5]));
    world.cluster.wait_down(&world.nodes[1..], world.id(1), DownReason::Timeout, mark);
}

#[test]
fn nodes_with_only_ipv4_and_only_ipv6_meet_through_one_with_both() {
    let Some(mut world) = World::prepare(3, 1..1) else { return };
    for node in [1, 3] {
        world.network.ip(node, &format!("addr add {}/64 dev eth0 nodad", addr6(node).ip()));
    }
    world.network.ip(3, &format!("addr del {}/24 dev eth0", addr(3).ip()));
    let any = "[::]:7000".parse().expect("an address");
    world.join_from(1, any, &[], "");
    world.join_from(2, addr(2), &[addr(1)], "");
    world.join_from(3, addr6(3), &[addr6(1)], "");
    world.cluster.wait_full_mesh(&world.nodes);
    let both = world.id(1);
    world.wait_paths(&[2, 3], |via| via == Some(both));
    world.cluster.wait_pings(&world.nodes, 3, world.cluster.mark());
}

/// Each node of a chain reaches those beside it, and the last one can also dial the first. Only the middle one can tell it of
/// that, and meets the first inside a circuit alone.
#[test]
fn ends_of_a_chain_that_can_connect_hear_of_each_other() {
    let Some(mut world) = World::prepare(5, 1..1) else { return };
    let apart = [(1, 3), (1, 4), (2, 4), (2, 5), (3, 5)];
    let mut rules: Vec<String> = apart.iter().flat_map(|&(a, b)| partition(&[a], &[b])).collect();
    rules.push(drop_dials(1, 5));
    world.network.set_faults(&rules);
    // A node with the address of one interface tells all peers that address.
    let any = "[::]:7000".parse().expect("an address");
    for node in 1..=5 {
        let before = (node > 1).then(|| addr(node - 1));
        world.join_from(node, any, before.as_slice(), "");
    }
    let started = Instant::now();
    world.cluster.wait_full_mesh(&world.nodes);
    println!("all pairs up after {:.2} s", started.elapsed().as_secs_f64());
    world.wait_paths(&[1, 5], |via| via.is_none());
}
