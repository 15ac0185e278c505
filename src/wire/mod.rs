//! What peers say to each other, and how it is framed. The only file that knows bincode.
//!
//! A frame is a `u32` big-endian length followed by exactly one bincode 2 message of that length
//! (guide: architecture, "The wire"). Lengths are checked before anything is allocated, what decodes is checked
//! against the limits below, and trailing bytes are an error.

use std::net::SocketAddr;
use std::sync::Arc;

use bincode::de::Decoder;
use bincode::de::read::Reader as _;
use bincode::enc::Encoder;
use bincode::enc::write::Writer as _;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

use crate::limits::{ADDRS_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PING_TEXT_BYTES_MAX};
use crate::net::addr::{DialAddr, HOST_BYTES_MAX, HostName};
use crate::trust::peer_id::PeerId;

/// Bytes in a message before the other side has said Hello: nobody earns a large buffer by connecting.
pub const HELLO_FRAME_BYTES_MAX: usize = 4 * 1024;
/// Bytes in a message after Hello. The longest list of peers is all of it.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Records in one [`Message::Peers`]; longer lists are sent as several. As many as fit into a frame
/// when each has [`ADDRS_MAX`] host names of [`HOST_BYTES_MAX`].
pub const RECORDS_MAX: usize = 60;

/// Memory that decoding one frame may claim. Records take more room decoded than encoded.
const DECODE_BYTES_MAX: usize = 256 * 1024;
/// Memory that decoding one address claims: itself and, of a short host name, the allocation.
const ADDR_DECODED_BYTES: usize = size_of::<DialAddr>() + 32;
const LENGTH_BYTES: usize = size_of::<u32>();

/// Everything that peers say to each other.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Message {
    /// First message of both sides, exactly once.
    Hello(Hello),
    /// The application's ping, shown by the receiver.
    Ping {
        /// The sender's count of pings to this receiver, from 1.
        seq: u64,
        /// At most [`PING_TEXT_BYTES_MAX`] bytes.
        text: String,
    },
    /// Sent every heartbeat interval: life, round-trip time and a digest of who is connected.
    Heartbeat {
        /// The sender's count of heartbeats to this receiver.
        seq: u64,
        /// The last heartbeat that the sender received from this receiver.
        echo: Option<Echo>,
        /// Digest of the peers that the sender is connected to; see [`membership_digest`](crate::mesh::roster_of).
        digest: u64,
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
    /// Something the receiver's user should know; the session goes on.
    Notice(Notice),
    /// Nothing follows; the sender reads on to the end, so that nothing under way is lost.
    Bye(ByeReason),
    /// What the sender's user tells every peer that is connected now.
    Broadcast {
        /// At most [`MESSAGE_BYTES_MAX`] bytes.
        text: String,
    },
}

/// Who is speaking.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Hello {
    /// Random for each process: tells a restart from a reconnection, and two processes with one key apart.
    pub instance: u64,
    /// Self-declared label, at most [`NAME_BYTES_MAX`] bytes.
    pub name: String,
    /// TCP port that the sender listens on.
    pub listen_port: u16,
    /// Where the sender says it can be reached, beside the address it connects from; best first.
    pub advertised: Vec<DialAddr>,
    /// The sender's heartbeat interval in milliseconds; its silence is judged by it.
    pub heartbeat_ms: u32,
    /// Proves that the sender holds a network key; see `session/greeting.rs`.
    pub proof: Option<[u8; 32]>,
}

#[cfg(test)]
impl Hello {
    /// From a node that tells as little as it can.
    pub(crate) fn plain() -> Self {
        Self {
            instance: 2,
            name: String::new(),
            listen_port: 0,
            advertised: Vec::new(),
            heartbeat_ms: 1000,
            proof: None,
        }
    }
}

/// Lets the receiver compute a round-trip time without an immediate reply:
/// now − when it sent `seq` − `held_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Echo {
    /// Number of the heartbeat that is echoed.
    pub seq: u64,
    /// Microseconds from its arrival to this echo.
    pub held_us: u64,
}

