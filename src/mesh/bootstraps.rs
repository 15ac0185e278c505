//! The `--connect` addresses, the pins of the user among them, and the time of each dial to them.

use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::dial_queue::Target;
use super::io::{DialError, Report};
use super::machine::{Mesh, millis};
use super::timer::Timer;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::{ConnectAddr, Pin};

/// Wait before a lost `--connect` address is dialled: the peer behind it is redialled sooner.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(1);

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
    pub(super) is_self: bool,
    pub(super) backoff: Backoff,
    /// The start of the current outage, and whether the log has reported it.
    pub(super) since: Instant,
    pub(super) reported: bool,
    /// Whether the log has reported that another peer than the pinned one answers.
    pub(super) wrong_id_reported: bool,
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

    /// The address with this index in a [`Target::Bootstrap`].
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

impl Mesh {
    /// Dials all `--connect` addresses.
    pub(super) fn dial_bootstraps(&mut self, now: Instant) {
        for bootstrap in 0..self.bootstraps.list.len() {
            self.timers.set(Timer::Dial(Target::Bootstrap(bootstrap)), now);
        }
    }

    /// Notes that a dial reached a `--connect` address, if that was its target.
    pub(super) fn bootstrap_reached(&mut self, target: Option<Target>, id: PeerId) {
        if let Some(Target::Bootstrap(bootstrap)) = target {
            let bootstrap = &mut self.bootstraps.list[bootstrap];
            bootstrap.peer = Some(id);
            bootstrap.backoff.reset();
            bootstrap.reported = false;
            bootstrap.wrong_id_reported = false;
        }
    }

    /// Schedules dials of the `--connect` addresses that lead to a lost peer.
    pub(super) fn bootstraps_lost(&mut self, now: Instant, id: PeerId) {
        for index in 0..self.bootstraps.list.len() {
            let bootstrap = &mut self.bootstraps.list[index];
            if bootstrap.peer == Some(id) {
                bootstrap.since = now;
                let wait = self.random_between(BOOTSTRAP_WAIT, BOOTSTRAP_WAIT * 3 / 2);
                self.timers.set_no_later(Timer::Dial(Target::Bootstrap(index)), now + wait);
            }
        }
    }

    /// Dials all waiting `--connect` addresses soon, because they may answer now.
    pub(super) fn redial_bootstraps(&mut self, now: Instant) {
        for index in 0..self.bootstraps.list.len() {
            let target = Target::Bootstrap(index);
            if self.timers.is_set(Timer::Dial(target)) {
                self.bootstraps.list[index].backoff.reset();
                let soon = self.random_between(Duration::ZERO, millis(100));
                self.timers.set_no_later(Timer::Dial(target), now + soon);
            }
        }
    }

    /// Delays the dials of this peer's `--connect` addresses until the given time.
    pub(super) fn bootstraps_wait(&mut self, id: PeerId, until: Instant) {
        for (index, bootstrap) in self.bootstraps.list.iter().enumerate() {
            if bootstrap.peer == Some(id) {
                self.timers.set(Timer::Dial(Target::Bootstrap(index)), until);
            }
        }
    }

    /// A dial of a `--connect` address failed: the mesh dials it again after its backoff.
    pub(super) fn bootstrap_failed(&mut self, now: Instant, index: usize, reason: DialError) {
        let bootstrap = &mut self.bootstraps.list[index];
        let outage = now.saturating_duration_since(bootstrap.since);
        let wait = bootstrap.backoff.next(&mut self.rng, outage);
        let addr = bootstrap.addr.clone();
        self.timers.set(Timer::Dial(Target::Bootstrap(index)), now + wait);
        let detail = match reason {
            DialError::Failed(detail) => {
                if !std::mem::replace(&mut bootstrap.reported, true) {
                    return self.report(Report::BootstrapUnreachable { addr, detail });
                }
                detail
            }
            DialError::WrongId { found } => {
                if let Some(pin) = bootstrap.pin {
                    if !std::mem::replace(&mut bootstrap.wrong_id_reported, true) {
                        return self.report(Report::WrongPin { addr, pin, found });
                    }
                } else if let Some(owner) = self.peers.owner_of(&addr, &found) {
                    self.tell_wrong_id(&addr, owner, found, true);
                }
                format!("peer {} answered", found.short())
            }
            DialError::Cancelled => return,
        };
        self.report(Report::DialFailed { peer: None, addr, detail, retry_in: Some(wait) });
    }
}
