//! The data that outlives a process: the state directory, the file of known peers, and the thread that writes it.

pub(crate) mod exchange;
pub(crate) mod files;
pub(crate) mod known_peers;
pub(crate) mod known_peers_error;
pub(crate) mod state_dir;
pub(crate) mod writer;
