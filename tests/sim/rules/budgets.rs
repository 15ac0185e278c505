//! What others make this node dial is paid by them, also where a run of many nodes hides who pays.

use std::net::SocketAddr;

use p2p_gossip::internals::mesh::{
    CREDIT_MAX, DialError, DisconnectReason, Input, Output, STRANGER_REDIAL, SessionId, membership_digest,
};
use p2p_gossip::internals::wire::{Hello, Message, PeerRecord};
use p2p_gossip::{DialAddr, PeerId, PeerState};

use super::{MINUTE, SECOND, joined_node, make_node_request, ms};
use crate::sim::mesh_harness::{MeshHarness, addr, dialled, hello, id, known, requests, sent};

/// [`CREDIT_MAX`], as the number of a key.
#[allow(clippy::cast_possible_truncation)]
const CREDIT: u16 = {
    assert!(CREDIT_MAX <= 1000);
    CREDIT_MAX as u16
};

/// An address of a third party.
fn other(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([10, 7, high, low], 22))
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
    let keys = 0x2000..0x2000 + 3 * CREDIT;
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

/// A list names an address of each connected peer. Those peers stay for a minute, so that the address is dialled once they
/// are lost.
#[test]
fn teller_pays_for_what_it_told_of_connected_peers() {
    let mut node = MeshHarness::new(&[]);
    let peers = 0..3 * CREDIT;
    let mut sessions = Vec::new();
    for n in peers.clone() {
        let session = SessionId::accepted(20_000 + u64::from(n));
        let [high, low] = n.to_be_bytes();
        node.up_at(session, key(n), 1, SocketAddr::from(([10, 8, high, low], 8080)));
        sessions.push(session);
    }
    let teller = node.meets(3);
    sessions.push(teller);
    stay_a_minute(&mut node, &sessions);
    sessions.pop();
    node.list(teller, peers.map(|n| (key(n), other(n))));
    for session in sessions {
        node.down(session, DisconnectReason::Closed);
    }
    let told = to_third_parties(&node.wait(30 * SECOND));
    assert!(told > 0 && told <= CREDIT_MAX as usize + 4, "{told} dials to what one peer told");
}

/// A digest says that its sender has the lost peer. It names no address, so its sender pays for none that a liar names.
#[test]
fn sender_of_a_digest_pays_for_no_address_of_a_liar() {
    let mut node = MeshHarness::remembering(vec![known(20)]);
    let [liar, honest] = [3, 4].map(|n| node.meets(n));
    node.list(liar, (0..8).map(|n| (id(20), other(n))));
    let with_the_lost_peer = node.mesh.digest() ^ membership_digest([&id(20)]);
    let mut outputs = Vec::new();
    for _ in 0..300 {
        node.heartbeat(liar, node.mesh.digest());
        node.heartbeat(honest, with_the_lost_peer);
        outputs.extend(node.wait(SECOND));
    }
    let told = to_third_parties(&outputs);
    let most = CREDIT_MAX as usize + 300 / 15 + 2;
    assert!(told > CREDIT_MAX as usize && told <= most, "{told} dials to what the liar told");
}

/// An honest member lists keys that came for a moment, as lost, and a peer that connects to it later.
#[test]
fn lost_peers_in_a_list_leave_payments_for_those_that_come() {
    let mut node = MeshHarness::new(&[]);
    let honest = node.meets(3);
    let record = |n: u16, connected| PeerRecord { id: key(n), addrs: vec![other(n).into()], connected };
    let newcomer = 2 * CREDIT;
    let lost = (0..=newcomer).map(|n| record(n, false)).collect();
    node.receives(honest, Message::Peers { records: lost, more: false });
    let mut outputs = Vec::new();
    for _ in 0..30 {
        node.heartbeat(honest, node.mesh.digest());
        outputs.extend(node.wait(SECOND));
    }
    let told = to_third_parties(&outputs);
    assert!(
        (CREDIT / 2..=CREDIT / 2 + 3).contains(&u16::try_from(told).unwrap()),
        "{told} dials to lost peers"
    );
    make_node_request(&mut node, honest, 1);
    node.receives(honest, Message::Peers { records: vec![record(newcomer, true)], more: false });
    let outputs = node.wait(3 * SECOND);
    assert!(dialled(&outputs).iter().any(|(_, at, _)| *at == other(newcomer).into()), "{outputs:?}");
}

