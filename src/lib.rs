//! Embeds a node of a secure peer-to-peer mesh in a program.
//!
//! Start a [`Node`], point the next nodes at any node, and every node soon holds an authenticated,
//! encrypted connection to every other node, pings them, and knows which of them are alive. There is no
//! server, no certificate authority and no async runtime: a node runs on a few threads of its own.
//!
//! | to do this | use |
//! |---|---|
//! | start a node | [`Node::start`] with a [`Config`] and an [`Identity`] |
//! | keep its key and its known peers over restarts | [`StateDir::open`], [`Node::builder`] |
//! | learn what happens | [`Node::events`], [`Node::subscribe`] |
//! | look at it | [`Node::peers`], [`Node::status`] |
//! | send a message to every peer | [`Node::broadcast`], after [`Node::wait_settled`] |
//! | use it from other threads | [`Node::handle`] |
//! | join through one more address, ask why a peer is lost | [`NodeHandle::connect`], [`NodeHandle::peer_history`] |
//! | decide which peers it accepts | [`Config::connect`] with a [`Pin`], [`Access`] or [`AccessSources`], [`NetworkKey`], [`Config::strict`] |
//! | leave the mesh | [`Node::shutdown`], or drop the node |
//!
//! Queues of events are bounded: a program that does not take its events loses some, and
//! [`Events::dropped`] counts them. Names and texts are a peer's own words; show them as
//! [`Escaped`]. The crate logs through [`log`].
//!
//! The [guide] explains the rest: [how a mesh behaves](guide::behaviour), [what each option protects
//! from](guide::security), [addresses and NAT](guide::addressing), [what a mesh
//! costs](guide::performance), [what stays stable](guide::stability), and [how the crate is
//! built](guide::architecture).
//!
//! # Examples
//!
//! ## A liveness monitor
//!
//! `Down` comes within the timeout, and at once if the connection breaks. `Left` is a goodbye.
//!
//! ```
//! use p2p_gossip::{Config, Event, Identity, Node};
//!
//! // A free port of loopback: the example needs no network.
//! let loopback = Config::default().port(0).bind("127.0.0.1".parse()?);
//! let monitor = Node::start(loopback.clone(), Identity::generate()?)?;
//!
//! // The node to watch. Usually it is another process on another machine.
//! let connect = vec![monitor.local_addr().into()];
//! let config = loopback.connect(connect).name("db1");
//! let mut watched = Some(Node::start(config, Identity::generate()?)?);
//!
//! for event in monitor.events() {
//!     match event {
//!         Event::Up { name, addr, .. } => {
//!             println!("{name} at {addr} is there");
//!             // Dropping a node leaves the mesh.
//!             watched = None;
//!         }
//!         // The monitor redials it; Up follows when it is back.
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
//! All nodes that see the same members pick the same leader without a message: the smallest id.
//!
//! This is not consensus. While news of a change travels, two nodes may pick different leaders for a
//! moment. In a split network each part has its own leader until the split heals. A peer that may join
//! can make keys until one has a small id. So give such a leader only work that is harmless when it is
//! done twice (collect logs, warm a cache). A part with fewer than half of the expected nodes can at
//! least do nothing: [`Event::Up`], [`Event::Down`] and [`Event::Left`] carry the number of members.
//!
//! ```
//! use p2p_gossip::{Config, Event, Identity, Node, PeerId, PeerState};
//!
//! fn leader(node: &Node) -> PeerId {
//!     let peers = node.peers().into_iter().filter(|peer| peer.state == PeerState::Up);
//!     peers.map(|peer| peer.id).fold(node.id(), PeerId::min)
//! }
//!
//! let loopback = Config::default().port(0).bind("127.0.0.1".parse()?);
//! let a = Node::start(loopback.clone(), Identity::generate()?)?;
//! assert_eq!(leader(&a), a.id());
//!
//! let connect = vec![a.local_addr().into()];
//! let b = Node::start(loopback.connect(connect), Identity::generate()?)?;
//! for node in [&a, &b] {
//!     node.events().iter().find(|event| matches!(event, Event::Up { .. }));
//! }
//! assert_eq!(leader(&a), leader(&b));
//!
//! // The leader leaves, and the other node takes its place.
//! let (first, second) = if leader(&a) == a.id() { (a, b) } else { (b, a) };
//! first.shutdown();
//! second.events().iter().find(|event| matches!(event, Event::Left { .. }));
//! assert_eq!(leader(&second), second.id());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ## A chat
//!
//! Messages of one sender arrive in order, each at most once. Text from peers is shown escaped.
//!
//! ```
//! use p2p_gossip::{Escaped, Config, Event, Identity, Node};
//!
//! let loopback = Config::default().port(0).bind("127.0.0.1".parse()?);
//! let alice = Node::start(loopback.clone(), Identity::generate()?)?;
//! let connect = vec![alice.local_addr().into()];
//! let config = loopback.connect(connect).name("bob");
//! let bob = Node::start(config, Identity::generate()?)?;
//!
//! // One thread sends what the user types, through a handle.
//! let handle = bob.handle();
//! let typing = std::thread::spawn(move || {
//!     // A message reaches only the peers that are connected when it is sent.
//!     if handle.wait_settled() {
//!         for line in ["hello", "\u{1b}[2J is not for your terminal"] {
//!             let delivery = handle.broadcast(line).expect("short, and the node runs");
//!             println!("sent to {}", delivery.reached());
//!         }
//!     }
//! });
//!
//! // Another thread shows what arrives.
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
//! typing.join().expect("the thread has sent both lines");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod event;
mod events;
pub mod guide;
#[doc(hidden)]
pub mod internals;
mod limits;
mod mesh;
mod net;
mod node;
mod node_handle;
mod runtime;
mod session;
mod store;
mod trust;
mod util;
mod wire;

