//! Addresses of peers: host names, port mappings, IPv4, IPv6, both, and link-local addresses.
//!
//! Most tests need root, network namespaces, and the tools ip, ss and nft; without these they print a message
//! and pass.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Instant;
use std::{fs, io, thread};

use p2p_gossip::internals::limits::{ADDRS_MAX, NAME_ADDRS_MAX, PEER_LOOKUPS_BURST, PEER_LOOKUPS_PER_SECOND};
use p2p_gossip::{Event, NetworkKey, PeerId};
use rustix::process::Signal;

use crate::support::history::{History, Member};
use crate::support::netns::{Network, addr, addr6};
use crate::support::port_mapper::PortMapper;
use crate::support::process::Spec;
use crate::support::{Cluster, assert_mesh_stays_up, localhost};

/// Start options of a node on every interface of its namespace.
fn spec(cluster: &Cluster, network: &Network, node: usize) -> Spec {
    let name = format!("n{node}");
    let key = cluster.new_key(&name);
    let spec = Spec::named(name).with_key(&key).with_namespace(network.namespace(node));
    Spec { port: addr(node).port(), ..spec }
}

fn connect(to: impl std::fmt::Display) -> String {
    format!("--connect {to}")
}

/// The addresses at which the observers showed the peer as up.
fn seen_at(history: &History, observers: &[Member], peer: p2p_gossip::PeerId) -> Vec<String> {
    let up = |event: &Event| match event {
        Event::Up { peer: id, addr, .. } if *id == peer => Some(addr.to_string()),
        _ => None,
    };
    observers.iter().flat_map(|&member| history.events_since(member, 0).filter_map(up)).collect()
}

#[test]
fn connect_name_is_resolved_and_shown_as_its_address() {
    let mut cluster = Cluster::new();
    let first = cluster.start(Spec::named("first").with_args("--bind 127.0.0.1"));
    let port = cluster.addr(first).port();
    let second = cluster.start(Spec::named("second").with_args(&format!("--connect LocalHost:{port}")));
    cluster.wait_full_mesh(&[first, second]);
    let id = cluster.id(first);
    cluster.check(&[second], |history| {
        let seen = seen_at(history, &[second], id);
        (seen != [format!("127.0.0.1:{port}")]).then(|| format!("seen at {seen:?}"))
    });
}

/// A node behind a router, in a network with three other nodes.
const HIDDEN: usize = 4;
const ROUTER: usize = 5;

/// Runs these four nodes. The hidden one has these options; later its own dials are blocked, so only the address at which
/// the router passes connections on to it leads to it. Returns the cluster, and the hidden node in it.
fn check_reached_behind_router(
    network: &Network,
    options: &str,
    hosts: &str,
    passed_on_at: &str,
) -> (Cluster, Member) {
    let mut cluster = Cluster::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("127.0.0.1 localhost\n{hosts}\n")).unwrap();
    let (_directory, key) = network_key();
    // Each node has its own mount namespace, and so its own hosts file.
    let with_hosts = format!("mount --bind {} /etc/hosts", file.path().display());
    let mut nodes = Vec::new();
    for node in 1..=HIDDEN {
        let mut spec =
            spec(&cluster, network, node).with_limits(&with_hosts).with_option("--network-key", &key);
        if node == HIDDEN {
            spec = spec.with_args(options);
        }
        if node > 1 {
            spec = spec.with_args(&connect(addr(1)));
        }
        nodes.push(cluster.start(spec));
    }
    cluster.wait_full_mesh(&nodes);
    if options.is_empty() {
        // The hidden node asks the router for the address, and tells it in a message. Later pings arrive after that.
        cluster.wait_for("the router's answer", &nodes, |history| {
            history.log_mentions(nodes[3], "the router passes on connections to this node").then_some(())
        });
        cluster.wait_pings(&nodes, 3, cluster.mark());
    }

    // From now on the network drops new connections from behind the router; the existing ones are cut.
    let router_ip = addr(ROUTER).ip();
    network.set_faults(&[format!("ip saddr {router_ip} tcp flags & (syn | ack) == syn drop")]);
    let mark = cluster.mark();
    network.cut_connections(HIDDEN, &[1, 2, 3]);
    for node in 1..HIDDEN {
        network.cut_connections(node, &[ROUTER]);
    }
    let id = cluster.id(nodes[3]);
    cluster.wait_for("the loss of the hidden node", &nodes, |history| {
        let lost = |&m: &Member| history.downs_since(m, mark).iter().any(|(peer, _)| *peer == id);
        nodes[..3].iter().all(lost).then_some(())
    });
    let mark = cluster.mark();
    cluster.wait_full_mesh(&nodes);
    assert_mesh_stays_up(&cluster, &nodes);
    // One of them may reach the node through another one first.
    cluster.wait_for("pings of the hidden node at its outside address", &nodes, |history| {
        let is_there = |event: &Event| {
            matches!(event, Event::Ping { peer, addr, via: None, .. }
                if *peer == id && addr.to_string() == passed_on_at)
        };
        let mut observers = nodes[..3].iter();
        observers.all(|&observer| history.events_since(observer, mark).any(is_there)).then_some(())
    });
    (cluster, nodes[3])
}

