//! Wakes a thread that waits in poll(2).

use std::io;

use super::wake_fd::WakeFd;
use crate::util::sync::{AtomicBool, Ordering};

/// One thread polls [`Waker::fd`], and other threads wake it. A wake before the poll is not lost.
#[derive(Debug)]
pub(crate) struct Waker {
    fd: WakeFd,
    /// Whether the descriptor is signalled and not cleared yet. Further wakes then cost no system call.
    is_pending: AtomicBool,
}

impl Waker {
    /// Creates a waker without a wake.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { fd: WakeFd::new()?, is_pending: AtomicBool::new(false) })
    }

    /// Ends the current poll, or the next one at once.
    pub(crate) fn wake(&self) {
        if !self.is_pending.swap(true, Ordering::AcqRel) {
            self.fd.signal();
        }
    }

    /// The descriptor to poll for reading.
    pub(crate) fn fd(&self) -> &WakeFd {
        &self.fd
    }

    /// Clears the wakes so far. The caller looks for work after this call, not before.
    pub(crate) fn clear(&self) {
        self.fd.reset();
        // Last, because a wake before this line signalled nothing, and the caller looks for its work afterwards.
        self.is_pending.swap(false, Ordering::AcqRel);
    }
}
