//! What a person or a program reads from this process: lines on stdout, tables, JSON.

pub(crate) mod console;
pub(crate) mod event_json;
pub(crate) mod journal;
pub(crate) mod local_time;
pub(crate) mod peer_table;
pub(crate) mod stream;