/// Found by seed 840003020. A liar has listed the stranger, and has nothing left to pay with.
#[test]
fn lost_stranger_is_dialled_where_it_came_from_whoever_has_listed_it() {
    let mut node = MeshHarness::new(&[]);
    let (liar, stranger) = (node.meets(3), SessionId::accepted(77));
    node.up_at(stranger, id(20), 1, addr(20));
    node.list(liar, (0..2 * CREDIT).map(|n| (key(n), other(n))).chain([(id(20), addr(20))]));
    assert!(to_third_parties(&node.wait(2 * SECOND)) >= CREDIT_MAX as usize);
    node.down(stranger, DisconnectReason::Closed);
    let outputs = node.wait(3 * SECOND);
    assert!(dialled(&outputs).iter().any(|(_, at, _)| *at == addr(20).into()), "{outputs:?}");
}

/// Found by seed 990001283. The liar has listed the stranger at an address of a third party.
#[test]
fn lost_stranger_is_dialled_where_it_came_from_while_a_rumour_of_it_waits_for_a_payment() {
    let mut node = MeshHarness::new(&[]);
    let (liar, stranger) = (node.meets(3), SessionId::accepted(77));
    node.up_at(stranger, id(20), 1, addr(20));
    node.list(liar, (0..2 * CREDIT).map(|n| (key(n), other(n))).chain([(id(20), other(1))]));
    assert!(to_third_parties(&node.wait(2 * SECOND)) >= CREDIT_MAX as usize);
    node.down(stranger, DisconnectReason::Closed);
    let outputs = node.wait(20 * SECOND);
    let own = dialled(&outputs).iter().filter(|(_, at, _)| *at == addr(20).into()).count();
    assert!(own >= 5, "{own} dials to where it was: {:?}", dialled(&outputs));
}

/// A liar has listed the peer, and has nothing left to pay for the dial. Then an honest member lists it, too.
#[test]
fn rumour_that_waits_for_a_payment_is_dialled_once_another_member_lists_it() {
    let mut node = MeshHarness::new(&[]);
    let liar = node.meets(3);
    // Rumours of lower ids are dialled first.
    node.list(liar, (0..2 * CREDIT).map(|n| (key(n), other(n))).chain([(id(200), addr(200))]));
    let outputs = node.wait(10 * SECOND);
    assert!(dialled(&outputs).iter().all(|(_, at, _)| *at != addr(200).into()), "the liar has paid for it");
    let honest = node.meets(4);
    make_node_request(&mut node, honest, 1);
    node.list(honest, [(id(200), addr(200))].into_iter());
    let outputs = node.wait(2 * SECOND);
    assert!(dialled(&outputs).iter().any(|(_, at, _)| *at == addr(200).into()), "{:?}", dialled(&outputs));
}

/// Lets a minute pass in which all these sessions are alive.
fn stay_a_minute(node: &mut MeshHarness, sessions: &[SessionId]) {
    for _ in 0..61 {
        for &session in sessions {
            node.heartbeat(session, 0);
        }
        node.wait_with_dials_open(SECOND);
    }
}

/// Dials to ports that only third parties have.
fn to_third_parties(outputs: &[Output]) -> usize {
    let is_third = |at: &DialAddr| at.socket().is_some_and(|at| at.port() == 22);
    dialled(outputs).iter().filter(|(_, at, _)| is_third(at)).count()
}

