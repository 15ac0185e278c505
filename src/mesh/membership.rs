//! Membership: a peer becomes a member, and is lost, leaves and is forgotten.

use std::time::{Duration, Instant};

use super::dial_queue::{REFUSED_WAIT, Target};
use super::io::{Output, Report, SessionUp};
use super::machine::Mesh;
use super::peer::{Connected, Gone, Link, Peer, State};
use super::standing::{ACQUAINTED_AFTER, Standing};
use super::timer::Timer;
use crate::event::{DownReason, Event};
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::wire::ByeReason;

/// Time for which a peer without a session stays a member, if its last session ended for a reason that
/// promises another one: the session was a duplicate, or this node was silent. The goodbye on a duplicate may
/// overtake the Hello on the session that stays, because two connections are not ordered.
pub const GRACE: Duration = Duration::from_secs(2);

/// A session that lasts this long ends the outage before it: the next backoff starts from the beginning.
const STABLE: Duration = Duration::from_secs(5);

impl Mesh {
    /// No new session came within [`GRACE`], without the stalls of this node: the peer is lost.
    pub(super) fn grace_expired(&mut self, now: Instant, id: PeerId) {
        let connected = self.peers.connected(&id);
        let Some(&Link::Interrupted { since }) = connected.map(|connected| &connected.link) else {
            return;
        };
        let until =
            (since + GRACE + self.measures.stalls.between(since, now)).max(self.measures.stalls.caught_up());
        if now < until {
            self.timers.set(Timer::Grace(id), until);
        } else {
            self.down(now, id, DownReason::Closed);
            self.timers.set_no_later(Timer::Dial(Target::Peer(id)), now);
        }
    }

    /// The peer was silent for its timeout: it is dead.
    pub(super) fn silent(&mut self, now: Instant, id: PeerId) {
        self.close_all(&id, ByeReason::Silent);
        self.down(now, id, DownReason::Timeout);
        self.redial_later(now, id);
    }

    pub(super) fn forget(&mut self, id: PeerId) {
        if !self.is_connected(&id) {
            if let Some(peer) = self.peers.remove(&id).filter(|peer| peer.met.is_some()) {
                if self.config.strict && peer.connected_before < ACQUAINTED_AFTER {
                    self.peers.pin(id, &peer);
                }
                self.output(Output::Persist);
            }
            self.timers.cancel(Timer::Dial(Target::Peer(id)));
            self.dialing.take_waiting(Target::Peer(id));
            self.timers.cancel(Timer::Forget(id));
            self.end_search(&id);
        }
    }

    /// Ends a peer's connected state. Returns its name and shown address for the event, if it was a member.
    fn end_connected(&mut self, now: Instant, id: PeerId, state: State) -> Option<(String, DialAddr)> {
        for timer in [
            Timer::Heartbeat(id),
            Timer::Ping(id),
            Timer::Silence(id),
            Timer::Grace(id),
            Timer::DigestCheck(id),
        ] {
            self.timers.cancel(timer);
        }
        self.end_search(&id);
        let peer = self.peers.get_mut(&id)?;
        let &Connected { since, .. } = peer.connected()?;
        if now.saturating_duration_since(since) >= STABLE {
            peer.backoff.reset();
        }
        let shown = (peer.name.clone(), peer.shown_addr());
        peer.met = peer.met.map(|met| met.again(self.wall));
        let was_member = self.peers.disconnect(now, &id, state);
        self.end_acquaintance(now, id);
        if was_member {
            self.announce();
        }
        if !self.leaving {
            self.schedule_forgetting(now, id);
            if was_member {
                self.membership_changed(now);
            }
            self.output(Output::Persist);
            self.bootstraps_lost(now, id);
        }
        was_member.then_some(shown)
    }

