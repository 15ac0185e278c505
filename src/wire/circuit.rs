//! What the messages about circuits have in common: names, reasons and limits. A circuit is a connection between two
//! peers that a third one carries in its sessions with both.

use std::fmt;

use super::numbered::numbered;

/// The name of a circuit on one session. The side that names it counts; the smaller id of the two takes even numbers,
/// so that both sides can open circuits at the same time.
pub type CircuitId = u64;

/// The number in a [`Hello`](super::Hello)'s capabilities of a node that connects through NATs with the help of a carrier.
pub const PUNCH_CAPABILITY: u32 = 2;
/// Bytes in one message of circuit data: as many as TLS puts into one record.
pub const CIRCUIT_BYTES_MAX: usize = 16 * 1024;

/// Why a circuit is closed, or is not opened. On the wire a reason is its number, so that a later version can have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CircuitReason {
    /// The session inside the circuit has ended, or is not wanted any more.
    Ended,
    /// The sender carries for no other node.
    NotCarrying,
    /// The sender has no direct session with the target.
    NotConnected,
    /// The sender has no place for another circuit.
    Limit,
    /// The sender's lists exclude the peer.
    NotAdmitted,
    /// The session that led on to the other end has ended.
    Gone,
    /// The receiver sent more bytes than it was allowed to, or allowed more than were sent.
    Credit,
    /// The other end did not take the circuit.
    Refused,
    /// A reason of a later version, which has this number.
    Other(u16),
}

impl CircuitReason {
    /// Every reason of this version, in the order of their numbers from 0. Reasons are added at the end, never removed.
    pub const KNOWN: [Self; 8] = [
        Self::Ended,
        Self::NotCarrying,
        Self::NotConnected,
        Self::Limit,
        Self::NotAdmitted,
        Self::Gone,
        Self::Credit,
        Self::Refused,
    ];

    /// The reason that a carrier tells the other end. What one end cannot do for this circuit is no limit of the carrier.
    #[must_use]
    pub fn passed_on(self) -> Self {
        match self {
            Self::NotCarrying | Self::NotConnected | Self::Limit | Self::NotAdmitted => Self::Refused,
            Self::Ended | Self::Gone | Self::Credit | Self::Refused | Self::Other(_) => self,
        }
    }
}

impl fmt::Display for CircuitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "the session inside ended",
            Self::NotCarrying => "it carries for no other node",
            Self::NotConnected => "it has no direct connection to the peer",
            Self::Limit => "it has no place for another circuit",
            Self::NotAdmitted => "its lists exclude the peer",
            Self::Gone => "the connection to the other end is gone",
            Self::Credit => "more bytes than allowed",
            Self::Refused => "the peer refuses the circuit",
            Self::Other(number) => return write!(f, "reason {number}, which only a later version knows"),
        })
    }
}

numbered!(CircuitReason);