/// Peers that were members for a minute claim the address of a third party, and go without a goodbye.
#[test]
fn acquainted_peers_lend_few_dials_to_a_third_party_that_they_claim() {
    let mut node = MeshHarness::new(&[]);
    let peers = 3 * CREDIT;
    let comes = |n: u16| {
        let session = SessionId::accepted(40_000 + u64::from(n));
        let [high, low] = n.to_be_bytes();
        let hello = Hello { advertised: vec![other(1).into()], ..hello() };
        node.up_with_hello(session, key(n), SocketAddr::from(([10, 8, high, low], 8080)), hello);
        session
    };
    let sessions: Vec<SessionId> = (0..peers).map(comes).collect();
    stay_a_minute(&mut node, &sessions);
    for session in sessions {
        node.down(session, DisconnectReason::Closed);
    }
    let outputs = node.wait(MINUTE);
    let third = to_third_parties(&outputs);
    assert!(third > 0 && third <= CREDIT_MAX as usize + 5, "{third} dials to what peers claim");
    // Where the peers came from they are sought as before.
    let others = dialled(&outputs).len() - third;
    assert!(others >= 3 * usize::from(peers), "{others} dials to the peers");
}

/// One peer lists addresses of others before these come. They stay for a minute, and go without a goodbye.
#[test]
fn teller_pays_for_what_it_told_of_peers_that_came_later() {
    let mut node = MeshHarness::new(&[]);
    let peers = 0..3 * CREDIT;
    let teller = node.meets(3);
    node.list(teller, peers.clone().map(|n| (key(n), other(n))));
    let mut sessions = Vec::new();
    for n in peers {
        let session = SessionId::accepted(20_000 + u64::from(n));
        let [high, low] = n.to_be_bytes();
        node.up_at(session, key(n), 1, SocketAddr::from(([10, 8, high, low], 8080)));
        sessions.push(session);
    }
    sessions.push(teller);
    stay_a_minute(&mut node, &sessions);
    sessions.pop();
    for session in sessions {
        node.down(session, DisconnectReason::Closed);
    }
    let told = to_third_parties(&node.wait(30 * SECOND));
    assert!(told > 0 && told <= CREDIT_MAX as usize + 5, "{told} dials to what one peer told");
}

#[test]
fn stranger_that_waits_for_a_payment_counts_as_left_after_a_minute() {
    let mut node = MeshHarness::new(&[]);
    let strangers = 0..3 * CREDIT;
    for n in strangers.clone() {
        let session = SessionId::accepted(30_000 + u64::from(n));
        let hello = Hello { listen_port: 1000 + n, ..hello() };
        node.up_with_hello(session, key(n), addr(3), hello);
        node.down(session, DisconnectReason::Closed);
    }
    let dials = dialled(&node.wait(STRANGER_REDIAL + SECOND));
    assert!(!dials.is_empty() && dials.len() <= CREDIT_MAX as usize + 5, "{} dials", dials.len());
    let dead = strangers.filter(|n| node.info(key(*n)).is_some_and(|info| info.state == PeerState::Dead));
    assert_eq!(dead.count(), 0);
    assert_eq!(dialled(&node.wait(10 * MINUTE)).len(), 0);
}

#[test]
fn stranger_that_a_list_names_during_its_last_dial_counts_as_left() {
    let (mut node, three) = joined_node();
    let four = node.meets(4);
    node.down(four, DisconnectReason::Closed);
    let (mut dial, mut digest) = (None, 0);
    loop {
        digest += 1;
        let outputs = node.heartbeat(three, digest);
        let (more, is_late) = match dial {
            None if digest < 57 => (node.wait(SECOND), false),
            _ => (node.wait_with_dials_open(SECOND), digest > 61),
        };
        if digest >= 57 {
            dial = dial.or(dialled(&more).first().map(|(session, ..)| *session));
        }
        if requests(&outputs) + requests(&more) > 0 {
            node.list(three, [(id(4), addr(4))].into_iter().filter(|_| is_late));
            if is_late {
                break;
            }
        }
    }
    // The mesh asserts that it has no timer for a dial to a peer that left.
    node.dial_fails(dial.unwrap());
    assert_eq!(node.info(id(4)).map(|info| info.state), Some(PeerState::Left));
}

