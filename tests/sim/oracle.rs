//! The oracle: the expected state of one node, derived from its inputs and outputs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use p2p_gossip::internals::mesh::{
    CircuitAt, DIALS_BURST, DIALS_PER_SECOND, KnownPeer, STALL_MIN, SessionId, membership_digest,
};
use p2p_gossip::{Access, DialAddr, PeerId, Pin};

use super::clock::{Micros, SECOND, micros};
use super::net::{ConnId, Side};
use super::process::ProcId;

/// The state in which the node must show a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedState {
    /// Never met in this run of the process, or forgotten.
    Stranger,
    /// A member, also while it is unstable.
    Up,
    Down,
    Left,
}

/// How well a node must know a peer. A peer of a lower rank takes no place of one of a higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    Stranger,
    /// Connected for a minute in all.
    Acquainted,
    /// The user named it.
    Trusted,
}

/// The one on whose account a node makes dials that may fail.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Debtor {
    /// The machine or the name that is dialled.
    Target(String),
    /// A peer that listed the address.
    Peer(PeerId),
    /// A peer that claims the address of another machine than the one that it came from.
    Claimant(PeerId),
    /// The strangers of one machine, one of which listed the address.
    Machine(IpAddr),
}

/// A dial that has no result yet.
#[derive(Clone, Debug)]
pub struct OpenDial {
    pub addr: DialAddr,
    /// They owe it until a session comes up.
    pub debtors: Vec<Debtor>,
}

/// What one debtor owes: dials that brought no session, less those that have been waived since.
#[derive(Clone, Copy, Debug)]
struct Debt {
    /// In microseconds: one dial is waived in [`DEBT_OF_ONE_DIAL`].
    owed: Micros,
    at: Micros,
}

/// Failed dials that a debtor may cause at once.
const DIALS_LENT_AT_ONCE: Micros = 60;
/// Later it may cause four a minute.
const DEBT_OF_ONE_DIAL: Micros = 15 * SECOND;
/// A peer that was connected for this long in all is acquainted.
const ACQUAINTED_AFTER: Micros = 60 * SECOND;
/// Clocks differ by a hundredth, and a peer is connected for a moment before it is up and after it is down.
const RANK_SLACK: Micros = 5 * SECOND;

/// A moment in one process.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Virtual time.
    pub at: Micros,
    /// Time on the process's own clock.
    local: Micros,
    /// Total stalls of the process until then.
    held: Micros,
    /// The part of `held` that the mesh must have noticed.
    surely_held: Micros,
}

