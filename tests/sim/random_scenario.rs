//! The scenario of a seed: which nodes take part, and a script of random faults.

use super::attacker::{Attack, Lies, Plot, Target};
use super::clock::{MS, Micros};
use super::faults::Faults;
use super::scenario::{Action, DAY, Restart, Scenario, Slot};

/// Heartbeat and timeout that a node may have instead of the usual ones, in milliseconds.
const RHYTHMS_MS: [(u64, u64); 5] =
    [(200, 600), (200, 2_000), (500, 1_000), (3_000, 9_000), (10_000, 30_000)];
/// How far a wall clock may be set ahead of the right time, in seconds.
const WALL_CLOCK_OFFSETS_S: [i64; 6] = [0, -1, 3 * DAY, -3 * DAY, 400 * DAY, -100_000 * DAY];
/// Cuts of a flapping path.
const CUTS_PER_FLAP: u32 = 6;

impl Scenario {
    /// The scenario that belongs to this seed.
    pub fn random(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed_0001);
        let nodes = [2, 3, 3, 4, 4, 5, 6, 8][rng.usize(..8)];
        Self::random_with(seed, nodes, Faults::random(&mut rng))
    }

    /// The scenario of this seed with these faults. Each kind of fault has its own random numbers, so leaving out one
    /// kind changes no other.
    pub fn random_with(seed: u64, nodes: usize, faults: Faults) -> Self {
        let total = nodes + faults.liars as usize + faults.clones as usize;
        let mut scenario = Self::new(seed, total);
        let chaos = faults.chaos();
        scenario.script.clear();
        scenario.faults = faults;
        scenario.add_starts(nodes);
        scenario.liars = (nodes..nodes + scenario.faults.liars as usize).collect();
        scenario.add_clones(nodes);
        scenario.vary_nodes();
        scenario.add_walls(nodes);
        let script = FaultScript::new(&scenario).build();
        scenario.script.extend(script);
        scenario.script.push((chaos, Action::EndFaults));
        scenario.add_attacks(nodes)
    }

    /// Adds attackers on slots of their own, which no other fault concerns.
    fn add_attacks(mut self, nodes: usize) -> Self {
        let mut rng = self.rng_of(25);
        let chaos = self.faults.chaos();
        for _ in 0..self.faults.attacks {
            let from = rng.u64(..chaos);
            let plot = random_plot(&mut rng, nodes);
            self = self.attacked_by(Attack { slot: 0, from, until: chaos, plot });
        }
        let mut rng = self.rng_of(26);
        for _ in 0..self.faults.forgers {
            let (from, every) = (rng.u64(..chaos), [MS, 50 * MS, 1_000 * MS][rng.usize(..3)]);
            self = self.attacked_by(Attack { slot: 0, from, until: chaos, plot: Plot::Beacons { every } });
        }
        self
    }

    /// The random numbers of one kind of fault.
    fn rng_of(&self, kind: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ kind)
    }

    /// Starts every slot once, most of them before the faults, and chooses its bootstrap addresses.
    fn add_starts(&mut self, nodes: usize) {
        let chaos = self.faults.chaos();
        let first_late = nodes.saturating_sub(self.faults.late_joins as usize);
        let mut rng = self.rng_of(1);
        for slot in 0..self.nodes {
            let late = slot > 0 && slot >= first_late;
            let at = if late { rng.u64(..chaos) } else { rng.u64(..500 * MS) };
            self.script.push((at, Action::Start(slot, Restart::SAME)));
            if self.faults.discover {
                self.connect[slot] = Vec::new();
                continue;
            }
            // Most nodes join through the first, some through another, some through several.
            let choice = rng.u32(..10);
            self.connect[slot] = match choice {
                _ if slot == 0 => {
                    if choice < 7 {
                        vec![]
                    } else {
                        vec![1]
                    }
                }
                0..=5 => vec![0],
                6..=7 => vec![rng.usize(..slot)],
                _ => vec![0, rng.usize(..nodes)],
            };
        }
    }

    /// The last slots run the keys of other slots and start while the faults go on.
    fn add_clones(&mut self, nodes: usize) {
        let chaos = self.faults.chaos();
        let mut rng = self.rng_of(2);
        for slot in nodes + self.liars.len()..self.nodes {
            self.key_of[slot] = rng.usize(..nodes);
            let at = rng.u64(..chaos);
            self.script.retain(|(_, action)| *action != Action::Start(slot, Restart::SAME));
            self.script.push((at, Action::Start(slot, Restart::SAME)));
        }
    }

    /// Chooses the pairs that cannot connect. The first node reaches all and is reached by all: most others join through it.
    fn add_walls(&mut self, nodes: usize) {
        let mut rng = self.rng_of(26);
        self.relay = self.faults.relay;
        for from in 1..nodes {
            for to in (from + 1)..nodes {
                if rng.u32(..1000) < self.faults.walls_permille {
                    let both = [(from, to), (to, from)];
                    self.walls.extend(&both[[0..2, 0..1, 1..2][rng.usize(..3)].clone()]);
                }
            }
        }
        for _ in 0..self.faults.hidden {
            let hidden = rng.usize(..nodes);
            let others = (0..nodes).filter(|&other| other != hidden);
            self.walls.extend(others.filter(|_| hidden > 0).map(|other| (other, hidden)));
        }
        self.walls.sort_unstable();
        self.walls.dedup();
        let bad = (0..self.faults.bad_carriers).map(|_| rng.usize(..nodes));
        self.bad_carriers = bad.filter(|&slot| slot > 0).collect();
        if !self.walls.is_empty() && rng.bool() {
            self.nats = (0..nodes).filter(|_| rng.bool()).collect();
        }
    }

    /// Chooses the nodes behind a port mapping, with a host name, and with other heartbeats.
    fn vary_nodes(&mut self) {
        let total = self.nodes;
        let mut rng = self.rng_of(21);
        self.mapped = (0..self.faults.mapped).map(|_| rng.usize(..total)).collect();
        let mut rng = self.rng_of(22);
        self.named = (0..self.faults.named).map(|_| rng.usize(..total)).collect();
        let mut rng = self.rng_of(23);
        for _ in 0..self.faults.rhythms {
            self.rhythm[rng.usize(..total)] = RHYTHMS_MS[rng.usize(..RHYTHMS_MS.len())];
        }
    }
}

