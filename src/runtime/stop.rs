//! Ends a thread that waits for datagrams.

use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::net::waker::Waker;
use crate::util::sync::{AtomicBool, Ordering};

/// Pause if the system has no memory for a wait, which keeps the loop from using up a processor.
const FAILED_WAIT_PAUSE: Duration = Duration::from_millis(20);

/// Whether a thread has to stop.
#[derive(Debug)]
pub(super) struct Stop {
    waker: Waker,
    is_wanted: AtomicBool,
}

impl Stop {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { waker: Waker::new()?, is_wanted: AtomicBool::new(false) })
    }

    /// The thread has to stop.
    pub(super) fn set(&self) {
        self.is_wanted.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Waits until the time has come, or for these sockets. Returns whether the thread has to stop.
    pub(super) fn wait<'a>(&'a self, until: Instant, sockets: impl IntoIterator<Item = PollFd<'a>>) -> bool {
        let mut fds = vec![PollFd::new(self.waker.fd(), PollFlags::IN)];
        fds.extend(sockets);
        // Rounded up, so that the thread does not wake before the time has come.
        let wait = until.saturating_duration_since(Instant::now()) + Duration::from_micros(100);
        let wait = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        if let Err(error) = poll(&mut fds, Some(&wait))
            && error != rustix::io::Errno::INTR
        {
            std::thread::sleep(FAILED_WAIT_PAUSE);
        }
        self.is_wanted.load(Ordering::Acquire)
    }
}
