//! Judges verdicts: what the nodes say of a lost peer, against what the simulator did.
//!
//! A run has five to ten nodes, a network that may lose packets, and many trials in turn: one random fault, or two at once,
//! and the time in which the mesh heals. Each `down` must be followed by the verdict that is true; `unknown` may be refined.
//! The confusion matrix counts the true causes (rows) and the verdicts (columns).

use std::collections::BTreeSet;
use std::fmt;

use p2p_gossip::internals::wire::{Hearing, Message};
use p2p_gossip::{Event, PeerId, Verdict};

use super::checks::VERDICTS;
use super::clock::{MS, Micros, SECOND};
use super::process::ProcId;
use super::scenario::{Action, Restart, Scenario, Slot};
use super::world::{Violation, World};

/// Time in which the mesh forms, and in which it rests after each trial, and longer by up to as much again.
const QUIET_BEFORE: Micros = 4 * SECOND;
const QUIET_BETWEEN: Micros = SECOND;
/// A trial ends this long after the faults: timeouts, graces and verdicts are over.
const WATCHED: Micros = 9 * SECOND;
/// Longest wait until the mesh is whole after a trial, and how often the run looks.
const HEALED_WITHIN: Micros = 30 * SECOND;
const LOOK_EVERY: Micros = 250 * MS;
/// A verdict after this time counts as none.
const VERDICT_WITHIN: Micros = 5 * SECOND;
/// Trials of one run. Later ones would be kills only, which wear no pair.
const TRIALS_MAX: usize = 4;
/// Losses of a pair by which neither node becomes unstable for the other, so that all that it tells is about the faults.
const LOSSES_MAX: u32 = 1;
/// Random faults that are tried until one is found that concerns no worn pair.
const DRAWS_MAX: usize = 20;
/// Time from the loss until the verdict if round trips are short, as the design demands.
pub const LATENCY_MAX: Micros = 250 * MS;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill(Slot),
    PowerOff(Slot),
    Stop(Slot),
    /// The link between two nodes is cut in both directions, or in one.
    Link(Slot, Slot),
    OneWayLink(Slot, Slot),
    /// A node neither hears nor is heard, only does not hear, or only is not heard.
    Isolate(Slot),
    Deafen(Slot),
    Mute(Slot),
}

impl Fault {
    fn random(rng: &mut fastrand::Rng, nodes: usize) -> Self {
        let (a, mut b) = (rng.usize(..nodes), rng.usize(..nodes - 1));
        b += usize::from(b >= a);
        match rng.u32(..8) {
            0 => Self::Kill(a),
            1 => Self::PowerOff(a),
            2 => Self::Stop(a),
            3 => Self::Link(a, b),
            4 => Self::OneWayLink(a, b),
            5 => Self::Isolate(a),
            6 => Self::Deafen(a),
            _ => Self::Mute(a),
        }
    }

    fn actions(self, nodes: usize) -> Vec<Action> {
        let all_but = |slot: Slot| (0..nodes).filter(|&other| other != slot).collect::<Vec<_>>();
        let cut = |from: Vec<Slot>, to: Vec<Slot>| Action::Cut { from, to };
        match self {
            Self::Kill(slot) => vec![Action::Kill(slot)],
            Self::PowerOff(slot) => vec![Action::PowerOff(slot)],
            Self::Stop(slot) => vec![Action::Pause(slot)],
            Self::Link(a, b) => vec![cut(vec![a], vec![b]), cut(vec![b], vec![a])],
            Self::OneWayLink(a, b) => vec![cut(vec![a], vec![b])],
            Self::Isolate(slot) => {
                vec![cut(vec![slot], all_but(slot)), cut(all_but(slot), vec![slot])]
            }
            Self::Deafen(slot) => vec![cut(all_but(slot), vec![slot])],
            Self::Mute(slot) => vec![cut(vec![slot], all_but(slot))],
        }
    }

    /// What ends the fault. A killed node is started again, as its user would.
    fn remedies(self, nodes: usize) -> Vec<Action> {
        let remedy = |action| match action {
            Action::Kill(slot) | Action::PowerOff(slot) => Action::Start(slot, Restart::REMEMBERING),
            Action::Pause(slot) => Action::Resume(slot),
            Action::Cut { from, to } => Action::Heal { from, to },
            other => other,
        };
        self.actions(nodes).into_iter().map(remedy).collect()
    }

    /// Whether peers count the loss: a restart by the user is none.
    fn wears(self) -> bool {
        !matches!(self, Self::Kill(_) | Self::PowerOff(_))
    }

