//! The lists of a running node: their sources, and what the user has changed through the control socket.

use std::collections::BTreeSet;

use p2p_gossip::{Access, AccessError, AccessSources, PeerId};

/// Peers that the user may allow or deny while the node runs.
const CHANGES_MAX: usize = 4096;

/// The sources of the lists, and the changes since the start, which hold until the node stops.
#[derive(Debug)]
pub(crate) struct CurrentAccess {
    sources: AccessSources,
    allowed: BTreeSet<PeerId>,
    denied: BTreeSet<PeerId>,
}

impl CurrentAccess {
    pub(crate) fn new(sources: AccessSources) -> Self {
        Self { sources, allowed: BTreeSet::new(), denied: BTreeSet::new() }
    }

    /// Allows a peer, whatever the sources say.
    ///
    /// # Errors
    /// There are too many changes, as a text for the user.
    pub(crate) fn allow(&mut self, peer: PeerId) -> Result<(), String> {
        self.check_room(&peer)?;
        self.denied.remove(&peer);
        self.allowed.insert(peer);
        Ok(())
    }

    /// Denies a peer, whatever the sources say.
    ///
    /// # Errors
    /// There are too many changes, as a text for the user.
    pub(crate) fn deny(&mut self, peer: PeerId) -> Result<(), String> {
        self.check_room(&peer)?;
        self.allowed.remove(&peer);
        self.denied.insert(peer);
        Ok(())
    }

    fn check_room(&self, peer: &PeerId) -> Result<(), String> {
        let is_known = self.allowed.contains(peer) || self.denied.contains(peer);
        if is_known || self.allowed.len() + self.denied.len() < CHANGES_MAX {
            return Ok(());
        }
        Err(format!("{CHANGES_MAX} peers are allowed or denied already; use --allow-file and --deny-file"))
    }

    /// Reads the sources, and applies the changes.
    ///
    /// # Errors
    /// A source cannot be read.
    pub(crate) fn read(&self) -> Result<Access, AccessError> {
        let mut access = self.sources.read()?;
        if let Some(allow) = &mut access.allow {
            allow.extend(&self.allowed);
        }
        access.deny.retain(|peer| !self.allowed.contains(peer));
        access.deny.extend(&self.denied);
        Ok(access)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_override_the_sources_and_the_last_one_counts() {
        let [a, b, c] = [1, 2, 3].map(|n| PeerId::from_bytes([n; 32]));
        let mut access = CurrentAccess::new(AccessSources::default().allow([a, b]).deny([b]));
        access.allow(b).unwrap();
        access.allow(c).unwrap();
        access.deny(a).unwrap();
        let read = access.read().unwrap();
        assert_eq!([a, b, c].map(|id| read.check(&id).is_ok()), [false, true, true]);
        access.allow(a).unwrap();
        access.deny(c).unwrap();
        let read = access.read().unwrap();
        assert_eq!([a, b, c].map(|id| read.check(&id).is_ok()), [true, true, false]);
    }

    #[test]
    fn allowing_a_peer_makes_no_allow_list() {
        let [a, b] = [1, 2].map(|n| PeerId::from_bytes([n; 32]));
        let mut access = CurrentAccess::new(AccessSources::default());
        access.allow(a).unwrap();
        assert!(access.read().unwrap().check(&b).is_ok());
    }
}
