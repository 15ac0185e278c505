//! Clusters of the real program over real TLS on loopback, driven through `--output json`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use p2p_gossip::{DialAddr, DownReason, Event};
use rustix::process::Signal;

use crate::support::history::{History, Member};
use crate::support::process::Spec;
use crate::support::{Cluster, assert_mesh_stays_up, localhost, names, ping_disorder, unique_addr};

#[test]
fn two_nodes_connect_and_ping() {
    let mut cluster = Cluster::new();
    // As in the README, on every interface.
    let nodes = cluster.start_star(Spec::named("a"), [Spec::named("b")]);
    cluster.wait_full_mesh(&nodes);

    let ids = [cluster.id(nodes[0]), cluster.id(nodes[1])];
    for (me, other) in [(0, 1), (1, 0)] {
        cluster.wait_for("a measured round trip", &nodes, |history| {
            history.events_since(nodes[me], 0).find_map(|event| match event {
                Event::Ping { peer, rtt_ms: Some(rtt_ms), .. } if *peer == ids[other] => Some(*rtt_ms),
                _ => None,
            })
        });
    }
    cluster.wait_pings(&nodes, 10, 0);
    cluster.check(&nodes, |history| {
        let gap = |seqs: &Vec<u64>| !seqs.iter().copied().eq(1..=seqs.len() as u64);
        history.pings_since(0).into_values().find(gap).map(|seqs| format!("not 1, 2, 3 …: {seqs:?}"))
    });
    cluster.check(&nodes, |history| {
        let says_other = |event: &Event, me: usize, other: usize| match event {
            Event::Up { peer, name, addr, .. } | Event::Ping { peer, name, addr, .. } => {
                *peer == ids[other]
                    && name == ["a", "b"][other]
                    && addr.socket() == Some(cluster_addr(history, nodes[other]))
            }
            event => matches!(event, Event::Listening { id, .. } if *id == ids[me]),
        };
        [(0, 1), (1, 0)].into_iter().find_map(|(me, other)| {
            let odd = history.events_since(nodes[me], 0).find(|event| !says_other(event, me, other));
            odd.map(|event| format!("unexpected: {event:?}"))
        })
    });
}

/// The loopback address of a member that listens on every interface.
fn cluster_addr(history: &History, member: Member) -> SocketAddr {
    let (_, addr) = history.listening(member).expect("it listens");
    SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port()))
}

#[test]
fn eight_nodes_join_at_once_through_the_first() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_star(Spec::named("n1"), names("other", 7).map(Spec::named));
    cluster.wait_full_mesh(&nodes);
    let mark = cluster.mark();
    cluster.wait_pings(&nodes, 5, mark);
    cluster.check_steady(&nodes, mark);
    cluster.check(&nodes, ping_disorder);
    cluster.check(&nodes, |history| {
        let lost = |&m: &Member| (!history.downs_since(m, 0).is_empty()).then_some("down while joining");
        nodes.iter().find_map(lost).map(str::to_owned)
    });
}

#[test]
fn nodes_join_in_a_chain() {
    let mut cluster = Cluster::new();
    let mut nodes = vec![cluster.start(Spec::named("n1"))];
    for name in names("n", 6).skip(1) {
        let last = cluster.addr(nodes[nodes.len() - 1]);
        nodes.push(cluster.start(Spec::named(name).with_connect(last)));
    }
    cluster.wait_full_mesh(&nodes);
    let mark = cluster.mark();
    cluster.wait_pings(&nodes, 5, mark);
    cluster.check_steady(&nodes, mark);
}

