//! The wire format: the messages, their limits and their framing. Nothing outside this folder knows bincode.

mod circuit;
mod error;
mod frame;
mod incident;
mod message;
mod numbered;

pub use circuit::{CIRCUIT_BYTES_MAX, CircuitId, CircuitReason, PUNCH_CAPABILITY};
pub use error::{Malformation, WireError};
pub use frame::{FRAME_BYTES_MAX, Frame, FrameReader, HELLO_FRAME_BYTES_MAX, decode, encode};
pub use incident::{ALERT_CAPABILITY, INCIDENT_PEERS_MAX, IncidentNews, Stage, Subject};
pub use message::{
    ByeReason, CAPABILITIES_MAX, EXTENSION_BYTES_MAX, Hearing, Hello, Message, Notice, PROBE_CAPABILITY,
    PROOFS_MAX, PeerRecord, REACHABLE_AT_CAPABILITY, RECORDS_MAX, SIGHTINGS_MAX, Sighting,
};
