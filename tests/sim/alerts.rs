//! One alarm for one incident: the alert programs that the nodes of a mesh run.

use std::collections::{BTreeMap, BTreeSet};

use p2p_gossip::{AlertKind, AlertPhase, PeerId};

use crate::sim::alarms::Alarm;
use crate::sim::clock::{MS, Micros, SECOND};
use crate::sim::scenario::{Action, Restart, Scenario, Slot};
use crate::sim::world::World;

const NODES: usize = 8;
/// The mesh is whole and at rest.
const FAULT_MS: u64 = 4_000;

/// A mesh in which these slots run an alert program. The network's delays vary with the seed.
fn mesh(seed: u64, alerts: &[Slot]) -> (Scenario, fastrand::Rng) {
    mesh_of(NODES, seed, alerts)
}

fn mesh_of(nodes: usize, seed: u64, alerts: &[Slot]) -> (Scenario, fastrand::Rng) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut scenario = Scenario::new(seed, nodes);
    scenario.alerts = alerts.to_vec();
    scenario.faults.latency_us = [50, 500, 20_000][rng.usize(..3)];
    scenario.faults.jitter_us = scenario.faults.latency_us;
    scenario.faults.thread_hop_us = [50, 2_000][rng.usize(..2)];
    (scenario, rng)
}

fn all() -> Vec<Slot> {
    (0..NODES).collect()
}

/// Runs the scenario. Returns the runs of alert programs, and the keys of the slots.
fn run(scenario: Scenario) -> (Vec<Alarm>, Vec<PeerId>) {
    let mut world = World::new(scenario).with_notes(false);
    if let Err(found) = world.run_to_end() {
        panic!("{}\n{}: {}", found.last_notes.join("\n"), found.invariant, found.detail);
    }
    let keys = world.slots.iter().map(|slot| slot.key).collect();
    (world.alarms, keys)
}

fn of(alarms: &[Alarm], kind: AlertKind, phase: AlertPhase) -> Vec<&Alarm> {
    alarms.iter().filter(|alarm| alarm.kind == kind && alarm.phase == phase).collect()
}

/// The number of runs for each incident and phase. All of them must be one.
fn assert_no_duplicates(alarms: &[Alarm]) {
    let mut runs: BTreeMap<(&str, bool), usize> = BTreeMap::new();
    for alarm in alarms {
        *runs.entry((&alarm.incident, alarm.phase == AlertPhase::Begin)).or_default() += 1;
    }
    assert!(runs.values().all(|count| *count == 1), "{alarms:#?}");
}

/// Times at which these slots are killed, a few milliseconds apart.
fn kill(mut scenario: Scenario, rng: &mut fastrand::Rng, slots: &[Slot], at_ms: u64) -> Scenario {
    for &slot in slots {
        scenario.script.push((at_ms * MS + rng.u64(..20 * MS) as Micros, Action::Kill(slot)));
    }
    scenario
}

#[test]
fn each_of_any_number_of_killed_nodes_is_alerted_once() {
    for seed in 0..30 {
        let (scenario, mut rng) = mesh(seed, &all());
        let killed: Vec<Slot> = rng.choose_multiple(0..NODES, rng.clone().usize(1..NODES));
        let scenario = kill(scenario, &mut rng, &killed, FAULT_MS).faults_end_at_ms(30_000);
        let (alarms, keys) = run(scenario);
        let wanted: BTreeSet<PeerId> = killed.iter().map(|&slot| keys[slot]).collect();
        let alerted: BTreeSet<PeerId> = alarms.iter().flat_map(|alarm| alarm.peers.clone()).collect();
        assert_eq!(alerted, wanted, "seed {seed}: {killed:?} {alarms:#?}");
        // A node that dies may be the one that runs its program for another: then there is another run.
        let survivors: Vec<Alarm> =
            alarms.iter().filter(|alarm| !killed.contains(&alarm.slot)).cloned().collect();
        assert_no_duplicates(&survivors);
        assert!(
            survivors.iter().all(|alarm| alarm.at <= (FAULT_MS + 1_000) * MS),
            "seed {seed}: {alarms:#?}"
        );
    }
}