    /// The nodes at which events about it are no surprise: about these, or between these two.
    fn concerns(self, a: Slot, b: Slot) -> bool {
        match self {
            Self::Link(x, y) | Self::OneWayLink(x, y) => (a, b) == (x, y) || (b, a) == (x, y),
            Self::Kill(slot)
            | Self::PowerOff(slot)
            | Self::Stop(slot)
            | Self::Isolate(slot)
            | Self::Deafen(slot)
            | Self::Mute(slot) => a == slot || b == slot,
        }
    }
}

/// A run: one world, and the choice of its faults.
struct Run {
    seed: u64,
    nodes: usize,
    rng: fastrand::Rng,
    world: World,
    /// Losses that each node and each other may count, at index `a * nodes + b`.
    losses: Vec<u32>,
    /// Whether round trips are short. Where packets are sent again they are long, and with them the time for answers.
    is_near: bool,
    has_liar: bool,
}

impl Run {
    fn new(seed: u64, liar: bool) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0xe71d_e4ce);
        let nodes = rng.usize(5..=10);
        let mut scenario = Scenario::new(seed, nodes).with(|net| {
            net.latency_us = [50, 500, 5_000, 20_000][rng.usize(..4)];
            net.jitter_us = net.latency_us;
            net.thread_hop_us = [50, 500, 5_000][rng.usize(..3)];
            // Half of the networks lose packets, which the kernel sends again.
            net.resent_permille = [0, 0, 10, 50][rng.usize(..4)];
            net.resent_ms = rng.u64(200..=300);
        });
        if liar {
            scenario.false_witnesses = vec![rng.usize(..nodes)];
        }
        let is_near = scenario.faults.latency_us <= 5_000 && scenario.faults.resent_permille == 0;
        let mut world = World::new(scenario);
        // Killed nodes start again with what they knew.
        world.restores_nothing = false;
        Self { seed, nodes, rng, world, losses: vec![0; nodes * nodes], is_near, has_liar: liar }
    }

    /// Random faults that concern no worn pair; `None` if there are hardly any left.
    fn draw(&mut self, count: usize) -> Option<Vec<Fault>> {
        for _ in 0..DRAWS_MAX {
            let faults: Vec<Fault> = (0..count).map(|_| Fault::random(&mut self.rng, self.nodes)).collect();
            let mut losses = self.losses.clone();
            for (index, losses) in losses.iter_mut().enumerate() {
                let (a, b) = (index / self.nodes, index % self.nodes);
                *losses +=
                    u32::from(a != b && faults.iter().any(|fault| fault.wears() && fault.concerns(a, b)));
            }
            if losses.iter().all(|losses| *losses <= LOSSES_MAX) {
                self.losses = losses;
                return Some(faults);
            }
        }
        None
    }

    /// One trial after the other.
    fn judge(&mut self, faults: usize) -> Result<Matrix, Violation> {
        let mut matrix = Matrix::default();
        let mut quiet = QUIET_BEFORE;
        for _ in 0..TRIALS_MAX {
            let Some(faults) = self.draw(faults) else {
                break;
            };
            self.world.seen = Some(Vec::new());
            let at = self.world.now + quiet + self.rng.u64(..quiet);
            for (nth, fault) in faults.iter().enumerate() {
                let when = at + if nth > 0 { self.rng.u64(..200) * MS } else { 0 };
                fault.actions(self.nodes).into_iter().for_each(|action| self.world.act_at(when, action));
            }
            self.world.run_until(at + WATCHED)?;
            matrix.add(self.judge_trial(at, &faults)?);
            for remedy in faults.iter().flat_map(|fault| fault.remedies(self.nodes)) {
                self.world.act_at(self.world.now, remedy);
            }
            self.wait_until_whole()?;
            quiet = QUIET_BETWEEN;
        }
        Ok(matrix)
    }

    fn wait_until_whole(&mut self) -> Result<(), Violation> {
        let end = self.world.now + HEALED_WITHIN;
        loop {
            self.world.run_until(self.world.now + LOOK_EVERY)?;
            let procs = || self.world.slots.iter().filter_map(|slot| slot.proc);
            let members = |proc: ProcId| self.world.procs[proc].mesh().members();
            if procs().all(|proc| members(proc) == self.nodes) {
                return Ok(());
            }
            if self.world.now > end {
                let detail = format!("the mesh is not whole {} s after the faults", HEALED_WITHIN / SECOND);
                return Err(broken(&self.world, self.world.now, detail));
            }
        }
    }
}

/// The cause of a loss, as the simulator knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The peer does not run, or no node reaches it.
    Node,
    /// More than half of the others reach the peer.
    Link,
    /// The node itself is cut off from more than half of its peers.
    Isolated,
    /// Some others reach the peer: both the peer and the link may be blamed.
    Either,
    /// The peer has failed, and the node is cut off, too: the verdict names the one that it notices first.
    Both,
}

