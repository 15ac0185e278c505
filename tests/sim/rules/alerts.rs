//! Alerts: whose news of an incident counts, and when a node runs its alert program.

use p2p_gossip::internals::mesh::{DisconnectReason, Input, Output, SessionId, Vitals};
use p2p_gossip::internals::wire::{
    ALERT_CAPABILITY, Hearing, Hello, IncidentNews, Message, Sighting, Stage, Subject,
};
use p2p_gossip::{AlertKind, AlertPhase, Config, Event, PeerId};

use super::{MINUTE, SECOND, ms};
use crate::sim::mesh_harness::{MeshHarness, all_events_of, hello, id, sent};

/// Node 9 with an alert program.
fn node_with_program() -> MeshHarness {
    MeshHarness::with(Config::default().alerts(true))
}

fn alerts(outputs: &[Output]) -> Vec<(AlertKind, AlertPhase)> {
    let alert = |event: Event| match event {
        Event::Alert { kind, phase, .. } => Some((kind, phase)),
        _ => None,
    };
    all_events_of(outputs).into_iter().filter_map(alert).collect()
}

/// Lets time pass while these peers send a heartbeat each second.
fn live(node: &mut MeshHarness, sessions: &[SessionId], seconds: u32) -> Vec<Output> {
    let mut outputs = Vec::new();
    for _ in 0..seconds {
        sessions.iter().for_each(|session| outputs.extend(node.heartbeat(*session, 0)));
        outputs.extend(node.wait_with_dials_open(SECOND));
    }
    outputs
}

/// A member tells of the broken link between these two.
fn tells(
    node: &mut MeshHarness,
    session: SessionId,
    ends: [PeerId; 2],
    number: u32,
    stage: Stage,
) -> Vec<(AlertKind, AlertPhase)> {
    let subject = Subject::Link(ends[0], ends[1]);
    let news = IncidentNews { subject, number, incident: 77, stage, peers: ends.to_vec() };
    alerts(&node.receives(session, Message::Incident(news)))
}

#[test]
fn only_the_ends_of_a_link_between_known_peers_begin_and_end_its_incident() {
    let mut node = node_with_program();
    let [three, four, five] = [3, 4, 5].map(|n| node.meets(n));
    let link = [id(3), id(4)];
    assert_eq!(tells(&mut node, five, link, 0, Stage::Open), [], "5 is no end of the link");
    assert_eq!(tells(&mut node, three, [id(3), id(77)], 0, Stage::Open), [], "this node does not know 77");
    assert_eq!(tells(&mut node, three, [id(4), id(3)], 0, Stage::Open), [], "the smaller id comes first");
    assert_eq!(tells(&mut node, three, link, 0, Stage::Open), [(AlertKind::Link, AlertPhase::Begin)]);
    node.handle(Input::AlertDone { incident: 77, phase: AlertPhase::Begin });
    // A program that has run ends the turns.
    assert_eq!(alerts(&live(&mut node, &[three, four, five], 20)), []);
    assert_eq!(tells(&mut node, five, link, 0, Stage::Over), [], "5 is no end of the link");
    assert_eq!(tells(&mut node, four, link, 1, Stage::Over), [], "this node knows of no second incident");
    assert_eq!(tells(&mut node, four, link, 0, Stage::Over), [(AlertKind::Link, AlertPhase::End)]);
    node.handle(Input::AlertDone { incident: 77, phase: AlertPhase::End });
    assert_eq!(alerts(&live(&mut node, &[three, four, five], 20)), []);
}

#[test]
fn new_member_is_told_of_incidents_whose_program_has_run() {
    let capable = || Hello { capabilities: vec![ALERT_CAPABILITY], ..hello() };
    for has_run in [false, true] {
        let mut node = node_with_program();
        let [three, ..] = [3, 4, 5].map(|n| node.meets(n));
        let link = [id(3), id(4)];
        assert_eq!(tells(&mut node, three, link, 0, Stage::Open), [(AlertKind::Link, AlertPhase::Begin)]);
        if has_run {
            node.handle(Input::AlertDone { incident: 77, phase: AlertPhase::Begin });
        }
        let newcomer = SessionId::accepted(1006);
        let mut outputs = node.up_with_hello(newcomer, id(6), crate::sim::mesh_harness::addr(6), capable());
        outputs.extend(live(&mut node, &[newcomer], 1));
        let told = sent(&outputs).into_iter().any(|(session, message)| {
            let is_begun = |news: &IncidentNews| (news.incident, news.stage) == (77, Stage::Begun);
            session == newcomer && matches!(message, Message::Incident(news) if is_begun(news))
        });
        assert_eq!(told, has_run);
    }
}

