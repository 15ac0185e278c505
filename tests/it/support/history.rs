//! What the members of a cluster said, in the order in which it was heard, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use p2p_gossip::{DownReason, Event, PeerId};

use super::process::Output;

/// Events of each member shown when a wait fails.
const EVENTS_SHOWN: usize = 15;
/// Log lines of each member shown when a wait fails.
const LOG_SHOWN: usize = 15;

/// One process of a cluster. A node that was started again is another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member(usize);

impl Member {
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

#[derive(Debug, Default)]
struct Account {
    name: String,
    listening: Option<(PeerId, SocketAddr)>,
    /// Peers that are up by its account.
    view: BTreeSet<PeerId>,
    log: Vec<String>,
    ended: bool,
    /// Its end is part of the story.
    dismissed: bool,
}

/// An event of a member.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) member: Member,
    pub(crate) json: serde_json::Value,
    pub(crate) event: Event,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    accounts: Vec<Account>,
    records: Vec<Record>,
    trouble: Option<String>,
}

impl History {
    pub(crate) fn enrol(&mut self, name: &str) -> Member {
        self.accounts.push(Account { name: name.to_owned(), ..Account::default() });
        Member(self.accounts.len() - 1)
    }

    pub(crate) fn dismiss(&mut self, member: Member) {
        self.accounts[member.0].dismissed = true;
    }

    pub(crate) fn add(&mut self, member: Member, output: Output) {
        let account = &mut self.accounts[member.0];
        let trouble = match output {
            Output::Log(line) => {
                account.log.push(line);
                None
            }
            Output::Ended => {
                account.ended = true;
                (!account.dismissed).then(|| format!("{} ended by itself", account.name))
            }
            Output::Garbage { line, error } => {
                Some(format!("{} printed something that is no event ({error}): {line}", account.name))
            }
            Output::Event { json, event } => {
                let contradiction = account.apply(&event);
                let trouble = contradiction.map(|what| format!("{}: {what}: {event}", account.name));
                self.records.push(Record { member, json, event });
                trouble
            }
        };
        if self.trouble.is_none() {
            self.trouble = trouble;
        }
    }

    /// What makes the rest of a story pointless: a member that ended, or that contradicts itself.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) fn listening(&self, member: Member) -> Option<(PeerId, SocketAddr)> {
        self.accounts[member.0].listening
    }

    pub(crate) fn view(&self, member: Member) -> &BTreeSet<PeerId> {
        &self.accounts[member.0].view
    }

    pub(crate) fn has_ended(&self, member: Member) -> bool {
        self.accounts[member.0].ended
    }

    /// What the member said on stderr.
    pub(crate) fn log(&self, member: Member) -> &[String] {
        &self.accounts[member.0].log
    }

    pub(crate) fn log_mentions(&self, member: Member, text: &str) -> bool {
        self.accounts[member.0].log.iter().any(|line| line.contains(text))
    }

    /// Lines of the member's log that mention it.
    pub(crate) fn log_count(&self, member: Member, text: &str) -> usize {
        self.accounts[member.0].log.iter().filter(|line| line.contains(text)).count()
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn events_since(&self, member: Member, mark: usize) -> impl Iterator<Item = &Event> {
        self.records[mark..].iter().filter(move |r| r.member == member).map(|r| &r.event)
    }

    /// Peers that came or went.
    pub(crate) fn changes_since(&self, member: Member, mark: usize) -> Vec<&Event> {
        let change = |e: &&Event| !matches!(e, Event::Listening { .. } | Event::Ping { .. });
        self.events_since(member, mark).filter(change).collect()
    }

    /// Peers lost, and why.
    pub(crate) fn downs_since(&self, member: Member, mark: usize) -> Vec<(PeerId, DownReason)> {
        let down = |e: &Event| match e {
            Event::Down { peer, reason, .. } => Some((*peer, *reason)),
            _ => None,
        };
        self.events_since(member, mark).filter_map(down).collect()
    }

    /// Peers that came up.
    pub(crate) fn ups_since(&self, member: Member, mark: usize) -> Vec<PeerId> {
        let up = |e: &Event| match e {
            Event::Up { peer, .. } => Some(*peer),
            _ => None,
        };
        self.events_since(member, mark).filter_map(up).collect()
    }

    /// Peers that said goodbye.
    pub(crate) fn lefts_since(&self, member: Member, mark: usize) -> Vec<PeerId> {
        let left = |e: &Event| match e {
            Event::Left { peer, .. } => Some(*peer),
            _ => None,
        };
        self.events_since(member, mark).filter_map(left).collect()
    }

    /// Sequence numbers of pings by receiver and sender, in the order in which they were shown.
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

impl Account {
    /// Follows the member's own account of who is up; says what contradicts it.
    fn apply(&mut self, event: &Event) -> Option<&'static str> {
        let (consistent, members) = match event {
            Event::Listening { id, addr } => (self.listening.replace((*id, *addr)).is_none(), None),
            Event::Up { peer, members, .. } => (self.view.insert(*peer), Some(*members)),
            Event::Down { peer, members, .. } | Event::Left { peer, members, .. } => {
                (self.view.remove(peer), Some(*members))
            }
            Event::Ping { peer, .. } => (self.view.contains(peer), None),
            _ => (true, None),
        };
        if !consistent {
            return Some("an event that can't follow the earlier ones");
        }
        members.filter(|&n| n != self.view.len() + 1).map(|_| "members are miscounted")
    }
}

/// The last that each member said, on stdout and stderr.
pub(crate) fn report(history: &History, members: &[Member]) -> String {
    let mut text = String::new();
    for &member in members {
        let account = &history.accounts[member.0];
        let who = account.listening.map_or_else(String::new, |(id, addr)| format!(" {} {addr}", id.short()));
        let state = if account.ended { ", ended" } else { "" };
        let _ = writeln!(text, "--- {}{who}, sees {} up{state}", account.name, account.view.len());
        let events: Vec<_> = history.events_since(member, 0).collect();
        for event in &events[events.len().saturating_sub(EVENTS_SHOWN)..] {
            let _ = writeln!(text, "  {event}");
        }
        for line in &account.log[account.log.len().saturating_sub(LOG_SHOWN)..] {
            let _ = writeln!(text, "  | {line}");
        }
    }
    text
}
