//! A scenario: the nodes that take part, and a script of the times at which they start and faults happen.

use std::time::Duration;

use super::attacker::Attack;
use super::clock::{MS, Micros};
use super::faults::Faults;

/// One day in seconds.
pub const DAY: i64 = 24 * 60 * 60;

/// A host in the network. One process at a time runs on it.
pub type Slot = usize;

/// The key, address and known peers with which a process starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The process has a new key.
    pub new_key: bool,
    /// The slot has moved to a new address.
    pub new_address: bool,
    /// The process restores the known peers of the previous run.
    pub memory: bool,
    /// The process has no bootstrap address.
    pub no_connect: bool,
}

impl Restart {
    /// The same key and address. The process knows only its bootstrap address.
    pub const SAME: Self = Self { new_key: false, new_address: false, memory: false, no_connect: false };
    /// The same key and address, with the known peers of the previous run.
    pub const REMEMBERING: Self = Self { memory: true, ..Self::SAME };
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Switches the power on and starts a process, unless one runs on the slot.
    Start(Slot, Restart),
    /// SIGKILL: the kernel closes the connections of the process.
    Kill(Slot),
    /// The machine loses power; nothing closes its connections.
    PowerOff(Slot),
    /// SIGTERM: the process says goodbye to its peers.
    Leave(Slot),
    /// SIGSTOP.
    Pause(Slot),
    /// SIGCONT.
    Resume(Slot),
    /// Other programs keep the processors of the slot busy: the coordinator takes each turn this much late from now on.
    Overload(Slot, Micros),
    /// No packet from the one group reaches the other until `Heal` names the same groups.
    Cut {
        from: Vec<Slot>,
        to: Vec<Slot>,
    },
    Heal {
        from: Vec<Slot>,
        to: Vec<Slot>,
    },
    /// A random connection of the slot is reset.
    Reset(Slot),
    /// The slot closes a random connection without a goodbye.
    CloseOneSided(Slot),
    /// A random connection of the slot delivers nothing for this time.
    Stall(Slot, Micros),
    /// The slot denies exactly these peers from now on.
    Deny(Slot, Vec<Slot>),
    /// Sets the slot's wall clock this many seconds ahead of the right time.
    SetWallClock(Slot, i64),
    /// The user of the slot's process changes the key of the network. The key before is accepted for this time.
    RotateKey(Slot, Duration),
    /// All faults end, and the mesh must converge.
    EndFaults,
}

impl Action {
    /// Whether a process starts with the known peers of a previous run.
    pub fn restores_peers(&self) -> bool {
        matches!(self, Self::Start(_, restart) if restart.memory)
    }
}

/// Everything that determines one run: the same scenario always gives the same run.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub nodes: usize,
    pub faults: Faults,
    /// The bootstrap addresses of each slot, as slots.
    pub connect: Vec<Vec<Slot>>,
    /// Slots that send false lists of peers.
    pub liars: Vec<Slot>,
    /// Slots that say the opposite of what they know of lost peers.
    pub false_witnesses: Vec<Slot>,
    /// Attackers, each on a slot of its own.
    pub attacks: Vec<Attack>,
    /// The attacks go on after the faults have ended.
    pub attacks_go_on: bool,
    /// The slot whose key each slot uses: itself, except for a clone.
    pub key_of: Vec<Slot>,
    /// Whether the network has a key.
    pub is_closed: bool,
    /// Whether every bootstrap address pins the peer id.
    pub pins: bool,
    /// Slots behind a router that maps another port to them: no node reaches the port that they listen on.
    pub mapped: Vec<Slot>,
    /// Slots with a host name. They advertise it, and bootstrap addresses use it.
    pub named: Vec<Slot>,
    /// Pairs of slots between which no connection can be opened, from the first to the second, also after the faults.
    pub walls: Vec<(Slot, Slot)>,
    /// Slots behind a NAT that gives all connections from one port the same outside port: two of them connect if both try at
    /// once, whatever walls are between them. Each is in a network of its own there, with a private address.
    pub nats: Vec<Slot>,
    /// Whether nodes carry circuits for others.
    pub relay: bool,
    /// Slots that carry circuits badly: they drop, delay, repeat, exchange and change bytes, join the wrong circuits, and
    /// claim to reach everyone.
    pub bad_carriers: Vec<Slot>,
    /// Whether one name with the addresses of all slots is a bootstrap address of each.
    pub name_of_all: bool,
    /// Heartbeat and timeout of each slot, in milliseconds.
    pub rhythm: Vec<(u64, u64)>,
    /// Slots whose nodes run an alert program.
    pub alerts: Vec<Slot>,
    /// Whether nothing in it is a reason to lose a peer: no node may show one as down.
    pub loses_no_peer: bool,
    pub script: Vec<(Micros, Action)>,
    /// How long the mesh must stay whole before the run ends.
    pub stay: Micros,
}

impl Scenario {
    /// A scenario without faults: `nodes` nodes join through the first, 20 ms apart.
    pub fn new(seed: u64, nodes: usize) -> Self {
        let script =
            (0..nodes).map(|slot| (slot as Micros * 20 * MS, Action::Start(slot, Restart::SAME))).collect();
        Self {
            seed,
            nodes,
            faults: Faults::none(),
            connect: (0..nodes).map(|slot| if slot == 0 { vec![] } else { vec![0] }).collect(),
            liars: Vec::new(),
            false_witnesses: Vec::new(),
            attacks: Vec::new(),
            attacks_go_on: false,
            key_of: (0..nodes).collect(),
            is_closed: false,
            pins: false,
            mapped: Vec::new(),
            named: Vec::new(),
            walls: Vec::new(),
            nats: Vec::new(),
            relay: false,
            bad_carriers: Vec::new(),
            name_of_all: false,
            rhythm: vec![(1_000, 3_000); nodes],
            alerts: Vec::new(),
            loses_no_peer: false,
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

    /// Adds an attacker on a slot of its own, which this function fills in.
    pub fn attacked_by(mut self, attack: Attack) -> Self {
        let slot = self.nodes;
        self.nodes += 1;
        self.connect.push(Vec::new());
        self.key_of.push(slot);
        self.rhythm.push((1_000, 3_000));
        self.script.push((attack.from, Action::Start(slot, Restart::SAME)));
        self.attacks.push(Attack { slot, ..attack });
        self
    }

    /// All faults end at this time, and the mesh must converge.
    pub fn faults_end_at_ms(self, ms: u64) -> Self {
        self.at_ms(ms, Action::EndFaults)
    }

    /// The two groups cannot reach each other between these times.
    pub fn split_ms(self, from_ms: u64, to_ms: u64, left: &[Slot], right: &[Slot]) -> Self {
        let (left, right) = (left.to_vec(), right.to_vec());
        self.at_ms(from_ms, Action::Cut { from: left.clone(), to: right.clone() })
            .at_ms(from_ms, Action::Cut { from: right.clone(), to: left.clone() })
            .at_ms(to_ms, Action::Heal { from: left.clone(), to: right.clone() })
            .at_ms(to_ms, Action::Heal { from: right, to: left })
    }
}