/// The other members may have run the program, and an isolated node cannot hear of it.
#[test]
fn isolated_node_takes_no_turn_from_a_member_that_it_has_lost() {
    let mut node = node_with_program();
    let capable = || Hello { capabilities: vec![ALERT_CAPABILITY], ..hello() };
    let sessions: Vec<SessionId> = (3..9).map(|n| SessionId::accepted(1000 + n)).collect();
    for (n, session) in (3..9).zip(&sessions) {
        node.up_with_hello(*session, id(n), crate::sim::mesh_harness::addr(n), capable());
    }
    live(&mut node, &sessions, 5);
    let mut outputs = node.down(sessions[0], DisconnectReason::Closed);
    outputs.extend(node.wait_with_dials_open(ms(30)));
    for witness in &sessions[1..] {
        let sightings = vec![Sighting { peer: id(3), hearing: Hearing::Lost, ago_ms: 1 }];
        outputs.extend(node.receives(*witness, Message::WitnessReport { sightings }));
    }
    assert_eq!(alerts(&outputs), [], "another member has the first turn");
    let outputs = node.wait_with_dials_open(2 * MINUTE);
    let alone = all_events_of(&outputs).iter().any(|event| matches!(event, Event::Isolated { .. }));
    assert!(alone, "{outputs:?}");
    // No member has reported that its program has run, so this node tries again. It tries nothing else.
    let told = alerts(&outputs);
    assert!(told.iter().all(|alert| *alert == (AlertKind::Isolated, AlertPhase::Begin)), "{told:?}");
    assert!(!told.is_empty());
}

/// Whose turn it is follows from the number of the incident.
#[test]
fn turn_passes_to_this_node_if_another_member_does_not_report() {
    let mut passed = 0;
    for incident in 0..10 {
        let mut node = node_with_program();
        let three = SessionId::accepted(1003);
        let capable = Hello { capabilities: vec![ALERT_CAPABILITY], ..hello() };
        node.up_with_hello(three, id(3), crate::sim::mesh_harness::addr(3), capable);
        let four = node.meets(4);
        live(&mut node, &[three, four], 5);
        let (subject, peers) = (Subject::Link(id(3), id(4)), vec![id(3), id(4)]);
        let news = IncidentNews { subject, number: 0, incident, stage: Stage::Open, peers };
        let outputs = node.receives(four, Message::Incident(news));
        if alerts(&outputs).is_empty() {
            let sessions = [three, four];
            assert_eq!(alerts(&live(&mut node, &sessions, 4)), []);
            assert_eq!(alerts(&live(&mut node, &sessions, 2)), [(AlertKind::Link, AlertPhase::Begin)]);
            passed += 1;
        }
    }
    assert!((1..10).contains(&passed), "{passed} of 10 incidents were the other member's");
}

#[test]
fn link_that_breaks_again_counts_from_its_last_loss() {
    let mut node = node_with_program();
    let sessions: Vec<SessionId> = (3..6).map(|n| node.meets(n)).collect();
    live(&mut node, &sessions, 5);
    let breaks = |node: &mut MeshHarness, session: SessionId| {
        node.down(session, DisconnectReason::Closed);
        let mut outputs = node.wait_with_dials_open(ms(130));
        for witness in &sessions[1..] {
            let sightings = vec![Sighting { peer: id(3), hearing: Hearing::Hears, ago_ms: 1 }];
            outputs.extend(node.receives(*witness, Message::WitnessReport { sightings }));
        }
        outputs
    };
    breaks(&mut node, sessions[0]);
    live(&mut node, &sessions[1..], 20);
    let back = SessionId::accepted(3);
    node.up(back, id(3), 1);
    live(&mut node, &[&sessions[1..], &[back]].concat(), 9);
    let mut outputs = node.wait_with_dials_open(ms(820));
    outputs.extend(breaks(&mut node, back));
    outputs.extend(live(&mut node, &sessions[1..], 29));
    assert_eq!(alerts(&outputs), [], "30 s after the first loss");
    assert_eq!(alerts(&live(&mut node, &sessions[1..], 2)), [(AlertKind::Link, AlertPhase::Begin)]);
}

/// Each peer of a partition falls silent at another time of its heartbeat interval, which may be longer than this node's.
#[test]
fn peers_with_longer_intervals_that_fall_silent_together_are_one_incident() {
    let mut node = node_with_program();
    let members: Vec<SessionId> = (3..7).map(|n| node.meets(n)).collect();
    let [first, second] = [20, 21].map(|n| node.meets(n));
    let beat = |node: &mut MeshHarness, session| {
        let (vitals, arrived) = (Vitals { digest: 0, interval_ms: 2000 }, node.now());
        node.handle(Input::Heartbeat { session, vitals, arrived, rtt: None });
    };
    let mut outputs = Vec::new();
    for tenth in 0..200 {
        if tenth % 10 == 0 {
            members.iter().for_each(|session| outputs.extend(node.heartbeat(*session, 0)));
        }
        match tenth {
            0 | 20 | 40 => beat(&mut node, first),
            19 | 39 | 59 => beat(&mut node, second),
            _ => {}
        }
        outputs.extend(node.wait_with_dials_open(ms(100)));
    }
    let begun: Vec<(AlertKind, AlertPhase)> = alerts(&outputs);
    assert!(
        !begun.is_empty() && begun.iter().all(|alert| *alert == (AlertKind::Partition, AlertPhase::Begin)),
        "{begun:?}"
    );
}
