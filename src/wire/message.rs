//! The messages between peers, the limits of their parts, and the encoding of ids and addresses.

use std::borrow::Cow;
use std::net::SocketAddr;

use bincode::de::Decoder;
use bincode::de::read::Reader as _;
use bincode::enc::Encoder;
use bincode::enc::write::Writer as _;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

use super::circuit::{CIRCUIT_BYTES_MAX, CircuitId, CircuitReason};
use super::error::WireError;
use super::incident::{INCIDENT_PEERS_MAX, IncidentNews};
use super::numbered::numbered;
use crate::limits::{ADDRS_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PING_TEXT_BYTES_MAX};
use crate::net::addr::DialAddr;
use crate::net::host_name::{HOST_BYTES_MAX, HostName};
use crate::trust::network_key::NetworkKey;
use crate::trust::peer_id::PeerId;

/// Records in one [`Message::Peers`]; longer lists are sent as several. This many fit into a frame even if
/// each has [`ADDRS_MAX`] host names of the longest form.
pub const RECORDS_MAX: usize = 60;

/// Capabilities in one [`Hello`]: far more than features are ever optional.
pub const CAPABILITIES_MAX: usize = 32;
/// Most proofs of network keys in a Hello: the current key, and earlier ones while the network changes its key.
pub const PROOFS_MAX: usize = 8;
/// Bytes in one [`Message::Extension`]. This many are skipped for a peer of a later version.
pub const EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// Peers in one [`Message::WitnessRequest`] or [`Message::WitnessReport`]; more go in several messages.
pub const SIGHTINGS_MAX: usize = 64;

/// Memory that decoding one address claims: the value itself and the allocation of a short host name.
const ADDR_DECODED_BYTES: usize = size_of::<DialAddr>() + 32;

