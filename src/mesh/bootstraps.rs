//! The `--connect` addresses, with the pins of the user.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::{ConnectAddr, Pin};

/// Longest wait between two rounds through the IP addresses of a name that has led to a connected peer: others may come
/// there.
pub const NAME_ROUND: Duration = Duration::from_secs(60);

/// Addresses up to which the user can add more while the node runs.
pub const CONNECT_MAX: usize = 256;

/// The `--connect` addresses, each once.
#[derive(Debug)]
pub(super) struct Bootstraps {
    list: Vec<Bootstrap>,
}

/// An address from `--connect`. The mesh dials it whenever the peer behind it is not connected, also if that
/// peer left, because the user asked for this address and not for that process.
#[derive(Debug)]
pub(super) struct Bootstrap {
    pub(super) addr: DialAddr,
    /// The only peer that may answer, if the user named one.
    pub(super) pin: Option<Pin>,
    /// The last peer that answered.
    pub(super) peer: Option<PeerId>,
    /// Whether this node itself answered there. A name may lead to other nodes the next time.
    pub(super) is_self: bool,
    pub(super) backoff: Backoff,
    /// Rounds through a name in a row that led to no new peer. The wait grows with them.
    pub(super) rounds: u32,
    /// The start of the current outage, and whether the log has reported it.
    pub(super) since: Instant,
    pub(super) reported: bool,
    /// Whether the log has reported that another peer than the pinned one answers.
    pub(super) wrong_id_reported: bool,
}

impl Bootstrap {
    fn new(addr: DialAddr, pin: Option<Pin>, now: Instant) -> Self {
        Self {
            addr,
            pin,
            peer: None,
            is_self: false,
            backoff: Backoff::default(),
            rounds: 0,
            since: now,
            reported: false,
            wrong_id_reported: false,
        }
    }

    /// Whether the address may lead to any number of peers, all of which the user wants.
    pub(super) fn is_set(&self) -> bool {
        self.pin.is_none() && self.is_name()
    }

    pub(super) fn is_name(&self) -> bool {
        self.addr.is_name()
    }
}

impl Bootstraps {
    pub(super) fn new(connect: &[ConnectAddr], now: Instant) -> Self {
        let mut list: Vec<Bootstrap> = Vec::new();
        for ConnectAddr { pin, addr } in connect {
            let is_same = |bootstrap: &Bootstrap| bootstrap.addr == *addr && bootstrap.pin == *pin;
            // The same address without a pin would admit peers that the pin refuses.
            let is_pinned = |other: &ConnectAddr| other.addr == *addr && other.pin.is_some();
            if list.iter().any(is_same) || (pin.is_none() && connect.iter().any(is_pinned)) {
                continue;
            }
            list.push(Bootstrap::new(addr.clone(), *pin, now));
        }
        Self { list }
    }

    /// Adds an address, unless it is there already, with the same pin or, for an address without a pin, with any.
    /// Returns its index; `None` if there is no room.
    pub(super) fn add(&mut self, connect: &ConnectAddr, now: Instant) -> Option<usize> {
        let known = self.position(connect);
        if known.is_some() || self.list.len() >= CONNECT_MAX {
            return known;
        }
        self.list.push(Bootstrap::new(connect.addr.clone(), connect.pin, now));
        Some(self.list.len() - 1)
    }

    fn position(&self, connect: &ConnectAddr) -> Option<usize> {
        let is_it = |known: &Bootstrap| {
            known.addr == connect.addr && (connect.pin.is_none() || known.pin == connect.pin)
        };
        self.list.iter().position(is_it)
    }

    /// Whether [`Bootstraps::add`] finds or adds this address.
    pub(super) fn has_room_for(&self, connect: &ConnectAddr) -> bool {
        self.list.len() < CONNECT_MAX || self.position(connect).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bootstrap> {
        self.list.iter()
    }

    /// The address with this index, by which dials name it.
    pub(super) fn get(&self, index: usize) -> &Bootstrap {
        &self.list[index]
    }

    pub(super) fn get_mut(&mut self, index: usize) -> &mut Bootstrap {
        &mut self.list[index]
    }

    /// Whether the user pinned this peer.
    pub(super) fn is_pinned(&self, id: &PeerId) -> bool {
        self.list.iter().any(|bootstrap| bootstrap.pin.is_some_and(|pin| pin.matches(id)))
    }
}