const CAUSES: [Cause; 5] = [Cause::Node, Cause::Link, Cause::Isolated, Cause::Either, Cause::Both];

impl Cause {
    fn agrees(self, verdict: Verdict) -> bool {
        match self {
            Self::Node => verdict == Verdict::Node,
            Self::Link => verdict == Verdict::Link,
            Self::Isolated => verdict == Verdict::Isolated,
            Self::Either => matches!(verdict, Verdict::Node | Verdict::Link),
            Self::Both => verdict != Verdict::Link,
        }
    }
}

/// The verdicts of many runs.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// By cause, then by verdict; the last column counts losses without a verdict.
    counts: [[u64; Verdict::ALL.len() + 1]; CAUSES.len()],
    right: u64,
    /// Microseconds from the loss until the verdict, if round trips are short.
    latencies: Vec<u32>,
    pub trials: u64,
    /// Seeds with a wrong verdict.
    pub wrong_seeds: BTreeSet<u64>,
    /// The wrong verdicts in words.
    pub wrong: Vec<String>,
}

impl Matrix {
    pub fn add(&mut self, other: Self) {
        for (mine, theirs) in self.counts.iter_mut().flatten().zip(other.counts.iter().flatten()) {
            *mine += theirs;
        }
        self.right += other.right;
        self.latencies.extend(other.latencies);
        self.trials += other.trials;
        self.wrong_seeds.extend(other.wrong_seeds);
        self.wrong.extend(other.wrong);
    }

    pub fn losses(&self) -> u64 {
        self.counts.iter().flatten().sum()
    }

    /// The share of losses with the right verdict.
    pub fn right(&self) -> f64 {
        self.right as f64 / self.losses().max(1) as f64
    }

