//! Nodes behind routers that translate addresses (NAT): they meet through a public node.
//!
//! They need root, network namespaces, and the tools ip, ss and nft; without these they print a message and pass.

use std::time::Instant;

use p2p_gossip::{Event, PeerId};

use crate::support::Cluster;
use crate::support::history::Member;
use crate::support::netns::{Nat, Network, addr};
use crate::support::process::Spec;

/// The first node is public. The others are behind the routers.
const PUBLIC: usize = 1;
const HIDDEN: [usize; 2] = [2, 3];
const ROUTERS: [usize; 2] = [4, 5];

struct World {
    // Dropped first: namespaces go after the nodes in them.
    cluster: Cluster,
    network: Network,
    /// The public node and the two hidden ones.
    nodes: Vec<Member>,
}

impl World {
    /// Starts a public node, and one node behind each of two NATs.
    fn start(nats: [Nat; 2]) -> Option<Self> {
        let network = Network::new(5)?;
        for ((hidden, router), nat) in HIDDEN.into_iter().zip(ROUTERS).zip(nats) {
            network.put_behind_nat(&[hidden], router, nat)?;
        }
        let mut world = Self { cluster: Cluster::new(), network: network, nodes: Vec::new() };
        for node in [PUBLIC].into_iter().chain(HIDDEN) {
            let spec = Spec::named(format!("n{node}")).with_period(0.2);
            let spec = spec.with_namespace(world.network.namespace(node));
            let spec = Spec { port: addr(node).port(), ..spec };
            let spec = if node == PUBLIC { spec } else { spec.with_connect(addr(PUBLIC)) };
            let member = world.cluster.start(spec);
            world.nodes.push(member);
        }
        let started = Instant::now();
        world.cluster.wait_full_mesh(&world.nodes);
        let took = started.elapsed().as_secs_f64();
        println!("{nats:?}: all pairs up {took:.2} s after the last node listens");
        Some(world)
    }

    fn hidden(&self) -> [Member; 2] {
        [self.nodes[1], self.nodes[2]]
    }

    /// The paths that each hidden node has told of to the other one: the carrier, or `None` for a direct connection.
    fn paths(&self) -> [Vec<Option<PeerId>>; 2] {
        let [a, b] = self.hidden();
        [(a, b), (b, a)].map(|(member, other)| {
            let to = self.cluster.id(other);
            self.cluster.wait_for("the paths", &[member], |history| {
                let told = history.events_since(member, 0).filter_map(|event| match event {
                    Event::Up { peer, via, .. } | Event::Path { peer, via, .. } if *peer == to => Some(*via),
                    _ => None,
                });
                Some(told.collect())
            })
        })
    }

    /// Checks that no node has lost another one.
    fn check_no_loss(&self) {
        self.cluster.check(&self.nodes, |history| {
            let mut downs = self.nodes.iter().flat_map(|&node| history.downs_since(node, 0));
            downs.next().map(|(peer, why)| format!("lost {}: {why}", peer.short()))
        });
    }
}

#[test]
fn nodes_behind_two_nats_meet_through_a_public_node() {
    for nat in [Nat::Masquerade, Nat::Random, Nat::FullyRandom, Nat::Open] {
        let Some(world) = World::start([nat; 2]) else { return };
        world.cluster.wait_pings(&world.nodes, 3, world.cluster.mark());
        let carrier = world.cluster.id(world.nodes[0]);
        assert_eq!(world.paths(), [vec![Some(carrier)], vec![Some(carrier)]]);
        world.check_no_loss();
    }
}
