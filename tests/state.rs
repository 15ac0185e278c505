//! What outlives a node: real processes that are killed, stopped and started again with their state
//! directory, find their mesh by it, and never damage it.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(target_os = "linux")]

mod support;

mod state {
    mod disk;
    mod kill;
    mod restart;
    mod store;
}
