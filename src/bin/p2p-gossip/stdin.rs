//! Standard input: sends each line to every peer as a message (`--stdin`).

use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use p2p_gossip::NodeHandle;
use p2p_gossip::internals::limits::{MESSAGE_BYTES_MAX, WRITE_STALL};
use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::worker::Worker;

use crate::output::stream::Stream;

/// Longest wait for the delivery of one line before the next one follows. The session with a peer that reads
/// nothing ends earlier; this limit is for a peer that reads a little now and then.
const LINE_DELIVERY_MAX: Duration = WRITE_STALL.saturating_mul(2);

/// The progress of standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The node has joined the mesh; the first line is read.
    Begun,
    /// The input has ended.
    Ended {
        /// Number of lines that could not be sent; a read error counts as one.
        unsent_lines: u64,
    },
}

/// Starts the thread that reads standard input once the mesh has settled, so that the first line reaches
/// every member. The thread reports the end when the input has ended and each line was written to its
/// peers or those were lost.
pub(crate) fn start(node: NodeHandle) -> io::Result<Receiver<Progress>> {
    let source = Stream::new(io::stdin())?;
    // Room for both reports.
    let (sender, progress) = bounded(2);
    Worker::spawn("stdin", move || {
        if node.wait_settled() {
            log::debug!("reading standard input");
            // Both fail if the node is stopping.
            let _ = sender.send(Progress::Begun);
            let _ = sender.send(Progress::Ended { unsent_lines: send_lines(&node, source) });
        }
    })?;
    Ok(progress)
}

/// Sends all lines of the source. Returns how many could not be sent.
fn send_lines(node: &NodeHandle, source: Stream) -> u64 {
    let mut unsent_lines = 0;
    for (line, text) in Lines::new(source) {
        match text {
            Ok(text) => send(node, line, text),
            Err(error) => {
                unsent_lines += 1;
                log::error!(line, reason:% = error; "a line of standard input was not sent");
            }
        }
    }
    unsent_lines
}

/// Sends one line and waits until it is written, so that no queue overflows.
fn send(node: &NodeHandle, line: u64, text: String) {
    // Fails only if the node has stopped; then the process ends, too.
    let Ok(delivery) = node.broadcast(text) else {
        return;
    };
    let written = delivery.wait(LINE_DELIVERY_MAX);
    let (reached, missed) = (delivery.reached(), delivery.missed());
    log::debug!(line, reached, written, missed; "line sent");
    static LIMIT: LogLimit = LogLimit::new();
    let warning = match (reached, missed) {
        (0, 0) => "no peer is connected; a line was sent to no peer",
        _ if missed > 0 || written < reached => "a line did not reach every peer",
        _ => return,
    };
    if let Some(suppressed) = LIMIT.check() {
        log::warn!(line, reached, written, missed, suppressed; "{warning}");
    }
}

/// Why a line cannot be sent.
#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("it is longer than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("byte {0} of it is not UTF-8")]
    NotText(usize),
    #[error("cannot read standard input: {0}")]
    Unreadable(#[from] io::Error),
}

/// Iterates over the lines of a source and their numbers, from 1. Memory is bounded by the size of a message,
/// also for longer lines. A read error is the last item.
#[derive(Debug)]
struct Lines<R> {
    source: BufReader<R>,
    number: u64,
    has_failed: bool,
}

impl<R: Read> Lines<R> {
    fn new(source: R) -> Self {
        Self { source: BufReader::new(source), number: 0, has_failed: false }
    }

    /// Returns the next line without its line ending; `None` after the last one.
    fn read(&mut self) -> Result<Option<String>, LineError> {
        // Two more bytes for CR and LF.
        let bytes_max = MESSAGE_BYTES_MAX + 2;
        let mut line = Vec::new();
        let mut head = self.source.by_ref().take(bytes_max as u64);
        if head.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let is_complete = line.pop_if(|last| *last == b'\n').is_some();
        if is_complete {
            line.pop_if(|last| *last == b'\r');
        }
        if line.len() > MESSAGE_BYTES_MAX {
            if !is_complete {
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
        if self.has_failed {
            return None;
        }
        self.number += 1;
        let line = self.read().transpose()?;
        self.has_failed = matches!(line, Err(LineError::Unreadable(_)));
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
    fn lines_end_with_lf_crlf_or_the_input() {
        let ok = |number, text: &str| (number, Ok(text.to_owned()));
        assert_eq!(lines(&b""[..]), []);
        assert_eq!(lines(&b"one"[..]), [ok(1, "one")]);
        assert_eq!(
            lines("one\n\ntwo\r\n\rZoë\n".as_bytes()),
            [ok(1, "one"), ok(2, ""), ok(3, "two"), ok(4, "\rZoë")]
        );
    }

    #[test]
    fn invalid_line_is_reported_and_the_next_one_is_read() {
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

    /// Yields this many bytes, then an error.
    struct FailsAfter(usize);

    impl Read for FailsAfter {
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
    fn read_error_is_the_last_item() {
        for bytes in [0, 10, 10 * MESSAGE_BYTES_MAX] {
            let found = lines(FailsAfter(bytes));
            assert_eq!(found, [(1, Err("cannot read standard input: gone".to_owned()))]);
        }
    }
}
