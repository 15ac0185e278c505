//! The local network of a scenario with beacons: datagrams that are lost, doubled, late, and forged. What a node does with
//! them is the code that ships.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use p2p_gossip::KeyRing;
use p2p_gossip::internals::beacon::{BEACON_BYTES, Beacons, Discoverer, Found};

use super::attacker::third_party;
use super::clock::{MS, Micros};
use super::process::{Deferred, ProcId};
use super::scenario::Slot;
use super::world::{Event, World};

/// The name of the network of all nodes.
const NETWORK: &str = "sim";
/// The port that datagrams come from.
const SOURCE_PORT: u16 = 24_816;

/// A datagram on its way.
#[derive(Clone, Debug)]
pub struct Datagram {
    bytes: [u8; BEACON_BYTES],
    /// The address that it seems to come from.
    from: SocketAddr,
    to: Slot,
}

/// The datagrams on their way, and what an attacker has heard.
#[derive(Debug, Default)]
pub struct LocalNetwork {
    on_the_way: BTreeMap<u64, Datagram>,
    sent: u64,
    /// The last beacon of a node, which everyone on the network has heard.
    last: Option<(u64, Datagram)>,
}

impl World {
    /// What a new process of this slot does with beacons; `None` if the scenario has none.
    pub fn discoverer(&mut self, slot: Slot, instance: u64, now: std::time::Instant) -> Option<Discoverer> {
        if !self.scenario.faults.discover {
            return None;
        }
        let keys: Vec<_> = self.slots[slot].ring.iter().flat_map(KeyRing::keys).cloned().collect();
        let beacons = Beacons::new(NETWORK, &keys, instance);
        let rng = fastrand::Rng::with_seed(self.rng.u64(..));
        Some(Discoverer::new(beacons, self.slots[slot].listen_port, rng, now))
    }

    /// The process looks whether its next beacon is due.
    pub fn beacon_due(&mut self, proc: ProcId) {
        let process = &mut self.procs[proc];
        let local = process.clock.local(self.now);
        let Some(discoverer) = &mut process.discoverer else {
            return;
        };
        let is_due = discoverer.take_due(local);
        let (next, bytes) = (discoverer.next(), discoverer.encode(process.addr.ip()));
        let next = process.clock.global(next);
        let (slot, addr) = (process.slot, process.addr);
        if is_due {
            let datagram = |to| Datagram { bytes, from: SocketAddr::new(addr.ip(), SOURCE_PORT), to };
            for to in (0..self.slots.len()).filter(|to| *to != slot) {
                self.send_datagram(slot, datagram(to));
            }
            let instance = u64::from_be_bytes(bytes[5..13].try_into().expect("eight bytes"));
            self.lan.last = Some((instance, datagram(slot)));
        }
        // The virtual time has microseconds only.
        self.schedule(next.max(self.now + 1), Event::BeaconDue(proc));
    }

    /// Sends a datagram, which may be lost or come twice.
    fn send_datagram(&mut self, from: Slot, datagram: Datagram) {
        let faults = &self.scenario.faults;
        let (lost, doubled) = (faults.beacons_lost_permille, faults.beacons_doubled_permille);
        let mut happens =
            |permille: u32| permille > 0 && !self.faults_ended && self.rng.u32(..1000) < permille;
        let copies = if happens(lost) { 0 } else { 1 + u32::from(happens(doubled)) };
        if self.is_path_cut(from, datagram.to) || !self.slots[datagram.to].powered {
            return;
        }
        for _ in 0..copies {
            self.lan.sent += 1;
            let number = self.lan.sent;
            self.lan.on_the_way.insert(number, datagram.clone());
            let at = self.now + self.delay();
            self.schedule(at, Event::Datagram(number));
        }
    }

    /// A datagram arrives at its machine.
    pub fn datagram_arrives(&mut self, number: u64) {
        let Some(to) = self.lan.on_the_way.get(&number).map(|datagram| datagram.to) else {
            return;
        };
        match self.slots[to].proc {
            Some(proc) if self.procs[proc].discoverer.is_some() => {
                self.on_thread(proc, Deferred::Datagram(number));
            }
            _ => drop(self.lan.on_the_way.remove(&number)),
        }
    }

    /// The process reads a datagram.
    pub fn read_datagram(&mut self, proc: ProcId, number: u64) {
        let Some(Datagram { bytes, from, .. }) = self.lan.on_the_way.remove(&number) else {
            return;
        };
        let process = &mut self.procs[proc];
        let local = process.clock.local(self.now);
        let Some(discoverer) = &mut process.discoverer else {
            return;
        };
        let Some(Found { beacon, answer }) = discoverer.handle_datagram(local, &bytes, from) else {
            return;
        };
        let (slot, own) = (process.slot, process.addr);
        let answered = self.slots.iter().position(|other| other.addr.ip() == from.ip());
        if let Some(to) = answered.filter(|_| answer) {
            let bytes = discoverer.encode(own.ip());
            self.send_datagram(slot, Datagram { bytes, from: SocketAddr::new(own.ip(), SOURCE_PORT), to });
        }
        self.procs[proc].oracle.beacons.insert(beacon.addr.into());
        self.drive(proc, |driver, node| driver.beacon(node, beacon));
        self.want_turn(proc, self.now);
    }

    /// An attacker's machine sends a forged beacon to all others. Returns the time until the next one.
    pub fn forge_beacon(&mut self, slot: Slot, every: Micros) -> Micros {
        let Some((instance, seen)) = self.lan.last.clone() else {
            return every;
        };
        let own = SocketAddr::new(self.slots[slot].addr.ip(), SOURCE_PORT);
        let victim = self.slots[self.rng.usize(..self.slots.len())].addr;
        let strange = self.rng.u64(..);
        let (from, instance, port) = match self.rng.u32(..6) {
            // A copy, as if from the attacker's own address.
            0 => (own, None, 0),
            // Its own machine, where nothing listens; with a new number, or with that of a node.
            1 => (own, Some(strange), self.rng.u16(1..)),
            2 => (own, Some(instance), self.rng.u16(1..)),
            // A third party, by a false source address.
            3 => (third_party(self.rng.u32(..40), self.rng.bool()), Some(strange), 443),
            // A node's address with the number of another one, or with another port.
            4 => (victim, Some(instance), victim.port()),
            _ => (victim, Some(strange), self.rng.u16(1..)),
        };
        let bytes = match instance {
            Some(instance) => Beacons::new(NETWORK, &[], instance).encode(port, from.ip()),
            None => seen.bytes,
        };
        let from = SocketAddr::new(from.ip(), SOURCE_PORT);
        for to in (0..self.slots.len()).filter(|to| *to != slot) {
            self.send_datagram(slot, Datagram { bytes, from, to });
        }
        every.max(MS)
    }
}
