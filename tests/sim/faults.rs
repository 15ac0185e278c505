//! The faults of a run, and the random choice among them.

use super::clock::{MS, Micros};

/// The faults of one run. `Default` is a network without faults and without attackers.
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// One-way delay of every packet.
    pub latency_us: Micros,
    /// Longest additional delay of a packet.
    pub jitter_us: Micros,
    /// Packets of a thousand that are lost and sent again.
    pub resent_permille: u32,
    /// Additional delay of a packet that is sent again.
    pub resent_ms: u64,
    /// Longest delay between a session's thread and its coordinator.
    pub thread_hop_us: Micros,
    /// Connection attempts of a thousand that are refused.
    pub connect_refused_permille: u32,
    /// Connection attempts of a thousand that get no answer.
    pub connect_lost_permille: u32,
    /// Deviation of clocks that run fast or slow, in parts per million.
    pub clock_off_ppm: u32,
    /// Number of times that a wall clock is set to another day or year.
    pub wall_clock_jumps: u32,
    /// Capacity of a session's outbox.
    pub outbox_frames: usize,
    /// Capacity of the kernels' buffers of one direction of a connection.
    pub socket_frames: usize,
    /// Whether nodes carry circuits for others.
    pub relay: bool,
    /// Pairs of nodes of a thousand that cannot connect one way, or both ways.
    pub walls_permille: u32,
    /// Nodes to which no other one can connect.
    pub hidden: u32,
    /// Nodes that carry circuits badly and claim to reach everyone.
    pub bad_carriers: u32,
    /// Cuts, both ways or one way, between single nodes that others still reach.
    pub link_cuts: u32,
    /// Connections that are reset.
    pub resets: u32,
    /// Connections that one end closes without a goodbye.
    pub one_sided_closes: u32,
    /// Connections that deliver nothing for a while.
    pub stalls: u32,
    pub stall_ms_max: u64,
    /// Cuts between two groups in both directions.
    pub partitions: u32,
    /// Cuts between two groups in one direction.
    pub one_way_cuts: u32,
    /// Paths between two groups that are cut and healed several times.
    pub flaps: u32,
    /// Longest partition or one-way cut.
    pub cut_ms_max: u64,
    /// Longest time until a kernel resends unacknowledged data after the path has healed.
    pub resend_wait_ms_max: u64,
    /// Processes that are killed.
    pub kills: u32,
    /// Machines that lose power.
    pub power_losses: u32,
    /// Longest time until a stopped process starts again.
    pub down_ms_max: u64,
    /// Restarts of a thousand with a new key.
    pub new_key_permille: u32,
    /// Restarts of a thousand at a new address.
    pub new_address_permille: u32,
    /// Restarts with the old key, of a thousand, that restore their known peers; half of these have no bootstrap
    /// address.
    pub memory_permille: u32,
    /// Stopped processes of a thousand that never start again.
    pub gone_permille: u32,
    /// Processes that SIGSTOP pauses.
    pub pauses: u32,
    /// Longest pause.
    pub pause_ms_max: u64,
    /// Nodes that leave with a goodbye.
    pub leaves: u32,
    /// Nodes of a thousand that return after they left.
    pub return_permille: u32,
    /// Nodes that start during the faults instead of before them.
    pub late_joins: u32,
    /// Nodes that send false lists of peers.
    pub liars: u32,
    /// False entries on each list of a liar.
    pub lies_per_list: usize,
    /// Attackers: machines with many keys and no mesh.
    pub attacks: u32,
    /// Whether nodes find each other by beacons, and by nothing else.
    pub discover: bool,
    /// Beacons of a thousand that are lost.
    pub beacons_lost_permille: u32,
    /// Beacons of a thousand that come twice.
    pub beacons_doubled_permille: u32,
    /// Attackers that forge beacons.
    pub forgers: u32,
    /// Processes that use another node's key.
    pub clones: u32,
    /// Number of times that a node denies some others for a while.
    pub denials: u32,
    /// Whether every node is strict: the address of a known peer is closed to other keys.
    pub strict: bool,
    /// Nodes behind a port mapping.
    pub mapped: u32,
    /// Nodes with a host name.
    pub named: u32,
    /// Name look-ups of a thousand that fail.
    pub lookup_lost_permille: u32,
    /// Nodes with another heartbeat interval and timeout.
    pub rhythms: u32,
    /// Most peers a node may know.
    pub peers_max: usize,
    /// Time between pings.
    pub ping_period_ms: u64,
    /// Time until all faults end.
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
            relay: false,
            walls_permille: 0,
            hidden: 0,
            bad_carriers: 0,
            link_cuts: 0,
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
            attacks: 0,
            discover: false,
            beacons_lost_permille: 0,
            beacons_doubled_permille: 0,
            forgers: 0,
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
    /// A network without faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// The faults that a seed chooses. Each kind occurs in some runs only, so that all combinations occur.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        let mut faults = Self::random_counts(rng);
        faults.choose_timing(rng);
        faults.choose_limits_and_attackers(rng);
        // Earlier seeds keep their earlier draws if a new kind of fault is drawn last.
        faults.choose_memory_and_addresses(rng);
        if rng.u32(..6) == 0 {
            faults.attacks = rng.u32(1..=2);
        }
        faults.choose_paths(rng);
        if rng.u32(..6) == 0 {
            faults.choose_beacons(rng);
        }
        faults
    }

    /// Nodes find each other by beacons, of which some are lost, doubled or forged.
    pub fn choose_beacons(&mut self, rng: &mut fastrand::Rng) {
        self.discover = true;
        self.beacons_lost_permille = [0, 0, 200, 700][rng.usize(..4)];
        self.beacons_doubled_permille = [0, 300][rng.usize(..2)];
        self.forgers = rng.u32(..2);
    }

    /// The number of faults of each kind: none in two thirds of the runs.
    fn random_counts(rng: &mut fastrand::Rng) -> Self {
        let mut often = |most: u32| if rng.u32(..100) < 35 { rng.u32(1..=most) } else { 0 };
        Self {
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
        }
    }

    fn choose_timing(&mut self, rng: &mut fastrand::Rng) {
        self.latency_us = [50, 500, 5_000, 40_000][rng.usize(..4)];
        self.jitter_us = self.latency_us * rng.u64(0..=2);
        self.thread_hop_us = [0, 50, 500, 5_000][rng.usize(..4)];
        self.resent_ms = rng.u64(50..=800);
        self.resend_wait_ms_max = rng.u64(10..=3_000);
        self.ping_period_ms = [200, 1_000, 1_000, 5_000][rng.usize(..4)];
        self.chaos_ms = rng.u64(5_000..=25_000);
        self.new_key_permille = rng.u32(..400);
        self.new_address_permille = rng.u32(..400);
        self.gone_permille = rng.u32(..200);
        if rng.u32(..3) == 0 {
            self.clock_off_ppm = 10_000;
        }
    }

    fn choose_limits_and_attackers(&mut self, rng: &mut fastrand::Rng) {
        if rng.u32(..4) == 0 {
            self.outbox_frames = rng.usize(4..=16);
            self.socket_frames = rng.usize(2..=8);
            self.ping_period_ms = 100;
        }
        if rng.u32(..6) == 0 {
            self.liars = 1;
            self.lies_per_list = [3, 30, 300][rng.usize(..3)];
        }
        if rng.u32(..12) == 0 {
            self.clones = 1;
        }
        if rng.u32(..5) == 0 {
            self.denials = rng.u32(1..=3);
        }
        if rng.u32(..12) == 0 {
            // A strict node refuses a new key at an old address for good, so the mesh could not become whole.
            self.strict = true;
            self.new_key_permille = 0;
        }
    }

    fn choose_memory_and_addresses(&mut self, rng: &mut fastrand::Rng) {
        if rng.u32(..3) == 0 {
            self.memory_permille = rng.u32(..=1000);
        }
        if rng.u32(..4) == 0 {
            self.mapped = rng.u32(1..=3);
        }
        if rng.u32(..4) == 0 {
            self.named = rng.u32(1..=4);
            self.lookup_lost_permille = rng.u32(..300);
        }
        if rng.u32(..5) == 0 {
            self.rhythms = rng.u32(1..=3);
        }
        if rng.u32(..3) == 0 {
            self.wall_clock_jumps = rng.u32(1..=6);
        }
    }

    fn choose_paths(&mut self, rng: &mut fastrand::Rng) {
        self.relay = rng.bool();
        if rng.u32(..3) == 0 {
            self.link_cuts = rng.u32(1..=6);
        }
        if self.relay && rng.bool() {
            self.walls_permille = rng.u32(50..800);
            self.hidden = rng.u32(..3);
        }
        if self.relay && rng.u32(..4) == 0 {
            self.bad_carriers = rng.u32(1..=2);
        }
    }

    /// The time at which all faults end.
    pub fn chaos(&self) -> Micros {
        self.chaos_ms * MS
    }

    /// Simpler variants of these faults: for each kind that occurs, its name and the faults without it.
    pub fn simpler_variants(&self) -> Vec<(&'static str, Self)> {
        let none = Self::none();
        let mut simpler = Vec::new();
        macro_rules! without {
            ($($field:ident),*) => {$(
                if self.$field != none.$field {
                    simpler.push((stringify!($field), Self { $field: none.$field, ..self.clone() }));
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
            attacks,
            bad_carriers,
            link_cuts,
            hidden,
            walls_permille,
            relay,
            discover,
            beacons_lost_permille,
            beacons_doubled_permille,
            forgers,
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
                simpler.push((field, fewer));
            }
        }
        simpler
    }

    /// The fields that differ from a network without faults, in one line.
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
