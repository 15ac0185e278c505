//! Wakes a thread that waits in poll(2), with an eventfd or, on systems without one, a pipe.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{read, write};

/// One thread polls [`Waker::fd`], and other threads wake it. A wake before the poll is not lost.
#[derive(Debug)]
pub(crate) struct Waker {
    wait: OwnedFd,
    /// The writing end of the pipe; `None` for an eventfd.
    wake: Option<OwnedFd>,
    /// Whether a wake is written and not cleared yet. Further wakes then cost no system call.
    is_pending: AtomicBool,
}

impl Waker {
    /// Creates a waker without a wake.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
        return Self::with_eventfd();
        #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
        return Self::with_pipe();
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn with_eventfd() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let wait = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { wait, wake: None, is_pending: AtomicBool::new(false) })
    }

    /// Tests on every system build it, so that a defect is found early.
    #[cfg(any(test, not(any(target_os = "linux", target_os = "android", target_os = "freebsd"))))]
    fn with_pipe() -> io::Result<Self> {
        let (wait, wake) = rustix::pipe::pipe()?;
        rustix::io::ioctl_fionbio(&wait, true)?;
        rustix::io::ioctl_fionbio(&wake, true)?;
        rustix::io::fcntl_setfd(&wait, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::fcntl_setfd(&wake, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self { wait, wake: Some(wake), is_pending: AtomicBool::new(false) })
    }

    /// Ends the current poll, or the next one at once.
    pub(crate) fn wake(&self) {
        if self.is_pending.swap(true, Ordering::AcqRel) {
            return;
        }
        // An eventfd takes eight bytes, a pipe any number. If it is full, the thread is woken already.
        let _ = write(self.wake.as_ref().unwrap_or(&self.wait), &1_u64.to_ne_bytes());
    }

    /// The descriptor to poll for reading.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.wait.as_fd()
    }

    /// Clears the wakes so far. The caller looks for work after this call, not before.
    pub(crate) fn clear(&self) {
        let mut sink = [0; 64];
        while matches!(read(&self.wait, &mut sink), Ok(n) if n == sink.len()) {}
        // Last, because a wake before this line wrote nothing, and the caller looks for its work afterwards.
        self.is_pending.swap(false, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_awake(waker: &Waker) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(waker.fd(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn wake_before_the_poll_is_kept_until_it_is_cleared() {
        for waker in [Waker::new(), Waker::with_pipe()] {
            let waker = waker.unwrap();
            assert!(!is_awake(&waker));
            for _ in 0..100 {
                waker.wake();
            }
            assert!(is_awake(&waker));
            waker.clear();
            assert!(!is_awake(&waker));
            waker.wake();
            assert!(is_awake(&waker));
        }
    }
}
