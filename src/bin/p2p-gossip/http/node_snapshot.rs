//! The shared snapshot of the node's status: one query of the node answers all requests of its time, so a flood
//! of requests does not load the node.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2p_gossip::{NodeHandle, Status};

/// Longest age of a shared snapshot: five queries a second cost the node little, and people see them as current.
const AGE_MAX: Duration = Duration::from_millis(200);
/// Time limit for the node to answer a query.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// The node and the last snapshot.
#[derive(Debug)]
pub(super) struct Snapshots {
    node: NodeHandle,
    /// The time and result of the last query. `None` inside: the node did not answer.
    last: Mutex<Option<(Instant, Option<Arc<Status>>)>>,
}

impl Snapshots {
    pub(super) fn new(node: NodeHandle) -> Self {
        Self { node, last: Mutex::new(None) }
    }

    /// Takes a new snapshot, for a client that may just have changed something; `None` if the node does not answer.
    pub(super) fn fresh(&self) -> Option<Arc<Status>> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.get()
    }

    /// Returns the current snapshot; `None` if the node does not answer. Concurrent callers wait for one query.
    pub(super) fn get(&self) -> Option<Arc<Status>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, status)) = &*last
            && at.elapsed() < AGE_MAX
        {
            return status.clone();
        }
        let status = self.node.status_within(ANSWER_TIME).map(Arc::new);
        *last = Some((Instant::now(), status.clone()));
        status
    }
}

#[cfg(test)]
mod tests {
    use p2p_gossip::{Config, Identity, Node};

    use super::*;

    #[test]
    fn snapshot_is_shared_and_a_stopped_node_has_none() {
        let config = Config::default().port(0).bind("127.0.0.1".parse().unwrap());
        let node = Node::start(config, Identity::generate().unwrap()).unwrap();
        let snapshots = Snapshots::new(node.handle());
        let first = snapshots.get().unwrap();
        assert_eq!(first.mesh.members, 1);
        let taken = snapshots.last.lock().unwrap().as_ref().map(|(at, _)| *at);
        let second = snapshots.get().unwrap();
        let is_same = Arc::ptr_eq(&first, &second);
        // The machine may stall between the two calls.
        assert!(is_same || taken.is_some_and(|at| at.elapsed() >= AGE_MAX));
        node.shutdown();
        *snapshots.last.lock().unwrap() = None;
        assert!(snapshots.get().is_none());
    }
}
