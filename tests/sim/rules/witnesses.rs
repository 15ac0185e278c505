//! Witnesses: what a node asks and answers about lost peers, and the verdict that follows.

use p2p_gossip::Verdict;
use p2p_gossip::internals::mesh::{DialError, DisconnectReason, Input, Output, SessionId};
use p2p_gossip::internals::wire::{ByeReason, Hearing, Message, Sighting};

use super::{SECOND, ms};
use crate::sim::mesh_harness::{MeshHarness, all_events_of, dialled, id, questions, sent, verdicts_of};

const CLOSED: DisconnectReason = DisconnectReason::Closed;

fn says(n: u8, hearing: Hearing, ago_ms: u32) -> Sighting {
    Sighting { peer: id(n), hearing, ago_ms }
}

fn reports(node: &mut MeshHarness, session: SessionId, sightings: Vec<Sighting>) -> Vec<Output> {
    node.receives(session, Message::WitnessReport { sightings })
}

/// A node with these peers, and their sessions.
fn node_with(peers: std::ops::Range<u8>) -> (MeshHarness, Vec<SessionId>) {
    let mut node = MeshHarness::new(&[]);
    let sessions = peers.map(|n| node.meets(n)).collect();
    node.wait_with_dials_open(SECOND);
    (node, sessions)
}

/// Lets tenths of a second pass while these peers send heartbeats. Returns the outputs.
fn live(node: &mut MeshHarness, sessions: &[SessionId], tenths: u32) -> Vec<Output> {
    let mut outputs = Vec::new();
    for _ in 0..tenths {
        sessions.iter().for_each(|session| outputs.extend(node.heartbeat(*session, 0)));
        outputs.extend(node.wait_with_dials_open(ms(100)));
    }
    outputs
}

/// The answers to questions about lost peers among the outputs.
fn answers(outputs: &[Output]) -> Vec<Vec<Sighting>> {
    let answer = |(_, message): (SessionId, &Message)| match message {
        Message::WitnessReport { sightings } => Some(sightings.clone()),
        _ => None,
    };
    sent(outputs).into_iter().filter_map(answer).collect()
}

#[test]
fn peers_lost_at_one_moment_are_asked_about_in_one_message_to_each_member() {
    let (mut node, sessions) = node_with(3..8);
    let mut outputs = node.down(sessions[0], CLOSED);
    outputs.extend(node.down(sessions[1], CLOSED));
    assert_eq!(all_events_of(&outputs).len(), 2, "both are down at once");
    outputs.extend(node.wait(ms(50)));
    let asked = questions(&outputs);
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked.iter().all(|(_, about)| *about == [id(3), id(4)]), "{asked:?}");
}

/// Found by seed 983061108: after many losses at once, the questions of the second turn filled a member's outbox.
#[test]
fn peers_lost_at_one_moment_are_asked_about_again_in_one_message_to_each_member() {
    let (mut node, sessions) = node_with(3..8);
    node.down(sessions[0], CLOSED);
    node.down(sessions[1], CLOSED);
    node.wait(ms(50));
    for witness in &sessions[2..] {
        // It may only have not noticed the losses yet.
        reports(&mut node, *witness, [3, 4].map(|lost| says(lost, Hearing::Hears, 900)).to_vec());
    }
    let asked = questions(&node.wait(ms(150)));
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked.iter().all(|(_, about)| *about == [id(3), id(4)]), "{asked:?}");
}

/// Found by seed 987057071: after many losses the later questions filled a healthy member's outbox.
#[test]
fn peers_lost_within_half_a_second_are_asked_about_later_in_one_message_to_each_member() {
    let (mut node, sessions) = node_with(3..8);
    node.down(sessions[0], CLOSED);
    live(&mut node, &sessions[1..], 4);
    node.down(sessions[1], CLOSED);
    live(&mut node, &sessions[2..], 90);
    let asked = questions(&live(&mut node, &sessions[2..], 20));
    assert_eq!(asked.len(), 3 * 2, "none has answered, so each is asked twice: {asked:?}");
    assert!(asked.iter().all(|(_, about)| *about == [id(3), id(4)]), "{asked:?}");
}

