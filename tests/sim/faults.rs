//! What may go wrong, as one struct, and which of it a seed chooses.

use super::clock::{MS, Micros, SECOND};

/// Everything that may go wrong in one run. `Default` is a good network and good people.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// One-way delay of every packet, and how much longer it may take.
    pub latency_us: Micros,
    pub jitter_us: Micros,
    /// Packets lost and sent again, of a thousand, and how long that takes.
    pub resent_permille: u32,
    pub resent_ms: u64,
    /// Longest delay between a session's thread and its coordinator.
    pub thread_hop_us: Micros,
    /// Connection attempts answered by a refusal, or not at all, of a thousand.
    pub connect_refused_permille: u32,
    pub connect_lost_permille: u32,
    /// How far clocks may be off, in parts per million.
    pub clock_off_ppm: u32,
    /// Times that a clock on the wall is set to another day, or year.
    pub wall_clock_jumps: u32,
    /// Frames that wait for a slow connection in its outbox and in the kernels' buffers.
    pub outbox_frames: usize,
    pub socket_frames: usize,
    /// Connections reset; closed by one side without a word; stalled, and for how long at most.
    pub resets: u32,
    pub one_sided_closes: u32,
    pub stalls: u32,
    pub stall_ms_max: u64,
    /// Cuts between two groups, both ways or one way, once or flapping, and how long at most.
    pub partitions: u32,
    pub one_way_cuts: u32,
    pub flaps: u32,
    pub cut_ms_max: u64,
    /// Longest time until a kernel sends again what was not acknowledged, once the path is back.
    pub resend_wait_ms_max: u64,
    /// Processes killed and machines without power, started again after at most this long.
    pub kills: u32,
    pub power_losses: u32,
    pub down_ms_max: u64,
    /// Of those that are started again: with a new key, at a new address; of a thousand.
    pub new_key_permille: u32,
    pub new_address_permille: u32,
    /// Share of those with their old key that keep their known peers; half of these have no `--connect`.
    pub memory_permille: u32,
    /// Machines that never come back, of a thousand.
    pub gone_permille: u32,
    /// Processes stopped as by SIGSTOP, and for how long at most.
    pub pauses: u32,
    pub pause_ms_max: u64,
    /// Nodes that say goodbye; of a thousand, those that return.
    pub leaves: u32,
    pub return_permille: u32,
    /// Nodes that start while the faults go on, rather than before.
    pub late_joins: u32,
    /// Nodes that lie in their lists of peers, and how many entries they invent.
    pub liars: u32,
    pub lies_per_list: usize,
    /// Processes that run another node's key.
    pub clones: u32,
    /// Times that a node refuses some others for a while.
    pub denials: u32,
    /// Whether addresses of known peers are closed to others.
    pub strict: bool,
    /// Nodes behind a port mapping; with a host name, and of a thousand look-ups those that fail.
    pub mapped: u32,
    pub named: u32,
    pub lookup_lost_permille: u32,
    /// Nodes whose heartbeat and timeout differ from the others'.
    pub rhythms: u32,
    /// Most peers a node may know.
    pub peers_max: usize,
    /// Time between pings.
    pub ping_period_ms: u64,
    /// How long faults go on.
    pub chaos_ms: u64,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            latency_us: 500,
            jitter_us: 200,
            resent_permille: 0,
            resent_ms: 300,
            thread_hop_us: 100,
            connect_refused_permille: 0,
            connect_lost_permille: 0,
            clock_off_ppm: 0,
            wall_clock_jumps: 0,
            outbox_frames: p2p_gossip::internals::limits::OUTBOX_FRAMES,
            socket_frames: 4096,
            resets: 0,
            one_sided_closes: 0,
            stalls: 0,
            stall_ms_max: 8_000,
            partitions: 0,
            one_way_cuts: 0,
            flaps: 0,
            cut_ms_max: 8_000,
            resend_wait_ms_max: 2_000,
            kills: 0,
            power_losses: 0,
            down_ms_max: 8_000,
            new_key_permille: 0,
            new_address_permille: 0,
            memory_permille: 0,
            gone_permille: 0,
            pauses: 0,
            pause_ms_max: 8_000,
            leaves: 0,
            return_permille: 500,
            late_joins: 0,
            liars: 0,
            lies_per_list: 20,
            clones: 0,
            denials: 0,
            strict: false,
            mapped: 0,
            named: 0,
            lookup_lost_permille: 0,
            rhythms: 0,
            peers_max: p2p_gossip::internals::limits::PEERS_MAX,
            ping_period_ms: 1_000,
            chaos_ms: 20_000,
        }
    }
}

impl Faults {
    /// Nothing but a good network.
    pub fn none() -> Self {
        Self::default()
    }

