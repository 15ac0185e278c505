//! Tickets: one word with which another node joins a closed network.
//!
//! A ticket holds the network key, and the ids and addresses of up to four members. The word is `p2pg` and the base32
//! (Crockford's alphabet, without letters that look alike) of: version, length, network, generation of the key, members,
//! key, checksum. Upper and lower case mean the same, and blanks and hyphens mean nothing, so a ticket survives mail.

use std::fmt;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::key_ring::{KeyRing, NetworkId};
use super::network_key::NetworkKey;
use super::peer_id::PeerId;
use super::pin::ConnectAddr;
use super::secret_text::{TICKET_PREFIX as PREFIX, begins_as_ticket};
use crate::limits::ADDRS_MAX;
use crate::net::addr::DialAddr;

/// Most members that a ticket names.
pub const TICKET_MEMBERS_MAX: usize = 4;
const VERSION: u8 = 1;
/// Bytes of version and length.
const HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;
/// Precedes the payload in the input of the checksum.
const CHECKSUM_LABEL: &[u8] = b"p2p-gossip ticket";
/// Crockford's base32.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A ticket of a closed network. Every holder of it can join. Its key is wiped from memory when dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    network: NetworkId,
    generation: u64,
    key: NetworkKey,
    members: Vec<TicketMember>,
}

/// A member that a ticket names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TicketMember {
    id: PeerId,
    addrs: Vec<DialAddr>,
}

impl Ticket {
    /// A ticket with the current key of the ring. Members beyond the fourth, and addresses of a member beyond the fourth,
    /// are left out.
    #[must_use]
    pub fn new(ring: &KeyRing, members: impl IntoIterator<Item = (PeerId, Vec<DialAddr>)>) -> Self {
        let member = |(id, mut addrs): (PeerId, Vec<DialAddr>)| {
            addrs.truncate(ADDRS_MAX);
            TicketMember { id, addrs }
        };
        Self {
            network: ring.network(),
            generation: ring.generation(),
            key: ring.current().clone(),
            members: members.into_iter().take(TICKET_MEMBERS_MAX).map(member).collect(),
        }
    }

    /// The addresses of the members, with their ids as pins.
    pub fn connect(&self) -> impl Iterator<Item = ConnectAddr> {
        self.members.iter().flat_map(|member| {
            member.addrs.iter().map(|addr| ConnectAddr { pin: Some(member.id.into()), addr: addr.clone() })
        })
    }

    /// The ring of a node that joins with this ticket.
    pub(crate) fn key_ring(&self) -> KeyRing {
        KeyRing::joined(self.network, self.generation, self.key.clone())
    }

    /// The ticket's word. It is as secret as the key.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(vec![VERSION, 0, 0]);
        // Enough for all, so that no reallocation leaves the key behind in memory.
        bytes.reserve_exact(2048);
        bytes.extend_from_slice(self.network.as_bytes());
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes.push(u8::try_from(self.members.len()).unwrap_or(u8::MAX));
        for TicketMember { id, addrs } in &self.members {
            bytes.extend_from_slice(id.as_bytes());
            bytes.push(u8::try_from(addrs.len()).unwrap_or(u8::MAX));
            for addr in addrs {
                let addr = addr.to_string();
                // A host name has at most 253 bytes, and the port six; a longer text does not occur.
                bytes.extend_from_slice(&u16::try_from(addr.len()).unwrap_or(0).to_be_bytes());
                bytes.extend_from_slice(addr.as_bytes());
            }
        }
        bytes.extend_from_slice(self.key.as_bytes());
        let length = u16::try_from(bytes.len() + CHECKSUM_BYTES).unwrap_or(u16::MAX);
        bytes[1..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        encode(&bytes)
    }

    /// Whether the text begins as a ticket does.
    #[must_use]
    pub fn is_ticket(text: &str) -> bool {
        begins_as_ticket(text)
    }

    /// Reads the ticket in a text. Words before the ticket mean nothing, so the text may be the whole command line that a
    /// node printed.
    ///
    /// # Errors
    /// The text has no ticket, or the ticket is mistyped, cut or of a later version. The error shows no part of the text.
    pub fn find(text: &str) -> Result<Self, TicketError> {
        let mut words = text.split_ascii_whitespace();
        let first = words.find(|word| Self::is_ticket(word)).ok_or(TicketError::NoTicket)?;
        let rest = std::iter::once(&first[PREFIX.len()..]).chain(words);
        Self::decode(rest.flat_map(str::chars))
    }

