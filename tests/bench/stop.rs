//! Why a measurement ends early: the user's wish, or something that went wrong.

use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// Ctrl-C, SIGTERM or SIGHUP.
    #[error("stopped")]
    Asked,
    /// This figure cannot be had; others may.
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
    /// From here on signals no longer end the process by themselves.
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

    /// An error if a signal has come; later calls return it again.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        let mut byte = [0];
        match (&self.0).read(&mut byte) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            _ => {
                // Put back: an empty stream that has ended says the same for ever.
                let _ = self.0.shutdown(std::net::Shutdown::Read);
                Err(Stop::Asked)
            }
        }
    }
}
