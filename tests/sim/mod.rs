//! Deterministic simulation of the mesh: many [`Mesh`](p2p_gossip::internals::mesh::Mesh) machines, one virtual
//! clock, one seed, and a network that is shaped like TCP and broken on purpose.
//!
//! | file | owns |
//! |---|---|
//! | `clock.rs` | virtual time, and clocks that run fast or slow |
//! | `faults.rs` | what may go wrong, as one struct |
//! | `scenario.rs` | who starts when, and which fault happens when |
//! | `stories.rs` | stories that leave a few words to a seed |
//! | `world.rs` | the queue of events and everything that exists |
//! | `net.rs` | connections: latency, order, cuts, stalls, resets |
//! | `session.rs` | what a session's thread does, as `src/session.rs` does it |
//! | `process.rs` | what a coordinator does, as `src/coordinator.rs` does it; crashes, pauses |
//! | `adversary.rs` | lists of peers as a liar tells them |
//! | `oracle.rs` | what one node should be doing, judged from outside |
//! | `checks.rs` | the invariants |
//! | `convergence.rs` | the time after the last fault: the mesh becomes whole, and stays whole |
//! | `mesh_harness.rs` | one mesh alone, for rules that many nodes would make up for |
//! | `rules/` | (a part of the tests only) the rules one by one, on one mesh alone |
//! | `shrink.rs` | the smallest set of faults that still fails |
//! | `scale.rs` | what a full mesh of hundreds costs |

// Two programs use these modules, the tests and the explorer; neither uses everything.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

pub mod adversary;
pub mod checks;
pub mod clock;
pub mod convergence;
pub mod faults;
pub mod mesh_harness;
pub mod net;
pub mod oracle;
pub mod process;
pub mod scale;
pub mod scenario;
pub mod session;
pub mod shrink;
pub mod stories;
pub mod world;
