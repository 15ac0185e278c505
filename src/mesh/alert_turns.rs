//! The turns of the members to run their alert programs, and what they tell each other of that.

use std::time::Instant;

use super::incidents::{TURN, TurnOf, rank};
use super::io::{Output, Report};
use super::machine::Mesh;
use crate::event::{AlertKind, AlertPhase, Event};
use crate::trust::peer_id::PeerId;
use crate::util::text::Escaped;
use crate::wire::{IncidentNews, Message, Stage, Subject};

/// Members to which a node passes news of an incident on, in the order of their turns: those that would act next and
/// may have no connection to the member that ran the program.
const PASSED_ON_MAX: usize = 4;
/// Members that tell a newcomer of all incidents.
const TELLERS: usize = 3;

impl Mesh {
    /// Tells a new member of the incidents. A few members do that.
    pub(super) fn tell_incidents(&mut self, newcomer: PeerId) {
        let salt = u64::from_be_bytes(std::array::from_fn(|at| newcomer.as_bytes()[at]));
        let own = rank(salt, &self.id);
        let before = self.peers.iter_connected().filter(|(id, _)| **id != newcomer && rank(salt, id) > own);
        if before.take(TELLERS).count() < TELLERS {
            let known = self.alerts.incidents.iter();
            let mut all: Vec<IncidentNews> =
                known.map(|(subject, incident)| incident.news(*subject)).collect();
            all.retain(|news| news.stage > Stage::Open);
            for mut news in all {
                if news.stage == Stage::Over {
                    // A newcomer that has not seen the end waits for those that have.
                    news.stage = Stage::Begun;
                }
                self.send(&newcomer, Message::Incident(news));
            }
        }
    }

    /// Another member tells of an incident.
    pub(super) fn received_incident(&mut self, now: Instant, from: PeerId, news: IncidentNews) {
        if self.leaving || !self.is_credible(now, from, &news) {
            return;
        }
        let subject = news.subject;
        if !self.alerts.incidents.learn(now, news) {
            return;
        }
        let Some(incident) = self.alerts.incidents.get(&subject) else {
            return;
        };
        let (stage, is_over) = (incident.stage, incident.is_over);
        if stage >= Stage::Begun && self.alerts.passed_on.take(now).is_ok() {
            let mut runners = self.runners(subject);
            let id = incident.id;
            runners.sort_by_key(|runner| std::cmp::Reverse(rank(id, runner)));
            runners.retain(|runner| *runner != from && *runner != self.id);
            for runner in runners.into_iter().take(PASSED_ON_MAX) {
                self.tell_incident(subject, &runner);
            }
        }
        if stage == Stage::Begun && is_over {
            self.advance(now, subject, Stage::Over);
        } else if stage == Stage::Open || stage == Stage::Over {
            self.next_turn(now, subject);
        }
        self.schedule_alerts();
    }

    /// Whether the news may count: it is about peers that this node knows, and only the ends of a link tell that it is
    /// broken.
    fn is_credible(&mut self, now: Instant, from: PeerId, news: &IncidentNews) -> bool {
        let knows = |id: &PeerId| *id == self.id || self.peers.get(id).is_some();
        let (is_known, is_from_end) = match news.subject {
            Subject::Peer(peer) => (knows(&peer), false),
            Subject::Link(first, second) => {
                (first < second && knows(&first) && knows(&second), from == first || from == second)
            }
            Subject::Isolated(first) => (knows(&first), false),
        };
        if !is_known {
            return false;
        }
        match (news.stage, self.alerts.incidents.get(&news.subject)) {
            (Stage::Open, Some(known)) if known.number >= news.number => false,
            (Stage::Open, _) => is_from_end && self.alerts.strange.take(now).is_ok(),
            // Without a begin that this node knows of, an end is no news.
            (Stage::Over, known) => is_from_end && known.is_some_and(|known| known.number == news.number),
            (Stage::Begun | Stage::Done, _) => true,
        }
    }

    /// The program of this node has run for an incident.
    pub(super) fn alert_done(&mut self, now: Instant, id: u64, phase: AlertPhase) {
        if self.leaving {
            return;
        }
        let Some(subject) = self.alerts.incidents.find(id) else {
            return;
        };
        let Some(incident) = self.alerts.incidents.get_mut(&subject) else {
            return;
        };
        let next = match (incident.stage, phase) {
            (Stage::Open, AlertPhase::Begin) => Stage::Begun,
            (Stage::Over, AlertPhase::End) => Stage::Done,
            _ => return,
        };
        let is_over = incident.is_over;
        self.advance(now, subject, next);
        self.tell_all(subject);
        if next == Stage::Begun && is_over {
            self.advance(now, subject, Stage::Over);
        }
        self.schedule_alerts();
    }

    pub(super) fn advance(&mut self, now: Instant, subject: Subject, stage: Stage) {
        if let Some(incident) = self.alerts.incidents.get_mut(&subject) {
            incident.stage = stage;
            incident.end_turn();
            if stage == Stage::Over {
                self.next_turn(now, subject);
            }
        }
    }

