//! Pins: the id, or its beginning, of the peer that must answer at an address.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use crate::net::addr::DialAddr;
use crate::net::dial_addr_error::DialAddrError;
use crate::trust::peer_id::PeerId;

/// Fewest digits of a pin. An attacker needs some 2^64 keys to find one with this many equal digits; each more
/// digit takes sixteen times as many.
pub const PIN_DIGITS_MIN: usize = 16;
/// Digits of a full id.
const ID_DIGITS: usize = 64;

/// The first 16 to 64 hexadecimal digits of a peer's id, as the user wrote them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The digits, filled up with zeros.
    id: PeerId,
    digits: usize,
}

impl Pin {
    /// Whether the id begins with the digits of this pin.
    #[must_use]
    pub fn matches(&self, id: &PeerId) -> bool {
        let whole_bytes = self.digits / 2;
        let (pinned, found) = (self.id.as_bytes(), id.as_bytes());
        let is_half_equal = self.digits.is_multiple_of(2) || pinned[whole_bytes] == found[whole_bytes] & 0xf0;
        pinned[..whole_bytes] == found[..whole_bytes] && is_half_equal
    }
}

impl From<PeerId> for Pin {
    fn from(id: PeerId) -> Self {
        Self { id, digits: ID_DIGITS }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id.to_string()[..self.digits])
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

/// Why a text is not the beginning of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// Too few digits: another key may have them by chance, or by an attacker's search.
    #[error("the id before @ has {0} digits; at least the first {PIN_DIGITS_MIN} of its 64 are needed")]
    TooShort(usize),
    /// More digits than an id has.
    #[error("the id before @ has {0} digits; an id has 64")]
    TooLong(usize),
    /// A character that is no hexadecimal digit.
    #[error("the id before @ contains {0:?}; an id consists of hexadecimal digits")]
    NotHexadecimal(char),
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_hexdigit()) {
            return Err(PinError::NotHexadecimal(bad));
        }
        let digits = text.len();
        if digits < PIN_DIGITS_MIN {
            return Err(PinError::TooShort(digits));
        }
        let id = format!("{text:0<ID_DIGITS$}").parse().map_err(|_| PinError::TooLong(digits))?;
        Ok(Self { id, digits })
    }
}

/// A bootstrap address, optionally with a pin: `[ID@]HOST:PORT`.
///
/// ```
/// use p2p_gossip::ConnectAddr;
/// let unpinned: ConnectAddr = "192.0.2.7:8080".parse()?;
/// let pinned: ConnectAddr = "d70004b3b779bd18@192.0.2.7:8080".parse()?;
/// assert!(unpinned.pin.is_none() && pinned.pin.is_some());
/// assert_eq!(pinned.to_string(), "d70004b3b779bd18@192.0.2.7:8080");
/// assert!("d70004b3b7@192.0.2.7:8080".parse::<ConnectAddr>().is_err());
/// # Ok::<(), p2p_gossip::ConnectAddrError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ConnectAddr {
    /// The peer that must answer there; `None` accepts any peer.
    pub pin: Option<Pin>,
    /// The address.
    pub addr: DialAddr,
}

impl ConnectAddr {
    /// An address at which only this peer may answer.
    #[must_use]
    pub fn pinned(pin: Pin, addr: DialAddr) -> Self {
        Self { pin: Some(pin), addr }
    }
}

impl From<DialAddr> for ConnectAddr {
    fn from(addr: DialAddr) -> Self {
        Self { pin: None, addr }
    }
}

impl From<SocketAddr> for ConnectAddr {
    fn from(addr: SocketAddr) -> Self {
        DialAddr::from(addr).into()
    }
}

impl fmt::Display for ConnectAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(pin) = &self.pin {
            write!(f, "{pin}@")?;
        }
        self.addr.fmt(f)
    }
}

/// Why a text is not a bootstrap address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectAddrError {
    /// The part before the `@` is no pin.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The part behind the `@`, or the whole text without one, is no address.
    #[error(transparent)]
    Addr(#[from] DialAddrError),
}

impl FromStr for ConnectAddr {
    type Err = ConnectAddrError;

    fn from_str(text: &str) -> Result<Self, ConnectAddrError> {
        Ok(match text.split_once('@') {
            Some((pin, addr)) => Self { pin: Some(pin.parse()?), addr: addr.parse()? },
            None => Self { pin: None, addr: text.parse()? },
        })
    }
}

/// The peer that a dial must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any peer.
    AnyPeer,
    /// A peer whose id begins with this pin.
    Pinned(Pin),
    /// This peer.
    Peer(PeerId),
}

impl Expected {
    /// The id of the expected peer, if all of it is known.
    #[must_use]
    pub fn id(&self) -> Option<PeerId> {
        match self {
            Self::Peer(id) => Some(*id),
            Self::Pinned(pin) if pin.digits == ID_DIGITS => Some(pin.id),
            Self::Pinned(_) | Self::AnyPeer => None,
        }
    }

    /// Whether this peer is the expected one.
    #[must_use]
    pub fn is_met_by(&self, id: &PeerId) -> bool {
        match self {
            Self::AnyPeer => true,
            Self::Pinned(pin) => pin.matches(id),
            Self::Peer(expected) => expected == id,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyPeer => f.write_str("any peer"),
            Self::Pinned(pin) => pin.fmt(f),
            Self::Peer(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "d70004b3b779bd18068abb1a5dc5f6005ce3acbd91a1e0efdb29146483cc2ba8";

    fn pin(text: &str) -> Pin {
        text.parse().unwrap()
    }

    #[test]
    fn pin_is_any_beginning_of_sixteen_digits_or_more() {
        let id: PeerId = ID.parse().unwrap();
        for digits in PIN_DIGITS_MIN..=ID_DIGITS {
            let right = pin(&ID[..digits]);
            assert!(right.matches(&id), "{digits}");
            assert_eq!(right.to_string(), ID[..digits]);
            let last = if ID.as_bytes()[digits - 1] == b'0' { "1" } else { "0" };
            assert!(!pin(&format!("{}{last}", &ID[..digits - 1])).matches(&id), "{digits}");
        }
        assert_eq!(Pin::from(id), pin(ID));
        assert!(pin(&ID.to_uppercase()).matches(&id));
    }

    #[test]
    fn text_that_is_no_pin_is_refused_with_the_reason() {
        let error = |text: &str| text.parse::<Pin>().unwrap_err();
        assert_eq!(error(""), PinError::TooShort(0));
        assert_eq!(error(&ID[..PIN_DIGITS_MIN - 1]), PinError::TooShort(15));
        assert_eq!(error(&format!("{ID}0")), PinError::TooLong(65));
        assert_eq!(error(&format!("{}x", &ID[..30])), PinError::NotHexadecimal('x'));
        assert_eq!(error("zoë"), PinError::NotHexadecimal('z'));
    }

    #[test]
    fn both_halves_of_a_pinned_address_are_checked() {
        let error = |text: &str| text.parse::<ConnectAddr>().unwrap_err();
        assert_eq!(error("abc@127.0.0.1:1"), PinError::TooShort(3).into());
        assert_eq!(error("@127.0.0.1:1"), PinError::TooShort(0).into());
        assert_eq!(error(&format!("{ID}@127.0.0.1")), DialAddrError::NoPort.into());
        assert_eq!(error(&format!("{ID}@[::1]@:1")), DialAddrError::BadIpv6.into());
        let v6: ConnectAddr = format!("{ID}@[::1]:1").parse().unwrap();
        assert_eq!(v6.to_string(), format!("{ID}@[::1]:1"));
    }
}
