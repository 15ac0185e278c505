//! The inputs and outputs of the mesh.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::event::{AlertPhase, Event};
use crate::net::addr::DialAddr;
use crate::net::beacon::Beacon;
use crate::trust::access::{Access, Refusal};
use crate::trust::key_ring::KeyRing;
use crate::trust::network_key::NetworkKey;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::{ConnectAddr, Expected, Pin};
use crate::wire::{ByeReason, CircuitId, CircuitReason, Hello, Message};

/// The name of one session, dialled or accepted. It is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    const DIALLED: u64 = 1;
    const CARRIED: u64 = 2;
    const PUNCHED: u64 = 4;
    const FLAGS: u64 = 7;

    /// The `n`th session that a peer dialled. The listener counts these.
    #[must_use]
    pub const fn accepted(n: u64) -> Self {
        Self(n << 3)
    }

    /// The `n`th session that this node dialled. The mesh counts these.
    #[must_use]
    pub const fn dialled(n: u64) -> Self {
        Self(n << 3 | Self::DIALLED)
    }

    /// The `n`th session inside a circuit. The mesh counts these. This node dialled it if it opened the circuit.
    #[must_use]
    pub const fn carried(n: u64, is_dialled: bool) -> Self {
        Self(n << 3 | Self::CARRIED | if is_dialled { Self::DIALLED } else { 0 })
    }

    /// The `n`th session on a connection that this node and a peer open at once, through NATs. The mesh counts these. Of
    /// the two nodes the one with the smaller id counts as the dialler.
    #[must_use]
    pub const fn punched(n: u64, is_dialled: bool) -> Self {
        Self(n << 3 | Self::PUNCHED | if is_dialled { Self::DIALLED } else { 0 })
    }

    /// Whether this node and the peer opened the connection at once.
    #[must_use]
    pub const fn is_punched(self) -> bool {
        self.0 & Self::PUNCHED != 0
    }

    /// Whether the listener accepted it. The mesh ordered all others.
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        self.0 & Self::FLAGS == 0
    }

    /// Whether it runs inside a circuit.
    #[must_use]
    pub const fn is_carried(self) -> bool {
        self.0 & Self::CARRIED != 0
    }

    /// Whether this node dialled it.
    #[must_use]
    pub const fn is_dialled(self) -> bool {
        self.0 & Self::DIALLED != 0
    }
}

/// `d7` for the seventh dialled, `a7` for the seventh accepted; `cd7` and `ca7` inside a circuit, `pd7` and `pa7` through
/// NATs.
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match (self.is_carried(), self.is_punched()) {
            (true, _) => "c",
            (_, true) => "p",
            _ => "",
        };
        write!(f, "{way}{}{}", if self.is_dialled() { 'd' } else { 'a' }, self.0 >> 3)
    }
}

/// Wall-clock time in whole seconds since 1970 (UTC). The caller passes it in, to be stored and shown. No rule
/// depends on it, because the clock may be wrong by years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

