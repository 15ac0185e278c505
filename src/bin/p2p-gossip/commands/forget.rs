//! The verb `forget`: has the running node forget a peer, or removes it from the state directory if no node runs.

use std::path::{Path, PathBuf};

use p2p_gossip::{PeerId, StateDir, StateError};

use super::VerbError;
use crate::cli::IdPrefix;
use crate::http::{Client, ClientError};

/// Forgets the only known peer whose id begins with the prefix.
pub(super) fn forget(socket: PathBuf, state: Option<&Path>, prefix: IdPrefix) -> Result<String, VerbError> {
    match (Client::new(socket).post("/forget", &prefix.to_string()), state) {
        (Ok(answer), _) => {
            let answer: serde_json::Value = serde_json::from_str(&answer).map_err(|_| VerbError::Answer)?;
            Ok(format!("forgot {}\n", answer["peer"].as_str().unwrap_or_default()))
        }
        (Err(ClientError::NoNode(_)), Some(state)) => forget_stored(state, prefix),
        (Err(error), _) => Err(error.into()),
    }
}

/// Removes the peer from a state directory that no node uses.
fn forget_stored(path: &Path, prefix: IdPrefix) -> Result<String, VerbError> {
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
