//! The standing of a peer: how much of this node's memory and work it may claim.
//!
//! A new key costs nothing, so a peer that comes with one must not displace a peer that this node knows. Every table
//! and budget is shared out by standing: a peer takes no place of one that stands above it.

pub use crate::limits::ACQUAINTED_AFTER;

/// The standing of a peer, from the lowest to the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Standing {
    /// Other peers list it; no handshake has proven it.
    Rumoured,
    /// It has proven its key, and no more.
    Stranger,
    /// It was connected for [`ACQUAINTED_AFTER`] in all, in this run and previous ones.
    Acquainted,
    /// The user named its id, or it has proven the network key.
    Trusted,
}

impl Standing {
    /// The standing as one lower-case word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Rumoured => "rumoured",
            Self::Stranger => "stranger",
            Self::Acquainted => "acquainted",
            Self::Trusted => "trusted",
        }
    }
}