/// One peer in a list.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct PeerRecord {
    /// Who.
    pub id: PeerId,
    /// Where, best first; at most [`ADDRS_MAX`].
    pub addrs: Vec<DialAddr>,
    /// Whether the sender is connected to it now.
    pub connected: bool,
}

/// Something the receiver's user should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Notice {
    /// Another process, at this address, uses the receiver's key.
    KeyInUse(SocketAddr),
}

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum ByeReason {
    /// The sender stops; it wants no redial.
    Leaving,
    /// Another session between the two goes on.
    Duplicate,
    /// Nothing was heard from the receiver for the timeout.
    Silent,
    /// The receiver sent what the protocol does not allow.
    Protocol,
    /// Another process with the receiver's key took this one's place.
    Replaced,
    /// Another process with the receiver's key took its place, yet this one is still there.
    Cloned,
    /// Both ends are the same node.
    OwnAddress,
    /// The sender's table of peers is full.
    Full,
    /// The sender's user keeps the receiver out.
    NotAdmitted,
    /// The receiver is at the address of another peer, and the sender is strict about that.
    AddressTaken,
    /// The sender requires a network key, and the receiver has shown none.
    NetworkKeyMissing,
    /// The sender requires a network key, and the receiver has shown another.
    NetworkKeyWrong,
    /// The receiver has shown a network key, and the sender has none.
    NetworkKeyUnknown,
}

impl ByeReason {
    /// Why, as the receiver's user may read it after "peer".
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Leaving => "it leaves",
            Self::Duplicate => "another connection to it goes on",
            Self::Silent => "it heard nothing from us",
            Self::Protocol => "it says that we broke the protocol",
            Self::Replaced => "another process with our key took our place",
            Self::Cloned => "another process uses our key",
            Self::OwnAddress => "it is this node itself",
            Self::Full => "its table of peers is full",
            Self::NotAdmitted => "we are on its deny list, or not on its allow list",
            Self::AddressTaken => "we are at the address of another peer that it knows, and it is strict",
            Self::NetworkKeyMissing => "it requires a network key; start with --network-key",
            Self::NetworkKeyWrong => "it holds another network key",
            Self::NetworkKeyUnknown => "it holds no network key; this node requires one",
        }
    }
}

/// An encoded message, ready to be sent to any number of peers.
pub type Frame = Arc<[u8]>;

/// Why bytes are not a message, or a message can't be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The frame's length is zero or above what is allowed now.
    #[error("frame of {length} bytes; 1 to {max} are allowed")]
    Length {
        /// The length announced.
        length: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// The bytes are no message.
    #[error("malformed message: {0}")]
    Malformed(Malformation),
    /// The message is followed by something inside its frame.
    #[error("{0} bytes after the message in its frame")]
    Trailing(usize),
    /// A part of the message is longer than it may be.
    #[error("{what} has {length} of at most {max}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The most that is allowed.
        max: usize,
    },
}

/// Why bytes are not a message: reasons of our own, because bincode's errors may quote the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformation {
    /// The bytes end within the message.
    #[error("it ends too early")]
    Short,
    /// Decoded, the message would be too large.
    #[error("it would take more memory than a message may")]
    Memory,
    /// A tag names no kind of message or of its parts.
    #[error("it has a tag that means nothing here")]
    Tag,
    /// A text is not UTF-8.
    #[error("a text in it is not UTF-8")]
    Text,
    /// An address is neither of an IP and port nor of a host name and port.
    #[error("an address in it is not an address")]
    Address,
    /// A value is out of its range.
    #[error("a value in it is out of range")]
    Value,
    /// The message cannot be encoded.
    #[error("it cannot be encoded")]
    Unencodable,
}

