//! The explorer: runs many seeds on all cores, or replays one seed and prints every event.
//!
//! ```text
//! SEEDS=100000 [FROM=0] [JOBS=2] [BRIEF=1]   explores     SEED=7   replays     SCALE=1   measures large meshes
//! STORY=changed-halves                       uses this story with SEEDS or SEED
//! VERDICTS=1 SEEDS=100000 [LIAR=1]           judges verdicts on one random fault at a time; VERDICTS=2 on two
//! ```

// The user of the explorer reads its texts.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "mod.rs"]
mod sim;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sim::attack_stories;
use sim::scenario::Scenario;
use sim::stories::{STORIES, Story};
use sim::world::{Outcome, Violation, World};

/// The number in this environment variable, if it is set.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| match value.parse() {
        Ok(number) => number,
        Err(error) => panic!("{name}={value}: {error}"),
    })
}

fn main() -> ExitCode {
    if number("SCALE").is_some() {
        sim::scale::table();
        return ExitCode::SUCCESS;
    }
    if let Some(faults) = number("VERDICTS") {
        return verdicts(faults, number("FROM").unwrap_or(0), number("SEEDS").unwrap_or(1_000));
    }
    if number("SPEED").is_some() {
        speed();
        return ExitCode::SUCCESS;
    }
    let story = match std::env::var("STORY").unwrap_or_default().as_str() {
        "" => None,
        name => match STORIES.iter().chain(attack_stories::STORIES).find(|(story, _)| *story == name) {
            Some((_, story)) => Some(*story),
            None => panic!(
                "STORY={name}: no such story; the stories are {:?}",
                STORIES.iter().chain(attack_stories::STORIES).map(|(story, _)| story).collect::<Vec<_>>()
            ),
        },
    };
    match number("SEED") {
        Some(seed) => replay(seed, story),
        None => explore(number("FROM").unwrap_or(0), number("SEEDS").unwrap_or(1_000), story),
    }
}

fn scenario(seed: u64, story: Option<Story>) -> Scenario {
    story.map_or_else(|| Scenario::random(seed), |story| story(seed))
}

fn report(seed: u64, story: Option<Story>, violation: &Violation) -> String {
    match story {
        None => sim::shrink::report(seed).unwrap_or_default(),
        Some(_) => format!("seed {seed}: invariant {} broken: {}", violation.invariant, violation.detail),
    }
}

fn replay(seed: u64, story: Option<Story>) -> ExitCode {
    let scenario = scenario(seed, story);
    println!("seed {seed}: {} nodes, faults: {}", scenario.nodes, scenario.faults.describe());
    match World::new(scenario).with_notes(true).run() {
        Ok(outcome) => {
            println!("{outcome:#?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{}", report(seed, story, &violation));
            ExitCode::FAILURE
        }
    }
}

/// Measures the virtual seconds that pass in a real one, for a mesh of eight without faults.
fn speed() {
    let mut scenario = Scenario::new(1, 8).faults_end_at_ms(1_000);
    scenario.stay = 20_000 * sim::clock::SECOND;
    let begun = Instant::now();
    let outcome = World::new(scenario).run().expect("a mesh without faults breaks no invariant");
    let (virtual_s, real_s) = (outcome.virtual_time as f64 / 1e6, begun.elapsed().as_secs_f64());
    println!("8 nodes: {virtual_s:.0} virtual seconds in {real_s:.1} s: {:.0} a second", virtual_s / real_s);
}

