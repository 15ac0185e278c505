//! The incidents that this node knows of, and whose turn it is to run the alert program.
//!
//! Every member computes the same owner of an incident: the one of the members with an alert program whose hash with
//! the incident's id is the highest. If the owner does not report in time that it has run its program, the turn passes
//! to the member with the next hash.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::trust::peer_id::PeerId;
use crate::wire::{INCIDENT_PEERS_MAX, IncidentNews, Stage, Subject};

/// Time for one member to run its alert program and to report that. Then the turn passes to the next.
pub const TURN: Duration = Duration::from_secs(5);
/// Turns for one call of the alert program: a minute in all. Then this node gives up.
pub const TURNS_MAX: u32 = 12;
/// Incidents that a node remembers: with this many in one mesh, the oldest ones are no news.
pub(super) const INCIDENTS_MAX: usize = 256;
/// A loss this long after news of an incident is another incident. Within this time members notice the same loss.
const SAME_LOSS_MAX: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Incident {
    pub(super) id: u64,
    /// The number of earlier incidents of the same subject.
    pub(super) number: u32,
    pub(super) stage: Stage,
    pub(super) peers: Vec<PeerId>,
    /// The time at which this node first knew of it.
    pub(super) noted: Instant,
    /// Whether this node has seen it itself.
    pub(super) is_seen: bool,
    /// Whether this node has seen the end of it.
    pub(super) is_over: bool,
    /// The members that may run the program, if not all may: those of an isolated group.
    pub(super) group: Option<BTreeSet<PeerId>>,
    turn: Option<Turn>,
}

/// Whose turn it is to run the alert program.
#[derive(Debug)]
struct Turn {
    owner: PeerId,
    until: Instant,
    /// The members that had a turn in this round.
    tried: BTreeSet<PeerId>,
    count: u32,
}

/// The result of a change of turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnOf {
    /// It is the turn of this member.
    Member(PeerId),
    /// Every member had its turns. This node gives up.
    NoMember,
}

impl Incident {
    /// The phase for which the alert program must run, if it must run.
    pub(super) fn wants_run(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Over)
    }

    /// Gives the turn to the next of `runners`, which are the members with an alert program now.
    pub(super) fn next_turn(&mut self, now: Instant, runners: &[PeerId]) -> TurnOf {
        let (mut tried, count) = match self.turn.take() {
            Some(turn) => (turn.tried, turn.count),
            None => (BTreeSet::new(), 0),
        };
        if runners.is_empty() || count >= TURNS_MAX {
            return TurnOf::NoMember;
        }
        if runners.iter().all(|runner| tried.contains(runner)) {
            tried.clear();
        }
        let fresh = runners.iter().filter(|runner| !tried.contains(*runner));
        let Some(&owner) = fresh.max_by_key(|runner| rank(self.id, runner)) else {
            return TurnOf::NoMember;
        };
        tried.insert(owner);
        self.turn = Some(Turn { owner, until: now + TURN, tried, count: count + 1 });
        TurnOf::Member(owner)
    }

    pub(super) fn end_turn(&mut self) {
        self.turn = None;
    }

    /// The end of the current turn.
    pub(super) fn turn_until(&self) -> Option<Instant> {
        self.turn.as_ref().map(|turn| turn.until)
    }

    /// The member whose turn it is.
    pub(super) fn owner(&self) -> Option<PeerId> {
        self.turn.as_ref().map(|turn| turn.owner)
    }

    /// Postpones the end of the turn.
    pub(super) fn wait(&mut self, until: Instant) {
        if let Some(turn) = &mut self.turn {
            turn.until = until;
        }
    }

    pub(super) fn news(&self, subject: Subject) -> IncidentNews {
        let peers = self.peers.iter().take(INCIDENT_PEERS_MAX).copied().collect();
        IncidentNews { subject, number: self.number, incident: self.id, stage: self.stage, peers }
    }
}

/// All incidents that this node knows of, by subject: of each subject the last one.
#[derive(Debug, Default)]
pub(super) struct Incidents(BTreeMap<Subject, Incident>);

impl Incidents {
    pub(super) fn get(&self, subject: &Subject) -> Option<&Incident> {
        self.0.get(subject)
    }

    pub(super) fn get_mut(&mut self, subject: &Subject) -> Option<&mut Incident> {
        self.0.get_mut(subject)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Subject, &Incident)> {
        self.0.iter()
    }

    /// The subjects whose incidents have this property.
    pub(super) fn subjects(&self, has: impl Fn(&Subject, &Incident) -> bool) -> Vec<Subject> {
        self.0
            .iter()
            .filter(|(subject, incident)| has(subject, incident))
            .map(|(subject, _)| *subject)
            .collect()
    }