impl From<DecodeError> for Malformation {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::UnexpectedEnd { .. } => Self::Short,
            DecodeError::LimitExceeded => Self::Memory,
            DecodeError::UnexpectedVariant { .. } => Self::Tag,
            DecodeError::Utf8 { .. } => Self::Text,
            // The decoder of addresses below says so, and no other one.
            DecodeError::Other(_) => Self::Address,
            _ => Self::Value,
        }
    }
}

fn format() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>()
}

/// Encodes a message with its length in front.
///
/// # Errors
/// The message is longer than a receiver would accept.
pub fn encode(message: &Message) -> Result<Frame, WireError> {
    check(message)?;
    let mut frame = vec![0; LENGTH_BYTES];
    bincode::encode_into_std_write(message, &mut frame, format())
        .map_err(|_| WireError::Malformed(Malformation::Unencodable))?;
    let max = if matches!(message, Message::Hello(_)) { HELLO_FRAME_BYTES_MAX } else { FRAME_BYTES_MAX };
    let length = frame.len() - LENGTH_BYTES;
    match u32::try_from(length) {
        Ok(prefix) if length <= max => frame[..LENGTH_BYTES].copy_from_slice(&prefix.to_be_bytes()),
        _ => return Err(WireError::Length { length, max }),
    }
    Ok(frame.into())
}

/// Decodes one message from exactly these bytes, without the length in front.
///
/// # Errors
/// The bytes are anything but one message within the limits.
pub fn decode(bytes: &[u8]) -> Result<Message, WireError> {
    let (message, used) =
        bincode::decode_from_slice(bytes, format()).map_err(|error| WireError::Malformed(error.into()))?;
    if used != bytes.len() {
        return Err(WireError::Trailing(bytes.len() - used));
    }
    check(&message)?;
    Ok(message)
}

/// The limits that bincode doesn't know, the same for both directions.
fn check(message: &Message) -> Result<(), WireError> {
    let limit = |what, length, max| {
        if length > max { Err(WireError::TooLong { what, length, max }) } else { Ok(()) }
    };
    match message {
        Message::Hello(hello) => {
            limit("name", hello.name.len(), NAME_BYTES_MAX)?;
            limit("advertised addresses", hello.advertised.len(), ADDRS_MAX)
        }
        Message::Ping { text, .. } => limit("ping text", text.len(), PING_TEXT_BYTES_MAX),
        Message::Broadcast { text } => limit("message", text.len(), MESSAGE_BYTES_MAX),
        Message::Peers { records, .. } => {
            limit("list of peers", records.len(), RECORDS_MAX)?;
            records.iter().try_for_each(|r| limit("addresses of a peer", r.addrs.len(), ADDRS_MAX))
        }
        Message::Heartbeat { .. } | Message::PeersRequest | Message::Notice(_) | Message::Bye(_) => Ok(()),
    }
}

/// Takes messages out of a stream of bytes. Holds at most one frame more than it was given at once.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that have been decoded.
    taken: usize,
    frame_bytes_max: usize,
}

