//! The rustls configurations: TLS 1.3, both sides authenticated by their keys, no resumption.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConnection, SupportedCipherSuite};

use crate::trust::access::Access;
use crate::trust::crypto::{ALPN, provider};
use crate::trust::identity::Identity;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::Expected;
use crate::trust::tls_error::TlsError;
pub(crate) use crate::trust::verifier::Rejection;
use crate::trust::verifier::{OfferReader, PeerVerifier, SharedAccess};

/// Cipher suites, best first. On a machine without AES instructions, such as many small boards, ChaCha20 takes a
/// fraction of the time and has none of AES's timing leaks. Processors have instructions for SHA-256 and not for
/// SHA-384, and a handshake mostly hashes. Both suites have keys of 256 bits.
const CIPHER_SUITES: &[SupportedCipherSuite] = &[
    aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
];

/// Makes the TLS connections of one node.
pub(crate) struct Tls {
    provider: Arc<CryptoProvider>,
    certificate: Arc<SingleCertAndKey>,
    access: SharedAccess,
}

/// One end of a connection before its first byte, and the place in which its checks leave their rejection.
pub(crate) type NewConnection = (Connection, Arc<OnceLock<Rejection>>);

impl Tls {
    pub(crate) fn new(identity: &Identity, access: Access) -> Result<Self, TlsError> {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: CIPHER_SUITES.to_vec(),
            kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
            ..provider()
        });
        let certificate = Arc::new(SingleCertAndKey::from(identity.certified_key().as_ref().clone()));
        let tls = Self { provider, certificate, access: Arc::new(RwLock::new(Arc::new(access))) };
        // A configuration that rustls refuses fails now, not at the first peer.
        tls.accept()?;
        Ok(tls)
    }

    /// Replaces the access lists for all handshakes that follow.
    pub(crate) fn set_access(&self, access: Access) {
        *self.access.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }

    /// Returns the accepting end of a connection.
    pub(crate) fn accept(&self) -> Result<NewConnection, TlsError> {
        let verifier = PeerVerifier::new(&self.provider, &self.access, Expected::AnyPeer);
        let rejection = Arc::clone(&verifier.rejection);
        let offers =
            OfferReader { certificate: Arc::clone(&self.certificate), rejection: Arc::clone(&rejection) };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(offers));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed connection would bypass the verifier, so resumption is off.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        Ok((ServerConnection::new(Arc::new(config))?.into(), rejection))
    }

    /// Returns the dialling end of a connection, which accepts the expected peer only.
    pub(crate) fn dial(&self, expected: Expected) -> Result<NewConnection, TlsError> {
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
        // rustls requires a name. It is never sent, and names mean nothing here.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        Ok((ClientConnection::new(Arc::new(config), name)?.into(), rejection))
    }
}

/// Why the peer of a completed handshake is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthenticationError {
    /// rustls accepts clients that offer no protocol, so both ends check.
    #[error("the other side does not speak p2p-gossip/2")]
    Protocol,
    /// Can't happen with our verifier, which makes certificates mandatory.
    #[error("the other side presented no usable certificate")]
    NoCertificate,
}

