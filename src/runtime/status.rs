//! A snapshot of a node: members, counters, queue lengths.

use serde::Serialize;

use crate::mesh::snapshot::MeshStatus;
use crate::session::counters::Totals;

/// A snapshot of a node.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Peers and members as the mesh sees them now.
    pub mesh: MeshStatus,
    /// Counters since the node started.
    pub totals: Totals,
    /// Queue lengths now.
    pub queues: Queues,
}

/// Lengths of a node's queues, in items. Each queue is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Queues {
    /// Session events waiting for the coordinator.
    pub inbox: usize,
    /// Events waiting in the longest queue of a subscriber.
    pub events: usize,
    /// Frames waiting to be sent, summed over all peers.
    pub outboxes: usize,
    /// Frames waiting to be sent to the peer with the longest outbox.
    pub outbox_longest: usize,
}
