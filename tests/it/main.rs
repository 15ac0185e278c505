//! The integration tests, in one program: each further program costs a build and a link.
//!
//! A test that needs its own process is a separate target in Cargo.toml.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(unix)]

mod support;

mod addresses;
mod alerts;
mod circuits;
mod cli;
mod closed_network;
mod cluster;
mod control;
mod discovery;
mod dist;
mod embedding;
mod golden;
mod hostile;
mod hosts;
mod http;
mod json;
mod limits;
mod nat;
mod network_faults;
mod readme;
mod state;
#[path = "../packaging/static.rs"]
mod static_program;
mod trust;
mod verbs;