/// The expectations of one node about one peer.
#[derive(Debug)]
pub struct PeerOracle {
    pub state: ExpectedState,
    /// Start of the state; for a restored stranger, the time since which the node misses it.
    pub since: Micros,
    /// The node met it in this run or restored it from a previous one.
    pub is_known: bool,
    /// Time of its last message, on the node's own clock.
    pub heard: Micros,
    /// The last wait for a circuit to it that ended in its silence: when the node asked or entered the circuit, and the end,
    /// on the same clock.
    detour: (Micros, Micros),
    /// Total stalls of the node at that time.
    pub held_at_heard: Micros,
    /// The part of them that the mesh must have noticed.
    pub surely_held_at_heard: Micros,
    /// Time since which it has been up without a session.
    pub sessionless_since: Option<Micros>,
    /// Addresses that it used or advertised itself.
    pub first_hand: BTreeSet<DialAddr>,
    /// The address of the last completed handshake with it, unless another peer answered there since. If a name was
    /// dialled, both the name and the address behind it.
    pub proven: Vec<DialAddr>,
    /// The silence after which it is dead.
    pub timeout: Micros,
    /// The last time at which a member listed it as connected.
    pub listed_connected: Option<Micros>,
    /// Sequence numbers of its delivered pings, by the process that sent them.
    pub delivered: BTreeMap<ProcId, BTreeSet<u64>>,
    /// Times of the recent dials to it.
    pub dials: Vec<Micros>,
    pub ups: u64,
    /// Addresses at which a dial has ever reached it, in this run or a previous one.
    pub reached: BTreeSet<DialAddr>,
    /// Addresses that a previous run knew.
    pub remembered: BTreeSet<DialAddr>,
    /// Addresses that other peers listed.
    pub listed: BTreeSet<DialAddr>,
    /// Those of them that a peer listed which does not lie.
    pub listed_honestly: BTreeSet<DialAddr>,
    /// The last time at which another peer listed it.
    pub listed_at: Option<Micros>,
    /// Addresses at which a dial to another peer found it, before it proved its key.
    pub seen_at: BTreeSet<DialAddr>,
    /// Those who listed it.
    pub tellers: BTreeSet<Debtor>,
    /// The IP address of the other end of its last session.
    pub came_from: Option<IpAddr>,
    /// The IP address that it connected from last, with the port that it says it listens on. `None` if this node dialled
    /// the last session.
    pub origin: Option<DialAddr>,
    /// The time for which it was up before, in this run and previous ones.
    pub up_before: Micros,
    /// It said goodbye because it leaves, and no session has come up since.
    pub stays_left: bool,
    /// The user named it.
    pub is_named: bool,
    /// It has refused this node, and has sent nothing on an open session since.
    pub refuses: bool,
    /// The last time at which it refused this node, which waits a minute then.
    pub refused_at: Micros,
}

impl PeerOracle {
    fn new() -> Self {
        Self {
            state: ExpectedState::Stranger,
            since: 0,
            is_known: false,
            heard: 0,
            detour: (0, 0),
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
            reached: BTreeSet::new(),
            remembered: BTreeSet::new(),
            listed: BTreeSet::new(),
            listed_honestly: BTreeSet::new(),
            listed_at: None,
            seen_at: BTreeSet::new(),
            tellers: BTreeSet::new(),
            came_from: None,
            origin: None,
            up_before: 0,
            stays_left: false,
            is_named: false,
            refuses: false,
            refused_at: 0,
        }
    }

    /// Whether the node knows the address only from peers that lie. How soon it dials such an address depends on what
    /// they owe.
    pub fn only_liars_told(&self, addr: &DialAddr) -> bool {
        let is_known_otherwise = self.origin.as_ref() == Some(addr)
            || [&self.listed_honestly, &self.first_hand, &self.reached, &self.remembered, &self.seen_at]
                .iter()
                .any(|known| known.contains(addr));
        self.listed.contains(addr) && !is_known_otherwise
    }

    fn up_in_all(&self, now: Micros) -> Micros {
        self.up_before + if self.state == ExpectedState::Up { now - self.since } else { 0 }
    }

    fn rank_after(&self, up: Micros) -> Rank {
        match up {
            _ if self.is_named => Rank::Trusted,
            up if up >= ACQUAINTED_AFTER => Rank::Acquainted,
            _ => Rank::Stranger,
        }
    }

    /// The lowest rank that the node may give it.
    pub fn least_rank(&self, now: Micros) -> Rank {
        self.rank_after((self.up_in_all(now) * 98 / 100).saturating_sub(RANK_SLACK))
    }

    /// The highest rank that the node may give it.
    pub fn most_rank(&self, now: Micros) -> Rank {
        self.rank_after(self.up_in_all(now) * 102 / 100 + RANK_SLACK)
    }
}

/// A circuit that may lead to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detour {
    /// A member was asked for it, and has not answered.
    Asked(CircuitAt),
    /// It is open, and the session inside has not come up.
    Entered(SessionId),
}

/// A session as the mesh should see it.
#[derive(Clone, Copy, Debug)]
pub struct SessionOracle {
    pub peer: PeerId,
    pub conn: ConnId,
    pub side: Side,
    /// The mesh has not closed it.
    pub open: bool,
    /// The place of the session in the order in which sessions came up.
    pub order: u64,
    /// When its thread last heard the peer, after it came up.
    pub heard: Option<Moment>,
}

