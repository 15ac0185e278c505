//! The TLS features that the port offers: TLS 1.3, two key exchanges, no early data and no resumption.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use p2p_gossip::internals::wire::{self, Message};
use rustls::client::Resumption;
use rustls::crypto::{SupportedKxGroup, aws_lc_rs::kx_group};
use rustls::{ClientConfig, HandshakeKind};

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw, client_config, client_config_with, hello, provider, server_config};
use crate::support::executable::RunToEnd as _;
use crate::support::localhost;
use crate::support::skip::has;

/// Dials with these key exchange groups only. True if the handshake succeeds.
fn agrees(attack: &Attack, groups: &[&'static dyn SupportedKxGroup]) -> bool {
    let mut provider = provider();
    Arc::make_mut(&mut provider).kx_groups = groups.to_vec();
    let mut raw = Raw::open(attack.addr(), client_config_with(provider, &Credentials::new()));
    raw.shake_hands().is_ok()
}

#[test]
fn only_two_key_exchanges_are_offered() {
    let attack = Attack::start();
    assert!(agrees(&attack, &[kx_group::X25519MLKEM768]));
    assert!(agrees(&attack, &[kx_group::X25519]));
    for group in [kx_group::SECP256R1, kx_group::SECP384R1, kx_group::MLKEM768, kx_group::SECP256R1MLKEM768] {
        assert!(!agrees(&attack, &[group]), "{:?} is offered", group.name());
    }
    attack.wait_log("no TLS key exchange");
    attack.end();
}

/// An independent scanner; it tests protocols that our client does not implement.
#[test]
fn sslscan_finds_tls_1_3_and_nothing_else() {
    if !has("sslscan", "Debian: sslscan") {
        return;
    }
    let attack = Attack::start();
    let output = Command::new("sslscan")
        .args(["--no-colour", "--xml=-", &attack.addr().to_string()])
        .stdin(Stdio::null())
        .run_to_end();
    let report = String::from_utf8_lossy(&output.stdout);
    let found = |element: &str| -> Vec<&str> {
        let start = format!("<{element} ");
        report.lines().map(str::trim).filter(|line| line.starts_with(&start)).collect()
    };
    let protocols = found("protocol");
    assert!(protocols.len() >= 6, "{report}");
    let enabled: Vec<_> = protocols.iter().filter(|line| line.contains("enabled=\"1\"")).collect();
    assert_eq!(enabled.len(), 1, "{report}");
    assert!(enabled[0].contains("version=\"1.3\""), "{report}");
    let ciphers = found("cipher");
    assert!(!ciphers.is_empty() && ciphers.iter().all(|line| line.contains("TLSv1.3")), "{report}");
    // sslscan does not know the hybrid group yet; a later version may report it.
    let groups = found("group");
    let is_ours = |line: &&str| line.to_ascii_lowercase().contains("x25519");
    assert!(!groups.is_empty() && groups.iter().all(is_ours), "{report}");
    // A scanner built without compression does not report on it; TLS 1.3 has none.
    for absent in
        ["<renegotiation supported=\"1\"", "secure=\"1\"", "<compression supported=\"1\"", "vulnerable=\"1\""]
    {
        assert!(!report.contains(absent), "{absent}: {report}");
    }
    attack.end();
}

/// A client configuration with a session ticket for early data, which a server of the test has issued.
fn config_with_ticket(me: &Credentials) -> Arc<ClientConfig> {
    let server = TcpListener::bind(localhost()).unwrap();
    let addr = server.local_addr().unwrap();
    let issuing = thread::spawn(move || {
        let mut config = server_config(&Credentials::new());
        config.max_early_data_size = 16 * 1024;
        config.send_tls13_tickets = 1;
        let mut raw = Raw::accept_with(server.accept().unwrap().0, config);
        raw.shake_hands().unwrap();
        raw.send(&Message::Hello(hello("issuer"))).unwrap();
        // The client has the ticket once it has read the Hello that follows it.
        let _ = raw.receive();
    });
    let mut config = client_config(me);
    config.resumption = Resumption::in_memory_sessions(1);
    config.enable_early_data = true;
    let config = Arc::new(config);
    let mut raw = Raw::open(addr, Arc::clone(&config));
    raw.shake_hands().unwrap();
    assert!(matches!(raw.receive(), Ok(Message::Hello(_))));
    drop(raw);
    issuing.join().unwrap();
    config
}

#[test]
fn early_data_is_discarded() {
    let attack = Attack::start();
    let me = Credentials::new();
    let mut raw = Raw::over(TcpStream::connect(attack.addr()).unwrap(), config_with_ticket(&me));
    let early = wire::encode(&Message::Hello(hello("early"))).unwrap();
    raw.send_early(&early).expect("the ticket allows early data");
    // The node does not know the ticket: it makes a full handshake or closes the connection.
    if raw.shake_hands().is_ok() {
        assert!(!raw.is_early_data_accepted());
        assert_eq!(raw.tls.handshake_kind(), Some(HandshakeKind::Full));
    }
    raw.wait_end();
    attack.wait_log("incoming connection refused");
    attack.cluster.check(&[attack.victim], |history| {
        let counted = history.ups_since(attack.victim, 0).contains(&me.id());
        counted.then(|| "the node accepted early data".to_owned())
    });
    attack.end();
}
