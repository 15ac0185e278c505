//! The peer id: the hash of a node's public key.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::util::hex;

/// Bytes in the public key (DER) of RSA 4096, the largest key accepted: checking signatures of
/// huge RSA keys is a known way to exhaust another machine's CPU.
const SPKI_BYTES_MAX: usize = 550;
/// Bytes in the public key (DER) of RSA 2048, the smallest RSA key accepted.
const SPKI_RSA_BYTES_MIN: usize = 294;
/// DER of the object identifier rsaEncryption, 1.2.840.113549.1.1.1 (RFC 8017 appendix A.1).
const OID_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// SHA-256 of a certificate's SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7). It identifies a node,
/// independent of its address, name and certificate.
///
/// Shown as 64 lower-case hexadecimal digits. To compute the id of a certificate with other tools:
/// `openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform der | sha256sum`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// Returns the id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first ten hexadecimal digits: enough to tell the nodes of a mesh apart by eye, too few to
    /// authenticate one.
    #[must_use]
    pub fn short(&self) -> ShortId {
        ShortId(*self)
    }

    /// Computes the id of the key in a certificate.
    ///
    /// # Errors
    /// The certificate can't be parsed, or its key is RSA of fewer than 2048 or more than 4096 bits.
    pub fn from_certificate(der: &[u8]) -> Result<Self, CertificateError> {
        // The parser's error may quote the certificate.
        let certificate = CertificateDer::from(der);
        let parsed = ParsedCertificate::try_from(&certificate).map_err(|_| CertificateError::Malformed)?;
        let key = parsed.subject_public_key_info();
        let is_rsa = key.windows(OID_RSA.len()).take(16).any(|w| w == OID_RSA);
        if key.len() > SPKI_BYTES_MAX || (is_rsa && key.len() < SPKI_RSA_BYTES_MIN) {
            return Err(CertificateError::KeySize);
        }
        Ok(Self(Sha256::digest(&key).into()))
    }
}

/// Why a certificate has no usable id.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateError {
    /// It is not an X.509 version 3 certificate.
    #[error("it is not a well-formed X.509 version 3 certificate")]
    Malformed,
    /// The RSA key is too small to be safe, or so large that checking its signatures takes too long.
    #[error("its RSA key is out of range: 2048 to 4096 bits are accepted")]
    KeySize,
}

/// The order of the bytes. Nearly all ids differ in the first one, and tables of peers compare ids all the time: that saves
/// the call of a function for all 32.
impl Ord for PeerId {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.0[0].cmp(&other.0[0]).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for PeerId {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.short())
    }
}

/// The first ten digits of a [`PeerId`], for display.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortId(PeerId);

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0[..5].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not 64 hexadecimal digits. Holds no part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParsePeerIdError {
    /// An address follows the digits.
    #[error("a peer id is needed alone, without @ and the address behind it")]
    WithAddress,
    /// Colons separate the digits.
    #[error("a peer id is 64 hexadecimal digits without the colons between them")]
    WithColons,
    /// There are this many digits.
    #[error("a peer id is 64 hexadecimal digits, and this has {0}: p2p-gossip id prints all of them")]
    Length(usize),
    /// The text is something else.
    #[error("a peer id is 64 hexadecimal digits")]
    NotHexadecimal,
}

impl ParsePeerIdError {
    /// Finds the reason for which this text is no id.
    fn of(text: &str) -> Self {
        let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex(text) {
            Self::Length(text.len())
        } else if text.split_once('@').is_some_and(|(id, _)| is_hex(id)) {
            Self::WithAddress
        } else if text.contains(':') && is_hex(&text.replace(':', "")) {
            Self::WithColons
        } else {
            Self::NotHexadecimal
        }
    }
}

impl FromStr for PeerId {
    type Err = ParsePeerIdError;

    fn from_str(s: &str) -> Result<Self, ParsePeerIdError> {
        let mut id = [0; 32];
        if hex::parse_into(s.as_bytes(), &mut id) { Ok(Self(id)) } else { Err(ParsePeerIdError::of(s)) }
    }
}

impl Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
