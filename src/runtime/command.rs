//! What the embedding program asks of the coordinator.

use std::net::SocketAddr;
use std::time::Duration;

use crate::event::AlertPhase;
use crate::mesh::RotateError;
use crate::mesh::snapshot::{PeerInfo, RequestError};
use crate::net::addr::DialAddr;
use crate::runtime::history::{HistoryEntry, PeerHistory};
use crate::runtime::status::Status;
use crate::runtime::subscribers::Subscriber;
use crate::session::delivery::Delivery;
use crate::trust::access::Access;
use crate::trust::network_key::NetworkKey;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::ConnectAddr;
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
    /// A router passes on connections to this node at this address from now on, or no more.
    Mapped(Option<SocketAddr>),
    /// Join through one more address.
    Connect(ConnectAddr, Sender<Result<(), RequestError>>),
    /// Send a ping to this peer, and reply with its number.
    Ping(PeerId, Sender<Result<u64, RequestError>>),
    /// Forget this peer.
    Forget(PeerId, Sender<Result<(), RequestError>>),
    /// Reply with what is known of a peer.
    PeerHistory(PeerId, Sender<Option<PeerHistory>>),
    /// Reply with what has happened at an address that the user named.
    AddressHistory(DialAddr, Sender<Vec<HistoryEntry>>),
    /// The alert program has run for this phase of the incident with this id.
    AlertDone(u64, AlertPhase),
    /// Reply once membership has settled.
    WhenSettled(Sender<()>),
}
