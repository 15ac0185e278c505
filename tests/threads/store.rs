//! The writer of the known peers.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[path = "../../src/store/writer.rs"]
mod writer;

/// A state directory that remembers what was written.
pub(crate) mod state_dir {
    use super::*;

    #[derive(Debug)]
    pub(crate) struct StateDir(pub(super) Arc<Mutex<Vec<usize>>>);

    impl StateDir {
        pub(crate) fn write_key_ring(&self, _ring: &p2p_gossip::KeyRing) -> Result<(), Infallible> {
            Ok(())
        }

        pub(crate) fn write_known_peers(&self, peers: &[KnownPeer]) -> Result<(), Infallible> {
            self.0.lock().unwrap().push(peers.len());
            Ok(())
        }

        pub(crate) fn path(&self) -> &Path {
            Path::new("/")
        }
    }
}

use p2p_gossip::PeerId;
use p2p_gossip::internals::sample;
use state_dir::StateDir;

use crate::Check;
use crate::mesh::KnownPeer;
use crate::util::sync::Mutex;

pub(crate) const CHECKS: &[Check] = &[("last_list_of_known_peers_is_written_last", last_list_is_written)];

fn last_list_is_written() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let now = Instant::now();
    let (mut store, thread) = writer::start(StateDir(Arc::clone(&written)), now).unwrap();
    for count in 1..=3 {
        let peer = sample::known_peer(PeerId::from_bytes([7; 32]), "192.0.2.1:1".parse().unwrap());
        store.persist(now, vec![peer; count]);
    }
    drop(store);
    thread.finish();
    let written = written.lock().unwrap();
    assert!(written.is_sorted() && written.last() == Some(&3), "{written:?}");
}
