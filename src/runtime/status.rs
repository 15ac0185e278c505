//! What a node is doing, in numbers.

use serde::Serialize;

use crate::mesh::snapshot::MeshStatus;
use crate::session::counters::Totals;

/// What a node is doing now, and has done so far.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// Who is there.
    pub mesh: MeshStatus,
    /// What the node has done since it started.
    pub totals: Totals,
    /// What waits.
    pub queues: Queues,
}

/// Lengths of a node's queues; each is bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Queues {
    /// Session events waiting for the coordinator.
    pub inbox: usize,
    /// Events waiting in the fullest subscriber's queue.
    pub events: usize,
    /// Frames waiting to be sent, all peers together.
    pub outboxes: usize,
    /// Frames waiting for the peer that has most.
    pub outbox_longest: usize,
}
