//! Dials that wait and dials under way: which may start, and how many at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::io::SessionId;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::{ConnectAddr, Pin};
use crate::util::token_bucket::TokenBucket;

/// Dials under way at once: enough to join quickly, few enough not to starve a small machine.
pub const DIALS_IN_FLIGHT_MAX: usize = 16;
/// Of these, how many may go to peers never met, and how many to known ones: neither a liar's
/// list nor a large outage keeps the other kind from being dialled.
const DIALS_OF_ONE_KIND_MAX: usize = 12;
/// Dials that may start at once: a node that joins a mesh of a hundred dials them all.
pub const DIALS_BURST: u32 = 128;
/// Dials started per second in the long run, whatever lists claim.
pub const DIALS_PER_SECOND: u32 = 64;
/// Rounds through its addresses after which a peer that nobody has met is forgotten.
pub const RUMOUR_FAILURES_MAX: u32 = 5;

/// Wait before dialling somebody who refused us.
pub(super) const REFUSED_WAIT: Duration = Duration::from_secs(60);

/// Whom a dial is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A peer, at one of its addresses; nobody else will do.
    Peer(PeerId),
    /// The `--connect` address with this index; whoever is there, unless somebody is pinned.
    Bootstrap(usize),
}

/// An address from `--connect`: dialled whenever the peer behind it is not connected, also when
/// that peer left: the user has asked for this address, not for that process.
#[derive(Debug)]
pub(super) struct Bootstrap {
    pub(super) addr: DialAddr,
    /// Who alone will do, if the user has said so.
    pub(super) pin: Option<Pin>,
    /// Who was there last.
    pub(super) peer: Option<PeerId>,
    pub(super) is_self: bool,
    pub(super) backoff: Backoff,
    /// Since when nobody is, and whether the user has been told.
    pub(super) since: Instant,
    pub(super) reported: bool,
    /// Told the user that somebody else than the pinned peer is there.
    pub(super) wrong_id_reported: bool,
}

#[derive(Debug)]
pub(super) struct Dial {
    pub(super) target: Target,
    pub(super) addr: DialAddr,
    pub(super) is_known: bool,
    pub(super) cancelled: bool,
}

/// What became of a dial whose session came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DialOutcome {
    Reached(Target, DialAddr),
    /// It had been given up, but too late to keep the other end from counting it.
    Cancelled,
}

#[derive(Debug)]
pub(super) struct DialQueue {
    pub(super) bootstraps: Vec<Bootstrap>,
    pub(super) in_flight: BTreeMap<SessionId, Dial>,
    /// Due, waiting for a slot: seeds and peers once met; peers never met.
    pub(super) ready_known: VecDeque<Target>,
    pub(super) ready_rumoured: VecDeque<Target>,
    pub(super) dialled: u64,
    pub(super) starts: TokenBucket,
}

impl DialQueue {
    pub(super) fn new(connect: &[ConnectAddr], now: Instant) -> Self {
        let mut bootstraps: Vec<Bootstrap> = Vec::new();
        for ConnectAddr { pin, addr } in connect {
            let is_same = |bootstrap: &Bootstrap| bootstrap.addr == *addr && bootstrap.pin == *pin;
            // Without its pin an address would let in whom the pin keeps out.
            let is_pinned = |other: &ConnectAddr| other.addr == *addr && other.pin.is_some();
            if bootstraps.iter().any(is_same) || (pin.is_none() && connect.iter().any(is_pinned)) {
                continue;
            }
            bootstraps.push(Bootstrap {
                addr: addr.clone(),
                pin: *pin,
                peer: None,
                is_self: false,
                backoff: Backoff::default(),
                since: now,
                reported: false,
                wrong_id_reported: false,
            });
        }
        Self {
            bootstraps,
            in_flight: BTreeMap::new(),
            ready_known: VecDeque::new(),
            ready_rumoured: VecDeque::new(),
            dialled: 0,
            starts: TokenBucket::new(DIALS_BURST, DIALS_PER_SECOND, now),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// A dial has become a session; whom it was meant for, and where.
    pub(super) fn finished(&mut self, session: SessionId) -> Option<DialOutcome> {
        let dial = self.in_flight.remove(&session)?;
        Some(if dial.cancelled {
            DialOutcome::Cancelled
        } else {
            DialOutcome::Reached(dial.target, dial.addr)
        })
    }

    /// Dials under way to one peer are off; those that are to be cancelled.
    pub(super) fn cancel_to(&mut self, id: &PeerId) -> Vec<SessionId> {
        let wanted = |dial: &Dial| dial.target == Target::Peer(*id) && !dial.cancelled;
        self.cancel(wanted)
    }

    /// All dials, under way and to come, are off; those that are to be cancelled.
    pub(super) fn give_up(&mut self) -> Vec<SessionId> {
        self.ready_known.clear();
        self.ready_rumoured.clear();
        self.cancel(|dial| !dial.cancelled)
    }

    /// Whether peers that nobody has met yet are being dialled.
    pub(super) fn is_exploring(&self) -> bool {
        !self.ready_rumoured.is_empty() || self.in_flight.values().any(|dial| !dial.is_known)
    }

    /// Whether the user has named this peer itself, not only an address.
    pub(super) fn is_pinned(&self, id: &PeerId) -> bool {
        self.bootstraps.iter().any(|bootstrap| bootstrap.pin.is_some_and(|pin| pin.matches(id)))
    }

    /// A `--connect` address leads to this node.
    pub(super) fn bootstrap_is_self(&mut self, bootstrap: usize) -> DialAddr {
        self.bootstraps[bootstrap].is_self = true;
        self.bootstraps[bootstrap].addr.clone()
    }

    fn cancel(&mut self, wanted: impl Fn(&Dial) -> bool) -> Vec<SessionId> {
        let mut cancelled = Vec::new();
        for (session, dial) in &mut self.in_flight {
            if wanted(dial) {
                dial.cancelled = true;
                cancelled.push(*session);
            }
        }
        cancelled
    }

    /// The next target that a slot is free for, and whether it is a known one.
    pub(super) fn pop_ready(&mut self) -> Option<(Target, bool)> {
        if self.in_flight.len() >= DIALS_IN_FLIGHT_MAX {
            return None;
        }
        let known = self.in_flight.values().filter(|dial| dial.is_known).count();
        let rumoured = self.in_flight.len() - known;
        if known < DIALS_OF_ONE_KIND_MAX
            && let Some(target) = self.ready_known.pop_front()
        {
            return Some((target, true));
        }
        if rumoured < DIALS_OF_ONE_KIND_MAX
            && let Some(target) = self.ready_rumoured.pop_front()
        {
            return Some((target, false));
        }
        None
    }

    /// A dial that was given up does not count: nothing comes of it, however late it ends.
    pub(super) fn is_ready_or_in_flight(&self, target: Target) -> bool {
        self.ready_known.contains(&target)
            || self.ready_rumoured.contains(&target)
            || self.in_flight.values().any(|dial| dial.target == target && !dial.cancelled)
    }
}