/// Judges the verdicts of many runs, and prints the confusion matrix.
fn verdicts(faults: u64, from: u64, seeds: u64) -> ExitCode {
    let faults = usize::try_from(faults).expect("a few faults");
    let jobs =
        number("JOBS").unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u64));
    let is_with_liar = number("LIAR").is_some();
    let (next, total) = (AtomicU64::new(0), Mutex::new(sim::verdicts::Matrix::default()));
    let failures = AtomicU64::new(0);
    let judge = || {
        while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < seeds) {
            let seed = from + seed;
            match sim::verdicts::judge(seed, faults, is_with_liar) {
                Ok(matrix) => total.lock().unwrap().add(matrix),
                Err(violation) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    println!("seed {seed}: {} | {}", violation.invariant, violation.detail);
                }
            }
        }
    };
    let begun = Instant::now();
    std::thread::scope(|scope| {
        (0..jobs).for_each(|_| drop(scope.spawn(judge)));
    });
    let total = total.lock().unwrap();
    let wrong: Vec<&u64> = total.wrong_seeds.iter().take(20).collect();
    println!("{total}seeds with a wrong verdict: {} {wrong:?}", total.wrong_seeds.len());
    total.wrong.iter().take(20).for_each(|wrong| println!("{wrong}"));
    println!("{:.0} trials a second", total.trials as f64 / begun.elapsed().as_secs_f64());
    if failures.load(Ordering::Relaxed) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[derive(Default)]
struct Progress {
    next: AtomicU64,
    done: AtomicU64,
    virtual_us: AtomicU64,
    failures: AtomicU64,
    /// The slowest healing as a share of its limit, and its seed.
    slowest: Mutex<(f64, u64)>,
    /// The longest healing in microseconds, and its seed.
    longest: Mutex<(u64, u64)>,
}

fn explore(from: u64, seeds: u64, story: Option<Story>) -> ExitCode {
    let jobs =
        number("JOBS").unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u64));
    let progress = Progress::default();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(&progress, from, seeds, story));
        }
        let mut shown = Instant::now();
        while progress.done.load(Ordering::Relaxed) < seeds {
            std::thread::sleep(Duration::from_millis(50));
            if shown.elapsed() >= Duration::from_secs(10) {
                shown = Instant::now();
                show(&progress, begun);
            }
        }
    });
    show(&progress, begun);
    let failed = progress.failures.load(Ordering::Relaxed) > 0;
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs seeds until none is left.
fn work(progress: &Progress, from: u64, seeds: u64, story: Option<Story>) {
    loop {
        let index = progress.next.fetch_add(1, Ordering::Relaxed);
        if index >= seeds {
            return;
        }
        run_seed(progress, from + index, story);
        progress.done.fetch_add(1, Ordering::Relaxed);
    }
}

fn run_seed(progress: &Progress, seed: u64, story: Option<Story>) {
    match std::panic::catch_unwind(|| World::new(scenario(seed, story)).run()) {
        Ok(Ok(outcome)) => count_healing(progress, seed, &outcome),
        Ok(Err(violation)) => {
            // Every failure is counted; the first few get a full report.
            let full_reports = if number("BRIEF").is_some() { 0 } else { 3 };
            if progress.failures.fetch_add(1, Ordering::Relaxed) < full_reports {
                println!("{}", report(seed, story, &violation));
            } else {
                println!("seed {seed}: {} | {}", violation.invariant, violation.detail);
            }
        }
        Err(_) => {
            progress.failures.fetch_add(1, Ordering::Relaxed);
            println!("seed {seed}: panicked");
        }
    }
}

fn count_healing(progress: &Progress, seed: u64, outcome: &Outcome) {
    progress.virtual_us.fetch_add(outcome.virtual_time, Ordering::Relaxed);
    let share = outcome.healed_after as f64 / outcome.heal_limit as f64;
    let mut slowest = progress.slowest.lock().unwrap();
    if share > slowest.0 {
        *slowest = (share, seed);
    }
    let mut longest = progress.longest.lock().unwrap();
    *longest = (*longest).max((outcome.healed_after, seed));
}

fn show(progress: &Progress, begun: Instant) {
    let (done, real) = (progress.done.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    let virtual_s = progress.virtual_us.load(Ordering::Relaxed) as f64 / 1e6;
    let (share, seed) = *progress.slowest.lock().unwrap();
    let (longest, longest_seed) = *progress.longest.lock().unwrap();
    println!(
        "{done} seeds, {:.0}/s, {:.1} virtual hours ({:.0} s a second), {} failures, slowest healing {:.0} % of its limit (seed {seed}), {:.1} s (seed {longest_seed})",
        done as f64 / real,
        virtual_s / 3600.0,
        virtual_s / real,
        progress.failures.load(Ordering::Relaxed),
        share * 100.0,
        longest as f64 / 1e6,
    );
}
