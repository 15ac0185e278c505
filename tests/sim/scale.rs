//! The cost of forming a mesh of many nodes, in virtual time. All nodes join through the first.

use super::clock::{MS, Micros, SECOND};
use super::scenario::{Action, Restart, Scenario};
use super::world::World;

/// The cost of one formation.
#[derive(Clone, Debug)]
pub struct Cost {
    pub nodes: usize,
    /// Time from the first start until the mesh was whole.
    pub whole_after: Micros,
    pub messages_per_node: f64,
    pub lists_per_node: f64,
    pub bytes_per_node: f64,
    pub dials_per_node: f64,
    pub handshakes_per_pair: f64,
}

/// Measures a run until the mesh is whole. `nodes` nodes start within `spread`. `hop` is the longest delay between
/// threads, which grows on a busy machine.
pub fn formation(seed: u64, nodes: usize, spread: Micros, hop: Micros) -> Cost {
    let mut scenario = Scenario::new(seed, nodes);
    let mut rng = fastrand::Rng::with_seed(seed);
    scenario.script = (0..nodes)
        .map(|slot| (if slot == 0 { 0 } else { rng.u64(..=spread) }, Action::Start(slot, Restart::SAME)))
        .collect();
    scenario.script.push((spread, Action::EndFaults));
    scenario.stay = 0;
    scenario.faults.ping_period_ms = 5_000;
    scenario.faults.thread_hop_us = hop;
    let mut world = World::new(scenario);
    world.count_bytes = true;
    world.stops_when_whole = true;
    match world.run() {
        Ok(outcome) => {
            let per_node = |total: u64| total as f64 / nodes as f64;
            let pairs = (nodes * (nodes - 1) / 2) as f64;
            Cost {
                nodes,
                whole_after: outcome.healed_after + spread,
                messages_per_node: per_node(outcome.stats.messages),
                lists_per_node: per_node(outcome.stats.lists),
                bytes_per_node: per_node(outcome.stats.bytes),
                dials_per_node: per_node(outcome.stats.dials),
                handshakes_per_pair: outcome.stats.handshakes as f64 / pairs,
            }
        }
        Err(violation) => panic!("{nodes} nodes: {} {}", violation.invariant, violation.detail),
    }
}

/// Prints a Markdown table of the costs of growing meshes, up to `SCALE` nodes.
pub fn table() {
    println!(
        "| nodes | start within, s | whole after, s | handshakes a pair | dials a node | messages a node | lists sent a node | KiB sent a node |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let most = std::env::var("SCALE").ok().and_then(|n| n.parse().ok()).filter(|&n| n > 1).unwrap_or(500);
    for nodes in [8, 50, 100, 200, 500].into_iter().filter(|&nodes| nodes <= most) {
        for spread in [100 * MS, 10 * SECOND] {
            let cost = formation(1, nodes, spread, 0);
            println!(
                "| {nodes} | {:.1} | {:.2} | {:.3} | {:.1} | {:.0} | {:.1} | {:.0} |",
                spread as f64 / 1e6,
                cost.whole_after as f64 / 1e6,
                cost.handshakes_per_pair,
                cost.dials_per_node,
                cost.messages_per_node,
                cost.lists_per_node,
                cost.bytes_per_node / 1024.0,
            );
        }
    }
}
