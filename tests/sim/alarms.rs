//! The alert programs of the nodes: each run is noted, takes some time, and succeeds unless its node ends meanwhile.

use p2p_gossip::internals::wire::ALERT_CAPABILITY;
use p2p_gossip::{AlertKind, AlertPhase, Event, PeerId};

use super::clock::{MS, Micros};
use super::process::ProcId;
use super::scenario::Slot;
use super::world::{self, World};

/// Time that an alert program takes.
const RUN: Micros = 20 * MS;

/// One run of an alert program.
#[derive(Clone, Debug)]
pub struct Alarm {
    pub at: Micros,
    /// The slot of the node that ran its program.
    pub slot: Slot,
    pub incident: String,
    pub kind: AlertKind,
    pub phase: AlertPhase,
    pub peers: Vec<PeerId>,
}

impl World {
    pub fn capabilities(&self, slot: Slot) -> Vec<u32> {
        if self.scenario.alerts.contains(&slot) { vec![ALERT_CAPABILITY] } else { Vec::new() }
    }

    pub fn note_alarm(&mut self, proc: ProcId, event: &Event) {
        if let Event::Alert { incident, kind, phase, peers, .. } = event {
            let (at, slot) = (self.now, self.procs[proc].slot);
            let (kind, phase) = (*kind, *phase);
            let (number, peers) = (u64::from_str_radix(incident, 16).unwrap(), peers.clone());
            self.alarms.push(Alarm { at, slot, incident: incident.clone(), kind, phase, peers });
            self.schedule(at + RUN, world::Event::AlertRan(proc, number, phase));
        }
    }

    /// The program has run. The node learns of it, if it runs itself.
    pub fn alert_ran(&mut self, proc: ProcId, incident: u64, phase: AlertPhase) {
        let process = &self.procs[proc];
        if process.alive && !process.paused {
            self.drive(proc, |driver, node| driver.alert_done(node, incident, phase));
            self.want_turn(proc, self.now);
        }
    }
}
