//! The attempts of a node to connect through NATs, and what it knows for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::accounts::Account;
use super::io::SessionId;
use crate::trust::peer_id::PeerId;

/// Attempts under way at once: each holds a thread.
pub(super) const PUNCHES_MAX: usize = 16;

/// The attempts to connect through NATs.
#[derive(Debug, Default)]
pub(super) struct Punches {
    /// Peers to which only circuits lead so far.
    pub(super) peers: BTreeMap<PeerId, Punch>,
    /// Attempts under way.
    pub(super) in_flight: BTreeMap<SessionId, Attempt>,
    /// The number of sessions named.
    pub(super) named: u64,
    /// The address of this node as the peer of a session sees it.
    pub(super) seen_at: BTreeMap<SessionId, SocketAddr>,
    /// Sessions whose peer was told at which address this node sees it.
    pub(super) told: BTreeSet<SessionId>,
}

/// What this node does to reach one peer.
#[derive(Debug, Default)]
pub(super) struct Punch {
    /// Attempts that this node has proposed.
    pub(super) proposed: usize,
    pub(super) step: Step,
}

#[derive(Debug, Default)]
pub(super) enum Step {
    /// Nothing is agreed. The leader of the pair has a timer for its next proposal.
    #[default]
    Waiting,
    /// The leader has proposed an attempt.
    Proposed,
    /// The other node has accepted the proposal, and the attempt starts when its answer has arrived.
    Accepted { addr: SocketAddr, beside: SessionId },
}

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) peer: PeerId,
    pub(super) addr: SocketAddr,
    pub(super) payers: Vec<Account>,
}

impl Punches {
    /// A session has ended.
    pub(super) fn session_ended(&mut self, session: SessionId) {
        self.seen_at.remove(&session);
        self.told.remove(&session);
    }

    /// Attempts that this node must cancel before it leaves.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.in_flight.keys().copied()
    }

    pub(super) fn is_wanted(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// `peers_max` is the number of peers that this node can know.
    pub(super) fn check_limits(&self, peers_max: usize) {
        debug_assert!(self.peers.len() <= peers_max, "{} peers to reach through NATs", self.peers.len());
        debug_assert!(self.in_flight.len() <= PUNCHES_MAX, "{} punches under way", self.in_flight.len());
    }
}
