//! The circuits of a node: those of its own sessions, those that it carries, and the searches for carriers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::accounts::Account;
use super::io::{CircuitAt, SessionId};
use super::standing::Standing;
use crate::limits::PEERS_LIMIT;
use crate::trust::peer_id::PeerId;
use crate::util::token_bucket::TokenBucket;
use crate::wire::CircuitId;

/// Circuits that this node asks for at once, and per second in the long run: a node behind a NAT that joins a mesh of
/// such nodes needs one for each.
const OPENS_BURST: u32 = 256;
const OPENS_PER_SECOND: u32 = 32;
/// Circuits carried for one peer that asks for them, by its standing. At worst 128 KiB wait in each.
const CARRIED_FOR_STRANGER_MAX: usize = 32;
const CARRIED_FOR_PEER_MAX: usize = 256;
/// Circuits carried for all strangers, for these and all acquainted peers, and for all peers.
const CARRIED_FOR_STRANGERS_MAX: usize = 256;
const CARRIED_FOR_ACQUAINTED_MAX: usize = 1024;
const CARRIED_MAX: usize = PEERS_LIMIT;

/// Circuits that one peer may ask this node to carry or to enter: at once, and per second in the long run. Each costs the
/// node at its end a thread and a handshake, also if the peer closes it at once. A node asks no faster.
pub(super) const CIRCUITS_BURST: u32 = 2 * OPENS_BURST;
pub(super) const CIRCUITS_PER_SECOND: u32 = OPENS_PER_SECOND;
/// A circuit of a stranger counts for this many.
const STRANGERS_CIRCUIT_COST: u32 = 4;
/// Circuits of all strangers together: at once, and per second in the long run.
const STRANGERS_CIRCUITS_BURST: u32 = 512;
const STRANGERS_CIRCUITS_PER_SECOND: u32 = 64;

/// Wait before a member that carries nothing, or has no place, is asked for another circuit.
const REFUSAL_WAIT: Duration = Duration::from_secs(5);

/// The circuits of a node.
#[derive(Debug)]
pub(super) struct Relay {
    /// For each peer without a good path: the search for one.
    pub(super) searches: BTreeMap<PeerId, Search>,
    /// The sessions of this node that run inside circuits, or will.
    pub(super) inside: BTreeMap<SessionId, Inside>,
    /// Circuits carried for others, by each of their two ends.
    pub(super) carried: BTreeMap<CircuitAt, Carried>,
    /// The number of circuits that this node has named, and of its sessions inside circuits.
    pub(super) named: u64,
    pub(super) entered: u64,
    pub(super) opens: TokenBucket,
    /// The rate limit of circuits that strangers ask this node to carry or to enter.
    pub(super) of_strangers: TokenBucket,
    /// Members that carry no circuit for this node before this time, as they have said.
    pub(super) refusing: BTreeMap<PeerId, Instant>,
    /// The last time at which a dial reached a peer.
    pub(super) last_reached: Option<Instant>,
}

/// The search for a path to a peer. The mesh has a timer for its next step.
#[derive(Debug, Default)]
pub(super) struct Search {
    pub(super) step: Step,
    pub(super) tried: BTreeSet<PeerId>,
    /// Whether all carriers have been asked once.
    pub(super) is_repeated: bool,
    /// The number of carriers asked since the search began.
    pub(super) circuits: u32,
    /// The accounts that have paid for the question to the carrier.
    pub(super) payers: Vec<Account>,
    /// The members asked whether they hear the peer, which is connected but silent, and whether they may hear it.
    pub(super) witnesses: BTreeMap<PeerId, bool>,
}

#[derive(Debug, Default)]
pub(super) enum Step {
    /// Nothing is under way before the timer.
    #[default]
    Waiting,
    /// The carrier has been asked.
    Asked { at: CircuitAt, carrier: PeerId, since: Instant },
    /// The circuit is open, and this session is to come up inside.
    Entering { session: SessionId },
}

/// A session inside a circuit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inside {
    pub(super) at: CircuitAt,
    pub(super) carrier: PeerId,
    /// The peer at the other end. A handshake proves it.
    pub(super) peer: PeerId,
    /// The time at which the carrier was asked, or offered the circuit.
    pub(super) since: Instant,
    pub(super) progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Handshake,
    Up,
    /// The circuit is not wanted any more.
    GivenUp,
}

