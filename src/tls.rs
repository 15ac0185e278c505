//! rustls configurations and the peer verifier: TLS 1.3, mutual, no resumption, identity by key.
//!
//! Invariant: nothing is remembered in here. The certificate callbacks run before the handshake
//! signature is checked, so whoever stored an id here could be fed somebody else's certificate.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError as TlsCertificateError, ClientConfig, ClientConnection, Connection,
    DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, ServerConnection,
    SignatureScheme, SupportedCipherSuite,
};

use crate::access::{Access, Refusal};
use crate::identity::{CertificateError, Identity, PeerId, provider};
use crate::pin::Expected;
use crate::text::Escaped;
use crate::tls_error::TlsError;

/// ALPN protocol (RFC 7301): its number is the version of the wire format.
pub(crate) const ALPN: &[u8] = b"p2p-gossip/1";
/// What all versions begin with.
const ALPN_FAMILY: &[u8] = b"p2p-gossip/";
/// Protocols of a stranger that are shown, and bytes of each: a line of the log is to hold them.
const OFFERED_SHOWN_MAX: usize = 4;
const OFFERED_BYTES_SHOWN_MAX: usize = 32;

/// Encryption, best first: where a machine has no instructions for AES, as many small boards, ChaCha20 takes a
/// fraction of the time and is free of its timing leaks; SHA-256 has instructions where SHA-384 has none, and a
/// handshake mostly hashes. Both take keys of 256 bits.
const CIPHER_SUITES: &[SupportedCipherSuite] = &[
    aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
];

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
    access: SharedAccess,
}

/// Who may be a peer now. Read at each handshake, so a change counts from the next one on.
type SharedAccess = Arc<RwLock<Arc<Access>>>;

/// One end of a connection that has not begun, and where its verifier says why it refused.
pub(crate) type Unproven = (Connection, Arc<OnceLock<Rejection>>);

impl Tls {
    pub(crate) fn new(identity: &Identity, access: Access) -> Result<Self, TlsError> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: CIPHER_SUITES.to_vec(),
            kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
            ..provider()
        });
        let certificate = Arc::new(SingleCertAndKey::from(identity.certified_key().as_ref().clone()));
        let tls = Self { provider, certificate, access: Arc::new(RwLock::new(Arc::new(access))) };
        // What the library does not like it says now, not to the first peer.
        tls.accept()?;
        Ok(tls)
    }

    /// From now on only these are let in.
    pub(crate) fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }

    /// The accepting end of a connection.
    pub(crate) fn accept(&self) -> Result<Unproven, TlsError> {
        let verifier = PeerVerifier::new(&self.provider, &self.access, Expected::Anybody);
        let rejection = Arc::clone(&verifier.rejection);
        let (certificate, noted) = (Arc::clone(&self.certificate), Arc::clone(&rejection));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(OfferReader { certificate, rejection: noted }));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed connection never asks the verifier, so there is none.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        Ok((ServerConnection::new(Arc::new(config))?.into(), rejection))
    }

    /// The dialling end of a connection, to whoever is expected there.
    pub(crate) fn dial(&self, expected: Expected) -> Result<Unproven, TlsError> {
        let verifier = PeerVerifier::new(&self.provider, &self.access, expected);
        let rejection = Arc::clone(&verifier.rejection);
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
        Ok((ClientConnection::new(Arc::new(config), name)?.into(), rejection))
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
/// authentication (RFC 8446 section 4.4.3). Names, dates and issuers mean nothing here; who is
/// expected and who is admitted does, and is asked before we show or say anything.
#[derive(Debug)]
struct PeerVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    access: SharedAccess,
    expected: Expected,
    /// For whoever drives the connection: TLS carries an alert to the other side, but no reason here.
    rejection: Arc<OnceLock<Rejection>>,
}

impl PeerVerifier {
    fn new(provider: &CryptoProvider, access: &SharedAccess, expected: Expected) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { algorithms, access: Arc::clone(access), expected, rejection: Arc::default() }
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        self.judge(end_entity, intermediates).map_err(|rejection| {
            let error = Error::InvalidCertificate(rejection.for_alert());
            // There is one certificate to a connection, so this is the first.
            let _ = self.rejection.set(rejection);
            error
        })
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Rejection> {
        if !intermediates.is_empty() {
            return Err(Rejection::Chain);
        }
        let found = PeerId::of_certificate(end_entity).map_err(Rejection::Certificate)?;
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

/// Presents our certificate, and looks at what the other side offers to speak: rustls refuses it
/// without saying what it was.
struct OfferReader {
    certificate: Arc<SingleCertAndKey>,
    rejection: Arc<OnceLock<Rejection>>,
}

/// rustls wants it; the certificate is left out, as everywhere.
impl fmt::Debug for OfferReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfferReader").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for OfferReader {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(mut offered) = client_hello.alpn()
            && let Err(offer) = Offer::judge(&mut offered)
        {
            let _ = self.rejection.set(Rejection::Protocol(offer));
        }
        self.certificate.resolve(client_hello)
    }
}

