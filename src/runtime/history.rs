//! What has happened with each peer, and at each address that the user named, as a timeline of limited length: for a
//! user who asks why a peer is lost.
//!
//! It only listens to what the mesh gets and says, and no rule depends on it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::limits::ACQUAINTED_AFTER;
use crate::mesh::snapshot::PeerInfo;
use crate::mesh::{DisconnectReason, Input, Mesh, PeerAddress, Report, SessionId, SessionUp, Standing};
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;

/// Entries kept for one peer or address: some hours of an outage, since equal entries count as one.
const ENTRIES_MAX: usize = 32;
/// Peers and addresses with a timeline. For one more, a stranger loses its own.
const SUBJECTS_MAX: usize = 1024;
/// Bytes kept of an error's text.
const DETAIL_BYTES_MAX: usize = 240;

/// What a node knows of a peer, and what has happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PeerHistory {
    /// Its state now; `None` if the node has forgotten it.
    pub peer: Option<PeerInfo>,
    /// How much the node grants it.
    pub standing: Option<Standing>,
    /// Its addresses and where each comes from, best first.
    pub addresses: Vec<PeerAddress>,
    /// What has happened, the oldest first. Only the last entries are kept.
    pub entries: Vec<HistoryEntry>,
}

/// Something that has happened with a peer, or at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// The time since it happened; of equal entries in a row, since the first.
    pub first: Duration,
    /// The time since it happened last.
    pub last: Duration,
    /// How often it happened in a row.
    pub count: u64,
    /// What has happened.
    pub kind: HistoryKind,
    /// The address, if there is one.
    pub addr: Option<DialAddr>,
    /// More words on it, possibly those of a peer; show them as [`Escaped`](crate::Escaped).
    pub detail: String,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HistoryKind {
    /// The user asked for this address while the node ran.
    Connect,
    /// A dial failed.
    DialFailed,
    /// A session was authenticated.
    SessionUp,
    /// A session ended.
    SessionDown,
    /// The peer became a member.
    Up,
    /// The peer was lost.
    Down,
    /// The other members said what they know of the lost peer.
    Verdict,
    /// The peer keeps going up and down.
    Unstable,
    /// The peer said goodbye.
    Left,
    /// This node refused the peer, or what answered in its place.
    Refused,
    /// The peer refused this node.
    RefusedByPeer,
    /// Another key than the expected one answers.
    WrongId,
    /// Two processes use one key, or this node itself answers.
    KeyInUse,
}

impl HistoryKind {
    /// What has happened as one or two words.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::DialFailed => "dial failed",
            Self::SessionUp => "session",
            Self::SessionDown => "session end",
            Self::Up => "up",
            Self::Down => "down",
            Self::Verdict => "verdict",
            Self::Unstable => "unstable",
            Self::Left => "left",
            Self::Refused => "refused",
            Self::RefusedByPeer => "refused us",
            Self::WrongId => "wrong id",
            Self::KeyInUse => "key in use",
        }
    }
}

/// Whose timeline it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Peer(PeerId),
    /// An address of the user, at which no peer is known.
    Address(DialAddr),
}

/// The timelines.
#[derive(Debug, Default)]
pub(crate) struct History {
    timelines: BTreeMap<Subject, Timeline>,
}

#[derive(Debug, Default)]
struct Timeline {
    entries: VecDeque<Entry>,
    /// When the peer became a member, while it is one.
    up_since: Option<Instant>,
    /// Whether it was a member for [`ACQUAINTED_AFTER`], or the user named the address. New keys are free, so a stranger
    /// gives way first.
    is_acquainted: bool,
}

#[derive(Debug)]
struct Entry {
    first: Instant,
    last: Instant,
    count: u64,
    kind: HistoryKind,
    addr: Option<DialAddr>,
    detail: String,
}

impl History {
    /// The user named this address while the node runs.
    pub(crate) fn connect(&mut self, now: Instant, addr: &DialAddr) {
        self.note(now, Subject::Address(addr.clone()), HistoryKind::Connect, Some(addr), String::new());
    }

