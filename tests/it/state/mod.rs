//! What outlives a node: real processes that are killed, stopped and started again with their state
//! directory, find their mesh by it, and never damage it.
#![cfg(target_os = "linux")]

mod disk;
mod kill;
mod restart;
mod store;