pub use config::{Config, ConfigError};
pub use event::{AlertKind, AlertPhase, DownReason, Event, Verdict};
pub use events::{Events, EventsEnded, EventsIter, NoEvent};
pub use mesh::snapshot::{MeshStatus, PeerInfo, PeerState, RequestError, VerdictInfo};
pub use mesh::{
    AddressSource, KnownAddr, KnownPeer, NetworkKeyStatus, PeerAddress, RotateError, RttHistogram, Standing,
    UnixTime,
};
pub use net::addr::DialAddr;
pub use net::dial_addr_error::DialAddrError;
pub use net::host_name::HostName;
pub use net::interface_name::InterfaceName;
pub use net::local_ip::LocalIp;
pub use node::{Node, NodeBuilder, StartError};
pub use node_handle::{BroadcastError, NodeHandle};
pub use runtime::history::{HistoryEntry, HistoryKind, PeerHistory};
pub use runtime::status::{Queues, Status};
pub use session::counters::Totals;
pub use session::delivery::Delivery;
pub use store::exchange::{ExchangeError, Weakness};
pub use store::known_peers_error::{KnownPeersError, KnownPeersProblem};
pub use store::state_dir::{LastListening, StateDir, StateError};
pub use trust::access::{Access, AccessError, AccessSources, LineProblem, Refusal};
pub use trust::foreign_form::ForeignForm;
pub use trust::identity::{Identity, IdentityError};
pub use trust::key_ring::{KeyRing, NetworkId};
pub use trust::network_key::{NetworkKey, NetworkKeyError};
pub use trust::peer_id::{CertificateError, ParsePeerIdError, PeerId, ShortId};
pub use trust::pem_file::{PemBlock, PemProblem};
pub use trust::pem_item::PemItem;
pub use trust::pin::{ConnectAddr, ConnectAddrError, Pin, PinError};
pub use trust::ticket::{TICKET_MEMBERS_MAX, Ticket, TicketError};
pub use trust::tls_error::TlsError;
pub use util::text::Escaped;

/// A beginning for tests of code that takes time as a parameter, so that `mesh` need not know a clock.
#[cfg(test)]
pub(crate) fn test_now() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_types_can_be_sent_and_shared_between_threads() {
        fn is_send_and_sync<T: Send + Sync + 'static>() {}
        is_send_and_sync::<Node>();
        is_send_and_sync::<NodeHandle>();
        is_send_and_sync::<Config>();
        is_send_and_sync::<Event>();
        is_send_and_sync::<Events>();
        is_send_and_sync::<Identity>();
        is_send_and_sync::<StartError>();
        is_send_and_sync::<StateError>();
        is_send_and_sync::<StateDir>();
        is_send_and_sync::<Status>();
        is_send_and_sync::<AccessSources>();
        is_send_and_sync::<KnownPeer>();
        is_send_and_sync::<Delivery>();
        is_send_and_sync::<ConfigError>();
        is_send_and_sync::<BroadcastError>();
        is_send_and_sync::<IdentityError>();
        is_send_and_sync::<AccessError>();
        is_send_and_sync::<NetworkKeyError>();
        is_send_and_sync::<KnownPeersError>();
        is_send_and_sync::<TlsError>();
        is_send_and_sync::<ConnectAddrError>();
        is_send_and_sync::<NoEvent>();
    }
}

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
