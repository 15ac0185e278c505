//! A peer as it is stored between two runs of this node.

use std::time::Duration;

use super::io::UnixTime;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;

/// A peer that a handshake has proven, in this run or a previous one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownPeer {
    /// The peer's id.
    pub id: PeerId,
    /// Its self-declared name, empty if it has none.
    pub name: String,
    /// The time of its first session.
    pub first_seen: UnixTime,
    /// The last time at which it was connected.
    pub last_seen: UnixTime,
    /// Whether its last session ended with a goodbye because it left.
    pub left: bool,
    /// The time for which it was connected in all. From one run to the next it counts whole seconds.
    pub connected: Duration,
    /// The time since then for which this node was connected to another peer. From one run to the next it counts
    /// whole seconds. It is zero while the peer is connected.
    pub missed: Duration,
    /// Its addresses, best first.
    pub addrs: Vec<KnownAddr>,
}

/// An address of a known peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KnownAddr {
    /// The address.
    pub addr: DialAddr,
    /// The last time at which the peer was reached there; `None` if the peer only claimed the address.
    pub last_success: Option<UnixTime>,
    /// Whether the peer connected from this IP address and said that it listens at this port.
    pub is_origin: bool,
    /// Whether it is a name that must not lead into a private network, because only peers outside of these told it.
    pub is_foreign: bool,
}
