//! Lists of peers as a liar tells them. Everything else about a liar is an ordinary node.

use std::net::SocketAddr;

use p2p_gossip::internals::wire::{Message, PeerRecord, RECORDS_MAX};
use p2p_gossip::{DialAddr, PeerId};

use super::process::ProcId;
use super::world::World;

impl World {
    /// Makes a liar's list out of an honest one, and now and then one that nobody asked for.
    pub fn distort(&mut self, proc: ProcId, message: &mut Message) {
        if self.convergence && self.rng.u32(..4) > 0 {
            return;
        }
        match message {
            Message::Peers { records, .. } => {
                for _ in 0..self.scenario.faults.lies_per_list {
                    let lie = self.lie(proc);
                    records.push(lie);
                }
                records.truncate(RECORDS_MAX);
            }
            Message::Heartbeat { digest, .. } if self.rng.u32(..3) == 0 => *digest ^= self.rng.u64(..),
            Message::Heartbeat { .. } if self.rng.u32(..10) == 0 => {
                let adversary = self.scenario.faults.lies_per_list.min(RECORDS_MAX);
                let records = (0..adversary).map(|_| self.lie(proc)).collect();
                *message = Message::Peers { records, more: self.rng.bool() };
            }
            _ => {}
        }
    }

    /// Where there are names, liars use them: of others, of nobody, of whoever looks them up.
    fn lying_name(&mut self) -> Option<DialAddr> {
        if self.scenario.named.is_empty() || self.rng.bool() {
            return None;
        }
        let somebody = self.rng.choice(self.scenario.named.clone()).and_then(|slot| self.name(slot));
        let odd = ["nobody.example:8080", "localhost:8080", "x.localhost:1"];
        if self.rng.bool() { somebody } else { odd[self.rng.usize(..odd.len())].parse().ok() }
    }

    fn lie(&mut self, proc: ProcId) -> PeerRecord {
        let somebody = self.rng.usize(..self.slots.len());
        let nobody = PeerId::from_bytes(std::array::from_fn(|_| self.rng.u8(..)));
        let nowhere = SocketAddr::from(([10, 9, self.rng.u8(..), self.rng.u8(1..)], self.rng.u16(1000..)));
        let odd = ["0.0.0.0:8080", "224.0.0.1:8080", "255.255.255.255:8080", "10.0.0.1:0", "127.0.0.1:8080"];
        let odd = odd[self.rng.usize(..odd.len())].parse().unwrap_or(nowhere);
        let (id, addr) = match self.rng.u32(..6) {
            // Nobody, nowhere; nobody at somebody's address; somebody elsewhere; each at itself.
            0 => (nobody, nowhere),
            1 => (nobody, self.slots[somebody].addr),
            2 => (self.slots[somebody].key, nowhere),
            3 => (self.slots[somebody].key, self.slots[self.rng.usize(..self.slots.len())].addr),
            4 => (self.slots[somebody].key, odd),
            _ => (self.slots[somebody].key, self.procs[proc].addr),
        };
        let addr = self.lying_name().unwrap_or(addr.into());
        PeerRecord { id, addrs: vec![addr], connected: self.rng.bool() }
    }
}