/// Returns the id of the peer at the other end of a connection whose handshake is complete.
pub(crate) fn authenticated_peer(tls: &Connection) -> Result<PeerId, AuthenticationError> {
    debug_assert!(!tls.is_handshaking(), "the signature has been checked");
    if tls.alpn_protocol() != Some(ALPN) {
        return Err(AuthenticationError::Protocol);
    }
    let certificate = tls.peer_certificates().and_then(<[_]>::first);
    certificate
        .and_then(|certificate| PeerId::from_certificate(certificate).ok())
        .ok_or(AuthenticationError::NoCertificate)
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rustls::sign::CertifiedKey;
    use rustls::{
        AlertDescription, CertificateError as TlsCertificateError, CipherSuite, Error, HandshakeKind,
        NamedGroup, ProtocolVersion, SignatureScheme,
    };

    use super::*;
    use crate::trust::access::Refusal;

    /// Carries bytes between the two ends until the handshake is complete, or an end refuses.
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
    fn thief(victim: &Identity) -> Tls {
        let own = Identity::generate().unwrap().certified_key();
        let stolen = victim.certified_key().cert.clone();
        let mut tls = Tls::new(victim, Access::default()).unwrap();
        let certificate = Arc::new(SingleCertAndKey::from(CertifiedKey::new(stolen, Arc::clone(&own.key))));
        tls.present(certificate);
        tls
    }

    /// A node that sends another certificate behind its own.
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

        /// A dialler's configuration that a test may change.
        fn lax_client(&self) -> ClientConfig {
            let verifier = PeerVerifier::new(&self.provider, &self.access, Expected::AnyPeer);
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
    fn both_ends_learn_the_id_of_the_other() {
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

    /// Shakes hands, which must fail. Returns the rejection by the refusing end and the alert that it sent.
    fn refused(refusing: NewConnection, mut other: Connection) -> (Rejection, AlertDescription) {
        let (mut refusing, rejection) = refusing;
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
        let alert = match other.process_new_packets() {
            Err(Error::AlertReceived(alert)) => alert,
            result => panic!("an alert was expected: {result:?}"),
        };
        (rejection.get().unwrap().clone(), alert)
    }

    #[test]
    fn unexpected_peer_is_refused_with_its_id_and_sees_no_certificate() {
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
    fn new_access_lists_refuse_a_peer_in_both_roles_at_once() {
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
                refused(accepting, b.dialler(Expected::AnyPeer)),
                (rejection, AlertDescription::AccessDenied)
            );
        }
        a.set_access(Access::default());
        shake_hands(&mut a.dialler(Expected::AnyPeer), &mut b.acceptor()).unwrap();
    }

    #[test]
    fn stolen_certificate_does_not_authenticate_an_acceptor() {
        let victim = Identity::generate().unwrap();
        let (_, honest) = node();
        let (mut dialler, mut acceptor) =
            (honest.dialler(Expected::Peer(victim.id())), thief(&victim).acceptor());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::InvalidCertificate(TlsCertificateError::BadSignature));
    }

    #[test]
    fn stolen_certificate_does_not_authenticate_a_dialler() {
        let victim = Identity::generate().unwrap();
        let (_, honest) = node();
        let (mut dialler, mut acceptor) = (thief(&victim).dialler(Expected::AnyPeer), honest.acceptor());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::InvalidCertificate(TlsCertificateError::BadSignature));
        assert!(acceptor.is_handshaking());
    }

    #[test]
    fn certificate_chain_is_refused_in_both_roles() {
        let (_, honest) = node();
        let (rejection, _) = refused(honest.accept().unwrap(), chained().dialler(Expected::AnyPeer));
        assert_eq!(rejection, Rejection::Chain);
        let (rejection, _) = refused(honest.dial(Expected::AnyPeer).unwrap(), chained().acceptor());
        assert_eq!(rejection, Rejection::Chain);
    }

    #[test]
    fn peer_without_a_certificate_is_refused() {
        let ((_, a), (_, b)) = (node(), node());
        let mut config = a.lax_client();
        config.client_auth_cert_resolver = Arc::new(NoCertificate);
        let (mut dialler, mut acceptor) = (connect(&Arc::new(config)), b.acceptor());
        let error = shake_hands(&mut dialler, &mut acceptor).unwrap_err();
        assert_eq!(error, Error::NoCertificatesPresented);
    }

    #[test]
    fn peer_without_our_protocol_is_refused() {
        let ((_, a), (_, b)) = (node(), node());
        let many: Vec<String> = (3..=99).map(|version| format!("p2p-gossip/{version}")).collect();
        for (offered, said) in [
            (vec!["h2", "http/1.1"], "it does not speak p2p-gossip/2, but h2, http/1.1"),
            (
                vec!["h2", "p2p-gossip/3"],
                "it speaks another version of the protocol: p2p-gossip/3; this node speaks p2p-gossip/2",
            ),
            (
                many.iter().map(String::as_str).collect(),
                "it speaks another version of the protocol: p2p-gossip/3, p2p-gossip/4, p2p-gossip/5, \
                 p2p-gossip/6; this node speaks p2p-gossip/2",
            ),
            (vec!["\u{1b}[2J"], "it does not speak p2p-gossip/2, but \\u{1b}[2J"),
        ] {
            let mut other = a.lax_client();
            other.alpn_protocols = offered.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
            let (rejection, alert) = refused(b.accept().unwrap(), connect(&Arc::new(other)));
            assert_eq!(rejection.to_string(), said);
            assert_eq!(alert, AlertDescription::NoApplicationProtocol);
        }
        // A peer that offers ours among others is accepted.
        let mut newer = a.lax_client();
        newer.alpn_protocols.insert(0, b"p2p-gossip/3".to_vec());
        let (mut dialler, mut acceptor) = (connect(&Arc::new(newer)), b.acceptor());
        shake_hands(&mut dialler, &mut acceptor).unwrap();

        let mut silent = a.lax_client();
        silent.alpn_protocols.clear();
        let (mut dialler, mut acceptor) = (connect(&Arc::new(silent)), b.acceptor());
        shake_hands(&mut dialler, &mut acceptor).unwrap();
        assert_eq!(authenticated_peer(&acceptor), Err(AuthenticationError::Protocol));
    }

    #[test]
    fn connection_is_never_resumed() {
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