/// An event outside of the mesh, which the coordinator passes in.
#[derive(Clone, Debug)]
pub enum Input {
    /// A session is authenticated and both sides have said Hello.
    SessionUp(SessionUp),
    /// A message arrived on a session that is up. Never `Hello` or `Bye`: a second Hello is a protocol error,
    /// and a Bye ends the session with its reason in `SessionDown`. Never a heartbeat.
    Received {
        /// The session on which it arrived.
        session: SessionId,
        /// The message.
        message: Message,
        /// The time of arrival.
        arrived: Instant,
        /// The session's last round-trip time, if it has not been reported yet.
        rtt: Option<Duration>,
    },
    /// A heartbeat or an acknowledgement arrived on a session that is up, and brought news: the first vitals, other
    /// vitals, or a round-trip time.
    Heartbeat {
        /// The session on which it arrived.
        session: SessionId,
        /// What the peer told of itself.
        vitals: Vitals,
        /// The time of arrival.
        arrived: Instant,
        /// The session's last round-trip time, if it has not been reported yet.
        rtt: Option<Duration>,
    },
    /// A session that was up has ended; no input about it follows.
    SessionDown {
        /// The session.
        session: SessionId,
        /// The reason.
        reason: DisconnectReason,
    },
    /// The answer to `Output::DrainUnread`: the session has handed over all messages that had arrived.
    Drained {
        /// The session.
        session: SessionId,
        /// The time at which its last message arrived.
        heard: Instant,
    },
    /// A dial ended without a session.
    DialFailed {
        /// The session's name in `Output::Dial`.
        session: SessionId,
        /// The reason.
        reason: DialError,
    },
    /// A beacon of this network arrived.
    Beacon(Beacon),
    /// The allow and deny lists have changed: only peers that these admit may be connected.
    Access(Access),
    /// The user changes the key of the network.
    RotateNetworkKey {
        /// The new key.
        key: NetworkKey,
        /// The connected time for which members that were away may still prove the key before.
        grace: Duration,
    },
    /// A router passes on connections to this node at this address from now on, or no more.
    Mapped(Option<SocketAddr>),
    /// The user wants to join through one more address, as with `--connect`. For an address that is there already, the
    /// mesh dials it soon.
    Connect(ConnectAddr),
    /// The user wants a ping to this peer now.
    Ping(PeerId),
    /// The user wants this peer forgotten. Nothing changes while it is connected.
    Forget(PeerId),
    /// The alert program of this node has run for an incident.
    AlertDone {
        /// The incident's id.
        incident: u64,
        /// Whether for its begin or its end.
        phase: AlertPhase,
    },
    /// The user wants to leave: the mesh says goodbye to all peers, then does nothing more.
    Leave,
}

/// A circuit on a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CircuitAt {
    /// The session that carries it.
    pub session: SessionId,
    /// The circuit's name on that session.
    pub circuit: CircuitId,
}

/// What a node tells of itself with each heartbeat and acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Its membership digest; see [`membership_digest`](super::membership_digest).
    pub digest: u64,
    /// Its heartbeat interval now, in milliseconds. An overloaded node has a longer one.
    pub interval_ms: u32,
}

/// A session that has come up.
#[derive(Clone, Debug)]
pub struct SessionUp {
    /// The session's name.
    pub session: SessionId,
    /// The peer at the other end, proven by the handshake.
    pub peer: PeerId,
    /// The peer's claims about itself.
    pub hello: Hello,
    /// The other end's socket address: the one that this node dialled, or the source of the connection. Inside a circuit
    /// it is that of the carrier.
    pub remote: SocketAddr,
    /// The address of this end; `None` inside a circuit.
    pub local: Option<SocketAddr>,
    /// The network key that the peer has proven; `None` in an open network.
    pub network_key: Option<NetworkKey>,
    /// This node's heartbeat interval as its Hello told the peer, in milliseconds.
    pub told_interval_ms: u32,
}

/// The reason for the end of a session that was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The connection was closed or broke, without a goodbye.
    Closed,
    /// The peer said goodbye with this reason.
    Bye(ByeReason),
    /// The peer broke the protocol.
    Protocol,
    /// The peer did not read the frames that were sent to it.
    Slow,
}

/// The reason for the end of a dial without a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialError {
    /// No connection, no handshake, or no Hello; a text for the log.
    Failed(String),
    /// The system of that machine answered that no process listens there; a text for the log.
    Refused(String),
    /// Another peer than the expected one answered.
    WrongId {
        /// The id in its certificate; not proven yet.
        found: PeerId,
    },
    /// Only peers that the dial was to skip answered at the name.
    NothingNew,
    /// Every IP address of the name leads to this node itself.
    OwnAddress,
    /// The mesh cancelled the dial.
    Cancelled,
}

/// The origin of the address of a dial. It decides where a name may lead, and which budget pays for its lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialSource {
    /// The user gave it with `--connect`.
    User,
    /// It is an address of a peer that this node has met.
    KnownPeer,
    /// It is an address of a peer that this node has only heard of.
    UnknownPeer,
}

impl DialSource {
    /// Whether a peer told the address, not the user. A name that a peer told must not lead back to this machine:
    /// otherwise a stranger could point this node at services on its own machine.
    #[must_use]
    pub fn is_from_peer(self) -> bool {
        self != Self::User
    }
}

