//! The checker's counterpart of the program's `util::sync`: loom's primitives, and channels that behave as crossbeam's.
//!
//! No time passes in a check: a wait with a deadline lasts until what it waits for happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use std::sync::PoisonError;

pub(crate) use crossbeam_channel::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use loom::sync::{Mutex, MutexGuard};
pub(crate) use loom::thread;

use loom::sync::Condvar;
use loom::sync::atomic::AtomicUsize;

/// As std's; the checker sees the moment at which the value is set.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    is_set: AtomicBool,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self { value: std::sync::OnceLock::new(), is_set: AtomicBool::new(false) }
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        let outcome = self.value.set(value);
        self.is_set.store(true, Ordering::Release);
        outcome
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) { self.value.get() } else { None }
    }
}

#[derive(Debug)]
struct Channel<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// Twice the number of items; one more once no sender is left. A reader of an empty channel learns nothing else:
    /// crossbeam does not promise that it sees what other threads did before.
    hint: AtomicUsize,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    capacity: usize,
    senders: usize,
    receivers: usize,
}

#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Channel<T>>);

#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Channel<T>>);

pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    bounded(usize::MAX)
}

/// A channel of `capacity` 0 only tells that its other end is gone.
pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = Mutex::new(State { items: VecDeque::new(), capacity, senders: 1, receivers: 1 });
    let channel = Arc::new(Channel { state, changed: Condvar::new(), hint: AtomicUsize::new(0) });
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

impl<T> Channel<T> {
    /// Waits for the condition, changes the state and wakes the waiting threads.
    fn change_when<R>(
        &self,
        condition: impl Fn(&State<T>) -> bool,
        change: impl FnOnce(&mut State<T>) -> R,
    ) -> R {
        let mut state = self.state.lock().unwrap();
        while !condition(&state) {
            state = self.changed.wait(state).unwrap();
        }
        let result = change(&mut state);
        let hint = 2 * state.items.len() + usize::from(state.senders == 0);
        self.hint.store(hint, Ordering::Release);
        drop(state);
        self.changed.notify_all();
        result
    }
}

impl<T> State<T> {
    fn push(&mut self, item: T) -> Result<(), TrySendError<T>> {
        if self.receivers == 0 {
            return Err(TrySendError::Disconnected(item));
        }
        if self.items.len() >= self.capacity {
            return Err(TrySendError::Full(item));
        }
        self.items.push_back(item);
        Ok(())
    }
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
        let has_room = |state: &State<T>| state.receivers == 0 || state.items.len() < state.capacity;
        self.0.change_when(has_room, |state| state.push(item)).map_err(|error| SendError(error.into_inner()))
    }

    pub(crate) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        self.0.change_when(|_| true, |state| state.push(item))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.hint.load(Ordering::SeqCst) / 2
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Receiver<T> {
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        let is_over = |state: &State<T>| state.senders == 0 || !state.items.is_empty();
        self.0.change_when(is_over, |state| state.items.pop_front()).ok_or(RecvError)
    }

    pub(crate) fn recv_deadline(&self, _: Instant) -> Result<T, RecvTimeoutError> {
        self.recv().map_err(|RecvError| RecvTimeoutError::Disconnected)
    }

    pub(crate) fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
        self.recv().map_err(|RecvError| RecvTimeoutError::Disconnected)
    }

    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        if self.0.hint.load(Ordering::Relaxed) == 0 {
            return Err(TryRecvError::Empty);
        }
        let (item, senders) = self.0.change_when(|_| true, |state| (state.items.pop_front(), state.senders));
        let none = if senders == 0 { TryRecvError::Disconnected } else { TryRecvError::Empty };
        item.ok_or(none)
    }

    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.try_recv().ok())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.change_when(|_| true, |state| state.senders += 1);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.change_when(|_| true, |state| state.receivers += 1);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if !thread_panics() {
            self.0.change_when(|_| true, |state| state.senders -= 1);
        }
    }
}

impl<T> Drop for Receiver<T> {
    /// The last receiver drops the items that no receiver can take any more.
    fn drop(&mut self) {
        if thread_panics() {
            return;
        }
        let items = self.0.change_when(
            |_| true,
            |state| {
                state.receivers -= 1;
                if state.receivers == 0 { std::mem::take(&mut state.items) } else { VecDeque::new() }
            },
        );
        drop(items);
    }
}

/// Whether the check has failed: loom's primitives then panic a second time, which would abort the process.
fn thread_panics() -> bool {
    std::thread::panicking()
}
