//! Exchange of peer lists, and the digest check that restores a full mesh after any loss.
//!
//! Dials that cross cost an extra handshake. The order of requests for lists keeps crossings rare:
//! - A joining node asks the peers that it joins through, and dials all peers on their lists. A list for a
//!   joining node contains only peers that came before it, so of two joining nodes exactly one learns of the other.
//! - Two peers that meet again after a loss ask each other at once. That heals a split.
//! - All other nodes compare digests of the membership once it has settled, and ask only on a difference. Of
//!   two nodes that learn of each other like that, the smaller id dials and the other waits.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::accounts::Account;
use super::address_scope::{self, Told};
use super::dial_queue::{RUMOUR_FAILURES_MAX, Target};
use super::io::{Output, Report, SessionId};
use super::list_exchange::{ASK_AGAIN_MAX, ASK_AGAIN_MIN, ExchangeReason, RECENT};
use super::machine::{Mesh, millis};
use super::peer::{Connected, Peer, State};
use super::session_table::Session;
use super::timer::Timer;
use crate::limits::PEERS_LIMIT;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::wire::{Message, PeerRecord, RECORDS_MAX};

/// Membership that is unchanged for this long is settled: nodes compare digests.
const SETTLE: Duration = Duration::from_millis(250);
/// Peers that get the digest as soon as membership has settled: in a large mesh enough to find a difference. A
/// mesh that forms on a starved machine seems to settle many times; telling all peers each time would send more
/// messages than everything else together.
const TOLD_AT_ONCE_MAX: usize = 8;
/// Digests are compared this long after a change even if membership keeps changing, so that peers that come and go do not
/// keep the others from finding each other.
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// A peer that keeps reporting others does not delay [`Mesh::is_settled`] for longer.
const FOUND_MAX: Duration = Duration::from_secs(15);
/// A difference of digests that lasts this long is real: both sides had time to settle.
const DIGEST_PATIENCE: Duration = Duration::from_millis(500);
/// Time between two checks of a difference that a request for a list has not removed.
const DIGEST_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two answers to one peer's requests.
const ANSWER_INTERVAL: Duration = Duration::from_millis(200);
/// Frames accepted as one answer: the longest list that a node may have.
const ANSWER_FRAMES_MAX: usize = PEERS_LIMIT.div_ceil(RECORDS_MAX);
/// A first request within this time of connecting marks a joiner.
const JOINING: Duration = Duration::from_secs(2);
/// A departure reaches all members within this time; a later listing means that the peer is back.
pub(super) const LEFT_QUIET: Duration = Duration::from_secs(10);

/// The sender of a list.
struct Teller {
    /// It pays for dials to the rumours in the list.
    account: Account,
    remote: SocketAddr,
}

impl Mesh {
    /// A session with a peer came up: this node asks for its list if it joins through this peer, or if the two
    /// were separated.
    pub(super) fn ask_on_meeting(
        &mut self,
        id: PeerId,
        now: Instant,
        why: ExchangeReason,
        target: Option<Target>,
    ) {
        let joins =
            matches!(target, Some(Target::Bootstrap(_) | Target::Beacon(_))) || !self.exchange.has_list;
        if why == ExchangeReason::Reconnect || joins {
            self.ask(now, id, why);
        }
    }