    /// The latency that this share of the verdicts does not exceed.
    pub fn latency(&self, share: f64) -> Micros {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * share) as usize;
        sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0).into()
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |share| self.latency(share) as f64 / 1000.0;
        writeln!(
            f,
            "{} trials, {} losses, {:.4} % right; verdict after {:.1} ms (p50), {:.1} ms (p99), {:.1} ms (most)",
            self.trials,
            self.losses(),
            self.right() * 100.0,
            ms(0.5),
            ms(0.99),
            ms(1.0)
        )?;
        writeln!(f, "| cause | node | link | self | unknown | none |\n|---|---|---|---|---|---|")?;
        for (cause, row) in CAUSES.iter().zip(self.counts) {
            let cells: Vec<String> = row.iter().map(u64::to_string).collect();
            writeln!(f, "| {cause:?} | {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

/// Makes a run and judges every loss after its faults.
///
/// # Errors
/// An invariant was broken, or a node said of a living peer that most others hear that the peer has failed.
pub fn judge(seed: u64, faults: usize, liar: bool) -> Result<Matrix, Violation> {
    Run::new(seed, liar).judge(faults)
}

impl Run {
    /// Judges the losses of one trial.
    fn judge_trial(&mut self, at: Micros, faults: &[Fault]) -> Result<Matrix, Violation> {
        let seen = self.world.seen.take().unwrap_or_default();
        let world = &self.world;
        let (is_near, has_liar, seed) = (self.is_near, self.has_liar, self.seed);
        let mut matrix = Matrix { trials: 1, ..Matrix::default() };
        for (index, (lost_at, observer, event)) in seen.iter().enumerate() {
            if let Some(breach) = surprise(world, faults, *lost_at >= at, *observer, event) {
                return Err(broken(world, *lost_at, breach));
            }
            let Event::Down { peer, .. } = event else {
                continue;
            };
            let later = &seen[index + 1..];
            let is_mine = |other: &ProcId| other == observer;
            let end = later.iter().find(|(_, other, event)| {
                is_mine(other) && matches!(event, Event::Up { peer: back, .. } if back == peer)
            });
            let end = end.map_or(Micros::MAX, |(at, ..)| *at).min(lost_at + VERDICT_WITHIN);
            let verdicts: Vec<(Micros, Verdict)> = later
                .iter()
                .filter_map(|(at, other, event)| match event {
                    Event::Verdict { peer: about, verdict, .. }
                        if is_mine(other) && about == peer && *at <= end =>
                    {
                        Some((*at, *verdict))
                    }
                    _ => None,
                })
                .collect();
            let first = verdicts.first().copied();
            // A node that can say nothing at first may say later what it was; it may not say something else.
            let found = verdicts.iter().find(|(_, verdict)| *verdict != Verdict::Unknown).copied().or(first);
            // A peer that is back before there can be a verdict needs none.
            if found.is_none() && end < lost_at + LATENCY_MAX {
                continue;
            }
            // A stopped node says nothing more.
            if world.procs[*observer].paused || !world.procs[*observer].alive {
                continue;
            }
            let cause = cause(world, *observer, peer);
            let column = found.map_or(Verdict::ALL.len(), |(_, verdict)| position(verdict));
            matrix.counts[CAUSES.iter().position(|other| *other == cause).unwrap_or(0)][column] += 1;
            let is_right = found.is_some_and(|(_, verdict)| cause.agrees(verdict));
            matrix.right += u64::from(is_right);
            if !is_right {
                matrix.wrong.push(format!(
                    "seed {seed}, {faults:?}: {cause:?} at {lost_at} µs, but p{observer} says {found:?}"
                ));
                matrix.wrong_seeds.insert(seed);
            }
            if let Some((at, _)) = first.filter(|_| is_near) {
                matrix.latencies.push(u32::try_from(at - lost_at).unwrap_or(u32::MAX));
            }
            if cause == Cause::Link && found.is_some_and(|(_, verdict)| verdict == Verdict::Node) && !has_liar
            {
                let detail = format!("p{observer} blames {}, which most others hear", peer.short());
                return Err(broken(world, *lost_at, detail));
            }
        }
        Ok(matrix)
    }
}

fn position(verdict: Verdict) -> usize {
    Verdict::ALL.iter().position(|other| *other == verdict).unwrap_or(0)
}

fn broken(world: &World, at: Micros, detail: String) -> Violation {
    Violation { invariant: VERDICTS, detail, at, last_notes: world.trace.last_notes() }
}

/// An event between two nodes that no fault concerns.
fn surprise(
    world: &World,
    faults: &[Fault],
    is_late: bool,
    observer: ProcId,
    event: &Event,
) -> Option<String> {
    let peer = match event {
        Event::Down { peer, .. } | Event::Verdict { peer, .. } | Event::Unstable { peer, .. } => peer,
        Event::Up { peer, .. } if is_late => peer,
        _ => return None,
    };
    let (here, there) = (world.procs[observer].slot, slot_of(world, peer)?);
    let is_concerned = is_late && faults.iter().any(|fault| fault.concerns(here, there));
    (!is_concerned).then(|| format!("p{observer}, which no fault concerns, says {event}"))
}

fn slot_of(world: &World, id: &PeerId) -> Option<Slot> {
    world.procs.iter().find(|process| process.id == *id).map(|process| process.slot)
}

/// The true cause of a loss: the faults last until the run ends.
fn cause(world: &World, observer: ProcId, peer: &PeerId) -> Cause {
    let all = world.slots.len();
    let here = world.procs[observer].slot;
    let Some(there) = slot_of(world, peer) else {
        return Cause::Node;
    };
    let runs = |slot: Slot| world.slots[slot].proc.is_some_and(|proc| !world.procs[proc].paused);
    let hear = |a: Slot, b: Slot| world.cuts[a * all + b] == 0 && world.cuts[b * all + a] == 0;
    let cut_off = (0..all).filter(|&other| other != here && !hear(here, other)).count();
    let is_cut_off = cut_off * 2 > all - 1;
    let others: Vec<Slot> = (0..all).filter(|&slot| slot != here && slot != there && runs(slot)).collect();
    let hearers = others.iter().filter(|&&slot| runs(there) && hear(slot, there)).count();
    // The peer hears no node, but is heard by more than this one: until it gives up, its link is to blame as well.
    let is_heard = |by: Slot| runs(there) && world.cuts[there * all + by] == 0;
    let is_heard_elsewhere = !is_heard(here) && others.iter().any(|&slot| is_heard(slot));
    match hearers {
        0 if is_cut_off => Cause::Both,
        _ if is_cut_off => Cause::Isolated,
        0 if is_heard_elsewhere => Cause::Either,
        0 => Cause::Node,
        n if n * 2 > others.len() => Cause::Link,
        _ => Cause::Either,
    }
}

impl World {
    /// What a false witness says instead: the opposite.
    pub fn bear_false_witness(&self, message: &mut Message) {
        if let Message::WitnessReport { sightings } | Message::WitnessRequest { lost: sightings } = message {
            for sighting in sightings {
                (sighting.hearing, sighting.ago_ms) = match sighting.hearing {
                    Hearing::Hears => (Hearing::Lost, 60_000),
                    Hearing::Silent | Hearing::Lost | Hearing::Unknown => (Hearing::Hears, 0),
                };
            }
        }
    }
}

/// Judges the runs of these seeds, and returns the first broken invariant.
///
/// # Errors
/// See [`judge`].
pub fn judge_all(
    seeds: impl Iterator<Item = u64>,
    faults: usize,
    liar: bool,
) -> Result<Matrix, (u64, Violation)> {
    let mut matrix = Matrix::default();
    for seed in seeds {
        matrix.add(judge(seed, faults, liar).map_err(|violation| (seed, violation))?);
    }
    Ok(matrix)
}