/// What a dial to a name leaves out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Skip {
    /// Of the IP addresses of the name, those at which peers are connected. After the others the dial tries one of them at
    /// most: a proxy may lead to another peer each time.
    pub addrs: Vec<SocketAddr>,
    /// The connected peers. A dial that reaches one of them ends without a session.
    pub peers: Vec<PeerId>,
    /// Whether addresses in private networks are left out, because only peers outside of these told the name.
    pub private: bool,
}

/// An action outside of the mesh, which the coordinator carries out.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Connect, authenticate, exchange Hellos. The answer is `SessionUp` or `DialFailed`.
    Dial {
        /// The session's name if it comes up.
        session: SessionId,
        /// The address to dial.
        addr: DialAddr,
        /// The peer that must answer.
        expected: Expected,
        /// The origin of the address.
        source: DialSource,
        /// What a dial to a name leaves out.
        skip: Skip,
    },
    /// Send a message on a session that is up.
    Send {
        /// The session.
        session: SessionId,
        /// The message.
        message: Message,
    },
    /// Send a heartbeat on a session that is up and that this node leads. Sessions acknowledge heartbeats themselves.
    Heartbeat {
        /// The session.
        session: SessionId,
    },
    /// Hand over the messages that have arrived on a session and are not read yet, then answer with `Drained`.
    /// Otherwise the mesh would declare a peer dead whose messages it has only not read. If it is known that the
    /// session has heard its peer later than `since`, the answer may be given at once.
    DrainUnread {
        /// The session.
        session: SessionId,
        /// The time at which it heard its peer, as far as the mesh knows.
        since: Instant,
    },
    /// Say goodbye and close, or cancel a dial. Messages that the peer sent before it reads the goodbye still
    /// arrive as `Received`; then `SessionDown` or `DialFailed` follows.
    Close {
        /// The session, or the dial.
        session: SessionId,
        /// The reason to send.
        reason: ByeReason,
    },
    /// Pass the bytes of a circuit on one session to a circuit on another, and back.
    Carry {
        /// The two circuits.
        circuits: [CircuitAt; 2],
        /// When each session's peer is acquainted, if it stays connected. Until then it may send less in circuits.
        acquainted_at: [Instant; 2],
    },
    /// Start a session inside an open circuit, as the dialler or as the acceptor: its name tells. The answer is
    /// `SessionUp` or `DialFailed`.
    EnterCircuit {
        /// The session's name if it comes up.
        session: SessionId,
        /// The circuit, on the session with the carrier.
        at: CircuitAt,
        /// The peer that must be at the other end.
        peer: PeerId,
        /// The carrier's socket address.
        remote: SocketAddr,
        /// When the carrier is acquainted, if it stays connected.
        acquainted_at: Instant,
    },
    /// Connect through NATs at the same time as the peer. The answer is `SessionUp` or `DialFailed`.
    Punch {
        /// The session's name if it comes up.
        session: SessionId,
        /// The peer that must be at the other end.
        peer: PeerId,
        /// The peer's address, outside of its NAT.
        addr: SocketAddr,
        /// The session from whose local port this node connects.
        beside: SessionId,
    },
    /// Close a circuit, or refuse to open it.
    CloseCircuit {
        /// The circuit.
        at: CircuitAt,
        /// The reason.
        reason: CircuitReason,
    },
    /// What to tell with heartbeats and acknowledgements from now on.
    Vitals(Vitals),
    /// Accept these network keys from now on, and store them.
    NetworkKeys(KeyRing),
    /// Persist [`Mesh::known_peers`](super::Mesh::known_peers) soon: they have changed.
    Persist,
    /// Deliver an event to the subscribers.
    Notify(Event),
    /// Write a line to the log.
    Report(Report),
}

