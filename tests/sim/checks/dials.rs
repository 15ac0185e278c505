//! Rules for dials: their rate, their number, and the peers and addresses that a node may dial.

use p2p_gossip::internals::Expected;
use p2p_gossip::internals::mesh::{DIAL_LANES, DIALS_IN_FLIGHT_MAX, Mesh, SessionId};
use p2p_gossip::{ConnectAddr, DialAddr, PeerId};

use super::super::oracle::{DIALS_TO_ONE_PEER_MAX, DIALS_WINDOW, ExpectedState};
use super::super::process::ProcId;
use super::super::world::World;
use super::{ADMISSION, Breach, IDENTITY, LEFT, LIMITS, RUMOURS, listed_since_it_left};

impl World {
    /// `hearsay`: the address comes from another peer's list.
    pub(super) fn check_dial(
        &mut self,
        proc: ProcId,
        session: SessionId,
        addr: &DialAddr,
        expected: Expected,
        hearsay: bool,
        mesh: &Mesh,
    ) {
        self.stats.dials += 1;
        self.trace.mix(&session);
        self.procs[proc].oracle.dials.insert(session, addr.clone());
        let mut breaches = self.check_dial_limits(proc, addr, mesh);
        match expected {
            Expected::AnyPeer | Expected::Pinned(_) => {
                breaches.extend(self.check_bootstrap_dial(proc, addr, expected));
            }
            Expected::Peer(id) if id == self.procs[proc].id => {
                breaches.push((IDENTITY, "dials itself".to_owned()));
            }
            Expected::Peer(id) => breaches.extend(self.check_peer_dial(proc, id, hearsay, mesh)),
        }
        // No node here has a loopback address.
        if hearsay && addr.is_loopback() {
            breaches.push((RUMOURS, format!("dials {addr} from another peer's list")));
        }
        self.report_breaches(proc, breaches);
    }

    fn check_dial_limits(&mut self, proc: ProcId, addr: &DialAddr, mesh: &Mesh) -> Vec<Breach> {
        let local = self.local(proc);
        let process = &mut self.procs[proc];
        let mut breaches = Vec::new();
        if !process.oracle.take_token(local) {
            breaches.push((LIMITS, "more dials a second than allowed".to_owned()));
        }
        let in_flight = mesh.dials_in_flight();
        if in_flight > DIAL_LANES * DIALS_IN_FLIGHT_MAX {
            breaches.push((LIMITS, format!("{in_flight} dials in flight")));
        }
        if process.oracle.leaving {
            breaches.push((LEFT, "dials while it leaves".to_owned()));
        }
        if !addr.is_dialable() {
            breaches.push((LIMITS, format!("dials {addr}, which is not dialable")));
        }
        breaches
    }

    /// A dial without a known peer id goes to a bootstrap address and expects its pin.
    fn check_bootstrap_dial(&self, proc: ProcId, addr: &DialAddr, expected: Expected) -> Option<Breach> {
        let expectation = |bootstrap: &ConnectAddr| bootstrap.pin.map_or(Expected::AnyPeer, Expected::Pinned);
        let mut bootstraps = self.procs[proc].config.connect.iter();
        let is_one = bootstraps.any(|one| one.addr == *addr && expectation(one) == expected);
        (!is_one).then(|| (RUMOURS, format!("dials {addr} expecting {expected}")))
    }

    fn check_peer_dial(&mut self, proc: ProcId, id: PeerId, hearsay: bool, mesh: &Mesh) -> Vec<Breach> {
        let now = self.now;
        let has_liar = !self.scenario.liars.is_empty();
        let process = &mut self.procs[proc];
        let mut breaches = Vec::new();
        if let Err(refusal) = process.oracle.access.check(&id) {
            breaches.push((ADMISSION, format!("dials {}: {refusal}", id.short())));
        }
        if !mesh.open_sessions(&id).is_empty() {
            breaches.push((IDENTITY, format!("dials {} while connected to it", id.short())));
        }
        let peer = process.oracle.peer(id);
        // A bootstrap address may be dialled although its last peer left.
        if peer.state == ExpectedState::Left && !listed_since_it_left(peer) && hearsay {
            breaches.push((LEFT, format!("dials {}, which left", id.short())));
        }
        peer.dials.retain(|&at| at + DIALS_WINDOW > now);
        peer.dials.push(now);
        // Each list of a liar may restart the backoff; then only the limit for all dials applies.
        if peer.dials.len() > DIALS_TO_ONE_PEER_MAX && !has_liar {
            let dials = peer.dials.len();
            breaches.push((LIMITS, format!("{dials} dials to {} within ten seconds", id.short())));
        }
        breaches
    }
}
