//! A peer as it is remembered between two runs of this node.

use std::time::Duration;

use super::io::UnixTime;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;

/// A peer that a handshake has proven once, in this process or an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// The peer's id.
    pub id: PeerId,
    /// Its self-declared name, empty if it has none.
    pub name: String,
    /// When it was first met.
    pub first_seen: UnixTime,
    /// When it was last connected.
    pub last_seen: UnixTime,
    /// Whether it said goodbye then.
    pub left: bool,
    /// How long this node has run since then while it was connected to another peer. It counts whole seconds
    /// from one run to the next, and is zero while the peer is connected.
    pub missed: Duration,
    /// Where it may be reached, best first.
    pub addrs: Vec<KnownAddr>,
}

/// An address of a known peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAddr {
    /// The address.
    pub addr: DialAddr,
    /// When the peer was last reached there; `None` if it only said so.
    pub last_success: Option<UnixTime>,
}