#[test]
fn node_that_connects_to_two_meshes_joins_them() {
    let mut cluster = Cluster::new();
    let island = |cluster: &mut Cluster, prefix: &str| {
        let others: Vec<_> = names(prefix, 4).skip(1).collect();
        let spec = |name: String| Spec::named(name).with_bind(localhost());
        cluster.start_star(spec(format!("{prefix}1")), others.into_iter().map(spec))
    };
    let east = island(&mut cluster, "east");
    let west = island(&mut cluster, "west");
    cluster.wait_full_mesh(&east);
    cluster.wait_full_mesh(&west);

    let bridge = Spec::named("bridge")
        .with_bind(localhost())
        .with_connect(cluster.addr(east[0]))
        .with_connect(cluster.addr(west[3]));
    let all = [east, west, vec![cluster.start(bridge)]].concat();
    cluster.wait_full_mesh(&all);
    let mark = cluster.mark();
    cluster.wait_pings(&all, 3, mark);
    cluster.check_steady(&all, mark);
}

#[test]
fn node_bound_to_one_address_is_learned_at_that_address() {
    let mut cluster = Cluster::new();
    let mut nodes: Vec<Member> = Vec::new();
    for last_octet in 2..=5 {
        let bind = SocketAddr::from(([127, 0, 0, last_octet], 0));
        let spec = Spec::named(format!("at-{last_octet}")).with_bind(bind);
        // In a chain, so that nodes learn most addresses from other nodes instead of `--connect`.
        let spec = match nodes.last() {
            Some(&previous) => spec.with_connect(cluster.addr(previous)),
            None => spec,
        };
        nodes.push(cluster.start(spec));
    }
    cluster.wait_full_mesh(&nodes);
    cluster.wait_pings(&nodes, 3, 0);

    let listening: BTreeSet<_> =
        nodes.iter().map(|&node| (cluster.id(node), DialAddr::from(cluster.addr(node)))).collect();
    cluster.check(&nodes, |history| {
        let elsewhere = |event: &&Event| match event {
            Event::Up { peer, addr, .. } | Event::Ping { peer, addr, .. } => {
                !listening.contains(&(*peer, addr.clone()))
            }
            _ => false,
        };
        nodes.iter().find_map(|&node| {
            let event = history.events_since(node, 0).find(elsewhere);
            event.map(|event| format!("shown at an address where it does not listen: {event}"))
        })
    });
}

#[test]
fn killed_node_goes_down_and_returns_with_its_key_and_port() {
    let mut cluster = Cluster::new();
    let key = cluster.new_key("carol");
    let others = [Spec::named("b"), Spec::named("carol").with_key(&key)];
    let specs = others.into_iter().map(|spec| spec.with_bind(unique_addr()));
    let nodes = cluster.start_star(Spec::named("a").with_bind(unique_addr()), specs);
    cluster.wait_full_mesh(&nodes);
    let carol = cluster.id(nodes[2]);
    let again = cluster.restart_spec(nodes[2]);

    let mark = cluster.mark();
    cluster.kill(nodes[2]);
    cluster.wait_down(&nodes[..2], carol, DownReason::Closed, mark);

    let returned = cluster.start(again);
    assert_eq!(cluster.id(returned), carol, "the id depends on the key alone");
    let whole = [nodes[0], nodes[1], returned];
    cluster.wait_full_mesh(&whole);
    assert_mesh_stays_up(&cluster, &whole);
}

#[test]
fn node_restarted_right_after_a_kill_comes_up_once() {
    let mut cluster = Cluster::new();
    let key = cluster.new_key("carol");
    let others = [Spec::named("b"), Spec::named("carol").with_key(&key)];
    let specs = others.into_iter().map(|spec| spec.with_bind(unique_addr()));
    let nodes = cluster.start_star(Spec::named("a").with_bind(unique_addr()), specs);
    cluster.wait_full_mesh(&nodes);
    let carol = cluster.id(nodes[2]);

    let mark = cluster.mark();
    let again = cluster.restart_spec(nodes[2]);
    cluster.kill(nodes[2]);
    let returned = cluster.start(again);
    let others = &nodes[..2];
    cluster.wait_for("carol to be up again", &nodes, |history| {
        others.iter().all(|&m| history.ups_since(m, mark) == [carol]).then_some(())
    });
    let whole = [nodes[0], nodes[1], returned];
    cluster.wait_full_mesh(&whole);
    assert_mesh_stays_up(&cluster, &whole);
    cluster.check(&nodes, |history| {
        let ups = |&m: &Member| history.ups_since(m, mark).len();
        others.iter().any(|m| ups(m) != 1).then(|| "carol was up more than once".to_owned())
    });
}

