//! The verb `forget`: removes a peer from a state directory.

use std::path::Path;

use p2p_gossip::{PeerId, StateDir, StateError};

use super::VerbError;
use crate::cli::IdPrefix;

/// Removes the only known peer whose id begins with the prefix.
pub(super) fn forget(path: &Path, prefix: IdPrefix) -> Result<String, VerbError> {
    let mut state = StateDir::open_existing(path).map_err(|error| match error {
        StateError::InUse { path, pid, .. } => VerbError::NodeRuns { path, pid },
        other => other.into(),
    })?;
    let found: Vec<PeerId> =
        state.known_peers().iter().map(|peer| peer.id).filter(|id| prefix.matches(id)).collect();
    match found[..] {
        [] => Err(VerbError::NoSuchPeer(prefix)),
        [id] => {
            state.forget(&id)?;
            Ok(format!("forgot {id}\n"))
        }
        _ => Err(VerbError::Ambiguous { prefix, count: found.len() }),
    }
}
