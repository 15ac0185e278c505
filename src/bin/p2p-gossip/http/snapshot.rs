//! The node as it was a moment ago: one look at it serves all who ask meanwhile, so that a storm of
//! requests costs the node nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use p2p_gossip::{NodeHandle, Status};

/// How old a snapshot may be; five looks a second are nothing to the node, and fresh to a person.
const AGE_MAX: Duration = Duration::from_millis(200);
/// How long a node may take to answer. One that is held up for longer is not there for whoever asks.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Snapshots {
    node: NodeHandle,
    last: Mutex<Option<(Instant, Option<Arc<Status>>)>>,
}

impl Snapshots {
    pub(super) fn new(node: NodeHandle) -> Self {
        Self { node, last: Mutex::new(None) }
    }

    /// `None` if the node does not answer. Whoever comes while the node is asked waits for that answer.
    pub(super) fn get(&self) -> Option<Arc<Status>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, status)) = &*last
            && at.elapsed() < AGE_MAX
        {
            return status.clone();
        }
        let status = self.node.status_within(PATIENCE).map(Arc::new);
        *last = Some((Instant::now(), status.clone()));
        status
    }
}

#[cfg(test)]
mod tests {
    use p2p_gossip::{Config, Identity, Node};

    use super::*;

    #[test]
    fn one_look_serves_many_and_a_node_that_has_gone_is_not_there() {
        let config = Config { port: 0, bind: Some("127.0.0.1".parse().unwrap()), ..Config::default() };
        let node = Node::start(config, Identity::generate().unwrap()).unwrap();
        let snapshots = Snapshots::new(node.handle());
        let first = snapshots.get().unwrap();
        assert_eq!(first.mesh.members, 1);
        let taken = snapshots.last.lock().unwrap().as_ref().map(|(at, _)| *at);
        let second = snapshots.get().unwrap();
        let is_same = Arc::ptr_eq(&first, &second);
        // A machine may stand still between the two.
        assert!(is_same || taken.is_some_and(|at| at.elapsed() >= AGE_MAX));
        node.shutdown();
        *snapshots.last.lock().unwrap() = None;
        assert!(snapshots.get().is_none());
    }
}
