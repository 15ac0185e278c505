//! Who a node is: the hash of its public key.

use std::fmt;
use std::str::FromStr;

use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Bytes in the public key (DER) of RSA 4096, the largest key accepted: checking signatures of
/// huge RSA keys is a known way to burn somebody else's CPU.
const SPKI_BYTES_MAX: usize = 550;
/// Bytes in the public key (DER) of RSA 2048, the smallest RSA key accepted.
const SPKI_RSA_BYTES_MIN: usize = 294;
/// DER of the object identifier rsaEncryption, 1.2.840.113549.1.1.1 (RFC 8017 appendix A.1).
const OID_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// SHA-256 of a certificate's SubjectPublicKeyInfo (DER): who a node is, whatever its address,
/// name or certificate.
///
/// Shown as 64 lower-case hexadecimal digits. Everybody can check one:
/// `openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform der | sha256sum`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The id with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash itself.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten hexadecimal digits: enough to tell the nodes of a mesh apart by eye, not
    /// enough to authenticate one.
    #[must_use]
    pub fn short(&self) -> ShortId {
        ShortId(*self)
    }

    /// The id of the key in a certificate.
    ///
    /// # Errors
    /// The certificate can't be parsed, or its key is RSA of fewer than 2048 or more than 4096 bits.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        // The parser's error may quote the certificate.
        let parsed = ParsedCertificate::try_from(certificate).map_err(|_| CertificateError::Malformed)?;
        let key = parsed.subject_public_key_info();
        let is_rsa = key.windows(OID_RSA.len()).take(16).any(|w| w == OID_RSA);
        if key.len() > SPKI_BYTES_MAX || (is_rsa && key.len() < SPKI_RSA_BYTES_MIN) {
            return Err(CertificateError::KeySize);
        }
        Ok(Self(Sha256::digest(&key).into()))
    }
}

/// Why no id can be taken from a certificate.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
pub enum CertificateError {
    /// It is not an X.509 version 3 certificate.
    #[error("it is not a well-formed X.509 version 3 certificate")]
    Malformed,
    /// The key is too small to trust or too large to check.
    #[error("its RSA key is out of range: 2048 to 4096 bits are accepted")]
    KeySize,
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

/// The short form of a [`PeerId`].
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

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a peer id is 64 hexadecimal digits")]
pub struct ParsePeerIdError;

impl FromStr for PeerId {
    type Err = ParsePeerIdError;

    fn from_str(s: &str) -> Result<Self, ParsePeerIdError> {
        let digits = s.as_bytes();
        if digits.len() != 64 {
            return Err(ParsePeerIdError);
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |b: u8| char::from(b).to_digit(16).ok_or(ParsePeerIdError);
            *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).map_err(|_| ParsePeerIdError)?;
        }
        Ok(Self(id))
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
