//! The reasons why a measurement ends early: a signal from the user, or a failure.

use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// Ctrl-C, SIGTERM or SIGHUP.
    #[error("stopped")]
    Requested,
    /// This figure cannot be measured; the others still can.
    #[error("{0}")]
    Failed(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Signals as a descriptor to poll, so that a wait for nodes ends at once.
#[derive(Debug)]
pub(crate) struct Signals(UnixStream);

impl Signals {
    /// Installs the handlers. From then on the signals no longer end the process by themselves.
    pub(crate) fn catch() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
        }
        Ok(Self(read))
    }

    pub(crate) fn fd(&self) -> impl AsFd + '_ {
        self.0.as_fd()
    }

    /// Returns an error if a signal has arrived; each later call returns it again.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        let mut byte = [0];
        match (&self.0).read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            _ => {
                // The byte is gone, but a stream that is shut down is readable for each later call.
                let _ = self.0.shutdown(std::net::Shutdown::Read);
                Err(Stop::Requested)
            }
        }
    }
}
