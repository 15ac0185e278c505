//! The checks of the other side during a TLS handshake, and the reasons for which they reject it.
//!
//! Invariant: no check remembers a peer. The certificate callbacks run before the handshake signature is
//! verified, so an id that they stored could come from a stolen certificate.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};

use crate::trust::access::{Access, Refusal};
use crate::trust::crypto::SIGNATURE_SCHEMES;
use crate::trust::peer_id::{CertificateError, PeerId};
use crate::trust::pin::Expected;
use crate::trust::protocol_offer::Offer;

/// The current access lists. Read at each handshake, so a change counts from the next one on.
pub(super) type SharedAccess = Arc<RwLock<Arc<Access>>>;

/// Why this node does not accept the other side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    /// It offers other protocols only.
    #[error("{0}")]
    Protocol(Offer),
    /// Another peer than the expected one answers at this address.
    #[error("expected peer {expected}, found {found}")]
    WrongId { expected: Expected, found: PeerId },
    /// Our lists refuse it. It has not proved its id yet.
    #[error("peer {found} is refused: {why}")]
    NotAdmitted { found: PeerId, why: Refusal },
    /// Peers present exactly one certificate.
    #[error("it sent a certificate chain; exactly one certificate is allowed")]
    Chain,
    /// The certificate is damaged or its key out of range.
    #[error("certificate not accepted: {0}")]
    Certificate(CertificateError),
}

impl Rejection {
    /// The error for which rustls sends the right alert: access_denied if the lists refuse the other side,
    /// certificate_unknown otherwise (RFC 8446 section 6.2).
    fn for_alert(&self) -> TlsCertificateError {
        match self {
            Self::NotAdmitted { .. } => TlsCertificateError::ApplicationVerificationFailure,
            other => TlsCertificateError::Other(OtherError(Arc::new(other.clone()))),
        }
    }
}

/// Accepts any well-formed certificate whose key signed this handshake; the signature is the
/// authentication (RFC 8446 section 4.4.3). Names, dates and issuers mean nothing here.
/// The expected peer and the access lists do, and are checked before this node shows or says anything.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    access: SharedAccess,
    expected: Expected,
    /// Shared with the session, because rustls sends an alert to the other side but does not return our reason.
    pub(super) rejection: Arc<OnceLock<Rejection>>,
}

impl PeerVerifier {
    pub(super) fn new(provider: &CryptoProvider, access: &SharedAccess, expected: Expected) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { algorithms, access: Arc::clone(access), expected, rejection: Arc::default() }
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        self.check_peer(end_entity, intermediates).map_err(|rejection| {
            let error = Error::InvalidCertificate(rejection.for_alert());
            // A connection has one certificate, so this is the first rejection.
            let _ = self.rejection.set(rejection);
            error
        })
    }

    fn check_peer(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Rejection> {
        if !intermediates.is_empty() {
            return Err(Rejection::Chain);
        }
        let found = PeerId::from_certificate(end_entity).map_err(Rejection::Certificate)?;
        if !self.expected.is_met_by(&found) {
            return Err(Rejection::WrongId { expected: self.expected, found });
        }
        let access = Arc::clone(&self.access.read().unwrap_or_else(PoisonError::into_inner));
        access.check(&found).map_err(|why| Rejection::NotAdmitted { found, why })
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

/// Presents our certificate to a client and checks the protocols that it offers: rustls refuses a wrong offer
/// without returning it.
pub(super) struct OfferReader {
    pub(super) certificate: Arc<SingleCertAndKey>,
    pub(super) rejection: Arc<OnceLock<Rejection>>,
}

/// rustls requires it. Leaves out the certificate.
impl fmt::Debug for OfferReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferReader").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for OfferReader {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(mut offered) = client_hello.alpn()
            && let Err(offer) = Offer::check(&mut offered)
        {
            let _ = self.rejection.set(Rejection::Protocol(offer));
        }
        self.certificate.resolve(client_hello)
    }
}
