//! What a node does with beacons, without sockets and clocks: when it sends its own, and which of those that arrive count.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::beacon::{BEACON_BYTES, Beacon, Beacons};
use super::beacon_pace::{BeaconLimits, Heard, Schedule};
use crate::trust::network_key::NetworkKey;

/// A beacon that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The beacon, for the mesh.
    pub beacon: Beacon,
    /// Whether to send this node's beacon to where the datagram came from: the other node may reach this one, and not the
    /// other way round.
    pub answer: bool,
}

/// The beacons of one node.
#[derive(Debug)]
pub struct Discoverer {
    beacons: Beacons,
    port: u16,
    schedule: Schedule,
    limits: BeaconLimits,
    rng: fastrand::Rng,
}

impl Discoverer {
    /// A node that listens on this port. The first beacon is due now.
    #[must_use]
    pub fn new(beacons: Beacons, port: u16, rng: fastrand::Rng, now: Instant) -> Self {
        Self { beacons, port, schedule: Schedule::new(now), limits: BeaconLimits::new(now), rng }
    }

    /// Accepts these keys from now on; the first makes tags.
    pub fn set_keys(&mut self, keys: &[NetworkKey]) {
        self.beacons.set_keys(keys);
    }

    /// An interface has come up: the first beacons are sent again.
    pub fn start_again(&mut self, now: Instant) {
        self.schedule = Schedule::new(now);
    }

    /// The time of the next beacon.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.schedule.next()
    }

    /// Whether a beacon is due now, which the caller sends.
    pub fn take_due(&mut self, now: Instant) -> bool {
        self.schedule.take_due(now, &mut self.rng)
    }

    /// This node's beacon, for a datagram from this address.
    #[must_use]
    pub fn encode(&self, source: IpAddr) -> [u8; BEACON_BYTES] {
        self.beacons.encode(self.port, source)
    }

    /// A datagram arrived from this address. Returns its beacon, if it is one of this network and counts.
    pub fn handle_datagram(&mut self, now: Instant, datagram: &[u8], from: SocketAddr) -> Option<Found> {
        let beacon = self.beacons.decode(datagram, from)?;
        match self.limits.heard(now, beacon.addr) {
            Heard::Counts { answer } => Some(Found { beacon, answer }),
            Heard::TooMany => None,
        }
    }
}
