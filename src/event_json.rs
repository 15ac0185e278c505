//! An event as one JSON object on one line, as `--output json` shows it and `--on-event` is given it.

use std::fmt::Write as _;

use jiff::Timestamp;
use p2p_gossip::log_limit::LogLimit;
use p2p_gossip::{Event, text};

/// One JSON object and a line feed. The event of a node that listens says where its page is, too, if
/// it has one.
pub(crate) fn print(out: &mut String, time: Timestamp, event: &Event, page: Option<&str>) {
    let object = match serde_json::to_string(event) {
        Ok(object) => object,
        Err(error) => {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::error!(reason:% = error, suppressed; "an event cannot be shown as JSON; this is a bug");
            }
            return;
        }
    };
    // Writing into a String does not fail.
    let _ = write!(out, "{{\"time\":\"{}\",", Time(time));
    escape(out, &object[1..object.len() - 1]);
    if let (Event::Listening { .. }, Some(page)) = (event, page) {
        let _ = write!(out, ",\"http\":\"{page}\"");
    }
    out.push_str("}\n");
}

/// Writes JSON with what a terminal would act on as `\u` escapes, which mean the same to a program and
/// nothing to a terminal that shows it. All that may need one is inside strings: JSON itself is made
/// of plain ASCII.
pub(crate) fn escape(out: &mut String, json: &str) {
    for c in json.chars() {
        if text::is_unsafe(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
}

/// UTC with milliseconds, as in the objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Timestamp);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}
