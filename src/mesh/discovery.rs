//! Dials to the addresses from beacons.
//!
//! A beacon is the claim of a machine that a node of this network listens there. It names no peer, so any peer may answer,
//! and the handshake, lists and pins decide as at any other address. The machine pays for the dial as for a stranger's
//! claim, but from an account of its own. A dial that fails is not repeated: the next beacon repeats it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::accounts::Account;
use super::dial_queue::Target;
use super::io::{DialError, Report};
use super::machine::{Mesh, millis};
use super::peer::Peer;
use super::timer::Timer;
use crate::net::addr::DialAddr;
use crate::net::beacon::Beacon;
use crate::trust::peer_id::PeerId;

/// Longest wait before the dial, so that a mesh that starts does not dial all at the same moment.
const BEACON_JITTER: Duration = millis(50);
/// Of two nodes that hear each other, the one with the larger instance number waits for this long: the other dials first,
/// unless it cannot.
const BEACON_PATIENCE: Duration = millis(300);

impl Mesh {
    /// A beacon of another node arrived.
    pub(super) fn beacon_heard(&mut self, now: Instant, beacon: Beacon) {
        let addr = beacon.addr;
        if self.leaving || !DialAddr::from(addr).is_dialable() {
            return;
        }
        if !self.is_answered(beacon) && self.beacons.add(now, beacon) {
            let patience = if beacon.instance < self.instance { BEACON_PATIENCE } else { Duration::ZERO };
            let soon = patience + self.random_between(Duration::ZERO, BEACON_JITTER);
            self.timers.set(Timer::Dial(Target::Beacon(addr)), now + soon);
        }
    }

    /// Whether the address waits for a dial, not for too long, and no peer is connected there. Otherwise it no longer waits.
    pub(super) fn wants_beacon_dial(&mut self, now: Instant, addr: SocketAddr) -> bool {
        let is_answered = self.beacons.pending(addr).is_none_or(|beacon| self.is_answered(beacon));
        let is_over = is_answered || self.beacons.is_stale(now, addr);
        if is_over {
            self.beacons.finish(addr);
        }
        !is_over
    }

    /// A dial reached this peer. An address from a beacon that was its target waits no longer.
    pub(super) fn beacon_answered(&mut self, target: Option<Target>, peer: PeerId) {
        if let Some(Target::Beacon(addr)) = target {
            self.beacons.finish(addr);
            if peer != self.id {
                self.beacons.note_answer(addr, peer);
            }
        }
    }

    pub(super) fn beacon_dial_failed(&mut self, addr: SocketAddr, reason: DialError) {
        self.beacons.finish(addr);
        let addr = DialAddr::from(addr);
        let detail = match reason {
            DialError::Failed(detail) | DialError::Refused(detail) => detail,
            DialError::WrongId { found } => {
                if let Some(owner) = self.peers.owner_of(&addr, &found) {
                    self.tell_wrong_id(&addr, owner, found, true);
                }
                format!("peer {} answered", found.short())
            }
            DialError::OwnAddress | DialError::NothingNew | DialError::Cancelled => return,
        };
        self.report(Report::DialFailed { peer: None, addr, detail, retry_in: None });
    }

    /// The accounts that pay for the dial.
    pub(super) fn beacon_payers(addr: SocketAddr) -> Vec<Account> {
        let beacons = Account::beacons(addr.ip());
        [beacons].into_iter().chain(Account::target(&addr.into())).collect()
    }

    /// Whether the process that sent the beacon is connected, perhaps at another of its addresses, or a peer is connected at
    /// this address, or the lists refuse the last one that answered there, or with `strict` the one that owns the address.
    fn is_answered(&self, beacon: Beacon) -> bool {
        let is_settled = |id: PeerId| self.is_connected(&id) || self.config.access.check(&id).is_err();
        let dial = DialAddr::from(beacon.addr);
        let owner = || self.peers.owner_of(&dial, &self.id).filter(|_| self.config.strict);
        let is_it = |peer: &Peer| peer.instances.is_current(beacon.instance) || peer.addrs.owns(&dial);
        beacon.instance == self.instance
            || self.beacons.peer_at(beacon.addr).is_some_and(is_settled)
            || owner().is_some_and(is_settled)
            || self.peers.iter().any(|(_, peer)| peer.connected().is_some() && is_it(peer))
    }
}
