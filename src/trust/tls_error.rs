//! The reasons for which TLS fails.
//!
//! Invariant: a reason holds no byte that the peer sent. The TLS library's own errors may quote parts of the
//! peer's certificate, so they are converted here.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use crate::trust::crypto::ALPN;

/// Why a TLS connection failed or can't be made. In the texts "it" is the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The other side's lists refuse this node. TLS does not carry the list; the other side logs it.
    #[error("it refuses us: we are on its deny list, or not on its allow list")]
    NotAdmitted,
    /// The other side does not accept this node's certificate.
    #[error("it refuses us: it expects another peer here, or does not accept our certificate")]
    CertificateRefused,
    /// The other side has no protocol in common with this node.
    #[error(
        "it speaks another version of the protocol, or another protocol; this node speaks {}",
        String::from_utf8_lossy(ALPN)
    )]
    ProtocolRefused,
    /// The other side ended the connection with another alert (RFC 8446 section 6), of this number.
    #[error("it ended the connection with the TLS alert {0}")]
    Alert(u8),
    /// The received bytes are not TLS.
    #[error("its bytes are not TLS, or were damaged on the way")]
    NotTls,
    /// A handshake message is larger than the limit.
    #[error("it sent a TLS handshake message that is too large")]
    TooLarge,
    /// A message can't be decrypted.
    #[error("its message cannot be decrypted: it was damaged or changed on the way")]
    Undecryptable,
    /// The two sides have no key exchange in common.
    #[error("it has no TLS key exchange in common with this node")]
    NoKeyExchange,
    /// The two sides have no cipher suite in common.
    #[error("it has no TLS cipher suite in common with this node")]
    NoCipherSuite,
    /// The two sides have no signature scheme in common.
    #[error("it has no TLS signature scheme in common with this node")]
    NoSignatureScheme,
    /// The other side lacks a part of TLS 1.3 that this node requires.
    #[error("it does not speak TLS 1.3 with the parts that this node requires")]
    Incompatible,
    /// The other side presented no certificate.
    #[error("it sent no certificate")]
    NoCertificate,
    /// The other side presents a certificate without holding its key.
    #[error("it does not hold the private key of the certificate that it presents")]
    BadSignature,
    /// The other side's certificate is not accepted.
    #[error("its certificate is not accepted")]
    BadCertificate,
    /// The other side requests too many key updates.
    #[error("it requests too many TLS key updates")]
    KeyUpdates,
    /// The other side broke the rules of TLS.
    #[error("it broke the rules of TLS")]
    Misbehaved,
    /// The system provides no randomness.
    #[error("the system provides no randomness")]
    NoRandomness,
    /// Any other error of the TLS library.
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
            Error::PeerIncompatible(reason) => match reason {
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
            let original = format!("{error:?}");
            assert!(original.contains("QUOTED") || original.contains("81, 85, 79"), "{original}");
            let ours = TlsError::from(error);
            let shown = format!("{ours} {ours:?}");
            assert!(!shown.contains("QUOTED") && !shown.contains("81, 85, 79"), "{shown}");
            assert!(std::error::Error::source(&ours).is_none());
        }
    }

    #[test]
    fn alerts_of_another_node_are_explained() {
        let said = |alert| TlsError::from(Error::AlertReceived(alert)).to_string();
        assert!(said(AlertDescription::AccessDenied).contains("deny list"));
        assert!(said(AlertDescription::CertificateUnknown).contains("expects another peer"));
        assert!(said(AlertDescription::NoApplicationProtocol).ends_with("this node speaks p2p-gossip/2"));
        assert!(said(AlertDescription::HandshakeFailure).contains("alert 40"));
    }
}