    fn decode(digits: impl Iterator<Item = char>) -> Result<Self, TicketError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(2048));
        let (mut count, mut bits, mut pending) = (0_usize, 0_u32, 0_u32);
        for digit in digits.filter(|&digit| digit != '-') {
            let value =
                value(digit).ok_or(TicketError::BadCharacter { position: PREFIX.len() + count + 1 })?;
            count += 1;
            pending = (pending << 5) | value;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push(u8::try_from((pending >> bits) & 0xff).unwrap_or_default());
            }
        }
        let Some(&[version, high, low]) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(TicketError::Cut);
        };
        if version != VERSION {
            return Err(TicketError::Version);
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let expected = (8 * length).div_ceil(5);
        match count.cmp(&expected) {
            std::cmp::Ordering::Less => return Err(TicketError::Cut),
            std::cmp::Ordering::Greater => return Err(TicketError::Surplus),
            std::cmp::Ordering::Equal => {}
        }
        let (payload, found) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Cut)?;
        // The last digit may have bits that belong to no byte. In a ticket they are zero.
        let surplus = pending & ((1 << bits) - 1);
        if checksum(payload) != *found || surplus != 0 {
            return Err(TicketError::Mistyped);
        }
        let mut reader = Reader(&payload[HEADER_BYTES..]);
        reader.ticket().filter(|_| reader.0.is_empty()).ok_or(TicketError::Invalid)
    }
}

/// Shows no key.
impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("members", &self.members).finish_non_exhaustive()
    }
}

/// Why a text is no ticket. No error shows a part of the text, which may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// Nothing in the text begins as a ticket does.
    #[error("this is no ticket: a ticket is one word that begins with p2pg; p2p-gossip invite prints it")]
    NoTicket,
    /// A character does not occur in tickets.
    #[error("character {position} of the ticket is none that tickets have; copy the whole ticket again")]
    #[non_exhaustive]
    BadCharacter {
        /// The position of the character in the ticket, from 1.
        position: usize,
    },
    /// The end of the ticket is missing.
    #[error("the end of the ticket is missing; copy the whole ticket again")]
    Cut,
    /// More characters follow the ticket.
    #[error("more characters follow the ticket; copy the ticket alone")]
    Surplus,
    /// A later version of the program made it.
    #[error("a later version of p2p-gossip made this ticket; use that version here, too")]
    Version,
    /// The checksum is wrong.
    #[error("the ticket is mistyped: a character of it is wrong; copy it again")]
    Mistyped,
    /// The checksum is right, and the content has no meaning.
    #[error("the ticket has no valid content; make another one with p2p-gossip invite")]
    Invalid,
}

fn checksum(payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = Sha256::new().chain_update(CHECKSUM_LABEL).chain_update(payload).finalize();
    std::array::from_fn(|at| digest[at])
}

fn encode(bytes: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * bytes.len()));
    text.push_str(PREFIX);
    let (mut bits, mut pending) = (0_u32, 0_u32);
    let mut push = |value: u32| text.push(char::from(ALPHABET[(value & 31) as usize]));
    for &byte in bytes {
        pending = (pending << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            push(pending >> bits);
        }
        pending &= 0xff;
    }
    if bits > 0 {
        push(pending << (5 - bits));
    }
    text
}

/// The value of a digit. As Crockford says, o means 0, and i and l mean 1.
fn value(digit: char) -> Option<u32> {
    let digit = u8::try_from(digit).ok()?.to_ascii_lowercase();
    let digit = match digit {
        b'o' => b'0',
        b'i' | b'l' => b'1',
        digit => digit,
    };
    let at = ALPHABET.iter().position(|&known| known == digit)?;
    u32::try_from(at).ok()
}

