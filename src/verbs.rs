//! What the verbs do: each ends with a text for stdout or an error.

use p2p_gossip::{Identity, IdentityError, PeerId};

use crate::cli::{KeySource, Verb};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerbError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Does what the verb says; what is to be printed.
pub(crate) fn perform(verb: Verb) -> Result<String, VerbError> {
    match verb {
        Verb::Id(source) => id(&source).map(|id| format!("{id}\n")),
    }
}

fn id(source: &KeySource) -> Result<PeerId, VerbError> {
    Ok(match source {
        KeySource::Key(key) => Identity::from_key_file(key)?.id(),
        KeySource::Certificate(cert) => PeerId::of_certificate_file(cert)?,
    })
}
