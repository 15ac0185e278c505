//! Several hosts as people have them: two subnets with a router between them and one host behind a
//! NAT, each with a state directory and a supervisor that restarts its node. Joining across all that,
//! crashes, reboots, and a router that goes away and comes back.
//!
//! Needs root, network namespaces, and the tools ip, ss and nft; says so and passes where they are
//! missing. `make test-hosts` runs these alone.

use crate::support::history::{History, Member};
use crate::support::process::Spec;
use crate::support::site::{GATE, HOSTS, PORT, Site, addr, addr6};
use crate::support::{Cluster, assert_mesh_stays_up};
use p2p_gossip::PeerId;

/// The hosts' nodes; each is started as its service manager would.
struct World {
    // Dropped first: namespaces go after the nodes in them.
    cluster: Cluster,
    site: Site,
    /// The node that now runs on each of [`HOSTS`].
    nodes: Vec<Member>,
}

impl World {
    /// Five nodes, of which the others join through the first, or `None` where that is not possible.
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

    /// The arguments of a host's service. Only the first start has a bootstrap address.
    fn service(&self, host: &str) -> Spec {
        let spec = Spec::named(host).with_namespace(self.site.namespace(host));
        let spec = Spec { port: PORT, ..spec.with_state(&self.cluster.path(host)) };
        if host == "c1" { spec.with_args(&format!("--advertise {GATE}")) } else { spec }
    }

    fn node(&self, host: &str) -> Member {
        self.nodes[at(host)]
    }

    /// All nodes but those of these hosts.
    fn nodes_without(&self, hosts: &[&str]) -> Vec<Member> {
        HOSTS.into_iter().filter(|host| !hosts.contains(host)).map(|host| self.node(host)).collect()
    }

    /// Starts the node of a host again, which is who it was.
    fn start_again(&mut self, host: &str, id: PeerId) {
        let node = self.cluster.start(self.service(host));
        self.nodes[at(host)] = node;
        assert_eq!(self.cluster.id(node), id, "{host} has another id now");
    }

    /// Waits until each of these has lost these peers since the mark.
    fn wait_loss(&self, of: &[PeerId], by: &[Member], mark: usize) {
        self.cluster.wait_for("the loss of those who are gone", by, |history: &History| {
            let lost = |&node: &Member| {
                let downs = history.downs_since(node, mark);
                of.iter().all(|id| downs.iter().any(|(peer, _)| peer == id))
            };
            by.iter().all(lost).then_some(())
        });
    }
}

/// The options of the README's commands that begin like this.
fn options(beginning: &str) -> Vec<&'static str> {
    let lines = include_str!("../../README.md").lines();
    let mut found = lines.filter(|line| line.starts_with(beginning));
    let line = found.next().expect("the README has it");
    assert!(found.next().is_none(), "{beginning} is there twice");
    line.split_whitespace().filter(|word| word.starts_with("--")).collect()
}

fn at(host: &str) -> usize {
    HOSTS.iter().position(|&h| h == host).expect("a host with a node")
}

#[test]
fn crashed_node_finds_the_mesh_again_on_every_subnet() {
    let Some(mut world) = World::start() else { return };
    for host in ["b1", "c1", "a1"] {
        let id = world.cluster.id(world.node(host));
        let (others, mark) = (world.nodes_without(&[host]), world.cluster.mark());
        world.cluster.kill(world.node(host));
        world.start_again(host, id);
        world.cluster.wait_full_mesh(&world.nodes);
        world.cluster.check(&others, |history| {
            // Only the one that crashed was lost, whether that was seen as an end or as a restart.
            let strange =
                |&node: &Member| history.downs_since(node, mark).into_iter().find(|(peer, _)| *peer != id);
            others.iter().find_map(strange).map(|(peer, why)| format!("lost {}: {why}", peer.short()))
        });
    }
    assert_mesh_stays_up(&world.cluster, &world.nodes);
}

#[test]
fn rebooted_host_returns_without_bootstrap_addresses() {
    let Some(mut world) = World::start() else { return };
    for host in ["a2", "c1"] {
        let id = world.cluster.id(world.node(host));
        let (others, mark) = (world.nodes_without(&[host]), world.cluster.mark());
        // The network is gone before any node can say goodbye.
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
fn mesh_split_by_a_router_heals_when_the_router_returns() {
    let Some(world) = World::start() else { return };
    let here = ["a1", "a2"].map(|host| world.node(host));
    let there = world.nodes_without(&["a1", "a2"]);
    let ids = |nodes: &[Member]| nodes.iter().map(|&node| world.cluster.id(node)).collect::<Vec<_>>();
    let mark = world.cluster.mark();
    world.site.set_router(false);
    world.wait_loss(&ids(&there), &here, mark);
    world.wait_loss(&ids(&here), &there, mark);
    // Each half goes on.
    world.cluster.wait_full_mesh(&here);
    world.cluster.wait_full_mesh(&there);
    world.site.set_router(true);
    world.cluster.wait_full_mesh(&world.nodes);
    assert_mesh_stays_up(&world.cluster, &world.nodes);
}

/// The README's recipe: with which options the hosts are started, and that they need no more afterwards.
#[test]
fn three_machines_form_a_mesh_again_after_all_rebooted() {
    const PORT_DEFAULT: u16 = 8080;
    assert_eq!(options("./p2p-gossip --name alpha"), ["--name", "--state"]);
    assert_eq!(options("./p2p-gossip --name beta"), ["--name", "--state", "--connect"]);
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
fn two_hosts_with_ipv6_only_meet_across_the_router() {
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
