//! False lists of peers.

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Instant;

use p2p_gossip::internals::limits::ADDRS_MAX;
use p2p_gossip::internals::mesh::{DIALS_BURST, DIALS_PER_SECOND};
use p2p_gossip::internals::wire::{Message, PeerRecord, RECORDS_MAX};
use p2p_gossip::{Event, PeerId};

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw, hello};
use crate::support::localhost;
use crate::support::process::Spec;

/// A full list of invented peers, all of them at these addresses.
fn invented_list(addrs: &[SocketAddr], more: bool) -> Message {
    let record = || {
        let mut id = [0; 32];
        id.fill_with(|| fastrand::u8(..));
        PeerRecord {
            id: PeerId::from_bytes(id),
            addrs: addrs.iter().map(|&addr| addr.into()).collect(),
            connected: true,
        }
    };
    Message::Peers { records: (0..RECORDS_MAX).map(|_| record()).collect(), more }
}

#[test]
fn unrequested_lists_change_nothing() {
    let attack = Attack::start();
    let trap = TcpListener::bind(localhost()).unwrap();
    let mut raw = Raw::join(attack.addr(), &Credentials::new());
    for _ in 0..20 {
        raw.send(&invented_list(&[trap.local_addr().unwrap(); ADDRS_MAX], false)).unwrap();
    }
    raw.send(&Message::Ping { seq: 77, text: "end".to_owned() }).unwrap();
    attack.cluster.wait_for("the ping behind the lists", &[attack.victim], |history| {
        let is_end = |e: &Event| matches!(e, Event::Ping { seq: 77, .. });
        history.events_since(attack.victim, 0).any(is_end).then_some(())
    });
    drop(raw);
    attack.end();
    trap.set_nonblocking(true).unwrap();
    assert!(trap.accept().is_err(), "the victim dialled an address from a list that it had not requested");
}

#[test]
fn invented_peers_neither_fill_the_mesh_nor_flood_a_third_party() {
    let entrance = TcpListener::bind(localhost()).unwrap();
    let trap = TcpListener::bind(localhost()).unwrap();
    let (liar, trap_addr) = (Credentials::new(), trap.local_addr().unwrap());
    let mut attack = Attack::start_on(Spec::named("victim").with_connect(entrance.local_addr().unwrap()));
    let own = attack.addr();
    let nowhere =
        ["0.0.0.0:1", "224.0.0.1:9", "255.255.255.255:9", "127.0.0.1:0"].map(|a| a.parse().unwrap());
    let began = Instant::now();
    // The victim's dial waits in the backlog, or the victim dials again.
    let mut raw = loop {
        let mut raw = Raw::accept(entrance.accept().unwrap().0, &liar);
        if raw.shake_hands().is_ok() {
            break raw;
        }
    };
    raw.exchange_hello(hello("liar"));
    while !matches!(raw.receive().expect("a session"), Message::PeersRequest) {}
    for addrs in [&nowhere[..], &[trap_addr], &[own], &[trap_addr]] {
        raw.send(&invented_list(addrs, true)).unwrap();
    }
    // A hundred thousand more at the trap: the victim cuts the list at its limit.
    for _ in 0..100_000 / RECORDS_MAX {
        raw.send(&invented_list(&[trap_addr], true)).unwrap();
    }
    raw.send(&invented_list(&[], false)).unwrap();
    let counted = thread::spawn(move || {
        // The test ends this loop by its own connection, which sends `!`; a victim sends a ClientHello first.
        let mut hits = 0_u32;
        while let Ok((socket, _)) = trap.accept() {
            let mut first = [0];
            if socket.peek(&mut first).is_ok() && first == [b'!'] {
                break;
            }
            hits += 1;
        }
        hits
    });
    attack.wait_up(liar.id());
    attack.newcomer_joins();
    let seconds = u32::try_from(began.elapsed().as_secs()).unwrap() + 1;
    std::io::Write::write_all(&mut std::net::TcpStream::connect(trap_addr).unwrap(), b"!").unwrap();
    let hits = counted.join().unwrap();
    assert!(hits > 0, "the victim dialled no address of the list");
    assert!(hits <= DIALS_BURST + DIALS_PER_SECOND * seconds, "{hits} dials in {seconds} s");
    drop((raw, entrance));
    attack.end();
}
