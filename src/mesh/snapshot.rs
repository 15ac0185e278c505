//! A node's view of the mesh, for its user.

use std::time::{Duration, Instant};

use super::machine::Mesh;
use super::peer::{Peer, State};
use super::rtt::{Rtt, RttHistogram};
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;

/// A peer as the mesh sees it now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// The peer's id.
    pub id: PeerId,
    /// Its self-declared name, empty if it has none.
    pub name: String,
    /// Where it listens, as far as known.
    pub addr: DialAddr,
    /// Every address known for it, best first.
    pub addrs: Vec<DialAddr>,
    /// Connected, lost, …
    pub state: PeerState,
    /// How long it has been in that state.
    pub since: Duration,
    /// Last measured round-trip time.
    pub rtt: Option<Duration>,
    /// Shortest round-trip time since it was last up.
    pub rtt_min: Option<Duration>,
    /// Mean round-trip time since it was last up.
    pub rtt_mean: Option<Duration>,
    /// Pings received from it, ever.
    pub pings_received: u64,
    /// Pings sent to it, ever.
    pub pings_sent: u64,
    /// How often it came back after it had been lost or had left.
    pub reconnects: u64,
    /// Time since it was last heard, while it is up.
    pub silence: Option<Duration>,
    /// Live peers that say they are connected to it, while we are not.
    pub reached_by: Vec<PeerId>,
}

/// The state of a peer, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PeerState {
    /// Connected.
    Up,
    /// Lost, and redialled.
    Dead,
    /// Said goodbye.
    Left,
    /// Others speak of it; we have not met it.
    Rumour,
}

impl PeerState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Up, Self::Dead, Self::Left, Self::Rumour];

    /// In one lower-case word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Dead => "dead",
            Self::Left => "left",
            Self::Rumour => "rumour",
        }
    }
}

/// A node's view of the mesh at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MeshStatus {
    /// Live members, including this node.
    pub members: usize,
    /// Whether this node has joined: it is connected to a peer, if it has addresses
    /// to join through.
    pub is_joined: bool,
    /// All known peers, sorted by id.
    pub peers: Vec<PeerInfo>,
    /// Dials that have been ordered and not been answered.
    pub dials_in_flight: usize,
    /// All round-trip times measured.
    pub rtt: RttHistogram,
}

impl Mesh {
    /// This node's view of the mesh now.
    #[must_use]
    pub fn status(&self, now: Instant) -> MeshStatus {
        MeshStatus {
            members: self.members(),
            is_joined: self.is_joined(),
            peers: self.peers(now),
            dials_in_flight: self.dials_in_flight(),
            rtt: self.rtt,
        }
    }

    /// Whether this node has joined: it is connected to a peer, if it has addresses
    /// to join through.
    pub(super) fn is_joined(&self) -> bool {
        self.connected > 0 || self.config.connect.is_empty()
    }

    /// All known peers, sorted by id.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerInfo> {
        self.peers.iter().map(|(id, peer)| self.peer_info(now, *id, peer)).collect()
    }

    /// The parts of [`Mesh::peers`] that need no copy: all known peers, sorted by id, with state and
    /// where it is dialled first.
    pub fn visible_states(&self) -> impl Iterator<Item = (PeerId, PeerState, Option<&DialAddr>)> {
        self.peers.iter().map(|(id, peer)| (*id, visible_state(peer).0, peer.addrs.iter().next()))
    }

    fn peer_info(&self, now: Instant, id: PeerId, peer: &Peer) -> PeerInfo {
        let (state, since) = visible_state(peer);
        let rtt = peer.connected().map(|connected| &connected.heartbeats.rtt);
        PeerInfo {
            id,
            name: peer.name.clone(),
            addr: peer.shown_addr(),
            addrs: peer.addrs.iter().cloned().collect(),
            state,
            since: now.saturating_duration_since(since),
            rtt: rtt.and_then(|rtt| rtt.last),
            rtt_min: rtt.and_then(|rtt| rtt.min),
            rtt_mean: rtt.and_then(Rtt::mean),
            pings_received: peer.pings_received,
            pings_sent: peer.pings_sent,
            reconnects: peer.ups.saturating_sub(1),
            silence: peer.connected().map(|connected| now.saturating_duration_since(connected.heard)),
            reached_by: peer.reached_by.iter().filter(|id| self.is_connected(id)).copied().collect(),
        }
    }
}

/// The state that a user sees, and since when.
fn visible_state(peer: &Peer) -> (PeerState, Instant) {
    match &peer.state {
        State::Rumour { since, .. } => (PeerState::Rumour, *since),
        State::Connected(connected) if connected.is_member => (PeerState::Up, connected.since),
        State::Connected(connected) => (PeerState::Dead, connected.since),
        State::Dead { since, .. } => (PeerState::Dead, *since),
        State::Left { since, .. } => (PeerState::Left, *since),
    }
}
