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
        /// Whether the loss is part of an isolation of this node, which [`Event::Isolated`] has reported. In JSON only
        /// if it is true.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        quiet: bool,
    },
    /// What the other members say of a peer that was lost: whether the peer or the link to it has failed. It follows
    /// `down` as soon as they have answered. If later answers change it, another one follows.
    #[non_exhaustive]
    Verdict {
        /// The peer's id.
        peer: PeerId,
        /// Its self-declared name.
        name: String,
        /// The address at which it listens, as far as known.
        addr: DialAddr,
        /// The verdict.
        verdict: Verdict,
        /// The number of members that were asked.
        asked: usize,
        /// The number of members that hear the peer.
        seen_by: usize,
        /// The time since this node or a member that was asked last heard the peer, in milliseconds.
        heard_ms: Option<u64>,
    },
    /// This node has lost more than half of its peers at once, so it is cut off itself. A `down` that is `quiet`
    /// follows for each of them.
    #[non_exhaustive]
    Isolated {
        /// The number of peers that are lost.
        lost: usize,
        /// The number of members before, this node included.
        members: usize,
    },
    /// This node is connected again to at least half of the peers that it had before it was isolated.
    #[non_exhaustive]
    Rejoined {
        /// Number of members now, this node included.
        members: usize,
    },
    /// A peer is connected again, but was lost more than once in a short time: `up` follows once its connection has
    /// held for a while. Until then losses of it are not reported.
    #[non_exhaustive]
    Unstable {
        /// The peer's id.
        peer: PeerId,
        /// Its self-declared name.
        name: String,
        /// The address at which it listens, as far as known.
        addr: DialAddr,
        /// The number of times that it was lost in the last ten minutes.
        losses: usize,
    },
    /// An incident began or ended, and of all members it is this node's turn to tell its user. Only nodes with
    /// [`Config::alerts`](crate::Config::alerts) emit it; see [`NodeHandle::alert_done`](crate::NodeHandle::alert_done).
    #[non_exhaustive]
    Alert {
        /// The name of the incident, 16 hexadecimal digits, the same at every member.
        incident: String,
        /// The kind of the incident.
        kind: AlertKind,
        /// Whether it begins or ends.
        phase: AlertPhase,
        /// The peers that it concerns.
        peers: Vec<PeerId>,
        /// Their self-declared names, in the same order.
        names: Vec<String>,
        /// The same as a line for people.
        text: String,
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

    /// The peer that the event is about, if any.
    pub(crate) fn peer(&self) -> Option<&PeerId> {
        match self {
            Self::Up { peer, .. }
            | Self::Down { peer, .. }
            | Self::Left { peer, .. }
            | Self::Ping { peer, .. }
            | Self::Message { peer, .. }
            | Self::Path { peer, .. }
            | Self::Verdict { peer, .. }
            | Self::Unstable { peer, .. } => Some(peer),
            Self::Listening { .. }
            | Self::Isolated { .. }
            | Self::Rejoined { .. }
            | Self::Alert { .. }
            | Self::Stopped => None,
        }
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

/// What has failed when a peer is lost, as the other members see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// The peer: no member hears it, or at most one among several that do not.
    Node,
    /// The link between this node and the peer: other members hear the peer.
    Link,
    /// This node: it lost more than half of its peers at once.
    #[serde(rename = "self")]
    Isolated,
    /// No member could be asked, or most have not answered.
    Unknown,
}

impl Verdict {
    /// All verdicts.
    pub const ALL: [Self; 4] = [Self::Node, Self::Link, Self::Isolated, Self::Unknown];

    /// The verdict as one lower-case word, as in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Link => "link",
            Self::Isolated => "self",
            Self::Unknown => "unknown",
        }
    }

    /// The verdict with its reason, of an event with these numbers: `node: 0 of 7 asked hear it`.
    #[must_use]
    pub fn explain(self, asked: usize, seen_by: usize) -> String {
        match (self, asked) {
            (Self::Unknown, 0) => "unknown: no member to ask".to_owned(),
            (Self::Unknown, _) => format!("unknown: too few answers from {asked} asked"),
            (Self::Node, 0) => "node: its machine answers that it is gone".to_owned(),
            (Self::Isolated, _) => "self: this node is cut off".to_owned(),
            (verdict, _) => format!("{verdict}: {seen_by} of {asked} asked hear it"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The kind of an incident of which one member tells its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AlertKind {
    /// A node has failed.
    Node,
    /// The link between two members has failed for a while.
    Link,
    /// Several members were lost at once.
    Partition,
    /// This node is isolated.
    Isolated,
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Node => "node",
            Self::Link => "link",
            Self::Partition => "partition",
            Self::Isolated => "isolated",
        })
    }
}

/// Whether an incident begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum AlertPhase {
    /// It begins.
    Begin,
    /// It is over.
    End,
}

impl fmt::Display for AlertPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Begin => "begin",
            Self::End => "end",
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
            Self::Down { peer, name, addr, reason, members, .. } => {
                write!(f, "down       {} {addr} {reason} ({})", PeerLabel(peer, name), Members(*members))
            }
            Self::Left { peer, name, addr, members } => {
                write!(f, "left       {} {addr} ({})", PeerLabel(peer, name), Members(*members))
            }
            Self::Verdict { peer, name, addr, verdict, asked, seen_by, heard_ms } => {
                write!(f, "verdict    {} {addr} {verdict}", PeerLabel(peer, name))?;
                write!(f, " (seen by {seen_by} of {asked} asked")?;
                if let Some(ms) = heard_ms {
                    write!(f, ", heard {ms} ms ago")?;
                }
                f.write_str(")")
            }
            Self::Isolated { lost, members } => {
                write!(f, "isolated   {lost} of {} lost", Members(*members))
            }
            Self::Rejoined { members } => write!(f, "rejoined   ({})", Members(*members)),
            Self::Unstable { peer, name, addr, losses } => {
                write!(f, "unstable   {} {addr} (lost {losses} times)", PeerLabel(peer, name))
            }
            Self::Alert { incident, kind, phase, text, .. } => {
                write!(f, "alert      {incident} {kind} {phase}: {text}")
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
