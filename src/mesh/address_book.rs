//! The addresses of one peer, ordered by how well each is known.

use std::net::{IpAddr, SocketAddr};

use super::address_scope::Told;
use super::io::UnixTime;
use super::known_peer::KnownAddr;
use crate::limits::ADDRS_MAX;
use crate::net::addr::DialAddr;

/// An address of a peer, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerAddress {
    /// The address.
    pub addr: DialAddr,
    /// Where it comes from.
    pub source: AddressSource,
    /// The last time at which this node reached the peer there, in this run or a previous one.
    pub last_success: Option<UnixTime>,
}

/// Where an address of a peer comes from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AddressSource {
    /// This node reached the peer there in this run.
    Proven,
    /// The peer itself named it, or connected from there.
    Claimed,
    /// It is known from a previous run.
    Remembered,
    /// Another peer listed it, or another peer has answered there.
    Rumoured,
}

impl AddressSource {
    /// The source as one lower-case word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Claimed => "claimed",
            Self::Remembered => "remembered",
            Self::Rumoured => "rumoured",
        }
    }
}

/// Addresses ordered by source, the latest success first. There are at most [`ADDRS_MAX`], but always room for
/// one rumour, because the peer may have moved.
#[derive(Clone, Debug, Default)]
pub(super) struct Addrs {
    entries: Vec<Entry>,
    /// Counts dials, so that each goes to the next address.
    dials: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    source: AddressSource,
    addr: DialAddr,
    /// The last time at which the peer was reached there, in this run or a previous one.
    last_success: Option<UnixTime>,
    /// Whether the peer connected from this IP address and said that it listens at this port.
    is_origin: bool,
    /// Whether it is a name that must not lead into a private network, because only peers outside of these told it.
    is_foreign: bool,
    /// Whether another peer has listed it in this run.
    is_listed: bool,
}

impl Entry {
    fn known(&self) -> KnownAddr {
        let Self { addr, last_success, is_origin, is_foreign, .. } = self;
        let (last_success, is_origin, is_foreign) = (*last_success, *is_origin, *is_foreign);
        KnownAddr { addr: addr.clone(), last_success, is_origin, is_foreign }
    }

    fn is_owned(&self) -> bool {
        (self.last_success.is_some() || self.is_origin) && self.source < AddressSource::Rumoured
    }

