//! Replayed sessions.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw, hello, wait_closed};
use crate::support::localhost;

/// Runs a session of this peer with the node and returns every byte that the peer sent.
fn record_session(attack: &Attack, me: &Credentials) -> Vec<u8> {
    let tap = TcpListener::bind(localhost()).unwrap();
    let (tap_addr, node_addr) = (tap.local_addr().unwrap(), attack.addr());
    let recorder = thread::spawn(move || {
        let (mut from_peer, _) = tap.accept().unwrap();
        let mut to_node = TcpStream::connect(node_addr).unwrap();
        let (mut back_from, mut back_to) = (to_node.try_clone().unwrap(), from_peer.try_clone().unwrap());
        let back = thread::spawn(move || drop(std::io::copy(&mut back_from, &mut back_to)));
        let mut recorded = Vec::new();
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = from_peer.read(&mut bytes) {
            recorded.extend_from_slice(&bytes[..read]);
            let _ = to_node.write_all(&bytes[..read]);
        }
        let _ = to_node.shutdown(std::net::Shutdown::Both);
        back.join().unwrap();
        recorded
    });
    let mut raw = Raw::dial(tap_addr, me);
    raw.exchange_hello(hello("recorded"));
    attack.wait_up(me.id());
    drop(raw);
    recorder.join().unwrap()
}

#[test]
fn replayed_session_is_refused() {
    let attack = Attack::start();
    let me = Credentials::new();
    let recorded = record_session(&attack, &me);
    let replay = TcpStream::connect(attack.addr()).unwrap();
    let _ = (&replay).write_all(&recorded);
    wait_closed(&replay);
    attack.wait_log("incoming connection refused");
    attack.cluster.check(&[attack.victim], |history| {
        let ups = history.ups_since(attack.victim, 0).iter().filter(|id| **id == me.id()).count();
        (ups != 1).then(|| format!("the peer came up {ups} times"))
    });
    attack.end();
}
