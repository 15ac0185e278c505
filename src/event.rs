//! The events of a node.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::util::text::Escaped;

/// A change or message that a node reports to its user. Events come in the order in which they happened.
///
/// `members` counts live members including this node. As JSON (serde) these are the objects of
/// `--output json`, but for the `time` that the printer adds.
///
/// A later version may add fields to a variant, so only the crate builds one. A test of a program reads the event
/// from JSON:
///
/// ```
/// use p2p_gossip::Event;
/// let id = "d7".repeat(32);
/// let json = format!(r#"{{"event":"up","peer":"{id}","name":"db1","addr":"192.0.2.7:8080","members":2}}"#);
/// let event: Event = serde_json::from_str(&json)?;
/// assert!(matches!(event, Event::Up { members: 2, .. }));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Event {
    /// The port accepts connections.
    #[non_exhaustive]
    Listening {
        /// This node's id.
        id: PeerId,
        /// The listen address, with the actual port.
        addr: SocketAddr,
    },
    /// A peer has become a member: connected and authenticated. A peer that refused this node the last time counts
    /// only after its first message beyond the handshake.
    #[non_exhaustive]
    Up {
        /// The peer's id.
        peer: PeerId,
        /// Its self-declared name, empty if it has none.
        name: String,
        /// The address at which it listens, as far as known.
        addr: DialAddr,
        /// The peer through which this node reaches it; `None` if directly.
        via: Option<PeerId>,
        /// Number of members now, this node included.
        members: usize,
    },
    /// The path to a member has changed, and nothing was lost.
    #[non_exhaustive]
    Path {
        /// The peer's id.
        peer: PeerId,
        /// Its self-declared name.
        name: String,
        /// The address at which it listens, as far as known.
        addr: DialAddr,
        /// The peer through which this node reaches it now; `None` if directly.
        via: Option<PeerId>,
    },
    /// A connected peer was lost; it is redialled.
    #[non_exhaustive]
    Down {
        /// The peer's id.
        peer: PeerId,
        /// Its self-declared name.
        name: String,
        /// The address at which it listens, as far as known.
        addr: DialAddr,
        /// The reason for the loss.
        reason: DownReason,
        /// Number of members now, this node included.
        members: usize,
    },
    /// A peer said goodbye; it is not redialled.
    #[non_exhaustive]
    Left {
        /// The peer's id.
        peer: PeerId,
        /// Its self-declared name.
        name: String,
        /// The address at which it listened, as far as known.
        addr: DialAddr,
        /// Number of members now, this node included.
        members: usize,
    },
    /// A peer's ping arrived.
    #[non_exhaustive]
    Ping {
        /// The sender.
        peer: PeerId,
        /// Its self-declared name.
        name: String,
        /// The address at which it listens, as far as known.
        addr: DialAddr,
        /// The peer through which this node reaches the sender; `None` if directly.
        via: Option<PeerId>,
        /// The number of this ping among those that the sender sent to this node in its run, from 1.
        seq: u64,
        /// The text of the ping.
        text: String,
        /// Last measured round-trip time to this peer in milliseconds; `None` before the first.
        rtt_ms: Option<f64>,
    },
    /// The node has left the mesh; nothing follows.
    Stopped,
    /// A message that a peer's user sent to all peers arrived.
    #[non_exhaustive]
    Message {
        /// The sender.
        peer: PeerId,
        /// Its self-declared name.
        name: String,
        /// The address at which it listens, as far as known.
        addr: DialAddr,
        /// The text of the message.
        text: String,
    },
}

impl Event {
    /// Whether peers cause it as often as they like (pings, messages), unlike changes of the membership.
    #[must_use]
    pub fn is_traffic(&self) -> bool {
        matches!(self, Self::Ping { .. } | Self::Message { .. })
    }
}

/// The reason for which a connected peer counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DownReason {
    /// The connection was closed or broke.
    Closed,
    /// It was silent for the timeout.
    Timeout,
    /// A new process with the same key took its place; `up` follows.
    Restarted,
    /// It did not read the frames that were sent to it.
    Slow,
    /// It broke the protocol.
    Protocol,
    /// It refused this node, for example because its table is full, this node's key is used twice or its lists
    /// exclude this node.
    Refused,
    /// This node's lists exclude it now.
    Denied,
    /// This node's table of peers is full, and a trusted peer needed its place.
    Displaced,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Restarted => "restarted",
            Self::Slow => "slow",
            Self::Protocol => "protocol",
            Self::Refused => "refused",
            Self::Denied => "denied",
            Self::Displaced => "displaced",
        })
    }
}

/// One line for people, without a time stamp; text from peers is escaped.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening { id, addr } => write!(f, "listening  {addr} as {}", id.short()),
            Self::Up { peer, name, addr, via, members } => {
                let (peer, members) = (PeerLabel(peer, name), Members(*members));
                write!(f, "up         {peer} {addr}{} ({members})", Via(via.as_ref()))
            }
            Self::Path { peer, name, addr, via: None } => {
                write!(f, "path       {} {addr} direct", PeerLabel(peer, name))
            }
            Self::Path { peer, name, addr, via } => {
                write!(f, "path       {} {addr}{}", PeerLabel(peer, name), Via(via.as_ref()))
            }
            Self::Down { peer, name, addr, reason, members } => {
                write!(f, "down       {} {addr} {reason} ({})", PeerLabel(peer, name), Members(*members))
            }
            Self::Left { peer, name, addr, members } => {
                write!(f, "left       {} {addr} ({})", PeerLabel(peer, name), Members(*members))
            }
            Self::Ping { peer, name, addr, seq, text, rtt_ms, .. } => {
                write!(f, "ping       {} {addr} #{seq} ", PeerLabel(peer, name))?;
                if let Some(ms) = rtt_ms {
                    write!(f, "{ms:.2} ms ")?;
                }
                Escaped(text).fmt(f)
            }
            Self::Stopped => f.write_str("stopped"),
            Self::Message { peer, name, addr, text } => {
                write!(f, "message    {} {addr} {}", PeerLabel(peer, name), Escaped(text))
            }
        }
    }
}

/// `1 member`, `2 members`.
struct Members(usize);

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} member{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// ` via 0123456789`, or nothing.
struct Via<'a>(Option<&'a PeerId>);

impl fmt::Display for Via<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |via| write!(f, " via {}", via.short()))
    }
}

struct PeerLabel<'a>(&'a PeerId, &'a str);

impl fmt::Display for PeerLabel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(peer, name) = self;
        if name.is_empty() {
            write!(f, "{}", peer.short())
        } else {
            write!(f, "{} {}", Escaped(name), peer.short())
        }
    }
}
