//! Incidents: what members tell each other so that one of them runs the alert program, and no other does.

use bincode::{Decode, Encode};

use crate::trust::peer_id::PeerId;

/// The number in a [`Hello`](super::Hello)'s capabilities of a node that runs an alert program.
pub const ALERT_CAPABILITY: u32 = 1;
/// Peers named in one [`IncidentNews`]. Of a larger partition the message names the first ones.
pub const INCIDENT_PEERS_MAX: usize = 64;

/// The subject of an incident. Members that see the same derive the same subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Subject {
    /// This peer is lost, alone or with others. Of several it is the one with the smallest id.
    Peer(PeerId),
    /// These two members have lost each other, and no one else has. The smaller id comes first.
    Link(PeerId, PeerId),
    /// A group of members has lost more than half of the others. This one has the smallest id of the group.
    Isolated(PeerId),
}

/// How far an incident has come. A stage never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum Stage {
    /// It has begun, and no alert program is known to have run.
    Open,
    /// The alert program has run for its begin.
    Begun,
    /// It is over, and the alert program is not known to have run for that.
    Over,
    /// The alert program has run for its end.
    Done,
}

/// What the sender knows of one incident.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct IncidentNews {
    /// The subject.
    pub subject: Subject,
    /// The number of earlier incidents of this subject that the sender knows of.
    pub number: u32,
    /// The id that alert programs get.
    pub incident: u64,
    /// How far the incident has come.
    pub stage: Stage,
    /// The peers that the incident is about, at most [`INCIDENT_PEERS_MAX`].
    pub peers: Vec<PeerId>,
}