    /// The subject of the incident with this id.
    pub(super) fn find(&self, id: u64) -> Option<Subject> {
        self.0.iter().find(|(_, incident)| incident.id == id).map(|(subject, _)| *subject)
    }

    /// The next end of a turn.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(Incident::turn_until).min()
    }

    /// This node sees an incident, because of a loss at `lost_at`. `instances` are the process numbers of the subject's
    /// nodes. Returns false if it is one that this node has seen already.
    pub(super) fn open(
        &mut self,
        now: Instant,
        subject: Subject,
        instances: [u64; 2],
        peers: Vec<PeerId>,
        lost_at: Instant,
    ) -> bool {
        let number = match self.0.get_mut(&subject) {
            Some(known) if known.is_same(lost_at) => {
                let was_seen = std::mem::replace(&mut known.is_seen, true);
                return !was_seen;
            }
            Some(known) => known.number.wrapping_add(1),
            None => 0,
        };
        let id = incident_id(&subject, instances, number);
        self.insert(now, subject, IncidentNews { subject, number, incident: id, stage: Stage::Open, peers });
        if let Some(incident) = self.0.get_mut(&subject) {
            incident.is_seen = true;
        }
        true
    }

    /// Whether a loss of this peer belongs to an incident that another member has told of. This node has seen it then.
    pub(super) fn covers(&mut self, peer: &PeerId, lost_at: Instant) -> bool {
        let known = self.0.iter_mut().filter(|(subject, _)| matches!(subject, Subject::Peer(_)));
        let mut known = known.map(|(_, incident)| incident);
        let found = known.find(|incident| incident.is_same(lost_at) && incident.peers.contains(peer));
        found.map(|incident| incident.is_seen = true).is_some()
    }

    /// Takes over what another member knows. Returns whether the incident has advanced.
    pub(super) fn learn(&mut self, now: Instant, news: IncidentNews) -> bool {
        let subject = news.subject;
        match self.0.get_mut(&subject) {
            Some(known) if news.number < known.number => false,
            Some(known) if news.number == known.number => {
                let advances = news.stage > known.stage;
                if advances {
                    known.stage = news.stage;
                    known.turn = None;
                }
                advances
            }
            Some(known) => {
                // Another incident: the members count it differently if this node was away.
                let is_seen = known.is_seen && !known.is_over;
                let group = known.group.take();
                self.insert(now, subject, news);
                if let Some(incident) = self.0.get_mut(&subject) {
                    (incident.is_seen, incident.group) = (is_seen, group);
                }
                true
            }
            None => {
                self.insert(now, subject, news);
                true
            }
        }
    }

    fn insert(&mut self, now: Instant, subject: Subject, news: IncidentNews) {
        if self.0.len() >= INCIDENTS_MAX && !self.0.contains_key(&subject) {
            let oldest = self.0.iter().min_by_key(|(_, known)| (known.stage != Stage::Done, known.noted));
            if let Some(oldest) = oldest.map(|(subject, _)| *subject) {
                self.0.remove(&oldest);
            }
        }
        let IncidentNews { number, incident: id, stage, peers, .. } = news;
        let incident = Incident {
            id,
            number,
            stage,
            peers,
            noted: now,
            is_seen: false,
            is_over: false,
            group: None,
            turn: None,
        };
        self.0.insert(subject, incident);
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.0.len() <= INCIDENTS_MAX, "{} incidents", self.0.len());
    }
}

impl Incident {
    /// Whether a loss at `lost_at` belongs to this incident. This node may hear of the incident before it notices the
    /// loss itself.
    fn is_same(&self, lost_at: Instant) -> bool {
        !self.is_over && (self.is_seen || lost_at <= self.noted + SAME_LOSS_MAX)
    }
}

/// The id of an incident. A process number makes it differ between two processes with one key, and the count between
/// two incidents of one process. The members know both.
fn incident_id(subject: &Subject, instances: [u64; 2], number: u32) -> u64 {
    let (tag, ids): (u8, &[&PeerId]) = match subject {
        Subject::Peer(peer) => (0, &[peer]),
        Subject::Link(first, second) => (1, &[first, second]),
        Subject::Isolated(first) => (2, &[first]),
    };
    let mut hash = Sha256::new_with_prefix(b"p2p-gossip incident");
    hash.update([tag]);
    ids.iter().for_each(|id| hash.update(id.as_bytes()));
    instances.into_iter().for_each(|instance| hash.update(instance.to_be_bytes()));
    hash.update(number.to_be_bytes());
    first_bytes(hash)
}

/// The place of a member among those that may run the program for an incident: the highest comes first.
pub(super) fn rank(incident: u64, member: &PeerId) -> u64 {
    first_bytes(Sha256::new_with_prefix(incident.to_be_bytes()).chain_update(member.as_bytes()))
}