    /// The user wants the peer forgotten.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.timelines.remove(&Subject::Peer(*peer));
    }

    pub(crate) fn note_event(&mut self, now: Instant, event: &Event) {
        let (peer, kind, addr, detail) = match event {
            Event::Up { peer, addr, .. } => (peer, HistoryKind::Up, addr, String::new()),
            Event::Down { peer, addr, reason, .. } => (peer, HistoryKind::Down, addr, reason.to_string()),
            Event::Left { peer, addr, .. } => (peer, HistoryKind::Left, addr, String::new()),
            Event::Verdict { peer, addr, verdict, asked, seen_by, .. } => {
                let detail = verdict.explain(*asked, *seen_by);
                return self.note(now, Subject::Peer(*peer), HistoryKind::Verdict, Some(addr), detail);
            }
            Event::Unstable { peer, addr, losses, .. } => {
                let detail = format!("lost {losses} times");
                return self.note(now, Subject::Peer(*peer), HistoryKind::Unstable, Some(addr), detail);
            }
            _ => return,
        };
        self.note(now, Subject::Peer(*peer), kind, Some(addr), detail);
        let Some(timeline) = self.timelines.get_mut(&Subject::Peer(*peer)) else { return };
        if kind == HistoryKind::Up {
            timeline.up_since = Some(now);
        } else if let Some(since) = timeline.up_since.take() {
            timeline.is_acquainted |= now.saturating_duration_since(since) >= ACQUAINTED_AFTER;
        }
    }

    pub(crate) fn note_report(&mut self, now: Instant, report: &Report) {
        use HistoryKind::{DialFailed, KeyInUse, Refused, RefusedByPeer, WrongId};
        match report {
            Report::BootstrapUnreachable { addr, detail } => {
                self.at_address(now, addr, DialFailed, detail.clone());
            }
            Report::DialFailed { peer: None, addr, detail, .. } => {
                self.at_address(now, addr, DialFailed, detail.clone());
            }
            Report::DialFailed { peer: Some(peer), addr, detail, .. } => {
                self.of(now, *peer, DialFailed, Some(addr), detail.clone());
            }
            Report::BootstrapIsSelf { addr } => {
                self.at_address(now, addr, KeyInUse, "this node itself answers there".to_owned());
            }
            Report::WrongPin { addr, pin, found } => {
                let detail = format!("{} answers instead of {pin}", found.short());
                self.at_address(now, addr, WrongId, detail);
            }
            Report::WrongId { addr, expected, found, .. } => {
                let detail = format!("{} answers there", found.short());
                self.of(now, *expected, WrongId, Some(addr), detail);
            }
            Report::NotAdmitted { peer, addr, why } => {
                self.of(now, *peer, Refused, Some(addr), why.to_string());
            }
            Report::TableFull { peer } => {
                self.of(now, *peer, Refused, None, "this node's table of peers is full".to_owned());
            }
            Report::Displaced { peer } => {
                let detail = "it gave way to a peer that was known before".to_owned();
                self.of(now, *peer, Refused, None, detail);
            }
            Report::RefusedByPeer { peer, reason } => {
                self.of(now, *peer, RefusedByPeer, None, reason.describe().into_owned());
            }
            Report::RefusedAsFull { peer, addr, .. } => {
                let detail = "its table of peers is full".to_owned();
                self.of(now, *peer, RefusedByPeer, Some(&(*addr).into()), detail);
            }
            Report::PeerKeyInUse { peer, addr } => {
                let detail = "two processes use its key; the newer one stays".to_owned();
                self.of(now, *peer, KeyInUse, Some(&(*addr).into()), detail);
            }
            Report::OurKeyInUse { .. }
            | Report::OurKeyClaimed { .. }
            | Report::Restored { .. }
            | Report::ListNews { .. }
            | Report::NetworkKeyChanged { .. }
            | Report::NetworkKeyOutdated { .. }
            | Report::AlertFailed { .. }
            | Report::Stalled { .. } => {}
        }
    }

    /// Notes the beginnings and ends of sessions. Called before the mesh gets the input.
    pub(crate) fn note_input(&mut self, now: Instant, input: &Input, mesh: &Mesh) {
        match input {
            Input::SessionUp(SessionUp { session, peer, remote, .. }) => {
                let detail = if session.is_dialled() { "we dialled it" } else { "it dialled us" };
                self.of(now, *peer, HistoryKind::SessionUp, Some(&(*remote).into()), detail.to_owned());
            }
            Input::SessionDown { session, reason } => self.session_down(now, *session, *reason, mesh),
            _ => {}
        }
    }

    fn session_down(&mut self, now: Instant, session: SessionId, reason: DisconnectReason, mesh: &Mesh) {
        let Some((peer, is_closing)) = mesh.peer_of(session) else { return };
        let detail = match reason {
            DisconnectReason::Closed if is_closing => "this node said goodbye on it".to_owned(),
            DisconnectReason::Closed => "the connection closed or broke".to_owned(),
            DisconnectReason::Bye(reason) => format!("its goodbye: {}", reason.describe()),
            DisconnectReason::Protocol => "it broke the protocol".to_owned(),
            DisconnectReason::Slow => "it did not read what was sent to it".to_owned(),
        };
        self.of(now, peer, HistoryKind::SessionDown, None, detail);
    }

    /// What is known of a peer; `None` for nothing.
    pub(crate) fn of_peer(&self, now: Instant, mesh: &Mesh, peer: PeerId) -> Option<PeerHistory> {
        let timeline = self.timelines.get(&Subject::Peer(peer));
        let info = mesh.peer(now, &peer);
        (timeline.is_some() || info.is_some()).then(|| PeerHistory {
            peer: info,
            standing: mesh.standing_of(now, &peer),
            addresses: mesh.addresses(&peer),
            entries: timeline.map_or_else(Vec::new, |timeline| timeline.shown(now)),
        })
    }

    /// What has happened at an address of the user.
    pub(crate) fn of_address(&self, now: Instant, addr: &DialAddr) -> Vec<HistoryEntry> {
        let timeline = self.timelines.get(&Subject::Address(addr.clone()));
        timeline.map_or_else(Vec::new, |timeline| timeline.shown(now))
    }

    fn at_address(&mut self, now: Instant, addr: &DialAddr, kind: HistoryKind, detail: String) {
        self.note(now, Subject::Address(addr.clone()), kind, Some(addr), detail);
    }

    fn of(&mut self, now: Instant, peer: PeerId, kind: HistoryKind, addr: Option<&DialAddr>, detail: String) {
        self.note(now, Subject::Peer(peer), kind, addr, detail);
    }

    fn note(
        &mut self,
        now: Instant,
        subject: Subject,
        kind: HistoryKind,
        addr: Option<&DialAddr>,
        mut detail: String,
    ) {
        detail.truncate(detail.floor_char_boundary_of(DETAIL_BYTES_MAX));
        if !self.timelines.contains_key(&subject) && self.timelines.len() >= SUBJECTS_MAX {
            self.evict();
        }
        let is_address = matches!(subject, Subject::Address(_));
        let timeline = self.timelines.entry(subject).or_default();
        timeline.is_acquainted |= is_address;
        timeline.add(now, kind, addr, detail);
    }

    /// Drops the timeline in which nothing has happened for the longest time, of a stranger if there is one.
    fn evict(&mut self) {
        let rank = |timeline: &Timeline| {
            let is_known = timeline.is_acquainted || timeline.up_since.is_some();
            (is_known, timeline.entries.back().map(|entry| entry.last))
        };
        let victim = self.timelines.iter().min_by_key(|(_, timeline)| rank(timeline));
        if let Some(victim) = victim.map(|(subject, _)| subject.clone()) {
            self.timelines.remove(&victim);
        }
    }
}