/// One end of a circuit that this node carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried {
    pub(super) other: CircuitAt,
    /// The peer that asked for the circuit, and its standing then.
    pub(super) opener: PeerId,
    pub(super) standing: Standing,
    /// Whether this end leads to the peer that must accept the circuit.
    pub(super) is_offered: bool,
}

impl Relay {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            searches: BTreeMap::new(),
            inside: BTreeMap::new(),
            carried: BTreeMap::new(),
            named: 0,
            entered: 0,
            opens: TokenBucket::new(OPENS_BURST, OPENS_PER_SECOND, now),
            of_strangers: TokenBucket::new(STRANGERS_CIRCUITS_BURST, STRANGERS_CIRCUITS_PER_SECOND, now),
            refusing: BTreeMap::new(),
            last_reached: None,
        }
    }

    /// The carrier of a session inside a circuit.
    pub(super) fn carrier(&self, session: SessionId) -> Option<PeerId> {
        self.inside.get(&session).map(|inside| inside.carrier)
    }

    /// Whether a path to the peer is sought.
    pub(super) fn is_sought(&self, peer: &PeerId) -> bool {
        self.searches.contains_key(peer)
    }

    /// Whether some carrier has not been asked yet.
    pub(super) fn is_first_search(&self, peer: &PeerId) -> bool {
        self.searches.get(peer).is_some_and(|search| !search.is_repeated)
    }

    /// Notes whether a member refuses to carry any circuit now.
    pub(super) fn note_refusal(&mut self, now: Instant, carrier: PeerId) {
        self.refusing.retain(|_, until| now < *until);
        self.refusing.insert(carrier, now + REFUSAL_WAIT);
    }

    /// Whether a member has refused to carry circuits a short while ago.
    pub(super) fn is_refusing(&self, now: Instant, carrier: &PeerId) -> bool {
        self.refusing.get(carrier).is_some_and(|until| now < *until)
    }

    /// The number of circuits that this node carries.
    pub(super) fn carried(&self) -> usize {
        self.carried.len() / 2
    }

    /// A new name for a circuit with this peer.
    pub(super) fn name(&mut self, own: &PeerId, peer: &PeerId) -> CircuitId {
        self.named += 1;
        self.named << 1 | u64::from(own > peer)
    }

    pub(super) fn enter(&mut self, inside: Inside, is_dialled: bool) -> SessionId {
        self.entered += 1;
        let session = SessionId::carried(self.entered, is_dialled);
        self.inside.insert(session, inside);
        session
    }

    /// Whether one more circuit may be carried for a peer of this standing.
    pub(super) fn has_room_for(&self, opener: &PeerId, standing: Standing) -> bool {
        let ends = || self.carried.values().filter(|end| end.is_offered);
        let own = ends().filter(|end| end.opener == *opener).count();
        let alike = ends().filter(|end| end.standing <= standing).count();
        let (own_max, alike_max) = match standing {
            Standing::Rumoured | Standing::Stranger => (CARRIED_FOR_STRANGER_MAX, CARRIED_FOR_STRANGERS_MAX),
            Standing::Acquainted => (CARRIED_FOR_PEER_MAX, CARRIED_FOR_ACQUAINTED_MAX),
            Standing::Trusted => (CARRIED_FOR_PEER_MAX, CARRIED_MAX),
        };
        own < own_max && alike < alike_max
    }

    /// Whether a peer with this rate limit asks for another circuit no faster than it may.
    pub(super) fn admits(&mut self, now: Instant, rate: &mut TokenBucket, is_stranger: bool) -> bool {
        let is_admitted = rate.has_token(now) && (!is_stranger || self.of_strangers.take(now).is_ok());
        if is_admitted {
            rate.take_up_to(now, if is_stranger { STRANGERS_CIRCUIT_COST } else { 1 });
        }
        is_admitted
    }

    pub(super) fn forget_carried(&mut self, at: CircuitAt) -> Option<Carried> {
        let end = self.carried.remove(&at)?;
        self.carried.remove(&end.other);
        Some(end)
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.carried() <= CARRIED_MAX, "{} circuits carried", self.carried());
        for (at, end) in &self.carried {
            let other = self.carried.get(&end.other);
            debug_assert!(other.is_some_and(|other| other.other == *at), "half a circuit is carried");
        }
    }
}