#[test]
fn suspended_node_is_down_until_it_resumes() {
    let mut cluster = Cluster::new();
    let spec = |name: String| Spec::named(name).with_bind(localhost());
    let nodes = cluster.start_star(spec("n1".to_owned()), names("other", 3).map(spec));
    cluster.wait_full_mesh(&nodes);
    let (sleeper, awake) = (nodes[3], &nodes[..3]);
    let sleeper_id = cluster.id(sleeper);

    let mark = cluster.mark();
    cluster.signal(sleeper, Signal::STOP);
    cluster.wait_down(awake, sleeper_id, DownReason::Timeout, mark);
    // These pings show that the other nodes continue without it, and give their redials time to accumulate.
    let without = cluster.mark();
    cluster.wait_pings(awake, 10, without);
    cluster.check_steady(awake, without);

    cluster.signal(sleeper, Signal::CONT);
    cluster.wait_full_mesh(&nodes);
    assert_mesh_stays_up(&cluster, &nodes);
    cluster.check(&nodes, |history| {
        let downs = history.downs_since(sleeper, mark);
        let declared = downs.iter().any(|&(_, reason)| reason == DownReason::Timeout);
        declared.then(|| "the suspended node declared the other nodes dead".to_owned())
    });
    cluster.check(&nodes, |history| {
        let others_lost = |&m: &Member| history.downs_since(m, mark).iter().any(|&(p, _)| p != sleeper_id);
        awake.iter().any(others_lost).then(|| "a node that was awake was lost too".to_owned())
    });
}

#[test]
fn nodes_suspended_together_resume_without_a_loss() {
    let mut cluster = Cluster::new();
    let spec = |name: String| Spec::named(name).with_bind(localhost());
    let nodes = cluster.start_star(spec("n1".to_owned()), names("other", 2).map(spec));
    cluster.wait_full_mesh(&nodes);

    let mark = cluster.mark();
    for &node in &nodes {
        cluster.signal(node, Signal::STOP);
    }
    // The sleep is longer than the timeout. No event can replace it, because all nodes are suspended.
    std::thread::sleep(p2p_gossip::internals::limits::TIMEOUT + p2p_gossip::internals::limits::HEARTBEAT);
    for &node in &nodes {
        cluster.signal(node, Signal::CONT);
    }
    assert_mesh_stays_up(&cluster, &nodes);
    cluster.check_steady(&nodes, mark);
}

#[test]
fn sigterm_makes_the_node_leave() {
    let mut cluster = Cluster::new();
    let spec = |name: String| Spec::named(name).with_bind(localhost());
    let nodes = cluster.start_star(spec("n1".to_owned()), names("other", 3).map(spec));
    cluster.wait_full_mesh(&nodes);
    let (leaver, others) = (nodes[1], [nodes[0], nodes[2], nodes[3]]);
    let leaver_id = cluster.id(leaver);

    let mark = cluster.mark();
    let status = cluster.terminate(leaver);
    assert_eq!(status.code(), Some(0), "a leave is a clean end");
    cluster.check(&nodes, |history| {
        let last = history.events_since(leaver, mark).last();
        (last != Some(&Event::Stopped)).then(|| format!("the leaver's last event is {last:?}"))
    });
    cluster.wait_left(&others, leaver_id, mark);
    assert_mesh_stays_up(&cluster, &others);
    cluster.check(&nodes, |history| {
        let changes = |&m: &Member| history.changes_since(m, mark).len();
        others.iter().any(|m| changes(m) != 1).then(|| "more than one leave was seen".to_owned())
    });
}

