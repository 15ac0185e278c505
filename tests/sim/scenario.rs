//! Who starts when, and which fault happens when: a script made from a seed, or by hand.

use super::clock::{MS, Micros};
use super::faults::Faults;

/// In seconds.
pub const DAY: i64 = 24 * 60 * 60;

/// A place in the network that one process at a time runs at.
pub type Slot = usize;

/// Which key, and where, a process has that is started again, and what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    pub new_key: bool,
    pub new_address: bool,
    /// It keeps its known peers.
    pub memory: bool,
    /// It has no bootstrap address.
    pub no_connect: bool,
}

impl Restart {
    /// Same key, same address, nothing known but the bootstrap address.
    pub const SAME: Self = Self { new_key: false, new_address: false, memory: false, no_connect: false };
    /// The same, with its memory.
    pub const REMEMBERING: Self = Self { memory: true, ..Self::SAME };
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// The process starts, if none runs there; with the power on.
    Start(Slot, Restart),
    /// SIGKILL: the kernel closes its connections.
    Kill(Slot),
    /// The machine loses power, without a goodbye.
    PowerOff(Slot),
    /// SIGTERM: it says goodbye.
    Leave(Slot),
    /// SIGSTOP and SIGCONT.
    Pause(Slot),
    Resume(Slot),
    /// Nothing gets from one group to the other any more; undone by the same groups.
    Cut {
        from: Vec<Slot>,
        to: Vec<Slot>,
    },
    Heal {
        from: Vec<Slot>,
        to: Vec<Slot>,
    },
    /// One of the slot's connections is reset; closed by the slot; silent for a while.
    Reset(Slot),
    CloseOneSided(Slot),
    Stall(Slot, Micros),
    /// The slot refuses only these peers.
    Deny(Slot, Vec<Slot>),
    /// The slot's clock on the wall is set so many seconds ahead of the right time.
    SetWallClock(Slot, i64),
    /// All faults end.
    Converged,
}

impl Action {
    /// Whether a process starts with what an earlier one knew.
    pub fn restores(&self) -> bool {
        matches!(self, Self::Start(_, restart) if restart.memory)
    }
}

/// One run: a story that its seed tells the same way every time.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub nodes: usize,
    pub faults: Faults,
    /// `--connect` of each slot: other slots.
    pub connect: Vec<Vec<Slot>>,
    /// Slots that lie, and slots that run another slot's key.
    pub liars: Vec<Slot>,
    pub key_of: Vec<Slot>,
    /// Whether every `--connect` names the key that must be there.
    pub pins: bool,
    /// Slots behind a router that maps a port to them: no node reaches the port that they listen on.
    pub mapped: Vec<Slot>,
    /// Slots that have a host name, are dialled by it, and tell it to others.
    pub named: Vec<Slot>,
    /// Heartbeat and timeout of each slot, in milliseconds.
    pub rhythm: Vec<(u64, u64)>,
    pub script: Vec<(Micros, Action)>,
    /// How long the mesh is watched once it is whole.
    pub stay: Micros,
}

impl Scenario {
    /// `nodes` nodes that all join through the first, one shortly after the other, and no faults.
    pub fn new(seed: u64, nodes: usize) -> Self {
        let script =
            (0..nodes).map(|slot| (slot as Micros * 20 * MS, Action::Start(slot, Restart::SAME))).collect();
        Self {
            seed,
            nodes,
            faults: Faults::none(),
            connect: (0..nodes).map(|slot| if slot == 0 { vec![] } else { vec![0] }).collect(),
            liars: Vec::new(),
            key_of: (0..nodes).collect(),
            pins: false,
            mapped: Vec::new(),
            named: Vec::new(),
            rhythm: vec![(1_000, 3_000); nodes],
            script,
            stay: 6_000 * MS,
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut Faults)) -> Self {
        change(&mut self.faults);
        self
    }

    pub fn at_ms(mut self, ms: u64, action: Action) -> Self {
        self.script.push((ms * MS, action));
        self
    }

    /// Faults end here, and the mesh must become whole.
    pub fn converged_by_ms(self, ms: u64) -> Self {
        self.at_ms(ms, Action::Converged)
    }

