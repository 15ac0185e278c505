//! A session on its own thread: dial or accept → TLS handshake → Hello → frames both ways until closed.

mod connect;
mod context;
pub(crate) mod counters;
pub(crate) mod delivery;
mod established;
mod events;
mod failure;
mod handshake;
mod hello;
mod link;
mod lookups;
mod outgoing;
mod outlet;
pub(crate) mod pending;
mod rate_limit;
mod session_handle;
mod stacks;
mod thread;
mod waits;

pub(crate) use context::Context;
#[cfg(test)]
pub(crate) use context::context;
pub(crate) use events::{Established, Received, SessionEvent};
pub(crate) use hello::HelloExchange;
pub(crate) use lookups::Lookups;
pub(crate) use outgoing::Heartbeat;
#[cfg(test)]
pub(crate) use session_handle::stuck;
pub(crate) use session_handle::{OutboxFull, SessionHandle};
pub(crate) use stacks::Stacks;
pub(crate) use thread::{accept, dial};
