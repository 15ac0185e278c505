//! The `--connect` addresses, with the pins of the user.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::{ConnectAddr, Pin};

/// Wait between two rounds through the IP addresses of a name that has led to a connected peer: others may come there.
pub const NAME_ROUND: Duration = Duration::from_secs(60);

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
    /// The start of the current outage, and whether the log has reported it.
    pub(super) since: Instant,
    pub(super) reported: bool,
    /// Whether the log has reported that another peer than the pinned one answers.
    pub(super) wrong_id_reported: bool,
}

impl Bootstrap {
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
            list.push(Bootstrap {
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
        Self { list }
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
