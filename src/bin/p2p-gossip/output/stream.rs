//! The standard streams: reads, complete writes, colours and escapes.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write as _};
use std::os::fd::AsFd;

use p2p_gossip::internals::text;
use rustix::event::{PollFd, PollFlags, poll};

/// A standard stream without std's lock and line buffer: a thread that blocks on it delays no other thread,
/// and the end of the process does not wait for it.
#[derive(Debug)]
pub(crate) struct Stream(File);

impl Stream {
    pub(crate) fn new(stream: impl AsFd) -> io::Result<Self> {
        Ok(Self(File::from(stream.as_fd().try_clone_to_owned()?)))
    }

    /// Writes all bytes and waits for room if necessary: another process that shares the stream may have made
    /// it non-blocking.
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

    fn wait_for(&self, flags: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(&self.0, flags)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Read for Stream {
    /// Waits for input, also if the stream is non-blocking.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for(PollFlags::IN)?,
                outcome => return outcome,
            }
        }
    }
}

/// Whether to colour a stream: it is a terminal that supports colours, and NO_COLOR is not set
/// (<https://no-color.org>).
pub(crate) fn is_coloured(stream: &impl IsTerminal) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// Escapes every character that a terminal acts on; the last defence of the user's terminal. Backslashes stay
/// as they are, since most texts that come here are escaped already.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((safe, c, after)) = text::split_at_unsafe(rest) {
        shown.push_str(safe);
        shown.extend(c.escape_default());
        rest = after;
    }
    shown + rest
}
