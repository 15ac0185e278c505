//! The table of known peers: every other node in any state, the members among them, and the connected time after which
//! a peer that is gone is forgotten.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::accounts::Account;
use super::connected_time::ConnectedTime;
use super::digest::{self, SUSPECTS_MAX, digest_term, membership_digest};
use super::io::SessionId;
use super::list_exchange::RECENT;
use super::peer::{Connected, Peer, State};
use super::pins::Pins;
use super::standing::Standing;
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
    /// The number of members for the user, without this node.
    members: usize,
    /// The number of members for the other nodes: also those that are unstable.
    joined: usize,
    /// The term of this node in the digest.
    own_term: u64,
    /// Digest of this node and all members, also those that are unstable.
    digest: u64,
    /// The number of times that a peer connected in this run.
    came: u64,
    /// The time in this run during which this node was connected to a member.
    pub(super) connected_time: ConnectedTime,
    /// The rumours of each account that pays for them first.
    rumours: BTreeMap<Account, BTreeSet<PeerId>>,
    /// The addresses of strangers that the table has no room for any more.
    pins: Pins,
    /// The number of times that this node went through all peers.
    passes: Cell<u64>,
}

impl PeerTable {
    pub(super) fn new(own_id: &PeerId, limit: usize) -> Self {
        Self {
            peers: BTreeMap::new(),
            limit,
            connected_max: limit,
            members: 0,
            joined: 0,
            own_term: digest_term(own_id),
            digest: membership_digest([own_id]),
            came: 0,
            connected_time: ConnectedTime::default(),
            rumours: BTreeMap::new(),
            pins: Pins::default(),
            passes: Cell::new(0),
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
        self.passes.set(self.passes.get() + 1);
        self.peers.iter()
    }

    /// The number of times that this node went through all peers.
    pub(super) fn passes(&self) -> u64 {
        self.passes.get()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.peers.values_mut()
    }

    /// All connected peers.
    pub(super) fn iter_connected(&self) -> impl Iterator<Item = (&PeerId, &Connected)> {
        self.iter().filter_map(|(id, peer)| Some((id, peer.connected()?)))
    }

    /// All members, also those that are unstable.
    pub(super) fn iter_joined(&self) -> impl Iterator<Item = (&PeerId, &Connected)> {
        self.iter()
            .filter(|(_, peer)| peer.is_joined())
            .filter_map(|(id, peer)| Some((id, peer.connected()?)))
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

    /// The number of members for the user, without this node.
    pub(super) fn members(&self) -> usize {
        self.members
    }

    /// The number of members for the other nodes, without this node: also those that are unstable.
    pub(super) fn joined(&self) -> usize {
        self.joined
    }

    /// Digest of this node and all members, also those that are unstable.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// The known peers that make up a difference between a member's digest and this node's; `None` if there are others.
    /// Peers that this node lost lately are the likeliest, and the member may have lost one more.
    pub(super) fn parts_of(&self, now: Instant, difference: u64) -> Option<Vec<PeerId>> {
        let is_suspect = |peer: &Peer| match &peer.state {
            State::Dead(gone) => now.saturating_duration_since(gone.since) < RECENT,
            State::Up(_) | State::Unstable { .. } => peer.losses.count(now) > 0,
            State::Rumoured { .. } | State::Provisional { .. } | State::Left(_) => false,
        };
        let suspects = self.iter().filter(|(_, peer)| is_suspect(peer)).map(|(id, _)| *id);
        let suspects: Vec<PeerId> = suspects.take(SUSPECTS_MAX).collect();
        let others =
            self.iter_joined().map(|(id, _)| *id).filter(|id| !suspects.contains(id)).collect::<Vec<_>>();
        digest::parts(difference, &suspects, &others)
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
        let peer = self.peers.remove(id)?;
        self.end_rumour(id, &peer.tellers);
        Some(peer)
    }

    /// Whether one more peer may be connected.
    pub(super) fn has_place_for(&self, id: &PeerId) -> bool {
        self.connected(id).is_some() || self.iter_connected().count() < self.connected_max
    }

    /// A peer is named by the owner of this account: the peer may be dialled on its bill. A rumour that has no
    /// teller yet counts as this one's.
    pub(super) fn told_by(&mut self, id: PeerId, teller: &Account) -> bool {
        let Some(peer) = self.peers.get_mut(&id) else {
            return false;
        };
        let is_new = !peer.tellers.contains(teller);
        if peer.tellers.is_empty() && matches!(peer.state, State::Rumoured { .. }) {
            self.rumours.entry(teller.clone()).or_default().insert(id);
        }
        peer.told_by(teller.clone());
        is_new
    }

    /// The rumour that makes room for one by this teller: the first rumour of the account with the most. `None` if
    /// that is the teller itself, or has no more rumours than the teller will have.
    pub(super) fn surplus_rumour(&self, teller: &Account) -> Option<PeerId> {
        let own = self.rumours.get(teller).map_or(0, BTreeSet::len);
        let (_, most) = self.rumours.iter().max_by_key(|(_, rumours)| rumours.len())?;
        most.first().filter(|_| most.len() > own + 1).copied()
    }

    /// The peer with these tellers is no rumour any more.
    fn end_rumour(&mut self, id: &PeerId, tellers: &[Account]) {
        if let Some(first) = tellers.first()
            && let Some(rumours) = self.rumours.get_mut(first)
        {
            rumours.remove(id);
            if rumours.is_empty() {
                self.rumours.remove(first);
            }
        }
    }

    /// The peer that makes room for a connecting one of this standing: it does not stand above the newcomer and is not
    /// connected. Of several, the one of the lowest standing: a rumour before a peer that left before a dead
    /// peer, and the oldest of these.
    pub(super) fn least_wanted(
        &self,
        newcomer: Standing,
        standing: impl Fn(&PeerId, &Peer) -> Standing,
    ) -> Option<PeerId> {
        let rank = |peer: &Peer| match &peer.state {
            State::Rumoured { since, .. } => Some((0, *since)),
            State::Left(gone) => Some((1, gone.since)),
            State::Dead(gone) => Some((2, gone.since)),
            State::Provisional { .. } | State::Up(_) | State::Unstable { .. } => None,
        };
        let candidates = self.iter().filter_map(|(id, peer)| Some((standing(id, peer), rank(peer)?, *id)));
        candidates.filter(|(standing, ..)| *standing <= newcomer).min().map(|(.., id)| id)
    }

    /// The newest connected stranger, which makes room for a trusted peer if nothing else does.
    pub(super) fn newest_stranger(&self, standing: impl Fn(&PeerId, &Peer) -> Standing) -> Option<PeerId> {
        let strangers = self
            .iter_connected()
            .filter(|(id, _)| self.get(id).is_some_and(|peer| standing(id, peer) == Standing::Stranger));
        strangers.max_by_key(|(_, connected)| connected.order).map(|(id, _)| *id)
    }

    /// The peer that owns this address, unless the other one owns it, too.
    pub(super) fn owner_of(&self, addr: &DialAddr, other: &PeerId) -> Option<PeerId> {
        if self.get(other).is_some_and(|peer| peer.addrs.owns(addr)) {
            return None;
        }
        let known = self.iter().find(|(_, peer)| peer.addrs.owns(addr)).map(|(id, _)| *id);
        known.or_else(|| self.pins.owner(addr).filter(|owner| owner != other))
    }

    /// Keeps the addresses of a peer that is forgotten only because it is a stranger.
    pub(super) fn pin(&mut self, id: PeerId, peer: &Peer) {
        peer.addrs.owned().for_each(|addr| self.pins.insert(addr.clone(), id));
    }

    /// The first session with a known peer that is not connected has come up: the peer is provisional.
    pub(super) fn connect(&mut self, now: Instant, id: &PeerId, session: SessionId, interval_ms: u32) {
        if let Some(peer) = self.peers.get_mut(id) {
            self.came += 1;
            // They go on to pay: the addresses that they listed stay, and are dialled once the peer is lost.
            let tellers = peer.tellers.clone();
            peer.connect(Connected::new(now, self.came, interval_ms, session));
            self.end_rumour(id, &tellers);
            self.pins.remove(id);
        }
    }

    /// A provisional peer becomes a member, but is unstable for the time `hold` if there is one. Returns whether it was
    /// provisional.
    pub(super) fn join(&mut self, now: Instant, id: &PeerId, hold: Option<Duration>) -> bool {
        let Some(peer) = self.peers.get_mut(id) else {
            return false;
        };
        if !peer.join(hold.map(|hold| now + hold)) {
            return false;
        }
        peer.ups += 1;
        self.members += usize::from(hold.is_none());
        self.joined += 1;
        self.digest ^= digest_term(id);
        self.connected_time.start(now);
        true
    }

    /// An unstable peer has held, and is a member for the user, too. Returns whether it was unstable.
    pub(super) fn held(&mut self, id: &PeerId) -> bool {
        let was_unstable = self.peers.get_mut(id).is_some_and(Peer::held);
        self.members += usize::from(was_unstable);
        was_unstable
    }

    /// Ends a peer's connected state.
    pub(super) fn disconnect(&mut self, now: Instant, id: &PeerId, state: State) {
        debug_assert!(
            matches!(state, State::Dead(_) | State::Left(_)),
            "{state:?} is connected, or was never"
        );
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let (was_member, was_joined) = (peer.is_member(), peer.is_joined());
        peer.connected_before = peer.connected_in_all(now);
        peer.state = state;
        self.members -= usize::from(was_member);
        if was_joined {
            self.joined -= 1;
            self.digest ^= digest_term(id);
            if self.joined == 0 {
                self.connected_time.stop(now);
            }
        }
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.peers.len() <= self.limit, "{} of {} peers", self.peers.len(), self.limit);
        self.pins.check_limits();
    }

    /// The count, the digest and the connected time are those of the members.
    pub(super) fn check_members(&self) {
        let connected = self.iter_connected().count();
        debug_assert!(connected <= self.connected_max, "{connected} of {} are connected", self.connected_max);
        let members = self.iter().filter(|(_, peer)| peer.is_member()).count();
        let joined = || self.iter_joined().map(|(id, _)| id);
        debug_assert_eq!(self.members, members, "number of members");
        debug_assert_eq!(self.joined, joined().count(), "number of members and unstable peers");
        debug_assert_eq!(self.digest, self.own_term ^ membership_digest(joined()), "digest of the members");
        debug_assert_eq!(self.connected_time.is_running(), self.joined > 0, "connected time");
        self.check_rumours();
    }

    /// Each rumour with a teller is in the list of its first teller, and in no other.
    fn check_rumours(&self) {
        let listed = self.rumours.iter().flat_map(|(account, ids)| ids.iter().map(move |id| (account, id)));
        let is_right = |(account, id): (&Account, &PeerId)| {
            self.get(id).is_some_and(|peer| {
                matches!(peer.state, State::Rumoured { .. }) && peer.tellers.first() == Some(account)
            })
        };
        debug_assert!(listed.clone().all(is_right), "a list of rumours has a peer that is none");
        let is_told = |peer: &Peer| matches!(peer.state, State::Rumoured { .. }) && !peer.tellers.is_empty();
        let told = self.iter().filter(|(_, peer)| is_told(peer)).count();
        debug_assert_eq!(listed.count(), told, "number of rumours");
    }
}
