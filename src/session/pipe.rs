//! Joins two threads of this node that pass the bytes of a circuit to each other.
//!
//! At a carrier both ends belong to the sessions with the two peers. At either end of a circuit one end belongs to the
//! session with the carrier, and the other to the session inside the circuit. What waits is bounded by the credit of
//! the circuit: an end writes only what the other end has allowed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::util::sync::{AtomicBool, Mutex, MutexGuard, Ordering, PoisonError};
use crate::wire::CircuitReason;

/// Wakes the thread that owns one end of a pipe.
pub trait Wake: fmt::Debug + Send + Sync {
    /// The thread looks at its end soon.
    fn wake(&self);
}

/// What one end has for the other.
#[derive(Debug, Default)]
struct Way {
    bytes: VecDeque<u8>,
    /// Bytes that the other end may write in addition.
    credit: usize,
    ended: Option<CircuitReason>,
}

#[derive(Debug)]
struct Pipe {
    /// Way `n` leads away from end `n`.
    ways: Mutex<[Way; 2]>,
    /// Whether way `1 - n` has something for end `n`. A look at this costs no lock.
    news: [AtomicBool; 2],
    wakers: [Arc<dyn Wake>; 2],
}

/// One end of a pipe. Dropping it ends the pipe.
#[derive(Debug)]
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    side: usize,
    /// Whether the other end has news of which it was not told.
    is_wake_due: bool,
}

/// What an end has received.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Bytes that the other end has written.
    pub bytes: Vec<u8>,
    /// Bytes that this end may write in addition.
    pub credit: usize,
    /// The other end is gone, and there are no more bytes.
    pub ended: Option<CircuitReason>,
}

/// The two ends of a new pipe. Each waker wakes the thread that owns the end at the same place.
#[must_use]
pub fn pipe(wakers: [Arc<dyn Wake>; 2]) -> [PipeEnd; 2] {
    let pipe = Arc::new(Pipe {
        ways: Mutex::new(Default::default()),
        news: [(); 2].map(|()| AtomicBool::new(false)),
        wakers,
    });
    [0, 1].map(|side| PipeEnd { pipe: Arc::clone(&pipe), side, is_wake_due: false })
}

impl PipeEnd {
    /// Passes bytes to the other end, before [`PipeEnd::wake`]. The caller writes no more than it is allowed to.
    pub fn write(&mut self, bytes: &[u8]) {
        self.pass(|way| way.bytes.extend(bytes));
    }

    /// Allows the other end to write that many more bytes, before [`PipeEnd::wake`].
    pub fn grant(&mut self, bytes: usize) {
        self.pass(|way| way.credit += bytes);
    }

    /// Wakes the thread of the other end if it has news. One wake-up for all that was passed costs less than one for each
    /// message.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.is_wake_due) {
            self.pipe.wakers[1 - self.side].wake();
        }
    }

    /// Ends the pipe. The other end still reads the bytes that it was sent. The first reason counts.
    pub fn end(&mut self, reason: CircuitReason) {
        self.pass(|way| {
            way.ended.get_or_insert(reason);
        });
        self.wake();
    }

    /// Whether [`PipeEnd::take`] returns something.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.pipe.news[self.side].load(Ordering::Acquire)
    }

    /// Takes at most that many bytes, and all credit. The end comes after the last byte, and once.
    #[must_use]
    pub fn take(&self, bytes_max: usize) -> News {
        if !self.has_news() {
            return News::default();
        }
        let mut ways = self.lock();
        let way = &mut ways[1 - self.side];
        let bytes = take_front(&mut way.bytes, bytes_max);
        let credit = std::mem::take(&mut way.credit);
        let is_empty = way.bytes.is_empty();
        let ended = if is_empty { way.ended } else { None };
        // Under the lock, so that no news after it is missed.
        self.pipe.news[self.side].store(!is_empty, Ordering::Release);
        News { bytes, credit, ended }
    }

    fn pass(&mut self, change: impl FnOnce(&mut Way)) {
        let mut ways = self.lock();
        change(&mut ways[self.side]);
        let had_news = self.pipe.news[1 - self.side].swap(true, Ordering::AcqRel);
        drop(ways);
        self.is_wake_due |= !had_news;
    }

    fn lock(&self) -> MutexGuard<'_, [Way; 2]> {
        self.pipe.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes at most that many bytes. An empty queue keeps no memory: most circuits rest most of the time.
fn take_front(queue: &mut VecDeque<u8>, bytes_max: usize) -> Vec<u8> {
    if queue.len() <= bytes_max {
        return std::mem::take(queue).into();
    }
    let (front, back) = queue.as_slices();
    let front = &front[..front.len().min(bytes_max)];
    let bytes = [front, &back[..bytes_max - front.len()]].concat();
    queue.drain(..bytes_max);
    bytes
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        self.end(CircuitReason::Gone);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Debug, Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn bytes_arrive_in_order_and_the_end_comes_last() {
        let wakes = [(); 2].map(|()| Arc::new(Wakes::default()));
        let [mut a, b] = pipe([wakes[0].clone(), wakes[1].clone()]);
        assert!(!b.has_news() && b.take(9) == News::default());
        a.wake();
        a.write(b"one ");
        a.write(b"two");
        a.grant(7);
        assert_eq!(wakes[1].0.load(Ordering::Relaxed), 0);
        a.wake();
        a.wake();
        drop(a);
        // News wakes once, until it is taken.
        assert_eq!(wakes[1].0.load(Ordering::Relaxed), 1);
        assert_eq!(b.take(4), News { bytes: b"one ".to_vec(), credit: 7, ended: None });
        assert!(b.has_news());
        let rest = News { bytes: b"two".to_vec(), credit: 0, ended: Some(CircuitReason::Gone) };
        assert_eq!(b.take(4), rest);
        assert!(!b.has_news() && wakes[0].0.load(Ordering::Relaxed) == 0);
    }

    #[test]
    fn first_reason_of_an_end_counts() {
        let [a, mut b] = pipe([(); 2].map(|()| Arc::<Wakes>::default() as Arc<dyn Wake>));
        b.end(CircuitReason::Credit);
        drop(b);
        assert_eq!(a.take(1).ended, Some(CircuitReason::Credit));
    }
}
