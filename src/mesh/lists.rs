//! Exchange of peer lists, and the roster check that keeps a full mesh full whatever was missed.
//!
//! Who asks whom, and when, decides how often dials cross, and each crossing costs a handshake:
//! - who joins asks the peers it joins through, and dials everybody listed. It is told only of those
//!   who came before it, whoever has come meanwhile, so of two joiners exactly one learns of the other;
//! - who meets a lost peer again asks at once, both sides: that heals a split;
//! - everybody else compares rosters once membership has settled, and asks only on a difference.
//!   Of two nodes that learn of each other like that, the smaller id dials and the other waits.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::dialing::Target;
use super::peer::{Peer, State};
use super::timers::Timer;
use super::{Mesh, Output, Report, SessionId, millis, reach};
use crate::addr::DialAddr;
use crate::config::PEERS_LIMIT;
use crate::identity::PeerId;
use crate::token_bucket::TokenBucket;
use crate::wire::{Message, PeerRecord, RECORDS_MAX};

/// Membership unchanged for this long is settled: rosters are compared.
const SETTLE: Duration = Duration::from_millis(250);
/// So many are told the roster as soon as it has settled: in a large mesh enough to find that somebody knows
/// others, while on a starved machine that is busy forming it, where it seems to settle again and again, all
/// would be more messages than all others together.
const TOLD_AT_ONCE_MAX: usize = 8;
/// Membership that never stops changing is taken as it is after this long.
const SETTLE_MAX: Duration = Duration::from_secs(15);
/// A difference of rosters that lasts this long is real: both sides had time to settle.
const ROSTER_PATIENCE: Duration = Duration::from_millis(500);
/// Shortest and longest wait before the same peer is asked again without having brought news.
const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(60);
/// A request unanswered for this long may be repeated.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Lists asked for because of rosters, at once and a second in the long run: while hundreds come and go all
/// rosters differ, and each list is as long as the mesh is large.
const ROSTER_QUESTIONS_BURST: u32 = 8;
const ROSTER_QUESTIONS_PER_SECOND: u32 = 4;
/// One peer's requests are answered no more often than this.
const ANSWER_INTERVAL: Duration = Duration::from_millis(200);
/// Frames accepted as one answer: the longest list that a node may have.
const ANSWER_FRAMES_MAX: usize = PEERS_LIMIT.div_ceil(RECORDS_MAX);
/// A peer lost for longer is not passed on any more.
const RECENT: Duration = Duration::from_secs(10 * 60);
/// Who asks for the first time, so soon after it came, is joining.
const JOINING: Duration = Duration::from_secs(2);
/// News of a peer's goodbye travels that fast; who still lists it later has seen it return.
pub(super) const LEFT_QUIET: Duration = Duration::from_secs(10);

/// Why a list was asked for, which decides how its news is acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// We are new here.
    Join,
    /// We were apart.
    Reconnect,
    /// The other side knows other members than we do.
    Roster,
}

pub(super) fn roster_questions(now: Instant) -> TokenBucket {
    TokenBucket::new(ROSTER_QUESTIONS_BURST, ROSTER_QUESTIONS_PER_SECOND, now)
}

/// Requests and answers between us and one live peer.
#[derive(Debug)]
pub(super) struct ListExchange {
    /// The request under way, and the frames that have answered it.
    asked: Option<(Instant, Why, usize)>,
    /// Roster that the peer had when we last asked because of it.
    asked_for: Option<u64>,
    not_before: Instant,
    interval: Duration,
    answered: Option<Instant>,
}

impl ListExchange {
    pub(super) fn new(now: Instant) -> Self {
        Self { asked: None, asked_for: None, not_before: now, interval: ASK_AGAIN_MIN, answered: None }
    }

    /// What the peer told before may be news now.
    pub(super) fn ask_anew(&mut self) {
        self.asked_for = None;
    }

    /// Whether a request is under way that may still be answered.
    fn is_answer_due(&self, now: Instant) -> bool {
        self.asked.is_some_and(|(at, ..)| now.saturating_duration_since(at) < ANSWER_WAIT)
    }
}

impl Mesh {
    /// A session with a peer came up: its list is wanted if we join through it, or were apart.
    pub(super) fn ask_on_meeting(&mut self, id: PeerId, now: Instant, why: Why, target: Option<Target>) {
        let joins = matches!(target, Some(Target::Seed(_))) || !self.has_list;
        if why == Why::Reconnect || joins {
            self.ask(now, id, why);
        }
    }

    /// Sends our list to a peer that asked for it on this session.
    pub(super) fn answer_list(&mut self, now: Instant, id: PeerId, session: SessionId) {
        let Some(remote) = self.sessions.get(&session).map(|s| s.remote) else {
            return;
        };
        let Some(live) = self.peers.get_mut(&id).and_then(Peer::live_mut) else {
            return;
        };
        if live.lists.answered.is_some_and(|at| now.saturating_duration_since(at) < ANSWER_INTERVAL) {
            return;
        }
        let is_first = live.lists.answered.replace(now).is_none();
        let is_joining = is_first && now.saturating_duration_since(live.since) < JOINING;
        let before = is_joining.then_some(live.order);
        let mut records = self.records_for(now, &id, remote, before);
        loop {
            let rest = records.split_off(records.len().min(RECORDS_MAX));
            let more = !rest.is_empty();
            self.output(Output::Send { session, message: Message::Peers { records, more } });
            if !more {
                return;
            }
            records = rest;
        }
    }

