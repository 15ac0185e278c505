//! Lists of peers as a liar tells them. Everything else about a liar is an ordinary node.

use std::net::SocketAddr;

use p2p_gossip::internals::wire::{Message, PeerRecord, RECORDS_MAX};
use p2p_gossip::{DialAddr, PeerId};

use super::process::ProcId;
use super::world::World;

impl World {
    /// Makes a liar's list out of an honest one, and sometimes an unrequested one.
    pub fn distort(&mut self, proc: ProcId, message: &mut Message) {
        if self.convergence && self.rng.u32(..4) > 0 {
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

    /// Makes a liar's digest out of an honest one, sometimes.
    pub fn distort_vitals(&mut self, proc: ProcId) {
        if !self.convergence && self.rng.u32(..3) == 0 {
            self.procs[proc].vitals.digest ^= self.rng.u64(..);
        }
    }

    /// Sometimes a liar sends a list that nobody asked for.
    pub fn lie_instead_of_heartbeat(&mut self, proc: ProcId) -> Option<Message> {
        if self.convergence || self.rng.u32(..10) > 0 {
            return None;
        }
        let lies = self.scenario.faults.lies_per_list.min(RECORDS_MAX);
        let records = (0..lies).map(|_| self.lie(proc)).collect();
        Some(Message::Peers { records, more: self.rng.bool() })
    }

    /// Where there are names, liars use them: names of other nodes, of no node, of the node that looks them up.
    fn lying_name(&mut self) -> Option<DialAddr> {
        if self.scenario.named.is_empty() || self.rng.bool() {
            return None;
        }
        let real = self.rng.choice(self.scenario.named.clone()).and_then(|slot| self.name(slot));
        let odd = ["nobody.example:8080", "localhost:8080", "x.localhost:1"];
        if self.rng.bool() { real } else { odd[self.rng.usize(..odd.len())].parse().ok() }
    }

    fn lie(&mut self, proc: ProcId) -> PeerRecord {
        let slot = self.rng.usize(..self.slots.len());
        let invented = PeerId::from_bytes(std::array::from_fn(|_| self.rng.u8(..)));
        let nowhere = SocketAddr::from(([10, 9, self.rng.u8(..), self.rng.u8(1..)], self.rng.u16(1000..)));
        let odd = ["0.0.0.0:8080", "224.0.0.1:8080", "255.255.255.255:8080", "10.0.0.1:0", "127.0.0.1:8080"];
        let odd = odd[self.rng.usize(..odd.len())].parse().unwrap_or(nowhere);
        let (id, addr) = match self.rng.u32(..6) {
            // An invented peer at no host or at a real address; a real peer at another address; every peer at the liar.
            0 => (invented, nowhere),
            1 => (invented, self.slots[slot].addr),
            2 => (self.slots[slot].key, nowhere),
            3 => (self.slots[slot].key, self.slots[self.rng.usize(..self.slots.len())].addr),
            4 => (self.slots[slot].key, odd),
            _ => (self.slots[slot].key, self.procs[proc].addr),
        };
        let addr = self.lying_name().unwrap_or(addr.into());
        PeerRecord { id, addrs: vec![addr], connected: self.rng.bool() }
    }
}