    /// Sends this node's list to a peer that asked for it on this session.
    pub(super) fn answer_list(&mut self, now: Instant, id: PeerId, session: SessionId) {
        let Some(remote) = self.sessions.get(session).map(|s| s.remote).filter(|_| !self.leaving) else {
            return;
        };
        let Some(connected) = self.peers.connected_mut(&id) else {
            return;
        };
        if connected.lists.answered.is_some_and(|at| now.saturating_duration_since(at) < ANSWER_INTERVAL) {
            return;
        }
        let is_first = connected.lists.answered.replace(now).is_none();
        let is_joining = is_first && now.saturating_duration_since(connected.since) < JOINING;
        let before = is_joining.then_some(connected.order);
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

    /// A list arrived. It is a rumour until handshakes prove it.
    pub(super) fn received_list(
        &mut self,
        now: Instant,
        from: PeerId,
        remote: SocketAddr,
        records: Vec<PeerRecord>,
        more: bool,
    ) {
        let Some(connected) = self.peers.connected_mut(&from) else {
            return;
        };
        // A list without a request is ignored, so a flood of lists changes nothing.
        let Some((at, why, frames)) = connected.lists.asked else {
            return;
        };
        let goes_on = more && frames + 1 < ANSWER_FRAMES_MAX;
        connected.lists.asked = goes_on.then_some((at, why, frames + 1));
        self.exchange.has_list = true;
        if frames == 0 {
            // A new list replaces what its sender reported before.
            for peer in self.peers.iter_mut() {
                peer.reached_by.remove(&from);
            }
        }
        let news = self.learn_all(now, from, remote, records, why);
        if news > 0 {
            if let Some(connected) = self.peers.connected_mut(&from) {
                connected.lists.interval = ASK_AGAIN_MIN;
            }
            self.report(Report::ListNews { from, news });
        }
    }

    /// Takes in what a peer says of others. Returns the number of records that are news.
    fn learn_all(
        &mut self,
        now: Instant,
        from: PeerId,
        remote: SocketAddr,
        records: Vec<PeerRecord>,
        why: ExchangeReason,
    ) -> usize {
        let connected: Vec<PeerId> = records.iter().filter(|r| r.connected).map(|r| r.id).collect();
        let teller = Teller { account: self.account_of(now, from, remote), remote };
        let news = records.into_iter().filter_map(|record| self.learn(now, &teller, record, why)).count();
        for id in connected {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.reported(from);
                if peer.addrs.is_empty() || peer.backoff.has_failed() {
                    self.seek_path_later(now, id);
                }
            }
        }
        news
    }

    /// The account that pays for the lists of a connected peer.
    pub(super) fn account_of(&self, now: Instant, from: PeerId, remote: SocketAddr) -> Account {
        if self.is_stranger(now, &from) { Account::machine(remote.ip()) } else { Account::Peer(from) }
    }

    /// Checks later whether a connected peer's digest still differs from this node's.
    pub(super) fn compare_digests(&mut self, now: Instant, id: PeerId) {
        let digest = self.peers.connected(&id).and_then(|connected| connected.digest);
        if digest.is_some_and(|digest| digest != self.peers.digest()) && self.exchange.is_settled() {
            self.timers.set_no_later(Timer::DigestCheck(id), now + self.slowed(DIGEST_PATIENCE));
        }
    }

    /// A difference of digests has lasted for `DIGEST_PATIENCE`.
    pub(super) fn check_digest(&mut self, now: Instant, id: PeerId) {
        let (ours, is_settled) = (self.peers.digest(), self.exchange.is_settled());
        let Some(connected) = self.peers.connected(&id) else {
            return;
        };
        // While membership changes, digests are compared when it has settled.
        let Some(theirs) = connected.digest.filter(|&theirs| theirs != ours && is_settled) else {
            return;
        };
        self.exchange.uncompared_since = None;
        if let Some(parts) = self.peers.parts_of(now, ours ^ theirs) {
            let is_lost = |part: &PeerId| self.peers.connected(part).is_none();
            let lost: Vec<PeerId> = parts.into_iter().filter(is_lost).collect();
            self.end_reports(id, &lost);
            if lost.is_empty() {
                // The peer has lost members that this node has: its list would bring no news. It asks this node.
                return;
            }
            self.learn_from_digest(now, id, lost);
            if let Err(wait) = self.exchange.known_losses.take(now) {
                return self.timers.set(Timer::DigestCheck(id), now + wait);
            }
        }
        let Some(connected) = self.peers.connected(&id) else {
            return;
        };
        let is_new = connected.lists.asked_for != Some(theirs);
        if connected.lists.is_answer_due(now) || !is_new && now < connected.lists.not_before {
            let again = connected.lists.not_before.max(now + DIGEST_CHECK_INTERVAL);
            return self.timers.set(Timer::DigestCheck(id), again);
        }
        if let Err(wait) = self.exchange.digest_questions.take(now) {
            // Most differences are gone by the time that one question has been answered. The random wait keeps
            // the same peer from always being the next.
            let wait = self.random_between(wait, wait + DIGEST_PATIENCE);
            return self.timers.set(Timer::DigestCheck(id), now + wait);
        }
        let Some(connected) = self.peers.connected_mut(&id) else {
            return;
        };
        let lists = &mut connected.lists;
        if is_new {
            lists.interval = ASK_AGAIN_MIN;
        }
        lists.asked_for = Some(theirs);
        lists.not_before = now + lists.interval;
        lists.interval = (lists.interval * 2).min(ASK_AGAIN_MAX);
        self.ask(now, id, ExchangeReason::Digest);
        // If the answer does not remove the difference, this node asks again.
        self.timers.set(Timer::DigestCheck(id), now + DIGEST_CHECK_INTERVAL);
    }

