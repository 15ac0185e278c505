//! The pace of beacons: when to send them, and which of those that arrive count. Reads no clock; the caller passes `now`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::util::token_bucket::TokenBucket;

/// Waits after the first beacons: one may be lost, and a switch may not forward for a moment.
const FIRST_WAITS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(900)];
/// Wait between later beacons, on average. The jitter is a quarter of it.
pub const BEACON_INTERVAL: Duration = Duration::from_secs(30);

/// Machines whose beacons are counted. Beyond that, one whose beacons are few gives way.
const MACHINES_MAX: usize = 1024;
/// Ports of one machine that are remembered: nodes of one machine, each with its port.
const PORTS_MAX: usize = 64;
/// Beacons of one machine that count at once, and per second in the long run: some dozens of nodes may start there.
const MACHINE_BURST: u32 = 64;
const MACHINE_PER_SECOND: u32 = 4;
/// Beacons of all machines that count at once, and per second in the long run.
const TOTAL_BURST: u32 = 256;
const TOTAL_PER_SECOND: u32 = 64;
/// Answers at once, and per second in the long run.
const ANSWERS_BURST: u32 = 16;
const ANSWERS_PER_SECOND: u32 = 2;

/// The times of this node's beacons: three at the start, then one each [`BEACON_INTERVAL`].
#[derive(Debug)]
pub(crate) struct Schedule {
    next: Instant,
    sent: usize,
}

impl Schedule {
    /// The first beacon is due now.
    #[must_use]
    pub(crate) fn new(now: Instant) -> Self {
        Self { next: now, sent: 0 }
    }

    /// The time of the next beacon.
    #[must_use]
    pub(crate) fn next(&self) -> Instant {
        self.next
    }

    /// Takes the beacon that is due, if one is.
    pub(crate) fn take_due(&mut self, now: Instant, rng: &mut fastrand::Rng) -> bool {
        if now < self.next {
            return false;
        }
        let wait = FIRST_WAITS.get(self.sent).copied().unwrap_or(BEACON_INTERVAL);
        let jitter = (wait / 2).mul_f64(rng.f64());
        self.next = now + wait * 3 / 4 + jitter;
        self.sent = self.sent.saturating_add(1);
        true
    }
}

/// The meaning of a beacon of this network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The node is to be dialled. If it is new, this node's own beacon goes to it as well.
    Counts {
        /// Whether to send it this node's beacon.
        answer: bool,
    },
    /// There were too many.
    TooMany,
}

/// Which beacons count, by the machines that they come from.
#[derive(Debug)]
pub(crate) struct BeaconLimits {
    machines: BTreeMap<IpAddr, Machine>,
    total: TokenBucket,
    answers: TokenBucket,
}

#[derive(Debug)]
struct Machine {
    beacons: TokenBucket,
    ports: Vec<u16>,
}

impl BeaconLimits {
    /// Limits of which nothing is used up.
    #[must_use]
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            machines: BTreeMap::new(),
            total: TokenBucket::new(TOTAL_BURST, TOTAL_PER_SECOND, now),
            answers: TokenBucket::new(ANSWERS_BURST, ANSWERS_PER_SECOND, now),
        }
    }

    /// A beacon of this network names this address.
    pub(crate) fn heard(&mut self, now: Instant, addr: SocketAddr) -> Heard {
        let Some(machine) = self.machine(now, addr.ip()) else {
            return Heard::TooMany;
        };
        if machine.beacons.take(now).is_err() {
            return Heard::TooMany;
        }
        let is_new = !machine.ports.contains(&addr.port()) && machine.ports.len() < PORTS_MAX;
        if is_new {
            machine.ports.push(addr.port());
        }
        if self.total.take(now).is_err() {
            return Heard::TooMany;
        }
        Heard::Counts { answer: is_new && self.answers.take(now).is_ok() }
    }

    /// The machine's record; `None` if there is no room for it.
    fn machine(&mut self, now: Instant, ip: IpAddr) -> Option<&mut Machine> {
        if self.machines.len() >= MACHINES_MAX && !self.machines.contains_key(&ip) {
            self.machines.retain(|_, machine| !machine.beacons.is_full(now));
            if self.machines.len() >= MACHINES_MAX {
                return None;
            }
        }
        let beacons = || TokenBucket::new(MACHINE_BURST, MACHINE_PER_SECOND, now);
        Some(self.machines.entry(ip).or_insert_with(|| Machine { beacons: beacons(), ports: Vec::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn addr(machine: u32, port: u16) -> SocketAddr {
        (std::net::Ipv4Addr::from_bits(0x0a00_0000 + machine), port).into()
    }

    #[test]
    fn three_beacons_come_within_two_seconds_and_then_two_a_minute() {
        let start = crate::test_now();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut schedule = Schedule::new(start);
        let mut sent = Vec::new();
        while schedule.next() < start + 10 * Duration::from_secs(60) {
            let now = schedule.next();
            assert!(!schedule.take_due(now - Duration::from_nanos(1), &mut rng));
            assert!(schedule.take_due(now, &mut rng));
            sent.push(now - start);
        }
        assert!(sent[0].is_zero() && sent[2] < 2 * SECOND, "{sent:?}");
        assert!((18..=24).contains(&sent.len()), "{sent:?}");
        assert!(sent.windows(2).skip(2).all(|pair| {
            let wait = pair[1] - pair[0];
            wait >= BEACON_INTERVAL * 3 / 4 && wait <= BEACON_INTERVAL * 5 / 4
        }));
    }

    #[test]
    fn new_node_is_answered_once() {
        let now = crate::test_now();
        let mut limits = BeaconLimits::new(now);
        assert_eq!(limits.heard(now, addr(1, 1)), Heard::Counts { answer: true });
        assert_eq!(limits.heard(now, addr(1, 1)), Heard::Counts { answer: false });
        assert_eq!(limits.heard(now, addr(1, 2)), Heard::Counts { answer: true });
    }

    #[test]
    fn flood_of_one_machine_is_bounded_and_hides_no_other() {
        let start = crate::test_now();
        let mut limits = BeaconLimits::new(start);
        let mut counted = 0;
        for n in 0..100_000_u32 {
            let now = start + Duration::from_micros(100) * n;
            let port = u16::try_from(n % 60_000 + 1).unwrap();
            counted += u32::from(limits.heard(now, addr(1, port)) != Heard::TooMany);
        }
        assert!((MACHINE_BURST..=MACHINE_BURST + 10 * MACHINE_PER_SECOND).contains(&counted), "{counted}");
        assert_ne!(limits.heard(start + 10 * SECOND, addr(2, 1)), Heard::TooMany);
    }

    #[test]
    fn flood_of_all_machines_is_bounded_in_memory_dials_and_answers() {
        let start = crate::test_now();
        let mut limits = BeaconLimits::new(start);
        let (mut counted, mut answered) = (0, 0);
        for n in 0..100_000 {
            let now = start + Duration::from_micros(100) * n;
            match limits.heard(now, addr(n, 1)) {
                Heard::Counts { answer } => (counted, answered) = (counted + 1, answered + u32::from(answer)),
                Heard::TooMany => {}
            }
            assert!(limits.machines.len() <= MACHINES_MAX);
        }
        assert!(counted <= TOTAL_BURST + 10 * TOTAL_PER_SECOND, "{counted}");
        assert!(answered <= ANSWERS_BURST + 10 * ANSWERS_PER_SECOND, "{answered}");
    }
}
