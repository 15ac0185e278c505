//! A running node: the embedding API, which starts and joins the threads.

use std::io;
use std::net::SocketAddr;

use crossbeam_channel::Receiver;

use crate::config::{Config, ConfigError};
use crate::identity::{Identity, PeerId};
use crate::mesh::event::Event;

/// A running node. Dropping it leaves the mesh as [`Node::shutdown`] does.
#[derive(Debug)]
pub struct Node {
    id: PeerId,
    local_addr: SocketAddr,
    events: Receiver<Event>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address can't be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A thread or descriptor could not be had.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// The TLS library refuses the identity.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Node {
    /// Starts a node: when this returns, its port accepts connections.
    ///
    /// # Errors
    /// The configuration makes no sense, or the system refuses the port, a thread or a descriptor.
    pub fn start(_config: Config, _identity: Identity) -> Result<Self, StartError> {
        Err(StartError::System(io::Error::from(io::ErrorKind::Unsupported)))
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Where it listens, with the actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What happens, from `Listening` to `Stopped`; after that the channel is closed. The queue
    /// is bounded: when nobody takes events, new ones are dropped and counted.
    #[must_use]
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Events dropped so far because nobody took them in time.
    #[must_use]
    pub fn events_dropped(&self) -> u64 {
        0
    }

    /// Says goodbye to all peers, waits at most half a second for that to be sent, and stops.
    /// The last events stay readable on a clone of the receiver.
    pub fn shutdown(self) {}
}
