//! An event as one JSON object on one line, as `--output json` shows it and `--on-event` is given it.

use std::fmt::Write as _;

use jiff::Timestamp;
use p2p_gossip::{Event, text};

/// One JSON object and a line feed. What a terminal would act on is written as `\u` escapes, which
/// mean the same to a program and nothing to a terminal that shows the line.
pub(crate) fn print(out: &mut String, time: Timestamp, event: &Event) {
    let object = match serde_json::to_string(event) {
        Ok(object) => object,
        Err(error) => {
            log::error!(reason:% = error; "an event cannot be shown as JSON; this is a bug");
            return;
        }
    };
    // Writing into a String does not fail.
    let _ = write!(out, "{{\"time\":\"{}\",", Time(time));
    // All that may need an escape is inside strings: JSON itself is made of plain ASCII.
    for c in object.chars().skip(1) {
        if text::is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out.push('\n');
}

/// UTC with milliseconds, as in the objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Timestamp);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}
