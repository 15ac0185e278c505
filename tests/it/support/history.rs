//! The outputs of a cluster's members in the order of arrival, and queries over them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use p2p_gossip::{DownReason, Event, PeerId};

use super::process::Output;

/// Events of each member shown when a wait fails.
const EVENTS_SHOWN: usize = 15;
/// Log lines of each member shown when a wait fails.
const LOG_SHOWN: usize = 15;

/// One process of a cluster. A restarted node is a new member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member(usize);

impl Member {
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// One member's state by its outputs.
#[derive(Debug, Default)]
struct MemberState {
    name: String,
    listening: Option<(PeerId, SocketAddr)>,
    /// Peers that are up by the member's events.
    view: BTreeSet<PeerId>,
    /// The peers that it has called unstable and has not shown up since. Their pings arrive.
    unstable: BTreeSet<PeerId>,
    log: Vec<String>,
    ended: bool,
    /// The test ends the member itself.
    end_expected: bool,
}

/// An event of a member, as printed and as parsed.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) member: Member,
    pub(crate) json: serde_json::Value,
    pub(crate) event: Event,
}

/// All outputs of a cluster's members so far.
#[derive(Debug, Default)]
pub(crate) struct History {
    members: Vec<MemberState>,
    records: Vec<Record>,
    /// The first unexpected output.
    failure: Option<String>,
}

impl History {
    /// Adds a member that has printed nothing yet.
    pub(crate) fn add_member(&mut self, name: &str) -> Member {
        self.members.push(MemberState { name: name.to_owned(), ..MemberState::default() });
        Member(self.members.len() - 1)
    }

    /// From now on the end of the member is expected.
    pub(crate) fn expect_end(&mut self, member: Member) {
        self.members[member.0].end_expected = true;
    }

    /// Adds an output of a member and checks that it fits the earlier ones.
    pub(crate) fn add(&mut self, member: Member, output: Output) {
        let entry = &mut self.members[member.0];
        let failure = match output {
            Output::Log(line) => {
                entry.log.push(line);
                None
            }
            Output::Ended => {
                entry.ended = true;
                (!entry.end_expected).then(|| format!("{} ended by itself", entry.name))
            }
            Output::Garbage { line, error } => {
                Some(format!("{} printed a line that is no event ({error}): {line}", entry.name))
            }
            Output::Event { json, event } => {
                let contradiction = entry.apply(&event);
                let failure = contradiction.map(|error| format!("{}: {error}: {event}", entry.name));
                self.records.push(Record { member, json, event });
                failure
            }
        };
        if self.failure.is_none() {
            self.failure = failure;
        }
    }

