//! Output of the program: lines on stdout, tables, JSON, and the streams that carry them.

pub(crate) mod console;
pub(crate) mod event_json;
pub(crate) mod journal;
pub(crate) mod local_addresses;
pub(crate) mod peer_table;
pub(crate) mod stream;
pub(crate) mod table;