#[test]
fn only_nodes_with_an_alert_program_are_asked_and_without_one_nothing_is_sent() {
    for (seed, count) in (0..8).zip((0..4).cycle()) {
        let alerts = fastrand::Rng::with_seed(seed).choose_multiple(0..NODES - 1, count);
        let (scenario, mut rng) = mesh(seed, &alerts);
        let (alarms, keys) = run(kill(scenario, &mut rng, &[NODES - 1], FAULT_MS).faults_end_at_ms(12_000));
        let begun = of(&alarms, AlertKind::Node, AlertPhase::Begin);
        assert_eq!(begun.len(), usize::from(!alerts.is_empty()), "seed {seed}: {alarms:#?}");
        assert!(begun.iter().all(|alarm| alerts.contains(&alarm.slot) && alarm.peers == [keys[NODES - 1]]));
    }
}

#[test]
fn return_of_a_node_ends_its_incident_and_the_next_loss_is_another() {
    for seed in 0..3 {
        let (scenario, _) = mesh(seed, &all());
        let scenario = scenario
            .at_ms(FAULT_MS, Action::Kill(3))
            .at_ms(12_000, Action::Start(3, Restart::SAME))
            .at_ms(150_000, Action::PowerOff(3))
            .at_ms(160_000, Action::Start(3, Restart::SAME))
            .faults_end_at_ms(170_000);
        let (alarms, _) = run(scenario);
        assert_no_duplicates(&alarms);
        let phases: Vec<AlertPhase> = alarms.iter().map(|alarm| alarm.phase).collect();
        let (begin, end) = (AlertPhase::Begin, AlertPhase::End);
        assert_eq!(phases, [begin, end, begin, end], "seed {seed}: {alarms:#?}");
        assert_eq!(alarms[0].incident, alarms[1].incident);
        assert_eq!(alarms[2].incident, alarms[3].incident);
        assert_ne!(alarms[0].incident, alarms[2].incident);
    }
}

#[test]
fn silent_node_is_alerted_once_within_five_seconds() {
    for seed in 0..6 {
        let (scenario, mut rng) = mesh(seed, &all());
        let silence = if rng.bool() { Action::PowerOff(5) } else { Action::Pause(5) };
        let (alarms, keys) = run(scenario.at_ms(FAULT_MS, silence).faults_end_at_ms(20_000));
        let begun = of(&alarms, AlertKind::Node, AlertPhase::Begin);
        assert_no_duplicates(&alarms);
        assert!(begun.len() == 1 && begun[0].peers == [keys[5]], "seed {seed}: {alarms:#?}");
        assert!(begun[0].at < FAULT_MS * MS + 5 * SECOND, "seed {seed}: {alarms:#?}");
    }
}

#[test]
fn next_member_takes_over_when_the_owner_dies() {
    for seed in 0..6 {
        let (scenario, _) = mesh(seed, &all());
        let scenario = scenario.at_ms(FAULT_MS, Action::Kill(3));
        let (first, _) = run(scenario.clone().faults_end_at_ms(8_000));
        // The same run, but the owner dies while its program runs.
        let (owner, at) = (first[0].slot, first[0].at + 5 * MS);
        let mut scenario = scenario;
        scenario.script.push((at, Action::Kill(owner)));
        let (alarms, keys) = run(scenario.faults_end_at_ms(20_000));
        let about =
            |slot: Slot| alarms.iter().filter(|alarm| alarm.peers == [keys[slot]]).collect::<Vec<_>>();
        let (dead, owner) = (about(3), about(owner));
        assert_eq!((dead.len(), owner.len()), (2, 1), "seed {seed}: {alarms:#?}");
        assert_eq!(dead[0].incident, dead[1].incident);
        assert_ne!(dead[0].slot, dead[1].slot);
    }
}

