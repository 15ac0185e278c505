//! Limits the accepted connections whose handshake is not complete, and chooses the connection to evict.
//!
//! Invariant: a new connection is never evicted in favour of an older one of another source, so a flood of
//! silent connections does not keep new peers out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::eviction::{Evicted, Eviction};
use crate::mesh::SessionId;
use crate::util::log_limit::LogLimit;
use crate::util::sync::{Mutex, MutexGuard, PoisonError};

/// One eviction for lack of descriptors or threads closes one connection in this many. If the system has fewer
/// descriptors than the table has slots, the table never fills, and silent connections would hold all
/// descriptors until their deadline.
const EVICTED_FRACTION: usize = 4;

/// The connections of one node that are pending.
#[derive(Debug)]
pub(crate) struct PendingConnections {
    /// At most [`UNAUTHENTICATED_MAX`](crate::limits::UNAUTHENTICATED_MAX).
    connections_max: usize,
    /// Ids of accepted sessions grow, so the first connection is the oldest.
    table: Mutex<BTreeMap<SessionId, Pending>>,
}

#[derive(Debug)]
struct Pending {
    remote: SocketAddr,
    source: Source,
    eviction: Arc<Eviction>,
}

impl Pending {
    fn evict(&self) {
        self.eviction.evict(Evicted::Pending);
    }
}

