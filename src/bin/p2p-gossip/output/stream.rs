//! Reads and whole writes on the standard streams, and when to colour them.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write as _};
use std::os::fd::AsFd;

use p2p_gossip::internals::text;
use rustix::event::{PollFd, PollFlags, poll};

/// A standard stream without std's lock and line buffer: whoever blocks on it holds up nobody else,
/// and the end of the process does not wait for it.
#[derive(Debug)]
pub(crate) struct Stream(File);

impl Stream {
    pub(crate) fn new(stream: impl AsFd) -> io::Result<Self> {
        Ok(Self(File::from(stream.as_fd().try_clone_to_owned()?)))
    }

    /// Writes everything, waiting where there is no room: a stream may have been made
    /// non-blocking by whoever shares it.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.0.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for(PollFlags::OUT)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wait_for(&self, what: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.0, what)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Read for Stream {
    /// Waits for something to read, also where the stream is non-blocking.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for(PollFlags::IN)?,
                outcome => return outcome,
            }
        }
    }
}

/// Whether to colour a stream: it is a terminal that knows how, and the user did not object
/// (<https://no-color.org>).
pub(crate) fn is_coloured(stream: &impl IsTerminal) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// The last defence of the terminal: a text with everything escaped that a terminal would act on.
/// The backslash stays as it is, since most of what comes here is escaped already.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if text::is_unsafe(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}
