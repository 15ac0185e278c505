//! The descriptor of a waker: an eventfd or, on systems without one, a pipe.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{read, write};

/// Readable from a signal until a reset.
#[derive(Debug)]
pub(crate) struct WakeFd {
    wait: OwnedFd,
    /// The writing end of the pipe; `None` for an eventfd.
    wake: Option<OwnedFd>,
}

impl WakeFd {
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
        Ok(Self { wait, wake: None })
    }

    /// Tests on every system build it, so that a defect is found early.
    #[cfg(any(test, not(any(target_os = "linux", target_os = "android", target_os = "freebsd"))))]
    fn with_pipe() -> io::Result<Self> {
        let (wait, wake) = rustix::pipe::pipe()?;
        rustix::io::ioctl_fionbio(&wait, true)?;
        rustix::io::ioctl_fionbio(&wake, true)?;
        rustix::io::fcntl_setfd(&wait, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::fcntl_setfd(&wake, rustix::io::FdFlags::CLOEXEC)?;
        Ok(Self { wait, wake: Some(wake) })
    }

    /// Makes the descriptor readable.
    pub(crate) fn signal(&self) {
        // An eventfd takes eight bytes, a pipe any number. If it is full, it is readable already.
        let _ = write(self.wake.as_ref().unwrap_or(&self.wait), &1_u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable.
    pub(crate) fn reset(&self) {
        let mut sink = [0; 64];
        while matches!(read(&self.wait, &mut sink), Ok(n) if n == sink.len()) {}
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wait.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn is_readable(fd: &WakeFd) -> bool {
        let mut fds = [PollFd::new(fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn descriptor_is_readable_from_a_signal_until_a_reset() {
        for fd in [WakeFd::new(), WakeFd::with_pipe()] {
            let fd = fd.unwrap();
            assert!(!is_readable(&fd));
            for _ in 0..100 {
                fd.signal();
            }
            assert!(is_readable(&fd));
            fd.reset();
            assert!(!is_readable(&fd));
            fd.signal();
            assert!(is_readable(&fd));
        }
    }
}
