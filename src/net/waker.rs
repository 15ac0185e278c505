//! Wakes a thread that waits in poll(2): an eventfd, or a pipe where there is none.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{read, write};

/// One thread waits on [`Waker::fd`], any other wakes it. A wake before the wait is not lost.
#[derive(Debug)]
pub(crate) struct Waker {
    wait: OwnedFd,
    /// The writing end, if it isn't the same descriptor.
    wake: Option<OwnedFd>,
    /// Whether a wake has been written that the thread has not cleared; further ones cost no system call.
    is_pending: AtomicBool,
}

impl Waker {
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
        return Self::of_eventfd();
        #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
        return Self::of_pipe();
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn of_eventfd() -> io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        let wait = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { wait, wake: None, is_pending: AtomicBool::new(false) })
    }

    /// Built for the tests everywhere, so that it is not found broken where it is needed.
    #[cfg(any(test, not(any(target_os = "linux", target_os = "android", target_os = "freebsd"))))]
    fn of_pipe() -> io::Result<Self> {
        let (wait, wake) = rustix::pipe::pipe()?;
        rustix::io::ioctl_fionbio(&wait, true)?;
        rustix::io::ioctl_fionbio(&wake, true)?;
        rustix::io::fcntl_setfd(&wait, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::fcntl_setfd(&wake, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self { wait, wake: Some(wake), is_pending: AtomicBool::new(false) })
    }

    /// Ends the wait, now or when it begins.
    pub(crate) fn wake(&self) {
        if self.is_pending.swap(true, Ordering::AcqRel) {
            return;
        }
        // An eventfd takes eight bytes, a pipe any. A full one has woken the thread already.
        let _ = write(self.wake.as_ref().unwrap_or(&self.wait), &1_u64.to_ne_bytes());
    }

    /// What to poll for reading.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.wait.as_fd()
    }

    /// Forgets the wakes so far. Look for work after this, not before.
    pub(crate) fn clear(&self) {
        let mut sink = [0; 64];
        while matches!(read(&self.wait, &mut sink), Ok(n) if n == sink.len()) {}
        // Last: a wake that came before this wrote nothing, and its work is looked for after this.
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
    fn a_wake_before_the_wait_is_not_lost_and_clears() {
        for waker in [Waker::new(), Waker::of_pipe()] {
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
