//! A secure peer-to-peer mesh out of nothing.
//!
//! Start a [`Node`], point the next ones at any node, and within moments every node holds an
//! authenticated, encrypted connection to every other, pings them all, and knows who died.
//! There is no server, no certificate authority and no async runtime.
//!
//! # Threads
//!
//! ```text
//!  your program ── Node::start ── takes Events from a channel, or observes them ── Node::shutdown
//!  listener     ── blocking accept() ── spawns ──▶ session threads (accepted)
//!  coordinator  ── owns the Mesh: membership, timers, reconnection ── spawns ──▶ session threads (dialled)
//!  session #n   ── TLS handshake → Hello → relays frames both ways until closed
//!        inbox:   bounded; a session may block on it, which is TCP's backpressure
//!        routine: beside it, for heartbeats that say nothing new: wakes nobody, and is taken first
//!        outbox:  bounded, one a session; full means that the peer is too slow, and its session ends
//!        outlet:  the sending side of a session; what need not wait the coordinator sends by it, and wakes nobody
//! ```
//!
//! The blocking direction is one-way (session → coordinator), so there is no cycle to deadlock in: the
//! coordinator tries the lock of an outlet and never waits for it.
//!
//! # Examples
//!
//! ## A liveness monitor
//!
//! Who is lost is told within the timeout, and at once if its connection breaks; who leaves says so.
//!
//! ```
//! use p2p_gossip::{Config, Event, Identity, Node};
//!
//! // On a free port of loopback, so that the example needs no network.
//! let loopback = Config { port: 0, bind: Some("127.0.0.1".parse()?), ..Config::default() };
//! let monitor = Node::start(loopback.clone(), Identity::generate()?)?;
//!
//! // Somebody to watch: usually another process on another machine.
//! let connect = vec![monitor.local_addr().into()];
//! let config = Config { connect, name: "db1".to_owned(), ..loopback };
//! let mut watched = Some(Node::start(config, Identity::generate()?)?);
//!
//! for event in monitor.events() {
//!     match event {
//!         Event::Up { name, addr, .. } => {
//!             println!("{name} at {addr} is there");
//!             // Dropping a node leaves the mesh.
//!             watched = None;
//!         }
//!         // It is redialled, and comes up again if it is.
//!         Event::Down { name, reason, .. } => println!("ALARM: {name} is lost: {reason}"),
//!         Event::Left { name, members, .. } => {
//!             println!("{name} has left; {members} still here");
//!             break;
//!         }
//!         _ => {}
//!     }
//! }
//! # assert!(watched.is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## A leader
//!
//! All nodes that see the same members pick the same leader without a word: the smallest id.
//!
//! That is not consensus. While news of a change travels, two nodes may pick differently for some
//! moments, and in a network that is split each part has a leader of its own for as long as it is.
//! Anybody who may join may make keys until one has a small id. So let such a leader do what is
//! harmless when done twice (collect logs, warm a cache), and never what must be done by one alone.
//! A part with less than half of the nodes that there should be can at least hold still: [`Event::Up`]
//! and the others tell how many are there.
//!
//! ```
//! use p2p_gossip::{Config, Event, Identity, Node, PeerId, PeerState};
//!
//! fn leader(node: &Node) -> PeerId {
//!     let peers = node.peers().into_iter().filter(|peer| peer.state == PeerState::Up);
//!     peers.map(|peer| peer.id).fold(node.id(), PeerId::min)
//! }
//!
//! let loopback = Config { port: 0, bind: Some("127.0.0.1".parse()?), ..Config::default() };
//! let a = Node::start(loopback.clone(), Identity::generate()?)?;
//! assert_eq!(leader(&a), a.id());
//!
//! let connect = vec![a.local_addr().into()];
//! let b = Node::start(Config { connect, ..loopback }, Identity::generate()?)?;
//! for node in [&a, &b] {
//!     node.events().iter().find(|event| matches!(event, Event::Up { .. }));
//! }
//! assert_eq!(leader(&a), leader(&b));
//!
//! // The leader goes, and the other one takes its place.
//! let (first, second) = if leader(&a) == a.id() { (a, b) } else { (b, a) };
//! first.shutdown();
//! second.events().iter().find(|event| matches!(event, Event::Left { .. }));
//! assert_eq!(leader(&second), second.id());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## A chat
//!
//! Messages of one sender arrive in order, each at most once. What strangers say is shown escaped.
//!
//! ```
//! use p2p_gossip::text::Escaped;
//! use p2p_gossip::{Config, Event, Identity, Node};
//!
//! let loopback = Config { port: 0, bind: Some("127.0.0.1".parse()?), ..Config::default() };
//! let alice = Node::start(loopback.clone(), Identity::generate()?)?;
//! let connect = vec![alice.local_addr().into()];
//! let config = Config { connect, name: "bob".to_owned(), ..loopback };
//! let bob = Node::start(config, Identity::generate()?)?;
//!
//! // One thread says what the user types, through a handle …
//! let handle = bob.handle();
//! let typing = std::thread::spawn(move || {
//!     // Nobody would hear what is said before the others are met.
//!     if handle.wait_settled() {
//!         for line in ["hello", "\u{1b}[2J is not for your terminal"] {
//!             let delivery = handle.broadcast(line).expect("short, and the node runs");
//!             println!("told {}", delivery.reached());
//!         }
//!     }
//! });
//!
//! // … and another shows what comes in.
//! let mut shown = Vec::new();
//! for event in alice.events() {
//!     if let Event::Message { name, text, .. } = event {
//!         shown.push(format!("{}: {}", Escaped(&name), Escaped(&text)));
//!     }
//!     if shown.len() == 2 {
//!         break;
//!     }
//! }
//! assert_eq!(shown, ["bob: hello", "bob: \\u{1b}[2J is not for your terminal"]);
//! typing.join().expect("it has said all");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
//! | `tls`, `socket`, `waker`, `subscribers`, `files` | what those need |

pub mod access;
pub mod addr;
pub mod config;
mod coordinator;
pub mod counters;
pub mod delivery;
mod files;
pub mod guide;
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
pub mod queue;
mod session;
mod socket;
mod state;
pub mod status;
mod subscribers;
pub mod text;
mod tls;
mod token_bucket;
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
pub use subscribers::Observer;

/// A beginning for tests of code that takes time as a parameter, so that `mesh` need not know a clock.
#[cfg(test)]
pub(crate) fn some_moment() -> std::time::Instant {
    std::time::Instant::now()
}

/// The README's example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
