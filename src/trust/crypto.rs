//! The cryptography that identities and TLS share, and the name of the protocol.

use rustls::SignatureScheme;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// ALPN protocol (RFC 7301): its number is the version of the wire format.
pub(crate) const ALPN: &[u8] = b"p2p-gossip/1";

/// Signatures accepted in the handshake, which decides the kinds of key that can be used.
pub(crate) const SIGNATURE_SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// The one crypto provider of the program.
pub(crate) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}