#[test]
fn bootstrap_peer_that_starts_late_is_joined() {
    let mut cluster = Cluster::new();
    let first_addr = unique_addr();
    let early = ["b", "c"].map(|name| {
        let spec = Spec::named(name).with_bind(localhost()).with_connect(first_addr);
        cluster.start(spec.with_log("info"))
    });
    cluster.wait_for("a log line about the absent peer", &early, |history| {
        early.iter().all(|&m| history.log_mentions(m, &first_addr.to_string())).then_some(())
    });
    let first = cluster.start(Spec::named("a").with_bind(first_addr));
    let nodes = [first, early[0], early[1]];
    cluster.wait_full_mesh(&nodes);
    assert_mesh_stays_up(&cluster, &nodes);
}

#[test]
fn killed_first_node_rejoins_with_its_key() {
    let mut cluster = Cluster::new();
    let key = cluster.new_key("first");
    let others = names("other", 3).map(|name| Spec::named(name).with_bind(unique_addr()));
    let nodes = cluster.start_star(Spec::named("first").with_bind(unique_addr()).with_key(&key), others);
    cluster.wait_full_mesh(&nodes);
    let (first, others) = (cluster.id(nodes[0]), &nodes[1..]);

    let mark = cluster.mark();
    let again = cluster.restart_spec(nodes[0]);
    cluster.kill(nodes[0]);
    cluster.wait_down(others, first, DownReason::Closed, mark);
    // It has no `--connect` address: the other nodes must dial it.
    let returned = cluster.start(again);
    let whole = [&[returned], others].concat();
    cluster.wait_full_mesh(&whole);
    assert_mesh_stays_up(&cluster, &whole);
}

#[test]
fn first_node_restarted_with_a_new_key_is_a_new_peer() {
    let mut cluster = Cluster::new();
    let others = names("other", 3).map(|name| Spec::named(name).with_bind(unique_addr()));
    let nodes = cluster.start_star(Spec::named("first").with_bind(unique_addr()), others);
    cluster.wait_full_mesh(&nodes);
    let (old, others) = (cluster.id(nodes[0]), &nodes[1..]);

    let mark = cluster.mark();
    // Without a key file each start makes a new key.
    let again = cluster.restart_spec(nodes[0]);
    cluster.kill(nodes[0]);
    cluster.wait_down(others, old, DownReason::Closed, mark);
    let replaced = cluster.mark();
    let successor = cluster.start(again);
    assert_ne!(cluster.id(successor), old, "a new key is a new id");
    let whole = [&[successor], others].concat();
    cluster.wait_full_mesh(&whole);
    assert_mesh_stays_up(&cluster, &whole);
    cluster.check(&whole, |history| {
        let revived = |&m: &Member| history.ups_since(m, replaced).contains(&old);
        others.iter().any(revived).then(|| "the old id came up again".to_owned())
    });
}

#[test]
fn first_node_that_left_rejoins_after_a_restart() {
    let mut cluster = Cluster::new();
    let key = cluster.new_key("first");
    let others = names("other", 3).map(|name| Spec::named(name).with_bind(unique_addr()));
    let nodes = cluster.start_star(Spec::named("first").with_bind(unique_addr()).with_key(&key), others);
    cluster.wait_full_mesh(&nodes);
    let (first, others) = (cluster.id(nodes[0]), &nodes[1..]);

    let mark = cluster.mark();
    let again = cluster.restart_spec(nodes[0]);
    assert_eq!(cluster.terminate(nodes[0]).code(), Some(0));
    cluster.wait_left(others, first, mark);
    let returned = cluster.start(again);
    let whole = [&[returned], others].concat();
    cluster.wait_full_mesh(&whole);
    assert_mesh_stays_up(&cluster, &whole);
}

