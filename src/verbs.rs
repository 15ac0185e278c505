//! What the verbs do: each ends with a text for stdout or an error.

use std::io;

use p2p_gossip::network_key::NetworkKeyError;
use p2p_gossip::{Identity, IdentityError, NetworkKey, PeerId};

use crate::cli::{KeySource, Keygen, Verb};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerbError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    NetworkKey(#[from] NetworkKeyError),
}

/// Does what the verb says; what is to be printed.
pub(crate) fn perform(verb: Verb) -> Result<String, VerbError> {
    match verb {
        Verb::Keygen(keys) => keygen(&keys),
        Verb::Id(source) => id(&source).map(|id| format!("{id}\n")),
    }
}

fn id(source: &KeySource) -> Result<PeerId, VerbError> {
    Ok(match source {
        KeySource::Key(key) => Identity::from_key_file(key)?.id(),
        KeySource::Certificate(cert) => PeerId::of_certificate_file(cert)?,
    })
}

fn keygen(keys: &Keygen) -> Result<String, VerbError> {
    // Before a node's key is made that the next failure would leave alone.
    if let Some(file) = keys.network.as_ref().filter(|file| file.symlink_metadata().is_ok()) {
        let source = io::ErrorKind::AlreadyExists.into();
        return Err(NetworkKeyError::Write { file: file.clone(), source }.into());
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
