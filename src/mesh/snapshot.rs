//! A node's view of the mesh, for its user.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::address_book::PeerAddress;
use super::bootstraps::CONNECT_MAX;
use super::inquiry::Inquiry;
pub use super::inquiry::VerdictInfo;
use super::io::SessionId;
use super::key_state::NetworkKeyStatus;
use super::machine::Mesh;
use super::peer::{Connected, Peer, State};
use super::rtt::{Rtt, RttHistogram};
use super::standing::Standing;
use crate::event::Verdict;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::ConnectAddr;

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
    /// What the other members said of its loss, while it is dead or unstable; `None` before they have answered.
    pub verdict: Option<VerdictInfo>,
}

/// The state of a peer, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PeerState {
    /// Connected, and a member.
    Up,
    /// Connected again after several losses. It counts as up once the connection has held for a while.
    Unstable,
    /// Lost and redialled, or connected and not a member yet.
    Dead,
    /// Said goodbye; not redialled.
    Left,
    /// Other peers list it; this node has not met it.
    Rumour,
}

impl PeerState {
    /// All states.
    pub const ALL: [Self; 5] = [Self::Up, Self::Unstable, Self::Dead, Self::Left, Self::Rumour];

    /// The state as one lower-case word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Unstable => "unstable",
            Self::Dead => "dead",
            Self::Left => "left",
            Self::Rumour => "rumour",
        }
    }
}

/// Why a node cannot do at once what its user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// The node does not know the peer.
    #[error("the node does not know that peer")]
    UnknownPeer,
    /// The node has no connection to the peer.
    #[error("the peer is not connected")]
    NotConnected,
    /// The peer is connected.
    #[error("the peer is connected; deny it first")]
    Connected,
    /// The node can't dial that address: it is multicast, unspecified, without a port, or link-local without an interface.
    #[error("no node can be reached at that address")]
    Nowhere,
    /// The node joins through too many addresses already.
    #[error("the node joins through {CONNECT_MAX} addresses already, which is the limit")]
    TooManyAddresses,
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
    /// Whether this node has lost more than half of its peers at once, and has not joined them again.
    pub is_isolated: bool,
    /// The number of losses in this run by the first verdict on each.
    pub downs: BTreeMap<Verdict, u64>,
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
            is_isolated: self.isolation.is_some(),
            downs: self.alerts.downs().clone(),
            dials_in_flight: self.dials_in_flight(),
            circuits_carried: self.relay.carried(),
            rtt: self.measures.rtt.clone(),
            network_key: self.network_key_status(),
        }
    }

    /// Whether this node has joined: it is connected to a peer, if it has addresses
    /// to join through or looks for peers by beacons.
    pub(super) fn is_joined(&self) -> bool {
        self.peers.joined() > 0 || self.config.connect.is_empty() && self.config.discover.is_none()
    }

    /// All known peers, sorted by id.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerInfo> {
        self.peers.iter().map(|(id, peer)| self.peer_info(now, *id, peer)).collect()
    }

    /// A peer as the mesh sees it now; `None` if it is not known.
    #[must_use]
    pub fn peer(&self, now: Instant, id: &PeerId) -> Option<PeerInfo> {
        self.peers.get(id).map(|peer| self.peer_info(now, *id, peer))
    }

    /// The addresses of a peer, best first.
    #[must_use]
    pub fn addresses(&self, id: &PeerId) -> Vec<PeerAddress> {
        self.peers.get(id).map_or_else(Vec::new, |peer| peer.addrs.with_sources().collect())
    }

    /// What this node grants the peer; `None` if it does not know it.
    #[must_use]
    pub fn standing_of(&self, now: Instant, id: &PeerId) -> Option<Standing> {
        self.peers.get(id).map(|peer| self.standing(now, id, peer))
    }

    /// Whether [`Input::Connect`](super::Input::Connect) has an effect.
    ///
    /// # Errors
    /// The reason for which it has none.
    pub fn check_connect(&self, connect: &ConnectAddr) -> Result<(), RequestError> {
        if self.leaving {
            Err(RequestError::Stopped)
        } else if !connect.addr.is_dialable() {
            Err(RequestError::Nowhere)
        } else if self.bootstraps.has_room_for(connect) {
            Ok(())
        } else {
            Err(RequestError::TooManyAddresses)
        }
    }

    /// The number that the next ping to this peer will have, if [`Input::Ping`](super::Input::Ping) sends one now.
    ///
    /// # Errors
    /// The reason for which it sends none.
    pub fn next_ping(&self, id: &PeerId) -> Result<u64, RequestError> {
        let peer = self.peers.get(id).ok_or(RequestError::UnknownPeer)?;
        let is_open = !self.leaving && peer.connected().and_then(Connected::active).is_some();
        if is_open { Ok(peer.pings_sent + 1) } else { Err(RequestError::NotConnected) }
    }

    /// Whether [`Input::Forget`](super::Input::Forget) has an effect.
    ///
    /// # Errors
    /// The reason for which it has none.
    pub fn check_forget(&self, id: &PeerId) -> Result<(), RequestError> {
        let peer = self.peers.get(id).ok_or(RequestError::UnknownPeer)?;
        if peer.connected().is_some() { Err(RequestError::Connected) } else { Ok(()) }
    }

    /// The peer of a session that is up, and whether this node has said goodbye on it.
    #[must_use]
    pub fn peer_of(&self, session: SessionId) -> Option<(PeerId, bool)> {
        self.sessions.get(session).map(|session| (session.peer, session.closing))
    }

    /// The number of connected peers that this node does not show as up yet, because they came and went too often.
    #[must_use]
    pub fn unstable_peers(&self) -> usize {
        self.peers.joined() - self.peers.members()
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
            silence: peer.connected().map(|connected| self.silence_of(now, connected)),
            via: self.via(&id),
            reached_by: peer.reached_by.iter().filter(|id| self.is_connected(id)).copied().collect(),
            verdict: self.witnesses.get(&id).and_then(Inquiry::verdict),
        }
    }
}

/// The state that a user sees, and its start.
fn visible_state(peer: &Peer) -> (PeerState, Instant) {
    match &peer.state {
        State::Rumoured { since, .. } => (PeerState::Rumour, *since),
        State::Provisional { connected, .. } => (PeerState::Dead, connected.since),
        State::Up(connected) => (PeerState::Up, connected.since),
        State::Unstable { connected, .. } => (PeerState::Unstable, connected.since),
        State::Dead(gone) => (PeerState::Dead, gone.since),
        State::Left(gone) => (PeerState::Left, gone.since),
    }
}
