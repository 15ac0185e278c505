//! Takes each figure from a cluster of any of the programs.

use std::time::Duration;

use crate::clock::{self, median};
use crate::cluster::Cluster;
use crate::procfs;
use crate::stop::{Signals, Stop};
use crate::system_under_test::SystemUnderTest;

/// Longest wait for one step, unless a figure sets another limit; only a failure takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Time from the formation until the nodes send only heartbeats.
const SETTLE: Duration = Duration::from_secs(3);

/// The cost of forming a mesh.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Formation {
    /// Time from before the start of the first process until the last node sees all others.
    pub(crate) wall_s: f64,
    /// CPU time of all nodes until then, from their start.
    pub(crate) cpu_s: f64,
    /// TCP connections accepted until then, by pair of nodes.
    pub(crate) connections_a_pair: f64,
}

/// Forms a mesh `rounds` times, calling `first` before each. Returns the last mesh, which still runs, and the
/// medians.
pub(crate) fn formation<'a>(
    system: &'a dyn SystemUnderTest,
    signals: &'a Signals,
    count: usize,
    rounds: usize,
    mut first: impl FnMut() -> Result<(), Stop>,
) -> Result<(Cluster<'a>, Formation), Stop> {
    let mut all: Vec<Formation> = Vec::new();
    loop {
        first()?;
        let mut cluster = Cluster::new(system, signals)?;
        let (accepted, began) = (procfs::connections_accepted()?, clock::now());
        let complete = cluster.form(count, PATIENCE)?;
        let cpu_s = cluster.cpu()?.as_secs_f64();
        let accepted = procfs::connections_accepted()?.saturating_sub(accepted);
        let wall_s = (complete - began).as_secs_f64();
        all.push(Formation { wall_s, cpu_s, connections_a_pair: accepted as f64 / pairs(count) });
        if all.len() >= rounds {
            let of = |part: fn(&Formation) -> f64| median(&all.iter().map(part).collect::<Vec<_>>());
            let formation = Formation {
                wall_s: of(|f| f.wall_s),
                cpu_s: of(|f| f.cpu_s),
                connections_a_pair: of(|f| f.connections_a_pair),
            };
            return Ok((cluster, formation));
        }
    }
}

/// Number of pairs of `count` nodes.
pub(crate) fn pairs(count: usize) -> f64 {
    (count * (count - 1)) as f64 / 2.0
}

/// The cost of a mesh in which no membership changes and no pings are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    /// CPU seconds a second, of one node.
    pub(crate) cpu_a_node: f64,
    /// Wake-ups of threads a second, of one node.
    pub(crate) wakeups_a_node: f64,
}

/// Measures `rounds` windows of this length, once the mesh sends only heartbeats; returns the medians.
pub(crate) fn idle(cluster: &mut Cluster<'_>, window: Duration, rounds: usize) -> Result<Idle, Stop> {
    cluster.listen_for(SETTLE)?;
    let (mut cpus, mut wakeups) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (began, cpu, sleeps) = (clock::now(), cluster.cpu()?, cluster.sleeps()?);
        cluster.listen_for(window)?;
        let (ended, cpu, sleeps) =
            (clock::now(), cluster.cpu()? - cpu, cluster.sleeps()?.saturating_sub(sleeps));
        let node_seconds = (ended - began).as_secs_f64() * cluster.running().count() as f64;
        cpus.push(cpu.as_secs_f64() / node_seconds);
        wakeups.push(sleeps as f64 / node_seconds);
    }
    Ok(Idle { cpu_a_node: median(&cpus), wakeups_a_node: median(&wakeups) })
}

/// Memory of a node in bytes, as the median of all nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryANode {
    pub(crate) rss: f64,
    pub(crate) pss: f64,
}

pub(crate) fn memory(cluster: &Cluster<'_>) -> Result<MemoryANode, Stop> {
    let all = cluster.memory()?;
    let rss: Vec<f64> = all.iter().map(|memory| memory.rss as f64).collect();
    let pss: Vec<f64> = all.iter().map(|memory| memory.pss as f64).collect();
    Ok(MemoryANode { rss: median(&rss), pss: median(&pss) })
}

/// The way in which a node fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// `kill -9`: the kernel closes the node's connections.
    Closed,
    /// `kill -STOP`: the connections stay open, but the node is silent.
    Silent,
}

/// Measures the seconds from the death of a node until the last other node reports it. The newest node dies, so
/// that the first, through which others join, stays.
pub(crate) fn death(cluster: &mut Cluster<'_>, death: Death) -> Result<f64, Stop> {
    let victim = cluster.running().last().ok_or_else(|| Stop::Failed("no node is left".to_owned()))?;
    let died = match death {
        Death::Closed => cluster.kill(victim)?,
        Death::Silent => cluster.stop(victim)?,
    };
    let known = cluster.until_lost(victim, clock::now() + PATIENCE)?;
    if death == Death::Silent {
        cluster.kill(victim)?;
    }
    Ok((known - died).as_secs_f64())
}

/// Starts one more node, which joins through the first. Measures the seconds from its start until it sees all
/// others and they see it.
pub(crate) fn join(cluster: &mut Cluster<'_>) -> Result<f64, Stop> {
    let first = cluster.running().next().ok_or_else(|| Stop::Failed("no node is left".to_owned()))?;
    let address = cluster.join_address(first).to_owned();
    let began = clock::now();
    cluster.spawn(Some(&address))?;
    let complete = cluster.until_whole(began + PATIENCE)?;
    Ok((complete - began).as_secs_f64())
}
