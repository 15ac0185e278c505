//! The table of known peers: every other node in any state, the members among them, and the connected time after which
//! a peer that is gone is forgotten.

use std::collections::BTreeMap;
use std::time::Instant;

use super::connected_time::ConnectedTime;
use super::digest::{digest_term, membership_digest};
use super::io::SessionId;
use super::peer::{Connected, Peer, State};
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;

/// All known peers, sorted by id. It counts the members and keeps their digest.
#[derive(Debug)]
pub(super) struct PeerTable {
    peers: BTreeMap<PeerId, Peer>,
    /// The number of peers that the table has room for.
    limit: usize,
    /// The number of peers that may be connected: fewer than `limit` if the system allows no more.
    connected_max: usize,
    /// The number of members, without this node.
    members: usize,
    /// The term of this node in the digest.
    own_term: u64,
    /// Digest of this node and all members.
    digest: u64,
    /// The number of times that a peer connected in this run.
    came: u64,
    /// The time in this run during which this node was connected to a member.
    pub(super) connected_time: ConnectedTime,
}

impl PeerTable {
    pub(super) fn new(own_id: &PeerId, limit: usize) -> Self {
        Self {
            peers: BTreeMap::new(),
            limit,
            connected_max: limit,
            members: 0,
            own_term: digest_term(own_id),
            digest: membership_digest([own_id]),
            came: 0,
            connected_time: ConnectedTime::default(),
        }
    }

    pub(super) fn get(&self, id: &PeerId) -> Option<&Peer> {
        self.peers.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id)
    }

    /// The peer's data as a connected one, if it is connected.
    pub(super) fn connected(&self, id: &PeerId) -> Option<&Connected> {
        self.get(id)?.connected()
    }

    pub(super) fn connected_mut(&mut self, id: &PeerId) -> Option<&mut Connected> {
        self.get_mut(id)?.connected_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.peers.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.peers.values_mut()
    }

    /// All connected peers.
    pub(super) fn iter_connected(&self) -> impl Iterator<Item = (&PeerId, &Connected)> {
        self.iter().filter_map(|(id, peer)| Some((id, peer.connected()?)))
    }

    pub(super) fn ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    /// The number of peers that the table has room for.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn set_connected_max(&mut self, connected_max: usize) {
        self.connected_max = connected_max.clamp(1, self.limit);
    }

    /// The number of members, without this node.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// Digest of this node and all members.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether the table knows the peer, or has room for one more.
    pub(super) fn has_room_for(&self, id: &PeerId) -> bool {
        self.peers.len() < self.limit || self.peers.contains_key(id)
    }

    /// The peer; a new one is a rumour. The caller checks that there is room for it.
    pub(super) fn get_or_insert(&mut self, now: Instant, id: PeerId) -> &mut Peer {
        debug_assert!(self.has_room_for(&id), "the table of peers is full");
        self.peers.entry(id).or_insert_with(|| Peer::new(now))
    }

    /// Removes a peer that is not connected.
    pub(super) fn remove(&mut self, id: &PeerId) -> Option<Peer> {
        debug_assert!(self.connected(id).is_none(), "a connected peer is not forgotten");
        self.peers.remove(id)
    }

    /// Whether one more peer may be connected.
    pub(super) fn has_place_for(&self, id: &PeerId) -> bool {
        self.connected(id).is_some() || self.iter_connected().count() < self.connected_max
    }

    /// The peer that makes room for a connecting one: the oldest rumour, else the oldest stranger that left, else the
    /// oldest dead stranger, else such an acquainted peer. `None` if all peers are connected.
    pub(super) fn least_wanted(&self) -> Option<PeerId> {
        let rank = |peer: &Peer| match &peer.state {
            State::Rumoured { since, .. } => Some((false, 0, *since)),
            State::Left(gone) => Some((peer.was_acquainted, 1, gone.since)),
            State::Dead(gone) => Some((peer.was_acquainted, 2, gone.since)),
            State::Provisional { .. } | State::Up(_) => None,
        };
        let ranked = self.iter().filter_map(|(id, peer)| Some((rank(peer)?, *id)));
        ranked.min().map(|(_, id)| id)
    }

    /// The peer that was met at this address, unless the other one was met there, too.
    pub(super) fn owner_of(&self, addr: &DialAddr, other: &PeerId) -> Option<PeerId> {
        if self.get(other).is_some_and(|peer| peer.addrs.was_proven(addr)) {
            return None;
        }
        self.iter().find(|(_, peer)| peer.addrs.was_proven(addr)).map(|(id, _)| *id)
    }

    /// The first session with a known peer that is not connected has come up: the peer is provisional.
    pub(super) fn connect(&mut self, now: Instant, id: &PeerId, session: SessionId, interval_ms: u32) {
        if let Some(peer) = self.peers.get_mut(id) {
            self.came += 1;
            peer.connect(Connected::new(now, self.came, interval_ms, session));
        }
    }

    /// A provisional peer becomes a member. Returns it, unless it is none.
    pub(super) fn join(&mut self, now: Instant, id: &PeerId) -> Option<&Peer> {
        let peer = self.peers.get_mut(id)?;
        if !peer.join() {
            return None;
        }
        peer.ups += 1;
        self.members += 1;
        self.digest ^= digest_term(id);
        self.connected_time.start(now);
        Some(peer)
    }

    /// Ends a peer's connected state. Returns whether it was a member.
    pub(super) fn disconnect(&mut self, now: Instant, id: &PeerId, state: State) -> bool {
        debug_assert!(
            matches!(state, State::Dead(_) | State::Left(_)),
            "{state:?} is connected, or was never"
        );
        let Some(peer) = self.peers.get_mut(id) else {
            return false;
        };
        let was_member = peer.is_member();
        peer.was_acquainted = peer.is_acquainted(now);
        peer.state = state;
        if was_member {
            self.members -= 1;
            self.digest ^= digest_term(id);
            if self.members == 0 {
                self.connected_time.stop(now);
            }
        }
        was_member
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.peers.len() <= self.limit, "{} of {} peers", self.peers.len(), self.limit);
    }

    /// The count, the digest and the connected time are those of the members.
    pub(super) fn check_members(&self) {
        let connected = self.iter_connected().count();
        debug_assert!(connected <= self.connected_max, "{connected} of {} are connected", self.connected_max);
        let members = || self.iter().filter(|(_, peer)| peer.is_member()).map(|(id, _)| id);
        debug_assert_eq!(self.members, members().count(), "number of members");
        debug_assert_eq!(self.digest, self.own_term ^ membership_digest(members()), "digest of the members");
        debug_assert_eq!(self.connected_time.is_running(), self.members > 0, "connected time");
    }
}
