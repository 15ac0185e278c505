//! A node's view of the mesh, for its user.

use std::time::{Duration, Instant};

use super::key_state::NetworkKeyStatus;
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
    /// The address at which it listens, as far as known.
    pub addr: DialAddr,
    /// Every address known for it, best first.
    pub addrs: Vec<DialAddr>,
    /// Its state.
    pub state: PeerState,
    /// The time for which it has been in that state.
    pub since: Duration,
    /// Last measured round-trip time; `None` before the first, and while it is not connected.
    pub rtt: Option<Duration>,
    /// Shortest round-trip time since it was last up.
    pub rtt_min: Option<Duration>,
    /// Mean round-trip time since it was last up.
    pub rtt_mean: Option<Duration>,
    /// Pings received from it in this run.
    pub pings_received: u64,
    /// Pings sent to it in this run.
    pub pings_sent: u64,
    /// The number of times that it became a member again in this run, after it was lost or left.
    pub reconnects: u64,
    /// Time since its last message, without this node's stalls; `None` while it is not connected.
    pub silence: Option<Duration>,
    /// The peer through which this node reaches it, if not directly.
    pub via: Option<PeerId>,
    /// Connected peers that report a connection to it, while this node has none; at most 16.
    pub reached_by: Vec<PeerId>,
}

/// The state of a peer, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PeerState {
    /// Connected, and a member.
    Up,
    /// Lost and redialled, or connected and not a member yet.
    Dead,
    /// Said goodbye; not redialled.
    Left,
    /// Other peers list it; this node has not met it.
    Rumour,
}

impl PeerState {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Up, Self::Dead, Self::Left, Self::Rumour];

    /// The state as one lower-case word.
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
    /// The number of members, this node included.
    pub members: usize,
    /// Whether this node has joined: it is connected to a peer, if it has addresses
    /// to join through.
    pub is_joined: bool,
    /// All known peers, sorted by id.
    pub peers: Vec<PeerInfo>,
    /// The number of dials under way.
    pub dials_in_flight: usize,
    /// The number of circuits between other peers that this node carries.
    pub circuits_carried: usize,
    /// All round-trip times measured.
    pub rtt: RttHistogram,
    /// The network's key; `None` if it can't change while this node runs.
    pub network_key: Option<NetworkKeyStatus>,
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
            circuits_carried: self.relay.carried(),
            rtt: self.measures.rtt.clone(),
            network_key: self.network_key_status(),
        }
    }

    /// Whether this node has joined: it is connected to a peer, if it has addresses
    /// to join through.
    pub(super) fn is_joined(&self) -> bool {
        self.peers.members() > 0 || self.config.connect.is_empty()
    }

    /// All known peers, sorted by id.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerInfo> {
        self.peers.iter().map(|(id, peer)| self.peer_info(now, *id, peer)).collect()
    }

    /// All known peers, sorted by id: each with its state and its best address. Unlike [`Mesh::peers`], this copies
    /// nothing.
    pub fn visible_states(&self) -> impl Iterator<Item = (PeerId, PeerState, Option<&DialAddr>)> {
        self.peers.iter().map(|(id, peer)| (*id, visible_state(peer).0, peer.addrs.iter().next()))
    }

    fn peer_info(&self, now: Instant, id: PeerId, peer: &Peer) -> PeerInfo {
        let (state, since) = visible_state(peer);
        let rtt = peer.connected().map(|connected| &connected.rtt);
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
            silence: peer.connected().map(|connected| {
                let silence = now.saturating_duration_since(connected.heard);
                silence.saturating_sub(self.measures.stalls.between(connected.heard, now))
            }),
            via: self.via(&id),
            reached_by: peer.reached_by.iter().filter(|id| self.is_connected(id)).copied().collect(),
        }
    }
}

/// The state that a user sees, and its start.
fn visible_state(peer: &Peer) -> (PeerState, Instant) {
    match &peer.state {
        State::Rumoured { since, .. } => (PeerState::Rumour, *since),
        State::Provisional { connected, .. } => (PeerState::Dead, connected.since),
        State::Up(connected) => (PeerState::Up, connected.since),
        State::Dead(gone) => (PeerState::Dead, gone.since),
        State::Left(gone) => (PeerState::Left, gone.since),
    }
}
