//! The protocols that a peer offers in its ClientHello, if ours is not among them (ALPN, RFC 7301).

use std::fmt;

use crate::trust::crypto::ALPN;
use crate::util::text::Escaped;

/// The common beginning of all versions' names.
const ALPN_FAMILY: &[u8] = b"p2p-gossip/";
/// Limits of the part of an unknown peer's offer that is logged: protocols, and bytes of each.
const OFFERED_SHOWN_MAX: usize = 4;
const OFFERED_BYTES_SHOWN_MAX: usize = 32;

/// An offer of protocols without ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The first few offered names, made safe to show: other versions of our protocol, or else other protocols.
    shown: Vec<String>,
    is_other_version: bool,
}

impl Offer {
    /// # Errors
    /// Our protocol is not offered; the error describes the offer.
    pub(crate) fn check(offered: &mut dyn Iterator<Item = &[u8]>) -> Result<(), Self> {
        let (mut versions, mut others) = (Vec::new(), Vec::new());
        for protocol in offered {
            if protocol == ALPN {
                return Ok(());
            }
            let list = if protocol.starts_with(ALPN_FAMILY) { &mut versions } else { &mut others };
            if list.len() < OFFERED_SHOWN_MAX {
                let shown = &protocol[..protocol.len().min(OFFERED_BYTES_SHOWN_MAX)];
                list.push(Escaped(&String::from_utf8_lossy(shown)).to_string());
            }
        }
        let is_other_version = !versions.is_empty();
        Err(Self { shown: if is_other_version { versions } else { others }, is_other_version })
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = String::from_utf8_lossy(ALPN);
        let theirs = self.shown.join(", ");
        if self.is_other_version {
            write!(f, "it speaks another version of the protocol: {theirs}; this node speaks {ours}")
        } else {
            write!(f, "it does not speak {ours}, but {theirs}")
        }
    }
}
