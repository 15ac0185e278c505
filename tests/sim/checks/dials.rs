//! Rules for dials: their rate, their number, and the peers and addresses that a node may dial.

use p2p_gossip::internals::Expected;
use p2p_gossip::internals::mesh::{DIAL_LANES, DIALS_IN_FLIGHT_MAX, Mesh, SessionId};
use p2p_gossip::{ConnectAddr, DialAddr, PeerId};

use super::super::clock::{Micros, SECOND, micros};
use super::super::oracle::{DIALS_TO_ONE_PEER_MAX, DIALS_WINDOW, Debtor, ExpectedState, OpenDial, Rank};
use super::super::process::ProcId;
use super::super::world::World;
use super::{ADMISSION, Breach, IDENTITY, LEFT, LIMITS, RUMOURS, SLACK, listed_since_it_left};

/// A stranger that this node has never reached is dialled for this long, and for one more backoff. Clocks differ by a
/// hundredth.
const STRANGER_DIALLED: Micros = 65 * SECOND;

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
        let debtors = if hearsay { self.debtors(proc, addr, expected) } else { Vec::new() };
        let mut breaches = self.check_dial_limits(proc, addr, &debtors, mesh);
        self.procs[proc].oracle.dials.insert(session, OpenDial { addr: addr.clone(), debtors });
        match expected {
            Expected::AnyPeer | Expected::Pinned(_) => {
                breaches.extend(self.check_bootstrap_dial(proc, addr, expected));
            }
            Expected::Peer(id) if id == self.procs[proc].id => {
                breaches.push((IDENTITY, "dials itself".to_owned()));
            }
            Expected::Peer(id) => {
                breaches.extend(self.check_peer_dial(proc, id, addr, hearsay, mesh));
                breaches.extend(self.check_dial_to_stranger(proc, id, addr).filter(|_| hearsay));
            }
        }
        if addr.socket().is_some_and(World::is_inner_address) {
            breaches.push((RUMOURS, format!("dials {addr}, which is in another network behind a NAT")));
        }
        // No node here has a loopback address.
        if hearsay && addr.is_loopback() {
            breaches.push((RUMOURS, format!("dials {addr} from another peer's list")));
        }
        self.report_breaches(proc, breaches);
    }

    fn check_dial_limits(
        &mut self,
        proc: ProcId,
        addr: &DialAddr,
        debtors: &[Debtor],
        mesh: &Mesh,
    ) -> Vec<Breach> {
        let local = self.local(proc);
        let process = &mut self.procs[proc];
        let mut breaches = Vec::new();
        if !process.oracle.take_token(local) {
            breaches.push((LIMITS, "more dials a second than allowed".to_owned()));
        }
        if let Some(debtor) = process.oracle.lend(debtors, local) {
            breaches.push((LIMITS, format!("dials {addr} although {debtor:?} owes too much")));
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

    /// The debtors of a dial that may fail: the dialled machine, also for an address from a beacon, and the teller of a
    /// listed address if there is only one. A dial to an address of the user, or to one where the peer was reached, has
    /// no debtor. A peer that the node knows well owes what it claims itself, but not at the machine that it came from.
    fn debtors(&self, proc: ProcId, addr: &DialAddr, expected: Expected) -> Vec<Debtor> {
        let process = &self.procs[proc];
        let is_bootstrap = || process.config.connect.iter().any(|bootstrap| bootstrap.addr == *addr);
        if expected == Expected::AnyPeer && process.oracle.beacons.contains(addr) && !is_bootstrap() {
            return addr.socket().map(|addr| Debtor::Target(addr.ip().to_string())).into_iter().collect();
        }
        let Expected::Peer(id) = expected else {
            return Vec::new();
        };
        let target = match addr {
            DialAddr::Name { host, .. } => host.as_str().to_owned(),
            other => other.socket().map_or_else(|| other.to_string(), |addr| addr.ip().to_string()),
        };
        let mut debtors = vec![Debtor::Target(target)];
        let Some(peer) = self.procs[proc].oracle.peers.get(&id) else {
            return debtors;
        };
        let is_own = peer.first_hand.contains(addr) || peer.remembered.contains(addr);
        if peer.reached.contains(addr) {
            return Vec::new();
        }
        if is_own && peer.most_rank(self.now) > Rank::Stranger {
            let origin = || peer.origin.as_ref().and_then(DialAddr::socket).map(|origin| origin.ip());
            let came_from = peer.came_from.or_else(origin);
            if addr.socket().is_some_and(|addr| Some(addr.ip()) == came_from) {
                return Vec::new();
            }
            debtors.extend((peer.least_rank(self.now) > Rank::Stranger).then_some(Debtor::Claimant(id)));
        }
        if !is_own && !peer.seen_at.contains(addr) && peer.tellers.len() == 1 {
            debtors.extend(peer.tellers.iter().cloned());
        }
        debtors
    }

    /// A stranger that is gone is dialled where it came from or was reached, and for a minute. What others list of it
    /// is dialled on their account, and its beacons say where it is now.
    fn check_dial_to_stranger(&self, proc: ProcId, id: PeerId, addr: &DialAddr) -> Option<Breach> {
        let oracle = &self.procs[proc].oracle;
        let peer = oracle.peers.get(&id)?;
        let is_gone = peer.state == ExpectedState::Down && peer.most_rank(self.now) == Rank::Stranger;
        if !is_gone || peer.reached.contains(addr) || oracle.beacons.contains(addr) {
            return None;
        }
        let is_from_there = addr.socket().is_some_and(|addr| Some(addr.ip()) == peer.came_from);
        if !is_from_there && !peer.listed.contains(addr) {
            return Some((RUMOURS, format!("dials {} at {addr}, which only it claims", id.short())));
        }
        let since = peer.since.max(peer.refused_at).max(oracle.access_changed);
        let gone_for = self.now - since;
        let is_listed = peer.listed_at.is_some_and(|at| at >= peer.since);
        // One that says it knows a newer process of this node is dialled after the longest timeout and a heartbeat.
        let too_long = gone_for > STRANGER_DIALLED + micros(self.procs[proc].config.heartbeat) + SLACK;
        (too_long && !is_listed && peer.reached.is_empty())
            .then(|| (LIMITS, format!("dials {}, a stranger, {gone_for} µs after it went", id.short())))
    }

    /// A dial without a known peer id goes to a bootstrap address and expects its pin, or to an address from a beacon.
    fn check_bootstrap_dial(&self, proc: ProcId, addr: &DialAddr, expected: Expected) -> Option<Breach> {
        let expectation = |bootstrap: &ConnectAddr| bootstrap.pin.map_or(Expected::AnyPeer, Expected::Pinned);
        let mut bootstraps = self.procs[proc].config.connect.iter();
        let is_from_beacon = expected == Expected::AnyPeer && self.procs[proc].oracle.beacons.contains(addr);
        let is_one =
            bootstraps.any(|one| one.addr == *addr && expectation(one) == expected) || is_from_beacon;
        (!is_one).then(|| (RUMOURS, format!("dials {addr} expecting {expected}")))
    }

    fn check_peer_dial(
        &mut self,
        proc: ProcId,
        id: PeerId,
        addr: &DialAddr,
        hearsay: bool,
        mesh: &Mesh,
    ) -> Vec<Breach> {
        let now = self.now;
        let has_liar = !self.scenario.liars.is_empty() || !self.scenario.attacks.is_empty();
        let process = &mut self.procs[proc];
        let mut breaches = Vec::new();
        if let Err(refusal) = process.oracle.access.check(&id) {
            breaches.push((ADMISSION, format!("dials {}: {refusal}", id.short())));
        }
        if mesh.open_sessions(&id).iter().any(|session| !session.is_carried()) {
            breaches.push((IDENTITY, format!("dials {} while connected to it", id.short())));
        }
        let is_from_beacon = process.oracle.beacons.contains(addr);
        let peer = process.oracle.peer(id);
        // A bootstrap address may be dialled although its last peer left, and one from a beacon.
        if peer.state == ExpectedState::Left && !listed_since_it_left(peer) && hearsay && !is_from_beacon {
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
