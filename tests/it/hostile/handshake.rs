//! Peers that must fail during the handshake.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use p2p_gossip::internals::wire::Message;
use rcgen::{CertificateParams, Issuer, KeyPair, PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, ClientConfig, HandshakeKind};

use super::attack_harness::Attack;
use super::raw::{Credentials, Ending, Raw, client, client_config, hello, server_config, wait_closed};
use crate::support::executable::RunToEnd as _;
use crate::support::localhost;
use crate::support::process::Spec;
use crate::support::skip::has;

/// Dials with this configuration and sends a Hello if the handshake succeeds. Returns how the connection ended.
fn attempt(attack: &Attack, config: ClientConfig) -> Ending {
    let mut raw = Raw::open(attack.addr(), config);
    // In TLS 1.3 the dialler completes its handshake before the other side has checked its certificate.
    if let Err(error) = raw.shake_hands() {
        let tls = error.into_inner().and_then(|inner| inner.downcast::<rustls::Error>().ok());
        return Ending { tls: tls.map(|error| *error), bye: None };
    }
    let _ = raw.send(&Message::Hello(hello("intruder")));
    raw.wait_end()
}

fn alert(ending: &Ending) -> Option<AlertDescription> {
    match ending.tls {
        Some(rustls::Error::AlertReceived(alert)) => Some(alert),
        _ => None,
    }
}

/// Sends bytes that are not valid TLS and waits until the node closes the connection.
fn send_plain(attack: &Attack, bytes: &[u8]) {
    let socket = TcpStream::connect(attack.addr()).unwrap();
    // The node may close before it has read everything.
    let _ = (&socket).write_all(bytes);
    wait_closed(&socket);
}

fn check_no_new_member(attack: &Attack) {
    let honest = attack.cluster.id(attack.honest);
    attack.cluster.check(&[attack.victim], |history| {
        let joined = history.ups_since(attack.victim, 0).into_iter().find(|id| *id != honest);
        joined.map(|id| format!("{} was counted as a member", id.short()))
    });
}

/// A ClientHello of TLS 1.2: it has no extension for a later version.
fn tls12_client_hello() -> Vec<u8> {
    let suites = [0xc0, 0x2b, 0xc0, 0x2f];
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 4], &suites, &[1, 0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}

/// The beginning of a handshake message that claims a length of 16 MiB.
fn huge_handshake_message() -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..1024 {
        bytes.extend([22, 3, 3, 0x40, 0]);
        let start = bytes.len();
        bytes.resize(start + 0x4000, 0);
        if n == 0 {
            bytes[start..start + 4].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        }
    }
    bytes
}

