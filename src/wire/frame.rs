//! Framing: a message as bytes with a length in front, and messages from a stream of bytes.
//!
//! A frame is a `u32` big-endian length followed by exactly one bincode 2 message of that length
//! (guide: architecture, "The wire"). The length is checked before anything is allocated, the decoded message is
//! checked against the limits of its parts, and trailing bytes are an error.

use std::sync::Arc;

use super::error::{Malformation, WireError};
use super::message::{Message, check_limits};

/// Limit of a message before the other side's Hello, in bytes: a new connection can't claim a large buffer.
pub const HELLO_FRAME_BYTES_MAX: usize = 4 * 1024;
/// Limit of a message after the Hello, in bytes. The longest list of peers fits.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;

/// Memory that decoding one frame may claim, in bytes. Records take more room decoded than encoded.
const DECODE_BYTES_MAX: usize = 256 * 1024;
const LENGTH_BYTES: usize = size_of::<u32>();

/// An encoded message with its length in front, ready to be sent to any number of peers.
pub type Frame = Arc<[u8]>;

fn format() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODE_BYTES_MAX>()
}

/// Encodes a message as a frame: its length, then its bytes.
///
/// # Errors
/// A part of the message, or all of it, is longer than a receiver accepts.
pub fn encode(message: &Message) -> Result<Frame, WireError> {
    check_limits(message)?;
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

/// Decodes one message from exactly these bytes, which do not include the length in front.
///
/// # Errors
/// The bytes are not exactly one message within the limits.
pub fn decode(bytes: &[u8]) -> Result<Message, WireError> {
    let (message, used) =
        bincode::decode_from_slice(bytes, format()).map_err(|error| WireError::Malformed(error.into()))?;
    if used != bytes.len() {
        return Err(WireError::Trailing(bytes.len() - used));
    }
    check_limits(&message)?;
    Ok(message)
}

/// Decodes messages from a stream of bytes. Holds at most one frame more than the bytes of one read.
#[derive(Debug)]
pub struct FrameReader {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that are already decoded.
    taken: usize,
    frame_bytes_max: usize,
}

impl FrameReader {
    /// Returns a reader for the beginning of a session, which accepts [`HELLO_FRAME_BYTES_MAX`].
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: Vec::new(), taken: 0, frame_bytes_max: HELLO_FRAME_BYTES_MAX }
    }

    /// Raises the limit of a frame to [`FRAME_BYTES_MAX`].
    pub fn after_hello(&mut self) {
        self.frame_bytes_max = FRAME_BYTES_MAX;
    }

    /// The buffer to which the caller appends received bytes. Decoded bytes are dropped here, once for many
    /// frames.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.drop_taken();
        &mut self.buffer
    }

    fn drop_taken(&mut self) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        // One long list must not keep 64 KiB until the session ends.
        if self.buffer.len() <= HELLO_FRAME_BYTES_MAX && self.buffer.capacity() > 2 * HELLO_FRAME_BYTES_MAX {
            self.buffer.shrink_to_fit();
        }
    }

    /// Number of received bytes that are not decoded yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.taken
    }

    /// Whether all received bytes are decoded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.len() == self.taken
    }

    /// Whether [`FrameReader::next_message`] would return a message or an error without more bytes.
    #[must_use]
    pub fn has_message(&self) -> bool {
        let waiting = &self.buffer[self.taken..];
        waiting.split_first_chunk::<LENGTH_BYTES>().is_some_and(|(prefix, rest)| {
            let length = body_length(*prefix);
            length == 0 || length > self.frame_bytes_max || rest.len() >= length
        })
    }

    /// Decodes the next message. `None` if it is incomplete.
    ///
    /// # Errors
    /// The next bytes are no message; the rest of the stream can't be decoded either.
    pub fn next_message(&mut self) -> Result<Option<Message>, WireError> {
        let waiting = &self.buffer[self.taken..];
        let Some((prefix, rest)) = waiting.split_first_chunk::<LENGTH_BYTES>() else {
            self.drop_taken();
            return Ok(None);
        };
        let length = body_length(*prefix);
        if length == 0 || length > self.frame_bytes_max {
            return Err(WireError::Length { length, max: self.frame_bytes_max });
        }
        let Some(body) = rest.get(..length) else {
            self.drop_taken();
            return Ok(None);
        };
        let message = decode(body)?;
        self.taken += LENGTH_BYTES + length;
        Ok(Some(message))
    }
}

