//! What one node should be doing, judged from outside by what goes in and comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_gossip::internals::mesh::{
    DIALS_BURST, DIALS_PER_SECOND, KnownPeer, STALL_MIN, SessionId, membership_digest,
};
use p2p_gossip::{Access, DialAddr, PeerId};

use super::clock::{Micros, SECOND, micros};
use super::net::{ConnId, Side};
use super::process::ProcId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Never met in this life of the process, or forgotten.
    Stranger,
    Up,
    Down,
    Left,
}

/// A moment, on a process's own clock as well, and how long it had been held up by then.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub at: Micros,
    local: Micros,
    held: Micros,
    surely_held: Micros,
}

#[derive(Debug)]
pub struct PeerShadow {
    pub standing: Standing,
    /// Since when; of a remembered stranger, since when it has been missed.
    pub since: Micros,
    /// It was met in this life of the process, or is remembered from an earlier one.
    pub is_known: bool,
    /// When it was last heard, on the node's own clock, and how long the node had been held up by then.
    pub heard: Micros,
    pub held_at_heard: Micros,
    pub surely_held_at_heard: Micros,
    /// Since when it has been up without a session.
    pub sessionless_since: Option<Micros>,
    /// Addresses that it showed or said itself.
    pub first_hand: BTreeSet<DialAddr>,
    /// Where a handshake with it was completed last, unless another peer was met there since; one
    /// of these: if a name was dialled, it or what was found behind it.
    pub proven: Vec<DialAddr>,
    /// Silence after which it is dead.
    pub timeout: Micros,
    /// The last time at which a member listed it as connected.
    pub listed_connected: Option<Micros>,
    /// Pings of it that were delivered, by the process that sent them.
    pub delivered: BTreeMap<ProcId, BTreeSet<u64>>,
    pub dials: Vec<Micros>,
    pub ups: u64,
    /// It has turned us away, and said nothing since on a session that is open.
    pub refuses: bool,
}

impl PeerShadow {
    fn new() -> Self {
        Self {
            standing: Standing::Stranger,
            since: 0,
            is_known: false,
            heard: 0,
            held_at_heard: 0,
            surely_held_at_heard: 0,
            sessionless_since: None,
            first_hand: BTreeSet::new(),
            proven: Vec::new(),
            timeout: 0,
            listed_connected: None,
            delivered: BTreeMap::new(),
            dials: Vec::new(),
            ups: 0,
            refuses: false,
        }
    }
}

/// A session as the mesh should see it.
#[derive(Clone, Copy, Debug)]
pub struct SessionOracle {
    pub peer: PeerId,
    pub conn: ConnId,
    pub side: Side,
    /// The mesh has not closed it.
    pub open: bool,
    /// Its place in the order in which sessions came up.
    pub order: u64,
}

#[derive(Debug)]
pub struct Oracle {
    id: PeerId,
    pub peers: BTreeMap<PeerId, PeerShadow>,
    pub sessions: BTreeMap<SessionId, SessionOracle>,
    /// Dials ordered and not yet answered, and of those the ones given up.
    pub dials: BTreeMap<SessionId, DialAddr>,
    /// The number of sessions that came up.
    pub came_up: u64,
    pub cancelled: BTreeSet<SessionId>,
    pub up: usize,
    pub digest: u64,
    /// How long the process stood still, and how much of that the mesh must have noticed.
    pub held: Micros,
    pub surely_held: Micros,
    /// Dials allowed now, in millionths, and as of when on the node's own clock.
    tokens: u64,
    refilled: Micros,
    /// Where the input that is being handled came from.
    pub input_from: Option<(ConnId, Side)>,
    /// Session that has just come up and not been refused, what was dialled for it, and the silence
    /// after which its peer is dead.
    pub newest: Option<(PeerId, SessionId)>,
    pub newest_dialled: Option<DialAddr>,
    pub newest_timeout: Micros,
    /// Peers whose sessions came or went in this turn.
    pub changed: BTreeSet<PeerId>,
    /// Lost their last session in this turn, without the promise of another.
    pub must_be_down: Vec<PeerId>,
    pub leaving: bool,
    /// Who may be a peer now.
    pub access: Access,
}

