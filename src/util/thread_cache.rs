//! Threads that take another piece of work when theirs is done.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::sync::{Receiver, Sender, bounded};
use super::worker::spawn_detached;

/// A piece of work.
type Work = Box<dyn FnOnce() + Send>;

/// A thread that is done waits for more work for this time, and then ends.
const IDLE: Duration = Duration::from_secs(2);
/// Threads that wait at the same time. Others end when their work is done, so that a flood leaves few behind.
const IDLE_MAX: usize = 8;

/// Threads for work that needs a thread for a short time. Work never waits for a thread: if none is idle, another one
/// starts.
#[derive(Debug)]
pub(crate) struct ThreadCache {
    name: &'static str,
    stack_bytes: usize,
    /// Has no room, so only a thread that waits now takes a piece of work.
    work: Sender<Work>,
    waiting: Receiver<Work>,
    /// Threads that wait for work.
    idle: Arc<AtomicUsize>,
}

impl ThreadCache {
    /// Threads of this name, with stacks of `stack_bytes` bytes. None has started yet.
    pub(crate) fn new(name: &'static str, stack_bytes: usize) -> Self {
        let (work, waiting) = bounded(0);
        Self { name, stack_bytes, work, waiting, idle: Arc::default() }
    }

    /// Does this work on one of the threads. A panic in it ends that thread only.
    ///
    /// # Errors
    /// The system has no thread or memory left; the work is dropped.
    pub(crate) fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let Err(not_taken) = self.work.try_send(Box::new(work)) else {
            return Ok(());
        };
        let (waiting, idle) = (self.waiting.clone(), Arc::clone(&self.idle));
        spawn_detached(self.name.to_owned(), self.stack_bytes, move || {
            let mut next = Some(not_taken.into_inner());
            while let Some(work) = next.take() {
                work();
                if idle.fetch_add(1, Ordering::Relaxed) < IDLE_MAX {
                    // Fails at once if the cache is gone.
                    next = waiting.recv_timeout(IDLE).ok();
                }
                idle.fetch_sub(1, Ordering::Relaxed);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;
    use std::thread::{self, ThreadId};
    use std::time::Instant;

    use super::*;
    use crate::util::sync::RecvTimeoutError;

    const STACK_BYTES: usize = 64 * 1024;
    const LONG: Duration = Duration::from_secs(60);

    /// The thread that does a piece of work, once it has told.
    fn thread_of_work(cache: &ThreadCache) -> ThreadId {
        let (told, tells) = bounded(1);
        cache.run(move || told.send(thread::current().id()).unwrap()).unwrap();
        tells.recv_timeout(LONG).unwrap()
    }

    #[test]
    fn idle_thread_takes_the_next_work() {
        let cache = ThreadCache::new("cached", STACK_BYTES);
        let deadline = Instant::now() + LONG;
        let mut seen = HashSet::from([thread_of_work(&cache)]);
        // A thread that has told may not wait yet: then another one starts.
        while seen.insert(thread_of_work(&cache)) {
            assert!(Instant::now() < deadline, "no thread has done a second piece of work");
        }
    }

    #[test]
    fn work_does_not_wait_for_a_busy_thread() {
        let cache = ThreadCache::new("cached", STACK_BYTES);
        let (release, held) = bounded::<()>(0);
        for _ in 0..3 {
            let held = held.clone();
            cache.run(move || assert!(held.recv().is_err())).unwrap();
        }
        thread_of_work(&cache);
        drop(release);
    }

    #[test]
    fn thread_whose_work_panics_takes_no_other_with_it() {
        let cache = ThreadCache::new("cached", STACK_BYTES);
        cache.run(|| panic!("on purpose")).unwrap();
        thread_of_work(&cache);
    }

    #[test]
    fn idle_thread_ends() {
        thread_local! {
            static HELD: RefCell<Option<Sender<()>>> = const { RefCell::new(None) };
        }
        let cache = ThreadCache::new("cached", STACK_BYTES);
        let (held, ended) = bounded(0);
        cache.run(move || HELD.set(Some(held))).unwrap();
        assert_eq!(ended.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    }
}
