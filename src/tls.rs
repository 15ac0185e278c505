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

#[cfg(test)]
mod tests {
    use rustls::sign::CertifiedKey;
    use rustls::{HandshakeKind, NamedGroup, ProtocolVersion};

    use super::*;

    /// Carries bytes between the two ends until both are done or one refuses.
    fn shake_hands(dialler: &mut Connection, acceptor: &mut Connection) -> Result<(), Error> {
        for _ in 0..10 {
            for direction in [true, false] {
                let (from, to) =
                    if direction { (&mut *dialler, &mut *acceptor) } else { (&mut *acceptor, &mut *dialler) };
                let mut bytes = Vec::new();
                while from.wants_write() {
                    from.write_tls(&mut bytes).unwrap();
                }
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    to.read_tls(&mut rest).unwrap();
                    to.process_new_packets()?;
                }
            }
        }
        Ok(())
    }

    fn node() -> (PeerId, Tls) {
        let identity = Identity::generate().unwrap();
        (identity.id(), Tls::new(&identity).unwrap())
    }

    /// A node that presents one identity's certificate and signs with another's key.
    fn thief(of: &Identity) -> Tls {
        let own = Identity::generate().unwrap().certified_key();
        let stolen = of.certified_key().cert.clone();
        let mut tls = Tls::new(of).unwrap();
        let certificate = Arc::new(SingleCertAndKey::from(CertifiedKey::new(stolen, Arc::clone(&own.key))));
        tls.present(certificate);
        tls
    }

    /// A node that sends a certificate beyond its own.
    fn chained() -> Tls {
        let identity = Identity::generate().unwrap();
        let other = Identity::generate().unwrap();
        let mut chain = identity.certified_key().cert.clone();
        chain.extend(other.certified_key().cert.clone());
        let mut tls = Tls::new(&identity).unwrap();
        let key = Arc::clone(&identity.certified_key().key);
        tls.present(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
        tls
    }

    impl Tls {
        fn present(&mut self, certificate: Arc<SingleCertAndKey>) {
            let mut server = self.server.as_ref().clone();
            server.cert_resolver = Arc::clone(&certificate) as Arc<_>;
            self.server = Arc::new(server);
            self.certificate = certificate;
        }

        /// A dialler's configuration without our rules, to be bent.
        fn lax_client(&self) -> ClientConfig {
            let verifier = PeerVerifier::new(&self.provider, None);
            let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
                .with_protocol_versions(&[&TLS13])
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_cert_resolver(Arc::clone(&self.certificate) as Arc<_>);
            config.alpn_protocols = vec![ALPN.to_vec()];
            config
        }
    }

    fn connect(config: &Arc<ClientConfig>) -> Connection {
        ClientConnection::new(Arc::clone(config), "localhost".try_into().unwrap()).unwrap().into()
    }

    #[test]
    fn both_ends_learn_who_the_other_is() {
        let ((a_id, a), (b_id, b)) = (node(), node());
        let (mut dialler, mut acceptor) = (a.dial(Some(b_id)).unwrap(), b.accept().unwrap());
        shake_hands(&mut dialler, &mut acceptor).unwrap();
        assert_eq!(authenticated_peer(&dialler), Ok(b_id));
        assert_eq!(authenticated_peer(&acceptor), Ok(a_id));
        assert_eq!(dialler.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = dialler.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    }

    #[test]
    fn another_peer_than_the_expected_one_is_refused_by_name() {
        let ((_, a), (b_id, b), (c_id, _)) = (node(), node(), node());
        let (mut dialler, mut acceptor) = (a.dial(Some(c_id)).unwrap(), b.accept().unwrap());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(Rejection::of(&error), Some(&Rejection::WrongId { expected: c_id, found: b_id }));
    }

    #[test]
    fn a_stolen_certificate_is_worth_nothing_to_who_accepts() {
        let victim = Identity::generate().unwrap();
        let (_, honest) = node();
        let (mut dialler, mut acceptor) =
            (honest.dial(Some(victim.id())).unwrap(), thief(&victim).accept().unwrap());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::InvalidCertificate(TlsCertificateError::BadSignature));
    }

    #[test]
    fn a_stolen_certificate_is_worth_nothing_to_who_dials() {
        let victim = Identity::generate().unwrap();
        let (_, honest) = node();
        let (mut dialler, mut acceptor) = (thief(&victim).dial(None).unwrap(), honest.accept().unwrap());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::InvalidCertificate(TlsCertificateError::BadSignature));
        assert!(acceptor.is_handshaking());
    }

    #[test]
    fn a_chain_of_certificates_is_refused_in_both_roles() {
        let (_, honest) = node();
        let (mut dialler, mut acceptor) = (chained().dial(None).unwrap(), honest.accept().unwrap());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(Rejection::of(&error), Some(&Rejection::Chain));
        let (mut dialler, mut acceptor) = (honest.dial(None).unwrap(), chained().accept().unwrap());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(Rejection::of(&error), Some(&Rejection::Chain));
    }

    #[test]
    fn who_presents_no_certificate_is_refused() {
        let ((_, a), (_, b)) = (node(), node());
        let mut config = a.lax_client();
        config.client_auth_cert_resolver = Arc::new(NoCertificate);
        let (mut dialler, mut acceptor) = (connect(&Arc::new(config)), b.accept().unwrap());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::NoCertificatesPresented);
    }

    #[test]
    fn who_speaks_another_protocol_or_names_none_is_refused() {
        let ((_, a), (_, b)) = (node(), node());
        let mut other = a.lax_client();
        other.alpn_protocols = vec![b"h2".to_vec()];
        let (mut dialler, mut acceptor) = (connect(&Arc::new(other)), b.accept().unwrap());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::NoApplicationProtocol);

        let mut silent = a.lax_client();
        silent.alpn_protocols.clear();
        let (mut dialler, mut acceptor) = (connect(&Arc::new(silent)), b.accept().unwrap());
        shake_hands(&mut dialler, &mut acceptor).unwrap();
        assert_eq!(authenticated_peer(&acceptor), Err(AuthenticationError::Protocol));
    }

    #[test]
    fn no_connection_is_ever_resumed() {
        let ((_, a), (_, b)) = (node(), node());
        let mut config = a.lax_client();
        config.resumption = Resumption::in_memory_sessions(8);
        config.enable_early_data = true;
        let config = Arc::new(config);
        for _ in 0..2 {
            let (mut dialler, mut acceptor) = (connect(&config), b.accept().unwrap());
            shake_hands(&mut dialler, &mut acceptor).unwrap();
            assert_eq!(acceptor.handshake_kind(), Some(HandshakeKind::Full));
        }
    }

    #[derive(Debug)]
    struct NoCertificate;

    impl rustls::client::ResolvesClientCert for NoCertificate {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }

        fn has_certs(&self) -> bool {
            false
        }
    }
}