    /// Both groups can't reach each other.
    pub fn split_ms(self, from_ms: u64, to_ms: u64, left: &[Slot], right: &[Slot]) -> Self {
        let (left, right) = (left.to_vec(), right.to_vec());
        self.at_ms(from_ms, Action::Cut { from: left.clone(), to: right.clone() })
            .at_ms(from_ms, Action::Cut { from: right.clone(), to: left.clone() })
            .at_ms(to_ms, Action::Heal { from: left.clone(), to: right.clone() })
            .at_ms(to_ms, Action::Heal { from: right, to: left })
    }

    /// What a seed tells.
    pub fn random(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x5eed_0001);
        let nodes = [2, 3, 3, 4, 4, 5, 6, 8][rng.usize(..8)];
        Self::random_with(seed, nodes, Faults::random(&mut rng))
    }

    /// Each kind of fault draws from numbers of its own: leaving one out moves no other.
    pub fn random_with(seed: u64, nodes: usize, faults: Faults) -> Self {
        let total = nodes + faults.liars as usize + faults.clones as usize;
        let mut scenario = Self::new(seed, total);
        scenario.script.clear();
        let kind = |kind: u64| fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ kind);
        let chaos = faults.chaos();

        let mut rng = kind(1);
        for slot in 0..total {
            let late = slot > 0 && slot >= nodes.saturating_sub(faults.late_joins as usize);
            let at = if late { rng.u64(..chaos) } else { rng.u64(..500 * MS) };
            scenario.script.push((at, Action::Start(slot, Restart::SAME)));
            // Most join through the first, some through another, some through several.
            scenario.connect[slot] = match (slot, rng.u32(..10)) {
                (0, way) => {
                    if way < 7 {
                        vec![]
                    } else {
                        vec![1]
                    }
                }
                (_, 0..=5) => vec![0],
                (_, 6..=7) => vec![rng.usize(..slot)],
                _ => vec![0, rng.usize(..nodes)],
            };
        }
        scenario.liars = (nodes..nodes + faults.liars as usize).collect();
        let mut rng = kind(2);
        for slot in nodes + faults.liars as usize..total {
            scenario.key_of[slot] = rng.usize(..nodes);
            let at = rng.u64(..chaos);
            scenario.script.retain(|(_, action)| *action != Action::Start(slot, Restart::SAME));
            scenario.script.push((at, Action::Start(slot, Restart::SAME)));
        }

        let mut rng = kind(21);
        scenario.mapped = (0..faults.mapped).map(|_| rng.usize(..total)).collect();
        let mut rng = kind(22);
        scenario.named = (0..faults.named).map(|_| rng.usize(..total)).collect();
        let mut rng = kind(23);
        for _ in 0..faults.rhythms {
            let rhythms = [(200, 600), (200, 2_000), (500, 1_000), (3_000, 9_000), (10_000, 30_000)];
            scenario.rhythm[rng.usize(..total)] = rhythms[rng.usize(..rhythms.len())];
        }

        let mut script = Vec::new();
        let groups = |rng: &mut fastrand::Rng| -> (Vec<Slot>, Vec<Slot>) {
            let mut left: Vec<Slot> = (0..total).filter(|_| rng.bool()).collect();
            if left.is_empty() || left.len() == total {
                left = vec![rng.usize(..total)];
            }
            let right = (0..total).filter(|slot| !left.contains(slot)).collect();
            (left, right)
        };
        let restart = |rng: &mut fastrand::Rng| Restart {
            new_key: rng.u32(..1000) < faults.new_key_permille,
            new_address: rng.u32(..1000) < faults.new_address_permille,
            ..Restart::SAME
        };
        let mut rng = kind(3);
        for _ in 0..faults.partitions {
            let (left, right) = groups(&mut rng);
            let from = rng.u64(..chaos);
            let to = from + rng.u64(..=faults.cut_ms_max * MS);
            for (from_group, to_group) in [(&left, &right), (&right, &left)] {
                script.push((from, Action::Cut { from: from_group.clone(), to: to_group.clone() }));
                script.push((to, Action::Heal { from: from_group.clone(), to: to_group.clone() }));
            }
        }
        let mut rng = kind(4);
        for _ in 0..faults.one_way_cuts {
            let (left, right) = groups(&mut rng);
            let from = rng.u64(..chaos);
            let to = from + rng.u64(..=faults.cut_ms_max * MS);
            script.push((from, Action::Cut { from: left.clone(), to: right.clone() }));
            script.push((to, Action::Heal { from: left, to: right }));
        }
        let mut rng = kind(5);
        for _ in 0..faults.flaps {
            let (left, right) = groups(&mut rng);
            let mut at = rng.u64(..chaos);
            let (on, off) = (rng.u64(50 * MS..4_000 * MS), rng.u64(50 * MS..2_000 * MS));
            for _ in 0..6 {
                for (from_group, to_group) in [(&left, &right), (&right, &left)] {
                    script.push((at, Action::Cut { from: from_group.clone(), to: to_group.clone() }));
                    script.push((at + on, Action::Heal { from: from_group.clone(), to: to_group.clone() }));
                }
                at += on + off;
            }
        }
        let mut rng = kind(6);
        for _ in 0..faults.kills {
            let (slot, at, down) =
                (rng.usize(..total), rng.u64(..chaos), rng.u64(..=faults.down_ms_max * MS));
            script.push((at, Action::Kill(slot)));
            let restart = restart(&mut rng);
            if rng.u32(..1000) >= faults.gone_permille {
                script.push((at + down, Action::Start(slot, restart)));
            }
        }
        let mut rng = kind(7);
        for _ in 0..faults.power_losses {
            let (slot, at, down) =
                (rng.usize(..total), rng.u64(..chaos), rng.u64(..=faults.down_ms_max * MS));
            script.push((at, Action::PowerOff(slot)));
            let restart = restart(&mut rng);
            if rng.u32(..1000) >= faults.gone_permille {
                script.push((at + down, Action::Start(slot, restart)));
            }
        }
        let mut rng = kind(8);
        for _ in 0..faults.pauses {
            let (slot, at) = (rng.usize(..total), rng.u64(..chaos));
            script.push((at, Action::Pause(slot)));
            script.push((at + rng.u64(..=faults.pause_ms_max * MS), Action::Resume(slot)));
        }
        let mut rng = kind(9);
        for _ in 0..faults.leaves {
            let (slot, at, away) =
                (rng.usize(..total), rng.u64(..chaos), rng.u64(..=faults.down_ms_max * MS));
            script.push((at, Action::Leave(slot)));
            if rng.u32(..1000) < faults.return_permille {
                script.push((at + 600 * MS + away, Action::Start(slot, Restart::SAME)));
            }
        }
        let mut rng = kind(10);
        for _ in 0..faults.resets {
            script.push((rng.u64(..chaos), Action::Reset(rng.usize(..total))));
        }
        let mut rng = kind(11);
        for _ in 0..faults.one_sided_closes {
            script.push((rng.u64(..chaos), Action::CloseOneSided(rng.usize(..total))));
        }
        let mut rng = kind(12);
        for _ in 0..faults.stalls {
            let (at, slot) = (rng.u64(..chaos), rng.usize(..total));
            script.push((at, Action::Stall(slot, rng.u64(..=faults.stall_ms_max * MS))));
        }
        let mut rng = kind(13);
        for _ in 0..faults.denials {
            let (at, slot) = (rng.u64(..chaos), rng.usize(..total));
            let denied = (0..total).filter(|&other| other != slot && rng.u32(..3) == 0).collect();
            script.push((at, Action::Deny(slot, denied)));
            script.push((at + rng.u64(..=faults.down_ms_max * MS), Action::Deny(slot, Vec::new())));
        }
        let mut rng = kind(14);
        for (_, action) in &mut script {
            if let Action::Start(_, restart) = action
                && !restart.new_key
                && rng.u32(..1000) < faults.memory_permille
            {
                restart.memory = true;
                restart.no_connect = rng.bool();
            }
        }
        let mut rng = kind(24);
        for _ in 0..faults.wall_clock_jumps {
            let (at, slot) = (rng.u64(..chaos), rng.usize(..total));
            let ahead = [0, -1, 3 * DAY, -3 * DAY, 400 * DAY, -100_000 * DAY][rng.usize(..6)];
            script.push((at, Action::SetWallClock(slot, ahead)));
        }
        // What is to end later ends with the faults: Calm heals and resumes everything.
        script.retain(|(at, action)| *at < chaos || matches!(action, Action::Start(..)));
        script.iter_mut().for_each(|(at, _)| *at = (*at).min(chaos));
        scenario.script.extend(script);
        scenario.script.push((chaos, Action::Converged));
        scenario.faults = faults;
        scenario
    }
}
