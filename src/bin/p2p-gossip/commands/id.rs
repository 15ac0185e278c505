//! The verb `id`: prints the id of a key.

use p2p_gossip::{Identity, PeerId, StateDir};

use super::VerbError;
use crate::cli::KeySource;

/// Returns the id as one line.
pub(super) fn id(source: &KeySource) -> Result<String, VerbError> {
    let id = match source {
        KeySource::Key(key) => Identity::from_key_file(key)?.id(),
        KeySource::State(state) => StateDir::peek_id(state)?,
        KeySource::Certificate(cert) => PeerId::from_certificate_file(cert)?,
    };
    Ok(format!("{id}\n"))
}
