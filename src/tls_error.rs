//! Why TLS failed, in reasons of our own.
//!
//! Invariant: a reason holds no byte of what the peer sent. The TLS library's own errors may quote parts of
//! the peer's certificate, so they end here.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use crate::tls::ALPN;

/// Why a TLS connection failed, or why there can be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The other side's lists keep this node out. TLS does not tell which list; the other side's log does.
    #[error("it refuses us: we are on its deny list, or not on its allow list")]
    NotAdmitted,
    /// The other side does not take this node's certificate.
    #[error("it refuses us: it expects somebody else here, or does not accept our certificate")]
    CertificateRefused,
    /// The other side has no protocol in common with this node.
    #[error(
        "it speaks another version of the protocol, or something else; this node speaks {}",
        String::from_utf8_lossy(ALPN)
    )]
    ProtocolRefused,
    /// The other side ended the connection with another alert (RFC 8446 section 6), of this number.
    #[error("it ended the connection with the TLS alert {0}")]
    Alert(u8),
    /// What arrived is not TLS.
    #[error("what it sent is not TLS, or was damaged on the way")]
    NotTls,
    /// A handshake message is larger than any real one.
    #[error("it sent a TLS handshake message that is too large")]
    TooLarge,
    /// A message can't be decrypted.
    #[error("what it sent cannot be decrypted: it was damaged or changed on the way")]
    Undecryptable,
    /// No key exchange is known to both sides.
    #[error("it has no TLS key exchange in common with this node")]
    NoKeyExchange,
    /// No encryption is known to both sides.
    #[error("it has no TLS cipher suite in common with this node")]
    NoCipherSuite,
    /// No kind of signature is known to both sides.
    #[error("it has no TLS signature scheme in common with this node")]
    NoSignatureScheme,
    /// The other side does not speak TLS 1.3 as this node needs it.
    #[error("it does not speak TLS 1.3 as this node does")]
    Incompatible,
    /// The other side presented no certificate.
    #[error("it sent no certificate")]
    NoCertificate,
    /// The other side has the certificate, and not the key.
    #[error("it does not hold the private key of the certificate that it presents")]
    BadSignature,
    /// The other side's certificate is of no use.
    #[error("its certificate is not accepted")]
    BadCertificate,
    /// The other side asks for new keys all the time.
    #[error("it renews its TLS keys without end")]
    KeyUpdates,
    /// The other side breaks the rules of TLS.
    #[error("it broke the rules of TLS")]
    Misbehaved,
    /// The system has no randomness to give.
    #[error("the system has no randomness to give")]
    NoRandomness,
    /// Anything else.
    #[error("the TLS library reports an unexpected error")]
    Unexpected,
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match error {
            Error::AlertReceived(alert) => match alert {
                AlertDescription::AccessDenied => Self::NotAdmitted,
                AlertDescription::CertificateUnknown => Self::CertificateRefused,
                AlertDescription::NoApplicationProtocol => Self::ProtocolRefused,
                other => Self::Alert(other.into()),
            },
            Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge)
            | Error::PeerSentOversizedRecord => Self::TooLarge,
            Error::InvalidMessage(_) => Self::NotTls,
            Error::DecryptError => Self::Undecryptable,
            Error::PeerIncompatible(what) => match what {
                PeerIncompatible::NoKxGroupsInCommon => Self::NoKeyExchange,
                PeerIncompatible::NoCipherSuitesInCommon => Self::NoCipherSuite,
                PeerIncompatible::NoSignatureSchemesInCommon
                | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon => Self::NoSignatureScheme,
                _ => Self::Incompatible,
            },
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::InvalidCertificate(CertificateError::BadSignature) => Self::BadSignature,
            Error::InvalidCertificate(_) => Self::BadCertificate,
            Error::NoApplicationProtocol => Self::ProtocolRefused,
            Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests) => Self::KeyUpdates,
            Error::PeerMisbehaved(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. } => Self::Misbehaved,
            Error::FailedToGetRandomBytes => Self::NoRandomness,
            _ => Self::Unexpected,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::OtherError;

    use super::*;

    #[test]
    fn tls_errors_show_no_byte_of_the_peers_certificate() {
        let bytes = b"QUOTED FROM THE PEER".to_vec();
        let text = String::from_utf8(bytes.clone()).unwrap();
        for error in [
            Error::InvalidCertificate(CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: bytes.clone(),
                public_key_algorithm_id: bytes,
            }),
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(std::io::Error::other(
                text.clone(),
            ))))),
            Error::General(text.clone()),
            Error::Other(OtherError(Arc::new(std::io::Error::other(text)))),
        ] {
            let foreign = format!("{error:?}");
            assert!(foreign.contains("QUOTED") || foreign.contains("81, 85, 79"), "{foreign}");
            let ours = TlsError::from(error);
            let shown = format!("{ours} {ours:?}");
            assert!(!shown.contains("QUOTED") && !shown.contains("81, 85, 79"), "{shown}");
            assert!(std::error::Error::source(&ours).is_none());
        }
    }

    #[test]
    fn alerts_of_another_node_become_advice() {
        let said = |alert| TlsError::from(Error::AlertReceived(alert)).to_string();
        assert!(said(AlertDescription::AccessDenied).contains("deny list"));
        assert!(said(AlertDescription::CertificateUnknown).contains("expects somebody else"));
        assert!(said(AlertDescription::NoApplicationProtocol).ends_with("this node speaks p2p-gossip/1"));
        assert!(said(AlertDescription::HandshakeFailure).contains("alert 40"));
    }
}
