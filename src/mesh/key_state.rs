//! The network keys of this node, the key that a peer has proven, and what the user sees of them.

use std::time::Duration;

pub use crate::trust::key_ring::KEY_GRACE_MAX;
use crate::trust::key_ring::{EARLIER_KEYS_MAX, KeyRing};
use crate::trust::network_key::NetworkKeyError;
use crate::util::token_bucket::TokenBucket;

/// Shortest time for which an earlier key is accepted: connections that began before the change end in that time.
pub const KEY_GRACE_MIN: Duration = Duration::from_secs(30);
/// Changes of the key that peers may cause: at once, and the time for each further one. A change makes each node
/// tell all others, so it costs more than any other message.
const CHANGES_BURST: u32 = 8;
const CHANGE_EVERY: Duration = Duration::from_secs(30);

/// The network key that a peer has proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyProof {
    /// None: the network is open.
    None,
    /// A key that was current before, and is still accepted.
    Earlier,
    /// The key that is current at this node.
    Current,
}

/// The keys of this node, if they may change while it runs.
#[derive(Debug)]
pub(super) struct NetworkKeys {
    pub(super) ring: Option<KeyRing>,
    /// The connected time that the ring has been charged for.
    pub(super) charged: Duration,
    pub(super) changes: TokenBucket,
}

impl Default for NetworkKeys {
    fn default() -> Self {
        let changes = TokenBucket::every(CHANGES_BURST, CHANGE_EVERY);
        Self { ring: None, charged: Duration::ZERO, changes }
    }
}

/// The state of the network's key at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetworkKeyStatus {
    /// The number of changes of the key since the network began.
    pub generation: u64,
    /// The number of members that have the current key, this node included, as far as this node knows.
    pub holders: usize,
    /// The number of earlier keys that are still accepted.
    pub earlier_keys: usize,
    /// The connected time for which the latest earlier key is still accepted; zero without one.
    pub grace_left: Duration,
}

/// Why the key of the network was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// The network is open, or this node's key comes from a file outside of its state directory.
    #[error("the node has no network key in its state directory, so it cannot change the key of the network")]
    NoKeyInState,
    /// As many earlier keys as possible are still accepted.
    #[error("{EARLIER_KEYS_MAX} earlier keys are still accepted; wait until the grace of one is over")]
    TooManyKeys,
    /// The node has left the mesh.
    #[error("the node has stopped")]
    Stopped,
    /// The new key could not be made.
    #[error(transparent)]
    Key(#[from] NetworkKeyError),
}
