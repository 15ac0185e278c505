//! Figures of traffic: the latency of a ping, the throughput of broadcasts, losses under load, and the time until
//! a mesh has healed after a partition.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{hint, thread};

use crate::clock::{self, Spread, median};
use crate::cluster::Cluster;
use crate::measure::PATIENCE;
use crate::netns::{self, Network};
use crate::stop::{Signals, Stop};
use crate::system_under_test::Observation;
use crate::system_under_test::embedded::{HalfEmbedded, OneBroadcaster};
use crate::system_under_test::ours::Ours;

/// Hexadecimal digits of an id in a log.
const SHORT_ID: usize = 10;
/// After this time a session's burst allowance, which is two seconds' worth of frames, is used up.
const BURST_OVER: Duration = Duration::from_secs(3);
/// Number of nodes of which one broadcasts to all others.
pub(crate) const FAN: usize = 32;
/// Number of nodes of a network that is split in half.
pub(crate) const SPLIT: usize = 8;

/// Measures the time from the sending of a ping until this program reads it from the receiver's stdout. It
/// covers each direction from an embedded node to a node of the program: a quarter of all directions, in a mesh
/// in which the others are as busy.
pub(crate) fn latency(ours: Ours, signals: &Signals, count: usize, window: Duration) -> Result<Spread, Stop> {
    let mixed = HalfEmbedded(ours);
    let mut cluster = Cluster::new(&mixed, signals)?;
    cluster.form(count, PATIENCE)?;
    cluster.listen_for(Duration::from_secs(2))?;
    cluster.pings = Some(Vec::new());
    cluster.listen_for(window)?;
    let records = cluster.pings.take().unwrap_or_default();

    let nodes: BTreeMap<&str, usize> = cluster.running().map(|node| (cluster.id(node), node)).collect();
    let mut sent = BTreeMap::new();
    for record in &records {
        if let Observation::Sent { peer, seq, at } = &record.observation {
            sent.insert((record.node, peer.as_str(), *seq), *at);
        }
    }
    let took = records.iter().filter_map(|record| {
        let Observation::Ping { peer, seq } = &record.observation else { return None };
        let sender = *nodes.get(peer.as_str())?;
        let receiver = cluster.id(record.node).get(..SHORT_ID)?;
        let is_timed = !HalfEmbedded::is_embedded(record.node);
        // A ping that was sent before the window has no time of sending.
        let sent = *sent.get(&(sender, receiver, *seq)).filter(|_| is_timed)?;
        Some(record.at.saturating_sub(sent).as_secs_f64())
    });
    Spread::of(took.collect()).ok_or_else(|| Stop::Failed("no ping was received".to_owned()))
}

/// Messages that nodes receive and print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// Messages a second of all receivers together.
    pub(crate) frames_per_s: f64,
    /// CPU time of a receiver for one message, with its share of the heartbeats.
    pub(crate) cpu_s: f64,
}

/// Measures a mesh in which one embedded node broadcasts as fast as its messages are written.
pub(crate) fn broadcast(
    ours: Ours,
    signals: &Signals,
    count: usize,
    window: Duration,
) -> Result<Taken, Stop> {
    let system = OneBroadcaster { ours, count };
    let mut cluster = Cluster::new(&system, signals)?;
    cluster.form(count, PATIENCE)?;
    cluster.listen_for(BURST_OVER)?;
    let receivers = |cluster: &Cluster<'_>| -> Result<f64, Stop> {
        Ok((cluster.cpu()? - cluster.cpu_of(OneBroadcaster::SENDER)?).as_secs_f64())
    };
    let (began, cpu_s, messages) = (clock::now(), receivers(&cluster)?, cluster.messages);
    cluster.listen_for(window)?;
    let (took, cpu_s) = (clock::now() - began, receivers(&cluster)? - cpu_s);
    let frames = (cluster.messages - messages) as f64;
    Ok(Taken { frames_per_s: frames / took.as_secs_f64(), cpu_s: cpu_s / frames })
}

/// Counts living nodes that are declared dead in a complete mesh, while `loops` threads of this program keep the
/// machine's cores busy.
pub(crate) fn losses_under_load(
    ours: &Ours,
    signals: &Signals,
    count: usize,
    loops: u32,
    time: Duration,
) -> Result<usize, Stop> {
    let mut cluster = Cluster::new(ours, signals)?;
    cluster.form(count, PATIENCE)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..loops {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            });
        }
        let listened = cluster.listen_for(time);
        is_over.store(true, Ordering::Relaxed);
        listened
    })?;
    Ok(cluster.losses)
}

/// Seconds from the end of a partition of this length, 4|4, until every node sees every other again. `None` if
/// the system does not allow this program to create networks.
pub(crate) fn heal(
    ours: &Ours,
    signals: &Signals,
    partition: Duration,
    rounds: usize,
) -> Result<Option<f64>, Stop> {
    let mut all = Vec::new();
    for _ in 0..rounds {
        let Some(network) = Network::new(SPLIT) else { return Ok(None) };
        let mut cluster = Cluster::new(ours, signals)?.in_network(&network);
        cluster.form(SPLIT, PATIENCE)?;
        let nodes: Vec<usize> = (1..=SPLIT).collect();
        let (here, there) = nodes.split_at(SPLIT / 2);
        let split = clock::now();
        network.set_faults(&netns::partition(here, there));
        cluster.until("the halves to lose each other", split + PATIENCE, |cluster| {
            cluster.running().all(|node| cluster.seen_by(node) == SPLIT / 2 - 1)
        })?;
        cluster.listen_for((split + partition).saturating_sub(clock::now()))?;
        network.clear_faults();
        let lifted = clock::now();
        let whole = cluster.until_whole(lifted + PATIENCE)?;
        all.push(whole.saturating_sub(lifted).as_secs_f64());
    }
    Ok(Some(median(&all)))
}