/// The expectations of one node.
#[derive(Debug)]
pub struct Oracle {
    id: PeerId,
    pub peers: BTreeMap<PeerId, PeerOracle>,
    pub sessions: BTreeMap<SessionId, SessionOracle>,
    /// Addresses from beacons that counted.
    pub beacons: BTreeSet<DialAddr>,
    /// Dials that have no result yet.
    pub dials: BTreeMap<SessionId, OpenDial>,
    /// What the node has dialled on account of each debtor.
    debts: BTreeMap<Debtor, Debt>,
    /// Circuits that the node waits for: the peer, and the time on the node's own clock since which it does.
    detours: BTreeMap<Detour, (PeerId, Micros)>,
    /// Peers that the node has asked for their lists, and whose answers have not ended.
    pub asked: BTreeSet<PeerId>,
    /// The peer whose session came up with the current input.
    pub newcomer: Option<PeerId>,
    /// Number of sessions that have come up.
    pub came_up: u64,
    /// Sessions whose dial the node has cancelled.
    pub cancelled: BTreeSet<SessionId>,
    /// Number of peers that are up for the user.
    pub up: usize,
    /// Peers that are up, but the user does not know that yet.
    pub unstable: BTreeSet<PeerId>,
    /// Membership digest of the node and the peers that are up.
    pub digest: u64,
    /// Total stalls of the process.
    pub held: Micros,
    /// The part of them that the mesh must have noticed.
    pub surely_held: Micros,
    /// The end of its last stall.
    woke: Option<Micros>,
    /// Dials that the rate limit allows now, in millionths.
    tokens: u64,
    /// Time of the last refill, on the node's own clock.
    refilled: Micros,
    /// The connection and end that the current input came from.
    pub input_from: Option<(ConnId, Side)>,
    /// The session that came up with the current input, unless the node refused it.
    pub newest: Option<(PeerId, SessionId)>,
    /// The address that was dialled for it.
    pub newest_dialled: Option<DialAddr>,
    /// The IP address of its other end, with the port at which the peer says that it listens.
    pub newest_source: Option<SocketAddr>,
    /// The silence after which its peer is dead.
    pub newest_timeout: Micros,
    /// Peers whose sessions or state changed in this turn.
    pub changed: BTreeSet<PeerId>,
    /// Peers that lost their last session in this turn and whose goodbye does not announce another.
    pub must_be_down: Vec<PeerId>,
    /// The peers that the user named.
    pub pins: Vec<Pin>,
    pub leaving: bool,
    /// The access lists in force.
    pub access: Access,
    /// When the user last changed the access lists. A peer that they admit again is dialled at once.
    pub access_changed: Micros,
}

impl Oracle {
    pub fn new(id: PeerId, now: Micros) -> Self {
        Self {
            id,
            peers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            beacons: BTreeSet::new(),
            dials: BTreeMap::new(),
            debts: BTreeMap::new(),
            detours: BTreeMap::new(),
            asked: BTreeSet::new(),
            newcomer: None,
            came_up: 0,
            cancelled: BTreeSet::new(),
            up: 0,
            unstable: BTreeSet::new(),
            digest: membership_digest([&id]),
            held: 0,
            surely_held: 0,
            woke: None,
            tokens: u64::from(DIALS_BURST) * 1_000_000,
            refilled: now,
            input_from: None,
            newest: None,
            newest_dialled: None,
            newest_source: None,
            newest_timeout: 0,
            changed: BTreeSet::new(),
            must_be_down: Vec::new(),
            pins: Vec::new(),
            leaving: false,
            access: Access::default(),
            access_changed: 0,
        }
    }

    /// The node asks for a circuit to a peer, at this time of its own clock.
    pub fn asks_for_circuit(&mut self, at: CircuitAt, peer: PeerId, now: Micros) {
        self.detours.insert(Detour::Asked(at), (peer, now));
    }

