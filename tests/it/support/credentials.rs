//! Keys, certificates and TLS configurations for raw peers, which skip the node's own rules: both ends
//! trust every peer that proves to have the key of its certificate.

use std::sync::Arc;

use p2p_gossip::PeerId;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

/// The protocol's name in TLS (ALPN).
pub(crate) const ALPN: &[u8] = b"p2p-gossip/2";

/// A raw peer's certificate chain and signing key. The key may differ from the certificate's.
pub(crate) struct Credentials {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl Credentials {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("the system has randomness");
        let certificate = CertificateParams::default().self_signed(&key).expect("the key can sign");
        Self { chain: vec![certificate.der().clone()], key }
    }

    pub(crate) fn id(&self) -> PeerId {
        PeerId::from_certificate(&self.chain[0]).expect("a certificate of our making")
    }

    fn resolver(&self) -> Arc<SingleCertAndKey> {
        let der = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key of our making");
        let signer = aws_lc_rs::sign::any_supported_type(&der).expect("a kind of key that TLS knows");
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(self.chain.clone(), signer)))
    }
}

/// TLS configuration of a dialler that trusts every peer. Tests change it further.
pub(crate) fn client_config(me: &Credentials) -> ClientConfig {
    client_config_with(provider(), me)
}

/// As `client_config`, with another provider of cryptography.
pub(crate) fn client_config_with(provider: Arc<CryptoProvider>, me: &Credentials) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider knows TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustEveryPeer::new(&provider)))
        .with_client_cert_resolver(me.resolver());
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// TLS configuration of an acceptor that trusts every peer.
pub(crate) fn server_config(me: &Credentials) -> ServerConfig {
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider knows TLS 1.3")
        .with_client_cert_verifier(Arc::new(TrustEveryPeer::new(&provider)))
        .with_cert_resolver(me.resolver());
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// The provider of cryptography, with a node's preference of cipher suites.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    Arc::new(provider)
}

/// Trusts every peer whose key signed the handshake.
#[derive(Debug)]
struct TrustEveryPeer(WebPkiSupportedAlgorithms);

const SCHEMES: [SignatureScheme; 3] =
    [SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::RSA_PSS_SHA256];

impl TrustEveryPeer {
    fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }

    fn check(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }
}

impl ServerCertVerifier for TrustEveryPeer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for TrustEveryPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}