/// `str::floor_char_boundary`, which the oldest supported compiler lacks.
trait FloorCharBoundary {
    fn floor_char_boundary_of(&self, at: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_of(&self, at: usize) -> usize {
        (0..=at.min(self.len())).rev().find(|&at| self.is_char_boundary(at)).unwrap_or(0)
    }
}

impl Timeline {
    fn add(&mut self, now: Instant, kind: HistoryKind, addr: Option<&DialAddr>, detail: String) {
        if let Some(last) = self.entries.back_mut()
            && last.kind == kind
            && last.addr.as_ref() == addr
            && last.detail == detail
        {
            last.last = now;
            last.count += 1;
            return;
        }
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { first: now, last: now, count: 1, kind, addr: addr.cloned(), detail });
    }

    fn shown(&self, now: Instant) -> Vec<HistoryEntry> {
        let shown = |entry: &Entry| HistoryEntry {
            first: now.saturating_duration_since(entry.first),
            last: now.saturating_duration_since(entry.last),
            count: entry.count,
            kind: entry.kind,
            addr: entry.addr.clone(),
            detail: entry.detail.clone(),
        };
        self.entries.iter().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::event::{DownReason, Verdict};
    use crate::internals::sample;
    use crate::wire::Hello;

    fn peer(n: usize) -> PeerId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_be_bytes());
        PeerId::from_bytes(id)
    }

    fn addr() -> DialAddr {
        "192.0.2.7:8080".parse().unwrap()
    }

    fn failed(peer: PeerId, detail: &str) -> Report {
        Report::DialFailed { peer: Some(peer), addr: addr(), detail: detail.to_owned(), retry_in: None }
    }

    fn entries(history: &History, now: Instant, peer: PeerId) -> Vec<HistoryEntry> {
        history.timelines.get(&Subject::Peer(peer)).map_or_else(Vec::new, |timeline| timeline.shown(now))
    }

    #[test]
    fn equal_entries_in_a_row_count_as_one() {
        let (mut history, start) = (History::default(), crate::test_now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in [0, 2, 5] {
            history.note_report(at(seconds), &failed(peer(1), "refused"));
        }
        history.note_event(at(6), &sample::up(peer(1), "", addr(), 2));
        let shown = entries(&history, at(10), peer(1));
        assert_eq!(
            shown.iter().map(|entry| (entry.kind, entry.count)).collect::<Vec<_>>(),
            [(HistoryKind::DialFailed, 3), (HistoryKind::Up, 1)]
        );
        let seconds = |time: Duration| time.as_secs();
        assert_eq!((seconds(shown[0].first), seconds(shown[0].last)), (10, 5));
    }

    #[test]
    fn verdict_is_explained_as_on_the_terminal() {
        let (mut history, now) = (History::default(), crate::test_now());
        for verdict in [Verdict::Node, Verdict::Unknown] {
            history.note_event(now, &sample::verdict(peer(1), "", addr(), verdict));
        }
        let details = entries(&history, now, peer(1)).into_iter().map(|entry| entry.detail);
        assert_eq!(
            details.collect::<Vec<_>>(),
            ["node: 0 of 7 asked hear it", "unknown: too few answers from 7 asked"]
        );
        assert_eq!(Verdict::Node.explain(0, 0), "node: its machine answers that it is gone");
        assert_eq!(Verdict::Unknown.explain(0, 0), "unknown: no member to ask");
    }

    #[test]
    fn session_that_this_node_has_ended_is_no_broken_connection() {
        let (mut history, now) = (History::default(), crate::test_now());
        let mut mesh = Mesh::new(Config::default(), peer(0), 1, 1, now);
        let sessions = [1, 2].map(SessionId::accepted);
        for session in sessions {
            let up = SessionUp {
                session,
                peer: peer(1),
                hello: Hello::plain(),
                remote: "192.0.2.7:40000".parse().unwrap(),
                local: None,
                network_key: None,
                told_interval_ms: 1000,
            };
            mesh.handle(now, Input::SessionUp(up));
        }
        // The smaller id keeps one of two sessions.
        for session in sessions {
            let end = Input::SessionDown { session, reason: DisconnectReason::Closed };
            history.note_input(now, &end, &mesh);
            mesh.handle(now, end);
        }
        let details = entries(&history, now, peer(1)).into_iter().map(|entry| entry.detail);
        assert_eq!(
            details.collect::<Vec<_>>(),
            ["this node said goodbye on it", "the connection closed or broke"]
        );
    }

    #[test]
    fn timeline_keeps_its_last_entries_and_short_texts() {
        let (mut history, now) = (History::default(), crate::test_now());
        for n in 0..ENTRIES_MAX + 3 {
            history.note_report(now, &failed(peer(1), &format!("{n} {}", "ü".repeat(400))));
        }
        let shown = entries(&history, now, peer(1));
        assert_eq!(shown.len(), ENTRIES_MAX);
        assert!(shown[0].detail.starts_with("3 "));
        assert!(shown.iter().all(|entry| entry.detail.len() <= DETAIL_BYTES_MAX));
    }

    #[test]
    fn strangers_displace_each_other_and_no_known_peer() {
        let (mut history, start) = (History::default(), crate::test_now());
        let later = start + ACQUAINTED_AFTER;
        history.note_event(start, &sample::up(peer(0), "", addr(), 2));
        history.note_event(later, &sample::down(peer(0), "", addr(), DownReason::Timeout, 1));
        history.connect(start, &addr());
        for n in 1..SUBJECTS_MAX * 2 {
            history.note_report(later + Duration::from_secs(n as u64), &failed(peer(n), "refused"));
        }
        assert_eq!(history.timelines.len(), SUBJECTS_MAX);
        assert_eq!(entries(&history, later, peer(0)).len(), 2);
        assert_eq!(history.of_address(later, &addr()).len(), 1);
        assert!(entries(&history, later, peer(1)).is_empty());
    }
}
