//! What others make this node dial is paid by them, also where a run of many nodes hides who pays.

use std::net::SocketAddr;

use p2p_gossip::PeerId;
use p2p_gossip::PeerState;
use p2p_gossip::internals::mesh::{
    CREDIT_MAX, DialError, DisconnectReason, Input, STRANGER_REDIAL, SessionId,
};

use super::{MINUTE, SECOND, ms};
use crate::sim::mesh_harness::{MeshHarness, addr, dialled};

/// An address of a third party.
fn other(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 7, (n >> 8) as u8, n as u8], 22))
}

fn key(n: u16) -> PeerId {
    let mut bytes = [77; 32];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    PeerId::from_bytes(bytes)
}

/// The peer, its list and its keys belong to one attacker. Each key that the node dials connects by itself.
#[test]
fn cancelled_dial_is_not_free() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    let keys = 0x2000..0x2000 + 3 * CREDIT_MAX as u16;
    node.list(session, keys.map(|n| (key(n), other(1))));
    let mut connects = 0;
    for _ in 0..100 {
        for (dial, at, expected) in dialled(&node.wait_with_dials_open(ms(200))) {
            if at != other(1).into() {
                continue;
            }
            connects += 1;
            let came = SessionId::accepted(10_000 + connects);
            node.up_at(came, expected.id().unwrap(), 1, addr(3));
            node.handle(Input::DialFailed { session: dial, reason: DialError::Cancelled });
        }
    }
    // Twenty seconds return one payment.
    assert!(connects > 0 && connects <= u64::from(CREDIT_MAX) + 1, "{connects} connects to a third party");
}

/// A list names addresses of a peer that is connected now. They are dialled once it is lost.
#[test]
fn teller_pays_for_what_it_told_of_a_connected_peer() {
    let mut node = MeshHarness::new(&[]);
    let teller = node.meets(3);
    let mut sessions = Vec::new();
    let peers = 0..2 * CREDIT_MAX as u16;
    for n in peers.clone() {
        let session = SessionId::accepted(20_000 + u64::from(n));
        node.up_at(session, key(n), 1, SocketAddr::from(([10, 8, (n >> 8) as u8, n as u8], 8080)));
        sessions.push(session);
    }
    node.list(teller, peers.map(|n| (key(n), other(n))));
    for session in sessions {
        // The peers are no strangers any more only if they stay for a minute.
        node.down(session, DisconnectReason::Closed);
    }
    let rumours = |node: &mut MeshHarness| {
        let outputs = node.wait(55 * SECOND);
        dialled(&outputs).iter().filter(|(_, at, _)| at.socket().is_some_and(|at| at.port() == 22)).count()
    };
    node.receives(teller, p2p_gossip::internals::wire::Message::PeersRequest);
    assert_eq!(rumours(&mut node), 0, "addresses that others listed of a stranger go with it");
}

#[test]
fn stranger_that_waits_for_a_payment_counts_as_left_after_a_minute() {
    let mut node = MeshHarness::new(&[]);
    let strangers = 0..3 * CREDIT_MAX as u16;
    for n in strangers.clone() {
        let session = SessionId::accepted(30_000 + u64::from(n));
        node.up_at(session, key(n), 1, addr(3));
        node.down(session, DisconnectReason::Closed);
    }
    let dials = dialled(&node.wait(STRANGER_REDIAL + SECOND));
    assert!(!dials.is_empty() && dials.len() <= CREDIT_MAX as usize + 5, "{} dials", dials.len());
    let dead = strangers.filter(|n| node.info(key(*n)).is_some_and(|info| info.state == PeerState::Dead));
    assert_eq!(dead.count(), 0);
    assert_eq!(dialled(&node.wait(10 * MINUTE)).len(), 0);
}