/// A message between two peers.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Message {
    /// First message of both sides, exactly once.
    Hello(Hello),
    /// The application's ping, which the receiver shows.
    Ping {
        /// The sender's count of pings to this receiver, from 1.
        seq: u64,
        /// At most [`PING_TEXT_BYTES_MAX`] bytes.
        text: String,
    },
    /// The leader of the pair, which is the node with the smaller id, sends this every heartbeat interval.
    Heartbeat {
        /// The sender's count of heartbeats on this session, from 1. One that repeats the last number tells the first
        /// round-trip time and is not answered.
        seq: u64,
        /// Digest of the sender and the peers that it is connected to; see
        /// [`membership_digest`](crate::mesh::membership_digest).
        digest: u64,
        /// The sender's heartbeat interval now, in milliseconds. An overloaded node sends fewer heartbeats.
        interval_ms: u32,
        /// The last round-trip time that the sender measured on this session, in microseconds; 0 before the first.
        rtt_us: u32,
    },
    /// Asks for the list of peers.
    PeersRequest,
    /// Answers [`Message::PeersRequest`].
    Peers {
        /// At most [`RECORDS_MAX`] of them.
        records: Vec<PeerRecord>,
        /// Whether another `Peers` follows for the same request.
        more: bool,
    },
    /// News for the receiver's user; the session goes on.
    Notice(Notice),
    /// The last message. The sender still reads until the end of the stream, so no message under way is lost.
    Bye(ByeReason),
    /// The text that the sender's user sends to all connected peers.
    Broadcast {
        /// At most [`MESSAGE_BYTES_MAX`] bytes.
        text: String,
    },
    /// The receiver of a [`Message::Heartbeat`] answers it at once.
    HeartbeatAck {
        /// The number of the heartbeat.
        seq: u64,
        /// The digest of the sender of this answer.
        digest: u64,
        /// The heartbeat interval of the sender of this answer now, in milliseconds.
        interval_ms: u32,
    },
    /// A message of a later version of the program. A receiver that does not know its kind ignores it.
    Extension {
        /// The kind of the message. This version sends none and knows none.
        kind: u32,
        /// At most [`EXTENSION_BYTES_MAX`] bytes.
        bytes: Vec<u8>,
    },
    /// The key of the network has changed. Goes only to a peer that has proven a network key.
    NetworkKey {
        /// The number of changes since the network began.
        generation: u64,
        /// The new key.
        key: NetworkKey,
        /// The connected time in seconds for which the sender still accepts the key before.
        grace_s: u64,
    },
    /// Answers [`Message::NetworkKey`]: the sender holds the key of this generation.
    NetworkKeyHeld {
        /// The number of changes since the network began.
        generation: u64,
    },
    /// The sender has lost these peers. It tells what it knows of them, and asks what the receiver knows.
    WitnessRequest {
        /// At most [`SIGHTINGS_MAX`] of them.
        lost: Vec<Sighting>,
    },
    /// Answers [`Message::WitnessRequest`].
    WitnessReport {
        /// At most [`SIGHTINGS_MAX`] of them.
        sightings: Vec<Sighting>,
    },
    /// Tells of an incident, so that one alert program runs for it and no other.
    Incident(IncidentNews),
    /// Asks the receiver to carry a circuit to another of its peers. The sender names the circuit.
    CircuitOpen {
        /// The name of the circuit on this session.
        circuit: CircuitId,
        /// The peer to reach.
        target: PeerId,
    },
    /// Offers the receiver a circuit from another peer of the sender. The sender names the circuit.
    CircuitOffer {
        /// The name of the circuit on this session.
        circuit: CircuitId,
        /// The peer that wants to reach the receiver. A handshake inside the circuit proves it.
        from: PeerId,
    },
    /// The circuit is open: answers `CircuitOpen` and `CircuitOffer`. `CircuitClose` refuses.
    CircuitAccept {
        /// The name of the circuit.
        circuit: CircuitId,
    },
    /// Bytes inside a circuit.
    CircuitData {
        /// The name of the circuit.
        circuit: CircuitId,
        /// At least one byte, and at most [`CIRCUIT_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// The receiver may send that many more bytes inside a circuit.
    CircuitCredit {
        /// The name of the circuit.
        circuit: CircuitId,
        /// The number of bytes.
        bytes: u32,
    },
    /// The circuit is closed, or is not opened. No message about it follows.
    CircuitClose {
        /// The name of the circuit.
        circuit: CircuitId,
        /// The reason.
        reason: CircuitReason,
    },
    /// The address at which the sender sees the receiver. Goes only to a peer that has
    /// [`PUNCH_CAPABILITY`](super::PUNCH_CAPABILITY).
    SeenAt {
        /// The receiver's end of the connection.
        addr: SocketAddr,
    },
    /// Inside a circuit: proposes that both ends connect to each other at once, or accepts that. Goes only to a peer that
    /// has [`PUNCH_CAPABILITY`](super::PUNCH_CAPABILITY).
    Punch {
        /// The address of the sender, as the carrier sees it.
        addr: SocketAddr,
    },
    /// Another address at which the sender may be reached. Goes only to a peer that has [`REACHABLE_AT_CAPABILITY`].
    ReachableAt {
        /// The address at which a router passes on connections to the sender, or the one that the sender has towards the
        /// carrier of a circuit.
        addr: SocketAddr,
    },
}

/// What the sender knows of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Sighting {
    /// The peer.
    pub peer: PeerId,
    /// Whether the sender hears the peer.
    pub hearing: Hearing,
    /// The time since the sender last heard the peer, in milliseconds; `u32::MAX` if it never did.
    pub ago_ms: u32,
}

/// Whether a node hears a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Hearing {
    /// It is connected to the peer, and hears it as often as expected.
    Hears,
    /// It is connected to the peer, and has heard nothing for longer than expected.
    Silent,
    /// It has lost the peer.
    Lost,
    /// It does not know the peer, or the peer has left.
    Unknown,
}

/// The number in a [`Hello`]'s capabilities of a node that understands [`Message::ReachableAt`].
pub const REACHABLE_AT_CAPABILITY: u32 = 3;

/// The number in a [`Hello`]'s capabilities of a sender that only looks whether it may join. The receiver answers with its
/// Hello, or a goodbye with the reason, and ends the session before its mesh counts it.
pub const PROBE_CAPABILITY: u32 = 9;

/// Describes the sender; the first message of each side.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Hello {
    /// Random for each process. Tells a restart from a reconnection, and distinguishes two processes with one key.
    pub instance: u64,
    /// Label that the sender chose itself, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// TCP port that the sender listens on.
    pub listen_port: u16,
    /// Addresses at which the sender says it can be reached, besides the one it connects from; best first,
    /// at most [`ADDRS_MAX`].
    pub advertised: Vec<DialAddr>,
    /// The sender's heartbeat interval in milliseconds; the receiver's timeout for this sender depends on it. Heartbeats
    /// and acknowledgements announce a change.
    pub heartbeat_ms: u32,
    /// The numbers of the optional features that the sender has, at most [`CAPABILITIES_MAX`]. A receiver ignores
    /// numbers that it does not know. See [`ALERT_CAPABILITY`](super::ALERT_CAPABILITY) and [`PROBE_CAPABILITY`].
    pub capabilities: Vec<u32>,
    /// Prove that the sender holds network keys, the current one first; see `session/hello.rs`. At most
    /// [`PROOFS_MAX`]. Empty in an open network.
    pub proofs: Vec<[u8; 32]>,
}

