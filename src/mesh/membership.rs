//! Membership: a peer becomes a member, and is lost, leaves and is forgotten.

use std::time::{Duration, Instant};

use super::dial_queue::{REFUSED_WAIT, Target};
use super::flapping::HOLD_MIN;
use super::inquiry::Loss;
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

/// So many peers lost within one timeout, and more than one in `MANY_PART` of all, show that the network has failed.
/// A few peers that come and go together are less than that.
const MANY_MIN: usize = 2;
const MANY_PART: usize = 3;

impl Mesh {
    /// The peer's last session has ended, and another one is expected.
    pub(super) fn begin_grace(&mut self, now: Instant, id: PeerId) {
        if let Some((end, dead_at)) = self.grace_of(now, &id) {
            self.timers.set(Timer::Grace(id), dead_at.unwrap_or(end));
        }
    }

    /// When a peer without a session is lost at the latest: after [`GRACE`], without the stalls of this node. A peer that was
    /// silent before its carrier noticed it and closed the circuit is dead after its timeout, like any silent peer. Returns
    /// both times, the second one only if it is sooner.
    fn grace_of(&self, now: Instant, id: &PeerId) -> Option<(Instant, Option<Instant>)> {
        let connected = self.peers.connected(id)?;
        let Link::Interrupted { since, was_carried } = connected.link else {
            return None;
        };
        let end = since + GRACE + self.measures.stalls.between(since, now);
        let was_silent = was_carried && since >= self.suspected_from(since, connected);
        Some((end, self.dead_at(now, id).filter(|dead_at| was_silent && *dead_at <= end)))
    }

    /// No new session came within the grace: the peer is lost.
    pub(super) fn grace_expired(&mut self, now: Instant, id: PeerId) {
        let Some((end, dead_at)) = self.grace_of(now, &id) else {
            return;
        };
        let is_over = dead_at.filter(|dead_at| now >= *dead_at);
        let waits_until = is_over.and_then(|dead_at| self.wait_for_circuit(now, &id, dead_at));
        let lost_at = waits_until.or(dead_at).unwrap_or(end).min(end);
        let until = lost_at.max(self.measures.stalls.caught_up());
        if now < until {
            self.timers.set(Timer::Grace(id), until);
        } else {
            let reason = if dead_at.is_some() { DownReason::Timeout } else { DownReason::Closed };
            let gone = self.gone(now, id);
            self.lose(now, id, gone, reason, Some(Loss::Interrupted));
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
            self.alerts.forget(&id);
            self.end_inquiry(&id);
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
            self.end_punching(&id);
        }
    }

    /// Ends a peer's connected state. Returns its name and shown address for the event, if it was a member for the user.
    fn end_connected(&mut self, now: Instant, id: PeerId, state: State) -> Option<(String, DialAddr)> {
        for timer in [
            Timer::Heartbeat(id),
            Timer::Ping(id),
            Timer::Silence(id),
            Timer::Grace(id),
            Timer::DigestCheck(id),
            Timer::Held(id),
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
        let (was_member, was_joined) = (peer.is_member(), peer.is_joined());
        peer.met = peer.met.map(|met| met.again(self.wall));
        self.peers.disconnect(now, &id, state);
        self.end_acquaintance(now, id);
        if was_joined {
            self.announce();
        }
        if !self.leaving {
            self.schedule_forgetting(now, id);
            if was_joined {
                self.membership_changed(now);
            }
            self.output(Output::Persist);
            self.bootstraps_lost(now, id);
        }
        was_member.then_some(shown)
    }

    /// A peer is gone. If it is a stranger, this node dials it only where it met it, or where members listed it: otherwise
    /// a stranger that comes for a moment would make this node dial third parties.
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
        let loss = match reason {
            DownReason::Closed => Some(Loss::Closed),
            DownReason::Timeout | DownReason::Slow => Some(Loss::Silent),
            _ => None,
        };
        self.lose(now, id, gone, reason, loss);
    }

    /// A connected peer is lost. If it has failed, or the link to it, `loss` says how, and other members are asked.
    pub(super) fn lose(
        &mut self,
        now: Instant,
        id: PeerId,
        gone: Gone,
        reason: DownReason,
        loss: Option<Loss>,
    ) {
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let was_joined = peer.is_joined();
        let connected = peer.connected();
        let heard = connected.map_or(now, |connected| connected.heard);
        let expected = connected.map_or(Duration::ZERO, |connected| self.suspicion(connected));
        let is_silent = matches!(loss, Some(Loss::Silent | Loss::Interrupted));
        let interval = connected.map_or(self.interval(), |connected| self.longest_interval(connected));
        let quiet = was_joined && is_silent && self.is_lost_by_isolation(now, id);
        let shown = self.end_connected(now, id, State::Dead(gone));
        let is_reported = shown.is_some();
        if let Some((name, addr)) = shown {
            self.notify(Event::Down { peer: id, name, addr, reason, members: self.members(), quiet });
        }
        self.alert_lost(now, id, Some(interval).filter(|_| is_silent));
        let Some(loss) = loss.filter(|_| was_joined && !self.leaving) else {
            return self.end_inquiry(&id);
        };
        if quiet {
            return self.conclude_isolated(now, id, loss, heard);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.losses.note(now);
        }
        self.excuse_losses_of_many(now);
        self.inquire(now, id, loss, heard, expected, is_reported);
    }