/// In a larger mesh the silences do not all end at the same time of an interval.
#[test]
fn partition_is_one_incident_and_its_smaller_side_is_isolated() {
    for (nodes, seed) in (0..6).map(|seed| (NODES, seed)).chain((0..6).map(|seed| (18, seed))) {
        let (scenario, _) = mesh_of(nodes, seed, &(0..nodes).collect::<Vec<_>>());
        let (left, right): (Vec<Slot>, Vec<Slot>) = (0..nodes).partition(|slot| *slot <= nodes / 2);
        let (alarms, keys) = run(scenario.split_ms(FAULT_MS, 20_000, &left, &right).faults_end_at_ms(21_000));
        assert_no_duplicates(&alarms);
        let ids = |slots: &[Slot]| slots.iter().map(|&slot| keys[slot]).collect::<BTreeSet<PeerId>>();
        for phase in [AlertPhase::Begin, AlertPhase::End] {
            let partition = of(&alarms, AlertKind::Partition, phase);
            assert!(partition.len() == 1, "{nodes} nodes, seed {seed} {phase}: {alarms:#?}");
            assert_eq!(partition[0].peers.iter().copied().collect::<BTreeSet<_>>(), ids(&right));
            assert!(
                phase == AlertPhase::End || left.contains(&partition[0].slot),
                "{nodes} nodes, seed {seed}: {alarms:#?}"
            );
            let isolated = of(&alarms, AlertKind::Isolated, phase);
            assert_eq!(isolated.len(), 1, "{nodes} nodes, seed {seed} {phase}: {alarms:#?}");
            assert!(right.contains(&isolated[0].slot), "{nodes} nodes, seed {seed}: {alarms:#?}");
            assert_eq!(isolated[0].peers.iter().copied().collect::<BTreeSet<_>>(), ids(&left));
        }
        // Neither side raises another alarm.
        assert_eq!(alarms.len(), 4, "{nodes} nodes, seed {seed}: {alarms:#?}");
    }
}

#[test]
fn broken_link_is_an_incident_once_it_has_lasted() {
    for seed in 0..3 {
        // A third node runs the only program, so the ends have to tell it; or each end runs one, and they agree without
        // a connection.
        for (broken_ms, wanted, programs) in
            [(20_000, 0, vec![4]), (60_000, 1, vec![4]), (60_000, 1, vec![1, 2])]
        {
            let (scenario, _) = mesh(seed, &programs);
            let healed = FAULT_MS + broken_ms;
            let (alarms, keys) =
                run(scenario.split_ms(FAULT_MS, healed, &[1], &[2]).faults_end_at_ms(healed + 1_000));
            assert_no_duplicates(&alarms);
            for phase in [AlertPhase::Begin, AlertPhase::End] {
                let link = of(&alarms, AlertKind::Link, phase);
                assert_eq!(link.len(), wanted, "seed {seed} {phase}: {alarms:#?}");
                let ends = [keys[1].min(keys[2]), keys[1].max(keys[2])];
                assert!(link.iter().all(|alarm| alarm.peers == ends && programs.contains(&alarm.slot)));
            }
            assert_eq!(alarms.len(), 2 * wanted, "seed {seed}: {alarms:#?}");
        }
    }
}

#[test]
fn restarted_monitor_does_not_repeat_the_id_of_an_earlier_incident() {
    let (scenario, _) = mesh(1, &[2]);
    let scenario = scenario
        .at_ms(FAULT_MS, Action::Pause(5))
        .at_ms(10_000, Action::Resume(5))
        .at_ms(20_000, Action::Kill(2))
        .at_ms(21_000, Action::Start(2, Restart::SAME))
        .at_ms(120_000, Action::Pause(5))
        .at_ms(130_000, Action::Resume(5))
        .faults_end_at_ms(140_000);
    let (alarms, keys) = run(scenario);
    let about: Vec<&Alarm> = alarms.iter().filter(|alarm| alarm.peers == [keys[5]]).collect();
    assert_eq!(about.len(), 4, "{alarms:#?}");
    assert_eq!((&about[0].incident, &about[2].incident), (&about[1].incident, &about[3].incident));
    assert_ne!(about[0].incident, about[2].incident);
}
