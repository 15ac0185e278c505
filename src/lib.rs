//! A secure peer-to-peer mesh out of nothing.
//!
//! Start a [`Node`], point the next ones at any node, and within moments every node holds an
//! authenticated, encrypted connection to every other, pings them all, and knows who died.
//! There is no server, no certificate authority and no async runtime.
//!
//! # Threads
//!
//! ```text
//!  your program ── Node::start ── takes Events from a channel ── Node::shutdown
//!  listener     ── blocking accept() ── spawns ──▶ session threads (accepted)
//!  coordinator  ── owns the Mesh: membership, timers, reconnection ── spawns ──▶ session threads (dialled)
//!  session #n   ── TLS handshake → Hello → relays frames both ways until closed
//!        inbox:  bounded; a session may block on it, which is TCP's backpressure
//!        outbox: bounded, one a session; full means that the peer is too slow, and its session ends
//! ```
//!
//! The blocking direction is one-way (session → coordinator), so there is no cycle to deadlock in.
//!
//! # Modules
//!
//! | module | owns |
//! |---|---|
//! | [`addr`] | addresses to dial and to listen on |
//! | [`config`] | [`Config`], and every limit and interval |
//! | [`identity`] | key pair, certificate, [`PeerId`] |
//! | [`network_key`] | the secret of a closed network |
//! | [`pin`], [`access`] | who must be at an address; who may be a peer at all |
//! | `state`, `known_peers`, `memory` | what outlives a node: its key and the peers it knows |
//! | [`mesh`] | the pure state machine: who is a member, whom to dial, who is dead |
//! | [`wire`] | messages and their framing |
//! | [`status`], [`counters`], [`delivery`] | what a node is doing, and how far a broadcast has come |
//! | [`text`] | text from strangers, made safe to show |
//! | `node`, `handle`, `coordinator`, `listener`, `session` | the threads that carry out what the mesh decides |
//! | [`log_limit`], `member_log` | one cause must not fill the log |
//! | `tls`, `waker`, `subscribers`, `files` | what those need |

pub mod access;
pub mod addr;
pub mod config;
mod coordinator;
pub mod counters;
pub mod delivery;
mod files;
mod handle;
pub mod identity;
mod known_peers;
mod listener;
pub mod log_limit;
mod member_log;
mod memory;
pub mod mesh;
pub mod network_key;
mod node;
pub mod pin;
mod session;
mod state;
pub mod status;
mod subscribers;
pub mod text;
mod tls;
mod waker;
pub mod wire;

pub use access::Access;
pub use addr::DialAddr;
pub use config::{Config, ConfigError};
pub use handle::{BroadcastError, NodeHandle};
pub use identity::{Identity, IdentityError, PeerId};
pub use known_peers::KnownPeersError;
pub use mesh::event::{DownReason, Event};
pub use mesh::status::{PeerInfo, PeerState};
pub use network_key::NetworkKey;
pub use node::{Node, StartError};
pub use pin::{ConnectAddr, Pin};
pub use state::{StateDir, StateError};

/// A beginning for tests of code that takes time as a parameter, so that `mesh` need not know a clock.
#[cfg(test)]
pub(crate) fn some_moment() -> std::time::Instant {
    std::time::Instant::now()
}

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
