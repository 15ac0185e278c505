//! Dials to the `--connect` addresses.

use std::time::{Duration, Instant};

use super::bootstraps::NAME_ROUND;
use super::dial_queue::Target;
use super::io::{DialError, Report};
use super::machine::{Mesh, millis};
use super::timer::Timer;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::ConnectAddr;

/// Wait before a lost `--connect` address is dialled: the peer behind it is redialled sooner.
pub(super) const BOOTSTRAP_WAIT: Duration = Duration::from_secs(1);

impl Mesh {
    /// Dials all `--connect` addresses.
    pub(super) fn dial_bootstraps(&mut self, now: Instant) {
        for bootstrap in 0..self.bootstraps.len() {
            self.timers.set(Timer::Dial(Target::Bootstrap(bootstrap)), now);
        }
    }

    /// The user adds an address to join through, or asks for a dial to one that is there: this node dials it now.
    pub(super) fn connect_to(&mut self, now: Instant, connect: ConnectAddr) {
        if self.leaving {
            return;
        }
        let known = self.bootstraps.len();
        if let Some(index) = self.bootstraps.add(&connect, now) {
            if index == known {
                self.config.connect.push(connect);
            }
            let bootstrap = self.bootstraps.get_mut(index);
            // The user wants to see in the log whether it answers.
            bootstrap.reported = false;
            bootstrap.wrong_id_reported = false;
            bootstrap.backoff.reset();
            self.timers.set_no_later(Timer::Dial(Target::Bootstrap(index)), now);
        }
    }

    /// Notes that a dial reached a `--connect` address, if that was its target. The other addresses of a name follow,
    /// once the peer's list has had the time to bring most of the peers there.
    pub(super) fn bootstrap_reached(&mut self, now: Instant, target: Option<Target>, id: PeerId) {
        if let Some(Target::Bootstrap(index)) = target {
            let bootstrap = self.bootstraps.get_mut(index);
            bootstrap.peer = Some(id);
            bootstrap.is_self = false;
            bootstrap.backoff.reset();
            bootstrap.reported = false;
            bootstrap.wrong_id_reported = false;
            if bootstrap.is_set() {
                bootstrap.rounds = 0;
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.behind = Some(index);
                }
                let wait = self.random_between(BOOTSTRAP_WAIT, BOOTSTRAP_WAIT * 3 / 2);
                self.timers.set(Timer::Dial(Target::Bootstrap(index)), now + wait);
            }
        }
    }

    /// This node itself answered at a `--connect` address. That says nothing about the other addresses of a name, nor
    /// about the same name a moment later.
    pub(super) fn bootstrap_is_self(&mut self, now: Instant, index: usize) {
        let bootstrap = self.bootstraps.get_mut(index);
        let is_news = !std::mem::replace(&mut bootstrap.is_self, true);
        let addr = bootstrap.addr.clone();
        if bootstrap.is_name() {
            let wait = self.bootstrap_wait(now, index);
            self.timers.set(Timer::Dial(Target::Bootstrap(index)), now + wait);
        }
        if is_news && self.peers.joined() == 0 {
            self.report(Report::BootstrapIsSelf { addr });
        }
    }

    /// The wait before the next round through a `--connect` address. A name that leads to a connected peer can wait:
    /// the peers there tell each other of those that come.
    fn bootstrap_wait(&mut self, now: Instant, index: usize) -> Duration {
        if self.leads_to_a_peer(index) {
            return self.name_round(index);
        }
        let bootstrap = self.bootstraps.get_mut(index);
        let outage = now.saturating_duration_since(bootstrap.since);
        bootstrap.backoff.next(&mut self.rng, outage)
    }

    /// The wait before the next round through a name behind which peers are connected. It doubles with each round that
    /// led to no new peer: behind a proxy the first answers may all come from one part of a mesh that is not whole.
    fn name_round(&mut self, index: usize) -> Duration {
        let bootstrap = self.bootstraps.get_mut(index);
        bootstrap.rounds = bootstrap.rounds.saturating_add(1);
        let nominal = BOOTSTRAP_WAIT.saturating_mul(2u32.saturating_pow(bootstrap.rounds)).min(NAME_ROUND);
        self.random_between(nominal * 3 / 4, nominal)
    }

    fn leads_to_a_peer(&self, index: usize) -> bool {
        let bootstrap = self.bootstraps.get(index);
        bootstrap.is_set() && bootstrap.peer.is_some_and(|peer| self.is_connected(&peer))
    }

    /// Schedules dials of the `--connect` addresses that lead to a lost peer. A name leads to many, so its turn comes
    /// with each of them, and when the last peer of all is lost.
    pub(super) fn bootstraps_lost(&mut self, now: Instant, id: PeerId) {
        let is_alone = self.peers.joined() == 0;
        let behind = self.peers.get(&id).and_then(|peer| peer.behind);
        for index in 0..self.bootstraps.len() {
            let bootstrap = self.bootstraps.get_mut(index);
            if bootstrap.peer == Some(id) || bootstrap.is_set() && (is_alone || behind == Some(index)) {
                bootstrap.since = now;
                bootstrap.rounds = 0;
                let wait = self.random_between(BOOTSTRAP_WAIT, BOOTSTRAP_WAIT * 3 / 2);
                self.timers.set_no_later(Timer::Dial(Target::Bootstrap(index)), now + wait);
            }
        }
    }

    /// Dials all waiting `--connect` addresses soon, because they may answer now.
    pub(super) fn redial_bootstraps(&mut self, now: Instant) {
        for index in 0..self.bootstraps.len() {
            let target = Target::Bootstrap(index);
            if self.timers.is_set(Timer::Dial(target)) {
                self.bootstraps.get_mut(index).backoff.reset();
                let soon = self.random_between(Duration::ZERO, millis(100));
                self.timers.set_no_later(Timer::Dial(target), now + soon);
            }
        }
    }

    /// Delays the dials of this peer's `--connect` addresses until the given time.
    pub(super) fn bootstraps_wait(&mut self, id: PeerId, until: Instant) {
        for (index, bootstrap) in self.bootstraps.iter().enumerate() {
            if bootstrap.peer == Some(id) {
                self.timers.set(Timer::Dial(Target::Bootstrap(index)), until);
            }
        }
    }

    /// A dial of a `--connect` address failed: the mesh dials it again after its backoff.
    pub(super) fn bootstrap_failed(&mut self, now: Instant, index: usize, reason: DialError) {
        let leads_to_a_peer = self.leads_to_a_peer(index);
        let wait = if reason == DialError::NothingNew {
            self.name_round(index)
        } else {
            self.bootstrap_wait(now, index)
        };
        let bootstrap = self.bootstraps.get_mut(index);
        let addr = bootstrap.addr.clone();
        self.timers.set(Timer::Dial(Target::Bootstrap(index)), now + wait);
        let detail = match reason {
            DialError::Failed(detail) | DialError::Refused(detail) => {
                if !leads_to_a_peer && !std::mem::replace(&mut bootstrap.reported, true) {
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
            DialError::OwnAddress => return self.bootstrap_is_self(now, index),
            DialError::NothingNew | DialError::Cancelled => return,
        };
        self.report(Report::DialFailed { peer: None, addr, detail, retry_in: Some(wait) });
    }
}
