//! Deterministic simulation: many [`Mesh`](p2p_gossip::internals::mesh::Mesh) state machines, one virtual clock, one
//! seed, and a network that behaves like TCP and has injected faults.
//!
//! | file | owns |
//! |---|---|
//! | `clock.rs` | virtual time, and clocks that run fast or slow |
//! | `faults.rs` | the faults of a run, and the random choice among them |
//! | `scenario.rs` | a scenario: nodes, faults and a script |
//! | `random_scenario.rs` | the scenario of a seed |
//! | `stories.rs` | scenarios with a fixed plot; a seed varies the details |
//! | `world.rs` | the event queue and the state of a run |
//! | `trace.rs` | the hash of a run and its last notes |
//! | `beacons.rs` | the datagrams by which nodes find each other |
//! | `net.rs` | connections: latency, order, cuts, stalls, resets |
//! | `session.rs` | a session's thread, as `src/session.rs` runs it |
//! | `process.rs` | a process: its state, starts, crashes, pauses |
//! | `overload.rs` | overloaded machines: threads that wait for a processor |
//! | `effects.rs` | what a process's driver does to the world |
//! | `adversary.rs` | the false lists of peers that a liar sends |
//! | `alarms.rs` | the alert programs of the nodes |
//! | `alerts.rs` | the tests of alerts (only in the test target) |
//! | `attack_stories.rs` | stories of attacks |
//! | `attacks.rs` | the tests of those stories (only in the test target) |
//! | `attacker.rs` | a machine with many keys and no mesh |
//! | `oracle.rs` | the expected state of one node, derived from its inputs and outputs |
//! | `checks/` | the invariants |
//! | `convergence.rs` | the time after the last fault: the mesh becomes whole and stays whole |
//! | `mesh_harness.rs` | one mesh alone, for rules that a run of many nodes does not test |
//! | `rules/` | the tests of those rules (only in the test target) |
//! | `verdicts.rs` | judges what nodes say of lost peers against the faults of a run |
//! | `shrink.rs` | the smallest set of faults that still fails |
//! | `scale.rs` | the cost of a mesh of hundreds of nodes |
//!
//! A mesh is *whole* when every two of its nodes have one session that both use.

// The tests and the explorer use these modules; neither uses all of them.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::cast_possible_truncation)]

pub mod adversary;
pub mod alarms;
pub mod attack_stories;
pub mod attacker;
pub mod beacons;
pub mod checks;
pub mod circuits;
pub mod clock;
pub mod convergence;
pub mod effects;
pub mod faults;
pub mod mesh_harness;
pub mod net;
pub mod oracle;
pub mod overload;
pub mod process;
pub mod random_scenario;
pub mod scale;
pub mod scenario;
pub mod session;
pub mod shrink;
pub mod stories;
pub mod trace;
pub mod verdicts;
pub mod world;
