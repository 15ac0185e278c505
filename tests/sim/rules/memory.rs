//! Peers known from an earlier life.

use p2p_gossip::Config;
use p2p_gossip::config::FORGET_AFTER;
use p2p_gossip::mesh::{DialError, Input, KnownPeer, Output, Report, SessionId, UnixTime};
use p2p_gossip::wire::Message;

use super::{SECOND, reported};
use crate::sim::puppet::{Puppet, WALL, addr, asks_for_a_list, dialled, dials, id, known};

#[test]
fn a_known_peer_is_met_again_and_not_for_the_first_time() {
    let mut node = Puppet::remembering(vec![known(3), known(4)]);
    assert!(asks_for_a_list(&node.up(SessionId::accepted(1), id(3), 7)));
    node.list(SessionId::accepted(1), std::iter::empty());
    // Both sides were apart, so what the second says is asked for as well: a stranger's is not.
    assert!(asks_for_a_list(&node.up(SessionId::accepted(2), id(4), 7)));
    assert!(!asks_for_a_list(&node.up(SessionId::accepted(3), id(5), 7)));
    let memory = node.mesh.known_peers();
    assert_eq!(memory[0].first_seen, known(3).first_seen);
    assert_eq!((memory[0].last_seen, memory[2].first_seen), (WALL, WALL));
}

#[test]
fn who_left_in_an_earlier_life_is_not_dialled_until_others_have_seen_it_back() {
    let left = KnownPeer { left: true, ..known(3) };
    let mut node = Puppet::remembering(vec![left]);
    assert_eq!(dials(&node.wait(60 * SECOND)), 0);
    assert!(node.mesh.known_peers()[0].left);
    let mut node = Puppet::remembering(vec![KnownPeer { left: true, ..known(3) }]);
    let session = SessionId::accepted(1);
    assert!(asks_for_a_list(&node.up(session, id(4), 1)));
    node.list(session, [(id(3), addr(3))].into_iter());
    assert!(dials(&node.wait(SECOND)) > 0);
}

#[test]
fn what_is_remembered_is_not_told_to_others_before_it_is_proven() {
    let mut node = Puppet::remembering(vec![known(3), known(4)]);
    node.up(SessionId::accepted(1), id(3), 1);
    let session = SessionId::accepted(2);
    node.up(session, id(5), 1);
    let answer = node.receives(session, Message::PeersRequest);
    let told = answer.iter().find_map(|output| match output {
        Output::Send { message: Message::Peers { records, .. }, .. } => Some(records.clone()),
        _ => None,
    });
    let told = told.expect("an answer");
    assert_eq!(told.iter().map(|record| record.id).collect::<Vec<_>>(), [id(3)]);
}

#[test]
fn who_was_not_seen_for_a_day_is_forgotten_and_so_is_oneself() {
    let day = FORGET_AFTER.as_secs();
    let old = KnownPeer { last_seen: UnixTime(WALL.0 - day - 1), ..known(3) };
    let young = KnownPeer { last_seen: UnixTime(WALL.0 - day + 5), ..known(4) };
    // A clock that was set back makes nobody old.
    let ahead = KnownPeer { last_seen: UnixTime(WALL.0 + day * 9), ..known(5) };
    let mut node = Puppet::remembering(vec![old, young, ahead, known(9)]);
    let known = |node: &Puppet| node.mesh.known_peers().iter().map(|peer| peer.id).collect::<Vec<_>>();
    assert_eq!(known(&node), [id(4), id(5)]);
    let outputs = node.wait(6 * SECOND);
    assert!(outputs.contains(&Output::Remember));
    assert_eq!(known(&node), [id(5)]);
}

#[test]
fn of_more_than_there_is_room_for_those_seen_last_are_looked_for() {
    let seen = |n: u8| KnownPeer { last_seen: UnixTime(WALL.0 - 600 + u64::from(n)), ..known(n) };
    let mut node = Puppet::with(Config { peers_max: 2, ..Config::default() });
    node.recall((1..=5).map(seen).collect());
    let known: Vec<_> = node.mesh.known_peers().iter().map(|peer| peer.id).collect();
    assert_eq!(known, [id(4), id(5)]);
}

#[test]
fn another_key_at_a_remembered_address_is_said_loudly() {
    let mut node = Puppet::remembering(vec![known(3)]);
    let (session, ..) = dialled(&node.wait_for_dial())[0];
    let outputs = node.tell(Input::DialFailed { session, reason: DialError::WrongId { found: id(7) } });
    let since = known(3).first_seen;
    let wrong =
        |report: &&Report| matches!(report, Report::WrongId { first_seen, .. } if *first_seen == since);
    assert!(reported(&outputs).into_iter().any(|report| wrong(&report)), "{outputs:?}");
    assert_eq!(node.mesh.known_peers().len(), 1);
}
