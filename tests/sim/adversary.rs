//! The false lists of peers that a liar sends. In all else a liar is an ordinary node.

use std::net::SocketAddr;

use p2p_gossip::internals::wire::{Message, PeerRecord, RECORDS_MAX};
use p2p_gossip::{DialAddr, PeerId};

use super::process::ProcId;
use super::world::World;

impl World {
    /// Adds false entries to an honest list.
    pub fn distort(&mut self, proc: ProcId, message: &mut Message) {
        if self.faults_ended && self.rng.u32(..4) > 0 {
            return;
        }
        if let Message::Peers { records, .. } = message {
            for _ in 0..self.scenario.faults.lies_per_list {
                let lie = self.lie(proc);
                records.push(lie);
            }
            records.truncate(RECORDS_MAX);
        }
    }

    /// Sometimes falsifies the digest that a liar states with its heartbeats and acknowledgements.
    pub fn distort_vitals(&mut self, proc: ProcId) {
        if !self.faults_ended && self.rng.u32(..3) == 0 {
            self.procs[proc].vitals.digest ^= self.rng.u64(..);
        }
    }

    /// The unrequested list that a liar sometimes sends instead of a heartbeat.
    pub fn lie_instead_of_heartbeat(&mut self, proc: ProcId) -> Option<Message> {
        if self.faults_ended || self.rng.u32(..10) > 0 {
            return None;
        }
        let lies = self.scenario.faults.lies_per_list.min(RECORDS_MAX);
        let records = (0..lies).map(|_| self.lie(proc)).collect();
        Some(Message::Peers { records, more: self.rng.bool() })
    }

    /// A host name for a false entry, if the scenario has names: the name of another node, of no node, or of the node
    /// that looks it up.
    fn false_name(&mut self) -> Option<DialAddr> {
        if self.scenario.named.is_empty() || self.rng.bool() {
            return None;
        }
        let real = self.rng.choice(self.scenario.named.clone()).and_then(|slot| self.name(slot));
        let odd = ["unknown.example:8080", "localhost:8080", "x.localhost:1"];
        if self.rng.bool() { real } else { odd[self.rng.usize(..odd.len())].parse().ok() }
    }

    /// One false entry.
    fn lie(&mut self, proc: ProcId) -> PeerRecord {
        let slot = self.rng.usize(..self.slots.len());
        let invented = PeerId::from_bytes(std::array::from_fn(|_| self.rng.u8(..)));
        let nowhere = SocketAddr::from(([10, 9, self.rng.u8(..), self.rng.u8(1..)], self.rng.u16(1000..)));
        let odd = ["0.0.0.0:8080", "224.0.0.1:8080", "255.255.255.255:8080", "10.0.0.1:0", "127.0.0.1:8080"];
        let odd = odd[self.rng.usize(..odd.len())].parse().unwrap_or(nowhere);
        let (id, addr) = match self.rng.u32(..6) {
            // 0 and 1: an invented peer. 2 to 4: a real peer at a wrong address. Else: a real peer at the liar's address.
            0 => (invented, nowhere),
            1 => (invented, self.slots[slot].addr),
            2 => (self.slots[slot].key, nowhere),
            3 => (self.slots[slot].key, self.slots[self.rng.usize(..self.slots.len())].addr),
            4 => (self.slots[slot].key, odd),
            _ => (self.slots[slot].key, self.procs[proc].addr),
        };
        let addr = self.false_name().unwrap_or(addr.into());
        PeerRecord { id, addrs: vec![addr], connected: self.rng.bool() }
    }
}
