//! Circuits: nodes that cannot connect to each other meet through a third one.
//!
//! They need root, network namespaces, and the tools ip, ss and nft; without these they print a message and pass.

use std::time::Instant;

use p2p_gossip::{DownReason, Event, PeerId};

use crate::support::Cluster;
use crate::support::history::{History, Member};
use crate::support::netns::{Network, addr, partition};
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
        let network = Network::new(count)?;
        let apart = (hubs + 1..=count).flat_map(|a| (a + 1..=count).map(move |b| (a, b)));
        let rules: Vec<String> = apart.flat_map(|(a, b)| partition(&[a], &[b])).collect();
        network.set_faults(&rules);
        let mut world = Self { cluster: Cluster::new(), network, nodes: Vec::new() };
        for node in 1..=count {
            let name = format!("n{node}");
            let key = world.cluster.new_key(&name);
            let spec = Spec::named(name).with_bind(addr(node)).with_key(&key).with_period(0.2);
            let spec = spec.with_namespace(world.network.namespace(node));
            let spec =
                (1..=hubs).filter(|&hub| hub < node).fold(spec, |spec, hub| spec.with_connect(addr(hub)));
            let member = world.cluster.start(spec);
            world.nodes.push(member);
        }
        Some(world)
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
        // Four nodes apart are six pairs.
        let Some(mut world) = World::start(2, 4) else { return };
        world.cluster.wait_full_mesh(&world.nodes);
        let hubs = [world.id(1), world.id(2)];
        world.wait_paths(&[3, 4, 5, 6], |via| via.is_some_and(|via| hubs.contains(&via)));
        // At least one pair is carried by this hub.
        let to = world.id(4);
        let carrier = world
            .cluster
            .wait_for("a path", &world.nodes[2..3], |history| path(history, world.nodes[2], to).flatten());
        let goes = hubs.iter().position(|hub| *hub == carrier).expect("one of the hubs carries");
        let mark = world.cluster.mark();
        let started = Instant::now();
        if is_killed {
            world.cluster.kill(world.nodes[goes]);
        } else {
            world.cluster.terminate(world.nodes[goes]);
        }
        world.wait_paths(&[3, 4, 5, 6], |via| via == Some(hubs[1 - goes]));
        println!("all pairs moved within {:.2} s", started.elapsed().as_secs_f64());
        let left: Vec<Member> =
            world.nodes.iter().copied().filter(|node| *node != world.nodes[goes]).collect();
        world.cluster.wait_pings(&left, 3, world.cluster.mark());
        world.check_no_loss_but(&[carrier], mark);
    }
}