/// Takes parts from the beginning of a payload. `None` if the part is not there or has no meaning.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*part)
    }

    fn ticket(&mut self) -> Option<Ticket> {
        let network = NetworkId::from_bytes(self.take()?);
        let generation = u64::from_be_bytes(self.take()?);
        let [members] = self.take()?;
        if usize::from(members) > TICKET_MEMBERS_MAX {
            return None;
        }
        let members = (0..members).map(|_| self.member()).collect::<Option<_>>()?;
        let key = NetworkKey::from_bytes(self.take()?);
        Some(Ticket { network, generation, key, members })
    }

    fn member(&mut self) -> Option<TicketMember> {
        let id = PeerId::from_bytes(self.take()?);
        let [addrs] = self.take()?;
        if usize::from(addrs) > ADDRS_MAX {
            return None;
        }
        let addrs = (0..addrs).map(|_| self.addr()).collect::<Option<_>>()?;
        Some(TicketMember { id, addrs })
    }

    fn addr(&mut self) -> Option<DialAddr> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        let addrs = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let members = [
            (PeerId::from_bytes([7; 32]), addrs(&["192.0.2.7:8080", "[2001:db8::7]:8080"])),
            (PeerId::from_bytes([8; 32]), addrs(&["db.example.org:7000"])),
        ];
        Ticket::new(&KeyRing::new(NetworkKey::from_bytes([0xa5; 32])), members)
    }

    #[test]
    fn ticket_is_one_word_that_gives_key_and_pinned_addresses() {
        let ticket = ticket();
        let text = ticket.to_text();
        assert!(
            text.starts_with("p2pg") && text.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{}",
            *text
        );
        assert_eq!(Ticket::find(&text), Ok(ticket.clone()));
        let connect: Vec<String> = ticket.connect().map(|connect| connect.addr.to_string()).collect();
        assert_eq!(connect, ["192.0.2.7:8080", "[2001:db8::7]:8080", "db.example.org:7000"]);
        assert!(ticket.connect().all(|connect| connect.pin.is_some()));
        assert_eq!(*ticket.key_ring().current(), NetworkKey::from_bytes([0xa5; 32]));
    }

    #[test]
    fn ticket_survives_upper_case_line_breaks_and_the_command_line_around_it() {
        let ticket = ticket();
        let text = ticket.to_text();
        let (start, end) = text.split_at(70);
        for copied in [
            text.to_uppercase(),
            format!("p2p-gossip --state DIR --join {}\n", *text),
            format!("  {start}\r\n {end}\n"),
            format!("{start}-{end}"),
            text.replace('0', "O").replace('1', "l"),
        ] {
            assert_eq!(Ticket::find(&copied), Ok(ticket.clone()), "{copied}");
        }
    }

    #[test]
    fn mistyped_cut_and_foreign_texts_are_told_apart() {
        let text = ticket().to_text();
        for length in 4..text.len() {
            assert_eq!(Ticket::find(&text[..length]), Err(TicketError::Cut), "{length}");
        }
        assert_eq!(Ticket::find(&format!("{}0", *text)), Err(TicketError::Surplus));
        for at in 12..text.len() {
            let other = if text.as_bytes()[at] == b'x' { "y" } else { "x" };
            let mistyped = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert_eq!(Ticket::find(&mistyped), Err(TicketError::Mistyped), "{at}");
        }
        let foreign = format!("{}!{}", &text[..9], &text[10..]);
        assert_eq!(Ticket::find(&foreign), Err(TicketError::BadCharacter { position: 10 }));
        for other in ["", "docker swarm join --token SWMTKN-1-x", "abcdef", "p2p-gossip", "é"] {
            assert_eq!(Ticket::find(other), Err(TicketError::NoTicket), "{other}");
        }
        // The first byte is the version.
        assert_eq!(Ticket::find(&format!("p2pgzz{}", &text[6..])), Err(TicketError::Version));
    }

    #[test]
    fn every_other_last_digit_is_a_mistake() {
        // Five lengths: the last digit has another number of bits that belong to no byte in each.
        for host in ["a", "ab", "abc", "abcd", "abcde"] {
            let members =
                [(PeerId::from_bytes([7; 32]), vec![format!("{host}.example.org:7000").parse().unwrap()])];
            let text = Ticket::new(&KeyRing::new(NetworkKey::from_bytes([1; 32])), members).to_text();
            let (start, last) = text.split_at(text.len() - 1);
            for other in
                ALPHABET.iter().map(|&digit| char::from(digit)).filter(|digit| !last.contains(*digit))
            {
                assert_eq!(
                    Ticket::find(&format!("{start}{other}")),
                    Err(TicketError::Mistyped),
                    "{host} {other}"
                );
            }
        }
    }

    #[test]
    fn valid_checksum_around_a_wrong_content_is_refused() {
        for payload in [&[VERSION, 0, 7][..], &[VERSION, 0, 32, 1, 2, 3], &[VERSION, 0, 40, 0xff]] {
            let mut bytes = payload.to_vec();
            bytes.resize(usize::from(payload[2]) - CHECKSUM_BYTES, 0xff);
            let sum = checksum(&bytes);
            bytes.extend_from_slice(&sum);
            assert_eq!(Ticket::find(&encode(&bytes)), Err(TicketError::Invalid), "{payload:?}");
        }
    }

    #[test]
    fn neither_ticket_nor_error_shows_the_key() {
        let ticket = ticket();
        let (text, shown) = (ticket.to_text(), format!("{ticket:?}"));
        assert!(!shown.contains("a5a5") && !shown.contains("165"), "{shown}");
        let error = Ticket::find(&text[..100]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&text[4..12]));
    }

    #[test]
    fn number_of_members_and_addresses_is_limited() {
        let addrs: Vec<DialAddr> = (1..10).map(|n| format!("10.0.0.{n}:1").parse().unwrap()).collect();
        let members = (0..10).map(|n| (PeerId::from_bytes([n; 32]), addrs.clone()));
        let ticket = Ticket::new(&KeyRing::new(NetworkKey::from_bytes([1; 32])), members);
        assert_eq!(ticket.connect().count(), TICKET_MEMBERS_MAX * ADDRS_MAX);
        assert_eq!(Ticket::find(&ticket.to_text()), Ok(ticket));
    }
}
