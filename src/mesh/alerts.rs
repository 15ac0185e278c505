//! One alarm for one incident: what counts as an incident, and the member that runs the alert program for it.
//!
//! The mesh tells this module of verdicts, of peers that come and go, and of this node's isolation. This module opens
//! and ends incidents; the members' turns (`alert_turns.rs`) decide who runs the program.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::incidents::Incident;
use super::inquiry::Inquiry;
use super::machine::Mesh;
use super::peer::{Connected, Link, State};
use super::timer::Timer;
use crate::event::Verdict;
use crate::trust::peer_id::PeerId;
use crate::wire::{INCIDENT_PEERS_MAX, Stage, Subject};

/// A link that is broken for this long is an incident. A shorter break is most often a restart of a router or switch.
pub const LINK_LASTS: Duration = Duration::from_secs(30);
/// Losses by silence within this many quarters of the peer's heartbeat interval are one incident: in a partition each
/// peer's silence ends at another time of one interval. On busy machines intervals are longer than configured.
const TOGETHER_QUARTERS: u32 = 5;
/// Wait before an isolated node whose connections were closed looks who else is left.
const CLOSED_TOGETHER: Duration = Duration::from_millis(300);

impl Mesh {
    /// There is a verdict on a lost peer, or a later one that refines it.
    pub(super) fn alert_verdict(&mut self, now: Instant, id: PeerId, verdict: Verdict) {
        if self.alerts.judged.insert(id) {
            *self.alerts.downs.entry(verdict).or_default() += 1;
        }
        let Some(lost_at) = self.lost_at(&id).filter(|_| self.has_alerts()) else {
            return;
        };
        self.alerts.links.remove(&id);
        match verdict {
            Verdict::Node | Verdict::Unknown => match self.alerts.fell_silent.get(&id) {
                None => drop(self.open_incident(now, Subject::Peer(id), vec![id], lost_at)),
                Some(interval) if self.alerts.isolated_since.is_none() => {
                    let until = (lost_at + *interval * TOGETHER_QUARTERS / 4).max(now);
                    self.alerts.silent.insert(id, lost_at);
                    self.alerts.silent_until.get_or_insert(until);
                }
                Some(_) => {}
            },
            Verdict::Link => {
                self.alerts.silent.remove(&id);
                self.alerts.links.insert(id, (lost_at + LINK_LASTS).max(now));
            }
            Verdict::Isolated => {
                self.alerts.silent.remove(&id);
            }
        }
        self.schedule_alerts();
    }

    /// This node has lost more than half of its peers within one timeout.
    pub(super) fn alert_isolated(&mut self, now: Instant) {
        self.alerts.silent.clear();
        self.alerts.silent_until = None;
        self.alerts.links.clear();
        self.alerts.isolated_since = Some(now);
        if self.has_alerts() {
            let is_silent = |connected: &&Connected| {
                matches!(connected.link, Link::Open { .. }) && self.is_suspect(now, connected)
            };
            let silent = self.peers.iter_joined().map(|(_, connected)| connected).filter(is_silent);
            let interval = silent.map(|connected| self.longest_interval(connected)).max();
            let together = interval.map_or(CLOSED_TOGETHER, |interval| interval * TOGETHER_QUARTERS / 4);
            self.alerts.isolated_until = Some(now + together);
        }
        self.schedule_alerts();
    }

    /// The isolation of this node is over.
    pub(super) fn alert_rejoined(&mut self, now: Instant) {
        (self.alerts.isolated_since, self.alerts.isolated_until) = (None, None);
        let is_own = |subject: &Subject, incident: &Incident| {
            matches!(subject, Subject::Isolated(_)) && incident.group.is_some() && !incident.is_over
        };
        for subject in self.alerts.incidents.subjects(is_own) {
            self.incident_is_over(now, subject);
        }
        self.schedule_alerts();
    }

    /// A peer is a member again, has left, or is forgotten.
    pub(super) fn alert_returned(&mut self, now: Instant, id: PeerId) {
        self.alerts.forget(&id);
        let link = self.link_with(id);
        let is_about = |subject: &Subject, incident: &Incident| match subject {
            Subject::Peer(_) => incident.peers.contains(&id),
            Subject::Link(..) => *subject == link,
            Subject::Isolated(_) => false,
        };
        let subjects =
            self.alerts.incidents.subjects(|subject, known| !known.is_over && is_about(subject, known));
        for subject in subjects {
            let is_missing = |peer: &PeerId| matches!(subject, Subject::Peer(_)) && self.is_missing(peer);
            let incident = self.alerts.incidents.get(&subject);
            if !incident.is_some_and(|incident| incident.peers.iter().any(is_missing)) {
                self.incident_is_over(now, subject);
            }
        }
        self.schedule_alerts();
    }

    /// A peer is lost, or has left. `silent` is the longest time between two of its messages, if it was lost by silence. If
    /// it was its turn to run the program, the next member has it.
    pub(super) fn alert_lost(&mut self, now: Instant, id: PeerId, silent: Option<Duration>) {
        self.alerts.fell_silent.extend(silent.map(|interval| (id, interval)));
        for subject in self.alerts.incidents.subjects(|_, incident| incident.owner() == Some(id)) {
            self.next_turn(now, subject);
        }
        self.schedule_alerts();
    }

