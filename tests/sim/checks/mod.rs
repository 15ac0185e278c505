//! The invariants of the design, checked against the inputs and outputs of every node.
//!
//! | file | owns |
//! |---|---|
//! | `inputs.rs` | the effect of inputs on the expected state of a node |
//! | `dials.rs` | rules for dials |
//! | `messages.rs` | rules for messages, lists of peers, and closing a session |
//! | `events.rs` | rules for up, down and left |
//! | `pings.rs` | each ping arrives at most once, and exactly once on a link that stayed up |
//! | `sessions.rs` | the open sessions after each turn of a coordinator |
//! | `state.rs` | the tables of a node, its memory and its members |

mod dials;
mod events;
mod inputs;
mod messages;
mod pings;
mod sessions;
mod state;

use p2p_gossip::internals::mesh::{CircuitAt, Mesh, Output, Report};
use p2p_gossip::internals::wire::Message;

use super::clock::{MS, Micros, SECOND};
use super::oracle::{Detour, Moment, PeerOracle};
use super::process::ProcId;
use super::world::World;

pub const IDENTITY: &str = "1: a node has one session with each peer and none with itself";
pub const WHOLE: &str = "2: after the last fault the mesh becomes whole in time and stays whole";
pub const LIVENESS: &str = "3: a peer is dead after the timeout's silence, neither sooner nor later";
pub const EVENTS: &str = "3: up, down and left alternate and count the members";
pub const ADMISSION: &str = "4: a peer that is not admitted is no member, not dialled and not listed";
pub const LEFT: &str = "4: a peer that left is not dialled";
pub const RUMOURS: &str = "4: rumours never displace proven facts and are not passed on";
pub const STANDING: &str = "5: no peer of lower standing displaces one of higher";
pub const LIMITS: &str = "5: every queue, table and rate stays within its limit";
pub const VERDICTS: &str =
    "8: a verdict agrees with the faults, and no fault causes an event between two others";
pub const MEMORY: &str = "7: no clock, restart or downtime makes a node forget a peer";
pub const PINGS: &str = "6: a ping arrives at most once, and exactly once on a link that stayed up";

/// Tolerance for delays between threads and for the resolution of clocks.
const SLACK: Micros = 100 * MS;
/// Time after a goodbye in which lists may be older than the goodbye, so a node does not believe them.
const LEFT_QUIET: Micros = 10 * SECOND;

/// A broken invariant and its details.
type Breach = (&'static str, String);

impl World {
    /// Time on the process's own clock.
    fn local(&self, proc: ProcId) -> Micros {
        self.procs[proc].clock.elapsed(self.now)
    }

    /// The present moment of this process.
    pub fn moment(&self, proc: ProcId) -> Moment {
        let process = &self.procs[proc];
        process.oracle.moment(self.now, process.clock.elapsed(self.now))
    }

    fn detours_end(&mut self, proc: ProcId, is_over: impl Fn(&Detour) -> bool) {
        let now = self.local(proc);
        self.procs[proc].oracle.detours_end(now, is_over);
    }

    fn report_breaches(&mut self, proc: ProcId, breaches: impl IntoIterator<Item = Breach>) {
        for (invariant, detail) in breaches {
            self.violated(invariant, format!("p{proc}: {detail}"));
        }
    }

    pub fn check_output(&mut self, proc: ProcId, output: &Output, mesh: &Mesh) {
        match output {
            Output::Dial { session, addr, expected, source, .. } => {
                self.check_dial(proc, *session, addr, *expected, source.is_from_peer(), mesh);
            }
            Output::Send { session, message } => {
                if let Message::CircuitOpen { circuit, target } = *message {
                    let at = CircuitAt { session: *session, circuit };
                    let now = self.local(proc);
                    self.procs[proc].oracle.asks_for_circuit(at, target, now);
                }
                self.check_send(proc, *session, Some(message), mesh);
            }
            Output::Heartbeat { session } => self.check_send(proc, *session, None, mesh),
            Output::Close { session, reason } => {
                self.detours_end(proc, |detour| *detour == Detour::Entered(*session));
                self.check_close(proc, *session, *reason);
            }
            Output::DrainUnread { .. }
            | Output::Vitals(_)
            | Output::NetworkKeys(_)
            | Output::Persist
            | Output::Carry { .. }
            | Output::Punch { .. } => {}
            Output::CloseCircuit { at, .. } => {
                self.detours_end(proc, |detour| *detour == Detour::Asked(*at));
            }
            Output::EnterCircuit { session, at, peer, .. } => {
                let now = self.local(proc);
                self.procs[proc].oracle.enters_circuit(*session, *at, *peer, now);
            }
            Output::Notify(event) => self.check_event(proc, event),
            Output::Report(Report::WrongId { expected, .. }) => {
                self.procs[proc].oracle.peer(*expected).proven.clear();
            }
            Output::Report(_) => {}
        }
    }
}

/// Whether a list may have shown that this peer has returned after it left.
fn listed_since_it_left(peer: &PeerOracle) -> bool {
    peer.listed_connected.is_some_and(|at| at + SLACK > peer.since + LEFT_QUIET)
}