#[test]
fn verdict_follows_the_last_answer_that_matters() {
    let (mut node, sessions) = node_with(3..8);
    node.down(sessions[0], CLOSED);
    node.wait(ms(30));
    for witness in &sessions[1..3] {
        let outputs = reports(&mut node, *witness, vec![says(3, Hearing::Lost, 1)]);
        assert_eq!(verdicts_of(&outputs), []);
    }
    // The fourth could not change it.
    let outputs = reports(&mut node, sessions[3], vec![says(3, Hearing::Lost, 1)]);
    assert_eq!(verdicts_of(&outputs), [(id(3), Verdict::Node, 4, 0)]);
    assert_eq!(node.info(id(3)).unwrap().verdict.unwrap().verdict, Verdict::Node);
    // Ten seconds later the members are asked again. Two that hear the peer refine the verdict.
    let outputs = live(&mut node, &sessions[1..], 100);
    assert_eq!((questions(&outputs).len(), verdicts_of(&outputs)), (4, vec![]));
    for (witness, hearing) in sessions[1..].iter().zip([Hearing::Hears, Hearing::Hears, Hearing::Lost]) {
        assert_eq!(verdicts_of(&reports(&mut node, *witness, vec![says(3, hearing, 10)])), []);
    }
    let outputs = live(&mut node, &sessions[1..], 4);
    assert_eq!(verdicts_of(&outputs), [(id(3), Verdict::Link, 4, 2)]);
}

#[test]
fn members_that_do_not_answer_delay_the_verdict_no_longer_than_a_quarter_of_a_second() {
    let (mut node, sessions) = node_with(3..8);
    node.down(sessions[0], CLOSED);
    assert_eq!(verdicts_of(&node.wait(ms(200))), []);
    assert_eq!(verdicts_of(&node.wait(ms(50))), [(id(3), Verdict::Unknown, 4, 0)]);
    // Their late answers decide.
    let late =
        |session: &SessionId| verdicts_of(&reports(&mut node, *session, vec![says(3, Hearing::Lost, 1)]));
    let verdicts: Vec<_> = sessions[1..].iter().flat_map(late).collect();
    assert_eq!(verdicts, [(id(3), Verdict::Node, 4, 0)]);
}

/// A question says that its sender has lost the peer.
#[test]
fn question_is_testimony() {
    let (mut node, sessions) = node_with(3..6);
    node.down(sessions[0], CLOSED);
    for witness in &sessions[1..] {
        node.receives(*witness, Message::WitnessRequest { lost: vec![says(3, Hearing::Lost, 0)] });
    }
    let outputs = node.wait(SECOND / 4);
    assert_eq!(verdicts_of(&outputs), [(id(3), Verdict::Node, 2, 0)]);
}

/// The user is not told `unknown` a moment before the answer.
#[test]
fn verdict_without_witnesses_waits_for_the_first_redial() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.wait_with_dials_open(SECOND);
    let mut outputs = node.down(session, CLOSED);
    outputs.extend(node.wait_with_dials_open(ms(600)));
    let (session, ..) = dialled(&outputs)[0];
    let reason = DialError::Refused("connection refused".to_owned());
    outputs.extend(node.handle(Input::DialFailed { session, reason }));
    outputs.extend(node.wait_with_dials_open(SECOND));
    assert_eq!(verdicts_of(&outputs), [(id(3), Verdict::Node, 0, 0)]);
}