impl Oracle {
    pub fn new(id: PeerId, now: Micros) -> Self {
        Self {
            id,
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            dials: BTreeMap::new(),
            came_up: 0,
            cancelled: BTreeSet::new(),
            up: 0,
            digest: membership_digest([&id]),
            held: 0,
            surely_held: 0,
            tokens: u64::from(DIALS_BURST) * 1_000_000,
            refilled: now,
            input_from: None,
            newest: None,
            newest_dialled: None,
            newest_timeout: 0,
            changed: BTreeSet::new(),
            must_be_down: Vec::new(),
            leaving: false,
            access: Access::default(),
        }
    }

    pub fn peer(&mut self, id: PeerId) -> &mut PeerShadow {
        self.peers.entry(id).or_insert_with(PeerShadow::new)
    }

    /// The process begins with this memory. All but those that left are strangers that must be met again before
    /// they count.
    pub fn restore(&mut self, known: &[KnownPeer], now: Micros) {
        let own = self.id;
        for known in known.iter().filter(|known| known.id != own) {
            let peer = self.peer(known.id);
            peer.is_known = true;
            peer.since = now.saturating_sub(micros(known.missed));
            if known.left {
                peer.standing = Standing::Left;
            }
        }
    }

    pub fn is_up(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.standing == Standing::Up)
    }

    /// The process stood still for that long, on its own clock.
    /// The mesh notices the part of it, `sure`, after its next timer was due.
    pub fn held_up(&mut self, held: Micros, sure: Micros) {
        self.held += held;
        if Duration::from_micros(sure) >= STALL_MIN {
            self.surely_held += sure;
        }
    }

    pub fn moment(&self, at: Micros, local: Micros) -> Moment {
        Moment { at, local, held: self.held, surely_held: self.surely_held }
    }

    /// News may be late, and older than what was heard meanwhile.
    pub fn heard(&mut self, id: PeerId, moment: Moment) {
        let peer = self.peer(id);
        if moment.local >= peer.heard {
            peer.heard = moment.local;
            peer.held_at_heard = moment.held;
            peer.surely_held_at_heard = moment.surely_held;
        }
    }

    /// One more dial; whether that is allowed.
    pub fn take_token(&mut self, local: Micros) -> bool {
        let refill = local.saturating_sub(self.refilled) * u64::from(DIALS_PER_SECOND);
        self.refilled = local;
        // One more than the limit: the mesh may count in other steps.
        self.tokens = (self.tokens + refill).min((u64::from(DIALS_BURST) + 1) * 1_000_000);
        let left = self.tokens.checked_sub(1_000_000);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }

    pub fn set_standing(&mut self, id: PeerId, standing: Standing, now: Micros) {
        let was = self.is_up(&id);
        let is = standing == Standing::Up;
        if was != is {
            self.digest ^= membership_digest([&id]);
            self.up = if is { self.up + 1 } else { self.up - 1 };
        }
        let peer = self.peer(id);
        peer.standing = standing;
        peer.since = now;
        peer.sessionless_since = None;
        peer.ups += u64::from(is);
        peer.is_known |= is;
        peer.refuses &= !is;
        self.changed.insert(id);
    }

    pub fn open_sessions<'a>(&'a self, id: &'a PeerId) -> impl Iterator<Item = SessionId> + 'a {
        self.sessions.iter().filter(move |(_, s)| s.peer == *id && s.open).map(|(session, _)| *session)
    }

    /// The place of a session in the order in which sessions came up.
    pub fn order(&self, session: &SessionId) -> u64 {
        self.sessions.get(session).map_or(0, |session| session.order)
    }

    /// What a peer may at most be silent for, beyond its timeout.
    pub fn patience(&self, id: &PeerId) -> Micros {
        self.peers.get(id).map_or(0, |peer| self.held - peer.held_at_heard)
    }

    pub fn least_patience(&self, id: &PeerId) -> Micros {
        self.peers.get(id).map_or(0, |peer| self.surely_held - peer.surely_held_at_heard)
    }

    pub fn id(&self) -> PeerId {
        self.id
    }
}

/// Dials to one peer within ten seconds: 4 for each of its addresses until the backoff has reached
/// its cap, then one in 1.5 s at least; lists and restarts start that over now and then.
pub const DIALS_TO_ONE_PEER_MAX: usize = 60;
pub const DIALS_WINDOW: Micros = 10 * SECOND;

pub fn grace() -> Micros {
    micros(p2p_gossip::internals::mesh::GRACE)
}
