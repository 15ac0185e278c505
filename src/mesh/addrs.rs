//! Where one peer may be reached, and how well that is known.

use crate::addr::DialAddr;
use crate::wire::ADDRS_MAX;

/// How an address became known, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A handshake with the peer was completed there.
    Proven,
    /// The peer itself said so, over an authenticated session.
    Claimed,
    /// Somebody else said so.
    Rumoured,
}

/// At most [`ADDRS_MAX`] addresses, ordered by how well they are known, the latest success first.
#[derive(Clone, Debug, Default)]
pub(super) struct Addrs {
    entries: Vec<(Source, DialAddr)>,
    /// Counts dials, so that each goes to the next address.
    dials: usize,
}

impl Addrs {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn contains(&self, addr: &DialAddr) -> bool {
        self.iter().any(|known| known == addr)
    }

    pub(super) fn best(&self) -> Option<&DialAddr> {
        self.iter().next()
    }

    /// All addresses, best first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &DialAddr> {
        self.entries.iter().map(|(_, addr)| addr)
    }

    /// Addresses that may be passed on: what the peer itself showed or said.
    pub(super) fn first_hand(&self) -> impl Iterator<Item = &DialAddr> {
        self.entries.iter().filter(|(source, _)| *source < Source::Rumoured).map(|(_, addr)| addr)
    }

    /// Whether a handshake with the peer was completed at this address.
    pub(super) fn is_proven(&self, addr: &DialAddr) -> bool {
        self.entries.iter().any(|(source, known)| *source == Source::Proven && known == addr)
    }

    /// The address for the next dial. A round goes through all that the peer showed or said itself
    /// and one of those that others told: a liar's addresses must not keep the good ones waiting.
    pub(super) fn next_to_dial(&mut self) -> Option<DialAddr> {
        let (first_hand, round) = (self.first_hand().count(), self.round());
        let at = self.dials.checked_rem(round)?;
        let index = if at < first_hand || first_hand == 0 {
            at
        } else {
            first_hand + (self.dials / round) % (self.entries.len() - first_hand)
        };
        self.dials = self.dials.wrapping_add(1);
        self.entries.get(index).map(|(_, addr)| addr.clone())
    }

    /// Dials in one round.
    fn round(&self) -> usize {
        let first_hand = self.first_hand().count();
        if first_hand == 0 { self.entries.len() } else { self.entries.len().min(first_hand + 1) }
    }

    /// The next dial goes to the best address again.
    pub(super) fn restart_round(&mut self) {
        self.dials = 0;
    }

    /// Whether a round is over, or has not begun.
    pub(super) fn round_complete(&self) -> bool {
        self.entries.is_empty() || self.dials.is_multiple_of(self.round())
    }

    /// A handshake was completed there.
    pub(super) fn prove(&mut self, addr: DialAddr) {
        self.remove(&addr);
        self.entries.insert(0, (Source::Proven, addr));
        self.entries.truncate(ADDRS_MAX);
    }

    /// The peer says anew where it is, best first; what it said before no longer counts. There is
    /// room for that: of the places where it once was, only the latest are worth keeping.
    pub(super) fn claim(&mut self, addrs: impl IntoIterator<Item = DialAddr>) {
        self.entries.retain(|(source, _)| *source != Source::Claimed);
        let mut said: Vec<DialAddr> = Vec::new();
        for addr in addrs {
            if addr.is_dialable() && !said.contains(&addr) {
                said.push(addr);
            }
        }
        let fresh = said.iter().filter(|addr| !self.is_proven(addr)).count();
        let stale = |(source, addr): &(Source, DialAddr)| *source == Source::Proven && !said.contains(addr);
        while self.proven() + fresh > ADDRS_MAX {
            match self.entries.iter().rposition(stale) {
                Some(oldest) if oldest > 0 => drop(self.entries.remove(oldest)),
                _ => break,
            }
        }
        for addr in said {
            self.insert(Source::Claimed, addr);
        }
    }

    /// Somebody else says where it is. Never displaces what is known better, but the oldest rumour:
    /// or who is first to lie about a peer that we have not met would keep us from meeting it.
    pub(super) fn rumour(&mut self, addr: DialAddr) {
        if !addr.is_dialable() || self.contains(&addr) {
            return;
        }
        self.entries.insert(self.first_hand().count(), (Source::Rumoured, addr));
        self.entries.truncate(ADDRS_MAX);
    }

    /// The next dial goes there: somebody with its certificate answered, if not yet proven to be it.
    pub(super) fn hint(&mut self, addr: DialAddr) {
        if self.first_hand().next().is_none() {
            self.remove(&addr);
            self.rumour(addr);
            self.restart_round();
        }
    }

    /// Somebody else was found there: keep it, as the peer may come back, but last.
    pub(super) fn demote(&mut self, addr: &DialAddr) {
        if self.contains(addr) {
            self.remove(addr);
            self.entries.push((Source::Rumoured, addr.clone()));
        }
    }

    pub(super) fn remove(&mut self, addr: &DialAddr) {
        self.entries.retain(|(_, known)| known != addr);
    }

    fn proven(&self) -> usize {
        self.entries.partition_point(|(source, _)| *source == Source::Proven)
    }

    fn insert(&mut self, source: Source, addr: DialAddr) {
        match self.entries.iter().find(|(_, known)| *known == addr) {
            Some((known, _)) if *known <= source => return,
            Some(_) => self.remove(&addr),
            None => {}
        }
        let at = self.entries.partition_point(|(known, _)| *known <= source);
        self.entries.insert(at, (source, addr));
        self.entries.truncate(ADDRS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> DialAddr {
        DialAddr::Socket(([127, 0, 0, n], 8080).into())
    }

    fn all(addrs: &Addrs) -> Vec<DialAddr> {
        addrs.iter().cloned().collect()
    }

    fn first_hand(addrs: &Addrs) -> Vec<DialAddr> {
        addrs.first_hand().cloned().collect()
    }

    #[test]
    fn a_rumour_never_displaces_what_is_known_better() {
        let mut addrs = Addrs::default();
        addrs.claim([addr(2), addr(3)]);
        addrs.prove(addr(1));
        for n in 10..20 {
            addrs.rumour(addr(n));
        }
        assert_eq!(all(&addrs), [addr(1), addr(2), addr(3), addr(19)]);
        assert_eq!(first_hand(&addrs), [addr(1), addr(2), addr(3)]);
    }

    #[test]
    fn the_latest_success_comes_first() {
        let mut addrs = Addrs::default();
        for n in 1..=5 {
            addrs.prove(addr(n));
        }
        addrs.prove(addr(3));
        assert_eq!(all(&addrs), [addr(3), addr(5), addr(4), addr(2)]);
    }

    #[test]
    fn what_a_peer_says_replaces_what_it_said_before() {
        let mut addrs = Addrs::default();
        addrs.claim([addr(1), addr(2)]);
        addrs.claim([addr(2), addr(3)]);
        assert_eq!(all(&addrs), [addr(2), addr(3)]);
    }

    #[test]
    fn dials_go_round_all_addresses() {
        let mut addrs = Addrs::default();
        assert_eq!(addrs.next_to_dial(), None);
        addrs.claim([addr(1), addr(2)]);
        assert_eq!(addrs.next_to_dial(), Some(addr(1)));
        assert!(!addrs.round_complete());
        assert_eq!(addrs.next_to_dial(), Some(addr(2)));
        assert!(addrs.round_complete());
        assert_eq!(addrs.next_to_dial(), Some(addr(1)));
    }

    #[test]
    fn rumours_do_not_keep_a_proven_address_waiting() {
        let mut addrs = Addrs::default();
        addrs.prove(addr(1));
        (2..5).for_each(|n| addrs.rumour(addr(n)));
        let dialled: Vec<_> = (0..8).filter_map(|_| addrs.next_to_dial()).collect();
        assert_eq!(dialled, [1, 4, 1, 3, 1, 2, 1, 4].map(addr));
        assert!(addrs.round_complete());
    }

    #[test]
    fn where_somebody_else_answers_comes_last() {
        let mut addrs = Addrs::default();
        addrs.prove(addr(2));
        addrs.prove(addr(1));
        addrs.demote(&addr(1));
        assert_eq!(all(&addrs), [addr(2), addr(1)]);
        assert_eq!(first_hand(&addrs), [addr(2)]);
    }

    #[test]
    fn old_successes_leave_room_for_what_the_peer_says_now() {
        let mut addrs = Addrs::default();
        (1..=4).for_each(|n| addrs.prove(addr(n)));
        addrs.claim([addr(1), addr(9)]);
        assert_eq!(all(&addrs), [addr(4), addr(3), addr(1), addr(9)]);
        // More than there is room for: the latest success stays, the last said does not.
        addrs.claim((10..20).map(addr));
        assert_eq!(all(&addrs), [addr(4), addr(10), addr(11), addr(12)]);
    }

    #[test]
    fn names_are_addresses_like_others() {
        let mut addrs = Addrs::default();
        let name: DialAddr = "node.example:8080".parse().unwrap();
        addrs.rumour(name.clone());
        addrs.claim([addr(1), name.clone()]);
        assert_eq!(all(&addrs), [addr(1), name.clone()]);
        addrs.prove(name.clone());
        assert_eq!(addrs.next_to_dial(), Some(name));
    }

    #[test]
    fn addresses_that_lead_nowhere_are_not_kept() {
        let mut addrs = Addrs::default();
        addrs.rumour(DialAddr::Socket(([0, 0, 0, 0], 8080).into()));
        addrs.claim([([224, 0, 0, 1], 8080), ([127, 0, 0, 1], 0)].map(|a| DialAddr::Socket(a.into())));
        assert!(addrs.is_empty());
    }
}
