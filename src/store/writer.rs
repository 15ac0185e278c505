//! Writes the known peers to disk while a node runs, in a separate thread, so that a slow or full disk delays
//! nothing else.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::limits::{PERSIST_DELAY, PERSIST_EVERY, PERSIST_FLUSH, PERSIST_RETRY_MAX, PERSIST_RETRY_MIN};
use crate::mesh::{KnownPeer, UnixTime};
use crate::store::state_dir::StateDir;
use crate::trust::key_ring::KeyRing;
use crate::util::sync::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use crate::util::worker::Worker;

/// The wall clock's time; 1970 if the clock is before that.
pub(crate) fn wall_clock() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// Starts the thread that owns the directory and writes to it.
pub(crate) fn start(state: StateDir, now: Instant) -> io::Result<(Store, WriterThread)> {
    // Room for one state: a newer one replaces one that the thread has not taken yet.
    let (sender, states) = bounded(1);
    let theirs = states.clone();
    let worker = Worker::spawn("memory", move || {
        write_all(&state, &theirs);
        // Unlocks the directory before the node sees the end of this thread.
        drop(state);
    })?;
    let store = Store { sender, states, ring: None, due: now + PERSIST_EVERY };
    Ok((store, WriterThread { worker }))
}

/// What the thread writes.
#[derive(Debug)]
struct Stored {
    peers: Vec<KnownPeer>,
    /// The network keys, if they have changed in this run.
    ring: Option<KeyRing>,
}

/// The coordinator's end: the time and the channel for the next state to write.
#[derive(Debug)]
pub(crate) struct Store {
    sender: Sender<Stored>,
    /// Receives back a state that the thread has not taken.
    states: Receiver<Stored>,
    /// The network keys, if they have changed in this run.
    ring: Option<KeyRing>,
    due: Instant,
}

impl Store {
    /// Notes a change of the known peers.
    pub(crate) fn changed(&mut self, now: Instant) {
        // Counted from the first change, so that the peers of a mesh that never settles are written too.
        self.due = self.due.min(now + PERSIST_DELAY);
    }

    /// The network keys have changed. The next [`Store::persist`] writes them, at once.
    pub(crate) fn keys_changed(&mut self, now: Instant, ring: KeyRing) {
        self.ring = Some(ring);
        self.due = self.due.min(now);
    }

    /// The time of the next [`Store::persist`].
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Passes the known peers and the network keys to the thread. Never blocks.
    pub(crate) fn persist(&mut self, now: Instant, peers: Vec<KnownPeer>) {
        self.due = now + PERSIST_EVERY;
        let mut state = Stored { peers, ring: self.ring.clone() };
        while let Err(TrySendError::Full(unsent)) = self.sender.try_send(state) {
            // Removes the older state. If the thread took it meanwhile, there is room as well.
            let _ = self.states.try_recv();
            state = unsent;
        }
    }
}

/// The node's end: waits for the last write.
#[derive(Debug)]
pub(crate) struct WriterThread {
    worker: Worker,
}

impl WriterThread {
    /// Waits until the last list is on disk, at most [`PERSIST_FLUSH`], because a disk may hang. The coordinator
    /// must have dropped its end.
    pub(crate) fn finish(self) {
        if !self.worker.join_until(Instant::now() + PERSIST_FLUSH) {
            log::warn!("the disk does not respond; the last changes of the known peers may be lost");
        }
    }
}

fn write_all(directory: &StateDir, states: &Receiver<Stored>) {
    let mut unwritten: Option<Stored> = None;
    let mut ring_on_disk: Option<KeyRing> = None;
    let mut write = |state: &Stored| {
        if state.ring != ring_on_disk
            && let Some(ring) = &state.ring
        {
            directory.write_key_ring(ring)?;
            ring_on_disk = Some(ring.clone());
        }
        directory.write_known_peers(&state.peers)
    };
    let mut failure: Option<Failure> = None;
    loop {
        let next = match &failure {
            Some(failure) => states.recv_deadline(failure.retry_at),
            None => states.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match next {
            Ok(state) => {
                unwritten = Some(state);
                if failure.is_some() {
                    // A newer state does not bring the retry forward.
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let Some(state) = unwritten.take() else {
            continue;
        };
        match write(&state) {
            Ok(()) => {
                if failure.take().is_some() {
                    log::info!(path:% = directory.path().display(); "the known peers can be written again");
                }
            }
            Err(error) => {
                if failure.is_none() {
                    log::warn!(path:% = directory.path().display(), reason:% = error;
                        "cannot write the known peers; keeping the old file and retrying");
                }
                failure = Some(Failure::after(failure));
                unwritten = Some(state);
            }
        }
    }
    // The node has stopped, so this is the last attempt.
    if let Some(Err(error)) = unwritten.map(|state| write(&state)) {
        log::warn!(path:% = directory.path().display(), reason:% = error;
            "the last changes of the known peers are lost; the old file stays");
    }
}

/// A failed write, and its next attempt.
#[derive(Debug)]
struct Failure {
    wait: Duration,
    retry_at: Instant,
}

impl Failure {
    fn after(previous: Option<Self>) -> Self {
        let wait = previous.map_or(PERSIST_RETRY_MIN, |failure| (failure.wait * 2).min(PERSIST_RETRY_MAX));
        Self { wait, retry_at: Instant::now() + wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::network_key::NetworkKey;
    use crate::trust::peer_id::PeerId;

    fn peers(count: u8) -> Vec<KnownPeer> {
        let peer = |n| KnownPeer {
            id: PeerId::from_bytes([n; 32]),
            name: String::new(),
            first_seen: UnixTime(1),
            last_seen: UnixTime(2),
            left: false,
            connected: Duration::ZERO,
            missed: Duration::ZERO,
            addrs: Vec::new(),
        };
        (1..=count).map(peer).collect()
    }

    #[test]
    fn last_list_is_the_one_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let now = crate::test_now();
        let (mut memory, writing) = start(StateDir::open(&path).unwrap(), now).unwrap();
        for count in 1..=200 {
            memory.persist(now, peers(count));
        }
        drop(memory);
        // Without a deadline, because a test may wait for a slow disk.
        writing.worker.join();
        assert_eq!(StateDir::open(&path).unwrap().known_peers(), peers(200));
    }

    #[test]
    fn changed_network_keys_are_written_at_once_and_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let now = crate::test_now();
        let (mut memory, writing) = start(StateDir::open(&path).unwrap(), now).unwrap();
        let ring = KeyRing::new(NetworkKey::generate().unwrap());
        memory.keys_changed(now, ring.clone());
        assert_eq!(memory.due(), now);
        memory.persist(now, peers(1));
        memory.persist(now, peers(2));
        drop(memory);
        writing.worker.join();
        let state = StateDir::open(&path).unwrap();
        assert_eq!((state.known_peers(), state.key_ring().unwrap()), (&peers(2)[..], Some(ring)));
    }

    #[test]
    fn later_change_does_not_delay_the_write_of_an_earlier_one() {
        let now = crate::test_now();
        let (sender, states) = bounded(1);
        let mut memory = Store { sender, states, ring: None, due: now + PERSIST_EVERY };
        memory.changed(now);
        memory.changed(now + PERSIST_DELAY / 2);
        assert_eq!(memory.due(), now + PERSIST_DELAY);
        memory.persist(now, peers(1));
        assert_eq!(memory.due(), now + PERSIST_EVERY);
    }
}
