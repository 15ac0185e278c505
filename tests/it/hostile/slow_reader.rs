//! Peers that never read, or late.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use p2p_gossip::internals::wire::{Hello, Message};
use p2p_gossip::{Config, DownReason, Event, Identity, Node, PeerId};
use socket2::{Domain, Socket, Type};

use super::attack_harness::Attack;
use super::raw::{Credentials, Raw, client_config, hello};
use crate::support::process::Spec;

/// A message that is not written within this time waits for a peer that does not read.
const BLOCKED: Duration = Duration::from_millis(300);
/// Messages that wait for a peer that does not read.
const WAITING: usize = 40;

/// Number of slow readers at once. This many multiply what the node keeps for each of them and make the
/// list of peers long.
const SLOW_READERS: usize = 60;

/// Opens a connection with small socket buffers at both ends.
fn connect_with_small_buffers(to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    // The other end sizes its send buffer by the segment size that we request.
    socket.set_tcp_mss(1000).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

#[test]
fn peers_that_never_read_are_dropped_as_slow() {
    let attack = Attack::start_on(Spec::named("victim").with_period(0.1));
    let readers: Vec<(PeerId, Raw)> = (0..SLOW_READERS)
        .map(|_| {
            let me = Credentials::new();
            let mut raw = Raw::over(connect_with_small_buffers(attack.addr()), client_config(&me));
            raw.shake_hands().unwrap();
            let advertised = (1..=4).map(|port| SocketAddr::from(([127, 0, 0, 1], port)).into()).collect();
            raw.exchange_hello(Hello { advertised, ..hello("slow reader") });
            (me.id(), raw)
        })
        .collect();
    let ids: Vec<PeerId> = readers.iter().map(|(id, _)| *id).collect();
    ids.iter().for_each(|id| attack.wait_up(*id));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // They are not silent: they keep sending requests and never read the answers.
            let mut readers = readers;
            while !over.load(Ordering::SeqCst) {
                readers.iter_mut().for_each(|(_, raw)| drop(raw.send(&Message::PeersRequest)));
                thread::sleep(Duration::from_millis(200));
            }
        });
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for id in &ids {
                attack.cluster.wait_down(&[attack.victim], *id, DownReason::Slow, 0);
            }
            attack.check_memory();
            let mark = attack.cluster.mark();
            attack.cluster.wait_pings(&[attack.victim, attack.honest], 10, mark);
        }));
        over.store(true, Ordering::SeqCst);
        waited.unwrap();
    });
    attack.wait_log("reason=slow");
    attack.end();
}

#[test]
fn peer_that_reads_late_gets_at_once_what_waits_for_it() {
    let hour = Duration::from_secs(3600);
    let bind = "127.0.0.1".parse().unwrap();
    let config = Config::default().port(0).bind(bind).period(hour).timeout(hour);
    let identity = Identity::generate().unwrap();
    // This peer leads the pair: the node has no heartbeat to send, so nothing but the peer's reading wakes the session.
    let me = std::iter::repeat_with(Credentials::new).find(|me| me.id() < identity.id()).unwrap();
    let node = Node::start(config, identity).unwrap();
    let mut raw = Raw::over(connect_with_small_buffers(node.local_addr()), client_config(&me));
    raw.shake_hands().unwrap();
    raw.exchange_hello(hello("late reader"));
    raw.send(&Message::PeersRequest).unwrap();
    node.events().iter().find(|event| matches!(event, Event::Up { peer, .. } if *peer == me.id())).unwrap();
    let text = "x".repeat(4000);
    let mut sent = 0;
    let mut send = || {
        let delivery = node.broadcast(text.clone()).unwrap();
        assert_eq!(delivery.reached(), 1);
        sent += 1;
        delivery
    };
    while send().wait(BLOCKED) == 1 {}
    (0..WAITING).for_each(|_| drop(send()));
    // The connection takes bytes again now and then while this end reads.
    let messages = std::iter::repeat_with(|| raw.receive().expect("the connection is open"))
        .filter(|message| matches!(message, Message::Broadcast { .. }));
    assert_eq!(messages.take(sent).count(), sent);
}
