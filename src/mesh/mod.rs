//! The mesh decides which peers are members, which to dial, what to send, and which are dead. It is a pure state machine.
//!
//! Invariant: no thread, socket, channel, file, clock or unseeded randomness in this module. Time
//! is a parameter and one `u64` seed decides every random choice, so that a simulator can run a
//! thousand meshes on a virtual clock and replay any of them (guide: architecture, "The mesh").
//!
//! The driver feeds [`Input`]s and due timers in, and carries out every [`Output`] before the
//! next. Sessions are named by [`SessionId`]s that are never used again, so a late input about an
//! ended session is harmless.
//!
//! | file | rule |
//! |---|---|
//! | `sessions.rs`, `session_table.rs` | one active session a peer, and leaving |
//! | `membership.rs` | how a peer becomes a member, and is lost, leaves and is forgotten |
//! | `admission.rs`, `instances.rs` | which peers are admitted, also when the lists change; addresses that belong to a known peer; restarts, and keys used twice |
//! | `dialer.rs`, `dial_queue.rs` | which address to dial, when, and how many at once |
//! | `bootstraps.rs`, `bootstrap_dials.rs` | the `--connect` addresses, and the dials to them |
//! | `accounts.rs`, `payers.rs` | who pays for dials and circuits that may fail |
//! | `discovery.rs`, `beacons.rs` | dials to the addresses from beacons |
//! | `relay.rs`, `circuit_table.rs` | circuits: which peers meet through another one, and what this node carries for others |
//! | `detour.rs` | circuits beside a path that falls silent, and the way back to a direct one |
//! | `own_addresses.rs` | addresses of this node that its peers do not see |
//! | `punch.rs`, `punch_table.rs` | direct connections through NATs, with the help of a carrier |
//! | `address_book.rs`, `address_scope.rs` | the addresses of one peer, and to which other peers each of them has a meaning |
//! | `peer_exchange.rs` | exchange of peer lists, and the digest check that restores a full mesh |
//! | `liveness.rs`, `told_intervals.rs`, `measures.rs`, `stall.rs`, `load.rs` | heartbeats, pings, silence, and a machine that is slow |
//! | `alerts.rs`, `alert_turns.rs`, `alert_state.rs`, `incidents.rs` | one alarm for one incident |
//! | `witness.rs`, `inquiries.rs`, `inquiry.rs`, `isolation.rs`, `silent_losses.rs` | what other members say of a lost peer, and whether this node is cut off itself |
//! | `flapping.rs` | peers that are lost again and again are unstable for a while |
//! | `peer.rs`, `peer_table.rs` | the states of a peer; all known peers, and the members among them |
//! | `invariants.rs` | what holds after each input, whatever happened before |
//! | `snapshot.rs` | the state of the mesh, for its user |
//! | `restore.rs` | peers known from a previous run, and for the next run |
//! | `network_keys.rs`, `key_state.rs` | the network's key, and its change while the network runs |
//! | `connected_time.rs` | the time after which a lost peer is forgotten |

mod accounts;
mod address_book;
mod address_scope;
mod admission;
mod alert_state;
mod alert_turns;
mod alerts;
pub mod backoff;
mod beacons;
mod bootstrap_dials;
mod bootstraps;
mod circuit_table;
mod connected_time;
mod detour;
mod dial_queue;
mod dialer;
mod digest;
mod discovery;
mod flapping;
mod incidents;
mod inquiries;
mod inquiry;
mod instances;
mod invariants;
mod io;
mod isolation;
mod key_state;
mod known_peer;
mod list_exchange;
mod liveness;
mod load;
mod machine;
mod measures;
mod membership;
mod network_keys;
mod own_addresses;
mod payers;
mod peer;
mod peer_exchange;
mod peer_table;
mod pins;
mod punch;
mod punch_table;
mod relay;
mod restore;
mod rtt;
mod session_table;
mod sessions;
mod silent_losses;
pub mod snapshot;
mod stall;
mod standing;
mod timer;
mod told_intervals;
mod witness;

pub use accounts::{CREDIT_INTERVAL, CREDIT_MAX};
pub use address_book::{AddressSource, PeerAddress};
pub use alerts::LINK_LASTS;
pub use beacons::{BEACON_DIALS_MAX, BEACON_DIALS_PER_MACHINE};
pub use bootstraps::{CONNECT_MAX, NAME_ROUND};
pub use detour::DETOUR_BEYOND_TIMEOUT;
pub use dial_queue::{DIAL_LANES, DIALS_BURST, DIALS_IN_FLIGHT_MAX, DIALS_PER_SECOND, RUMOUR_FAILURES_MAX};
pub use dialer::STRANGER_REDIAL;
pub use digest::membership_digest;
pub use incidents::{TURN, TURNS_MAX};
pub use io::{
    CircuitAt, DialError, DialSource, DisconnectReason, Input, Output, Report, SessionId, SessionUp, Skip,
    UnixTime, Vitals,
};
pub use key_state::{KEY_GRACE_MAX, KEY_GRACE_MIN, NetworkKeyStatus, RotateError};
pub use known_peer::{KnownAddr, KnownPeer};
pub use machine::Mesh;
pub use membership::GRACE;
pub use rtt::RttHistogram;
pub use session_table::SESSIONS_PER_PEER_MAX;
pub use stall::STALL_MIN;
pub use standing::{ACQUAINTED_AFTER, Standing};
