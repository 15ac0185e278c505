//! Stories: scenarios with a fixed plot. A seed chooses the nodes, the times and the network delays.

use std::time::Duration;

use super::clock::{MS, Micros};
use super::faults::Faults;
use super::scenario::{Action, Restart, Scenario, Slot};

/// Makes the scenario of a story from a seed.
pub type Story = fn(u64) -> Scenario;

/// The stories by name, besides those of attacks. The explorer runs one with `make sim STORY=name SEEDS=1000`.
pub const STORIES: &[(&str, Story)] = &[
    ("changed-halves", changed_halves),
    ("strangers-apart", strangers_apart),
    ("rotated-keys", rotated_keys),
    ("walls", walls),
    ("bad-carriers", bad_carriers),
    ("cut-links", cut_links),
    ("beacons", beacons),
    ("larger-meshes", larger_meshes),
    ("overloaded", overloaded),
];

/// Random faults in a mesh that has several send times of heartbeats in an interval, as smaller ones have not.
pub fn larger_meshes(seed: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x1a26_0000);
    let nodes = rng.usize(17..=24);
    let faults = Faults::random(&mut rng);
    Scenario::random_with(seed, nodes, faults)
}

/// Nodes that find each other by beacons alone, with random faults and forged beacons.
pub fn beacons(seed: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0xbeac_0000);
    let nodes = rng.usize(2..=8);
    let mut faults = Faults::random(&mut rng);
    faults.choose_beacons(&mut rng);
    Scenario::random_with(seed, nodes, faults)
}

/// A partition separates eight nodes into halves. One node joins each half. The first half loses a node by a kill,
/// the second by a kill or a goodbye. Then the partition heals.
pub fn changed_halves(seed: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut scenario = Scenario::new(seed, 10);
    scenario.script.retain(|(_, action)| !matches!(action, Action::Start(8 | 9, _)));
    let (here, there) = ([0, 1, 2, 3, 8], [4, 5, 6, 7, 9]);
    // Some nodes have one bootstrap address, some have all of the first eight nodes.
    for slot in 0..8 {
        if rng.u32(..3) == 0 {
            scenario.connect[slot] = (0..8).filter(|&other| other != slot).collect();
        }
    }
    for (newcomer, side) in [(8, &here), (9, &there)] {
        let through = side[rng.usize(..4)];
        scenario.connect[newcomer] =
            if rng.bool() { vec![through] } else { side.iter().copied().filter(|&s| s < 8).collect() };
    }
    vary_network(&mut scenario, &mut rng);
    let split = 2_000;
    let healed = split + rng.u64(4_000..60_000);
    let between = |rng: &mut fastrand::Rng| rng.u64(split..healed);
    let (lost_here, lost_there) = (here[rng.usize(..4)], there[rng.usize(..4)]);
    let goodbye = rng.bool();
    scenario = scenario
        .split_ms(split, healed, &here, &there)
        .at_ms(between(&mut rng), Action::Kill(lost_here))
        .at_ms(between(&mut rng), if goodbye { Action::Leave(lost_there) } else { Action::Kill(lost_there) })
        .at_ms(between(&mut rng), Action::Start(8, Restart::SAME))
        .at_ms(between(&mut rng), Action::Start(9, Restart::SAME));
    scenario.faults_end_at_ms(healed)
}

/// Two groups of one or two nodes start apart: they cannot reach each other for seconds to minutes, while all other
/// nodes reach both. Then the path heals.
pub fn strangers_apart(seed: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed);
    let nodes = rng.usize(3..=8);
    let mut scenario = Scenario::new(seed, nodes);
    vary_network(&mut scenario, &mut rng);
    let mut others: Vec<Slot> = (1..nodes).collect();
    rng.shuffle(&mut others);
    let left = others.split_off(others.len() - rng.usize(1..others.len()).min(2));
    let right = others.split_off(others.len() - rng.usize(1..=others.len()).min(2));
    let healed = [10_000, 60_000, 300_000][rng.usize(..3)] + rng.u64(..10_000);
    scenario.split_ms(0, healed, &left, &right).faults_end_at_ms(healed)
}

/// A closed network changes its key one to three times: while all are there, while nodes are away, killed or cut off,
/// and in both halves of a split network at the same time. All end with one key.
pub fn rotated_keys(seed: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed);
    let nodes = rng.usize(3..=8);
    let mut scenario = Scenario::new(seed, nodes);
    scenario.is_closed = true;
    vary_network(&mut scenario, &mut rng);
    for slot in 0..nodes {
        if rng.bool() {
            scenario.connect[slot] = (0..nodes).filter(|&other| other != slot).collect();
        }
    }
    let ends = 30_000;
    for _ in 0..rng.usize(1..=3) {
        let (slot, at) = (rng.usize(..nodes), rng.u64(1_000..ends));
        scenario = scenario.at_ms(at, Action::RotateKey(slot, Duration::from_secs(3600)));
        if rng.bool() {
            // Another member changes the key at nearly the same time.
            let other = (slot + rng.usize(1..nodes)) % nodes;
            let at = at + rng.u64(..20);
            scenario = scenario.at_ms(at, Action::RotateKey(other, Duration::from_secs(3600)));
        }
    }
    if rng.bool() {
        let (left, right): (Vec<Slot>, Vec<Slot>) = (0..nodes).partition(|slot| slot % 2 == 0);
        let split = rng.u64(1_000..ends / 2);
        scenario = scenario.split_ms(split, rng.u64(split..ends), &left, &right);
    }
    let away = rng.usize(..nodes);
    let goes = rng.u64(500..ends / 2);
    let goes_off = if rng.bool() { Action::Kill(away) } else { Action::PowerOff(away) };
    let restart = Restart { memory: true, ..Restart::SAME };
    scenario = scenario.at_ms(goes, goes_off).at_ms(rng.u64(goes..ends), Action::Start(away, restart));
    scenario.faults_end_at_ms(ends)
}