/// What somebody offers to speak who does not offer our protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Of our protocol in other versions, or else of whatever else: the first few, made safe to show.
    shown: Vec<String>,
    is_other_version: bool,
}

impl Offer {
    fn judge(offered: &mut dyn Iterator<Item = &[u8]>) -> Result<(), Self> {
        let (mut versions, mut others) = (Vec::new(), Vec::new());
        for protocol in offered {
            if protocol == ALPN {
                return Ok(());
            }
            let list = if protocol.starts_with(ALPN_FAMILY) { &mut versions } else { &mut others };
            if list.len() < OFFERED_SHOWN_MAX {
                let shown = &protocol[..protocol.len().min(OFFERED_BYTES_SHOWN_MAX)];
                list.push(Escaped(&String::from_utf8_lossy(shown)).to_string());
            }
        }
        let is_other_version = !versions.is_empty();
        Err(Self { shown: if is_other_version { versions } else { others }, is_other_version })
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = String::from_utf8_lossy(ALPN);
        let theirs = self.shown.join(", ");
        if self.is_other_version {
            write!(f, "it speaks another version of the protocol: {theirs}; this node speaks {ours}")
        } else {
            write!(f, "it does not speak {ours}, but {theirs}")
        }
    }
}

/// Why the other side was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejection {
    /// It offers to speak, but not what we do.
    #[error("{0}")]
    Protocol(Offer),
    /// Somebody else answers at this address.
    #[error("expected peer {expected}, found {found}")]
    WrongId { expected: Expected, found: PeerId },
    /// Our lists keep it out; it has not proven yet who it is.
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
    /// What makes rustls tell the other side the right thing: access_denied if it is not wanted,
    /// certificate_unknown otherwise (RFC 8446 section 6.2).
    fn for_alert(&self) -> TlsCertificateError {
        match self {
            Self::NotAdmitted { .. } => TlsCertificateError::ApplicationVerificationFailure,
            other => TlsCertificateError::Other(OtherError(Arc::new(other.clone()))),
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
    use rustls::{AlertDescription, CipherSuite, HandshakeKind, NamedGroup, ProtocolVersion};

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
        (identity.id(), Tls::new(&identity, Access::default()).unwrap())
    }

    /// A node that presents one identity's certificate and signs with another's key.
    fn thief(of: &Identity) -> Tls {
        let own = Identity::generate().unwrap().certified_key();
        let stolen = of.certified_key().cert.clone();
        let mut tls = Tls::new(of, Access::default()).unwrap();
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
        let mut tls = Tls::new(&identity, Access::default()).unwrap();
        let key = Arc::clone(&identity.certified_key().key);
        tls.present(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))));
        tls
    }

    impl Tls {
        fn dialler(&self, expected: Expected) -> Connection {
            self.dial(expected).unwrap().0
        }

        fn acceptor(&self) -> Connection {
            self.accept().unwrap().0
        }

        fn present(&mut self, certificate: Arc<SingleCertAndKey>) {
            self.certificate = certificate;
        }

        /// A dialler's configuration without our rules, to be bent.
        fn lax_client(&self) -> ClientConfig {
            let verifier = PeerVerifier::new(&self.provider, &self.access, Expected::Anybody);
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
        let (mut dialler, mut acceptor) = (a.dialler(Expected::Peer(b_id)), b.acceptor());
        shake_hands(&mut dialler, &mut acceptor).unwrap();
        assert_eq!(authenticated_peer(&dialler), Ok(b_id));
        assert_eq!(authenticated_peer(&acceptor), Ok(a_id));
        assert_eq!(dialler.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        let group = dialler.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
        let suite = dialler.negotiated_cipher_suite().map(|suite| suite.suite());
        assert_eq!(suite, Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256));
    }

    /// Two ends of which one must refuse the other for a reason of its own, and what it tells the other.
    fn refused(by: Unproven, mut other: Connection) -> (Rejection, AlertDescription) {
        let (mut refusing, rejection) = by;
        let ends = if matches!(refusing, Connection::Client(_)) {
            [&mut refusing, &mut other]
        } else {
            [&mut other, &mut refusing]
        };
        let [dialler, acceptor] = ends;
        shake_hands(dialler, acceptor).unwrap_err();
        let mut alert = Vec::new();
        refusing.write_tls(&mut alert).unwrap();
        other.read_tls(&mut alert.as_slice()).unwrap();
        let told = match other.process_new_packets() {
            Err(Error::AlertReceived(alert)) => alert,
            result => panic!("an alert was expected: {result:?}"),
        };
        (rejection.get().unwrap().clone(), told)
    }

    #[test]
    fn another_peer_than_the_expected_one_is_refused_by_name_and_shown_nothing() {
        let ((_, a), (b_id, b), (c_id, _)) = (node(), node(), node());
        let pin = format!("{c_id}")[..20].parse().unwrap();
        for expected in [Expected::Peer(c_id), Expected::Pinned(pin)] {
            let mut acceptor = b.acceptor();
            let (mut dialler, rejection) = a.dial(expected).unwrap();
            shake_hands(&mut dialler, &mut acceptor).unwrap_err();
            assert_eq!(rejection.get(), Some(&Rejection::WrongId { expected, found: b_id }));
            assert!(acceptor.peer_certificates().is_none());
            let (_, alert) = refused(a.dial(expected).unwrap(), b.acceptor());
            assert_eq!(alert, AlertDescription::CertificateUnknown);
        }
        let pin = format!("{b_id}")[..20].parse().unwrap();
        let (mut dialler, mut acceptor) = (a.dialler(Expected::Pinned(pin)), b.acceptor());
        shake_hands(&mut dialler, &mut acceptor).unwrap();
    }

    #[test]
    fn who_is_not_admitted_is_refused_in_both_roles_as_soon_as_the_lists_say_so() {
        let ((_, a), (b_id, b)) = (node(), node());
        let (denied, closed) = (
            Access { deny: [b_id].into(), ..Access::default() },
            Access { allow: Some([].into()), ..Access::default() },
        );
        for (access, why) in [(denied, Refusal::Denied), (closed, Refusal::NotAllowed)] {
            let rejection = Rejection::NotAdmitted { found: b_id, why };
            // The connection begins before the lists change.
            let (dialling, accepting) = (a.dial(Expected::Peer(b_id)).unwrap(), a.accept().unwrap());
            a.set_access(access);
            assert_eq!(refused(dialling, b.acceptor()), (rejection.clone(), AlertDescription::AccessDenied));
            assert_eq!(
                refused(accepting, b.dialler(Expected::Anybody)),
                (rejection, AlertDescription::AccessDenied)
            );
        }
        a.set_access(Access::default());
        shake_hands(&mut a.dialler(Expected::Anybody), &mut b.acceptor()).unwrap();
    }

    #[test]
    fn a_stolen_certificate_is_worth_nothing_to_who_accepts() {
        let victim = Identity::generate().unwrap();
        let (_, honest) = node();
        let (mut dialler, mut acceptor) =
            (honest.dialler(Expected::Peer(victim.id())), thief(&victim).acceptor());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::InvalidCertificate(TlsCertificateError::BadSignature));
    }

    #[test]
    fn a_stolen_certificate_is_worth_nothing_to_who_dials() {
        let victim = Identity::generate().unwrap();
        let (_, honest) = node();
        let (mut dialler, mut acceptor) = (thief(&victim).dialler(Expected::Anybody), honest.acceptor());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::InvalidCertificate(TlsCertificateError::BadSignature));
        assert!(acceptor.is_handshaking());
    }

    #[test]
    fn a_chain_of_certificates_is_refused_in_both_roles() {
        let (_, honest) = node();
        let (rejection, _) = refused(honest.accept().unwrap(), chained().dialler(Expected::Anybody));
        assert_eq!(rejection, Rejection::Chain);
        let (rejection, _) = refused(honest.dial(Expected::Anybody).unwrap(), chained().acceptor());
        assert_eq!(rejection, Rejection::Chain);
    }

    #[test]
    fn who_presents_no_certificate_is_refused() {
        let ((_, a), (_, b)) = (node(), node());
        let mut config = a.lax_client();
        config.client_auth_cert_resolver = Arc::new(NoCertificate);
        let (mut dialler, mut acceptor) = (connect(&Arc::new(config)), b.acceptor());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::NoCertificatesPresented);
    }

    #[test]
    fn who_speaks_another_protocol_or_names_none_is_refused() {
        let ((_, a), (_, b)) = (node(), node());
        let many: Vec<String> = (2..=99).map(|version| format!("p2p-gossip/{version}")).collect();
        for (offered, said) in [
            (vec!["h2", "http/1.1"], "it does not speak p2p-gossip/1, but h2, http/1.1"),
            (
                vec!["h2", "p2p-gossip/2"],
                "it speaks another version of the protocol: p2p-gossip/2; this node speaks p2p-gossip/1",
            ),
            (
                many.iter().map(String::as_str).collect(),
                "it speaks another version of the protocol: p2p-gossip/2, p2p-gossip/3, p2p-gossip/4, \
                 p2p-gossip/5; this node speaks p2p-gossip/1",
            ),
            (vec!["\u{1b}[2J"], "it does not speak p2p-gossip/1, but \\u{1b}[2J"),
        ] {
            let mut other = a.lax_client();
            other.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
            let (rejection, alert) = refused(b.accept().unwrap(), connect(&Arc::new(other)));
            assert_eq!(rejection.to_string(), said);
            assert_eq!(alert, AlertDescription::NoApplicationProtocol);
        }
        // Who speaks ours as well is welcome, whatever else it speaks.
        let mut newer = a.lax_client();
        newer.alpn_protocols.insert(0, b"p2p-gossip/2".to_vec());
        let (mut dialler, mut acceptor) = (connect(&Arc::new(newer)), b.acceptor());
        shake_hands(&mut dialler, &mut acceptor).unwrap();

        let mut silent = a.lax_client();
        silent.alpn_protocols.clear();
        let (mut dialler, mut acceptor) = (connect(&Arc::new(silent)), b.acceptor());
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
            let (mut dialler, mut acceptor) = (connect(&config), b.acceptor());
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
