//! The events that a session sends to the coordinator.

use std::time::{Duration, Instant};

use crate::mesh::{DialError, DisconnectReason, Input, SessionId, SessionUp, Vitals};
use crate::wire::Message;

/// An event of a session. The session blocks while the coordinator's inbox is full; TCP then slows the peer down.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// The session is authenticated, and both sides have sent their Hello.
    Up(Box<SessionUp>),
    /// A message arrived that is no heartbeat.
    Received {
        /// The message.
        message: Message,
        /// The time at which it arrived.
        arrived: Instant,
        /// The last round-trip time, if it has not been reported yet.
        rtt: Option<Duration>,
    },
    /// A heartbeat or an acknowledgement arrived and brought news.
    Heartbeat {
        /// What the peer told of itself.
        vitals: Vitals,
        /// The time at which it arrived.
        arrived: Instant,
        /// The last round-trip time, if it has not been reported yet.
        rtt: Option<Duration>,
    },
    /// All messages that had arrived at the request to drain have been delivered.
    Drained {
        /// The time at which the last message arrived.
        heard: Instant,
    },
    /// The session was up and has ended; no event follows.
    Down(DisconnectReason),
    /// The dial ended without a session; no event follows.
    DialFailed(DialError),
}

impl SessionEvent {
    /// Whether no event follows.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Down(_) | Self::DialFailed(_))
    }

    /// The mesh's input for this event.
    #[must_use]
    pub fn into_input(self, session: SessionId) -> Input {
        match self {
            Self::Up(up) => Input::SessionUp(*up),
            Self::Received { message, arrived, rtt } => Input::Received { session, message, arrived, rtt },
            Self::Heartbeat { vitals, arrived, rtt } => Input::Heartbeat { session, vitals, arrived, rtt },
            Self::Drained { heard } => Input::Drained { session, heard },
            Self::Down(reason) => Input::SessionDown { session, reason },
            Self::DialFailed(reason) => Input::DialFailed { session, reason },
        }
    }
}
