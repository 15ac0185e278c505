//! The mesh's knowledge of one other node.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::accounts::Account;
use super::address_book::Addrs;
use super::backoff::Backoff;
use super::circuit_table::{CIRCUITS_BURST, CIRCUITS_PER_SECOND};
use super::flapping::Losses;
use super::inquiries::{QUESTIONS_BURST, QUESTIONS_PER_SECOND};
use super::instances::Instances;
use super::io::{SessionId, UnixTime};
use super::key_state::KeyProof;
use super::list_exchange::PeerExchange;
use super::rtt::Rtt;
use super::told_intervals::ToldIntervals;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::util::token_bucket::TokenBucket;
use crate::wire::ByeReason;

/// Members remembered that report a connection to an unreachable peer: enough to show that the fault is on this
/// node's side.
const REACHED_BY_MAX: usize = 16;
/// Accounts that may pay for dials to one rumour. A rumour that several peers tell needs only one that can pay.
pub(super) const TELLERS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) addrs: Addrs,
    /// The other end of its last session, and whether this node dialled that session.
    pub(super) remote: Option<(SocketAddr, bool)>,
    /// The `--connect` name that last led to it, by index.
    pub(super) behind: Option<usize>,
    pub(super) instances: Instances,
    /// The first and last time of a proven session, in this run or a previous one; `None` if never met.
    pub(super) met: Option<SeenTimes>,
    /// The time for which it was connected in all, in this run and previous ones, without its current connection.
    pub(super) connected_before: Duration,
    /// The network key that it has proven in this run.
    pub(super) network_key: KeyProof,
    /// Whether it runs an alert program.
    pub(super) runs_alerts: bool,
    /// Whether it connects through NATs with the help of a carrier, by its last Hello.
    pub(super) can_punch: bool,
    /// Whether it understands [`Message::ReachableAt`](crate::wire::Message::ReachableAt), by its last Hello.
    pub(super) understands_reachable_at: bool,
    /// The accounts of those that listed it, the last ones; at most [`TELLERS_MAX`]. The first listed it as a rumour.
    pub(super) tellers: Vec<Account>,
    pub(super) backoff: Backoff,
    /// Pings sent to it and received from it in this run.
    pub(super) pings_sent: u64,
    pub(super) pings_received: u64,
    /// The number of times that it became a member in this run.
    pub(super) ups: u64,
    /// The members that last reported a connection to it, while this node has none; at most [`REACHED_BY_MAX`].
    pub(super) reached_by: BTreeSet<PeerId>,
    /// Whether the log has reported that another peer answers at its address.
    pub(super) wrong_id_reported: bool,
    /// Its recent losses, by which it may be unstable.
    pub(super) losses: Losses,
    /// The recent losses of the direct path to it, after which a circuit led to it.
    pub(super) path_losses: Losses,
    /// The time before which it is not dialled while a circuit leads to it.
    pub(super) direct_from: Option<Instant>,
    /// The rate limit of its questions about lost peers.
    pub(super) questions: TokenBucket,
    /// The rate limit of the circuits that it asks this node to carry or to enter.
    pub(super) circuits: TokenBucket,
    pub(super) state: State,
}

/// The first and the last time at which a peer was connected, by this node's wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeenTimes {
    pub(super) first: UnixTime,
    /// The last time at which it was connected; for a connected peer, the time at which it came up. Never before
    /// `first`.
    pub(super) last: UnixTime,
}

impl SeenTimes {
    /// The peer is connected at this time. The wall clock may have been set back since the first meeting.
    pub(super) fn again(self, wall: UnixTime) -> Self {
        Self { last: wall.max(self.first), ..self }
    }
}

/// The state of a peer, with the data that only this state needs.
#[derive(Debug)]
pub(super) enum State {
    /// Other peers list it; no handshake has proven it. `failures` counts failed rounds through its addresses. It `waits`
    /// while its tellers keep what is left of their accounts for peers that a member lists as connected.
    Rumoured { failures: u32, since: Instant, waits: bool },
    /// Connected, but not a member yet. A peer whose last `refusal` of this node still counts becomes a member with its
    /// first message after the handshake, because it may refuse again; any other peer at once.
    Provisional { connected: Box<Connected>, refusal: Option<ByeReason> },
    /// Connected, or between two sessions for a moment. It is a member, reported to the user with `up`.
    Up(Box<Connected>),
    /// Connected again after several losses: it works like a member, and other nodes learn that it is connected. The user
    /// is told `up` once the connection has held until `holds_until`.
    Unstable { connected: Box<Connected>, holds_until: Instant },
    /// Lost; redialled.
    Dead(Gone),
    /// Said goodbye; not redialled.
    Left(Gone),
}

