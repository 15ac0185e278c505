//! The mesh's knowledge of one other node.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::address_book::Addrs;
use super::backoff::Backoff;
use super::io::{SessionId, UnixTime};
use super::list_exchange::PeerExchange;
use super::rtt::Rtt;
use crate::limits::{PEER_TIMEOUT_MAX, TIMEOUT_HEARTBEATS};
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::wire::ByeReason;

/// Instances remembered as replaced; more restarts than that within one life are all news.
pub(super) const REPLACED_MAX: usize = 8;
/// Peers remembered to be connected to one that we can't reach: enough to see that it is us.
const REACHED_BY_MAX: usize = 16;
/// Heartbeats whose echo is awaited; older ones have lost their use for a round-trip time.
const AWAITED_ECHOES_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) addrs: Addrs,
    /// The other end of its last session, and whether this node had dialled it.
    pub(super) remote: Option<(SocketAddr, bool)>,
    /// The process behind the key, once met.
    pub(super) instance: Option<u64>,
    /// Earlier processes with the key, oldest first, and when the last of them was replaced.
    pub(super) replaced: VecDeque<u64>,
    pub(super) replaced_at: Option<Instant>,
    /// When it was proven for the first and the last time, in this life or an earlier one.
    pub(super) met: Option<SeenTimes>,
    pub(super) backoff: Backoff,
    /// Pings sent to it and received from it, ever.
    pub(super) pings_sent: u64,
    pub(super) pings_received: u64,
    /// How often it became live.
    pub(super) ups: u64,
    /// The members that last reported a connection to it, while this node has none; at most [`REACHED_BY_MAX`].
    pub(super) reached_by: BTreeSet<PeerId>,
    /// Why it turned us away the last time, until it has let us in again.
    pub(super) refused: Option<ByeReason>,
    /// Whether the log has reported that its key is in use twice, or that another peer answers at its address.
    pub(super) clone_reported: bool,
    pub(super) wrong_id_reported: bool,
    pub(super) state: State,
}

/// When a peer was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeenTimes {
    pub(super) first: UnixTime,
    /// When it was last connected; of a live peer, when it came up. Never before `first`.
    pub(super) last: UnixTime,
}

impl SeenTimes {
    /// It is connected at this time, by a clock that may have been set back since it was first met.
    pub(super) fn again(self, wall: UnixTime) -> Self {
        Self { last: wall.max(self.first), ..self }
    }
}

/// States carry what only they need.
#[derive(Debug)]
pub(super) enum State {
    /// Others speak of it; no handshake has proven it.
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
    /// Whether it is a member, and the user knows: a peer that refused this node before may do so again, and is one
    /// only when it has said something else.
    pub(super) is_member: bool,
    /// Its place among all that ever came up.
    pub(super) order: u64,
    /// Sessions in the order in which they came up; we send on the last.
    pub(super) sessions: Vec<SessionId>,
    /// When the peer was last heard, moved on by the time for which we were held up ourselves.
    pub(super) heard: Instant,
    /// Its silence is up, and its session has been asked for what may lie there unread.
    pub(super) is_draining: bool,
    /// Silence after which it is dead, by its own heartbeat interval.
    pub(super) timeout: Duration,
    pub(super) heartbeats: Heartbeats,
    /// Whether it has been sent a ping since it became live.
    pub(super) is_pinged: bool,
    /// Last roster it told.
    pub(super) digest: Option<u64>,
    pub(super) lists: PeerExchange,
}

impl Connected {
    pub(super) fn new(now: Instant, order: u64, timeout: Duration) -> Self {
        Self {
            since: now,
            is_member: false,
            order,
            sessions: Vec::new(),
            heard: now,
            is_draining: false,
            timeout,
            heartbeats: Heartbeats::default(),
            is_pinged: false,
            digest: None,
            lists: PeerExchange::new(now),
        }
    }

    /// The session that we send on.
    pub(super) fn active(&self) -> Option<SessionId> {
        self.sessions.last().copied()
    }
}

/// Both directions of the heartbeat and the round-trip time that they measure.
#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    sent: u64,
    awaited: VecDeque<(u64, Instant)>,
    /// Number and arrival of the last one received, until it has been echoed.
    pub(super) to_echo: Option<(u64, Instant)>,
    pub(super) received: u64,
    /// When the last one arrived, and when the last one was sent or laid ready.
    pub(super) last_heard: Option<Instant>,
    pub(super) last_sent: Option<Instant>,
    /// Whether one lies ready on the peer's session until the peer's own arrives.
    pub(super) is_ready: bool,
    pub(super) rtt: Rtt,
}

impl Heartbeats {
    /// The number of the next heartbeat, which is sent now.
    pub(super) fn send(&mut self, now: Instant) -> u64 {
        self.sent += 1;
        self.last_sent = Some(now);
        if self.awaited.len() == AWAITED_ECHOES_MAX {
            self.awaited.pop_front();
        }
        self.awaited.push_back((self.sent, now));
        self.sent
    }

    /// An echo came back. The round-trip time that it tells, if it is of a heartbeat awaited.
    pub(super) fn echoed(&mut self, arrived: Instant, seq: u64, held: Duration) -> Option<Duration> {
        let at = self.awaited.iter().position(|&(sent, _)| sent == seq)?;
        let (_, sent_at) = self.awaited.drain(..=at).next_back()?;
        let rtt = arrived.saturating_duration_since(sent_at).saturating_sub(held);
        self.rtt.measured(rtt);
        Some(rtt)
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

    /// How long it has been out of reach.
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

    /// A dial to this address, which was answered there, has proven to lead to it. A host name is
    /// remembered only if it is the peer's own: the user's may mean many, and a stranger's may
    /// mean something else tomorrow.
    pub(super) fn prove(&mut self, dialled: DialAddr, remote: SocketAddr, at: UnixTime) {
        let is_own = self.addrs.first_hand().any(|addr| *addr == dialled);
        if dialled.socket().is_some() || is_own {
            self.addrs.prove(dialled, at);
        } else {
            self.addrs.remove(&dialled);
            self.addrs.prove(remote.into(), at);
        }
    }

    /// The address to show. Of a live peer where it was reached, or, if it came to us, the best that
    /// agrees with where it came from; else the best known.
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

/// The silence after which a peer with this heartbeat interval is dead: our timeout, or three of
/// its heartbeats if they are slower, but never longer than a minute, so that no peer counts as alive endlessly.
pub(super) fn timeout_for(ours: Duration, heartbeat_ms: u32) -> Duration {
    let theirs = Duration::from_millis(heartbeat_ms.into()) * TIMEOUT_HEARTBEATS;
    ours.max(theirs.min(PEER_TIMEOUT_MAX))
}