/// One or two nodes reach all others and are reached by them. Of the others, most pairs cannot connect to each other, or only
/// one of the two can. In half of the networks some of the others are behind NATs, through which two of them may connect. One
/// of the first nodes may be killed and started again, or lose some of its connections.
pub fn walls(seed: u64) -> Scenario {
    walls_around(seed, if seed.is_multiple_of(3) { 1 } else { 2 })
}

fn walls_around(seed: u64, hubs: usize) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed);
    let nodes = rng.usize(4..=8);
    let mut scenario = Scenario::new(seed, nodes);
    scenario.relay = true;
    vary_network(&mut scenario, &mut rng);
    for from in hubs..nodes {
        for to in (hubs..nodes).filter(|&to| to > from) {
            match rng.u32(..8) {
                0 => {}
                1 => scenario.walls.push((from, to)),
                2 => scenario.walls.push((to, from)),
                _ => scenario.walls.extend([(from, to), (to, from)]),
            }
        }
    }
    if rng.bool() {
        scenario.nats = (hubs..nodes).filter(|_| rng.u32(..4) > 0).collect();
    }
    for slot in 1..nodes {
        scenario.connect[slot] = (0..hubs.min(slot)).collect();
    }
    let hub = rng.usize(..hubs);
    let at = rng.u64(3_000..10_000);
    match rng.u32(..4) {
        0 => scenario = scenario.at_ms(at, Action::Kill(hub)),
        1 => scenario = scenario.at_ms(at, Action::Leave(hub)),
        2 => scenario = (0..5).fold(scenario, |scenario, n| scenario.at_ms(at + 200 * n, Action::Reset(hub))),
        _ => {}
    }
    // Nothing happens if the node still runs.
    scenario.at_ms(at + 3_000, Action::Start(hub, Restart::SAME)).faults_end_at_ms(at + 8_000)
}

/// The same with two first nodes, of which one carries badly.
pub fn bad_carriers(seed: u64) -> Scenario {
    let mut scenario = walls_around(seed, 2);
    scenario.bad_carriers = vec![usize::from(seed.is_multiple_of(2))];
    scenario
}

/// One link after another breaks for a while, one way or both ways. Of the other links of the two nodes none is broken then,
/// so no node ever loses another one. Of three nodes one may: the only carrier of a pair whose link has just healed may lose
/// its own link before the pair has dialled.
pub fn cut_links(seed: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed);
    let nodes = rng.usize(3..=8);
    let mut scenario = Scenario::new(seed, nodes);
    scenario.relay = true;
    scenario.loses_no_peer = nodes > 3;
    vary_network(&mut scenario, &mut rng);
    // A packet that is sent again late may meet a session that has ended meanwhile.
    let mut at = 5_000;
    for _ in 0..6 {
        let one = rng.usize(..nodes);
        let other = (one + rng.usize(1..nodes)) % nodes;
        let healed = at + rng.u64(1_000..20_000);
        let ways = [vec![(one, other)], vec![(one, other), (other, one)]];
        for &(from, to) in &ways[rng.usize(..2)] {
            scenario = scenario
                .at_ms(at, Action::Cut { from: vec![from], to: vec![to] })
                .at_ms(healed, Action::Heal { from: vec![from], to: vec![to] });
        }
        // The pair may still use the path around the link when the next one breaks.
        at = healed + rng.u64(..10_000);
    }
    scenario.faults_end_at_ms(at)
}

/// Machines are overloaded for a while, one after another or at once, and the network is well: no node is lost.
pub fn overloaded(seed: u64) -> Scenario {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0x10ad_0000);
    let nodes = rng.usize(2..=20);
    let mut scenario = Scenario::new(seed, nodes);
    scenario.loses_no_peer = true;
    vary_network(&mut scenario, &mut rng);
    let mut at = 100;
    for _ in 0..rng.usize(1..=12) {
        let slot = rng.usize(..nodes);
        let until = at + rng.u64(200..30_000);
        scenario = scenario
            .at_ms(at, Action::Overload(slot, rng.u64(10..=95) * MS))
            .at_ms(until, Action::Overload(slot, 0));
        at = if rng.bool() { until } else { at + rng.u64(..5_000) };
    }
    scenario.faults_end_at_ms(at + 40_000)
}

/// Chooses the delays of the network and spreads the starts.
fn vary_network(scenario: &mut Scenario, rng: &mut fastrand::Rng) {
    let faults = &mut scenario.faults;
    faults.latency_us = [50, 500, 20_000][rng.usize(..3)];
    faults.jitter_us = faults.latency_us;
    faults.thread_hop_us = [50, 5_000][rng.usize(..2)];
    faults.resend_wait_ms_max = rng.u64(10..=2_000);
    for (at, action) in &mut scenario.script {
        if matches!(action, Action::Start(..)) {
            *at += rng.u64(..200 * MS) as Micros;
        }
    }
}
