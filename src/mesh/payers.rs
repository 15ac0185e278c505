//! Whose accounts pay for a dial that may fail.

use std::time::Instant;

use super::accounts::{Account, KEPT_FOR_CONNECTED};
use super::dial_queue::Target;
use super::machine::Mesh;
use super::peer::{Peer, State};
use crate::net::addr::DialAddr;

impl Mesh {
    /// The accounts that pay for a dial to this address. Nothing pays for an address of the user, for one where the peer was
    /// reached, or for one that a peer which is no stranger claims at the machine that it came from. Only that machine
    /// pays if the peer is a stranger: a liar that lists it, too, must not delay it.
    pub(super) fn payers(&self, now: Instant, target: Target, addr: &DialAddr) -> Vec<Account> {
        let id = match target {
            Target::Peer(id) => id,
            Target::Bootstrap(_) => return Vec::new(),
            Target::Beacon(addr) => return Self::beacon_payers(addr),
        };
        let Some(peer) = self.peers.get(&id) else {
            return Vec::new();
        };
        let is_claimed = !peer.addrs.is_rumour(addr);
        let from = peer.remote.map(|(addr, _)| addr.ip());
        let is_own = is_claimed && peer.addrs.is_at_own_machine(addr, from);
        let is_stranger = self.is_stranger(now, &id);
        if is_own && !is_stranger || peer.addrs.was_proven(addr) {
            return Vec::new();
        }
        let teller = match () {
            () if is_own => None,
            () if is_claimed && !is_stranger => Some(Account::Claimant(id)),
            () => self.teller_of(now, peer),
        };
        teller.into_iter().chain(Account::target(addr)).collect()
    }

    /// The payments that the tellers of the target keep for others, because no member lists this one as connected.
    pub(super) fn kept_for_others(&self, target: Target) -> u32 {
        let Target::Peer(id) = target else {
            return 0;
        };
        let is_absent =
            |peer: &Peer| matches!(peer.state, State::Rumoured { .. }) && peer.reached_by.is_empty();
        if self.peers.get(&id).is_some_and(is_absent) { KEPT_FOR_CONNECTED } else { 0 }
    }

    /// Of the peers that told this node of a rumour, the one whose account can pay for the most dials.
    pub(super) fn teller_of(&self, now: Instant, peer: &Peer) -> Option<Account> {
        let tellers = peer.tellers.iter();
        tellers.max_by_key(|account| self.accounts.left(now, account)).cloned()
    }
}
