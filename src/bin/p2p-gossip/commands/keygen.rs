//! The verb `keygen`: makes the key of a node, of a closed network, or both.

use p2p_gossip::{Identity, NetworkKey};

use super::VerbError;
use crate::cli::Keygen;

/// Writes the key files and returns the node's id as one line, or nothing for a network key alone.
pub(super) fn keygen(keys: &Keygen) -> Result<String, VerbError> {
    // Checked first: otherwise the failure would leave a node's key without its network key.
    if let Some(file) = keys.network.as_ref().filter(|file| file.symlink_metadata().is_ok()) {
        return Err(VerbError::NetworkKeyExists(file.clone()));
    }
    let mut printed = String::new();
    if let Some((key, cert)) = &keys.node {
        printed = format!("{}\n", Identity::create_files(key, cert)?.id());
    }
    if let Some(file) = &keys.network {
        NetworkKey::generate()?.write_new(file)?;
    }
    Ok(printed)
}