#[test]
fn two_processes_with_one_key_are_reported_and_do_not_alternate() {
    let mut cluster = Cluster::new();
    let key = cluster.new_key("shared");
    let first = cluster.start(Spec::named("first"));
    let addr = cluster.addr(first);
    let twin = |name: &str| Spec::named(name).with_key(&key).with_connect(addr);
    let older = cluster.start(twin("older"));
    cluster.wait_full_mesh(&[first, older]);
    let newer = cluster.start(twin("newer"));
    let reports = [(first, "two processes use one key"), (older, "uses our key"), (newer, "uses our key")];
    cluster.wait_for("all three nodes to report the shared key", &[first, older, newer], |history| {
        reports.iter().all(|&(member, text)| history.log_count(member, text) > 0).then_some(())
    });

    // From now on only the newer process is a member, although the older one keeps dialling.
    let mark = cluster.mark();
    cluster.wait_for("ten pings of the newer one", &[first, older, newer], |history| {
        let shared = history.listening(newer).map(|(id, _)| id);
        let seqs = history.pings_since(mark).get(&(first, shared?)).map_or(0, Vec::len);
        (seqs >= 10).then_some(())
    });
    cluster.check_steady(&[first, newer], mark);
}

#[test]
fn node_that_dials_its_own_address_logs_it_once_and_continues() {
    let mut cluster = Cluster::new();
    let addr = unique_addr();
    let node = cluster.start(Spec::named("alone").with_bind(addr).with_connect(addr));
    cluster.wait_for("the node to know its own address", &[node], |history| {
        (history.log_count(node, "this address is our own") > 0).then_some(())
    });
    let other = cluster.start(Spec::named("other").with_connect(addr));
    cluster.wait_full_mesh(&[node, other]);
    assert_mesh_stays_up(&cluster, &[node, other]);
    cluster.check(&[node], |history| {
        (history.log_count(node, "this address is our own") != 1).then(|| "logged more than once".to_owned())
    });
}

#[test]
fn crossed_dials_end_with_one_session() {
    for round in 1..=20 {
        let mut cluster = Cluster::new();
        let (here, there) = (unique_addr(), unique_addr());
        let spec =
            |name, bind, connect| Spec::named(name).with_bind(bind).with_connect(connect).with_period(0.1);
        let pair = [cluster.spawn(spec("a", here, there)), cluster.spawn(spec("b", there, here))];
        if round % 2 == 0 {
            // Both nodes are suspended and resumed together, so that both dials run at the same moment.
            for signal in [Signal::STOP, Signal::CONT] {
                for node in pair {
                    cluster.addr(node);
                    cluster.signal(node, signal);
                }
            }
        }
        cluster.wait_full_mesh(&pair);
        let mark = cluster.mark();
        cluster.wait_pings(&pair, 5, mark);
        cluster.check(&pair, |history| {
            let changes = |&m: &Member| history.changes_since(m, 0).len();
            let settled = pair.iter().all(|m| changes(m) == 1);
            (!settled).then(|| format!("round {round}: not exactly one up each"))
        });
        cluster.check(&pair, ping_disorder);
    }
}

#[test]
fn peer_that_stays_dead_does_not_disturb_the_other_nodes() {
    let mut cluster = Cluster::new();
    let spec = |name: String| Spec::named(name).with_bind(localhost());
    let nodes = cluster.start_star(spec("n1".to_owned()), names("other", 4).map(spec));
    cluster.wait_full_mesh(&nodes);
    let (dead, living) = (nodes[2], [nodes[0], nodes[1], nodes[3], nodes[4]]);
    let dead_id = cluster.id(dead);

    let mark = cluster.mark();
    cluster.kill(dead);
    cluster.wait_down(&living, dead_id, DownReason::Closed, mark);
    assert_mesh_stays_up(&cluster, &living);
    cluster.check(&living, ping_disorder);
}

#[test]
fn port_of_a_killed_member_goes_to_nobody_else() {
    let mut cluster = Cluster::new();
    let node = cluster.start(Spec::named("node"));
    let addr = cluster.addr(node);
    let again = cluster.restart_spec(node);
    cluster.kill(node);
    assert_eq!(TcpListener::bind(addr).unwrap_err().kind(), ErrorKind::AddrInUse);
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let back = cluster.start(again);
    assert_eq!(cluster.addr(back), addr);
}
