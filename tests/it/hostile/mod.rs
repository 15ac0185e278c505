//! Hostile peers against the real program, over real TLS on loopback. Each attack must end with
//! its connection. Meanwhile honest peers stay connected, ping and join. Afterwards the node has freed all
//! resources.
#![cfg(target_os = "linux")]

mod attack_harness;
mod raw;

mod circuits;
mod dials;
mod handshake;
mod heartbeats;
mod hook_flood;
mod identity;
mod later_version;
mod lists;
mod log_flood;
mod many_sessions;
mod messages;
mod mitm;
mod offer;
mod pending;
mod replay;
mod resources;
mod slow_reader;
mod text;
