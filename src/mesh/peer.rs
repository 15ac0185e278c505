//! What the mesh knows of one other node.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::addrs::Addrs;
use super::backoff::Backoff;
use super::lists::ListExchange;
use super::{PeerState, SessionId};
use crate::config::HEARTBEAT;

/// Instances remembered as replaced; more restarts than that within one life are all news.
pub(super) const REPLACED_MAX: usize = 8;
/// Heartbeats whose echo is awaited; older ones have lost their use for a round-trip time.
const AWAITED_ECHOES_MAX: usize = 8;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) addrs: Addrs,
    /// The other end of its last session.
    pub(super) remote: Option<SocketAddr>,
    /// The process behind the key, once met.
    pub(super) instance: Option<u64>,
    /// Earlier processes with the key, oldest first, and when the last of them was replaced.
    pub(super) replaced: VecDeque<u64>,
    pub(super) replaced_at: Option<Instant>,
    pub(super) backoff: Backoff,
    /// Pings sent to it, ever.
    pub(super) pings_sent: u64,
    /// Told the user that its key is in use twice, or that somebody else answers at its address.
    pub(super) clone_reported: bool,
    pub(super) wrong_id_reported: bool,
    pub(super) state: State,
}

/// States carry what only they need.
#[derive(Debug)]
pub(super) enum State {
    /// Others speak of it; no handshake has proven it.
    Rumour { failures: u32, since: Instant },
    /// Connected, or between two sessions for a moment.
    Live(Box<Live>),
    /// Lost; redialled.
    Dead { since: Instant },
    /// Said goodbye; not redialled.
    Left { since: Instant },
}

#[derive(Debug)]
pub(super) struct Live {
    pub(super) since: Instant,
    /// Sessions in the order in which they came up; we send on the last.
    pub(super) sessions: Vec<SessionId>,
    /// When the peer was last heard, moved on by the time for which we were held up ourselves.
    pub(super) heard: Instant,
    /// Its silence is up, and its session has been asked for what may lie there unread.
    pub(super) is_probed: bool,
    /// Silence after which it is dead, by its own heartbeat interval.
    pub(super) timeout: Duration,
    pub(super) heartbeats: Heartbeats,
    /// Last roster it told.
    pub(super) roster: Option<u64>,
    pub(super) lists: ListExchange,
}

impl Live {
    pub(super) fn new(now: Instant, timeout: Duration) -> Self {
        Self {
            since: now,
            sessions: Vec::new(),
            heard: now,
            is_probed: false,
            timeout,
            heartbeats: Heartbeats::default(),
            roster: None,
            lists: ListExchange::new(now),
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
    pub(super) rtt: Option<Duration>,
}

impl Heartbeats {
    /// The number of the next heartbeat, which is sent now.
    pub(super) fn send(&mut self, now: Instant) -> u64 {
        self.sent += 1;
        if self.awaited.len() == AWAITED_ECHOES_MAX {
            self.awaited.pop_front();
        }
        self.awaited.push_back((self.sent, now));
        self.sent
    }

    /// An echo came back.
    pub(super) fn echoed(&mut self, now: Instant, seq: u64, held: Duration) {
        if let Some(at) = self.awaited.iter().position(|&(sent, _)| sent == seq)
            && let Some((_, sent_at)) = self.awaited.drain(..=at).next_back()
        {
            self.rtt = Some(now.saturating_duration_since(sent_at).saturating_sub(held));
        }
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
            backoff: Backoff::default(),
            pings_sent: 0,
            clone_reported: false,
            wrong_id_reported: false,
            state: State::Rumour { failures: 0, since: now },
        }
    }

    pub(super) fn live(&self) -> Option<&Live> {
        match &self.state {
            State::Live(live) => Some(live),
            _ => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.state {
            State::Live(live) => Some(live),
            _ => None,
        }
    }

    /// Whether it should be dialled: lost, never met, or live but between two sessions.
    pub(super) fn wants_dial(&self) -> bool {
        let reachable = match &self.state {
            State::Rumour { .. } | State::Dead { .. } => true,
            State::Live(live) => live.sessions.is_empty(),
            State::Left { .. } => false,
        };
        reachable && !self.addrs.is_empty()
    }

    pub(super) fn public_state(&self) -> (PeerState, Instant) {
        match &self.state {
            State::Rumour { since, .. } => (PeerState::Rumour, *since),
            State::Live(live) => (PeerState::Up, live.since),
            State::Dead { since } => (PeerState::Dead, *since),
            State::Left { since } => (PeerState::Left, *since),
        }
    }

    /// How long it has been out of reach.
    pub(super) fn outage(&self, now: Instant) -> Duration {
        match &self.state {
            State::Rumour { since, .. } | State::Dead { since } | State::Left { since } => {
                now.saturating_duration_since(*since)
            }
            State::Live(_) => Duration::ZERO,
        }
    }

    /// The address to show: the best known, or where it last connected from.
    pub(super) fn shown_addr(&self) -> SocketAddr {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        self.addrs.best().or(self.remote).unwrap_or(nowhere)
    }
}

/// The silence after which a peer with this heartbeat interval is dead: our timeout, or three of
/// its heartbeats if they are slower, but never longer than a minute, lest it be immortal.
pub(super) fn timeout_for(ours: Duration, heartbeat_ms: u32) -> Duration {
    let theirs = Duration::from_millis(heartbeat_ms.into()).max(HEARTBEAT / 100) * 3;
    ours.max(theirs.min(Duration::from_secs(60)))
}