fn body_length(prefix: [u8; LENGTH_BYTES]) -> usize {
    usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX)
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::incident::{IncidentNews, Stage, Subject};
    use super::super::message::{
        ByeReason, CAPABILITIES_MAX, EXTENSION_BYTES_MAX, Hearing, Hello, NAME, Notice, PROOFS_MAX,
        PeerRecord, RECORDS_MAX, SOCKET, Sighting,
    };
    use super::*;
    use crate::limits::{ADDRS_MAX, MESSAGE_BYTES_MAX, PING_TEXT_BYTES_MAX};
    use crate::net::addr::DialAddr;
    use crate::net::host_name::{HOST_BYTES_MAX, HostName};
    use crate::trust::network_key::NetworkKey;
    use crate::trust::peer_id::PeerId;

    fn peer_id() -> impl Strategy<Value = PeerId> {
        any::<[u8; 32]>().prop_map(PeerId::from_bytes)
    }

    fn dial_addr() -> impl Strategy<Value = DialAddr> {
        let name = "([a-z_0-9]([a-z_0-9-]{0,61}[a-z_0-9])?\\.){0,2}[a-z]{1,63}\\.?";
        prop_oneof![
            any::<SocketAddr>().prop_map(|addr| unscoped(addr).into()),
            (name, any::<u16>()).prop_map(|(host, port)| {
                DialAddr::Name { host: HostName::new(&host).expect("generated as a host name"), port }
            }),
        ]
    }

    fn record() -> impl Strategy<Value = PeerRecord> {
        (peer_id(), vec(dial_addr(), 0..=ADDRS_MAX), any::<bool>())
            .prop_map(|(id, addrs, connected)| PeerRecord { id, addrs, connected })
    }

    /// Messages carry neither flow labels nor scopes, which have a meaning on one host only.
    fn unscoped(addr: SocketAddr) -> SocketAddr {
        SocketAddr::new(addr.ip(), addr.port())
    }

    fn hello() -> impl Strategy<Value = Hello> {
        let advertised = vec(dial_addr(), 0..=ADDRS_MAX);
        let proofs = vec(any::<[u8; 32]>(), 0..=PROOFS_MAX);
        let rest = (any::<u32>(), vec(any::<u32>(), 0..=CAPABILITIES_MAX), proofs);
        (any::<u64>(), "[a-zA-Zé]{0,32}", any::<u16>(), advertised, rest).prop_map(
            |(instance, name, listen_port, advertised, (heartbeat_ms, capabilities, proofs))| Hello {
                instance,
                name,
                listen_port,
                advertised,
                heartbeat_ms,
                capabilities,
                proofs,
            },
        )
    }

    fn sighting() -> impl Strategy<Value = Sighting> {
        let hearing =
            proptest::sample::select(vec![Hearing::Hears, Hearing::Silent, Hearing::Lost, Hearing::Unknown]);
        (any::<[u8; 32]>(), hearing, any::<u32>()).prop_map(|(peer, hearing, ago_ms)| Sighting {
            peer: PeerId::from_bytes(peer),
            hearing,
            ago_ms,
        })
    }

    fn bye_reason() -> impl Strategy<Value = ByeReason> {
        any::<u16>().prop_map(ByeReason::from_number)
    }

    fn incident_news() -> impl Strategy<Value = IncidentNews> {
        let subject = prop_oneof![
            peer_id().prop_map(Subject::Peer),
            (peer_id(), peer_id()).prop_map(|(first, second)| Subject::Link(first, second)),
            peer_id().prop_map(Subject::Isolated),
        ];
        let stage = prop_oneof![Just(Stage::Open), Just(Stage::Begun), Just(Stage::Over), Just(Stage::Done)];
        let peers = vec(peer_id(), 0..20);
        (subject, any::<u32>(), any::<u64>(), stage, peers).prop_map(
            |(subject, number, incident, stage, peers)| IncidentNews {
                subject,
                number,
                incident,
                stage,
                peers,
            },
        )
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            hello().prop_map(Message::Hello),
            (any::<u64>(), "\\PC{0,60}").prop_map(|(seq, text)| Message::Ping { seq, text }),
            (any::<u64>(), any::<u64>(), any::<u32>(), any::<u32>()).prop_map(
                |(seq, digest, interval_ms, rtt_us)| Message::Heartbeat { seq, digest, interval_ms, rtt_us }
            ),
            (any::<u64>(), any::<u64>(), any::<u32>())
                .prop_map(|(seq, digest, interval_ms)| Message::HeartbeatAck { seq, digest, interval_ms }),
            (any::<u32>(), vec(any::<u8>(), 0..200))
                .prop_map(|(kind, bytes)| Message::Extension { kind, bytes }),
            Just(Message::PeersRequest),
            (vec(record(), 0..20), any::<bool>())
                .prop_map(|(records, more)| Message::Peers { records, more }),
            any::<SocketAddr>().prop_map(|a| Message::Notice(Notice::KeyInUse(unscoped(a)))),
            bye_reason().prop_map(Message::Bye),
            "\\PC{0,60}".prop_map(|text| Message::Broadcast { text }),
            (any::<u64>(), any::<[u8; 32]>(), any::<u64>()).prop_map(|(generation, key, grace_s)| {
                Message::NetworkKey { generation, key: NetworkKey::from_bytes(key), grace_s }
            }),
            any::<u64>().prop_map(|generation| Message::NetworkKeyHeld { generation }),
            vec(sighting(), 0..20).prop_map(|lost| Message::WitnessRequest { lost }),
            vec(sighting(), 0..20).prop_map(|sightings| Message::WitnessReport { sightings }),
            incident_news().prop_map(Message::Incident),
        ]
    }

    fn reader_after_hello() -> FrameReader {
        let mut reader = FrameReader::new();
        reader.after_hello();
        reader
    }

    proptest! {
        #[test]
        fn encoded_message_decodes_to_itself(message in message()) {
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
        fn arbitrary_bytes_decode_to_a_message_or_an_error(bytes in vec(any::<u8>(), 0..2000)) {
            if let Ok(message) = decode(&bytes) {
                // An accepted message is within the limits, so it can be encoded again.
                prop_assert!(encode(&message).is_ok());
            }
        }

        #[test]
        fn damaged_message_causes_no_panic(
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
    fn list_that_claims_more_entries_than_it_has_allocates_nothing() {
        // Variant 4 is Peers; then a length of 2^40 records, as bincode writes a u64 (253, little-endian).
        let mut bomb = vec![4, 253];
        bomb.extend_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(matches!(decode(&bomb), Err(WireError::Malformed(_))));
    }

    #[test]
    fn length_is_checked_before_the_body_arrives() {
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
        assert!(matches!(encode(&ping), Err(WireError::TooLong { part: "ping text", .. })));
        let bytes = bincode::encode_to_vec(&ping, format()).unwrap();
        assert!(matches!(decode(&bytes), Err(WireError::TooLong { part: "ping text", .. })));
        let message = |bytes| Message::Broadcast { text: "x".repeat(bytes) };
        assert!(encode(&message(MESSAGE_BYTES_MAX)).is_ok());
        let bytes = bincode::encode_to_vec(message(MESSAGE_BYTES_MAX + 1), format()).unwrap();
        assert!(matches!(decode(&bytes), Err(WireError::TooLong { part: "message", .. })));
    }

    /// The sender refuses to encode a message whose part is too long, and the receiver refuses to decode it.
    fn check_too_long(message: &Message, part: &'static str) {
        let is_refused = |error| matches!(error, WireError::TooLong { part: found, .. } if found == part);
        assert!(is_refused(encode(message).unwrap_err()));
        let bytes = bincode::encode_to_vec(message, format()).unwrap();
        assert!(is_refused(decode(&bytes).unwrap_err()));
    }

    #[test]
    fn too_many_capabilities_are_refused_in_both_directions() {
        let hello = |count| Message::Hello(Hello { capabilities: vec![u32::MAX; count], ..Hello::plain() });
        let frame = encode(&hello(CAPABILITIES_MAX)).unwrap();
        assert_eq!(decode(&frame[LENGTH_BYTES..]), Ok(hello(CAPABILITIES_MAX)));
        check_too_long(&hello(CAPABILITIES_MAX + 1), "capabilities");
    }

    #[test]
    fn longest_extension_fits_into_a_frame_and_longer_ones_are_refused_in_both_directions() {
        let extension = |bytes| Message::Extension { kind: u32::MAX, bytes: vec![255; bytes] };
        let frame = encode(&extension(EXTENSION_BYTES_MAX)).unwrap();
        let mut reader = reader_after_hello();
        reader.buffer().extend_from_slice(&frame);
        assert_eq!(reader.next_message(), Ok(Some(extension(EXTENSION_BYTES_MAX))));
        check_too_long(&extension(EXTENSION_BYTES_MAX + 1), "extension");
    }

    #[test]
    fn reasons_of_a_bye_keep_their_numbers() {
        for (at, reason) in ByeReason::KNOWN.into_iter().enumerate() {
            let number = u16::try_from(at).unwrap();
            assert_eq!((reason.number(), ByeReason::from_number(number)), (number, reason));
        }
        let first_unknown = u16::try_from(ByeReason::KNOWN.len()).unwrap();
        for number in [first_unknown, 999, u16::MAX] {
            let bye = Message::Bye(ByeReason::Other(number));
            let frame = encode(&bye).unwrap();
            assert_eq!(decode(&frame[LENGTH_BYTES..]), Ok(bye));
            assert!(ByeReason::Other(number).describe().contains(&number.to_string()));
        }
    }

    #[test]
    fn longest_list_fits_into_a_frame() {
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

    /// Decodes an encoded address as part of a Hello.
    fn with_address(encoded: &[u8]) -> Result<DialAddr, WireError> {
        // Hello of instance 0, without a name, of port 0, with one address, a heartbeat of 0 ms, no capabilities and no
        // proof.
        let bytes = [&[0, 0, 0, 0, 1][..], encoded, &[0, 0, 0]].concat();
        decode(&bytes).map(|message| match message {
            Message::Hello(hello) => hello.advertised[0].clone(),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn decoded_addresses_have_one_form_and_invalid_ones_are_refused() {
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
    fn scope_of_a_link_local_address_is_not_sent() {
        let hello = Hello { advertised: vec!["[fe80::1%7]:80".parse().unwrap()], ..Hello::plain() };
        let frame = encode(&Message::Hello(hello)).unwrap();
        let Message::Hello(hello) = decode(&frame[LENGTH_BYTES..]).unwrap() else { panic!() };
        assert_eq!(hello.advertised[0].to_string(), "[fe80::1]:80");
    }

    #[test]
    fn short_names_may_not_claim_more_memory_than_a_frame() {
        // One record with as many addresses as fit into a frame: decoded they need more memory than a frame may claim.
        let mut bytes = vec![4, 1];
        bytes.extend([0; 32]);
        bytes.push(251);
        bytes.extend(16_000_u16.to_le_bytes());
        bytes.extend([NAME, 1, b'a', 80].repeat(16_000));
        assert!(bytes.len() <= FRAME_BYTES_MAX);
        assert!(matches!(decode(&bytes), Err(WireError::Malformed(_))));
    }
}