    /// A peer's digest says that of the members which this node has lost it has only these.
    pub(super) fn end_reports(&mut self, by: PeerId, but: &[PeerId]) {
        let lost: Vec<PeerId> = self.peers.iter().map(|(id, _)| *id).filter(|id| !but.contains(id)).collect();
        for id in lost {
            if let Some(peer) = self.peers.get_mut(&id).filter(|peer| matches!(peer.state, State::Dead(_))) {
                peer.reached_by.remove(&by);
            }
        }
    }

    /// A peer's digest says that it has these members, which this node knows and has lost: they are dialled as if a list
    /// had named them.
    fn learn_from_digest(&mut self, now: Instant, from: PeerId, lost: Vec<PeerId>) {
        let is_news = |id: &PeerId| self.peers.get(id).is_some_and(|peer| peer.is_report_kept(&from));
        let record = |id| PeerRecord { id, addrs: Vec::new(), connected: true };
        let records: Vec<PeerRecord> = lost.into_iter().filter(is_news).map(record).collect();
        let session = self.peers.connected(&from).and_then(Connected::active);
        if let Some(Session { remote, .. }) = session.and_then(|session| self.sessions.get(session))
            && !records.is_empty()
        {
            self.learn_all(now, from, remote, records, ExchangeReason::Digest);
        }
    }

    /// An unknown peer did not answer, although these peers report that they are connected to it. The mesh asks one
    /// of them again soon, so that the unknown peer is found soon after the network lets dials through.
    pub(super) fn ask_again_soon(&mut self, now: Instant, reached_by: &BTreeSet<PeerId>) {
        let connected: Vec<PeerId> = reached_by.iter().filter(|id| self.is_connected(id)).copied().collect();
        if let Some(id) = self.rng.choice(connected)
            && let Some(connected) = self.peers.connected_mut(&id)
        {
            connected.lists.interval = ASK_AGAIN_MIN;
            connected.lists.not_before = connected.lists.not_before.min(now + ASK_AGAIN_MIN);
        }
    }

    /// A peer became a member, or is no longer one.
    pub(super) fn membership_changed(&mut self, now: Instant) {
        self.exchange.unsettled_since.get_or_insert(now);
        let since = *self.exchange.uncompared_since.get_or_insert(now);
        let at = (now + self.slowed(SETTLE)).min(since + self.slowed(SETTLE_MAX));
        self.timers.set(Timer::Settled, at);
    }