impl PendingConnections {
    /// A table for at most `connections_max` connections.
    pub(crate) fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self { connections_max, table: Mutex::default() })
    }

    /// Adds a new connection. If the table is then too long, another is evicted: see [`choose_victim`].
    pub(crate) fn add(
        self: &Arc<Self>,
        id: SessionId,
        remote: SocketAddr,
        eviction: &Arc<Eviction>,
    ) -> PendingGuard {
        let pending = Pending { remote, source: Source::of(remote.ip()), eviction: Arc::clone(eviction) };
        let mut table = self.lock();
        table.insert(id, pending);
        let victim = if table.len() > self.connections_max { evict_one(&mut table) } else { None };
        drop(table);
        if let Some((victim, held)) = victim {
            log_evicted(&victim, held, self.connections_max);
        }
        PendingGuard { connections: Arc::clone(self), id }
    }

    /// Closes one in [`EVICTED_FRACTION`] connections because the system has no descriptors or threads left.
    /// Returns the number of closed connections.
    pub(crate) fn evict_some(&self) -> usize {
        let mut table = self.lock();
        let count = table.len().div_ceil(EVICTED_FRACTION);
        (0..count).map_while(|_| evict_one(&mut table)).count()
    }

    /// Closes all of the connections.
    pub(crate) fn evict_all(&self) {
        std::mem::take(&mut *self.lock()).values().for_each(Pending::evict);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Pending>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes and evicts one connection. Returns it, and the number of connections that its source held.
fn evict_one(table: &mut BTreeMap<SessionId, Pending>) -> Option<(Pending, usize)> {
    let (id, held) = choose_victim(table.iter().map(|(id, pending)| (*id, pending.source)))?;
    let victim = table.remove(&id)?;
    victim.evict();
    Some((victim, held))
}

/// Chooses the connection to evict: the oldest of the source that holds the most. If several sources hold that
/// many, it is the oldest of all their connections. Returns it, and the number that its source holds.
///
/// - A source that opens many connections pushes out only its own, and never the newest of them.
/// - An attacker with one connection from each of many sources pushes out the oldest, so a peer's
///   connection lasts until as many newer ones have come as the table has slots. A handshake takes 10 to
///   50 ms, so with 256 slots peers join beside up to 256 / 50 ms, about 5,000, such connections a second.
fn choose_victim<I>(mut oldest_first: I) -> Option<(SessionId, usize)>
where
    I: Iterator<Item = (SessionId, Source)> + Clone,
{
    let mut held: BTreeMap<Source, usize> = BTreeMap::new();
    for (_, source) in oldest_first.clone() {
        *held.entry(source).or_default() += 1;
    }
    let most = held.values().copied().max()?;
    oldest_first.find(|(_, source)| held.get(source) == Some(&most)).map(|(id, _)| (id, most))
}

fn log_evicted(victim: &Pending, held: usize, connections_max: usize) {
    static LIMIT: LogLimit = LogLimit::new();
    let Some(suppressed) = LIMIT.check() else {
        return;
    };
    let which = if held == 1 {
        "the oldest of all, as each source holds one"
    } else {
        "the oldest of the source that holds the most"
    };
    log::warn!(addr:% = victim.remote, source:% = victim.source, held, suppressed;
        "more than {connections_max} unfinished handshakes; closed {which}");
}

/// The unit in which connections are counted: an IPv4 address, or a whole IPv6 /64, because a host with one
/// address of a /64 usually has all of it (RFC 4291 section 2.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source(IpAddr);

impl Source {
    /// An IPv4 address that is written as an IPv6 address (`::ffff:192.0.2.7`) counts as IPv4.
    pub(super) fn of(ip: IpAddr) -> Self {
        Self(match ip.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 => v4,
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(prefix) => write!(f, "{prefix}/64"),
        }
    }
}

/// The slot of a pending connection. Dropping this frees the slot.
#[derive(Debug)]
pub(crate) struct PendingGuard {
    connections: Arc<PendingConnections>,
    id: SessionId,
}

impl PendingGuard {
    /// Frees the slot because the handshake is complete. Returns false if the connection was evicted before.
    pub(crate) fn complete(self) -> bool {
        self.connections.lock().remove(&self.id).is_some()
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::UNAUTHENTICATED_MAX;
    use crate::net::waker::Waker;

    const MAX: u64 = UNAUTHENTICATED_MAX as u64;

    fn source(ip: &str) -> Source {
        Source::of(ip.parse().unwrap())
    }

    /// The connection to evict: its position in the list, oldest first, and the number that its source holds.
    fn victim(sources: &[&str]) -> Option<(usize, usize)> {
        let ids = (0..).map(SessionId::accepted);
        let connections = ids.clone().zip(sources.iter().map(|ip| source(ip)));
        let (victim, held) = choose_victim(connections)?;
        Some((ids.take(sources.len()).position(|id| id == victim)?, held))
    }

    fn connections() -> Arc<PendingConnections> {
        PendingConnections::new(UNAUTHENTICATED_MAX)
    }

    /// A connection and its place.
    struct Connection {
        eviction: Arc<Eviction>,
        guard: PendingGuard,
    }

    impl Connection {
        fn is_evicted(&self) -> bool {
            self.eviction.is_evicted()
        }

        fn complete(self) -> bool {
            self.guard.complete()
        }
    }

    fn add(connections: &Arc<PendingConnections>, n: u64, ip: impl Into<IpAddr>) -> Connection {
        let remote = SocketAddr::new(ip.into(), 1);
        let eviction = Eviction::new(&Arc::new(Waker::new().unwrap()));
        Connection { guard: connections.add(SessionId::accepted(n), remote, &eviction), eviction }
    }

    #[test]
    fn oldest_connection_gives_way_if_each_source_holds_one() {
        assert_eq!(victim(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]), Some((0, 1)));
        assert_eq!(victim(&["10.0.0.9", "10.0.0.2", "10.0.0.3"]), Some((0, 1)));
        assert_eq!(victim(&["10.0.0.2", "2001:db8::1", "10.0.0.1"]), Some((0, 1)));
        assert_eq!(victim(&["2001:db8:0:9::1", "10.0.0.1", "2001:db8::1"]), Some((0, 1)));
    }

    #[test]
    fn source_that_holds_most_gives_way_with_its_oldest() {
        assert_eq!(victim(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.2"]), Some((1, 2)));
        assert_eq!(victim(&["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.2"]), Some((2, 3)));
        // A single source evicts its own oldest connection.
        assert_eq!(victim(&["10.0.0.1", "10.0.0.1"]), Some((0, 2)));
    }

    #[test]
    fn oldest_connection_gives_way_among_sources_that_hold_equally_many() {
        let both = ["10.0.0.1", "10.0.0.9", "10.0.0.5", "10.0.0.5", "10.0.0.9"];
        assert_eq!(victim(&both), Some((1, 2)));
        let reversed = ["10.0.0.9", "10.0.0.5", "10.0.0.1", "10.0.0.1", "10.0.0.5"];
        assert_eq!(victim(&reversed), Some((1, 2)));
    }

    #[test]
    fn empty_table_has_no_victim() {
        assert_eq!(victim(&[]), None);
        assert_eq!(connections().evict_some(), 0);
    }

    #[test]
    fn ipv6_subnet_counts_as_one_source() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("::ffff:10.0.0.1"), source("::ffff:10.0.0.2"));
        assert_eq!(victim(&["10.0.0.1", "2001:db8::1", "10.0.0.2", "2001:db8::2"]), Some((1, 2)));
        assert_eq!(source("2001:db8::1").to_string(), "2001:db8::/64");
        assert_eq!(source("::ffff:10.0.0.1").to_string(), "10.0.0.1");
    }

    #[test]
    fn newcomer_stays_with_any_address() {
        let newcomers = [
            IpAddr::from([0, 0, 0, 1]),
            [255, 255, 255, 254].into(),
            [0xff; 16].into(),
            Ipv6Addr::LOCALHOST.into(),
        ];
        for newcomer in newcomers {
            let connections = connections();
            let address = |n: u64| Ipv6Addr::from_bits(0xfd77 << 112 | u128::from(n) << 64);
            let silent: Vec<_> = (0..MAX).map(|n| add(&connections, n, address(n))).collect();
            assert!(!silent.iter().any(Connection::is_evicted));
            let newcomer = add(&connections, MAX, newcomer);
            // With the newcomer these fill the table.
            let more: Vec<_> = (MAX + 1..2 * MAX).map(|n| add(&connections, n, address(n))).collect();
            assert!(silent.iter().all(Connection::is_evicted));
            assert!(!more.iter().any(Connection::is_evicted));
            assert!(newcomer.complete());
        }
    }

    #[test]
    fn flood_of_one_source_pushes_out_its_own() {
        let connections = connections();
        let peer = add(&connections, 0, [10, 0, 0, 1]);
        let flood: Vec<_> = (1..MAX + 2).map(|n| add(&connections, n, [10, 0, 0, 2])).collect();
        assert!(!peer.is_evicted());
        assert_eq!(flood.iter().filter(|silent| silent.is_evicted()).count(), 2);
        assert!(flood[0].is_evicted() && flood[1].is_evicted());
        assert!(peer.complete());
    }

    #[test]
    fn evict_some_takes_a_quarter_in_the_same_order() {
        let connections = connections();
        let singles: Vec<_> = (0..10_u8).map(|n| add(&connections, n.into(), [10, 0, 1, 10 - n])).collect();
        let flood: Vec<_> = (10..20).map(|n| add(&connections, n, [10, 0, 0, 2])).collect();
        assert_eq!(connections.evict_some(), 5);
        assert!(flood[..5].iter().all(Connection::is_evicted));
        assert!(!flood[5..].iter().any(Connection::is_evicted));
        assert!(!singles.iter().any(Connection::is_evicted));
        drop(flood);
        assert_eq!(connections.evict_some(), 3);
        assert!(singles[..3].iter().all(Connection::is_evicted));
        assert!(!singles[3..].iter().any(Connection::is_evicted));
    }

    #[test]
    fn evicted_connection_does_not_complete() {
        let connections = connections();
        let guard = add(&connections, 0, [10, 0, 0, 1]);
        connections.evict_all();
        assert!(guard.is_evicted() && !guard.complete());
    }

    #[test]
    fn slot_is_freed() {
        let connections = connections();
        for n in 0..10 * MAX {
            assert!(add(&connections, n, [10, 0, 0, 1]).complete());
            drop(add(&connections, 10 * MAX + n, [10, 0, 0, 1]));
        }
        assert!(connections.lock().is_empty());
    }
}