#[test]
fn other_protocols_are_refused() {
    let attack = Attack::start();
    send_plain(&attack, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n");
    attack.wait_log("not TLS");
    send_plain(&attack, &tls12_client_hello());
    attack.wait_log("does not speak TLS 1.3");
    send_plain(&attack, &huge_handshake_message());
    attack.wait_log("handshake message that is too large");

    let mut config = client_config(&Credentials::new());
    config.alpn_protocols = vec![b"h2".to_vec()];
    assert_eq!(alert(&attempt(&attack, config)), Some(AlertDescription::NoApplicationProtocol));
    attack.wait_log("but h2");
    let mut config = client_config(&Credentials::new());
    config.alpn_protocols.clear();
    attempt(&attack, config);
    attack.wait_log("does not speak p2p-gossip/2");
    check_no_new_member(&attack);
    attack.end();
}

/// `invalid_listeners_are_refused_by_the_dialler` covers the other direction.
#[test]
fn later_protocol_version_is_refused_and_named_in_the_log() {
    let attack = Attack::start();
    let mut config = client_config(&Credentials::new());
    config.alpn_protocols = vec![b"p2p-gossip/3".to_vec()];
    assert_eq!(alert(&attempt(&attack, config)), Some(AlertDescription::NoApplicationProtocol));
    attack.wait_log("another version of the protocol: p2p-gossip/3");
    check_no_new_member(&attack);
    attack.end();
}

#[test]
fn invalid_client_certificates_are_refused() {
    let attack = Attack::start();
    let mut config = client_config(&Credentials::new());
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    assert_eq!(alert(&attempt(&attack, config)), Some(AlertDescription::CertificateRequired));
    attack.wait_log("it sent no certificate");

    // The victim sends its certificate to every client, so an attacker can copy it.
    let stolen = certificate_of(attack.addr());
    let thief = Credentials { chain: vec![stolen], ..Credentials::new() };
    assert_eq!(alert(&attempt(&attack, client_config(&thief))), Some(AlertDescription::DecryptError));
    attack.wait_log("does not hold the private key of the certificate");

    let mut chained = Credentials::new();
    chained.chain.extend(Credentials::new().chain);
    attempt(&attack, client_config(&chained));
    attack.wait_log("exactly one certificate");

    for bits in [1024, 16_384] {
        attempt(&attack, client_config(&credentials_with_rsa_key(bits)));
        attack.wait_log("RSA key is out of range");
    }
    check_no_new_member(&attack);
    attack.end();
}

#[test]
fn sessions_are_not_resumed_and_early_data_is_refused() {
    let attack = Attack::start();
    let me = Credentials::new();
    let mut config = client_config(&me);
    config.resumption = Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    let config = Arc::new(config);
    for _ in 0..2 {
        let mut raw = Raw::open(attack.addr(), Arc::clone(&config));
        raw.shake_hands().unwrap();
        assert_eq!(raw.tls.handshake_kind(), Some(HandshakeKind::Full));
        raw.exchange_hello(hello("again"));
        attack.wait_up(me.id());
        raw.send(&Message::Bye(p2p_gossip::internals::wire::ByeReason::Leaving)).unwrap();
        raw.wait_end();
    }

    let mut client_hello = Vec::new();
    client(client_config(&Credentials::new())).write_tls(&mut client_hello).unwrap();
    // Early data that the ClientHello has not announced.
    send_plain(&attack, &[&client_hello[..], &[23, 3, 3, 0, 40], &[5; 40]].concat());
    attack.wait_log("incoming connection refused");
    // A close_notify alert directly after the ClientHello.
    send_plain(&attack, &[&client_hello[..], &[21, 3, 3, 0, 2, 1, 0]].concat());
    attack.end();
}

#[test]
fn listener_with_a_stolen_certificate_is_refused() {
    let trap = TcpListener::bind(localhost()).unwrap();
    let attack = Attack::start_on(Spec::named("victim").with_connect(trap.local_addr().unwrap()));
    let stolen = certificate_of(attack.cluster.addr(attack.honest));
    let thief = Credentials { chain: vec![stolen], ..Credentials::new() };
    // The victim may have opened the first connection before the certificate was stolen.
    for _ in 0..2 {
        let mut raw = Raw::accept(trap.accept().unwrap().0, &thief);
        assert!(raw.shake_hands().is_err(), "the victim took the thief for the owner");
    }
    attack.wait_log("does not hold the private key of the certificate");
    attack.end();
}

#[test]
fn invalid_listeners_are_refused_by_the_dialler() {
    let trap = TcpListener::bind(localhost()).unwrap();
    let attack = Attack::start_on(Spec::named("victim").with_connect(trap.local_addr().unwrap()));
    let mut chained = Credentials::new();
    chained.chain.extend(Credentials::new().chain);
    let config_with_protocols = |me: &Credentials, protocols: &[&[u8]]| {
        let mut config = server_config(me);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        config
    };
    let me = Credentials::new();
    let rows = [
        (config_with_protocols(&me, &[]), "does not speak p2p-gossip/2"),
        (config_with_protocols(&me, &[b"p2p-gossip/3"]), "another version of the protocol"),
        (server_config(&chained), "exactly one certificate"),
        (server_config(&credentials_with_rsa_key(1024)), "RSA key is out of range"),
        (server_config(&credentials_with_rsa_key(16_384)), "RSA key is out of range"),
    ];
    for (config, logged) in rows {
        let before = attack.log_count(logged);
        // The victim may have opened this connection during another row.
        while attack.log_count(logged) == before {
            let mut raw = Raw::accept_with(trap.accept().unwrap().0, config.clone());
            let _ = raw.shake_hands().and_then(|()| raw.send(&Message::Hello(hello("trap"))));
            raw.wait_end();
        }
    }
    check_no_new_member(&attack);
    drop(trap);
    attack.end();
}

#[test]
fn openssl_client_gets_the_right_refusals() {
    if !has("openssl", "Debian: openssl") {
        return;
    }
    let attack = Attack::start();
    // Keys that the tests generate contain the public key; older versions of openssl cannot read that form.
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keys/ed25519.pem");
    let cert = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keys/ed25519_cert.pem");
    let s_client = |args: &[&str]| {
        let output = Command::new("openssl")
            .args(["s_client", "-connect", &attack.addr().to_string()])
            .args(args)
            .stdin(Stdio::null())
            .run_to_end();
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
    };
    let good = ["-alpn", "p2p-gossip/2", "-key", key, "-cert", cert];
    let printed = s_client(&[&["-tls1_2"][..], &good].concat());
    assert!(printed.contains("protocol version"), "{printed}");
    let printed = s_client(&["-tls1_3", "-alpn", "h2", "-key", key, "-cert", cert]);
    assert!(printed.contains("no application protocol"), "{printed}");
    let printed = s_client(&[&["-tls1_3"][..], &good].concat());
    assert!(printed.contains("TLSv1.3") && !printed.contains("New Session Ticket"), "{printed}");
    s_client(&["-tls1_3", "-alpn", "p2p-gossip/2"]);
    attack.wait_log("it sent no certificate");
    check_no_new_member(&attack);
    attack.end();
}

fn certificate_of(addr: std::net::SocketAddr) -> CertificateDer<'static> {
    let raw = Raw::dial(addr, &Credentials::new());
    raw.tls.peer_certificates().unwrap()[0].clone()
}

/// Credentials whose certificate contains an RSA public key of this size in bits, without a private key.
fn credentials_with_rsa_key(bits: usize) -> Credentials {
    let modulus = [&[0][..], &vec![0xff; bits / 8]].concat();
    let der = tlv(0x30, &[tlv(2, &modulus), tlv(2, &[1, 0, 1])].concat());
    let me = Credentials::new();
    let params = CertificateParams::default();
    let issuer: Issuer<'_, &KeyPair> = Issuer::from_params(&params, &me.key);
    let certificate = params.signed_by(&RsaKey(der), &issuer).unwrap();
    Credentials { chain: vec![certificate.der().clone()], key: me.key }
}

/// Encodes a tag, a length of up to two bytes, and the value in DER.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    let header = match value.len() {
        0..128 => vec![tag, length[1]],
        128..256 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [header, value.to_vec()].concat()
}

struct RsaKey(Vec<u8>);

impl PublicKeyData for RsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