/// Three keys come from one address, as those of a site behind one router do.
#[test]
fn shared_address_stays_open_while_one_of_its_peers_is_connected() {
    for first in [1, 2] {
        let mut node = MeshHarness::with(p2p_gossip::Config::default().strict(true));
        let sessions = [1, 2].map(SessionId::accepted);
        for (n, session) in (1..).zip(sessions) {
            node.up_at(session, key(n), 1, addr(3));
        }
        node.down(sessions[first - 1], DisconnectReason::Closed);
        node.up_at(SessionId::accepted(3), key(3), 1, addr(3));
        assert_eq!(node.mesh.members(), 3, "one of the first two is lost, and either may be");
        let rest = [sessions[2 - first], SessionId::accepted(3)];
        rest.into_iter().for_each(|session| drop(node.down(session, DisconnectReason::Closed)));
        node.up_at(SessionId::accepted(4), key(4), 1, addr(3));
        assert_eq!(node.mesh.members(), 1, "all of its peers are lost");
    }
}

/// Four members list invented peers until the table is full. With each pass through all peers that an invented one costs, the
/// work grows with the square of the table.
#[test]
fn invented_peers_cost_few_passes_through_all_peers() {
    for strict in [false, true] {
        let config = p2p_gossip::Config::default().peers_max(800).strict(strict);
        let mut node = MeshHarness::with(config);
        let tellers = [1, 2, 3, 4].map(|n| node.meets(n));
        let mut records = 0;
        for digest in 1..20 {
            let mut outputs = Vec::new();
            for &teller in &tellers {
                outputs.extend(node.heartbeat(teller, digest));
            }
            outputs.extend(node.wait(SECOND / 2));
            for (teller, message) in sent(&outputs) {
                if *message == Message::PeersRequest {
                    let first = 0x1000 + u16::try_from(records).unwrap();
                    node.list(teller, (first..first + 300).map(|n| (key(n), other(n))));
                    records += 300;
                }
            }
        }
        assert_eq!(node.mesh.peers(node.now()).len(), 800);
        // The lists stop. Each invented peer waits for a payment, and tries again when it may be there.
        let (before, mut dials) = (node.mesh.passes(), 0);
        for _ in 0..30 {
            let digest = node.mesh.digest();
            tellers.iter().for_each(|&teller| drop(node.heartbeat(teller, digest)));
            dials += dialled(&node.wait(SECOND)).len();
        }
        let passes = node.mesh.passes() - before;
        assert!(dials > 0 && passes < 100, "{passes} passes, {dials} dials");
    }
}

/// Rumours of one peer make room for those of another while the dials to them wait.
#[test]
fn forgotten_rumour_waits_for_no_dial() {
    let mut node = MeshHarness::with(p2p_gossip::Config::default().peers_max(40));
    let [first, second] = [3, 4].map(|n| node.meets(n));
    node.list(first, (0..38).map(|n| (key(n), other(n))));
    node.wait_with_dials_open(ms(1));
    node.list(second, (100..138).map(|n| (key(n), other(n))));
    // The mesh asserts that no more targets wait than it knows.
    node.wait_with_dials_open(SECOND);
    assert!(node.info(key(0)).is_none() && node.info(key(100)).is_some());
}

/// A list names a peer that this node has met. That makes the peer no rumour, so it makes no room for one.
#[test]
fn list_that_names_a_met_peer_does_not_make_it_a_rumour() {
    let mut node = MeshHarness::with(p2p_gossip::Config::default().peers_max(40));
    let lost = node.meets(5);
    node.down(lost, DisconnectReason::Closed);
    let [first, second] = [3, 4].map(|n| node.meets(n));
    // Its id sorts before those of the rumours.
    let rumours = |from: u16| (from..from + 37).map(|n| (key(n), other(n)));
    node.list(first, [(id(5), addr(5))].into_iter().chain(rumours(0x4000)));
    node.list(second, rumours(0x5000));
    assert!(node.info(id(5)).is_some());
    assert!(node.info(key(0x4000)).is_none() && node.info(key(0x5000)).is_some());
}