    /// Whether the peer was reached there, or the address is of the machine that it came from.
    fn is_at_own_machine(&self, from: Option<IpAddr>) -> bool {
        let ip = match &self.addr {
            DialAddr::Socket(addr) => Some(addr.ip().to_canonical()),
            DialAddr::LinkLocal { ip, .. } => Some((*ip).into()),
            DialAddr::Name { .. } => None,
        };
        self.last_success.is_some() || ip.is_some() && ip == from.map(|from| from.to_canonical())
    }
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
        self.entries.iter().map(|entry| &entry.addr)
    }

    /// All addresses, best first, for the user.
    pub(super) fn with_sources(&self) -> impl Iterator<Item = PeerAddress> {
        self.entries.iter().map(|Entry { source, addr, last_success, .. }| PeerAddress {
            addr: addr.clone(),
            source: *source,
            last_success: *last_success,
        })
    }

    /// Addresses that may be passed on: those that the peer itself used or claimed in this run.
    pub(super) fn first_hand(&self) -> impl Iterator<Item = &DialAddr> {
        self.entries.iter().filter(|entry| entry.source < AddressSource::Remembered).map(|entry| &entry.addr)
    }

    /// Restores the addresses of a previous run in their stored order: first those where the peer was reached,
    /// then claims. The times of success do not decide the order, because the clock may have been wrong.
    pub(super) fn restore(&mut self, known: Vec<KnownAddr>) {
        let (proven, said): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|known| known.last_success.is_some());
        for KnownAddr { addr, last_success, is_origin, is_foreign } in proven.into_iter().chain(said) {
            if addr.is_dialable() {
                let source = AddressSource::Remembered;
                self.insert(Entry { source, addr, last_success, is_origin, is_foreign, is_listed: false });
            }
        }
    }

    /// The addresses to store: all but rumours.
    pub(super) fn known(&self) -> Vec<KnownAddr> {
        let is_rumour =
            |entry: &&Entry| entry.source == AddressSource::Rumoured && entry.last_success.is_none();
        self.entries.iter().filter(|entry| !is_rumour(entry)).map(Entry::known).collect()
    }

    /// The addresses of a stranger to store: those where it was reached, and those of the machine that it came from.
    pub(super) fn known_of_stranger(&self, from: Option<IpAddr>) -> Vec<KnownAddr> {
        self.entries.iter().filter(|entry| entry.is_at_own_machine(from)).map(Entry::known).collect()
    }

    /// A stranger is gone. The addresses that it only claimed may be those of a third party, so they are dropped, unless
    /// it came from there. Those that others listed stay as rumours: the dials to them are paid for by who listed them.
    pub(super) fn drop_claims(&mut self, from: Option<IpAddr>) {
        self.entries.retain(|entry| entry.is_at_own_machine(from) || entry.is_listed);
        for entry in self.entries.iter_mut().filter(|entry| !entry.is_at_own_machine(from)) {
            entry.source = AddressSource::Rumoured;
        }
        self.entries.sort_by_key(|entry| entry.source);
    }

    /// Whether the address is of the machine that the peer came from last, in this run or a previous one.
    pub(super) fn is_at_own_machine(&self, addr: &DialAddr, from: Option<IpAddr>) -> bool {
        let is_there = |entry: &Entry| entry.is_at_own_machine(from) || from.is_none() && entry.is_origin;
        self.entries.iter().any(|entry| entry.addr == *addr && is_there(entry))
    }

    /// Whether this node has reached the peer at any of these addresses.
    pub(super) fn has_success(&self) -> bool {
        self.entries.iter().any(|entry| entry.last_success.is_some())
    }

    /// Whether a handshake with the peer was completed at this address.
    pub(super) fn is_proven(&self, addr: &DialAddr) -> bool {
        self.entries.iter().any(|entry| entry.source == AddressSource::Proven && entry.addr == *addr)
    }

    /// Whether the address belongs to the peer: it was reached there or came from there, in this run or a previous one,
    /// and no other peer has answered there since.
    pub(super) fn owns(&self, addr: &DialAddr) -> bool {
        self.entries.iter().any(|entry| entry.is_owned() && entry.addr == *addr)
    }

    /// Whether this node has reached the peer at this address, and no other peer has answered there since.
    pub(super) fn was_proven(&self, addr: &DialAddr) -> bool {
        let was = |entry: &Entry| entry.last_success.is_some() && entry.source < AddressSource::Rumoured;
        self.entries.iter().any(|entry| was(entry) && entry.addr == *addr)
    }

    /// The addresses that belong to the peer.
    pub(super) fn owned(&self) -> impl Iterator<Item = &DialAddr> {
        self.entries.iter().filter(|entry| entry.is_owned()).map(|entry| &entry.addr)
    }

    /// The IP addresses that belong to the peer.
    pub(super) fn owned_sockets(&self) -> impl Iterator<Item = SocketAddr> {
        self.owned().filter_map(DialAddr::socket)
    }

    /// Whether only other peers list this address.
    pub(super) fn is_rumour(&self, addr: &DialAddr) -> bool {
        self.entries.iter().any(|entry| entry.source == AddressSource::Rumoured && entry.addr == *addr)
    }

    /// Whether the address is a name that must not lead into a private network.
    pub(super) fn is_foreign(&self, addr: &DialAddr) -> bool {
        self.entries.iter().any(|entry| entry.is_foreign && entry.addr == *addr)
    }

    /// The address for the next dial. A round goes through all addresses that the peer proved or claimed, and one
    /// rumour, so that false addresses do not delay the good ones.
    pub(super) fn next_to_dial(&mut self) -> Option<DialAddr> {
        let next = self.peek_next().cloned()?;
        self.dials = self.dials.wrapping_add(1);
        Some(next)
    }

    /// The address that [`Addrs::next_to_dial`] returns next.
    pub(super) fn peek_next(&self) -> Option<&DialAddr> {
        let (trusted, round) = (self.trusted(), self.round());
        let at = self.dials.checked_rem(round)?;
        let index = if at < trusted || trusted == 0 {
            at
        } else {
            trusted + (self.dials / round) % (self.entries.len() - trusted)
        };
        self.entries.get(index).map(|entry| &entry.addr)
    }

    /// Dials in one round.
    fn round(&self) -> usize {
        let trusted = self.trusted();
        if trusted == 0 { self.entries.len() } else { self.entries.len().min(trusted + 1) }
    }

    /// The number of addresses before the rumours.
    fn trusted(&self) -> usize {
        self.entries.partition_point(|entry| entry.source < AddressSource::Rumoured)
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
    pub(super) fn prove(&mut self, addr: DialAddr, at: UnixTime) {
        let is_foreign = self.is_foreign(&addr);
        self.remove(&addr);
        let (source, last_success) = (AddressSource::Proven, Some(at));
        let entry = Entry { source, addr, last_success, is_origin: false, is_foreign, is_listed: false };
        self.entries.insert(0, entry);
        self.trim();
    }

    /// Replaces the peer's earlier claims with new ones, best first. The oldest proven addresses make room for
    /// them. `origin` is the IP address that it connected from, with the port at which it says that it listens.
    pub(super) fn claim(
        &mut self,
        addrs: impl IntoIterator<Item = impl Into<Told>>,
        origin: Option<&DialAddr>,
    ) {
        let mut said: Vec<Entry> = Vec::new();
        for told in addrs.into_iter().map(Into::into).chain(origin.cloned().map(Told::from)) {
            let Told { addr, is_foreign } = told;
            if addr.is_dialable() && !said.iter().any(|known| known.addr == addr) {
                let (is_origin, is_listed) = (origin == Some(&addr), self.is_listed(&addr));
                let source = AddressSource::Claimed;
                said.push(Entry { source, addr, last_success: None, is_origin, is_foreign, is_listed });
            }
        }
        self.entries.retain(|entry| entry.source != AddressSource::Claimed);
        let fresh = said.iter().filter(|entry| !self.is_proven(&entry.addr)).count();
        let is_said = |entry: &Entry| said.iter().any(|said| said.addr == entry.addr);
        let stale = |entry: &Entry| entry.source == AddressSource::Proven && !is_said(entry);
        while self.proven() + fresh > ADDRS_MAX {
            match self.entries.iter().rposition(stale) {
                Some(oldest) if oldest > 0 => drop(self.entries.remove(oldest)),
                _ => break,
            }
        }
        for entry in said {
            self.insert(entry);
        }
    }

    /// The peer claims one more address, if there is room. Returns whether it is new.
    pub(super) fn claim_another(&mut self, told: impl Into<Told>) -> bool {
        let Told { addr, is_foreign } = told.into();
        let is_claimed = |known: &Entry| known.addr == addr && known.source <= AddressSource::Claimed;
        if !addr.is_dialable() || self.entries.iter().any(is_claimed) {
            return false;
        }
        let (source, is_listed) = (AddressSource::Claimed, self.is_listed(&addr));
        let claim =
            Entry { source, addr: addr.clone(), last_success: None, is_origin: false, is_foreign, is_listed };
        self.insert(claim);
        self.contains(&addr)
    }

    fn is_listed(&self, addr: &DialAddr) -> bool {
        self.entries.iter().any(|entry| entry.is_listed && entry.addr == *addr)
    }

    /// The address that it connected from last, in this run.
    pub(super) fn origin(&self) -> Option<&DialAddr> {
        let is_origin = |entry: &&Entry| entry.is_origin && entry.source == AddressSource::Claimed;
        self.entries.iter().find(is_origin).map(|entry| &entry.addr)
    }

    /// Adds an address that another peer lists. It replaces only the oldest rumour, never a better source:
    /// otherwise one false list would keep this node from meeting the peer.
    pub(super) fn rumour(&mut self, told: impl Into<Told>) {
        let Told { addr, is_foreign } = told.into();
        if let Some(known) = self.entries.iter_mut().find(|known| known.addr == addr) {
            known.is_foreign &= is_foreign;
            known.is_listed = true;
            return;
        }
        if !addr.is_dialable() {
            return;
        }
        let source = AddressSource::Rumoured;
        let rumour =
            Entry { source, addr, last_success: None, is_origin: false, is_foreign, is_listed: true };
        self.entries.insert(self.trusted(), rumour);
        self.trim();
    }

    /// Makes this the next address to dial, if no better source exists: a process with the peer's certificate
    /// answered there, but has not proven its key yet.
    pub(super) fn hint(&mut self, told: Told) {
        if self.trusted() == 0 {
            self.remove(&told.addr);
            self.rumour(told);
            self.restart_round();
        }
    }

    /// Another peer answered there: the address becomes the last one, because the peer may come back.
    pub(super) fn demote(&mut self, addr: &DialAddr) {
        if let Some(at) = self.entries.iter().position(|entry| entry.addr == *addr) {
            let entry = self.entries.remove(at);
            self.entries.push(Entry { source: AddressSource::Rumoured, ..entry });
        }
    }

    pub(super) fn remove(&mut self, addr: &DialAddr) {
        self.entries.retain(|entry| entry.addr != *addr);
    }

    fn proven(&self) -> usize {
        self.entries.partition_point(|entry| entry.source == AddressSource::Proven)
    }

    fn insert(&mut self, mut entry: Entry) {
        if let Some(at) = self.entries.iter().position(|known| known.addr == entry.addr) {
            entry.is_foreign &= self.entries[at].is_foreign;
            if self.entries[at].source <= entry.source {
                self.entries[at].is_foreign = entry.is_foreign;
                return;
            }
            entry.last_success = self.entries.remove(at).last_success;
        }
        let at = self.entries.partition_point(|known| known.source <= entry.source);
        self.entries.insert(at, entry);
        self.trim();
    }

    pub(super) fn check_limits(&self) {
        let (all, trusted) = (self.entries.len(), self.trusted());
        debug_assert!(trusted <= ADDRS_MAX && all <= ADDRS_MAX + 1, "{trusted} of {all} addresses");
    }

    fn trim(&mut self) {
        let trusted = self.trusted();
        self.entries.drain(trusted.min(ADDRS_MAX)..trusted);
        self.entries.truncate(ADDRS_MAX.max(self.trusted() + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixTime = UnixTime(7);

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
    fn rumour_never_displaces_a_better_source() {
        let mut addrs = Addrs::default();
        addrs.claim([addr(2), addr(3)], None);
        addrs.prove(addr(1), AT);
        for n in 10..20 {
            addrs.rumour(addr(n));
        }
        assert_eq!(all(&addrs), [addr(1), addr(2), addr(3), addr(19)]);
        assert_eq!(first_hand(&addrs), [addr(1), addr(2), addr(3)]);
    }

    #[test]
    fn latest_success_is_first() {
        let mut addrs = Addrs::default();
        for n in 1..=5 {
            addrs.prove(addr(n), AT);
        }
        addrs.prove(addr(3), AT);
        assert_eq!(all(&addrs), [addr(3), addr(5), addr(4), addr(2)]);
    }

    #[test]
    fn new_claim_replaces_the_old_claim() {
        let mut addrs = Addrs::default();
        addrs.claim([addr(1), addr(2)], None);
        addrs.claim([addr(2), addr(3)], None);
        assert_eq!(all(&addrs), [addr(2), addr(3)]);
    }

    #[test]
    fn dials_try_all_addresses_in_turn() {
        let mut addrs = Addrs::default();
        assert_eq!(addrs.next_to_dial(), None);
        addrs.claim([addr(1), addr(2)], None);
        assert_eq!(addrs.next_to_dial(), Some(addr(1)));
        assert!(!addrs.round_complete());
        assert_eq!(addrs.next_to_dial(), Some(addr(2)));
        assert!(addrs.round_complete());
        assert_eq!(addrs.next_to_dial(), Some(addr(1)));
    }

    #[test]
    fn rumours_do_not_delay_a_proven_address() {
        let mut addrs = Addrs::default();
        addrs.prove(addr(1), AT);
        (2..5).for_each(|n| addrs.rumour(addr(n)));
        let dialled: Vec<_> = (0..8).filter_map(|_| addrs.next_to_dial()).collect();
        assert_eq!(dialled, [1, 4, 1, 3, 1, 2, 1, 4].map(addr));
        assert!(addrs.round_complete());
    }

    #[test]
    fn address_of_another_peer_becomes_last() {
        let mut addrs = Addrs::default();
        addrs.prove(addr(2), AT);
        addrs.prove(addr(1), AT);
        addrs.demote(&addr(1));
        assert_eq!(all(&addrs), [addr(2), addr(1)]);
        assert_eq!(first_hand(&addrs), [addr(2)]);
        assert!(addrs.was_proven(&addr(2)) && !addrs.was_proven(&addr(1)));
    }

    #[test]
    fn stranger_that_is_gone_keeps_what_others_list_and_where_it_was() {
        let mut addrs = Addrs::default();
        addrs.rumour(addr(6));
        addrs.claim((1..=4).map(addr), None);
        addrs.prove(addr(1), AT);
        addrs.rumour(addr(3));
        addrs.rumour(addr(5));
        // Another peer answers at a claim, which therefore becomes the last one. No list names it.
        addrs.demote(&addr(2));
        let from = addr(4).socket().map(|addr| addr.ip());
        addrs.drop_claims(from);
        assert_eq!(all(&addrs), [1, 4, 3, 5].map(addr));
        assert!(addrs.is_rumour(&addr(3)) && !addrs.is_rumour(&addr(4)));
    }

    #[test]
    fn address_that_others_list_stays_listed_when_the_peer_claims_it_anew() {
        let mut addrs = Addrs::default();
        addrs.rumour(addr(1));
        addrs.claim([addr(1), addr(2)], None);
        addrs.claim([addr(1), addr(2)], None);
        addrs.drop_claims(None);
        assert_eq!(all(&addrs), [addr(1)]);
    }

    #[test]
    fn further_claim_takes_no_place_of_the_others() {
        let mut addrs = Addrs::default();
        addrs.claim([addr(1)], None);
        addrs.rumour(addr(2));
        // It is better known than a rumour of it.
        assert!(addrs.claim_another(addr(2)) && !addrs.claim_another(addr(2)));
        assert!(addrs.claim_another(addr(3)) && addrs.claim_another(addr(4)));
        assert!(!addrs.claim_another(addr(5)));
        assert_eq!(first_hand(&addrs), [1, 2, 3, 4].map(addr));
        assert!(!Addrs::default().claim_another(DialAddr::Socket(([0, 0, 0, 0], 8080).into())));
    }

    #[test]
    fn old_successes_leave_room_for_new_claims() {
        let mut addrs = Addrs::default();
        (1..=4).for_each(|n| addrs.prove(addr(n), AT));
        addrs.claim([addr(1), addr(9)], None);
        assert_eq!(all(&addrs), [addr(4), addr(3), addr(1), addr(9)]);
        // More than there is room for: the latest success stays, the last said does not.
        addrs.claim((10..20).map(addr), None);
        assert_eq!(all(&addrs), [addr(4), addr(10), addr(11), addr(12)]);
    }

    #[test]
    fn names_are_handled_like_ip_addresses() {
        let mut addrs = Addrs::default();
        let name: DialAddr = "node.example:8080".parse().unwrap();
        addrs.rumour(name.clone());
        addrs.claim([addr(1), name.clone()], None);
        assert_eq!(all(&addrs), [addr(1), name.clone()]);
        addrs.prove(name.clone(), AT);
        assert_eq!(addrs.next_to_dial(), Some(name));
    }

    #[test]
    fn undialable_addresses_are_not_stored() {
        let mut addrs = Addrs::default();
        addrs.rumour(DialAddr::Socket(([0, 0, 0, 0], 8080).into()));
        addrs.claim([([224, 0, 0, 1], 8080), ([127, 0, 0, 1], 0)].map(|a| DialAddr::Socket(a.into())), None);
        assert!(addrs.is_empty());
    }

    #[test]
    fn restored_addresses_keep_their_order_and_are_not_passed_on() {
        let mut addrs = Addrs::default();
        let known = |n, success: Option<u64>| KnownAddr {
            addr: addr(n),
            last_success: success.map(UnixTime),
            is_origin: false,
            is_foreign: false,
        };
        // The clock was wrong when the peer was reached at the first of them.
        addrs.restore(vec![known(1, None), known(3, Some(9)), known(2, Some(5_000)), known(4, None)]);
        assert_eq!(all(&addrs), [3, 2, 1, 4].map(addr));
        assert!(first_hand(&addrs).is_empty());
        assert!(addrs.was_proven(&addr(3)) && !addrs.is_proven(&addr(3)) && !addrs.was_proven(&addr(1)));
        assert_eq!(addrs.known()[..2], [known(3, Some(9)), known(2, Some(5_000))]);
        // What the peer says now comes first; a success stays known.
        addrs.claim([addr(2), addr(9)], None);
        assert_eq!(all(&addrs), [2, 9, 3, 1].map(addr));
        assert_eq!(first_hand(&addrs), [2, 9].map(addr));
        assert_eq!(addrs.known()[0], known(2, Some(5_000)));
    }

    #[test]
    fn name_is_foreign_until_a_peer_of_a_private_network_tells_it() {
        let name: DialAddr = "node.example:8080".parse().unwrap();
        let told = |is_foreign| Told { addr: name.clone(), is_foreign };
        let mut addrs = Addrs::default();
        addrs.rumour(told(true));
        addrs.claim([told(true)], None);
        addrs.prove(name.clone(), AT);
        assert!(addrs.is_foreign(&name));
        let mut restored = Addrs::default();
        restored.restore(addrs.known());
        assert!(restored.is_foreign(&name));
        for tells in [
            |addrs: &mut Addrs, told| addrs.rumour(told),
            |addrs: &mut Addrs, told: Told| {
                addrs.claim([told], None);
            },
        ] {
            let mut addrs = addrs.clone();
            tells(&mut addrs, told(false));
            assert!(!addrs.is_foreign(&name));
            tells(&mut addrs, told(true));
            assert!(!addrs.is_foreign(&name));
        }
    }

    #[test]
    fn four_proven_addresses_leave_room_for_one_claim() {
        let mut addrs = Addrs::default();
        (1..=4).for_each(|n| addrs.prove(addr(n), AT));
        addrs.rumour(addr(8));
        addrs.rumour(addr(9));
        let dialled: Vec<_> = (0..6).filter_map(|_| addrs.next_to_dial()).collect();
        assert_eq!(dialled, [4, 3, 2, 1, 9, 4].map(addr));
        assert_eq!(addrs.known().len(), 4);
    }
}
