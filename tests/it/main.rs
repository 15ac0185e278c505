//! The integration tests: one program, as each further one would have to be built and linked.
//!
//! A test that needs a process of its own is a program of its own: see the targets in Cargo.toml.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(unix)]

mod support;

mod addresses;
mod cli;
mod cluster;
mod dist;
mod embedding;
mod golden;
mod hostile;
mod hosts;
mod http;
mod json;
mod limits;
mod network_faults;
mod readme;
mod state;
#[path = "../packaging/static.rs"]
mod static_program;
mod trust;
mod verbs;