/// Something that an attacker does to these nodes.
fn random_plot(rng: &mut fastrand::Rng, nodes: usize) -> Plot {
    let targets =
        [Target::ThirdParty { answers: true }, Target::ThirdParty { answers: false }, Target::OwnMachine];
    match rng.u32(..4) {
        0 => Plot::FreshKeys {
            at: (0..=rng.usize(..nodes)).collect(),
            keys: rng.u32(1..200),
            within: rng.u64(100 * MS..5_000 * MS),
            stay: rng.u64(0..3_000 * MS),
            advertises: targets.into_iter().filter(|_| rng.bool()).collect(),
        },
        1 => Plot::Flapping { every: rng.u64(100 * MS..2_000 * MS) },
        _ => Plot::Member(Lies {
            invented: [0, 3, 100][rng.usize(..3)],
            are_new: rng.bool(),
            at_many: rng.bool(),
            left_are_connected: rng.bool(),
            noise: rng.bool(),
        }),
    }
}

/// The part of a script that breaks things.
struct FaultScript<'a> {
    scenario: &'a Scenario,
    faults: &'a Faults,
    /// Number of slots.
    total: usize,
    /// The time at which all faults end.
    chaos: Micros,
    script: Vec<(Micros, Action)>,
}

impl<'a> FaultScript<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let faults = &scenario.faults;
        Self { scenario, faults, total: scenario.nodes, chaos: faults.chaos(), script: Vec::new() }
    }

    /// The order decides which of two actions at the same moment comes first.
    fn build(mut self) -> Vec<(Micros, Action)> {
        self.add_partitions();
        self.add_one_way_cuts();
        self.add_flaps();
        self.add_link_cuts();
        self.add_outages(6, self.faults.kills, Action::Kill);
        self.add_outages(7, self.faults.power_losses, Action::PowerOff);
        self.add_pauses();
        self.add_leaves();
        self.add_connection_faults();
        self.add_denials();
        self.choose_memories();
        self.add_wall_clock_jumps();
        // A fault that would end later ends with the others: `Action::EndFaults` heals and resumes everything.
        let chaos = self.chaos;
        self.script.retain(|(at, action)| *at < chaos || matches!(action, Action::Start(..)));
        self.script.iter_mut().for_each(|(at, _)| *at = (*at).min(chaos));
        self.script
    }

    /// Divides the slots into two groups, of which neither is empty.
    fn groups(&self, rng: &mut fastrand::Rng) -> (Vec<Slot>, Vec<Slot>) {
        let mut left: Vec<Slot> = (0..self.total).filter(|_| rng.bool()).collect();
        if left.is_empty() || left.len() == self.total {
            left = vec![rng.usize(..self.total)];
        }
        let right = (0..self.total).filter(|slot| !left.contains(slot)).collect();
        (left, right)
    }

    fn restart(&self, rng: &mut fastrand::Rng) -> Restart {
        Restart {
            new_key: rng.u32(..1000) < self.faults.new_key_permille,
            new_address: rng.u32(..1000) < self.faults.new_address_permille,
            ..Restart::SAME
        }
    }

    fn cut(&mut self, from: Micros, to: Micros, from_group: &[Slot], to_group: &[Slot]) {
        let (from_group, to_group) = (from_group.to_vec(), to_group.to_vec());
        self.script.push((from, Action::Cut { from: from_group.clone(), to: to_group.clone() }));
        self.script.push((to, Action::Heal { from: from_group, to: to_group }));
    }

    fn cut_both_ways(&mut self, from: Micros, to: Micros, left: &[Slot], right: &[Slot]) {
        self.cut(from, to, left, right);
        self.cut(from, to, right, left);
    }

    fn add_partitions(&mut self) {
        let mut rng = self.scenario.rng_of(3);
        for _ in 0..self.faults.partitions {
            let (left, right) = self.groups(&mut rng);
            let from = rng.u64(..self.chaos);
            let to = from + rng.u64(..=self.faults.cut_ms_max * MS);
            self.cut_both_ways(from, to, &left, &right);
        }
    }

    fn add_one_way_cuts(&mut self) {
        let mut rng = self.scenario.rng_of(4);
        for _ in 0..self.faults.one_way_cuts {
            let (left, right) = self.groups(&mut rng);
            let from = rng.u64(..self.chaos);
            let to = from + rng.u64(..=self.faults.cut_ms_max * MS);
            self.cut(from, to, &left, &right);
        }
    }

    fn add_flaps(&mut self) {
        let mut rng = self.scenario.rng_of(5);
        for _ in 0..self.faults.flaps {
            let (left, right) = self.groups(&mut rng);
            let mut at = rng.u64(..self.chaos);
            let (cut, healed) = (rng.u64(50 * MS..4_000 * MS), rng.u64(50 * MS..2_000 * MS));
            for _ in 0..CUTS_PER_FLAP {
                self.cut_both_ways(at, at + cut, &left, &right);
                at += cut + healed;
            }
        }
    }

    /// Cuts between one node and some others, while the rest of the mesh reaches both.
    fn add_link_cuts(&mut self) {
        let mut rng = self.scenario.rng_of(27);
        for _ in 0..self.faults.link_cuts {
            let one = rng.usize(..self.total);
            let others: Vec<Slot> =
                (0..self.total).filter(|&other| other != one && rng.u32(..3) == 0).collect();
            let from = rng.u64(..self.chaos);
            let to = from + rng.u64(..=3 * self.faults.cut_ms_max * MS);
            match rng.u32(..3) {
                0 => self.cut(from, to, &[one], &others),
                1 => self.cut(from, to, &others, &[one]),
                _ => self.cut_both_ways(from, to, &[one], &others),
            }
        }
    }

    /// Processes or machines stop; most of them start again.
    fn add_outages(&mut self, kind: u64, count: u32, outage: fn(Slot) -> Action) {
        let mut rng = self.scenario.rng_of(kind);
        for _ in 0..count {
            let (slot, at) = (rng.usize(..self.total), rng.u64(..self.chaos));
            let down = rng.u64(..=self.faults.down_ms_max * MS);
            self.script.push((at, outage(slot)));
            let restart = self.restart(&mut rng);
            if rng.u32(..1000) >= self.faults.gone_permille {
                self.script.push((at + down, Action::Start(slot, restart)));
            }
        }
    }

    fn add_pauses(&mut self) {
        let mut rng = self.scenario.rng_of(8);
        for _ in 0..self.faults.pauses {
            let (slot, at) = (rng.usize(..self.total), rng.u64(..self.chaos));
            self.script.push((at, Action::Pause(slot)));
            self.script.push((at + rng.u64(..=self.faults.pause_ms_max * MS), Action::Resume(slot)));
        }
    }

    fn add_leaves(&mut self) {
        let mut rng = self.scenario.rng_of(9);
        for _ in 0..self.faults.leaves {
            let (slot, at) = (rng.usize(..self.total), rng.u64(..self.chaos));
            let away = rng.u64(..=self.faults.down_ms_max * MS);
            self.script.push((at, Action::Leave(slot)));
            if rng.u32(..1000) < self.faults.return_permille {
                self.script.push((at + 600 * MS + away, Action::Start(slot, Restart::SAME)));
            }
        }
    }

    /// Resets, one-sided closes and stalls of single connections.
    fn add_connection_faults(&mut self) {
        let mut rng = self.scenario.rng_of(10);
        for _ in 0..self.faults.resets {
            self.script.push((rng.u64(..self.chaos), Action::Reset(rng.usize(..self.total))));
        }
        let mut rng = self.scenario.rng_of(11);
        for _ in 0..self.faults.one_sided_closes {
            self.script.push((rng.u64(..self.chaos), Action::CloseOneSided(rng.usize(..self.total))));
        }
        let mut rng = self.scenario.rng_of(12);
        for _ in 0..self.faults.stalls {
            let (at, slot) = (rng.u64(..self.chaos), rng.usize(..self.total));
            self.script.push((at, Action::Stall(slot, rng.u64(..=self.faults.stall_ms_max * MS))));
        }
    }

    fn add_denials(&mut self) {
        let mut rng = self.scenario.rng_of(13);
        for _ in 0..self.faults.denials {
            let (at, slot) = (rng.u64(..self.chaos), rng.usize(..self.total));
            let denied = (0..self.total).filter(|&other| other != slot && rng.u32(..3) == 0).collect();
            self.script.push((at, Action::Deny(slot, denied)));
            let end = at + rng.u64(..=self.faults.down_ms_max * MS);
            self.script.push((end, Action::Deny(slot, Vec::new())));
        }
    }

    /// Chooses which restarted processes keep their known peers.
    fn choose_memories(&mut self) {
        let mut rng = self.scenario.rng_of(14);
        for (_, action) in &mut self.script {
            if let Action::Start(_, restart) = action
                && !restart.new_key
                && rng.u32(..1000) < self.faults.memory_permille
            {
                restart.memory = true;
                restart.no_connect = rng.bool();
            }
        }
    }

    fn add_wall_clock_jumps(&mut self) {
        let mut rng = self.scenario.rng_of(24);
        for _ in 0..self.faults.wall_clock_jumps {
            let (at, slot) = (rng.u64(..self.chaos), rng.usize(..self.total));
            let ahead = WALL_CLOCK_OFFSETS_S[rng.usize(..WALL_CLOCK_OFFSETS_S.len())];
            self.script.push((at, Action::SetWallClock(slot, ahead)));
        }
    }
}