/// The router maps port 17000 to the hidden node, which tells the others so by this address.
fn check_port_mapping(advertised: &str, hosts: &str) {
    let Some(network) = Network::new(ROUTER) else { return };
    let Some(()) = network.put_behind_router(HIDDEN, ROUTER, 17_000) else { return };
    let at = format!("{}:17000", addr(ROUTER).ip());
    check_reached_behind_router(&network, &format!("--advertise {advertised}"), hosts, &at);
}

/// A network key in a file. Its holders are no strangers, so they are dialled at all addresses that they claim.
fn network_key() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("network.key");
    NetworkKey::generate().unwrap().write_new(&file).unwrap();
    (directory, file)
}

#[test]
fn node_behind_a_router_is_dialled_where_the_router_maps_its_port_on_request() {
    let Some(network) = Network::new(ROUTER) else { return };
    let Some(router) = PortMapper::start(&network, HIDDEN, ROUTER) else { return };
    let at = router.outside.to_string();
    let (mut cluster, hidden) = check_reached_behind_router(&network, "", "", &at);
    router.wait_for_mapping(true);
    cluster.end_with_signal(hidden, Signal::INT);
    router.wait_for_mapping(false);
}

#[test]
fn node_behind_a_port_mapping_is_dialled_at_its_advertised_address() {
    check_port_mapping("10.77.0.5:17000", "");
}

#[test]
fn node_behind_a_port_mapping_is_dialled_at_its_advertised_name() {
    check_port_mapping("Router.example:17000", "10.77.0.5 router.example");
}

/// Start options of a node of this network, where `all.example` has the addresses of all its nodes.
fn spec_with_name_of_all(cluster: &Cluster, network: &Network, node: usize, nodes: usize) -> Spec {
    let mut hosts = "127.0.0.1 localhost\n".to_owned();
    hosts.extend((1..=nodes).map(|node| format!("{} all.example\n", addr(node).ip())));
    let hosts = cluster.file("hosts", &hosts);
    spec(cluster, network, node).with_limits(format!("mount --bind {} /etc/hosts", hosts.display()))
}

#[test]
fn nodes_with_one_connect_name_for_all_of_them_form_a_mesh() {
    const NODES: usize = 4;
    let Some(network) = Network::new(NODES) else { return };
    let mut cluster = Cluster::new();
    let name = connect(format_args!("all.example:{}", addr(1).port()));
    let nodes: Vec<Member> = (1..=NODES)
        .map(|node| {
            let spec = spec_with_name_of_all(&cluster, &network, node, NODES).with_args(&name);
            cluster.spawn(spec)
        })
        .collect();
    cluster.wait_full_mesh(&nodes);
    assert_mesh_stays_up(&cluster, &nodes);
}

