//! Punching: two nodes behind routers that translate addresses (NAT) connect through both, with the help of a carrier.
//!
//! A carrier tells both ends of a circuit at which address it sees them. Many NATs give all connections from one port of a
//! host the same outside port. So each end connects from the port of its connection to the carrier, and goes to the
//! address that the other end names inside the circuit. Both connect at the same moment: each NAT takes the packets of the
//! other end for answers, and TCP makes one connection of the two attempts (simultaneous open). The node with the smaller
//! id leads the pair: it proposes the attempts, and is the dialler of the session.
//!
//! Two nodes behind the same NAT have the same outside address. Many NATs let no connection come back to the inside, so
//! they name their inner addresses instead. A private address means a machine in this node's own network, so it counts only
//! if members list the peer at this node's outside address, and if the peer is no stranger.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::accounts::Account;
use super::address_scope;
use super::io::{DialError, Output, Report, SessionId};
use super::machine::{Mesh, millis};
use super::punch_table::{Attempt, PUNCHES_MAX, Step};
use super::timer::Timer;
use crate::net::addr::{DialAddr, is_private};
use crate::trust::peer_id::PeerId;
use crate::wire::Message;

/// Wait before each of the first attempts. The first leaves time for a dial that succeeds; further ones may find the
/// machines less busy. At the last one, the two ends are no strangers any more.
const WAITS: [Duration; 4] =
    [millis(300), Duration::from_secs(3), Duration::from_secs(10), Duration::from_secs(60)];
/// Wait before each further attempt. Two NATs that did not let four attempts through hardly ever let one through.
const WAIT_LATER: Duration = Duration::from_secs(600);
/// The attempt, counted from 1, that goes to the outside address of a peer behind the same NAT: the NAT may let connections
/// come back to the inside. All others go to its inner address.
const HAIRPIN_ATTEMPT: usize = 2;

impl Mesh {
    /// Tells the peer of a session, once, at which address this node sees it.
    pub(super) fn tell_seen_address(&mut self, peer: &PeerId, session: SessionId) {
        let is_capable = self.peers.get(peer).is_some_and(|peer| peer.can_punch);
        if is_capable
            && let Some(addr) = self.sessions.get(session).map(|session| session.remote)
            && self.punches.told.insert(session)
        {
            self.output(Output::Send { session, message: Message::SeenAt { addr } });
        }
    }

    /// A peer tells at which address it sees this node.
    pub(super) fn received_seen_address(&mut self, session: SessionId, addr: SocketAddr) {
        if !session.is_carried() && self.sessions.get(session).is_some() {
            self.punches.seen_at.insert(session, addr);
        }
    }

    /// A session inside a circuit has come up.
    pub(super) fn punch_later(&mut self, now: Instant, id: PeerId) {
        if self.leads(&id) && self.peers.get(&id).is_some_and(|peer| peer.can_punch) {
            let punch = self.punches.peers.entry(id).or_default();
            let proposed = punch.proposed;
            let wait = self.wait_for_proposal(proposed);
            self.timers.set_no_later(Timer::Punch(id), now + wait);
        }
    }

    /// A direct session has come up.
    pub(super) fn end_punching(&mut self, id: &PeerId) {
        if self.punches.peers.remove(id).is_some() {
            self.timers.cancel(Timer::Punch(*id));
        }
    }

    /// It is time for the next proposal, or for the start of an attempt.
    pub(super) fn punch_due(&mut self, now: Instant, id: PeerId) {
        let Some(punch) = self.punches.peers.get_mut(&id) else {
            return;
        };
        if let Step::Accepted { addr, beside } = std::mem::take(&mut punch.step) {
            return self.start_punch(now, id, addr, beside);
        }
        if !self.is_only_carried(&id) {
            // A new circuit begins with the wait that is due.
            return;
        }
        let origin = self.punch_origin(&id);
        let inner = origin.and_then(|origin| self.inner_address(now, &id, origin));
        let Some(punch) = self.punches.peers.get_mut(&id) else {
            return;
        };
        punch.proposed += 1;
        let proposed = punch.proposed;
        if let Some((_, outside)) = origin {
            punch.step = Step::Proposed;
            let addr = inner.filter(|_| proposed != HAIRPIN_ATTEMPT).unwrap_or(outside);
            self.send(&id, Message::Punch { addr });
        }
        let wait = self.wait_for_proposal(proposed);
        self.timers.set(Timer::Punch(id), now + wait);
    }

    /// The wait after so many proposals. It differs from pair to pair, because all attempts of a node beside one carrier
    /// share a port.
    fn wait_for_proposal(&mut self, proposed: usize) -> Duration {
        let wait = WAITS.get(proposed).copied().unwrap_or(WAIT_LATER);
        self.random_between(wait, wait * 5 / 4)
    }

    fn is_only_carried(&self, id: &PeerId) -> bool {
        self.peers
            .connected(id)
            .is_some_and(|connected| connected.active().is_some() && !connected.has_direct())
    }

