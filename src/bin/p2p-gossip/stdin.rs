//! Standard input: each line is a message to every peer (`--stdin`).

use std::io::{self, BufRead, BufReader, Read};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use p2p_gossip::NodeHandle;
use p2p_gossip::internals::limits::{MESSAGE_BYTES_MAX, WRITE_STALL};
use p2p_gossip::internals::log_limit::LogLimit;

use crate::output::stream::Stream;

/// A line is on its way for at most this long before the next one follows. A peer that takes
/// nothing is given up earlier; this is for one that takes a little now and then.
const LINE_PATIENCE: Duration = WRITE_STALL.saturating_mul(2);

/// What became of standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// What could not be sent: lines that are no messages, and a source that cannot be read.
    pub(crate) faults: u64,
}

/// Starts the thread that reads standard input once the mesh has settled, so that the first line
/// reaches everybody. The outcome comes when the input has ended and all of it was written to the
/// peers that it reached, or they were lost.
pub(crate) fn start(node: NodeHandle) -> io::Result<Receiver<Outcome>> {
    let source = Stream::new(io::stdin())?;
    let (done, outcome) = bounded(1);
    thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        if node.wait_settled() {
            log::debug!("reading standard input");
            let mut faults = 0;
            for (line, text) in Lines::new(source) {
                match text {
                    Ok(text) => send(&node, line, text),
                    Err(error) => {
                        faults += 1;
                        log::error!(line, reason:% = error; "a line of standard input was not sent");
                    }
                }
            }
            // Nobody waits for it if the node is stopping.
            let _ = done.send(Outcome { faults });
        }
    })?;
    Ok(outcome)
}

/// Sends one line and waits until it is written, so that no queue fills up and no line is left out.
fn send(node: &NodeHandle, line: u64, text: String) {
    // It fails only when the node has stopped, and the process is about to.
    let Ok(delivery) = node.broadcast(text) else {
        return;
    };
    let written = delivery.wait(LINE_PATIENCE);
    let (reached, missed) = (delivery.reached(), delivery.missed());
    log::debug!(line, reached, written, missed; "line sent");
    static LIMIT: LogLimit = LogLimit::new();
    let complaint = match (reached, missed) {
        (0, 0) => "nobody is connected; a line was sent to nobody",
        _ if missed > 0 || written < reached => "a line did not get to every peer",
        _ => return,
    };
    if let Some(suppressed) = LIMIT.check() {
        log::warn!(line, reached, written, missed, suppressed; "{complaint}");
    }
}

/// Why a line is no message.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("it is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("byte {0} of it is not UTF-8")]
    NotText(usize),
    #[error("cannot read standard input: {0}")]
    Unreadable(#[from] io::Error),
}

/// The lines of a source with their numbers, from 1. However long a line is, no more of it is
/// kept than a message may have; what follows a source that cannot be read is the end.
#[derive(Debug)]
struct Lines<R> {
    source: BufReader<R>,
    number: u64,
    is_broken: bool,
}

impl<R: Read> Lines<R> {
    fn new(source: R) -> Self {
        Self { source: BufReader::new(source), number: 0, is_broken: false }
    }

    /// The next line without its end; `None` behind the last one.
    fn read(&mut self) -> Result<Option<String>, LineError> {
        // Room for a carriage return and the line feed.
        let bytes_max = MESSAGE_BYTES_MAX + 2;
        let mut line = Vec::new();
        let mut head = self.source.by_ref().take(bytes_max as u64);
        if head.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let is_whole = line.pop_if(|last| *last == b'\n').is_some();
        if is_whole {
            line.pop_if(|last| *last == b'\r');
        }
        if line.len() > MESSAGE_BYTES_MAX {
            if !is_whole {
                self.source.skip_until(b'\n')?;
            }
            return Err(LineError::TooLong);
        }
        let text = String::from_utf8(line);
        Ok(Some(text.map_err(|error| LineError::NotText(error.utf8_error().valid_up_to() + 1))?))
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = (u64, Result<String, LineError>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_broken {
            return None;
        }
        self.number += 1;
        let line = self.read().transpose()?;
        self.is_broken = matches!(line, Err(LineError::Unreadable(_)));
        Some((self.number, line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: impl Read) -> Vec<(u64, Result<String, String>)> {
        let shown = |(number, line): (u64, Result<String, LineError>)| {
            (number, line.map_err(|error| error.to_string()))
        };
        Lines::new(source).map(shown).collect()
    }

    #[test]
    fn lines_end_as_people_end_them() {
        let ok = |number, text: &str| (number, Ok(text.to_owned()));
        assert_eq!(lines(&b""[..]), []);
        assert_eq!(lines(&b"one"[..]), [ok(1, "one")]);
        assert_eq!(
            lines("one\n\ntwo\r\n\rZoë\n".as_bytes()),
            [ok(1, "one"), ok(2, ""), ok(3, "two"), ok(4, "\rZoë")]
        );
    }

    #[test]
    fn a_line_that_is_no_message_is_named_and_the_next_one_is_read() {
        let longest = "x".repeat(MESSAGE_BYTES_MAX);
        for end in ["\n", "\r\n"] {
            for surplus in [1, 2, 3, 100_000] {
                let longer = "y".repeat(MESSAGE_BYTES_MAX + surplus);
                let source = format!("{longest}{end}{longer}{end}after{end}{longest}");
                let found = lines(source.as_bytes());
                assert_eq!(found[0], (1, Ok(longest.clone())));
                assert_eq!(found[1], (2, Err("it is longer than 4096 bytes".to_owned())));
                assert_eq!(found[2], (3, Ok("after".to_owned())));
                assert_eq!(found[3], (4, Ok(longest.clone())));
                assert_eq!(found.len(), 4);
            }
        }
        let found = lines(&b"ab\xff\nc\n"[..]);
        assert_eq!(found, [(1, Err("byte 3 of it is not UTF-8".to_owned())), (2, Ok("c".to_owned()))]);
    }

    /// Gives a byte for ever, and counts.
    struct Endless(usize);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("gone"));
            }
            let count = buffer.len().min(self.0);
            buffer[..count].fill(b'z');
            self.0 -= count;
            Ok(count)
        }
    }

    #[test]
    fn a_source_that_cannot_be_read_is_an_error_and_the_end() {
        for bytes in [0, 10, 10 * MESSAGE_BYTES_MAX] {
            let found = lines(Endless(bytes));
            assert_eq!(found, [(1, Err("cannot read standard input: gone".to_owned()))]);
        }
    }
}
