//! Formats an event as one line of JSON: for `--output json`, `--on-event` and the HTTP stream of events.

use std::fmt::Write as _;
use std::time::SystemTime;

use jiff::Timestamp;
use p2p_gossip::Event;
use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::text;

/// The time of an event, to be shown; 1970 if the clock is off by more than 7,000 years.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or_default()
}

/// Appends the event as one JSON object and a line feed. `page` is the URL of the node's page; only the event
/// `listening` shows it.
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

/// Appends JSON and replaces each character that a terminal acts on by a `\u` escape, which has the same
/// meaning to a program. Such characters occur only inside strings: JSON's own syntax is printable ASCII.
pub(crate) fn escape(out: &mut String, json: &str) {
    let mut rest = json;
    while let Some((safe, c, after)) = text::split_at_unsafe(rest) {
        out.push_str(safe);
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
        rest = after;
    }
    out.push_str(rest);
}

/// Shows a time as the JSON objects do: RFC 3339, UTC, with milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Timestamp);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}
