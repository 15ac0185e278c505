//! What the embedding program asks of the coordinator.

use crate::event::AlertPhase;
use crate::mesh::snapshot::PeerInfo;
use crate::runtime::status::Status;
use crate::runtime::subscribers::Subscriber;
use crate::session::delivery::Delivery;
use crate::trust::access::Access;
use crate::util::sync::Sender;
use crate::wire::Frame;

/// A request of the embedding program.
#[derive(Debug)]
pub(crate) enum Command {
    /// Say goodbye and stop.
    Leave,
    /// Replace the access lists.
    Access(Access),
    /// Reply with all known peers.
    Peers(Sender<Vec<PeerInfo>>),
    /// Reply with a snapshot of the node.
    Status(Sender<Status>),
    /// Add a subscriber.
    Subscribe(Subscriber),
    /// Send this frame to every peer that is connected now, and reply with its delivery.
    Broadcast(Frame, Sender<Delivery>),
    /// The alert program has run for this phase of the incident with this id.
    AlertDone(u64, AlertPhase),
    /// Reply once membership has settled.
    WhenSettled(Sender<()>),
}