    /// Membership has settled: some peers get the digest now instead of with the next heartbeat, so that a
    /// difference shows at once.
    pub(super) fn settled(&mut self, now: Instant) {
        let since = self.exchange.uncompared_since.unwrap_or(now);
        if self.dialing.is_exploring() && now < since + self.slowed(SETTLE_MAX) {
            self.membership_changed(now);
            return;
        }
        let is_restless = now >= since + self.slowed(SETTLE_MAX);
        self.exchange.unsettled_since = None;
        let connected: Vec<PeerId> = self.peers.iter_connected().map(|(id, _)| *id).collect();
        let ours = self.peers.digest();
        let differs = |(_, peer): (_, &Connected)| peer.digest.is_some_and(|theirs| theirs != ours);
        if is_restless || !self.peers.iter_connected().any(differs) {
            self.exchange.uncompared_since = None;
        }
        for &id in &connected {
            self.beat_soon(now, id);
            self.ping_if_due(now, id);
            self.compare_digests(now, id);
        }
        if is_restless {
            // The next change may come before `DIGEST_PATIENCE` is over, so a difference is not waited for.
            let ids = self.rng.choose_multiple(connected.clone(), connected.len());
            ids.into_iter().for_each(|id| self.check_digest(now, id));
        }
        // A peer with a smaller id sends heartbeats to this node, and does the same.
        let led: Vec<PeerId> = connected.into_iter().filter(|id| self.leads(id)).collect();
        for id in self.rng.choose_multiple(led, TOLD_AT_ONCE_MAX) {
            self.schedule_heartbeat(now, id);
            self.send_heartbeat(now, id);
        }
    }

    /// Whether this node is connected to a peer, if it has addresses or known peers to dial, and has met, or tried
    /// to meet, every peer that it heard of. A peer that keeps reporting others delays this by 15 s at
    /// most.
    #[must_use]
    pub fn is_settled(&self, now: Instant) -> bool {
        let connected = || self.peers.iter_connected().map(|(_, connected)| connected);
        let is_untried = |(_, peer): (_, &Peer)| matches!(peer.state, State::Rumoured { failures: 0, .. });
        let is_calm = self.exchange.is_settled()
            && !connected().any(|connected| connected.lists.is_answer_due(now))
            && !self.peers.iter().any(is_untried);
        let is_old =
            || connected().any(|connected| now.saturating_duration_since(connected.since) >= FOUND_MAX);
        let is_lost = |(_, peer): (_, &Peer)| matches!(peer.state, State::Dead(_));
        let is_found = self.peers.joined() > 0 || self.is_joined() && !self.peers.iter().any(is_lost);
        is_found && (is_calm || is_old())
    }

    pub(super) fn ask(&mut self, now: Instant, id: PeerId, why: ExchangeReason) {
        let Some(connected) = self.peers.connected_mut(&id).filter(|peer| peer.active().is_some()) else {
            return;
        };
        if !connected.lists.is_answer_due(now) {
            connected.lists.asked = Some((now, why, 0));
            self.send(&id, Message::PeersRequest);
        }
    }

    /// The list for this peer: connected peers (only those that came `before` a given number, if there is one)
    /// and peers that were lost a short while ago. It contains only peers that proved their key in this run, at
    /// addresses that they used or claimed in this run.
    fn records_for(
        &self,
        now: Instant,
        to: &PeerId,
        remote: SocketAddr,
        before: Option<u64>,
    ) -> Vec<PeerRecord> {
        let record = |(id, peer): (&PeerId, &Peer)| {
            let came_later = |connected: &Connected| before.is_some_and(|before| connected.order > before);
            let is_listed = match &peer.state {
                State::Provisional { connected, .. }
                | State::Up(connected)
                | State::Unstable { connected, .. } => !came_later(connected),
                State::Dead(gone) => {
                    peer.instances.is_met() && now.saturating_duration_since(gone.since) < RECENT
                }
                State::Left(_) | State::Rumoured { .. } => false,
            };
            if !is_listed {
                return None;
            }
            let usable = |addr: &&DialAddr| address_scope::can_be_told_to(remote, addr);
            let addrs: Vec<DialAddr> = peer.addrs.first_hand().filter(usable).cloned().collect();
            let is_useful = id != to && !addrs.is_empty() && self.config.access.check(id).is_ok();
            is_useful.then_some(PeerRecord { id: *id, addrs, connected: peer.is_joined() })
        };
        self.peers.iter().filter_map(record).collect()
    }

