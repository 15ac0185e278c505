//! Isolation: a node that loses more than half of its peers at once is cut off itself. It says so once, instead of
//! blaming each of them.
//!
//! Only silence counts. A closed connection is no sign of isolation: the news of it came over the network.

use std::collections::VecDeque;
use std::time::Instant;

use super::machine::Mesh;
use super::membership::GRACE;
use super::peer::{Connected, Link};
use super::silent_losses::{Isolation, LOSSES_MAX};
use crate::event::Event;
use crate::trust::peer_id::PeerId;

/// A node that had only one peer cannot tell its own failure from the peer's.
const PEERS_MIN: usize = 2;
impl Mesh {
    /// A member is about to be lost by silence. Returns whether that is part of an isolation, of which the user knows.
    pub(super) fn is_lost_by_isolation(&mut self, now: Instant, id: PeerId) -> bool {
        let window = self.config.timeout;
        let is_known = |id: &PeerId| self.peers.get(id).is_some_and(|peer| self.is_known_well(now, id, peer));
        let recent = |(at, other): &(Instant, PeerId)| {
            let is_gone = !self.is_connected(other) && self.peers.get(other).is_some();
            is_gone && *other != id && now.saturating_duration_since(*at) <= window
        };
        let lost: VecDeque<(Instant, PeerId)> =
            self.silent_losses.lost.iter().filter(|loss| recent(loss)).copied().collect();
        // Strangers cost nothing, so they count only as long as this node knows no other peers.
        let known = self.peers.iter_joined().filter(|(other, _)| is_known(other)).count()
            + lost.iter().filter(|(_, other)| is_known(other)).count();
        let counts = |other: &PeerId| known < PEERS_MIN || is_known(other);
        let present = || self.peers.iter_joined().filter(|(other, _)| counts(other) && **other != id);
        let before = lost.iter().filter(|(_, other)| counts(other)).count();
        let own = usize::from(counts(&id));
        let suspects = present().filter(|(_, connected)| self.is_suspect(now, connected)).count();
        let gone = before + own + suspects;
        let peers = before + own + present().count();
        self.silent_losses.lost = lost;
        if self.silent_losses.lost.len() < LOSSES_MAX {
            self.silent_losses.lost.push_back((now, id));
        }
        if peers >= PEERS_MIN && gone * 2 > peers {
            self.enter_isolation(now, gone, peers);
        }
        self.isolation.is_some_and(|isolation| now <= isolation.lost_until)
    }

    fn enter_isolation(&mut self, now: Instant, lost: usize, peers: usize) {
        let lost_until = now + self.config.timeout + self.config.heartbeat + GRACE;
        match &mut self.isolation {
            Some(isolation) => isolation.lost_until = lost_until,
            None => {
                self.isolation = Some(Isolation { lost_until, peers });
                self.notify(Event::Isolated { lost, members: peers + 1 });
                self.alert_isolated(now);
                self.refine_by_isolation(now);
            }
        }
    }

    /// A peer is connected or heard again. The isolation is over once this node reaches half of its peers.
    pub(super) fn check_isolation(&mut self, now: Instant) {
        let Some(isolation) = self.isolation else {
            return;
        };
        let reached =
            self.peers.iter_joined().filter(|(_, connected)| !self.is_suspect(now, connected)).count();
        if reached * 2 >= isolation.peers {
            self.isolation = None;
            self.silent_losses.lost.clear();
            self.notify(Event::Rejoined { members: self.members() });
            self.alert_rejoined(now);
            self.inquire_after_isolation(now);
        }
    }

    /// Whether a peer that is still a member is silent for so long that it may be lost.
    pub(super) fn is_suspect(&self, now: Instant, connected: &Connected) -> bool {
        match connected.link {
            Link::Interrupted { .. } => true,
            Link::Open { .. } => now >= self.suspected_from(now, connected),
        }
    }

    pub(super) fn check_silent_losses(&self) {
        debug_assert!(
            self.silent_losses.lost.len() <= LOSSES_MAX,
            "{} losses",
            self.silent_losses.lost.len()
        );
    }
}
