//! Membership: a peer becomes a member, and is lost, leaves and is forgotten.

use std::time::{Duration, Instant};

use super::dial_queue::{REFUSED_WAIT, Target};
use super::io::{Output, Report};
use super::machine::Mesh;
use super::peer::{Connected, Gone, Link, Peer, State};
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
            if self.peers.remove(&id).is_some_and(|peer| peer.met.is_some()) {
                self.output(Output::Persist);
            }
            self.timers.cancel(Timer::Dial(Target::Peer(id)));
            self.timers.cancel(Timer::Forget(id));
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
        let peer = self.peers.get_mut(&id)?;
        let &Connected { since, .. } = peer.connected()?;
        if now.saturating_duration_since(since) >= STABLE {
            peer.backoff.reset();
        }
        peer.addrs.restart_round();
        let shown = (peer.name.clone(), peer.shown_addr());
        peer.met = peer.met.map(|met| met.again(self.wall));
        let was_member = self.peers.disconnect(now, &id, state);
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
        Gone { since: now, forget_at: self.forget_at(now), refusal }
    }

    /// Makes a provisional peer a member.
    pub(super) fn join(&mut self, now: Instant, id: PeerId) {
        let was_alone = self.peers.members() == 0;
        let Some(peer) = self.peers.join(now, &id) else {
            return;
        };
        let (name, addr) = (peer.name.clone(), peer.shown_addr());
        if was_alone {
            self.schedule_all_forgetting(now);
        }
        self.announce();
        self.membership_changed(now);
        self.notify(Event::Up { peer: id, name, addr, members: self.members() });
    }

    /// Makes room in the table for a connecting peer: a full table forgets the peer that is wanted least. If no more
    /// peers may be connected, the stranger that came last gives way to an acquainted or pinned peer. Returns whether
    /// there is room.
    pub(super) fn make_room(&mut self, now: Instant, id: &PeerId) -> bool {
        let is_acquainted = self.peers.get(id).is_some_and(|peer| peer.is_acquainted(now));
        if !self.peers.has_place_for(id)
            && (is_acquainted || self.bootstraps.is_pinned(id))
            && let Some(stranger) = self.newest_stranger(now)
        {
            self.displace(now, stranger);
        }
        if !self.peers.has_room_for(id)
            && let Some(victim) = self.peers.least_wanted()
        {
            self.forget(victim);
        }
        self.peers.has_room_for(id) && self.peers.has_place_for(id)
    }

    /// The peer that connected last of those that are neither acquainted nor pinned.
    fn newest_stranger(&self, now: Instant) -> Option<PeerId> {
        let is_stranger = |id: &PeerId| {
            !self.bootstraps.is_pinned(id) && self.peers.get(id).is_some_and(|peer| !peer.is_acquainted(now))
        };
        let strangers = self.peers.iter_connected().filter(|(id, _)| is_stranger(id));
        strangers.max_by_key(|(_, connected)| connected.order).map(|(id, _)| *id)
    }

    /// Ends the sessions of a stranger, because another peer needs its place.
    fn displace(&mut self, now: Instant, stranger: PeerId) {
        self.report(Report::Displaced { peer: stranger });
        self.close_all(&stranger, ByeReason::Full);
        self.down(now, stranger, DownReason::Closed);
        self.timers.set(Timer::Dial(Target::Peer(stranger)), now + REFUSED_WAIT);
    }
}