    /// A list arrived. What it says is hearsay until a handshake proves it.
    pub(super) fn received_list(
        &mut self,
        now: Instant,
        from: PeerId,
        remote: SocketAddr,
        records: Vec<PeerRecord>,
        more: bool,
    ) {
        let Some(live) = self.peers.get_mut(&from).and_then(Peer::live_mut) else {
            return;
        };
        // Nobody's list is read who was not asked: a flood of lists changes nothing.
        let Some((at, why, frames)) = live.lists.asked else {
            return;
        };
        let goes_on = more && frames + 1 < ANSWER_FRAMES_MAX;
        live.lists.asked = goes_on.then_some((at, why, frames + 1));
        self.has_list = true;
        if frames == 0 {
            // A new list says anew whom its sender is connected to.
            for peer in self.peers.values_mut() {
                peer.reached_by.remove(&from);
            }
        }
        let connected: Vec<PeerId> = records.iter().filter(|r| r.connected).map(|r| r.id).collect();
        let news = records.into_iter().filter_map(|record| self.learn(now, remote, record, why)).count();
        for id in connected {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.reported(from);
            }
        }
        if news > 0 {
            if let Some(live) = self.peers.get_mut(&from).and_then(Peer::live_mut) {
                live.lists.interval = ASK_AGAIN_MIN;
            }
            self.report(Report::ListNews { from, news });
        }
    }

    /// A heartbeat told who the peer is connected to.
    pub(super) fn compare_rosters(&mut self, now: Instant, id: PeerId, roster: u64) {
        if roster != self.roster && !self.timers.is_set(Timer::Settled) {
            self.timers.set_no_later(Timer::RosterCheck(id), now + ROSTER_PATIENCE);
        }
    }

    /// A difference of rosters has had its time to go away.
    pub(super) fn check_roster(&mut self, now: Instant, id: PeerId) {
        let (ours, is_settled) = (self.roster, !self.timers.is_set(Timer::Settled));
        let Some(live) = self.peers.get(&id).and_then(Peer::live) else {
            return;
        };
        let Some(theirs) = live.roster.filter(|&theirs| theirs != ours && is_settled) else {
            return;
        };
        let is_new = live.lists.asked_for != Some(theirs);
        if live.lists.is_answer_due(now) || !is_new && now < live.lists.not_before {
            // The next heartbeat brings the difference up again.
            return;
        }
        if let Err(wait) = self.roster_questions.take(now) {
            // Most differences are gone by the time that one of them has been asked about. Whose turn comes
            // next is left to chance, lest it always be the same.
            let wait = self.random_between(wait, wait + ROSTER_PATIENCE);
            return self.timers.set(Timer::RosterCheck(id), now + wait);
        }
        let Some(live) = self.peers.get_mut(&id).and_then(Peer::live_mut) else {
            return;
        };
        let lists = &mut live.lists;
        if is_new {
            lists.interval = ASK_AGAIN_MIN;
        }
        lists.asked_for = Some(theirs);
        lists.not_before = now + lists.interval;
        lists.interval = (lists.interval * 2).min(ASK_AGAIN_MAX);
        self.ask(now, id, Why::Roster);
    }

    /// A stranger was looked for in vain whom these are connected to. One of them is asked again soon:
    /// once the way is free, the stranger must not be out of reach until the longest wait is over.
    pub(super) fn ask_again_soon(&mut self, now: Instant, reached_by: &BTreeSet<PeerId>) {
        let live: Vec<PeerId> = reached_by.iter().filter(|id| self.is_live(id)).copied().collect();
        if let Some(id) = self.rng.choice(live)
            && let Some(live) = self.peers.get_mut(&id).and_then(Peer::live_mut)
        {
            live.lists.interval = ASK_AGAIN_MIN;
            live.lists.not_before = live.lists.not_before.min(now + ASK_AGAIN_MIN);
        }
    }

    /// Somebody came or went.
    pub(super) fn membership_changed(&mut self, now: Instant) {
        let since = *self.unsettled_since.get_or_insert(now);
        self.timers.set(Timer::Settled, (now + SETTLE).min(since + SETTLE_MAX));
    }

    /// Membership has not changed for a while: some peers are told our roster now, rather than with the
    /// next heartbeat, so that a difference shows within moments.
    pub(super) fn settled(&mut self, now: Instant) {
        let since = self.unsettled_since.unwrap_or(now);
        if self.dialing.is_exploring() && now < since + SETTLE_MAX {
            self.membership_changed(now);
            return;
        }
        self.unsettled_since = None;
        let live: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| peer.live().is_some()).map(|(id, _)| *id).collect();
        for &id in &live {
            self.begin_heartbeats(now, id);
            self.ping_if_due(now, id);
        }
        for id in self.rng.choose_multiple(live, TOLD_AT_ONCE_MAX) {
            self.schedule_heartbeat(now, id);
            self.send_heartbeat(now, id);
        }
    }

    /// Whether this node is connected to somebody, if it has anybody to look for, and has met, or
    /// tried to meet, everybody whom it heard of. Whoever keeps telling of others delays that only
    /// so long.
    #[must_use]
    pub fn is_settled(&self, now: Instant) -> bool {
        let live = || self.peers.values().filter_map(Peer::live);
        let is_untried = |peer: &Peer| matches!(peer.state, State::Rumour { failures: 0, .. });
        let is_calm = !self.timers.is_set(Timer::Settled)
            && !live().any(|live| live.lists.is_answer_due(now))
            && !self.peers.values().any(is_untried);
        let is_old = || live().any(|live| now.saturating_duration_since(live.since) >= SETTLE_MAX);
        let is_lost = |peer: &Peer| matches!(peer.state, State::Dead { .. });
        let is_found = self.live > 0 || self.is_joined() && !self.peers.values().any(is_lost);
        is_found && (is_calm || is_old())
    }

    fn ask(&mut self, now: Instant, id: PeerId, why: Why) {
        let Some(live) = self.peers.get_mut(&id).and_then(Peer::live_mut) else {
            return;
        };
        if !live.lists.is_answer_due(now) {
            live.lists.asked = Some((now, why, 0));
            self.send(now, &id, Message::PeersRequest);
        }
    }

    /// Whom we tell this peer of: who is connected, and came `before` that one if there is one, and who was
    /// a short while ago; only peers proven to us in this life, at addresses that they showed or claimed
    /// themselves in it.
    fn records_for(
        &self,
        now: Instant,
        to: &PeerId,
        remote: SocketAddr,
        before: Option<u64>,
    ) -> Vec<PeerRecord> {
        let record = |(id, peer): (&PeerId, &Peer)| {
            let connected = match &peer.state {
                State::Live(live) if before.is_some_and(|before| live.order > before) => return None,
                State::Live(live) => live.is_member,
                State::Dead { .. } if peer.instance.is_none() => return None,
                State::Dead { since, .. } if now.saturating_duration_since(*since) < RECENT => false,
                State::Dead { .. } | State::Left { .. } | State::Rumour { .. } => return None,
            };
            let usable = |addr: &&DialAddr| reach::can_be_told_to(remote, addr);
            let addrs: Vec<DialAddr> = peer.addrs.first_hand().filter(usable).cloned().collect();
            let is_useful = id != to && !addrs.is_empty() && self.config.access.check(id).is_ok();
            is_useful.then_some(PeerRecord { id: *id, addrs, connected })
        };
        self.peers.iter().filter_map(record).collect()
    }

    /// Takes one record of a list in. Something if it is news that is acted upon.
    fn learn(&mut self, now: Instant, remote: SocketAddr, record: PeerRecord, why: Why) -> Option<()> {
        let PeerRecord { id, addrs, connected } = record;
        if id == self.id || self.config.access.check(&id).is_err() {
            return None;
        }
        let is_unknown = !self.peers.contains_key(&id);
        let addrs = addrs.into_iter().filter_map(|addr| reach::as_told_by(remote, addr));
        if !self.hear_of_listed(now, id, addrs, connected) {
            return None;
        }
        let wait = self.wait_before_dial(id, connected, why);
        let peer = self.peers.get_mut(&id)?;
        match &peer.state {
            State::Rumour { .. } if is_unknown => {}
            State::Dead { .. } if connected => peer.backoff.reset(),
            State::Rumour { .. } | State::Live(_) | State::Dead { .. } | State::Left { .. } => return None,
        }
        peer.addrs.restart_round();
        self.timers.set_no_later(Timer::Dial(Target::Peer(id)), now + wait);
        Some(())
    }

    /// Notes a listed peer; whether it is one to dial.
    fn hear_of_listed(
        &mut self,
        now: Instant,
        id: PeerId,
        addrs: impl Iterator<Item = DialAddr>,
        connected: bool,
    ) -> bool {
        if let Some(peer) = self.peers.get_mut(&id)
            && let State::Left { since, forget_at } = peer.state
        {
            let returned = connected && now.saturating_duration_since(since) > LEFT_QUIET;
            if !returned {
                return false;
            }
            peer.state = State::Dead { since, forget_at };
            self.output(Output::Remember);
        }
        self.hear_of(now, id, addrs)
    }

    pub(super) fn wait_before_dial(&mut self, id: PeerId, connected: bool, why: Why) -> Duration {
        let we_dial = self.id < id;
        let (low, high) = match (why, we_dial) {
            _ if !connected => (1000, 2000),
            (Why::Join, _) => (0, 0),
            (Why::Reconnect, true) => (0, 100),
            (Why::Reconnect, false) => (300, 600),
            (Why::Roster, true) => (200, 500),
            (Why::Roster, false) => (1000, 1500),
        };
        self.random_between(millis(low), millis(high))
    }
}