    /// What a seed chooses: each kind in some runs only, so that kinds meet in all combinations.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        let mut often = |most: u32| if rng.u32(..100) < 35 { rng.u32(1..=most) } else { 0 };
        let mut faults = Self {
            resets: often(6),
            one_sided_closes: often(4),
            stalls: often(4),
            partitions: often(3),
            one_way_cuts: often(2),
            flaps: often(1),
            kills: often(3),
            power_losses: often(2),
            pauses: often(3),
            leaves: often(2),
            late_joins: often(2),
            resent_permille: often(30),
            connect_refused_permille: often(200),
            connect_lost_permille: often(200),
            ..Self::default()
        };
        faults.latency_us = [50, 500, 5_000, 40_000][rng.usize(..4)];
        faults.jitter_us = faults.latency_us * rng.u64(0..=2);
        faults.thread_hop_us = [0, 50, 500, 5_000][rng.usize(..4)];
        faults.resent_ms = rng.u64(50..=800);
        faults.resend_wait_ms_max = rng.u64(10..=3_000);
        faults.ping_period_ms = [200, 1_000, 1_000, 5_000][rng.usize(..4)];
        faults.chaos_ms = rng.u64(5_000..=25_000);
        faults.new_key_permille = rng.u32(..400);
        faults.new_address_permille = rng.u32(..400);
        faults.gone_permille = rng.u32(..200);
        if rng.u32(..3) == 0 {
            faults.clock_off_ppm = 10_000;
        }
        if rng.u32(..4) == 0 {
            faults.outbox_frames = rng.usize(4..=16);
            faults.socket_frames = rng.usize(2..=8);
            faults.ping_period_ms = 100;
        }
        if rng.u32(..6) == 0 {
            faults.liars = 1;
            faults.lies_per_list = [3, 30, 300][rng.usize(..3)];
        }
        if rng.u32(..12) == 0 {
            faults.clones = 1;
        }
        if rng.u32(..5) == 0 {
            faults.denials = rng.u32(1..=3);
        }
        if rng.u32(..12) == 0 {
            // A new key at an old address is what strictness keeps out for good.
            faults.strict = true;
            faults.new_key_permille = 0;
        }
        // Drawn last, so that seeds of before memory tell what they told.
        if rng.u32(..3) == 0 {
            faults.memory_permille = rng.u32(..=1000);
        }
        if rng.u32(..4) == 0 {
            faults.mapped = rng.u32(1..=3);
        }
        if rng.u32(..4) == 0 {
            faults.named = rng.u32(1..=4);
            faults.lookup_lost_permille = rng.u32(..300);
        }
        if rng.u32(..5) == 0 {
            faults.rhythms = rng.u32(1..=3);
        }
        if rng.u32(..3) == 0 {
            faults.wall_clock_jumps = rng.u32(1..=6);
        }
        faults
    }

    pub fn chaos(&self) -> Micros {
        self.chaos_ms * MS
    }

    /// The same with one kind less, for every kind that there is.
    pub fn each_without_one(&self) -> Vec<(&'static str, Self)> {
        let none = Self::none();
        let mut less = Vec::new();
        macro_rules! without {
            ($($field:ident),*) => {$(
                if self.$field != none.$field {
                    less.push((stringify!($field), Self { $field: none.$field, ..self.clone() }));
                }
            )*};
        }
        without!(
            resets,
            one_sided_closes,
            stalls,
            partitions,
            one_way_cuts,
            flaps,
            kills,
            power_losses,
            pauses,
            leaves,
            late_joins,
            liars,
            clones,
            denials,
            strict,
            mapped,
            named,
            lookup_lost_permille,
            rhythms,
            resent_permille,
            connect_refused_permille,
            connect_lost_permille,
            clock_off_ppm,
            wall_clock_jumps,
            outbox_frames,
            socket_frames,
            new_key_permille,
            new_address_permille,
            memory_permille,
            gone_permille,
            thread_hop_us,
            latency_us,
            jitter_us,
            ping_period_ms
        );
        for (field, fewer) in [
            ("resets", Self { resets: self.resets / 2, ..self.clone() }),
            ("pauses", Self { pauses: self.pauses / 2, ..self.clone() }),
            ("kills", Self { kills: self.kills / 2, ..self.clone() }),
            ("partitions", Self { partitions: self.partitions / 2, ..self.clone() }),
        ] {
            if fewer != *self {
                less.push((field, fewer));
            }
        }
        less
    }

    /// What is not as in a good network, in one line.
    pub fn describe(&self) -> String {
        let (mine, none) = (format!("{self:?}"), format!("{:?}", Self::none()));
        let fields = |text: &str| -> Vec<String> {
            text.trim_start_matches("Faults { ")
                .trim_end_matches(" }")
                .split(", ")
                .map(str::to_owned)
                .collect()
        };
        let (mine, none) = (fields(&mine), fields(&none));
        let differing: Vec<String> =
            mine.into_iter().zip(none).filter(|(a, b)| a != b).map(|(a, _)| a).collect();
        if differing.is_empty() { "none".to_owned() } else { differing.join(", ") }
    }
}

/// Longest that a run may take after its faults have stopped.
pub const CALM_MAX: Micros = 60 * SECOND;
