//! Keeps the known peers on disk while a node runs. A thread of its own writes them, so that a slow
//! or full disk holds up nobody.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};

use crate::limits::{REMEMBER_DELAY, REMEMBER_EVERY, REMEMBER_FLUSH, REMEMBER_RETRY_MAX, REMEMBER_RETRY_MIN};
use crate::mesh::{KnownPeer, UnixTime};
use crate::store::state_dir::StateDir;
use crate::util::worker::Worker;

/// What the clock on the wall says; 1970 if it is before that.
pub(crate) fn wall_clock() -> UnixTime {
    UnixTime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// Starts the thread that writes to the directory, and alone holds it from now on.
pub(crate) fn start(state: StateDir, now: Instant) -> io::Result<(Memory, Writing)> {
    // Room for one: what was put in and not taken yet is replaced by what is newer.
    let (mailbox, letters) = bounded(1);
    let theirs = letters.clone();
    let worker = Worker::spawn("memory", move || {
        write_all(&state, &theirs);
        // The lock on the directory is free before the thread counts as ended.
        drop(state);
    })?;
    Ok((Memory { mailbox, letters, due: now + REMEMBER_EVERY }, Writing { worker }))
}

/// The coordinator's end: when to hand the known peers over, and the way.
#[derive(Debug)]
pub(crate) struct Memory {
    mailbox: Sender<Vec<KnownPeer>>,
    /// For taking back what the thread has not taken.
    letters: Receiver<Vec<KnownPeer>>,
    due: Instant,
}

impl Memory {
    /// The known peers have changed.
    pub(crate) fn changed(&mut self, now: Instant) {
        // Counted from the first change, so that a mesh that never rests is remembered too.
        self.due = self.due.min(now + REMEMBER_DELAY);
    }

    /// When they are to be handed over next.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Hands them over; never blocks.
    pub(crate) fn remember(&mut self, now: Instant, peers: Vec<KnownPeer>) {
        self.due = now + REMEMBER_EVERY;
        let mut peers = peers;
        while let Err(TrySendError::Full(unsent)) = self.mailbox.try_send(peers) {
            // Older than these. If the thread was faster, there is room now.
            let _ = self.letters.try_recv();
            peers = unsent;
        }
    }
}

/// The node's end: when the last of it is written.
#[derive(Debug)]
pub(crate) struct Writing {
    worker: Worker,
}

impl Writing {
    /// Waits until all that was handed over is on disk, but not for ever: a disk may hang. Nothing
    /// more may be handed over.
    pub(crate) fn finish(self) {
        if !self.worker.join_until(Instant::now() + REMEMBER_FLUSH) {
            log::warn!("the disk is slow; the last news of known peers may be lost");
        }
    }
}

fn write_all(state: &StateDir, letters: &Receiver<Vec<KnownPeer>>) {
    let mut unwritten: Option<Vec<KnownPeer>> = None;
    let mut trouble: Option<Trouble> = None;
    loop {
        let letter = match &trouble {
            Some(trouble) => letters.recv_deadline(trouble.retry_at),
            None => letters.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match letter {
            Ok(peers) => {
                unwritten = Some(peers);
                if trouble.is_some() {
                    // News is no reason to try sooner.
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let Some(peers) = unwritten.take() else {
            continue;
        };
        match state.remember(&peers) {
            Ok(()) => {
                if trouble.take().is_some() {
                    log::info!(path:% = state.path().display(); "the known peers can be written again");
                }
            }
            Err(error) => {
                if trouble.is_none() {
                    log::warn!(path:% = state.path().display(), reason:% = error;
                        "cannot write the known peers; the old file stays, and it is tried again");
                }
                trouble = Some(Trouble::after(trouble));
                unwritten = Some(peers);
            }
        }
    }
    // The node has stopped: the last chance.
    if let Some(Err(error)) = unwritten.map(|peers| state.remember(&peers)) {
        log::warn!(path:% = state.path().display(), reason:% = error;
            "the last news of known peers is lost; the old file stays");
    }
}

/// The disk refuses to be written to.
#[derive(Debug)]
struct Trouble {
    wait: Duration,
    retry_at: Instant,
}

impl Trouble {
    fn after(earlier: Option<Self>) -> Self {
        let wait = earlier.map_or(REMEMBER_RETRY_MIN, |trouble| (trouble.wait * 2).min(REMEMBER_RETRY_MAX));
        Self { wait, retry_at: Instant::now() + wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::peer_id::PeerId;

    fn peers(count: u8) -> Vec<KnownPeer> {
        let peer = |n| KnownPeer {
            id: PeerId::from_bytes([n; 32]),
            name: String::new(),
            first_seen: UnixTime(1),
            last_seen: UnixTime(2),
            left: false,
            missed: Duration::ZERO,
            addrs: Vec::new(),
        };
        (1..=count).map(peer).collect()
    }

    #[test]
    fn the_last_that_was_handed_over_is_what_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let now = crate::test_now();
        let (mut memory, writing) = start(StateDir::open(&path).unwrap(), now).unwrap();
        for count in 1..=200 {
            memory.remember(now, peers(count));
        }
        drop(memory);
        // However long the disk takes: this test has the time.
        writing.worker.join();
        assert_eq!(StateDir::open(&path).unwrap().known_peers(), peers(200));
    }

    #[test]
    fn changes_are_written_soon_and_a_change_does_not_put_off_the_last() {
        let now = crate::test_now();
        let (mailbox, letters) = bounded(1);
        let mut memory = Memory { mailbox, letters, due: now + REMEMBER_EVERY };
        memory.changed(now);
        memory.changed(now + REMEMBER_DELAY / 2);
        assert_eq!(memory.due(), now + REMEMBER_DELAY);
        memory.remember(now, peers(1));
        assert_eq!(memory.due(), now + REMEMBER_EVERY);
    }
}
