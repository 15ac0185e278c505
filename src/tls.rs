//! rustls configurations and the peer verifier: TLS 1.3, mutual, no resumption, identity by key.
//!
//! Invariant: nothing is remembered in here. The certificate callbacks run before the handshake
//! signature is checked, so whoever stored an id here could be fed somebody else's certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, ClientConnection, Connection,
    DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, ServerConnection,
    SignatureScheme,
};

use crate::identity::{CertificateError, Identity, PeerId, provider};

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

/// Makes the TLS connections of one node.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    certificate: Arc<SingleCertAndKey>,
    server: Arc<ServerConfig>,
}

impl Tls {
    pub(crate) fn new(identity: &Identity) -> Result<Self, Error> {
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
            ..provider()
        });
        let certificate = Arc::new(SingleCertAndKey::from(identity.certified_key().as_ref().clone()));
        let verifier = PeerVerifier::new(&provider, None);
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::clone(&certificate) as Arc<_>);
        server.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed connection never asks the verifier, so there is none.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.max_early_data_size = 0;
        Ok(Self { provider, certificate, server: Arc::new(server) })
    }

    /// The accepting end of a connection.
    pub(crate) fn accept(&self) -> Result<Connection, Error> {
        ServerConnection::new(Arc::clone(&self.server)).map(Connection::from)
    }

    /// The dialling end of a connection, to `expected` if somebody is.
    pub(crate) fn dial(&self, expected: Option<PeerId>) -> Result<Connection, Error> {
        let verifier = PeerVerifier::new(&self.provider, expected);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.certificate) as Arc<_>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        // Never sent: rustls wants a name, and names mean nothing here.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        ClientConnection::new(Arc::new(config), name).map(Connection::from)
    }
}

/// Why a completed handshake isn't good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthenticationError {
    /// rustls accepts clients that offer no protocol, so both ends look.
    #[error("the other side does not speak p2p-gossip/1")]
    Protocol,
    /// Can't happen with our verifiers, which make certificates mandatory.
    #[error("the other side presented no usable certificate")]
    NoCertificate,
}

/// Who is at the other end of a connection whose handshake is complete.
pub(crate) fn authenticated_peer(tls: &Connection) -> Result<PeerId, AuthenticationError> {
    debug_assert!(!tls.is_handshaking(), "the signature has been checked");
    if tls.alpn_protocol() != Some(ALPN) {
        return Err(AuthenticationError::Protocol);
    }
    let certificate = tls.peer_certificates().and_then(<[_]>::first);
    certificate
        .and_then(|certificate| PeerId::of_certificate(certificate).ok())
        .ok_or(AuthenticationError::NoCertificate)
}

/// Accepts any well-formed certificate whose key signed this handshake; the signature is the
/// authentication (RFC 8446 section 4.4.3). Names, dates and issuers mean nothing here.
#[derive(Debug)]
struct PeerVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    expected: Option<PeerId>,
}

impl PeerVerifier {
    fn new(provider: &CryptoProvider, expected: Option<PeerId>) -> Self {
        Self { algorithms: provider.signature_verification_algorithms, expected }
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        if !intermediates.is_empty() {
            return Err(Rejection::Chain.into());
        }
        let found = PeerId::of_certificate(end_entity).map_err(Rejection::Certificate)?;
        match self.expected {
            Some(expected) if expected != found => Err(Rejection::WrongId { expected, found }.into()),
            _ => Ok(()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !SIGNATURE_SCHEMES.contains(&signed.scheme) {
            return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
        }
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }
}

/// Why a certificate was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    /// Somebody else answers at this address.
    #[error("expected peer {expected}, found {found}")]
    WrongId { expected: PeerId, found: PeerId },
    /// Peers present exactly one certificate.
    #[error("it sent a certificate chain; exactly one certificate is allowed")]
    Chain,
    /// The certificate is damaged or its key out of range.
    #[error("certificate not accepted: {0}")]
    Certificate(CertificateError),
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        TlsCertificateError::Other(OtherError(Arc::new(rejection))).into()
    }
}

impl Rejection {
    /// The rejection inside a rustls error, if that is what it is.
    pub(crate) fn of(error: &Error) -> Option<&Self> {
        match error {
            Error::InvalidCertificate(TlsCertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
            _ => None,
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURE_SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SIGNATURE_SCHEMES.to_vec()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
