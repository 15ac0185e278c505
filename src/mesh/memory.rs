//! What is kept of peers beyond the life of this process, as the mesh takes and gives it.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use super::dialing::Target;
use super::lists::{LEFT_QUIET, Why};
use super::peer::{Met, Peer, State};
use super::timers::Timer;
use super::{Mesh, Output, Report, UnixTime};
use crate::addr::DialAddr;
use crate::identity::PeerId;

/// Peers that were last seen so shortly before the last of all were there when this node's memory
/// ends; the others had been lost before, and are looked for after them. Longer than it takes until
/// what is remembered of live peers is written again.
const SEEN_TOGETHER: Duration = Duration::from_secs(15 * 60);

/// A peer that a handshake has proven once, in this process or an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPeer {
    /// Who.
    pub id: PeerId,
    /// Its self-declared name, empty if it has none.
    pub name: String,
    /// When it was first met.
    pub first_seen: UnixTime,
    /// When it was last connected.
    pub last_seen: UnixTime,
    /// Whether it said goodbye then.
    pub left: bool,
    /// Where it may be reached, best first.
    pub addrs: Vec<KnownAddr>,
}

/// An address of a known peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAddr {
    /// Where.
    pub addr: DialAddr,
    /// When the peer was last reached there; `None` if it only said so.
    pub last_success: Option<UnixTime>,
}

impl Mesh {
    /// What the clock on the wall says now. To be told before every turn.
    pub fn tell_time(&mut self, wall: UnixTime) {
        self.wall = wall;
    }

    /// Takes in who is known from an earlier life, before the first turn: they are looked for like
    /// lost peers, but for those who left. Who has not been seen for as long as a lost peer is
    /// remembered is forgotten, and if they are more than there may be, those seen last stay.
    pub fn recall(&mut self, now: Instant, mut known: Vec<KnownPeer>) {
        known.retain(|peer| peer.id != self.id);
        known.sort_by_key(|peer| (Reverse(peer.last_seen), peer.id));
        let newest = known.iter().map(|peer| peer.last_seen).max().unwrap_or_default();
        let (mut peers, mut forgotten, mut surplus) = (0, 0, 0);
        for peer in known {
            let age = since(peer.last_seen, self.wall);
            if age > self.config.forget_after {
                forgotten += 1;
            } else if self.peers.len() >= self.config.peers_max {
                surplus += 1;
            } else {
                let was_there = since(peer.last_seen, newest) <= SEEN_TOGETHER;
                self.recall_one(now, peer, age, was_there);
                peers += 1;
            }
        }
        if forgotten + surplus > 0 {
            self.output(Output::Remember);
        }
        if peers + forgotten + surplus > 0 {
            self.report(Report::Recalled { peers, forgotten, surplus });
        }
    }

    fn recall_one(&mut self, now: Instant, known: KnownPeer, age: Duration, was_there: bool) {
        let id = known.id;
        let mut peer = Peer::new(now);
        peer.name = known.name;
        peer.met = Some(Met { first: known.first_seen, last: known.last_seen });
        peer.addrs.recall(known.addrs);
        peer.state = if known.left {
            // Long enough ago for others to have seen it return since.
            let quiet = now.checked_sub(age.min(LEFT_QUIET * 2));
            State::Left { since: quiet.unwrap_or(now) }
        } else {
            // However long it has been lost: that this node starts is a new hope.
            State::Dead { since: now }
        };
        if peer.wants_dial() {
            let wait = self.wait_before_dial(id, was_there, Why::Reconnect);
            self.timers.set(Timer::Dial(Target::Peer(id)), now + wait);
        }
        self.timers.set(Timer::Forget(id), now + self.config.forget_after.saturating_sub(age));
        self.peers.insert(id, peer);
    }

    /// Everybody whom a handshake has proven, in this life or an earlier one: what
    /// [`Mesh::recall`] will want.
    #[must_use]
    pub fn known_peers(&self) -> Vec<KnownPeer> {
        let known = |(id, peer): (&PeerId, &Peer)| {
            let Met { first, last } = peer.met?;
            Some(KnownPeer {
                id: *id,
                name: peer.name.clone(),
                first_seen: first,
                last_seen: if peer.live().is_some() { self.wall } else { last },
                left: matches!(peer.state, State::Left { .. }),
                addrs: peer.addrs.known(),
            })
        };
        self.peers.iter().filter_map(known).collect()
    }
}

/// From one time to a later one; nothing if the clock was set back in between.
fn since(earlier: UnixTime, later: UnixTime) -> Duration {
    Duration::from_secs(later.0.saturating_sub(earlier.0))
}
