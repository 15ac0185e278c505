//! A secure peer-to-peer mesh out of nothing.
//!
//! Start a [`Node`], point the next ones at any node, and within moments every node holds an
//! authenticated, encrypted connection to every other, pings them all, and knows who died.
//! There is no server, no certificate authority and no async runtime.

pub mod config;
pub mod identity;
pub mod mesh;
mod node;
pub mod text;
mod tls;

pub use config::{Config, ConfigError, DialAddr};
pub use identity::{Identity, IdentityError, PeerId};
pub use mesh::event::{DownReason, Event};
pub use node::{Node, StartError};