    /// A peer is gone. If it is a stranger, this node dials it only where it met it: otherwise a stranger that comes for
    /// a moment would make this node dial third parties.
    fn end_acquaintance(&mut self, now: Instant, id: PeerId) {
        let is_stranger = self.is_stranger(now, &id);
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if is_stranger {
            peer.addrs.drop_claims(peer.remote.map(|(addr, _)| addr.ip()));
        }
        peer.addrs.restart_round();
    }

    pub(super) fn down(&mut self, now: Instant, id: PeerId, reason: DownReason) {
        let gone = self.gone(now, id);
        self.lose(now, id, gone, reason);
    }

    pub(super) fn lose(&mut self, now: Instant, id: PeerId, gone: Gone, reason: DownReason) {
        if let Some((name, addr)) = self.end_connected(now, id, State::Dead(gone)) {
            self.notify(Event::Down { peer: id, name, addr, reason, members: self.members() });
        }
    }

    pub(super) fn left(&mut self, now: Instant, id: PeerId) {
        self.close_all(&id, ByeReason::Duplicate);
        self.timers.cancel(Timer::Dial(Target::Peer(id)));
        for dial in self.dialing.cancel_to(&id) {
            self.close(dial, ByeReason::Duplicate);
        }
        let gone = self.gone(now, id);
        if let Some((name, addr)) = self.end_connected(now, id, State::Left(gone)) {
            self.notify(Event::Left { peer: id, name, addr, members: self.members() });
        }
    }

    /// What is remembered of a peer that is gone from now on.
    pub(super) fn gone(&self, now: Instant, id: PeerId) -> Gone {
        let refusal = self.peers.get(&id).and_then(Peer::refusal);
        Gone { since: now, forget_at: self.forget_at(now), refusal, rounds_left: 0 }
    }

    /// Makes a provisional peer a member.
    pub(super) fn join(&mut self, now: Instant, id: PeerId) {
        let was_alone = self.peers.members() == 0;
        let via = self.via(&id);
        let Some(peer) = self.peers.join(now, &id) else {
            return;
        };
        let (name, addr) = (peer.name.clone(), peer.shown_addr());
        if let Some(connected) = self.peers.connected_mut(&id) {
            connected.told_via = via;
        }
        if was_alone {
            self.schedule_all_forgetting(now);
        }
        self.announce();
        self.membership_changed(now);
        self.notify(Event::Up { peer: id, name, addr, via, members: self.members() });
    }

    /// Makes room for a connecting peer. If no more peers may be connected, or all peers in a full table are, the stranger
    /// that came last gives way to a peer that stands above it. A full table forgets the peer that is wanted
    /// least, but none that stands above the newcomer. Returns whether there is room.
    pub(super) fn make_room(&mut self, now: Instant, up: &SessionUp) -> bool {
        let id = up.peer;
        let newcomer = match self.peers.get(&id) {
            _ if up.network_key.is_some() || self.is_named_by_user(&id) => Standing::Trusted,
            Some(peer) => self.standing(now, &id, peer).max(Standing::Stranger),
            None => Standing::Stranger,
        };
        let standing = |id: &PeerId, peer: &Peer| self.standing(now, id, peer);
        let mut victim = self.peers.least_wanted(newcomer, standing);
        let is_full = !self.peers.has_room_for(&id);
        if (!self.peers.has_place_for(&id) || is_full && victim.is_none())
            && newcomer > Standing::Stranger
            && let Some(stranger) = self.peers.newest_stranger(standing)
        {
            self.displace(now, stranger);
            victim = victim.or(Some(stranger));
        }
        if is_full && let Some(victim) = victim {
            self.forget(victim);
        }
        self.peers.has_room_for(&id) && self.peers.has_place_for(&id)
    }

    /// Ends the sessions of a stranger, because another peer needs its place.
    fn displace(&mut self, now: Instant, stranger: PeerId) {
        self.report(Report::Displaced { peer: stranger });
        self.close_all(&stranger, ByeReason::Full);
        self.down(now, stranger, DownReason::Displaced);
        self.timers.set(Timer::Dial(Target::Peer(stranger)), now + REFUSED_WAIT);
    }
}
