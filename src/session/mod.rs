//! A session with one peer: dial or accept → TLS handshake → Hello → messages both ways until closed.
//!
//! [`Protocol`] has every rule of a connection above TLS, and is pure. The threads around it wait, read, decrypt,
//! encrypt and write.

mod base;
mod circuit_socket;
mod circuits;
mod connect;
mod context;
pub(crate) mod counters;
pub(crate) mod delivery;
mod established;
mod eviction;
mod failure;
mod handshake;
mod heartbeats;
mod hello;
mod key_rates;
mod link;
mod lookups;
pub(crate) mod pending;
pub(crate) mod pipe;
mod places;
pub(crate) mod probe;
mod protocol;
mod punch;
mod rate_limit;
mod report;
mod session_event;
mod session_handle;
mod session_limits;
mod thread;

pub use circuit_socket::CircuitSocket;
pub(crate) use connect::DialTarget;
#[cfg(test)]
pub(crate) use context::context;
pub(crate) use context::{Context, SessionDelay, SharedHelloExchange, SharedVitals, handshake_threads};
pub(crate) use eviction::Eviction;
pub(crate) use handshake::CircuitEnd;
pub use hello::{Exported, HelloExchange, Role};
pub use key_rates::{KeyRates, TooManySessions};
pub(crate) use lookups::Lookups;
pub use pipe::{PipeEnd, Wake, pipe};
pub(crate) use places::Places;
pub use protocol::{Ends, Protocol, Request, Transmit};
pub(crate) use punch::PunchTarget;
pub use rate_limit::KeyRateLimit;
pub(crate) use report::FromSession;
pub use session_event::SessionEvent;
pub use session_handle::OutboxFull;
pub(crate) use session_handle::SessionHandle;
#[cfg(test)]
pub(crate) use session_handle::stuck;
pub use session_limits::{SessionLimits, Surplus};
pub(crate) use thread::{accept, dial, enter_circuit, punch};
