//! Tests of state that survives restarts: real processes, killed, stopped and started again, find
//! their mesh by their state directory and never damage it.
#![cfg(target_os = "linux")]

mod disk;
mod kill;
mod restart;
mod store;