impl FrameReader {
    /// A reader for the beginning of a session: one small frame, the Hello.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: Vec::new(), taken: 0, frame_bytes_max: HELLO_FRAME_BYTES_MAX }
    }

    /// From now on frames may have [`FRAME_BYTES_MAX`].
    pub fn after_hello(&mut self) {
        self.frame_bytes_max = FRAME_BYTES_MAX;
    }

    /// Where received bytes are appended. What was decoded is dropped here, once for many frames.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        // One long list must not keep 64 KiB for the rest of the session's life.
        if self.buffer.is_empty() && self.buffer.capacity() > HELLO_FRAME_BYTES_MAX {
            self.buffer = Vec::new();
        }
        &mut self.buffer
    }

    /// Whether no byte waits to be decoded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.len() == self.taken
    }

    /// Whether [`FrameReader::next_message`] has something to say without more bytes: a message
    /// or an error.
    #[must_use]
    pub fn has_message(&self) -> bool {
        let waiting = &self.buffer[self.taken..];
        waiting.split_first_chunk::<LENGTH_BYTES>().is_some_and(|(prefix, rest)| {
            let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
            length == 0 || length > self.frame_bytes_max || rest.len() >= length
        })
    }

    /// The next message, if all of it is there.
    ///
    /// # Errors
    /// What follows is no message; nothing more can be taken from this stream.
    pub fn next_message(&mut self) -> Result<Option<Message>, WireError> {
        let waiting = &self.buffer[self.taken..];
        let Some((prefix, rest)) = waiting.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length == 0 || length > self.frame_bytes_max {
            return Err(WireError::Length { length, max: self.frame_bytes_max });
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = decode(body)?;
        self.taken += LENGTH_BYTES + length;
        Ok(Some(message))
    }
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

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

/// What stands before an address.
const SOCKET: u8 = 0;
const NAME: u8 = 1;

/// Without the scope of a link-local address: it means something on its own host only.
impl Encode for DialAddr {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        match self {
            Self::Socket(addr) => {
                SOCKET.encode(encoder)?;
                addr.encode(encoder)
            }
            Self::Name { host, port } => {
                let host = host.as_str().as_bytes();
                NAME.encode(encoder)?;
                // Never above a byte: see HOST_BYTES_MAX.
                u8::try_from(host.len()).unwrap_or(u8::MAX).encode(encoder)?;
                encoder.writer().write(host)?;
                port.encode(encoder)
            }
        }
    }
}

