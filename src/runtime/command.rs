//! What the embedding program asks of the coordinator.

use std::time::Duration;

use crate::mesh::RotateError;
use crate::mesh::snapshot::PeerInfo;
use crate::runtime::status::Status;
use crate::runtime::subscribers::Subscriber;
use crate::session::delivery::Delivery;
use crate::trust::access::Access;
use crate::trust::network_key::NetworkKey;
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
    /// Make this key the key of the network, accept the key before for this connected time, and reply with the number
    /// of changes since the network began.
    RotateNetworkKey(NetworkKey, Duration, Sender<Result<u64, RotateError>>),
    /// Reply once membership has settled.
    WhenSettled(Sender<()>),
}
