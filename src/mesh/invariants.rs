//! What holds after each input and each due timer, whatever happened before. Builds with debug assertions check it; the
//! simulator's profile has them.

use std::time::Instant;

use super::beacons::BEACON_DIALS_MAX;
use super::dial_queue::Target;
use super::machine::Mesh;
use super::peer::{Connected, Link, Peer, State};
use super::session_table::{SESSIONS_PER_PEER_MAX, Session};
use super::timer::Timer;
use crate::trust::peer_id::PeerId;

/// Number of peers up to which every one is checked each time. In a larger table that would take longer than the work.
const PEERS_CHECKED_MAX: usize = 64;

impl Mesh {
    /// Checks the limits of all tables, and in a small mesh that the parts agree with each other. A mesh that leaves is
    /// not checked: it has stopped its timers and said its goodbyes, and waits for the ends of its sessions.
    pub(super) fn check_invariants(&self, now: Instant) {
        if !cfg!(debug_assertions) || self.leaving {
            return;
        }
        self.peers.check_limits();
        self.accounts.check_limits();
        self.relay.check_limits();
        self.beacons.check_limits();
        self.punches.check_limits(self.peers.limit());
        self.dialing.check_limits(self.peers.limit() + self.bootstraps.len() + BEACON_DIALS_MAX);
        if self.peers.len() > PEERS_CHECKED_MAX {
            return;
        }
        self.peers.check_members();
        debug_assert!(self.peers.get(&self.id).is_none(), "this node is a peer of itself");
        debug_assert_eq!(
            self.exchange.is_settled(),
            !self.timers.is_set(Timer::Settled),
            "membership that changes settles at a time that is set"
        );
        self.check_sessions();
        self.alerts.check_limits();
        self.check_inquiries();
        self.check_silent_losses();
        self.peers.iter().for_each(|(id, peer)| self.check_peer(now, id, peer));
        self.timers.iter().for_each(|timer| self.check_timer(timer));
        for target in self.dialing.targets_in_flight() {
            debug_assert!(self.may_be_dialled(target), "a dial to {target:?} is under way");
        }
    }

    /// The open sessions are those of the connected peers, and none is with this node itself.
    fn check_sessions(&self) {
        let mut expected = 0;
        for (id, connected) in self.peers.iter_connected() {
            let is_carried = connected.sessions().iter().any(|session| session.is_carried());
            let most = if self.id < *id && !is_carried { 1 } else { SESSIONS_PER_PEER_MAX };
            debug_assert!(connected.sessions().len() <= most, "too many sessions with {}", id.short());
            for session in connected.sessions() {
                let is_its_own = |found: Session| found.peer == *id && !found.closing;
                debug_assert!(
                    self.sessions.get(*session).is_some_and(is_its_own),
                    "{session} is not an open session with {}",
                    id.short()
                );
                expected += 1;
            }
        }
        debug_assert_eq!(
            self.sessions.open().count(),
            expected,
            "an open session belongs to no connected peer"
        );
    }

    fn check_peer(&self, now: Instant, id: &PeerId, peer: &Peer) {
        peer.check_limits();
        let short = id.short();
        match &peer.state {
            State::Rumoured { .. } => {
                debug_assert!(peer.met.is_none(), "{short} was met, so it is no rumour");
                debug_assert!(!peer.addrs.is_empty(), "{short} is a rumour without an address");
            }
            State::Provisional { connected, refusal } => {
                debug_assert!(refusal.is_some(), "{short} is provisional, but refused nothing");
                self.check_connected(now, id, connected);
            }
            State::Up(connected) => self.check_connected(now, id, connected),
            State::Unstable { connected, holds_until } => {
                let held_at = self.timers.deadline(Timer::Held(*id));
                debug_assert_eq!(held_at, Some(*holds_until), "{short} would never be up");
                self.check_connected(now, id, connected);
            }
            State::Dead(_) | State::Left(_) => {
                debug_assert!(
                    self.timers.is_set(Timer::Forget(*id)) || !self.peers.connected_time.is_running(),
                    "{short} is gone, but will not be forgotten"
                );
                if matches!(peer.state, State::Dead(_)) && !peer.addrs.is_empty() {
                    debug_assert!(self.will_be_dialled(id), "{short} is lost, but will not be dialled");
                }
            }
        }
    }

    /// Whether a dial to this peer waits, is under way or has a time. The lists may exclude the peer.
    fn will_be_dialled(&self, id: &PeerId) -> bool {
        let target = Target::Peer(*id);
        self.timers.is_set(Timer::Dial(target))
            || self.dialing.is_ready_or_in_flight(target)
            || self.dialing.is_renewed(target)
            || self.config.access.check(id).is_err()
    }

    fn check_connected(&self, now: Instant, id: &PeerId, connected: &Connected) {
        let is_set = |timer| self.timers.is_set(timer);
        let short = id.short();
        match &connected.link {
            Link::Open { sessions, drain_asked } => {
                debug_assert!(!sessions.is_empty(), "{short} is connected without a session");
                let look = self.timers.deadline(Timer::Silence(*id));
                debug_assert!(look.is_some(), "a silence of {short} would not be noticed");
                // A value from which the time of the look was reckoned may have changed since.
                let suspected_at = self.suspected_at(now, id).filter(|at| now < *at && drain_asked.is_none());
                debug_assert!(
                    suspected_at.is_none_or(|at| look.is_some_and(|look| look <= at)),
                    "a silence of {short} would be noticed late: {look:?} instead of {suspected_at:?}, now {now:?}"
                );
            }
            Link::Interrupted { .. } => {
                debug_assert!(is_set(Timer::Grace(*id)), "{short} would never be lost");
            }
        }
        debug_assert_eq!(is_set(Timer::Heartbeat(*id)), self.leads(id), "heartbeats to {short}");
        debug_assert!(is_set(Timer::Ping(*id)), "{short} gets no pings");
    }

    /// Timers run only for peers that need them.
    fn check_timer(&self, timer: Timer) {
        let is_needed = match timer {
            Timer::Heartbeat(id) | Timer::Ping(id) | Timer::Silence(id) | Timer::DigestCheck(id) => {
                self.is_connected(&id)
            }
            Timer::Grace(id) => self.peers.connected(&id).is_some_and(|peer| peer.active().is_none()),
            Timer::Forget(id) => self.peers.get(&id).is_some_and(|peer| peer.forget_at().is_some()),
            Timer::Dial(target) => self.may_be_dialled(target),
            Timer::Held(id) => {
                self.peers.get(&id).is_some_and(|peer| matches!(peer.state, State::Unstable { .. }))
            }
            Timer::Witness(id) => self.witnesses.get(&id).is_some(),
            Timer::Settled | Timer::Alerts => true,
            Timer::KeyRound => self.network_key_status().is_some_and(|status| status.earlier_keys > 0),
            Timer::Path(id) => self.relay.is_sought(&id),
            Timer::Punch(id) => self.punches.is_wanted(&id),
            Timer::LeaveCarriers => self.leaving,
        };
        debug_assert!(is_needed, "{timer:?} is set for nothing");
    }

    /// This node does not dial itself, or a peer that left, unless a member lists it as connected.
    fn may_be_dialled(&self, target: Target) -> bool {
        match target {
            Target::Peer(id) => {
                let has_left = |peer: &Peer| matches!(peer.state, State::Left(gone) if gone.rounds_left == 0);
                id != self.id && !self.peers.get(&id).is_some_and(has_left)
            }
            Target::Bootstrap(index) => index < self.bootstraps.len(),
            Target::Beacon(addr) => self.beacons.pending(addr).is_some(),
        }
    }
}