#[cfg(test)]
impl Hello {
    /// A Hello without any optional part.
    pub(crate) fn plain() -> Self {
        Self {
            instance: 2,
            name: String::new(),
            listen_port: 0,
            advertised: Vec::new(),
            heartbeat_ms: 1000,
            capabilities: Vec::new(),
            proofs: Vec::new(),
        }
    }
}

/// One peer in a list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PeerRecord {
    /// The peer's id.
    pub id: PeerId,
    /// The peer's addresses, best first; at most [`ADDRS_MAX`].
    pub addrs: Vec<DialAddr>,
    /// Whether the sender is connected to the peer now.
    pub connected: bool,
}

/// News for the receiver's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Notice {
    /// Another process, at this address, uses the receiver's key.
    KeyInUse(SocketAddr),
}

/// Why a session ends. On the wire a reason is its number, so that a later version can have more reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ByeReason {
    /// The sender stops; the receiver should not dial it again.
    Leaving,
    /// Another session between the two goes on.
    Duplicate,
    /// The sender received nothing from the receiver for the timeout.
    Silent,
    /// The receiver broke the protocol.
    Protocol,
    /// Another process with the receiver's key replaced this process.
    Replaced,
    /// Another process with the receiver's key replaced this process, which still runs.
    Cloned,
    /// Both ends are the same node.
    OwnAddress,
    /// The sender's table of peers is full.
    Full,
    /// The sender's allow or deny list refuses the receiver.
    NotAdmitted,
    /// The receiver is at the address of another known peer, and the sender is strict about addresses.
    AddressTaken,
    /// The sender requires a network key, and the receiver proved none.
    NetworkKeyMissing,
    /// The sender requires a network key, and the receiver proved another.
    NetworkKeyWrong,
    /// The receiver proved a network key, and the sender has none.
    NetworkKeyUnknown,
    /// A reason of a later version, which has this number.
    Other(u16),
}

impl ByeReason {
    /// Every reason of this version, in the order of their numbers from 0. Reasons are added at the end, never
    /// removed.
    pub const KNOWN: [Self; 13] = [
        Self::Leaving,
        Self::Duplicate,
        Self::Silent,
        Self::Protocol,
        Self::Replaced,
        Self::Cloned,
        Self::OwnAddress,
        Self::Full,
        Self::NotAdmitted,
        Self::AddressTaken,
        Self::NetworkKeyMissing,
        Self::NetworkKeyWrong,
        Self::NetworkKeyUnknown,
    ];

    /// The reason, worded for the receiver's user: "it" is the sender, "we" are the receiver.
    #[must_use]
    pub fn describe(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Leaving => "it leaves",
            Self::Duplicate => "another connection to it goes on",
            Self::Silent => "it heard nothing from us",
            Self::Protocol => "it says that we broke the protocol",
            Self::Replaced => "another process with our key replaced us",
            Self::Cloned => "another process uses our key",
            Self::OwnAddress => "it is this node itself",
            Self::Full => "its table of peers is full",
            Self::NotAdmitted => "we are on its deny list, or not on its allow list",
            Self::AddressTaken => "we are at the address of another peer that it knows, and it is strict",
            Self::NetworkKeyMissing => "it requires a network key; start with --network-key",
            Self::NetworkKeyWrong => "it holds another network key",
            Self::NetworkKeyUnknown => "it holds no network key; this node requires one",
            Self::Other(number) => {
                return Cow::Owned(format!("for reason {number}, which only a later version knows"));
            }
        })
    }
}

numbered!(ByeReason);

