//! A site of several hosts: two subnets with a router between them and one host behind a NAT. Each node has a
//! state directory and is restarted as by a service manager. The tests cover joins, crashes, reboots and an
//! outage of the router.
//!
//! They need root, network namespaces, and the tools ip, ss and nft; without these they print a message and
//! pass. `make test-hosts` runs these alone.

use crate::support::history::{History, Member};
use crate::support::process::Spec;
use crate::support::site::{GATE, HOSTS, PORT, Site, addr, addr6};
use crate::support::{Cluster, assert_mesh_stays_up};
use p2p_gossip::PeerId;

/// The nodes of the hosts, each started as by a service manager.
struct World {
    // Dropped first: namespaces go after the nodes in them.
    cluster: Cluster,
    site: Site,
    /// The current node on each of [`HOSTS`], in their order.
    nodes: Vec<Member>,
}

impl World {
    /// Starts five nodes; the others join through the first. `None` if the machine lacks a requirement.
    fn start() -> Option<Self> {
        let site = Site::new()?;
        let mut world = Self { cluster: Cluster::new(), site, nodes: Vec::new() };
        for host in HOSTS {
            let spec = world.service(host);
            let spec = if host == HOSTS[0] { spec } else { spec.with_connect(addr(HOSTS[0])) };
            let node = world.cluster.start(spec);
            world.nodes.push(node);
        }
        world.cluster.wait_full_mesh(&world.nodes);
        assert_mesh_stays_up(&world.cluster, &world.nodes);
        Some(world)
    }

    /// The start options of a host's service. Only its first start adds `--connect`.
    fn service(&self, host: &str) -> Spec {
        let spec = Spec::named(host).with_namespace(self.site.namespace(host));
        let spec = Spec { port: PORT, ..spec.with_state(&self.cluster.path(host)) };
        if host == "c1" { spec.with_args(&format!("--advertise {GATE}")) } else { spec }
    }

    fn node(&self, host: &str) -> Member {
        self.nodes[index(host)]
    }

    /// All nodes except those of these hosts.
    fn nodes_without(&self, hosts: &[&str]) -> Vec<Member> {
        HOSTS.into_iter().filter(|host| !hosts.contains(host)).map(|host| self.node(host)).collect()
    }

    /// Starts the node of a host again and checks that its id is the same.
    fn start_again(&mut self, host: &str, id: PeerId) {
        let node = self.cluster.start(self.service(host));
        self.nodes[index(host)] = node;
        assert_eq!(self.cluster.id(node), id, "the id of {host} has changed");
    }

    /// Waits until each observer has lost each of these peers since the mark.
    fn wait_loss(&self, lost: &[PeerId], observers: &[Member], mark: usize) {
        self.cluster.wait_for("the loss of the peers", observers, |history: &History| {
            let has_lost = |&node: &Member| {
                let downs = history.downs_since(node, mark);
                lost.iter().all(|id| downs.iter().any(|(peer, _)| peer == id))
            };
            observers.iter().all(has_lost).then_some(())
        });
    }
}

/// The options of the README's only command with this beginning.
fn readme_options(beginning: &str) -> Vec<&'static str> {
    let lines = include_str!("../../README.md").lines();
    let mut found = lines.filter(|line| line.starts_with(beginning));
    let line = found.next().expect("the README has the command");
    assert!(found.next().is_none(), "{beginning} is there twice");
    line.split_whitespace().filter(|word| word.starts_with("--")).collect()
}

fn index(host: &str) -> usize {
    HOSTS.iter().position(|&h| h == host).expect("a host with a node")
}

#[test]
fn crashed_node_rejoins_from_every_part_of_the_site() {
    let Some(mut world) = World::start() else { return };
    for host in ["b1", "c1", "a1"] {
        let id = world.cluster.id(world.node(host));
        let (others, mark) = (world.nodes_without(&[host]), world.cluster.mark());
        world.cluster.kill(world.node(host));
        world.start_again(host, id);
        world.cluster.wait_full_mesh(&world.nodes);
        world.cluster.check(&others, |history| {
            // Only the crashed node was lost, whether the observer saw a close or a restart.
            let unexpected =
                |&node: &Member| history.downs_since(node, mark).into_iter().find(|(peer, _)| *peer != id);
            others.iter().find_map(unexpected).map(|(peer, why)| format!("lost {}: {why}", peer.short()))
        });
    }
    assert_mesh_stays_up(&world.cluster, &world.nodes);
}

