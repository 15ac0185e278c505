//! Rules for pings: each arrives at most once, and exactly once on a link that stayed up.

use p2p_gossip::PeerId;

use super::super::clock::SECOND;
use super::super::net::{ConnId, Side};
use super::super::oracle::ExpectedState;
use super::super::process::{ProcId, Process};
use super::super::world::{Event, World};
use super::PINGS;

impl World {
    pub(super) fn ping_delivered(&mut self, proc: ProcId, conn: ConnId, side: Side, peer: PeerId, seq: u64) {
        self.stats.pings += 1;
        let far_end = self.far_end(conn, side);
        let pings = &mut self.conns[conn].pings[1 - side];
        match pings.iter().position(|&(sent, _)| sent == seq) {
            Some(at) => {
                pings.remove(at);
            }
            // Each end of a circuit notes its own pings.
            None if self.conns[conn].circuit.is_some() => {}
            None => self.violated(PINGS, format!("p{proc} shows #{seq}, which c{conn} did not deliver")),
        }
        let Some(sender) = far_end else {
            return;
        };
        if !self.procs[proc].oracle.peer(peer).delivered.entry(sender).or_default().insert(seq) {
            self.violated(PINGS, format!("p{proc} shows #{seq} of {} twice", peer.short()));
        }
    }

    /// Schedules `audit` for a connection that is closed at both ends.
    pub fn audit_later(&mut self, conn: ConnId) {
        if !self.conns[conn].disturbed {
            self.schedule(self.now + 2 * SECOND, Event::Audit(conn));
        }
    }

    /// Checks that a connection that ended without a fault has delivered every ping.
    pub fn audit(&mut self, conn: ConnId) {
        if self.conns[conn].disturbed {
            return;
        }
        for side in 0..2 {
            let ends = &self.conns[conn].ends;
            let (Some(from), Some(to)) = (ends[side].proc, ends[1 - side].proc) else {
                continue;
            };
            let Some(&(seq, sent)) = self.conns[conn].pings[side].front() else {
                continue;
            };
            let (sender, receiver) = (&self.procs[from], &self.procs[to]);
            let stayed = |process: &Process, peer: PeerId| {
                let is_running = process.alive && !process.paused && !process.oracle.leaving;
                let peer = process.oracle.peers.get(&peer);
                is_running && peer.is_some_and(|p| p.state == ExpectedState::Up && p.since <= sent)
            };
            if stayed(sender, receiver.id) && stayed(receiver, sender.id) && self.now > sent + SECOND {
                self.violated(PINGS, format!("#{seq} from p{from} to p{to} on c{conn} was lost"));
            }
        }
    }
}