    /// The node enters a circuit to a peer, which it has asked for or the peer has.
    pub fn enters_circuit(&mut self, session: SessionId, at: CircuitAt, peer: PeerId, now: Micros) {
        let since = self.detours.remove(&Detour::Asked(at)).map_or(now, |(_, since)| since);
        self.detours.insert(Detour::Entered(session), (peer, since));
    }

    /// The node waits no longer for these circuits.
    pub fn detours_end(&mut self, now: Micros, is_over: impl Fn(&Detour) -> bool) {
        let peers = &mut self.peers;
        self.detours.retain(|detour, &mut (id, since)| {
            let is_over = is_over(detour);
            if let Some(peer) = peers.get_mut(&id).filter(|peer| is_over && since > peer.heard) {
                peer.detour = (since, now);
            }
            !is_over
        });
    }

    /// Whether the node waited for a circuit to a silent peer when its timeout ended. It asked for the circuit, or entered
    /// it, after it last heard the peer.
    pub fn waits_for_detour(&self, id: &PeerId, peer: &PeerOracle) -> bool {
        let (since, until) = peer.detour;
        let waits = self.detours.values().any(|(to, since)| to == id && *since > peer.heard);
        waits || since > peer.heard && until >= peer.heard + peer.timeout
    }

    pub fn peer(&mut self, id: PeerId) -> &mut PeerOracle {
        let is_named = self.pins.iter().any(|pin| pin.matches(&id));
        self.peers.entry(id).or_insert_with(|| PeerOracle { is_named, ..PeerOracle::new() })
    }

    /// The process restores these peers. Except for peers that left, they are strangers until the node meets them again.
    pub fn restore(&mut self, known: &[KnownPeer], now: Micros) {
        let own = self.id;
        for known in known.iter().filter(|known| known.id != own) {
            let peer = self.peer(known.id);
            peer.is_known = true;
            peer.since = now.saturating_sub(micros(known.missed));
            peer.up_before = micros(known.connected);
            for known in &known.addrs {
                peer.remembered.insert(known.addr.clone());
                if known.last_success.is_some() {
                    peer.reached.insert(known.addr.clone());
                }
                if known.is_origin {
                    peer.origin = Some(known.addr.clone());
                }
            }
            if known.left {
                peer.state = ExpectedState::Left;
                peer.stays_left = true;
            }
        }
    }

    /// Whether a stall has ended since then.
    pub fn woke_since(&self, time: Micros) -> bool {
        self.woke.is_some_and(|woke| woke >= time)
    }