    /// The first output that fails the test: an unexpected end, an unreadable line, or an event that
    /// contradicts earlier ones.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.clone()
    }

    /// The number of events of all members.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// The member's id and address, once it listens.
    pub(crate) fn listening(&self, member: Member) -> Option<(PeerId, SocketAddr)> {
        self.members[member.0].listening
    }

    /// The peers that the member sees as up.
    pub(crate) fn view(&self, member: Member) -> &BTreeSet<PeerId> {
        &self.members[member.0].view
    }

    pub(crate) fn has_ended(&self, member: Member) -> bool {
        self.members[member.0].ended
    }

    /// The member's lines on stderr.
    pub(crate) fn log(&self, member: Member) -> &[String] {
        &self.members[member.0].log
    }

    pub(crate) fn log_mentions(&self, member: Member, text: &str) -> bool {
        self.members[member.0].log.iter().any(|line| line.contains(text))
    }

    /// The number of the member's log lines that contain the text.
    pub(crate) fn log_count(&self, member: Member, text: &str) -> usize {
        self.members[member.0].log.iter().filter(|line| line.contains(text)).count()
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn events_since(&self, member: Member, mark: usize) -> impl Iterator<Item = &Event> {
        self.records[mark..].iter().filter(move |r| r.member == member).map(|r| &r.event)
    }

    /// The member's events about peers that came, went or were lost since the mark. What others say of a lost peer, and
    /// that it is unstable, may follow its loss later.
    pub(crate) fn changes_since(&self, member: Member, mark: usize) -> Vec<&Event> {
        let change = |e: &&Event| {
            !matches!(
                e,
                Event::Listening { .. }
                    | Event::Ping { .. }
                    | Event::Verdict { .. }
                    | Event::Unstable { .. }
                    | Event::Path { .. }
            )
        };
        self.events_since(member, mark).filter(change).collect()
    }

    /// Peers that the member has lost since the mark, with the reason.
    pub(crate) fn downs_since(&self, member: Member, mark: usize) -> Vec<(PeerId, DownReason)> {
        let down = |e: &Event| match e {
            Event::Down { peer, reason, .. } => Some((*peer, *reason)),
            _ => None,
        };
        self.events_since(member, mark).filter_map(down).collect()
    }

    /// Peers that came up at the member since the mark.
    pub(crate) fn ups_since(&self, member: Member, mark: usize) -> Vec<PeerId> {
        let up = |e: &Event| match e {
            Event::Up { peer, .. } => Some(*peer),
            _ => None,
        };
        self.events_since(member, mark).filter_map(up).collect()
    }

    /// Peers whose leave the member has reported since the mark.
    pub(crate) fn lefts_since(&self, member: Member, mark: usize) -> Vec<PeerId> {
        let left = |e: &Event| match e {
            Event::Left { peer, .. } => Some(*peer),
            _ => None,
        };
        self.events_since(member, mark).filter_map(left).collect()
    }

    /// Sequence numbers of the pings since the mark by receiver and sender, in the order of printing.
    pub(crate) fn pings_since(&self, mark: usize) -> BTreeMap<(Member, PeerId), Vec<u64>> {
        let mut pings: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for record in &self.records[mark..] {
            if let Event::Ping { peer, seq, .. } = &record.event {
                pings.entry((record.member, *peer)).or_default().push(*seq);
            }
        }
        pings
    }
}

impl MemberState {
    /// Applies an event to the member's view; returns the contradiction, if there is one.
    fn apply(&mut self, event: &Event) -> Option<&'static str> {
        let (consistent, members) = match event {
            Event::Listening { id, addr, .. } => (self.listening.replace((*id, *addr)).is_none(), None),
            Event::Up { peer, members, .. } => {
                self.unstable.remove(peer);
                (self.view.insert(*peer), Some(*members))
            }
            Event::Unstable { peer, .. } => (self.unstable.insert(*peer), None),
            Event::Down { peer, members, .. } | Event::Left { peer, members, .. } => {
                (self.view.remove(peer), Some(*members))
            }
            Event::Ping { peer, .. } => (self.view.contains(peer) || self.unstable.contains(peer), None),
            _ => (true, None),
        };
        if !consistent {
            return Some("the event can't follow the earlier ones");
        }
        members.filter(|&n| n != self.view.len() + 1).map(|_| "the count of members is wrong")
    }
}

/// The latest events and log lines of each member, for the message of a failed test.
pub(crate) fn report(history: &History, members: &[Member]) -> String {
    let mut text = String::new();
    for &member in members {
        let entry = &history.members[member.0];
        let identity =
            entry.listening.map_or_else(String::new, |(id, addr)| format!(" {} {addr}", id.short()));
        let state = if entry.ended { ", ended" } else { "" };
        let _ = writeln!(text, "--- {}{identity}, sees {} up{state}", entry.name, entry.view.len());
        let events: Vec<_> = history.events_since(member, 0).collect();
        for event in &events[events.len().saturating_sub(EVENTS_SHOWN)..] {
            let _ = writeln!(text, "  {event}");
        }
        let last = entry.log.len().saturating_sub(LOG_SHOWN);
        let panicked = entry.log.iter().position(|line| line.contains("a thread panicked"));
        for line in entry.log.iter().skip(panicked.map_or(last, |at| at.min(last))).take(LOG_SHOWN) {
            let _ = writeln!(text, "  | {line}");
        }
    }
    text
}
