//! Peers known beyond one run: the mesh restores them from a previous run, and lists them for the next one.

use std::time::{Duration, Instant};

use super::dial_queue::Target;
use super::io::{Output, Report, UnixTime};
use super::known_peer::KnownPeer;
use super::list_exchange::ExchangeReason;
use super::machine::Mesh;
use super::peer::{Gone, Peer, SeenTimes, State};
use super::peer_exchange::LEFT_QUIET;
use super::standing::{ACQUAINTED_AFTER, Standing};
use super::timer::Timer;
use crate::trust::peer_id::PeerId;

/// A peer that missed at most this much connected time was connected when the previous run ended, or was lost in
/// the same disturbance. It is dialled first; peers that were lost earlier are dialled later.
const MISSED_LITTLE: Duration = Duration::from_secs(60);

impl Mesh {
    /// Sets the wall clock's time, before every input. It is only stored and shown.
    pub fn set_wall_clock(&mut self, wall: UnixTime) {
        self.wall = wall;
    }

    /// Restores the peers of a previous run; the driver calls this before the first input. The mesh dials them like
    /// lost peers, except peers that left. A peer that missed `config.forget_after` of connected time is
    /// forgotten. Of more than `config.peers_max` peers, acquainted ones stay before strangers, then those that missed
    /// least.
    pub fn restore(&mut self, now: Instant, mut known: Vec<KnownPeer>) {
        known.retain(|peer| peer.id != self.id);
        let is_stranger = |peer: &KnownPeer| peer.connected < ACQUAINTED_AFTER;
        known.sort_by_key(|peer| (is_stranger(peer), peer.missed, peer.id));
        let (mut peers, mut forgotten, mut surplus) = (0, 0, 0);
        for peer in known {
            if peer.missed >= self.config.forget_after {
                forgotten += 1;
            } else if !self.peers.has_room_for(&peer.id) {
                surplus += 1;
            } else {
                self.restore_one(now, peer);
                peers += 1;
            }
        }
        if forgotten + surplus > 0 {
            self.output(Output::Persist);
        }
        if peers + forgotten + surplus > 0 {
            self.report(Report::Restored { peers, forgotten, surplus });
        }
    }

    fn restore_one(&mut self, now: Instant, known: KnownPeer) {
        let KnownPeer { id, missed, connected, .. } = known;
        let forget_at = self.forget_at(now).saturating_sub(missed);
        let peer = self.peers.get_or_insert(now, id);
        peer.name = known.name;
        peer.connected_before = connected;
        peer.met = Some(SeenTimes { first: known.first_seen, last: known.last_seen.max(known.first_seen) });
        peer.addrs.restore(known.addrs);
        peer.state = if known.left {
            // It left at least that long ago. If that is long enough, a list may report its return.
            let left_at = now.checked_sub(missed.min(LEFT_QUIET * 2));
            State::Left(Gone { since: left_at.unwrap_or(now), forget_at, refusal: None, rounds_left: 0 })
        } else {
            // The outage counts from this start, so that backoff begins short.
            State::Dead(Gone { since: now, forget_at, refusal: None, rounds_left: 0 })
        };
        if self.peers.get(&id).is_some_and(Peer::wants_dial) {
            let wait = self.wait_before_dial(id, missed <= MISSED_LITTLE, ExchangeReason::Reconnect);
            self.timers.set(Timer::Dial(Target::Peer(id)), now + wait);
        }
    }

    /// The connected time at which a peer that is lost now is forgotten.
    pub(super) fn forget_at(&self, now: Instant) -> Duration {
        self.peers.connected_time.total(now) + self.config.forget_after
    }

    /// Sets the timer for forgetting a peer that is dead or left, if the connected time runs. Otherwise the next
    /// member that comes makes [`Mesh::schedule_all_forgetting`] set it.
    pub(super) fn schedule_forgetting(&mut self, now: Instant, id: PeerId) {
        if let Some(forget_at) = self.peers.get(&id).and_then(Peer::forget_at)
            && self.peers.connected_time.is_running()
        {
            let rest = forget_at.saturating_sub(self.peers.connected_time.total(now));
            self.timers.set(Timer::Forget(id), now + rest);
        }
    }

    /// Sets the timers for forgetting, because the connected time runs again.
    pub(super) fn schedule_all_forgetting(&mut self, now: Instant) {
        for id in self.peers.ids() {
            self.schedule_forgetting(now, id);
        }
    }

    /// Forgets a peer, or sets its timer again if the connected time was stopped since the timer was set.
    pub(super) fn forget_due(&mut self, now: Instant, id: PeerId) {
        let total = self.peers.connected_time.total(now);
        match self.peers.get(&id).and_then(Peer::forget_at) {
            Some(forget_at) if total < forget_at => self.schedule_forgetting(now, id),
            _ => {
                self.forget(id);
                self.alert_returned(now, id);
            }
        }
    }

    /// All peers that a handshake has proven, in this run or a previous one, for [`Mesh::restore`] in the next run.
    #[must_use]
    pub fn known_peers(&self) -> Vec<KnownPeer> {
        // The connected time at the driver's last call: a stall since then is not detected yet.
        let now = self.measures.stalls.last_call();
        let total = self.peers.connected_time.total(now);
        let known = |(id, peer): (&PeerId, &Peer)| {
            let met = peer.met?;
            let SeenTimes { first, last } =
                if peer.connected().is_some() { met.again(self.wall) } else { met };
            let addrs = match self.standing(now, id, peer) {
                Standing::Rumoured | Standing::Stranger => {
                    peer.addrs.known_of_stranger(peer.remote.map(|(addr, _)| addr.ip()))
                }
                Standing::Acquainted | Standing::Trusted => peer.addrs.known(),
            };
            let rest = peer.forget_at().map(|forget_at| forget_at.saturating_sub(total));
            Some(KnownPeer {
                id: *id,
                name: peer.name.clone(),
                first_seen: first,
                last_seen: last,
                left: matches!(peer.state, State::Left(_)),
                missed: rest.map_or(Duration::ZERO, |rest| self.config.forget_after.saturating_sub(rest)),
                connected: peer.connected_in_all(now),
                addrs,
            })
        };
        self.peers.iter().filter_map(known).collect()
    }
}
