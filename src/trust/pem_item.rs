//! The items that are read from PEM files.

use std::fmt;

/// The item that is read from a PEM file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PemItem {
    /// An unencrypted private key.
    PrivateKey,
    /// A certificate.
    Certificate,
}

impl PemItem {
    /// Advice for the user on an empty file.
    pub(crate) fn advice_for_empty(self) -> &'static str {
        match self {
            Self::PrivateKey => {
                "copy the private key into it again, or make a new one with p2p-gossip keygen"
            }
            Self::Certificate => {
                "without a certificate file, p2p-gossip makes a certificate for the private key"
            }
        }
    }
}

impl fmt::Display for PemItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrivateKey => "private key",
            Self::Certificate => "certificate",
        })
    }
}
