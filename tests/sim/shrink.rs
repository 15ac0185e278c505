//! Finds the smallest set of faults that still breaks the same invariant: leaves out kinds of faults and nodes one by
//! one for as long as the run fails.

use super::faults::Faults;
use super::scenario::Scenario;
use super::world::{Violation, World};

/// Most runs of one search; each takes milliseconds.
const RUNS_MAX: usize = 300;

pub struct Smallest {
    pub nodes: usize,
    pub faults: Faults,
    pub violation: Violation,
}

/// `None` if the run with all faults does not break the invariant.
pub fn shrink(seed: u64, nodes: usize, faults: &Faults, invariant: &'static str) -> Option<Smallest> {
    let mut runs = 0;
    let mut fails = |nodes: usize, faults: &Faults| {
        runs += 1;
        if runs > RUNS_MAX {
            return None;
        }
        let scenario = Scenario::random_with(seed, nodes, faults.clone());
        World::new(scenario).with_notes(false).run().err().filter(|found| found.invariant == invariant)
    };
    let violation = fails(nodes, faults)?;
    let mut smallest = Smallest { nodes, faults: faults.clone(), violation };
    loop {
        let mut smaller = None;
        for fewer in [smallest.nodes / 2, smallest.nodes - 1] {
            if fewer >= 2 && smaller.is_none() {
                smaller = fails(fewer, &smallest.faults).map(|found| (fewer, smallest.faults.clone(), found));
            }
        }
        for (_, simpler) in smallest.faults.simpler_variants() {
            if smaller.is_none() {
                smaller = fails(smallest.nodes, &simpler).map(|found| (smallest.nodes, simpler, found));
            }
        }
        match smaller {
            Some((nodes, faults, violation)) => smallest = Smallest { nodes, faults, violation },
            None => return Some(smallest),
        }
    }
}

/// The report on a seed that fails; `None` if it passes.
pub fn report(seed: u64) -> Option<String> {
    let scenario = Scenario::random(seed);
    let nodes = scenario.nodes - scenario.faults.liars as usize - scenario.faults.clones as usize;
    let faults = scenario.faults.clone();
    let violation = World::new(scenario).with_notes(false).run().err()?;
    let mut text = format!(
        "seed {seed}: invariant {} broken at {:.6} s\n  {}\n  {nodes} nodes, faults: {}\n",
        violation.invariant,
        violation.at as f64 / 1e6,
        violation.detail,
        faults.describe(),
    );
    for note in violation.last_notes.iter().rev().take(30).rev() {
        text += &format!("    {note}\n");
    }
    if let Some(smallest) = shrink(seed, nodes, &faults, violation.invariant) {
        text += &format!(
            "  smallest that still fails: {} nodes, faults: {}\n  {}\n",
            smallest.nodes,
            smallest.faults.describe(),
            smallest.violation.detail,
        );
        for note in smallest.violation.last_notes.iter().rev().take(40).rev() {
            text += &format!("    {note}\n");
        }
    }
    Some(text)
}