/// Only what could be written as such an address, and in one form: names in lower case, mapped
/// IPv4 addresses as IPv4.
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

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn peer_id() -> impl Strategy<Value = PeerId> {
        any::<[u8; 32]>().prop_map(PeerId::from_bytes)
    }

    fn dial_addr() -> impl Strategy<Value = DialAddr> {
        let name = "([a-z_0-9]([a-z_0-9-]{0,61}[a-z_0-9])?\\.){0,2}[a-z]{1,63}\\.?";
        prop_oneof![
            any::<SocketAddr>().prop_map(|addr| unscoped(addr).into()),
            (name, any::<u16>()).prop_map(|(host, port)| {
                DialAddr::Name { host: HostName::new(&host).expect("made to be one"), port }
            }),
        ]
    }

    fn record() -> impl Strategy<Value = PeerRecord> {
        (peer_id(), vec(dial_addr(), 0..=ADDRS_MAX), any::<bool>())
            .prop_map(|(id, addrs, connected)| PeerRecord { id, addrs, connected })
    }

    /// The wire carries neither flow labels nor scopes: both mean something on one host only.
    fn unscoped(addr: SocketAddr) -> SocketAddr {
        SocketAddr::new(addr.ip(), addr.port())
    }

    fn hello() -> impl Strategy<Value = Hello> {
        let advertised = vec(dial_addr(), 0..=ADDRS_MAX);
        let proof = proptest::option::of(any::<[u8; 32]>());
        (any::<u64>(), "[a-zA-Zé]{0,32}", any::<u16>(), advertised, any::<u32>(), proof).prop_map(
            |(instance, name, listen_port, advertised, heartbeat_ms, proof)| Hello {
                instance,
                name,
                listen_port,
                advertised,
                heartbeat_ms,
                proof,
            },
        )
    }

    fn bye_reason() -> impl Strategy<Value = ByeReason> {
        prop_oneof![
            Just(ByeReason::Leaving),
            Just(ByeReason::Duplicate),
            Just(ByeReason::Silent),
            Just(ByeReason::Protocol),
            Just(ByeReason::Replaced),
            Just(ByeReason::Cloned),
            Just(ByeReason::OwnAddress),
            Just(ByeReason::Full),
            Just(ByeReason::NotAdmitted),
            Just(ByeReason::AddressTaken),
            Just(ByeReason::NetworkKeyMissing),
            Just(ByeReason::NetworkKeyWrong),
            Just(ByeReason::NetworkKeyUnknown),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let echo = proptest::option::of(
            (any::<u64>(), any::<u64>()).prop_map(|(seq, held_us)| Echo { seq, held_us }),
        );
        prop_oneof![
            hello().prop_map(Message::Hello),
            (any::<u64>(), "\\PC{0,60}").prop_map(|(seq, text)| Message::Ping { seq, text }),
            (any::<u64>(), echo, any::<u64>()).prop_map(|(seq, echo, digest)| Message::Heartbeat {
                seq,
                echo,
                digest
            }),
            Just(Message::PeersRequest),
            (vec(record(), 0..20), any::<bool>())
                .prop_map(|(records, more)| Message::Peers { records, more }),
            any::<SocketAddr>().prop_map(|a| Message::Notice(Notice::KeyInUse(unscoped(a)))),
            bye_reason().prop_map(Message::Bye),
            "\\PC{0,60}".prop_map(|text| Message::Broadcast { text }),
        ]
    }

    fn reader_after_hello() -> FrameReader {
        let mut reader = FrameReader::new();
        reader.after_hello();
        reader
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(message in message()) {
            let frame = encode(&message).unwrap();
            let mut reader = reader_after_hello();
            reader.buffer().extend_from_slice(&frame);
            prop_assert_eq!(reader.next_message().unwrap(), Some(message));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn frames_survive_any_fragmentation(messages in vec(message(), 1..6), cut in 1_usize..50) {
            let mut reader = reader_after_hello();
            let stream: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap().to_vec()).collect();
            let mut received = Vec::new();
            for piece in stream.chunks(cut) {
                reader.buffer().extend_from_slice(piece);
                while let Some(message) = reader.next_message().unwrap() {
                    received.push(message);
                }
            }
            prop_assert_eq!(received, messages);
        }

        #[test]
        fn any_bytes_decode_to_a_message_or_an_error(bytes in vec(any::<u8>(), 0..2000)) {
            if let Ok(message) = decode(&bytes) {
                // What was accepted is within the limits, so it can be said again.
                prop_assert!(encode(&message).is_ok());
            }
        }

        #[test]
        fn a_damaged_message_is_never_more_than_an_error(
            message in message(), at in any::<prop::sample::Index>(), bits in 1_u8..
        ) {
            let mut bytes = encode(&message).unwrap()[LENGTH_BYTES..].to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= bits;
            let _ = decode(&bytes);
            let _ = decode(&bytes[..at]);
        }
    }

    #[test]
    fn a_list_that_claims_more_entries_than_it_has_allocates_nothing() {
        // Variant 4 is Peers; then a length of 2^40 records, as bincode writes a u64 (253, little-endian).
        let mut bomb = vec![4, 253];
        bomb.extend_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(matches!(decode(&bomb), Err(WireError::Malformed(_))));
    }

    #[test]
    fn lengths_are_checked_before_the_body_is_there() {
        let mut reader = FrameReader::new();
        reader.buffer().extend_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(reader.next_message(), Err(WireError::Length { .. })));
        let mut reader = FrameReader::new();
        reader.buffer().extend_from_slice(&0_u32.to_be_bytes());
        assert!(matches!(reader.next_message(), Err(WireError::Length { length: 0, .. })));
        let mut reader = FrameReader::new();
        reader.buffer().extend_from_slice(&4097_u32.to_be_bytes());
        assert!(matches!(reader.next_message(), Err(WireError::Length { length: 4097, max: 4096 })));
        let mut reader = reader_after_hello();
        reader.buffer().extend_from_slice(&65_537_u32.to_be_bytes());
        assert!(matches!(reader.next_message(), Err(WireError::Length { length: 65_537, max: 65_536 })));
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let mut bytes = encode(&Message::PeersRequest).unwrap()[LENGTH_BYTES..].to_vec();
        bytes.push(0);
        assert_eq!(decode(&bytes), Err(WireError::Trailing(1)));
    }

    #[test]
    fn parts_over_their_limit_are_refused_in_both_directions() {
        let text = "x".repeat(PING_TEXT_BYTES_MAX + 1);
        let ping = Message::Ping { seq: 1, text };
        assert!(matches!(encode(&ping), Err(WireError::TooLong { what: "ping text", .. })));
        let bytes = bincode::encode_to_vec(&ping, format()).unwrap();
        assert!(matches!(decode(&bytes), Err(WireError::TooLong { what: "ping text", .. })));
        let message = |bytes| Message::Broadcast { text: "x".repeat(bytes) };
        assert!(encode(&message(MESSAGE_BYTES_MAX)).is_ok());
        let bytes = bincode::encode_to_vec(message(MESSAGE_BYTES_MAX + 1), format()).unwrap();
        assert!(matches!(decode(&bytes), Err(WireError::TooLong { what: "message", .. })));
    }

    #[test]
    fn the_longest_list_fits_into_a_frame() {
        let label = "x".repeat(63);
        let host = HostName::new(&format!("{label}.{label}.{label}.{}.", "x".repeat(61))).unwrap();
        assert_eq!(host.as_str().len(), HOST_BYTES_MAX);
        let addr = DialAddr::Name { host, port: u16::MAX };
        let id = PeerId::from_bytes([255; 32]);
        let record = PeerRecord { id, addrs: vec![addr; ADDRS_MAX], connected: true };
        let list = Message::Peers { records: vec![record; RECORDS_MAX], more: false };
        let frame = encode(&list).unwrap();
        assert!(frame.len() - LENGTH_BYTES <= FRAME_BYTES_MAX);
        assert_eq!(decode(&frame[LENGTH_BYTES..]).unwrap(), list);
    }

    /// The encoding of an address as part of a Hello, which is what peers see.
    fn with_address(encoded: &[u8]) -> Result<DialAddr, WireError> {
        // Hello of instance 0, without a name, of port 0, with one address, a heartbeat of 0 ms and no proof.
        let bytes = [&[0, 0, 0, 0, 1][..], encoded, &[0, 0]].concat();
        decode(&bytes).map(|message| match message {
            Message::Hello(hello) => hello.advertised[0].clone(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn addresses_are_taken_in_one_form_only_or_not_at_all() {
        let name = |host: &[u8]| [&[NAME, u8::try_from(host.len()).unwrap()][..], host, &[80]].concat();
        let shown = |encoded: &[u8]| with_address(encoded).map(|addr| addr.to_string());
        assert_eq!(shown(&name(b"Node.Example")).unwrap(), "node.example:80");
        let mapped = [&[SOCKET, 1][..], &[0; 10], &[255, 255, 192, 0, 2, 7], &[80]].concat();
        assert_eq!(shown(&mapped).unwrap(), "192.0.2.7:80");
        for host in [&b""[..], b"a b", b"a\n", b"-a", b"\xff", b"127.1", b"a..b", &[b'x'; 64], &[b'x'; 255]] {
            assert!(matches!(shown(&name(host)), Err(WireError::Malformed(_))), "{host:?}");
        }
        assert!(matches!(shown(&[2, 0, 0]), Err(WireError::Malformed(_))));
    }

    #[test]
    fn scopes_stay_at_home() {
        let hello = Hello { advertised: vec!["[fe80::1%7]:80".parse().unwrap()], ..Hello::plain() };
        let frame = encode(&Message::Hello(hello)).unwrap();
        let Message::Hello(hello) = decode(&frame[LENGTH_BYTES..]).unwrap() else { panic!() };
        assert_eq!(hello.advertised[0].to_string(), "[fe80::1]:80");
    }

    #[test]
    fn many_short_names_are_too_many() {
        // One record with as many addresses as a frame has room for: more memory than it may claim.
        let mut bytes = vec![4, 1];
        bytes.extend([0; 32]);
        bytes.push(251);
        bytes.extend(16_000_u16.to_le_bytes());
        bytes.extend([NAME, 1, b'a', 80].repeat(16_000));
        assert!(bytes.len() <= FRAME_BYTES_MAX);
        assert!(matches!(decode(&bytes), Err(WireError::Malformed(_))));
    }
}