    pub fn is_up(&self, id: &PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.state == ExpectedState::Up)
    }

    /// The process stalled for this time on its own clock. The mesh surely notices the part after its next timer was due.
    pub fn stalled(&mut self, now: Micros, held: Micros, sure: Micros) {
        self.held += held;
        self.woke = Some(now);
        if Duration::from_micros(sure) >= STALL_MIN {
            self.surely_held += sure;
        }
    }

    pub fn moment(&self, at: Micros, local: Micros) -> Moment {
        Moment { at, local, held: self.held, surely_held: self.surely_held }
    }

    /// The node received a message of this peer at this moment. Reports may be out of order, so the latest counts.
    pub fn heard(&mut self, id: PeerId, moment: Moment) {
        let peer = self.peer(id);
        if moment.local >= peer.heard {
            peer.heard = moment.local;
            peer.held_at_heard = moment.held;
            peer.surely_held_at_heard = moment.surely_held;
        }
    }

    /// Counts one more dial. Returns whether the rate limit allows it.
    pub fn take_token(&mut self, local: Micros) -> bool {
        let refill = local.saturating_sub(self.refilled) * u64::from(DIALS_PER_SECOND);
        self.refilled = local;
        // One more than the limit, because the mesh may round differently.
        self.tokens = (self.tokens + refill).min((u64::from(DIALS_BURST) + 1) * 1_000_000);
        let left = self.tokens.checked_sub(1_000_000);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }

    /// A dial leaves the node on account of these. Returns those who owe too much.
    pub fn lend(&mut self, debtors: &[Debtor], local: Micros) -> Option<Debtor> {
        let mut over = None;
        for debtor in debtors {
            let debt = self.debts.entry(debtor.clone()).or_insert(Debt { owed: 0, at: local });
            debt.owed = debt.owed.saturating_sub(local - debt.at) + DEBT_OF_ONE_DIAL;
            debt.at = local;
            // One more than the limit, because the mesh may round differently.
            if debt.owed > (DIALS_LENT_AT_ONCE + 1) * DEBT_OF_ONE_DIAL {
                over = Some(debtor.clone());
            }
        }
        over
    }

    /// A session came up: the dial was no burden.
    pub fn waive(&mut self, debtors: &[Debtor]) {
        for debtor in debtors {
            if let Some(debt) = self.debts.get_mut(debtor) {
                debt.owed = debt.owed.saturating_sub(DEBT_OF_ONE_DIAL);
            }
        }
    }

    pub fn set_state(&mut self, id: PeerId, state: ExpectedState, now: Micros) {
        let was = self.is_up(&id);
        let is = state == ExpectedState::Up;
        if was != is {
            self.digest ^= membership_digest([&id]);
            let is_shown = !self.unstable.remove(&id);
            self.up = if is { self.up + 1 } else { self.up - usize::from(is_shown) };
        }
        if was && !is {
            self.asked.remove(&id);
        }
        let peer = self.peer(id);
        if was {
            peer.up_before = peer.up_in_all(now);
        }
        peer.stays_left = state == ExpectedState::Left;
        peer.state = state;
        peer.since = now;
        peer.sessionless_since = None;
        peer.ups += u64::from(is);
        peer.is_known |= is;
        peer.refuses &= !is;
        self.changed.insert(id);
    }

    /// The node counts the peer as connected, but does not show it as up yet.
    pub fn set_unstable(&mut self, id: PeerId, now: Micros) {
        self.set_state(id, ExpectedState::Up, now);
        self.unstable.insert(id);
        self.up -= 1;
    }

    /// The user learns that an unstable peer is up. Returns whether it was unstable.
    pub fn held(&mut self, id: PeerId) -> bool {
        let was_unstable = self.unstable.remove(&id);
        self.up += usize::from(was_unstable);
        was_unstable
    }

    pub fn open_sessions<'a>(&'a self, id: &'a PeerId) -> impl Iterator<Item = SessionId> + 'a {
        self.sessions.iter().filter(move |(_, s)| s.peer == *id && s.open).map(|(session, _)| *session)
    }

    /// The place of a session in the order in which sessions came up.
    pub fn order(&self, session: &SessionId) -> u64 {
        self.sessions.get(session).map_or(0, |session| session.order)
    }

    /// The longest additional silence of a peer because of this node's stalls.
    pub fn patience(&self, id: &PeerId) -> Micros {
        self.peers.get(id).map_or(0, |peer| self.held - peer.held_at_heard)
    }

    /// The shortest additional silence of a peer because of this node's stalls.
    pub fn least_patience(&self, id: &PeerId) -> Micros {
        self.peers.get(id).map_or(0, |peer| self.surely_held - peer.surely_held_at_heard)
    }

    pub fn id(&self) -> PeerId {
        self.id
    }
}

/// Most dials to one peer within `DIALS_WINDOW`: 4 for each of its addresses until the backoff has reached its cap, then
/// one in 1.5 s at most. Lists and restarts sometimes reset the backoff.
pub const DIALS_TO_ONE_PEER_MAX: usize = 60;
pub const DIALS_WINDOW: Micros = 10 * SECOND;

pub fn grace() -> Micros {
    micros(p2p_gossip::internals::mesh::GRACE)
}