#[test]
fn rebooted_host_rejoins_without_connect_addresses() {
    let Some(mut world) = World::start() else { return };
    for host in ["a2", "c1"] {
        let id = world.cluster.id(world.node(host));
        let (others, mark) = (world.nodes_without(&[host]), world.cluster.mark());
        // The network goes down first, so that no goodbye can be sent.
        world.site.unplug(host);
        world.cluster.kill(world.node(host));
        world.wait_loss(&[id], &others, mark);
        world.site.plug_in(host);
        world.start_again(host, id);
        world.cluster.wait_full_mesh(&world.nodes);
    }
    assert_mesh_stays_up(&world.cluster, &world.nodes);
}

#[test]
fn router_outage_splits_the_mesh_and_it_heals_afterwards() {
    let Some(world) = World::start() else { return };
    let here = ["a1", "a2"].map(|host| world.node(host));
    let there = world.nodes_without(&["a1", "a2"]);
    let ids = |nodes: &[Member]| nodes.iter().map(|&node| world.cluster.id(node)).collect::<Vec<_>>();
    let mark = world.cluster.mark();
    world.site.set_router(false);
    world.wait_loss(&ids(&there), &here, mark);
    world.wait_loss(&ids(&here), &there, mark);
    // Each half stays a full mesh.
    world.cluster.wait_full_mesh(&here);
    world.cluster.wait_full_mesh(&there);
    world.site.set_router(true);
    world.cluster.wait_full_mesh(&world.nodes);
    assert_mesh_stays_up(&world.cluster, &world.nodes);
}

/// The README's recipe: the hosts start with its options and need no `--connect` after a reboot.
#[test]
fn three_machines_recipe_of_the_readme_survives_a_reboot_of_all() {
    const PORT_DEFAULT: u16 = 8080;
    assert_eq!(readme_options("./p2p-gossip --name alpha"), ["--name", "--state"]);
    assert_eq!(readme_options("./p2p-gossip --name beta"), ["--name", "--state", "--connect"]);
    let Some(site) = Site::new() else { return };
    let mut cluster = Cluster::new();
    let hosts = [("alpha", "a1"), ("beta", "a2"), ("gamma", "b1")];
    let specs = hosts.map(|(name, host)| {
        let spec = Spec::named(name).with_namespace(site.namespace(host)).with_state(&cluster.path(name));
        Spec { port: PORT_DEFAULT, ..spec }
    });
    let alpha = cluster.start(specs[0].clone());
    let shown = format!("{}@{}:{PORT_DEFAULT}", cluster.id(alpha), addr("a1").ip());
    let join = |spec: &Spec| spec.clone().with_option("--connect", &shown);
    let nodes = [alpha, cluster.start(join(&specs[1])), cluster.start(join(&specs[2]))];
    cluster.wait_full_mesh(&nodes);
    assert_mesh_stays_up(&cluster, &nodes);
    nodes.iter().for_each(|&node| cluster.kill(node));
    let nodes = specs.map(|spec| cluster.start(spec));
    cluster.wait_full_mesh(&nodes);
    assert_mesh_stays_up(&cluster, &nodes);
}

#[test]
fn two_hosts_with_ipv6_only_connect_across_the_router() {
    let Some(site) = Site::new() else { return };
    let mut cluster = Cluster::new();
    let mut start = |host: &str, join: &[std::net::SocketAddr]| {
        site.drop_ipv4(host);
        let spec = Spec::named(host).with_namespace(site.namespace(host));
        let spec = join.iter().fold(spec, |spec, &addr| spec.with_connect(addr));
        cluster.start(Spec { port: PORT, ..spec })
    };
    let nodes = [start("a1", &[]), start("b2", &[addr6("a1")])];
    cluster.wait_full_mesh(&nodes);
    assert_mesh_stays_up(&cluster, &nodes);
}