/// Starts a proxy that leads each connection to the next of these nodes, as the address of a cluster service does.
fn start_proxy(backends: Vec<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind(localhost()).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut backends = backends.into_iter().cycle();
        for near in listener.incoming().map_while(Result::ok) {
            // Connections fail once the test is over.
            let Some(Ok(far)) = backends.next().map(TcpStream::connect) else { continue };
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    addr
}

#[test]
fn name_of_a_proxy_joins_parts_of_a_mesh_that_the_first_answer_does_not_reach() {
    let mut cluster = Cluster::new();
    let start = |cluster: &mut Cluster, args: &str| {
        cluster.start(Spec::named("node").with_args(&format!("--bind 127.0.0.1 {args}")))
    };
    let first = start(&mut cluster, "");
    let through_first = connect(cluster.addr(first));
    let joined_first = start(&mut cluster, &through_first);
    let apart = start(&mut cluster, "");
    cluster.wait_full_mesh(&[first, joined_first]);
    let proxy = start_proxy([first, joined_first, apart].map(|node| cluster.addr(node)).into());
    let last = start(&mut cluster, &connect(format_args!("localhost:{}", proxy.port())));
    cluster.wait_full_mesh(&[first, joined_first, apart, last]);
}

#[test]
fn pinned_peer_is_found_behind_any_address_of_its_name() {
    let Some(network) = Network::new(3) else { return };
    let mut cluster = Cluster::new();
    let nodes = [1, 2].map(|node| cluster.start(spec(&cluster, &network, node)));
    let pinned =
        nodes.map(|node| connect(format_args!("{}@all.example:{}", cluster.id(node), addr(1).port())));
    let spec = spec_with_name_of_all(&cluster, &network, 3, 2).with_args(&pinned.join(" "));
    let third = cluster.start(spec);
    cluster.wait_full_mesh(&[nodes[0], nodes[1], third]);
}

#[test]
fn names_with_a_thousand_addresses_cause_few_dials_and_do_not_delay_connect_names() {
    const NAMES: usize = ADDRS_MAX;
    let Some(network) = Network::new(6) else { return };
    let (victim, liars, late) = (1, 2..6, 6);
    let mut cluster = Cluster::new();
    let name = |liar: usize, at: usize| format!("n{liar}-{at}.example");
    let names: Vec<String> =
        liars.clone().flat_map(|liar| (0..NAMES).map(move |at| name(liar, at))).collect();
    let names = names.join(" ");
    let mut hosts = format!("127.0.0.1 localhost\n{} late.example\n", addr(late).ip());
    hosts.extend((0..1000).map(|at| format!("10.99.{}.{} {names}\n", at / 250, at % 250 + 1)));
    let hosts = cluster.file("hosts", &hosts);
    let with_hosts = format!("mount --bind {} /etc/hosts", hosts.display());
    // The victim's own kernel refuses each connection attempt there at once.
    network.ip(victim, "route add local 10.99.0.0/16 dev lo");

    let (_directory, key) = network_key();
    let spec = |cluster: &Cluster, node| spec(cluster, &network, node).with_option("--network-key", &key);
    let args = format!("--connect late.example:{}", addr(late).port());
    let mut nodes = vec![cluster.start(spec(&cluster, victim).with_limits(&with_hosts).with_args(&args))];
    for liar in liars {
        let advertised: String = (0..NAMES).map(|at| format!(" --advertise {}:9", name(liar, at))).collect();
        let args = connect(addr(victim)) + &advertised;
        nodes.push(cluster.start(spec(&cluster, liar).with_args(&args)));
    }
    // The liars cannot reach each other at their advertised addresses.
    let victim_node = nodes[0];
    let ids: Vec<PeerId> = nodes[1..].iter().map(|&liar| cluster.id(liar)).collect();
    cluster.wait_for("all liars to join", &nodes, |history| {
        ids.iter().all(|id| history.view(victim_node).contains(id)).then_some(())
    });

    network.set_sender_faults(
        victim,
        &["ip daddr 10.99.0.0/16 tcp flags & (syn | ack) == syn counter".to_owned()],
    );
    let began = Instant::now();
    nodes[1..].iter().for_each(|&liar| cluster.kill(liar));
    cluster.wait_for("a name that is not looked up", &[victim_node], |history| {
        history.log_mentions(victim_node, "names of known peers").then_some(())
    });
    let late_node = cluster.start(spec(&cluster, late));
    cluster.wait_full_mesh(&[victim_node, late_node]);
    let attempts = network.packets_counted(victim);
    let seconds = began.elapsed().as_secs() + 1;
    println!("{attempts} connection attempts in {seconds} s");

    let lookups_max = u64::from(PEER_LOOKUPS_BURST) + u64::from(PEER_LOOKUPS_PER_SECOND) * seconds;
    let attempts_max = NAME_ADDRS_MAX as u64 * lookups_max;
    assert!((1..=attempts_max).contains(&attempts), "{attempts} connection attempts in {seconds} s");
    cluster.check(&[victim_node], |history| {
        let refused = history.log_mentions(victim_node, "of names given with --connect");
        refused.then(|| "a --connect name was not looked up".to_owned())
    });
}

#[test]
fn two_nodes_without_ipv4_connect() {
    let Some(network) = Network::new(2) else { return };
    for node in [1, 2] {
        network.ip(node, "addr flush dev eth0");
        network.ip(node, &format!("addr add {}/64 dev eth0 nodad", addr6(node).ip()));
    }
    let mut cluster = Cluster::new();
    let first = cluster.start(spec(&cluster, &network, 1));
    let second = cluster.start(spec(&cluster, &network, 2).with_args(&connect(addr6(1))));
    cluster.wait_full_mesh(&[first, second]);
    assert_mesh_stays_up(&cluster, &[first, second]);
    // Each node restores the link after an outage of its interface.
    for node in [1, 2] {
        let mark = cluster.mark();
        network.ip(node, "link set eth0 down");
        let ids = [cluster.id(first), cluster.id(second)];
        cluster.wait_for("the loss of each other", &[first, second], |history| {
            let lost = |m, id| history.downs_since(m, mark).iter().any(|(peer, _)| *peer == id);
            (lost(first, ids[1]) && lost(second, ids[0])).then_some(())
        });
        network.ip(node, "link set eth0 up");
        // The kernel removes the address with the interface.
        network.ip(node, &format!("addr replace {}/64 dev eth0 nodad", addr6(node).ip()));
        cluster.wait_full_mesh(&[first, second]);
    }
}

#[test]
fn two_nodes_that_dial_over_ipv4_and_ipv6_keep_one_session() {
    let Some(network) = Network::new(2) else { return };
    for node in [1, 2] {
        network.ip(node, &format!("addr add {}/64 dev eth0 nodad", addr6(node).ip()));
    }
    let mut cluster = Cluster::new();
    let both = |other| format!("{} {}", connect(addr(other)), connect(addr6(other)));
    let nodes = [(1, 2), (2, 1)].map(|(node, other)| {
        let spec = spec(&cluster, &network, node).with_args(&both(other));
        cluster.spawn(spec)
    });
    cluster.wait_full_mesh(&nodes);
    // This takes five seconds; surplus sessions end within that time.
    assert_mesh_stays_up(&cluster, &nodes);
    assert_eq!([1, 2].map(|node| network.connections(node)), [1, 1]);
}

/// A service may start before its network: the address of an interface that is missing is no wrong usage.
#[test]
fn interface_that_appears_later_is_dialled_then() {
    let Some(network) = Network::new(2) else { return };
    for node in 1..=2 {
        network.ip(node, "addr flush dev eth0");
        network.ip(node, &format!("addr add fe80::{node}/64 dev eth0 nodad"));
    }
    let mut cluster = Cluster::new();
    let first = cluster.start(spec(&cluster, &network, 1));
    let second = cluster.start(spec(&cluster, &network, 2).with_args("--connect [fe80::1%wlan7]:7000"));
    cluster.wait_for("the reason for which it waits", &[second], |history| {
        let reason = "this machine has no network interface 'wlan7' now";
        history.log_mentions(second, reason).then_some(())
    });
    network.ip(2, "link set eth0 down\nlink set eth0 name wlan7\nlink set wlan7 up");
    network.ip(2, "addr replace fe80::2/64 dev wlan7 nodad");
    cluster.wait_full_mesh(&[first, second]);
}

/// Only the first node can dial, and it knows the second by the index of its own interface alone.
#[test]
fn peer_behind_an_interface_that_is_made_again_is_redialled() {
    let Some(network) = Network::new(2) else { return };
    for node in 1..=2 {
        network.ip(node, "addr flush dev eth0");
    }
    network.ip(2, "addr add fe80::2/64 dev eth0 nodad");
    let make = |network: &Network| {
        network.ip(1, "link add link eth0 name port0 type macvlan mode bridge\nlink set port0 up");
        network.ip(1, "addr replace fe80::1/64 dev port0 nodad");
    };
    make(&network);
    let mut cluster = Cluster::new();
    let first = cluster.start(spec(&cluster, &network, 1));
    let second = cluster.start(spec(&cluster, &network, 2).with_args("--connect [fe80::1%eth0]:7000"));
    cluster.wait_full_mesh(&[first, second]);
    network.set_sender_faults(2, &["tcp flags & (syn | ack) == syn drop".to_owned()]);
    let mark = cluster.mark();
    network.ip(1, "link del port0");
    let ids = [cluster.id(first), cluster.id(second)];
    cluster.wait_for("the loss of each other", &[first, second], |history| {
        let lost = |m, id| history.downs_since(m, mark).iter().any(|(peer, _)| *peer == id);
        (lost(first, ids[1]) && lost(second, ids[0])).then_some(())
    });
    make(&network);
    cluster.wait_full_mesh(&[first, second]);
}

#[test]
fn nodes_on_one_link_connect_with_link_local_addresses_only() {
    let Some(network) = Network::new(3) else { return };
    for node in 1..=3 {
        network.ip(node, "addr flush dev eth0");
        network.ip(node, &format!("addr add fe80::{node}/64 dev eth0 nodad"));
    }
    let mut cluster = Cluster::new();
    // The first listens on every interface, the second dials with an interface number, the third binds to its
    // address.
    let first = cluster.start(spec(&cluster, &network, 1));
    let index = network.interface_index(2);
    let join = format!("--connect [fe80::1%{index}]:7000");
    let second = cluster.start(spec(&cluster, &network, 2).with_args(&join));
    let join = "--connect [fe80::1%eth0]:7000 --bind fe80::3%eth0";
    let third = cluster.start(spec(&cluster, &network, 3).with_args(join));
    let nodes = [first, second, third];
    cluster.wait_full_mesh(&nodes);
    assert_mesh_stays_up(&cluster, &nodes);
    let ids = nodes.map(|node| cluster.id(node));
    cluster.check(&nodes, |history| {
        let elsewhere = |addr: &String| !(addr.starts_with("[fe80::") && addr.contains('%'));
        let seen = |&id| seen_at(history, &nodes, id).into_iter().find(elsewhere);
        ids.iter().find_map(seen).map(|addr| format!("seen at {addr}, not within the link"))
    });
}