    /// Takes in one record of a list. Returns `Some` if the record is news that leads to a dial.
    fn learn(
        &mut self,
        now: Instant,
        teller: &Teller,
        record: PeerRecord,
        why: ExchangeReason,
    ) -> Option<()> {
        let PeerRecord { id, addrs, connected } = record;
        if id == self.id || self.config.access.check(&id).is_err() {
            return None;
        }
        let is_unknown = self.peers.get(&id).is_none();
        let has_no_addr = self.peers.get(&id).is_some_and(|peer| peer.addrs.is_empty());
        let names_addrs = !addrs.is_empty();
        let addrs = addrs.into_iter().filter_map(|addr| address_scope::as_told_by(teller.remote, addr));
        if is_unknown && !self.peers.has_room_for(&id) {
            let surplus = self.peers.surplus_rumour(&teller.account)?;
            self.forget(surplus);
        }
        let may_be_dialled = self.hear_of_listed(now, id, addrs, connected);
        // Also if the peer is connected: it may be dialled at a listed address once it is lost.
        // Who names no address pays for none.
        let is_new_teller = names_addrs && self.peers.told_by(id, &teller.account);
        if !may_be_dialled {
            return None;
        }
        let wait = self.wait_before_dial(id, connected, why);
        let peer = self.peers.get_mut(&id)?;
        match &mut peer.state {
            State::Rumoured { .. } if is_unknown => {}
            State::Rumoured { waits, .. } if *waits && connected => *waits = false,
            // The other tellers may have nothing left to pay with.
            State::Rumoured { .. } if is_new_teller => {}
            State::Dead(_) if connected => {
                peer.backoff.reset();
                // The first report since it was lost: the network may just have healed.
                if peer.reached_by.is_empty() {
                    self.dialing.doubt(&id);
                }
            }
            // It was lost before this node knew an address of it: only a carrier led to it.
            State::Dead(_) if has_no_addr => {}
            State::Left(_) => peer.backoff.reset(),
            State::Provisional { .. } | State::Up(_) | State::Unstable { .. } => {
                self.dial_beside_circuit(now, id);
                return None;
            }
            State::Rumoured { .. } | State::Dead(_) => return None,
        }
        peer.addrs.restart_round();
        self.timers.set_no_later(Timer::Dial(Target::Peer(id)), now + wait);
        Some(())
    }

    /// Stores a listed peer. Returns whether it may be dialled.
    fn hear_of_listed(
        &mut self,
        now: Instant,
        id: PeerId,
        addrs: impl Iterator<Item = Told>,
        connected: bool,
    ) -> bool {
        if let Some(peer) = self.peers.get_mut(&id)
            && let State::Left(gone) = &mut peer.state
        {
            let returned = connected && now.saturating_duration_since(gone.since) > LEFT_QUIET;
            if !returned {
                return false;
            }
            if gone.rounds_left > 0 {
                return false;
            }
            gone.rounds_left = RUMOUR_FAILURES_MAX;
        }
        self.hear_of(now, id, addrs)
    }

    pub(super) fn wait_before_dial(&mut self, id: PeerId, connected: bool, why: ExchangeReason) -> Duration {
        let we_dial = self.id < id;
        let (low, high) = match (why, we_dial) {
            _ if !connected => (1000, 2000),
            (ExchangeReason::Join, _) => (0, 0),
            (ExchangeReason::Reconnect, true) => (0, 100),
            (ExchangeReason::Reconnect, false) => (300, 600),
            (ExchangeReason::Digest, true) => (200, 500),
            (ExchangeReason::Digest, false) => (1000, 1500),
        };
        self.random_between(millis(low), millis(high))
    }
}