    /// If many peers are lost within one timeout, the network has failed and will heal: no peer is unstable because of that.
    fn excuse_losses_of_many(&mut self, now: Instant) {
        let lost_at = |peer: &Peer| match peer.state {
            State::Dead(gone) if now.saturating_duration_since(gone.since) <= self.config.timeout => {
                Some(gone.since)
            }
            _ => None,
        };
        let lost: Vec<(PeerId, Instant)> =
            self.peers.iter().filter_map(|(id, peer)| Some((*id, lost_at(peer)?))).collect();
        if lost.len() >= MANY_MIN && lost.len() * MANY_PART > lost.len() + self.peers.joined() {
            for (id, at) in lost {
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.losses.excuse(at);
                }
            }
        }
    }

    pub(super) fn left(&mut self, now: Instant, id: PeerId) {
        self.close_all(&id, ByeReason::Duplicate);
        self.timers.cancel(Timer::Dial(Target::Peer(id)));
        for dial in self.dialing.cancel_to(&id) {
            self.close(dial, ByeReason::Duplicate);
        }
        let gone = self.gone(now, id);
        let shown = self.end_connected(now, id, State::Left(gone));
        self.end_inquiry(&id);
        if let Some((name, addr)) = shown {
            self.notify(Event::Left { peer: id, name, addr, members: self.members() });
            self.alert_lost(now, id, None);
            self.alert_returned(now, id);
        }
    }

    /// What is remembered of a peer that is gone from now on.
    pub(super) fn gone(&self, now: Instant, id: PeerId) -> Gone {
        let refusal = self.peers.get(&id).and_then(Peer::refusal);
        Gone { since: now, forget_at: self.forget_at(now), refusal, rounds_left: 0 }
    }

    /// Makes a provisional peer a member. If it was lost several times lately, it is unstable for a while.
    pub(super) fn join(&mut self, now: Instant, id: PeerId) {
        let was_alone = self.peers.joined() == 0;
        let via = self.via(&id);
        let hold = self.peers.get(&id).and_then(|peer| peer.losses.hold(now));
        if !self.peers.join(now, &id, hold) {
            return;
        }
        if let Some(connected) = self.peers.connected_mut(&id) {
            connected.told_via = via;
        }
        if was_alone {
            self.schedule_all_forgetting(now);
        }
        self.announce();
        self.membership_changed(now);
        self.tell_incidents(id);
        self.refine_by_circuit(now, id);
        match hold {
            None => self.show_up(now, id),
            Some(hold) => self.show_unstable(now, id, hold),
        }
        self.check_isolation(now);
    }

    /// An unstable peer has held: it is up for the user, too.
    pub(super) fn peer_held(&mut self, now: Instant, id: PeerId) {
        if self.peers.held(&id) {
            self.show_up(now, id);
        }
    }

    /// The user learns that a peer is a member.
    fn show_up(&mut self, now: Instant, id: PeerId) {
        self.end_inquiry(&id);
        let via = self.via(&id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.losses.held();
            let (name, addr) = (peer.name.clone(), peer.shown_addr());
            self.notify(Event::Up { peer: id, name, addr, via, members: self.members() });
            self.alert_returned(now, id);
        }
    }

    /// An unstable peer is silent for so long that it is suspected: it has to hold anew.
    pub(super) fn hold_anew(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && let State::Unstable { holds_until, .. } = &mut peer.state
        {
            *holds_until = now + peer.losses.hold(now).unwrap_or(HOLD_MIN);
            self.timers.set(Timer::Held(id), *holds_until);
        }
    }

    /// The user learns that a peer is unstable, unless it was before its last loss, too.
    fn show_unstable(&mut self, now: Instant, id: PeerId, hold: Duration) {
        self.suspend_inquiry(&id);
        self.timers.set(Timer::Held(id), now + hold);
        if let Some(peer) = self.peers.get_mut(&id)
            && peer.losses.report()
        {
            let (name, addr, losses) = (peer.name.clone(), peer.shown_addr(), peer.losses.count(now));
            self.notify(Event::Unstable { peer: id, name, addr, losses });
        }
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