/// Checks the limits that bincode doesn't know, the same for both directions.
pub(super) fn check_limits(message: &Message) -> Result<(), WireError> {
    let limit = |part, length, max| {
        if length > max { Err(WireError::TooLong { part, length, max }) } else { Ok(()) }
    };
    match message {
        Message::Hello(hello) => {
            limit("name", hello.name.len(), NAME_BYTES_MAX)?;
            limit("capabilities", hello.capabilities.len(), CAPABILITIES_MAX)?;
            limit("proofs", hello.proofs.len(), PROOFS_MAX)?;
            limit("advertised addresses", hello.advertised.len(), ADDRS_MAX)
        }
        Message::Ping { text, .. } => limit("ping text", text.len(), PING_TEXT_BYTES_MAX),
        Message::Broadcast { text } => limit("message", text.len(), MESSAGE_BYTES_MAX),
        Message::Peers { records, .. } => {
            limit("list of peers", records.len(), RECORDS_MAX)?;
            records.iter().try_for_each(|r| limit("addresses of a peer", r.addrs.len(), ADDRS_MAX))
        }
        Message::Extension { bytes, .. } => limit("extension", bytes.len(), EXTENSION_BYTES_MAX),
        Message::WitnessRequest { lost: sightings } | Message::WitnessReport { sightings } => {
            limit("list of sightings", sightings.len(), SIGHTINGS_MAX)
        }
        Message::Incident(news) => limit("peers of an incident", news.peers.len(), INCIDENT_PEERS_MAX),
        Message::CircuitData { bytes, .. } => limit("circuit data", bytes.len(), CIRCUIT_BYTES_MAX),
        Message::Heartbeat { .. }
        | Message::HeartbeatAck { .. }
        | Message::CircuitOpen { .. }
        | Message::CircuitOffer { .. }
        | Message::CircuitAccept { .. }
        | Message::CircuitCredit { .. }
        | Message::CircuitClose { .. }
        | Message::SeenAt { .. }
        | Message::Punch { .. }
        | Message::ReachableAt { .. }
        | Message::PeersRequest
        | Message::Notice(_)
        | Message::NetworkKey { .. }
        | Message::NetworkKeyHeld { .. }
        | Message::Bye(_) => Ok(()),
    }
}

impl Encode for NetworkKey {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_bytes().encode(encoder)
    }
}

impl<Context> Decode<Context> for NetworkKey {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Decode::decode(decoder).map(Self::from_bytes)
    }
}

bincode::impl_borrow_decode!(NetworkKey);

impl Encode for PeerId {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_bytes().encode(encoder)
    }
}

impl<Context> Decode<Context> for PeerId {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Decode::decode(decoder).map(Self::from_bytes)
    }
}

bincode::impl_borrow_decode!(PeerId);

/// The tag of an address: an IP address, or a host name.
pub(super) const SOCKET: u8 = 0;
pub(super) const NAME: u8 = 1;

/// Leaves out the scope of a link-local address, which has a meaning on its own host only.
impl Encode for DialAddr {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        match self {
            Self::Socket(addr) => {
                SOCKET.encode(encoder)?;
                addr.encode(encoder)
            }
            Self::LinkLocal { ip, port, .. } => {
                SOCKET.encode(encoder)?;
                SocketAddr::from((*ip, *port)).encode(encoder)
            }
            Self::Name { host, port } => {
                let host = host.as_str().as_bytes();
                NAME.encode(encoder)?;
                // HOST_BYTES_MAX fits into a byte.
                u8::try_from(host.len()).unwrap_or(u8::MAX).encode(encoder)?;
                encoder.writer().write(host)?;
                port.encode(encoder)
            }
        }
    }
}

/// Accepts valid addresses only, and returns one form of each: names in lower case, mapped IPv4 addresses as
/// IPv4.
impl<Context> Decode<Context> for DialAddr {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        decoder.claim_bytes_read(ADDR_DECODED_BYTES)?;
        match u8::decode(decoder)? {
            SOCKET => SocketAddr::decode(decoder).map(Self::from),
            NAME => {
                let mut bytes = [0; HOST_BYTES_MAX];
                let length = usize::from(u8::decode(decoder)?);
                let host = bytes.get_mut(..length).ok_or(DecodeError::Other("host name too long"))?;
                decoder.claim_bytes_read(length)?;
                decoder.reader().read(host)?;
                let host = std::str::from_utf8(host).ok().and_then(|host| HostName::new(host).ok());
                let host = host.ok_or(DecodeError::Other("not a host name"))?;
                Ok(Self::Name { host, port: u16::decode(decoder)? })
            }
            _ => Err(DecodeError::Other("unknown kind of address")),
        }
    }
}

bincode::impl_borrow_decode!(DialAddr);