/// A finding for the log, beside the events.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A `--connect` address did not answer for the first time in this outage. The mesh keeps dialling it.
    BootstrapUnreachable {
        /// The address.
        addr: DialAddr,
        /// The error, as a text.
        detail: String,
    },
    /// A `--connect` address leads to this node itself. The mesh does not dial it again, unless it is a name, which may
    /// lead to others, too.
    BootstrapIsSelf {
        /// The address.
        addr: DialAddr,
    },
    /// A dial failed.
    DialFailed {
        /// The peer that was expected, if any.
        peer: Option<PeerId>,
        /// The address.
        addr: DialAddr,
        /// The error, as a text.
        detail: String,
        /// The time until the next attempt; `None` if there is none.
        retry_in: Option<Duration>,
    },
    /// Another key, so another peer, answers at a known peer's address.
    WrongId {
        /// The address.
        addr: DialAddr,
        /// The known peer of that address.
        expected: PeerId,
        /// The time of the first session with the known peer.
        first_seen: UnixTime,
        /// The id in the certificate of the peer that answers now; not proven.
        found: PeerId,
        /// Whether that peer is refused (`--strict`); otherwise it counts as a new peer.
        is_refused: bool,
    },
    /// Another peer than the pinned one answers at a `--connect` address. Nothing was sent to it or stored. The
    /// mesh keeps dialling the address.
    WrongPin {
        /// The address.
        addr: DialAddr,
        /// The pinned peer.
        pin: Pin,
        /// The id in the certificate of the peer that answers; not proven.
        found: PeerId,
    },
    /// The lists exclude a peer that connected, or that was connected when the lists changed.
    NotAdmitted {
        /// The peer.
        peer: PeerId,
        /// The address.
        addr: DialAddr,
        /// The list that excludes it.
        why: Refusal,
    },
    /// A peer refused this node.
    RefusedByPeer {
        /// The peer.
        peer: PeerId,
        /// The reason that the peer gave.
        reason: ByeReason,
    },
    /// Peers are known from a previous run of this node, and are dialled.
    Restored {
        /// The number of these peers.
        peers: usize,
        /// The number of peers that are forgotten, because they missed `forget_after` of connected time.
        forgotten: usize,
        /// The number of peers that are forgotten, because the table of peers has no room for them.
        surplus: usize,
    },
    /// Another process uses this node's key: a handshake with it has proven that.
    OurKeyInUse {
        /// The address of that process.
        addr: SocketAddr,
    },
    /// A peer says that another process uses this node's key. That may be false.
    OurKeyClaimed {
        /// The peer.
        by: PeerId,
        /// The peer's address.
        at: SocketAddr,
        /// The address of the other process, if the peer gives one.
        used_at: Option<SocketAddr>,
    },
    /// Two processes use one peer's key; the newer one stays connected.
    PeerKeyInUse {
        /// The peer with that key.
        peer: PeerId,
        /// The address of the refused process.
        addr: SocketAddr,
    },
    /// A list of peers contains new peers, or peers that returned.
    ListNews {
        /// The sender of the list.
        from: PeerId,
        /// The number of these peers.
        news: usize,
    },
    /// The table is full of connected peers, so a peer was refused.
    TableFull {
        /// The peer.
        peer: PeerId,
    },
    /// No more peers may be connected, so a peer that was no member for a minute gave way to one that was.
    Displaced {
        /// The peer that gave way.
        peer: PeerId,
    },
    /// A peer's table is full of connected peers, so it refused this node.
    RefusedAsFull {
        /// The peer.
        peer: PeerId,
        /// The address.
        addr: SocketAddr,
        /// The time until the next dial.
        retry_in: Duration,
    },
    /// The network has another key from now on.
    NetworkKeyChanged {
        /// The peer that told it; `None` if this node's user changed it.
        by: Option<PeerId>,
        /// The number of changes since the network began.
        generation: u64,
    },
    /// A peer tells another key of the network, but the keys of this node come from files, which only its user changes.
    NetworkKeyOutdated {
        /// The peer.
        by: PeerId,
    },
    /// No member has run its alert program for an incident with success. This node gives up.
    AlertFailed {
        /// The incident's id.
        incident: String,
    },
    /// This node stalled, so peers get that much more time before they count as dead.
    Stalled {
        /// The duration of the stall.
        gap: Duration,
    },
}