#[test]
fn refused_redial_shows_a_node_without_witnesses_that_its_peer_has_ended() {
    let mut node = MeshHarness::new(&[]);
    let session = node.meets(3);
    node.wait_with_dials_open(SECOND);
    node.down(session, CLOSED);
    let outputs = node.wait_with_dials_open(SECOND);
    assert_eq!(verdicts_of(&outputs), [(id(3), Verdict::Unknown, 0, 0)]);
    let (session, ..) = dialled(&outputs)[0];
    let reason = DialError::Refused("connection refused".to_owned());
    let mut outputs = node.handle(Input::DialFailed { session, reason });
    outputs.extend(node.wait_with_dials_open(ms(1)));
    assert_eq!(verdicts_of(&outputs), [(id(3), Verdict::Node, 0, 0)]);
}

#[test]
fn peer_that_is_back_within_the_grace_or_left_causes_no_question() {
    let (mut node, sessions) = node_with(3..8);
    let mut outputs = node.down(sessions[0], DisconnectReason::Bye(ByeReason::Silent));
    outputs.extend(live(&mut node, &sessions[2..], 5));
    outputs.extend(node.up(SessionId::accepted(1), id(3), 1));
    outputs.extend(node.down(sessions[1], DisconnectReason::Bye(ByeReason::Leaving)));
    outputs.extend(live(&mut node, &sessions[2..], 5));
    assert_eq!((questions(&outputs), verdicts_of(&outputs)), (vec![], vec![]));
}

#[test]
fn answer_tells_what_lists_tell_and_no_more() {
    let (mut node, sessions) = node_with(3..8);
    node.down(sessions[1], CLOSED);
    node.down(sessions[2], DisconnectReason::Bye(ByeReason::Leaving));
    let lost = [3, 4, 5, 200, 9].map(|n| says(n, Hearing::Lost, 0)).to_vec();
    let outputs = node.receives(sessions[4], Message::WitnessRequest { lost });
    let told: Vec<Hearing> = answers(&outputs)[0].iter().map(|sighting| sighting.hearing).collect();
    // A member, a lost peer, one that left, a stranger, this node itself.
    assert_eq!(told, [Hearing::Hears, Hearing::Lost, Hearing::Unknown, Hearing::Unknown, Hearing::Unknown]);
    assert_eq!(answers(&outputs)[0][0].ago_ms, 1000);
}

#[test]
fn member_gets_a_limited_number_of_answers() {
    let (mut node, sessions) = node_with(3..8);
    let mut answered = 0;
    for _ in 0..1_000 {
        let lost = vec![says(3, Hearing::Lost, 0)];
        answered += answers(&node.receives(sessions[1], Message::WitnessRequest { lost })).len();
    }
    // Node 4 is a stranger, which was not connected for a minute.
    assert_eq!(answered, 256);
}

#[test]
fn strangers_that_come_and_go_cause_few_questions() {
    let (mut node, _) = node_with(3..8);
    let mut asked = 0;
    for n in 0..200 {
        let session = SessionId::accepted(n);
        node.up(session, id(100), n);
        node.down(session, CLOSED);
        asked += questions(&node.wait_with_dials_open(ms(25))).len();
    }
    assert!(asked <= 5 * (32 + 2 * 5 + 1), "{asked} questions");
}

#[test]
fn strangers_are_asked_only_beside_few_other_members() {
    for (known, asks_strangers) in [(3..7, false), (3..6, true)] {
        let (mut node, mut sessions) = node_with(known);
        // For more than a minute: these are acquainted.
        live(&mut node, &sessions, 650);
        let strangers = [20, 21].map(|n| node.meets(n));
        sessions.extend(strangers);
        live(&mut node, &sessions, 20);
        node.down(sessions[0], CLOSED);
        let asked = questions(&node.wait_with_dials_open(ms(25)));
        let has_asked = |session: &SessionId| asked.iter().any(|(asked, _)| asked == session);
        assert!(sessions[1..sessions.len() - 2].iter().all(has_asked), "{asked:?}");
        assert_eq!(strangers.iter().any(has_asked), asks_strangers, "{asked:?}");
    }
}
