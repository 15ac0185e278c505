//! User settings of heartbeat interval, timeout and number of peers, with real processes on loopback.

use p2p_gossip::{DownReason, Event};
use rustix::process::Signal;

use crate::support::history::Member;
use crate::support::process::Spec;
use crate::support::{Cluster, localhost};

/// Start options of a node on loopback with this ping period in seconds.
fn spec(name: &str, period_s: f64, args: &str) -> Spec {
    Spec::named(name).with_period(period_s).with_bind(localhost()).with_args(args)
}

#[test]
fn nodes_with_different_heartbeats_stay_connected_and_time_out_by_their_own_interval() {
    /// Ping period in seconds: so long that only heartbeats show that a node is alive.
    const RARELY: f64 = 3600.0;
    let mut cluster = Cluster::new();
    // The fast node is also the clock of this test: it pings twice a second.
    let nodes = cluster.start_star(
        spec("fast", 0.5, "--heartbeat 0.2"),
        [
            spec("normal", RARELY, ""),
            spec("slow", RARELY, "--heartbeat 10"),
            spec("slow-too", RARELY, "--heartbeat 10"),
        ],
    );
    let [fast, normal, slow, slow_too] = nodes[..] else { panic!() };
    cluster.wait_full_mesh(&nodes);

    // Longer than the slowest heartbeat interval and than every timeout except that of the slow nodes.
    let mark = cluster.mark();
    let fast_id = cluster.id(fast);
    cluster.wait_for("fifteen seconds of pings", &nodes, |history| {
        let pings = history.pings_since(mark);
        pings.get(&(slow, fast_id)).is_some_and(|seqs| seqs.len() >= 30).then_some(())
    });
    cluster.check_steady(&nodes, mark);

    let mark = cluster.mark();
    let (normal_id, slow_id) = (cluster.id(normal), cluster.id(slow));
    cluster.signal(normal, Signal::STOP);
    cluster.signal(slow, Signal::STOP);
    cluster.wait_down(&[fast, slow_too], normal_id, DownReason::Timeout, mark);
    cluster.wait_down(&[fast, slow_too], slow_id, DownReason::Timeout, mark);
    cluster.check(&nodes, |history| {
        // For the fast node the normal node is dead after three seconds, the slow node after thirty.
        let lost: Vec<_> = history.downs_since(fast, mark).into_iter().map(|(peer, _)| peer).collect();
        (lost != [normal_id, slow_id]).then(|| format!("lost {lost:?}"))
    });
    cluster.check(&nodes, |history| {
        let lost = |m: Member| history.downs_since(m, mark).len();
        ([lost(fast), lost(slow_too)] != [2, 2]).then(|| "a node lost more than these two".to_owned())
    });

    cluster.signal(normal, Signal::CONT);
    cluster.signal(slow, Signal::CONT);
    cluster.wait_full_mesh(&nodes);
}

#[test]
fn full_peer_table_refuses_newcomers_until_a_peer_dies() {
    let mut cluster = Cluster::new();
    let full = cluster.start(spec("full", 0.2, "--max-peers 1"));
    let join = format!("--connect {}", cluster.addr(full));
    let first = cluster.start(spec("first", 0.2, &join));
    cluster.wait_full_mesh(&[full, first]);

    let second = cluster.start(spec("second", 0.2, &join));
    let full_id = cluster.id(full);
    cluster.wait_down(&[second], full_id, DownReason::Refused, 0);
    cluster.wait_for("both nodes to log the reason", &[full, second], |history| {
        let logged = history.log_mentions(full, "table of peers is full")
            && history.log_mentions(second, "table of peers is full");
        logged.then_some(())
    });
    // The refusal does not affect the existing members.
    let mark = cluster.mark();
    cluster.wait_pings(&[full, first], 10, mark);
    cluster.check_steady(&[full, first], mark);
    cluster.check(&[full, second], |history| {
        let second_id = history.listening(second)?.0;
        let ups = history.events_since(full, 0);
        let admitted = ups.filter(|e| matches!(e, Event::Up { peer, .. } if *peer == second_id)).count();
        (admitted > 0).then(|| "the second node was admitted".to_owned())
    });

    // A dead peer makes room for a newcomer at once. A returning peer does not displace a live one.
    let first_id = cluster.id(first);
    let again = cluster.restart_spec(first);
    cluster.kill(first);
    cluster.wait_down(&[full], first_id, DownReason::Closed, mark);
    let third = cluster.start(spec("third", 0.2, &join));
    cluster.wait_full_mesh(&[full, third]);
    let late = cluster.start(again);
    cluster.wait_down(&[late], full_id, DownReason::Refused, 0);
    let mark = cluster.mark();
    cluster.wait_pings(&[full, third], 10, mark);
    cluster.check_steady(&[full, third], mark);
}