fn first_bytes(hash: Sha256) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    const SUBJECT: Subject = Subject::Peer(PeerId::from_bytes([7; 32]));

    fn opened(now: Instant) -> Incidents {
        let mut incidents = Incidents::default();
        assert!(incidents.open(now, SUBJECT, [1, 0], vec![peer(7)], now));
        incidents
    }

    #[test]
    fn members_that_know_the_same_derive_the_same_id_and_each_incident_has_its_own() {
        let now = crate::test_now();
        let (mut first, second) = (opened(now), opened(now));
        let id = |incidents: &Incidents| incidents.get(&SUBJECT).unwrap().id;
        assert_eq!(id(&first), id(&second));
        let before = id(&first);
        first.get_mut(&SUBJECT).unwrap().is_over = true;
        assert!(first.open(now, SUBJECT, [1, 0], vec![peer(7)], now));
        assert_ne!(id(&first), before);
        let mut restarted = Incidents::default();
        restarted.open(now, SUBJECT, [2, 0], vec![peer(7)], now);
        assert_ne!(id(&restarted), before);
    }

    #[test]
    fn every_member_gets_its_turn_and_then_this_node_gives_up() {
        let now = crate::test_now();
        let mut incidents = opened(now);
        let incident = incidents.get_mut(&SUBJECT).unwrap();
        let mut runners: Vec<PeerId> = (1..=3).map(peer).collect();
        runners.sort_by_key(|runner| std::cmp::Reverse(rank(incident.id, runner)));
        for count in 0..TURNS_MAX as usize {
            assert_eq!(incident.next_turn(now, &runners), TurnOf::Member(runners[count % 3]));
        }
        assert_eq!(incident.next_turn(now, &runners), TurnOf::NoMember);
        assert_eq!(incident.turn_until(), None);
    }

    #[test]
    fn news_ends_the_turn_and_old_news_changes_nothing() {
        let now = crate::test_now();
        let mut incidents = opened(now);
        let open = incidents.get(&SUBJECT).unwrap().news(SUBJECT);
        incidents.get_mut(&SUBJECT).unwrap().next_turn(now, &[peer(1)]);
        let begun = IncidentNews { stage: Stage::Begun, ..open.clone() };
        assert!(incidents.learn(now, begun.clone()) && !incidents.learn(now, begun));
        assert!(!incidents.learn(now, open.clone()));
        assert_eq!(incidents.get(&SUBJECT).unwrap().turn_until(), None);
        let later = IncidentNews { number: 5, incident: 9, ..open };
        assert!(incidents.learn(now, later));
        assert_eq!(incidents.find(9), Some(SUBJECT));
    }

    #[test]
    fn loss_soon_after_the_news_is_the_same_incident_and_a_later_one_is_not() {
        let now = crate::test_now();
        let news = opened(now).get(&SUBJECT).unwrap().news(SUBJECT);
        for (lost_at, number) in
            [(now + SAME_LOSS_MAX, 0), (now + SAME_LOSS_MAX + Duration::from_millis(1), 1)]
        {
            let mut incidents = Incidents::default();
            incidents.learn(now, IncidentNews { stage: Stage::Begun, ..news.clone() });
            assert!(incidents.open(lost_at, SUBJECT, [1, 0], vec![peer(7)], lost_at));
            assert_eq!(incidents.get(&SUBJECT).unwrap().number, number);
        }
    }

    /// The members lost two peers together; this node loses the second within the time and the first much later.
    #[test]
    fn incident_that_covers_one_loss_covers_the_later_ones_too() {
        let now = crate::test_now();
        let news = opened(now).get(&SUBJECT).unwrap().news(SUBJECT);
        for covers_first in [true, false] {
            let mut incidents = Incidents::default();
            let peers = vec![peer(7), peer(8)];
            incidents.learn(now, IncidentNews { stage: Stage::Begun, peers, ..news.clone() });
            if covers_first {
                assert!(incidents.covers(&peer(8), now + SAME_LOSS_MAX));
            }
            let late = now + 10 * SAME_LOSS_MAX;
            assert_eq!(incidents.covers(&peer(7), late), covers_first);
            assert!(!incidents.covers(&peer(9), now), "the news does not name 9");
        }
    }

    #[test]
    fn table_is_bounded_and_finished_incidents_leave_first() {
        let now = crate::test_now();
        let mut incidents = opened(now);
        for n in 0..2 * INCIDENTS_MAX {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            let subject = Subject::Peer(PeerId::from_bytes(id));
            let news =
                IncidentNews { subject, number: 0, incident: 0, stage: Stage::Done, peers: Vec::new() };
            incidents.learn(now + Duration::from_millis(n as u64), news);
        }
        assert_eq!(incidents.0.len(), INCIDENTS_MAX);
        assert!(incidents.get(&SUBJECT).is_some());
    }
}