    /// The session from whose port this node can punch to a peer, and this node's address as the other end of that session
    /// sees it: the session with the carrier, if this node dialled it.
    fn punch_origin(&self, id: &PeerId) -> Option<(SessionId, SocketAddr)> {
        let active = self.peers.connected(id)?.active()?;
        let beside = self.relay.inside.get(&active)?.at.session;
        self.sessions.get_open(beside).filter(|_| beside.is_dialled())?;
        Some((beside, *self.punches.seen_at.get(&beside)?))
    }

    /// This node's own end of its connection to the carrier, if the peer is behind the same NAT: members list the peer at
    /// the address at which the carrier sees this node. A stranger may have put itself there.
    fn inner_address(
        &self,
        now: Instant,
        id: &PeerId,
        (beside, outside): (SessionId, SocketAddr),
    ) -> Option<SocketAddr> {
        let local = self.sessions.get(beside)?.local.filter(|local| local.ip() != outside.ip())?;
        let peer = self.peers.get(id).filter(|_| !self.is_stranger(now, id))?;
        let is_outside = |addr: &DialAddr| addr.socket().is_some_and(|addr| addr.ip() == outside.ip());
        peer.addrs.iter().any(is_outside).then_some(local)
    }

    /// The peer proposes an attempt, or accepts one, and tells its address. Its word is a claim: what it makes this node
    /// dial costs it as much as an address in a list.
    pub(super) fn received_punch(&mut self, now: Instant, id: PeerId, session: SessionId, addr: SocketAddr) {
        let Some(remote) = self.sessions.get(session).map(|session| session.remote) else {
            return;
        };
        let origin = self.punch_origin(&id).filter(|_| session.is_carried() && self.is_only_carried(&id));
        let Some((beside, outside)) = origin else {
            return;
        };
        let inner = self
            .inner_address(now, &id, (beside, outside))
            .filter(|_| is_private(addr.ip()) && addr.ip() != outside.ip());
        // The peer is as near as the carrier, or behind the same NAT: an address that has a meaning in one network only
        // counts in that network.
        let near = inner.unwrap_or(remote);
        let own = inner.unwrap_or(outside);
        let told = address_scope::as_told_by(near, addr.into());
        let Some(addr) = told.and_then(|told| told.addr.socket()) else {
            return;
        };
        let is_under_way = self.punches.in_flight.values().any(|attempt| attempt.peer == id);
        if addr.is_ipv4() != own.is_ipv4() || addr == own || is_under_way {
            return;
        }
        if self.leads(&id) {
            let punch = self.punches.peers.get_mut(&id).filter(|punch| matches!(punch.step, Step::Proposed));
            if let Some(punch) = punch {
                punch.step = Step::Waiting;
                self.start_punch(now, id, addr, beside);
            }
        } else if self.peers.get(&id).is_some_and(|peer| peer.can_punch) {
            let half_way = self.peers.connected(&id).and_then(|connected| connected.rtt.last);
            let half_way = half_way.unwrap_or_default() / 2;
            self.punches.peers.entry(id).or_default().step = Step::Accepted { addr, beside };
            self.timers.set(Timer::Punch(id), now + half_way);
            self.send(&id, Message::Punch { addr: own });
        }
    }

    fn start_punch(&mut self, now: Instant, id: PeerId, addr: SocketAddr, beside: SessionId) {
        let is_possible = self.sessions.get_open(beside).is_some() && self.is_only_carried(&id);
        let payers = self.punch_payers(now, id, addr, beside);
        if !is_possible
            || self.punches.in_flight.len() >= PUNCHES_MAX
            || self.accounts.pay(now, &payers).is_err()
        {
            return;
        }
        self.punches.named += 1;
        let session = SessionId::punched(self.punches.named, self.leads(&id));
        self.punches.in_flight.insert(session, Attempt { peer: id, addr, payers });
        self.output(Output::Punch { session, peer: id, addr, beside });
    }

    /// The peer pays, or all strangers with its carrier, and so does the address.
    fn punch_payers(&self, now: Instant, id: PeerId, addr: SocketAddr, beside: SessionId) -> Vec<Account> {
        let carrier = self.sessions.get(beside).map(|session| session.remote);
        let teller = carrier.map(|remote| self.account_of(now, id, remote));
        Account::target(&DialAddr::from(addr)).into_iter().chain(teller).collect()
    }

    /// A session of an attempt has come up.
    pub(super) fn punched(&mut self, session: SessionId) {
        if let Some(attempt) = self.punches.in_flight.remove(&session) {
            self.accounts.give_back(&attempt.payers);
        }
    }

    /// An attempt did not succeed. The pair stays on its circuit.
    pub(super) fn punch_failed(&mut self, now: Instant, session: SessionId, reason: DialError) {
        let Some(Attempt { peer, addr, .. }) = self.punches.in_flight.remove(&session) else {
            return;
        };
        if let DialError::Failed(detail) | DialError::Refused(detail) = reason {
            let next = self.timers.deadline(Timer::Punch(peer));
            let retry_in = next.map(|at| at.saturating_duration_since(now));
            let (peer, addr) = (Some(peer), addr.into());
            self.report(Report::DialFailed { peer, addr, detail, retry_in });
        }
    }
}
