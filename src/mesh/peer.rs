//! The mesh's knowledge of one other node.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::address_book::Addrs;
use super::backoff::Backoff;
use super::io::{SessionId, UnixTime};
use super::list_exchange::PeerExchange;
use super::rtt::Rtt;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::wire::ByeReason;

/// Replaced instances remembered per peer. An older instance counts as a new one.
pub(super) const REPLACED_MAX: usize = 8;
/// Members remembered that report a connection to an unreachable peer: enough to show that the fault is on this
/// node's side.
const REACHED_BY_MAX: usize = 16;
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) addrs: Addrs,
    /// The other end of its last session, and whether this node dialled that session.
    pub(super) remote: Option<(SocketAddr, bool)>,
    /// The random number of its process, from its Hello; `None` if it was not met in this run.
    pub(super) instance: Option<u64>,
    /// The instances of its previous processes, oldest first, at most [`REPLACED_MAX`]; and the time of the last
    /// replacement.
    pub(super) replaced: VecDeque<u64>,
    pub(super) replaced_at: Option<Instant>,
    /// The first and last time of a proven session, in this run or a previous one; `None` if never met.
    pub(super) met: Option<SeenTimes>,
    pub(super) backoff: Backoff,
    /// Pings sent to it and received from it in this run.
    pub(super) pings_sent: u64,
    pub(super) pings_received: u64,
    /// The number of times that it became a member in this run.
    pub(super) ups: u64,
    /// The members that last reported a connection to it, while this node has none; at most [`REACHED_BY_MAX`].
    pub(super) reached_by: BTreeSet<PeerId>,
    /// The reason of its last refusal, until it accepts this node again.
    pub(super) refused: Option<ByeReason>,
    /// Whether the log has reported that its key is in use twice, or that another peer answers at its address.
    pub(super) clone_reported: bool,
    pub(super) wrong_id_reported: bool,
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
    /// Other peers list it; no handshake has proven it. `failures` counts failed rounds through its addresses.
    Rumour { failures: u32, since: Instant },
    /// Connected, or between two sessions for a moment.
    Connected(Box<Connected>),
    /// Lost; redialled. It is forgotten when the mesh's connected time reaches `forget_at`.
    Dead { since: Instant, forget_at: Duration },
    /// Said goodbye; not redialled. It is forgotten like a dead peer.
    Left { since: Instant, forget_at: Duration },
}

#[derive(Debug)]
pub(super) struct Connected {
    pub(super) since: Instant,
    /// Whether it is a member, reported to the user with `up`. A peer that refused this node before becomes a
    /// member with its first message after the handshake, because it may refuse again.
    pub(super) is_member: bool,
    /// Its number in the order in which peers came up in this run, from 1.
    pub(super) order: u64,
    /// Sessions in the order in which they came up; this node sends on the last.
    pub(super) sessions: Vec<SessionId>,
    /// The time of the peer's last message, as far as its session has reported it.
    pub(super) heard: Instant,
    /// The time at which its session was asked when it last heard the peer, until the answer.
    pub(super) drain_asked: Option<Instant>,
    /// Its heartbeat interval, as it last announced, in milliseconds.
    pub(super) interval_ms: u32,
    /// Whether this node has sent it a heartbeat since it connected.
    pub(super) has_heartbeats: bool,
    pub(super) rtt: Rtt,
    /// The time since which it has no session, but another one is expected.
    pub(super) grace_since: Option<Instant>,
    /// Whether this node has sent it a ping since it connected.
    pub(super) is_pinged: bool,
    /// The last membership digest that it sent.
    pub(super) digest: Option<u64>,
    pub(super) lists: PeerExchange,
}

impl Connected {
    pub(super) fn new(now: Instant, order: u64, interval_ms: u32) -> Self {
        Self {
            since: now,
            is_member: false,
            order,
            sessions: Vec::new(),
            heard: now,
            drain_asked: None,
            interval_ms,
            has_heartbeats: false,
            rtt: Rtt::default(),
            grace_since: None,
            is_pinged: false,
            digest: None,
            lists: PeerExchange::new(now),
        }
    }

    /// The session on which this node sends.
    pub(super) fn active(&self) -> Option<SessionId> {
        self.sessions.last().copied()
    }
}

impl Peer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            name: String::new(),
            addrs: Addrs::default(),
            remote: None,
            instance: None,
            replaced: VecDeque::new(),
            replaced_at: None,
            met: None,
            backoff: Backoff::default(),
            pings_sent: 0,
            pings_received: 0,
            ups: 0,
            reached_by: BTreeSet::new(),
            refused: None,
            clone_reported: false,
            wrong_id_reported: false,
            state: State::Rumour { failures: 0, since: now },
        }
    }

    pub(super) fn connected(&self) -> Option<&Connected> {
        match &self.state {
            State::Connected(connected) => Some(connected),
            _ => None,
        }
    }

    pub(super) fn connected_mut(&mut self) -> Option<&mut Connected> {
        match &mut self.state {
            State::Connected(connected) => Some(connected),
            _ => None,
        }
    }

    /// Whether it should be dialled: lost, never met, or live but between two sessions.
    pub(super) fn wants_dial(&self) -> bool {
        let reachable = match &self.state {
            State::Rumour { .. } | State::Dead { .. } => true,
            State::Connected(connected) => connected.sessions.is_empty(),
            State::Left { .. } => false,
        };
        reachable && !self.addrs.is_empty()
    }

    /// The connected time of the mesh at which it is forgotten, if it is dead or left.
    pub(super) fn forget_at(&self) -> Option<Duration> {
        match self.state {
            State::Dead { forget_at, .. } | State::Left { forget_at, .. } => Some(forget_at),
            State::Rumour { .. } | State::Connected(_) => None,
        }
    }

    /// The time since the peer was lost or first heard of; zero while it is connected.
    pub(super) fn outage(&self, now: Instant) -> Duration {
        match &self.state {
            State::Rumour { since, .. } | State::Dead { since, .. } | State::Left { since, .. } => {
                now.saturating_duration_since(*since)
            }
            State::Connected(_) => Duration::ZERO,
        }
    }

    /// A member reports that it is connected to this peer.
    pub(super) fn reported(&mut self, by: PeerId) {
        if self.connected().is_none() && self.reached_by.len() < REACHED_BY_MAX {
            self.reached_by.insert(by);
        }
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
