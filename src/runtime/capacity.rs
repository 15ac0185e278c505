//! How many sessions a node can have at once: the system's limit of descriptors is shared among members, sessions that
//! end, handshakes and dials.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{SESSIONS_BESIDE_MEMBERS, UNAUTHENTICATED_MAX};
use crate::mesh::DIALS_IN_FLIGHT_MAX;

/// Descriptors of one connection: its socket and its waker.
const DESCRIPTORS_EACH: usize = 2;
/// Descriptors for all else: the listener, files, HTTP connections, pipes of hooks, and those of the embedding program.
const DESCRIPTORS_ELSE: usize = 64;
/// Connections that gave way to others and whose threads have not closed them yet. The listener waits for them.
const ENDING_MAX: usize = 64;
/// A system with few descriptors gives all else at most one in this many.
const ELSE_SHARE: usize = 4;
/// It gives handshakes at most one place in this many, and so with dials, sessions beside members, and connections
/// that gave way.
const SHARE: usize = 8;

/// The numbers of connections that a node may have at once, by their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Peers that are connected.
    pub(crate) members: usize,
    /// Sessions that are up or closing.
    pub(crate) sessions: usize,
    /// Accepted connections whose handshake is not complete.
    pub(crate) pending: usize,
    /// All accepted connections, also those whose threads are about to close them.
    pub(crate) accepted: usize,
}

impl Capacity {
    /// The capacity of a node with room for `peers_max` peers and this limit of descriptors.
    pub(crate) fn new(peers_max: usize, descriptors: Option<usize>) -> Self {
        let Some(descriptors) = descriptors else {
            return Self::wanted(peers_max);
        };
        let places = (descriptors - DESCRIPTORS_ELSE.min(descriptors / ELSE_SHARE)) / DESCRIPTORS_EACH;
        let share = (places / SHARE).max(1);
        let pending = UNAUTHENTICATED_MAX.min(share);
        let beside = SESSIONS_BESIDE_MEMBERS.min(share);
        let dials = DIALS_IN_FLIGHT_MAX.min(share);
        let ending = ENDING_MAX.min(share);
        let others = pending + beside + dials + ending;
        let members = peers_max.min(places.saturating_sub(others).max(1));
        let sessions = members + beside;
        Self { members, sessions, pending, accepted: sessions + pending + ending }
    }

    fn wanted(peers_max: usize) -> Self {
        let sessions = peers_max + SESSIONS_BESIDE_MEMBERS;
        let accepted = sessions + UNAUTHENTICATED_MAX + ENDING_MAX;
        Self { members: peers_max, sessions, pending: UNAUTHENTICATED_MAX, accepted }
    }
}

/// The descriptors that a node with room for `peers_max` peers needs.
pub(crate) fn descriptors_for(peers_max: usize) -> usize {
    let Capacity { accepted, .. } = Capacity::wanted(peers_max);
    // Handshakes get no more than their share.
    let places = (accepted + DIALS_IN_FLIGHT_MAX).max(UNAUTHENTICATED_MAX * SHARE);
    places * DESCRIPTORS_EACH + DESCRIPTORS_ELSE
}

/// Raises the soft limit of this process's descriptors as far as needed and allowed, and never lowers it. Returns the
/// limit; `None` if there is none.
pub(crate) fn raise_descriptor_limit(needed: usize) -> Option<usize> {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current?;
    let needed = needed as u64;
    let wanted = limit.maximum.map_or(needed, |most| most.min(needed));
    let is_raised = wanted > current
        && setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).is_ok();
    let now = if is_raised { wanted } else { current };
    usize::try_from(now).ok()
}

/// Warns if the system allows fewer peers than the user wants.
pub(crate) fn log_capacity_warning(capacity: Capacity, peers_max: usize, descriptors: Option<usize>) {
    if let Some(descriptors) = descriptors
        && capacity.members < peers_max
    {
        log::warn!(descriptors, needed = descriptors_for(peers_max);
            "the system's limit of descriptors allows at most {} connected peers, not the {peers_max} of --max-peers; \
             raise it (ulimit -n, LimitNOFILE=)", capacity.members);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{PEERS_LIMIT, PEERS_MAX};

    #[test]
    fn all_states_together_fit_into_the_descriptors() {
        for descriptors in (20..5000).chain([100_000]) {
            for peers_max in [1, 7, PEERS_MAX, PEERS_LIMIT] {
                let capacity = Capacity::new(peers_max, Some(descriptors));
                let Capacity { members, sessions, pending, accepted } = capacity;
                assert!(members >= 1 && pending >= 1 && sessions > members && members <= peers_max);
                assert!(
                    accepted > sessions + pending && accepted * DESCRIPTORS_EACH < descriptors,
                    "{capacity:?}"
                );
            }
        }
    }

    #[test]
    fn node_gets_what_it_wants_from_the_descriptors_that_it_needs() {
        for peers_max in [1, 7, PEERS_MAX, PEERS_LIMIT] {
            let needed = descriptors_for(peers_max);
            assert_eq!(Capacity::new(peers_max, Some(needed)), Capacity::wanted(peers_max), "{peers_max}");
            assert_eq!(Capacity::new(peers_max, None), Capacity::wanted(peers_max));
        }
        let few = Capacity::new(PEERS_MAX, Some(1024));
        assert_eq!(few, Capacity { members: 284, sessions: 344, pending: 60, accepted: 464 });
    }
}
