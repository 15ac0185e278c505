//! The peers that were lost by silence lately, and the isolation of this node that follows from too many of them.

use std::collections::VecDeque;
use std::time::Instant;

use crate::trust::peer_id::PeerId;

/// Losses remembered: those of one timeout.
pub(super) const LOSSES_MAX: usize = 4096;

/// The peers that were lost by silence within the last timeout.
#[derive(Debug, Default)]
pub(super) struct SilentLosses {
    /// Oldest first, at most [`LOSSES_MAX`].
    pub(super) lost: VecDeque<(Instant, PeerId)>,
}

/// This node is isolated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Isolation {
    /// Until then further losses belong to it.
    pub(super) lost_until: Instant,
    /// The number of its peers before.
    pub(super) peers: usize,
}
