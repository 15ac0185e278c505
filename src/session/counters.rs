//! Counters of a node, incremented by its threads.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// A number that never decreases.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: usize) {
        self.0.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters, shared by all threads of a node.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        /// Counters since the node started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            pub(crate) fn totals(&self) -> Totals {
                Totals { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Connections accepted, with or without a session as the result.
    connections_accepted,
    /// Dials started.
    dials,
    /// Dials that became a session.
    handshakes_dialled_completed,
    /// Dials that ended without a session.
    handshakes_dialled_failed,
    /// Accepted connections that became a session.
    handshakes_accepted_completed,
    /// Accepted connections that ended without a session.
    handshakes_accepted_failed,
    /// Frames received on sessions that were up.
    frames_received,
    /// Frames sent on sessions that were up.
    frames_sent,
    /// Bytes received, TLS included.
    bytes_received,
    /// Bytes sent, TLS included.
    bytes_sent,
    /// Peers dropped because they did not read their frames.
    peers_too_slow,
    /// Broadcast messages that a peer missed because it read too slowly; counted once for each peer.
    messages_missed,
}