    /// A timer of this module is due.
    pub(super) fn alerts_due(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.alerts.silent_until) {
            self.alerts.silent_until = None;
            self.silences_are_over(now);
        }
        let links: Vec<PeerId> =
            self.alerts.links.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        for id in links {
            self.alerts.links.remove(&id);
            if let Some(lost_at) = self.lost_at(&id) {
                let subject = self.link_with(id);
                if self.open_incident(now, subject, vec![id.min(self.id), id.max(self.id)], lost_at) {
                    self.tell_all(subject);
                }
            }
        }
        if is_due(self.alerts.isolated_until) {
            self.alerts.isolated_until = None;
            self.isolation_lasts(now);
        }
        for subject in self.alerts.incidents.subjects(|_, incident| is_due(incident.turn_until())) {
            self.next_turn(now, subject);
        }
        self.schedule_alerts();
    }

    /// The peers that fell silent together are one incident: a lost node, or a partition.
    fn silences_are_over(&mut self, now: Instant) {
        let silent = std::mem::take(&mut self.alerts.silent);
        let mut lost: BTreeMap<PeerId, Instant> = silent;
        lost.retain(|id, lost_at| self.lost_at(id).is_some() && !self.alerts.incidents.covers(id, *lost_at));
        let Some((&first, &lost_at)) = lost.first_key_value() else {
            return;
        };
        let peers = lost.keys().take(INCIDENT_PEERS_MAX).copied().collect();
        self.open_incident(now, Subject::Peer(first), peers, lost_at);
    }

    /// This node is still isolated: that is an incident of the members that are left together.
    fn isolation_lasts(&mut self, now: Instant) {
        let Some(since) = self.alerts.isolated_since else {
            return;
        };
        let is_left = |connected: &Connected| !self.is_suspect(now, connected);
        let left = self.peers.iter_connected().filter(|(_, connected)| is_left(connected));
        let mut group: BTreeSet<PeerId> = left.map(|(id, _)| *id).collect();
        group.insert(self.id);
        let lost = self.lost_since(since - self.config.timeout);
        let first = group.first().copied().unwrap_or(self.id);
        let peers = lost.into_iter().take(INCIDENT_PEERS_MAX).collect();
        let subject = Subject::Isolated(first);
        self.open_incident(now, subject, peers, since);
        if let Some(incident) = self.alerts.incidents.get_mut(&subject) {
            incident.group = Some(group);
        }
    }

    /// Opens an incident, unless this node knows of it. Returns whether it is new.
    fn open_incident(
        &mut self,
        now: Instant,
        subject: Subject,
        peers: Vec<PeerId>,
        lost_at: Instant,
    ) -> bool {
        if let Subject::Peer(peer) = subject
            && self.alerts.incidents.get(&subject).is_none_or(|known| known.is_over)
            && self.is_stranger(now, &peer)
            && self.alerts.strange.take(now).is_err()
        {
            return false;
        }
        let instance = |id: &PeerId| {
            if *id == self.id {
                self.instance
            } else {
                self.peers.get(id).map_or(0, |peer| peer.instances.last())
            }
        };
        let instances = match &subject {
            Subject::Peer(peer) => [instance(peer), 0],
            Subject::Link(first, second) => [instance(first), instance(second)],
            Subject::Isolated(first) => [instance(first), 0],
        };
        if !self.alerts.incidents.open(now, subject, instances, peers, lost_at) {
            return false;
        }
        let Some(incident) = self.alerts.incidents.get(&subject) else {
            return false;
        };
        let is_open = incident.stage == Stage::Open;
        if is_open && incident.owner().is_none() {
            self.next_turn(now, subject);
        }
        is_open
    }

    /// This node sees the end of an incident.
    fn incident_is_over(&mut self, now: Instant, subject: Subject) {
        let Some(incident) = self.alerts.incidents.get_mut(&subject) else {
            return;
        };
        incident.is_over = true;
        if incident.stage == Stage::Begun {
            self.advance(now, subject, Stage::Over);
            if matches!(subject, Subject::Link(..)) {
                // Only the ends see it.
                self.tell_all(subject);
            }
        }
    }

    /// Whether any member runs an alert program.
    fn has_alerts(&self) -> bool {
        self.config.alerts
            || self
                .peers
                .iter_connected()
                .any(|(id, _)| self.peers.get(id).is_some_and(|peer| peer.runs_alerts))
    }

    pub(super) fn schedule_alerts(&mut self) {
        match self.alerts.next_deadline() {
            Some(at) => self.timers.set(Timer::Alerts, at),
            None => self.timers.cancel(Timer::Alerts),
        }
    }

    fn link_with(&self, id: PeerId) -> Subject {
        Subject::Link(id.min(self.id), id.max(self.id))
    }

    /// The time at which a peer was lost, while it is.
    fn lost_at(&self, id: &PeerId) -> Option<Instant> {
        match &self.peers.get(id)?.state {
            State::Dead(gone) => Some(gone.since),
            _ => None,
        }
    }

    /// Whether this peer is lost to this node only.
    pub(super) fn is_link_lost(&self, id: &PeerId) -> bool {
        let verdict = self.witnesses.get(id).and_then(Inquiry::verdict);
        self.lost_at(id).is_some() && verdict.is_some_and(|info| info.verdict == Verdict::Link)
    }

    /// The peers that were lost after this time and are lost now.
    fn lost_since(&self, since: Instant) -> Vec<PeerId> {
        let is_lost = |id: &PeerId| self.lost_at(id).is_some_and(|at| at >= since);
        self.peers.ids().into_iter().filter(is_lost).collect()
    }

    /// Whether a peer has not come back: it is neither a member, nor has it left, nor is it forgotten.
    fn is_missing(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| match &peer.state {
            State::Rumoured { .. } | State::Provisional { .. } | State::Unstable { .. } | State::Dead(_) => {
                true
            }
            State::Up(_) | State::Left(_) => false,
        })
    }
}