/// A peer that is dead or left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    pub(super) since: Instant,
    /// It is forgotten when the mesh's connected time reaches this.
    pub(super) forget_at: Duration,
    /// Rounds through its addresses for which a peer that left is dialled, because a member lists it as connected. It
    /// stays `Left` until it answers.
    pub(super) rounds_left: u32,
    /// The reason of its last refusal, if it has not accepted this node since.
    pub(super) refusal: Option<ByeReason>,
}

/// A peer with a session, or between two sessions.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) since: Instant,
    /// Its number in the order in which peers came up in this run, from 1.
    pub(super) order: u64,
    pub(super) link: Link,
    /// The time of the peer's last message, as far as its session has reported it.
    pub(super) heard: Instant,
    /// Its heartbeat interval, as it last announced, in milliseconds.
    pub(super) interval_ms: u32,
    pub(super) told: ToldIntervals,
    pub(super) rtt: Rtt,
    /// Whether this node has sent it a ping since it connected.
    pub(super) is_pinged: bool,
    /// The carrier of its active session, as the user was last told; `None` for a direct session.
    pub(super) told_via: Option<PeerId>,
    /// The last membership digest that it sent.
    pub(super) digest: Option<u64>,
    pub(super) lists: PeerExchange,
}

/// The sessions with a connected peer.
#[derive(Debug)]
pub(super) enum Link {
    Open {
        /// At least one session, in the order in which they came up; this node sends on the last.
        sessions: Vec<SessionId>,
        /// The time at which the last session was asked when it last heard the peer, until the answer.
        drain_asked: Option<Instant>,
    },
    /// The last session ended at `since`, but another one is expected. A carrier led to the peer if it was a circuit.
    Interrupted { since: Instant, was_carried: bool },
}

impl Connected {
    /// A peer with its first session.
    pub(super) fn new(now: Instant, order: u64, interval_ms: u32, session: SessionId) -> Self {
        Self {
            since: now,
            order,
            link: Link::Open { sessions: vec![session], drain_asked: None },
            heard: now,
            interval_ms,
            told: ToldIntervals::default(),
            rtt: Rtt::default(),
            is_pinged: false,
            told_via: None,
            digest: None,
            lists: PeerExchange::new(now),
        }
    }

    /// Its sessions in the order in which they came up.
    pub(super) fn sessions(&self) -> &[SessionId] {
        match &self.link {
            Link::Open { sessions, .. } => sessions,
            Link::Interrupted { .. } => &[],
        }
    }

    /// The session on which this node sends.
    pub(super) fn active(&self) -> Option<SessionId> {
        self.sessions().last().copied()
    }

    /// Whether one of its sessions is not carried by another peer.
    pub(super) fn has_direct(&self) -> bool {
        self.sessions().iter().any(|session| !session.is_carried())
    }

    /// Adds a session inside a circuit. Returns those that it replaces: direct ones only if this node opened the circuit,
    /// because of the two nodes that one decides between them; others inside circuits if this node is the arbiter.
    pub(super) fn add_carried(&mut self, session: SessionId, is_arbiter: bool, max: usize) -> Vec<SessionId> {
        let is_replaced = |old: &SessionId| if old.is_carried() { is_arbiter } else { session.is_dialled() };
        let (mut surplus, mut sessions): (Vec<SessionId>, Vec<SessionId>) =
            self.sessions().iter().copied().partition(is_replaced);
        sessions.push(session);
        surplus.extend(sessions.drain(..sessions.len().saturating_sub(max)));
        self.link = Link::Open { sessions, drain_asked: None };
        surplus
    }

    /// Adds a direct session and keeps at most `max`. Returns those that it replaces: circuits that this node opened,
    /// because of the two nodes that one decides between them and a direct session, and the oldest ones that are too many.
    pub(super) fn add_direct(&mut self, session: SessionId, max: usize) -> Vec<SessionId> {
        let is_replaced = |old: &SessionId| old.is_carried() && old.is_dialled();
        let (mut surplus, mut sessions): (Vec<SessionId>, Vec<SessionId>) =
            self.sessions().iter().copied().partition(is_replaced);
        sessions.push(session);
        surplus.extend(sessions.drain(..sessions.len().saturating_sub(max)));
        self.link = Link::Open { sessions, drain_asked: None };
        surplus
    }

    /// Removes a session that has ended. Returns whether the peer had it.
    pub(super) fn remove_session(&mut self, now: Instant, session: SessionId) -> bool {
        let Link::Open { sessions, drain_asked } = &mut self.link else {
            return false;
        };
        let Some(at) = sessions.iter().position(|&other| other == session) else {
            return false;
        };
        sessions.remove(at);
        // The session that was asked may be this one, whose answer would never come.
        *drain_asked = None;
        if sessions.is_empty() {
            self.link = Link::Interrupted { since: now, was_carried: session.is_carried() };
        }
        true
    }

