//! Peers that take part in everything but read nothing.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use p2p_gossip::internals::wire::{Hello, Message};
use p2p_gossip::{DownReason, PeerId};
use socket2::{Domain, Socket, Type};

use super::attack_harness::AttackHarness;
use super::raw::{Credentials, Raw, client_config, hello};
use crate::support::process::Spec;

/// As many at once: what the node held for each, it would hold so many times, and the list of them
/// is something to be sent.
const SLOTHS: usize = 60;

/// A connection for which neither end's system will buffer much.
fn narrow(attack: &AttackHarness) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    // The other end sizes its send buffer by the segments that we want.
    socket.set_tcp_mss(1000).unwrap();
    socket.connect(&attack.addr().into()).unwrap();
    socket.into()
}

#[test]
fn peers_that_never_read_are_closed_as_slow() {
    let attack = AttackHarness::of(Spec::named("victim").with_period(0.1));
    let sloths: Vec<(PeerId, Raw)> = (0..SLOTHS)
        .map(|_| {
            let me = Credentials::new();
            let mut raw = Raw::over(narrow(&attack), client_config(&me));
            raw.shake_hands().unwrap();
            let advertised = (1..=4).map(|port| SocketAddr::from(([127, 0, 0, 1], port)).into()).collect();
            raw.meet(Hello { advertised, ..hello("sloth") });
            (me.id(), raw)
        })
        .collect();
    let ids: Vec<PeerId> = sloths.iter().map(|(id, _)| *id).collect();
    ids.iter().for_each(|id| attack.wait_up(*id));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Not silent at all: they keep asking, and don't listen to the answer.
            let mut sloths = sloths;
            while !over.load(Ordering::SeqCst) {
                sloths.iter_mut().for_each(|(_, raw)| drop(raw.send(&Message::PeersRequest)));
                thread::sleep(Duration::from_millis(200));
            }
        });
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for id in &ids {
                attack.cluster.wait_down(&[attack.victim], *id, DownReason::Slow, 0);
            }
            attack.within_bounds();
            let mark = attack.cluster.mark();
            attack.cluster.wait_pings(&[attack.victim, attack.honest], 10, mark);
        }));
        over.store(true, Ordering::SeqCst);
        waited.unwrap();
    });
    attack.wait_log("reason=slow");
    attack.lift();
}
