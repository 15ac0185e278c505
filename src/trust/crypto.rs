//! The cryptography that identities and TLS share, and the protocol's name.

use rustls::SignatureScheme;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The protocol's name in ALPN (RFC 7301). Its number is the version of the wire format.
pub(crate) const ALPN: &[u8] = b"p2p-gossip/2";

/// Signature schemes accepted in the handshake. They decide the usable kinds of key.
pub(crate) const SIGNATURE_SCHEMES: &[SignatureScheme] = &[
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// Returns the crypto provider of the whole program.
pub(crate) fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}