    /// Gives up a session that is not the last one.
    pub(super) fn give_up_session(&mut self, session: SessionId) {
        if let Link::Open { sessions, .. } = &mut self.link
            && sessions.last() != Some(&session)
        {
            sessions.retain(|other| *other != session);
        }
    }

    /// The session is asked when it last heard the peer. Returns false if an earlier question is still unanswered.
    pub(super) fn ask_drain(&mut self, now: Instant) -> bool {
        match &mut self.link {
            Link::Open { drain_asked: asked @ None, .. } => {
                *asked = Some(now);
                true
            }
            Link::Open { drain_asked: Some(_), .. } | Link::Interrupted { .. } => false,
        }
    }

    /// The session has answered. Returns the time of the question, if there was one.
    pub(super) fn drain_answered(&mut self) -> Option<Instant> {
        match &mut self.link {
            Link::Open { drain_asked, .. } => drain_asked.take(),
            Link::Interrupted { .. } => None,
        }
    }

    /// Notes that the peer was heard at this time.
    pub(super) fn hear(&mut self, at: Instant) {
        self.heard = self.heard.max(at);
    }
}

impl Peer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            name: String::new(),
            addrs: Addrs::default(),
            remote: None,
            behind: None,
            instances: Instances::default(),
            met: None,
            connected_before: Duration::ZERO,
            network_key: KeyProof::None,
            runs_alerts: false,
            can_punch: false,
            understands_reachable_at: false,
            tellers: Vec::new(),
            backoff: Backoff::default(),
            pings_sent: 0,
            pings_received: 0,
            ups: 0,
            reached_by: BTreeSet::new(),
            wrong_id_reported: false,
            losses: Losses::default(),
            path_losses: Losses::default(),
            direct_from: None,
            questions: TokenBucket::new(QUESTIONS_BURST, QUESTIONS_PER_SECOND, now),
            circuits: TokenBucket::new(CIRCUITS_BURST, CIRCUITS_PER_SECOND, now),
            state: State::Rumoured { failures: 0, since: now, waits: false },
        }
    }

    pub(super) fn connected(&self) -> Option<&Connected> {
        match &self.state {
            State::Provisional { connected, .. }
            | State::Up(connected)
            | State::Unstable { connected, .. } => Some(connected),
            State::Rumoured { .. } | State::Dead(_) | State::Left(_) => None,
        }
    }

    pub(super) fn connected_mut(&mut self) -> Option<&mut Connected> {
        match &mut self.state {
            State::Provisional { connected, .. }
            | State::Up(connected)
            | State::Unstable { connected, .. } => Some(connected),
            State::Rumoured { .. } | State::Dead(_) | State::Left(_) => None,
        }
    }

    /// Whether it is a member for the user.
    pub(super) fn is_member(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Whether it is a member for the other nodes: also while it is unstable.
    pub(super) fn is_joined(&self) -> bool {
        matches!(self.state, State::Up(_) | State::Unstable { .. })
    }

    /// A session with a peer that had none has come up.
    pub(super) fn connect(&mut self, connected: Connected) {
        self.reached_by.clear();
        self.state = State::Provisional { connected: Box::new(connected), refusal: self.refusal() };
    }

    /// A provisional peer becomes a member, but is unstable until `holds_until` if there is such a time. Returns whether
    /// it was provisional.
    pub(super) fn join(&mut self, holds_until: Option<Instant>) -> bool {
        let State::Provisional { connected, .. } = &self.state else {
            return false;
        };
        let placeholder = State::Rumoured { failures: 0, since: connected.since, waits: false };
        if let State::Provisional { connected, .. } = std::mem::replace(&mut self.state, placeholder) {
            self.state = match holds_until {
                None => State::Up(connected),
                Some(holds_until) => State::Unstable { connected, holds_until },
            };
        }
        true
    }

    /// An unstable peer has held, and is up. Returns whether it was unstable.
    pub(super) fn held(&mut self) -> bool {
        let State::Unstable { connected, .. } = &self.state else {
            return false;
        };
        let placeholder = State::Rumoured { failures: 0, since: connected.since, waits: false };
        if let State::Unstable { connected, .. } = std::mem::replace(&mut self.state, placeholder) {
            self.state = State::Up(connected);
        }
        true
    }

    /// The reason of its last refusal, if it has not accepted this node since.
    pub(super) fn refusal(&self) -> Option<ByeReason> {
        match self.state {
            State::Provisional { refusal, .. } => refusal,
            State::Dead(gone) | State::Left(gone) => gone.refusal,
            State::Rumoured { .. } | State::Up(_) | State::Unstable { .. } => None,
        }
    }

    /// Whether it should be dialled: lost, never met, or live without a direct session.
    pub(super) fn wants_dial(&self) -> bool {
        let reachable = match &self.state {
            State::Rumoured { .. } | State::Dead(_) => true,
            State::Provisional { connected, .. }
            | State::Up(connected)
            | State::Unstable { connected, .. } => !connected.has_direct(),
            State::Left(gone) => gone.rounds_left > 0,
        };
        reachable && !self.addrs.is_empty()
    }

    /// Whether it has a session now.
    pub(super) fn has_session(&self) -> bool {
        self.connected().is_some_and(|connected| connected.active().is_some())
    }

    /// The time for which it was connected in all, in this run and previous ones.
    pub(super) fn connected_in_all(&self, now: Instant) -> Duration {
        let current = self.connected().map(|connected| now.saturating_duration_since(connected.since));
        self.connected_before + current.unwrap_or_default()
    }

    /// Another teller names it, which may pay for its dials.
    pub(super) fn told_by(&mut self, teller: Account) {
        if self.tellers.contains(&teller) {
            return;
        }
        if self.tellers.len() == TELLERS_MAX {
            // The first is the one in whose list of rumours the peer is.
            self.tellers.remove(1);
        }
        self.tellers.push(teller);
    }

    /// The connected time of the mesh at which it is forgotten, if it is dead or left.
    pub(super) fn forget_at(&self) -> Option<Duration> {
        match self.state {
            State::Dead(gone) | State::Left(gone) => Some(gone.forget_at),
            State::Rumoured { .. } | State::Provisional { .. } | State::Up(_) | State::Unstable { .. } => {
                None
            }
        }
    }

    /// The time since the peer was lost or first heard of; zero while it is connected.
    pub(super) fn outage(&self, now: Instant) -> Duration {
        match self.state {
            State::Rumoured { since, .. } => now.saturating_duration_since(since),
            State::Dead(gone) | State::Left(gone) => now.saturating_duration_since(gone.since),
            State::Provisional { .. } | State::Up(_) | State::Unstable { .. } => Duration::ZERO,
        }
    }

    pub(super) fn check_limits(&self) {
        self.addrs.check_limits();
        self.instances.check_limits();
        self.losses.check_limits();
        self.path_losses.check_limits();
        debug_assert!(self.tellers.len() <= TELLERS_MAX, "{} tellers", self.tellers.len());
        debug_assert!(self.reached_by.len() <= REACHED_BY_MAX, "reached by {} peers", self.reached_by.len());
        debug_assert!(
            self.connected().is_none() || self.reached_by.is_empty(),
            "a connected peer is reached"
        );
    }

    /// A member reports that it is connected to this peer.
    pub(super) fn reported(&mut self, by: PeerId) {
        if self.is_report_kept(&by) {
            self.reached_by.insert(by);
        }
    }

    /// Whether the report of this member, that it is connected to this peer, is kept as a new one.
    pub(super) fn is_report_kept(&self, by: &PeerId) -> bool {
        let has_room = self.reached_by.len() < REACHED_BY_MAX;
        self.connected().is_none() && has_room && !self.reached_by.contains(by)
    }

    /// A dial to the address `dialled` reached this peer at `remote`. A host name is stored only if the peer
    /// itself claims it: a name from the user may lead to many peers, and another peer's claim about it may
    /// become wrong.
    pub(super) fn prove(&mut self, dialled: DialAddr, remote: SocketAddr, at: UnixTime) {
        let is_own = self.addrs.first_hand().any(|addr| *addr == dialled);
        if dialled.socket().is_some() || is_own {
            self.addrs.prove(dialled, at);
        } else {
            self.addrs.remove(&dialled);
            self.addrs.prove(remote.into(), at);
        }
    }

    /// The address to show. For a connected peer: the address that this node dialled, or, if the peer dialled, its
    /// best address with the same IP address as the source. Otherwise its best known address.
    pub(super) fn shown_addr(&self) -> DialAddr {
        let best = self.addrs.best().cloned();
        match (self.remote, self.connected()) {
            (Some((remote, true)), Some(_)) => DialAddr::Socket(remote),
            (Some((remote, false)), Some(_)) => {
                let agrees = |addr: &&DialAddr| addr.socket().is_some_and(|addr| addr.ip() == remote.ip());
                let agreeing = self.addrs.iter().find(agrees).cloned();
                agreeing.or(best).unwrap_or(DialAddr::Socket(remote))
            }
            (Some((remote, _)), None) => best.unwrap_or(DialAddr::Socket(remote)),
            (None, _) => best.unwrap_or(DialAddr::Socket(SocketAddr::from(([0, 0, 0, 0], 0)))),
        }
    }
}