    /// Gives the turn to the next member, which runs its program if it is this node.
    pub(super) fn next_turn(&mut self, now: Instant, subject: Subject) {
        if !self.config.alerts {
            return;
        }
        let runners = self.runners(subject);
        let is_isolated = self.alerts.isolated_since.is_some();
        let Some(incident) = self.alerts.incidents.get_mut(&subject) else {
            return;
        };
        if !incident.wants_run() {
            return incident.end_turn();
        }
        if is_isolated && !matches!(subject, Subject::Isolated(_)) && incident.owner().is_some() {
            // The others may have run it.
            return incident.wait(now + TURN);
        }
        match incident.next_turn(now, &runners) {
            TurnOf::Member(owner) if owner == self.id => self.raise(subject),
            TurnOf::Member(_) => {}
            TurnOf::NoMember => {
                let id = incident.id;
                incident.end_turn();
                self.report(Report::AlertFailed { incident: incident_text(id) });
            }
        }
    }

    /// Has this node's program run.
    fn raise(&mut self, subject: Subject) {
        let Some(incident) = self.alerts.incidents.get(&subject) else {
            return;
        };
        let kind = match subject {
            Subject::Peer(_) if incident.peers.len() > 1 => AlertKind::Partition,
            Subject::Peer(_) => AlertKind::Node,
            Subject::Link(..) => AlertKind::Link,
            Subject::Isolated(_) => AlertKind::Isolated,
        };
        let phase = if incident.stage == Stage::Open { AlertPhase::Begin } else { AlertPhase::End };
        let (incident, peers) = (incident_text(incident.id), incident.peers.clone());
        let names: Vec<String> = peers.iter().map(|id| self.name_of(id)).collect();
        let text = alert_text(kind, phase, &peers, &names);
        self.output(Output::Notify(Event::Alert { incident, kind, phase, peers, names, text }));
    }

    fn name_of(&self, id: &PeerId) -> String {
        if *id == self.id {
            return self.config.name.clone();
        }
        self.peers.get(id).map(|peer| peer.name.clone()).unwrap_or_default()
    }

    /// The members that may run the alert program for an incident now.
    fn runners(&self, subject: Subject) -> Vec<PeerId> {
        let incident = self.alerts.incidents.get(&subject);
        let group = incident.and_then(|incident| incident.group.as_ref());
        // Who was away has not seen the end of the incident.
        let is_subject = |id: &PeerId| {
            let incident = incident.filter(|_| matches!(subject, Subject::Peer(_)));
            incident.is_some_and(|incident| incident.peers.contains(id))
        };
        // A member that only this node cannot reach has its turn, too: others pass on that it has run its program.
        let others = self
            .peers
            .iter()
            .filter(|(id, peer)| peer.runs_alerts && (peer.connected().is_some() || self.is_link_lost(id)));
        let mut runners: Vec<PeerId> = others.map(|(id, _)| *id).collect();
        if self.config.alerts {
            runners.push(self.id);
        }
        runners.retain(|id| group.is_none_or(|group| group.contains(id)) && !is_subject(id));
        runners
    }

    pub(super) fn tell_all(&mut self, subject: Subject) {
        let connected: Vec<PeerId> = self.peers.iter_connected().map(|(id, _)| *id).collect();
        connected.iter().for_each(|id| self.tell_incident(subject, id));
    }

    fn tell_incident(&mut self, subject: Subject, to: &PeerId) {
        if let Some(incident) = self.alerts.incidents.get(&subject) {
            let news = incident.news(subject);
            self.send(to, Message::Incident(news));
        }
    }
}

/// An incident's id, as programs and people see it.
pub(super) fn incident_text(id: u64) -> String {
    format!("{id:016x}")
}

/// The text of an alert for people.
fn alert_text(kind: AlertKind, phase: AlertPhase, peers: &[PeerId], names: &[String]) -> String {
    let label = |(id, name): (&PeerId, &String)| {
        if name.is_empty() { id.short().to_string() } else { format!("{} ({})", Escaped(name), id.short()) }
    };
    let labels: Vec<String> = peers.iter().zip(names).map(label).collect();
    let (list, count) = (labels.join(", "), labels.len());
    match (kind, phase) {
        (AlertKind::Node, AlertPhase::Begin) => format!("{list} is down"),
        (AlertKind::Node, AlertPhase::End) => format!("{list} is back"),
        (AlertKind::Partition, AlertPhase::Begin) => format!("{count} members fell silent together: {list}"),
        (AlertKind::Partition, AlertPhase::End) => format!("{count} members are back: {list}"),
        (AlertKind::Link, AlertPhase::Begin) => format!("no connection between {}", labels.join(" and ")),
        (AlertKind::Link, AlertPhase::End) => format!("connected again: {}", labels.join(" and ")),
        (AlertKind::Isolated, AlertPhase::Begin) => format!("cut off from {count} members: {list}"),
        (AlertKind::Isolated, AlertPhase::End) => format!("no longer cut off from {count} members: {list}"),
    }
}
