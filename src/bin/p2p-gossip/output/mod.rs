//! Output of the program: lines on stdout, tables, JSON, and the streams that carry them.

pub(crate) mod console;
pub(crate) mod event_json;
pub(crate) mod journal;
pub(crate) mod local_addresses;
pub(crate) mod peer_table;
pub(crate) mod stream;
pub(crate) mod table;

/// A number of things: `1 member`, `3 members`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{s}")
}
