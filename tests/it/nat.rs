//! Nodes behind routers that translate addresses (NAT), or behind firewalls: they meet through a public node.
//!
//! They need root, network namespaces, and the tools ip, ss and nft; without these they print a message and pass.

use std::time::Instant;

use p2p_gossip::{Event, NetworkKey, PeerId};

use crate::support::Cluster;
use crate::support::history::Member;
use crate::support::netns::{Nat, Network, addr, inside};
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
        Some(Self::form(network, &format!("{nats:?}"), false))
    }

    /// Starts a public node, and two nodes behind one NAT. With a network key no node is a stranger.
    fn start_behind_one(nat: Nat, is_closed: bool) -> Option<Self> {
        let network = Network::new(4)?;
        network.put_behind_nat(&HIDDEN, ROUTERS[0], nat)?;
        Some(Self::form(network, &format!("{nat:?} for both"), is_closed))
    }

    /// Starts a public node, and two nodes of which each has a firewall that lets in only answers.
    fn start_behind_firewalls() -> Option<Self> {
        let network = Network::new(3)?;
        for hidden in HIDDEN {
            network.refuse_new_connections(hidden)?;
        }
        Some(Self::form(network, "firewalls", false))
    }

    fn form(network: Network, what: &str, is_closed: bool) -> Self {
        let mut world = Self { cluster: Cluster::new(), network, nodes: Vec::new() };
        let key = is_closed.then(|| {
            let file = world.cluster.path("network.key");
            NetworkKey::generate().and_then(|key| key.write_new(&file)).expect("a key file can be written");
            file
        });
        for node in [PUBLIC].into_iter().chain(HIDDEN) {
            let spec = Spec::named(format!("n{node}")).with_period(0.2).with_log("warn,p2p_gossip=debug");
            let spec = key.iter().fold(spec, |spec, key| spec.with_option("--network-key", key));
            let spec = spec.with_namespace(world.network.namespace(node));
            let spec = Spec { port: addr(node).port(), ..spec };
            let spec = if node == PUBLIC { spec } else { spec.with_connect(addr(PUBLIC)) };
            let member = world.cluster.start(spec);
            world.nodes.push(member);
        }
        let started = Instant::now();
        world.cluster.wait_full_mesh(&world.nodes);
        let took = started.elapsed().as_secs_f64();
        println!("{what}: all pairs up {took:.2} s after the last node listens");
        world
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

/// Checks whether the nodes behind these NATs get a direct connection, and lose nothing on the way to it.
fn check_pair(nats: [Nat; 2], is_direct: bool) {
    if let Some(world) = World::start(nats) {
        check(&world, is_direct);
    }
}

/// Checks whether the hidden nodes get a direct connection, and lose nothing on the way to it.
fn check(world: &World, is_direct: bool) {
    let carrier = world.cluster.id(world.nodes[0]);
    let expected = if is_direct { vec![Some(carrier), None] } else { vec![Some(carrier)] };
    let [a, b] = world.hidden();
    if is_direct {
        for (member, other) in [(a, b), (b, a)] {
            let to = world.cluster.id(other);
            world.cluster.wait_for("a direct connection", &[member], |history| {
                let mut events = history.events_since(member, 0);
                events
                    .any(|event| matches!(event, Event::Path { peer, via: None, .. } if *peer == to))
                    .then_some(())
            });
        }
    } else {
        // The first attempt has failed: each end logs the address that it could not reach.
        let text = "the NATs let no connection through";
        world.cluster.wait_for("a failed attempt", &[a, b], |history| {
            [a, b].iter().all(|&member| history.log_mentions(member, text)).then_some(())
        });
    }
    world.cluster.wait_pings(&world.nodes, 3, world.cluster.mark());
    assert_eq!(world.paths(), [expected.clone(), expected]);
    world.check_no_loss();
}

/// Whether the hidden nodes have a connection between their inner addresses.
fn is_inside(world: &World) -> bool {
    let [a, b] = HIDDEN.map(|hidden| inside(hidden, 2));
    world.network.has_connection(HIDDEN[0], b) && world.network.has_connection(HIDDEN[1], a)
}

#[test]
fn nodes_behind_one_nat_connect_at_their_inner_addresses_unless_they_are_strangers() {
    // This NAT lets connections come back to the inside.
    if let Some(world) = World::start_behind_one(Nat::Open, false) {
        check(&world, true);
        assert!(!is_inside(&world), "strangers connect at inner addresses");
    }
    // This one does not.
    if let Some(world) = World::start_behind_one(Nat::Masquerade, true) {
        check(&world, true);
        assert!(is_inside(&world));
    }
    if let Some(world) = World::start_behind_one(Nat::Masquerade, false) {
        check(&world, false);
    }
}

#[test]
fn nodes_behind_firewalls_without_a_nat_connect_directly() {
    if let Some(world) = World::start_behind_firewalls() {
        check(&world, true);
    }
}

#[test]
fn nodes_behind_nats_that_keep_ports_connect_directly() {
    check_pair([Nat::Masquerade, Nat::Masquerade], true);
    check_pair([Nat::Masquerade, Nat::Open], true);
    check_pair([Nat::Open, Nat::Open], true);
}

/// The outside port of the NAT that changes it is unknown to the other end. If the other end's NAT lets everything in, that
/// is no obstacle.
#[test]
fn node_behind_a_nat_that_changes_ports_connects_only_to_one_whose_nat_is_open() {
    check_pair([Nat::FullyRandom, Nat::Open], true);
    check_pair([Nat::Masquerade, Nat::FullyRandom], false);
}

#[test]
fn nodes_behind_nats_that_change_ports_stay_on_their_circuit() {
    check_pair([Nat::Random, Nat::Random], false);
    check_pair([Nat::FullyRandom, Nat::FullyRandom], false);
}
