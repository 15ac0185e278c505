//! Which peers are admitted: the lists of the user, with `strict` the addresses of known peers, and which process may
//! use a key.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::dial_queue::Target;
use super::instances::Process;
use super::io::{Report, SessionUp};
use super::key_state::KeyProof;
use super::machine::{Mesh, millis};
use super::peer::{Peer, SeenTimes, State};
use super::standing::{ACQUAINTED_AFTER, Standing};
use super::timer::Timer;
use crate::event::DownReason;
use crate::net::addr::DialAddr;
use crate::trust::access::{Access, Refusal};
use crate::trust::peer_id::PeerId;
use crate::wire::{ByeReason, Message, Notice};

impl Mesh {
    /// Whether an authenticated peer is admitted.
    ///
    /// # Errors
    ///
    /// The reason for the goodbye, if the lists exclude the peer or, with `strict`, its address belongs to another peer.
    pub(super) fn check_admission(
        &mut self,
        up: &SessionUp,
        dialled: Option<&DialAddr>,
    ) -> Result<(), ByeReason> {
        let SessionUp { session, peer, ref hello, remote, .. } = *up;
        if let Err(why) = self.config.access.check(&peer) {
            self.report(Report::NotAdmitted { peer, addr: remote.into(), why });
            return Err(ByeReason::NotAdmitted);
        }
        if self.config.strict && !session.is_carried() && !self.bootstraps.is_pinned(&peer) {
            let mut at = remote;
            if !session.is_dialled() {
                at.set_port(hello.listen_port);
            }
            let at = DialAddr::Socket(at);
            for addr in dialled.into_iter().chain([&at]) {
                if let Some(owner) = self.peers.owner_of(addr, &peer)
                    && !(dialled.is_none() && self.is_shared(addr))
                {
                    self.tell_wrong_id(addr, owner, peer, true);
                    return Err(ByeReason::AddressTaken);
                }
            }
        }
        Ok(())
    }

    /// Whether several peers come from this address: one of its owners is connected, and this node has reached none of them
    /// there. Behind a router that translates addresses, all peers of a site come from one.
    fn is_shared(&self, addr: &DialAddr) -> bool {
        let owners = || self.peers.iter().map(|(_, peer)| peer).filter(|peer| peer.addrs.owns(addr));
        owners().any(|peer| peer.connected().is_some()) && !owners().any(|peer| peer.addrs.was_proven(addr))
    }

    /// Another peer answers at a known peer's address: the log reports it once, until the known peer is back.
    pub(super) fn tell_wrong_id(
        &mut self,
        addr: &DialAddr,
        expected: PeerId,
        found: PeerId,
        is_refused: bool,
    ) {
        if let Some(peer) = self.peers.get_mut(&expected)
            && let Some(SeenTimes { first, .. }) = peer.met
            && !std::mem::replace(&mut peer.wrong_id_reported, true)
        {
            let (addr, first_seen) = (addr.clone(), first);
            self.report(Report::WrongId { addr, expected, first_seen, found, is_refused });
        }
    }

    /// Whether this process may use its key. A new process replaces the old one. A replaced process is refused
    /// while its successor is connected; otherwise the two would replace each other endlessly. It is accepted
    /// again once its successor is gone, because Hellos can arrive in the wrong order: the Hello of the older
    /// process may come after that of its successor.
    pub(super) fn check_instance(&mut self, now: Instant, up: &SessionUp) -> bool {
        let timeout = self.config.timeout;
        let Some(peer) = self.peers.get_mut(&up.peer) else {
            return true;
        };
        let is_connected = peer.connected().is_some();
        match peer.instances.judge(now, up.hello.instance, is_connected, timeout) {
            Process::Same => true,
            Process::Restarted => {
                // The user restarted the process: that is no failure.
                peer.backoff.reset();
                peer.losses.forget();
                if is_connected {
                    self.close_all(&up.peer, ByeReason::Replaced);
                    self.down(now, up.peer, DownReason::Restarted);
                }
                self.end_inquiry(&up.peer);
                true
            }
            Process::Late => {
                self.refuse(up.session, ByeReason::Replaced);
                false
            }
            Process::Clone { is_news } => {
                if is_news {
                    self.report(Report::PeerKeyInUse { peer: up.peer, addr: up.remote });
                    self.send(&up.peer, Message::Notice(Notice::KeyInUse(up.remote)));
                }
                self.refuse(up.session, ByeReason::Cloned);
                false
            }
        }
    }

    /// This node's own key answered: this node dialled itself, or another process uses its key.
    pub(super) fn handle_own_id(&mut self, now: Instant, up: &SessionUp, target: Option<Target>) {
        if up.hello.instance == self.instance {
            self.refuse(up.session, ByeReason::OwnAddress);
            if let Some(Target::Bootstrap(bootstrap)) = target {
                self.bootstrap_is_self(now, bootstrap);
            }
        } else {
            self.report(Report::OurKeyInUse { addr: up.remote });
            self.refuse(up.session, ByeReason::Cloned);
            self.retry_refused(now, target);
        }
    }

    /// A peer reports that another process uses this node's key.
    pub(super) fn received_notice(&mut self, by: PeerId, at: SocketAddr, notice: Notice) {
        let Notice::KeyInUse(addr) = notice;
        self.report(Report::OurKeyClaimed { by, at, used_at: Some(addr) });
    }

    /// The user has changed the lists: sessions with excluded peers end, and peers that are admitted again are dialled.
    pub(super) fn access_changed(&mut self, now: Instant, access: Access) {
        self.config.access = access;
        if self.leaving {
            // The last goodbyes wait for no circuit now: an excluded peer is no member any more.
            self.timers.cancel(Timer::LeaveCarriers);
            return self.leave_carriers();
        }
        for id in self.peers.ids() {
            match self.config.access.check(&id) {
                Err(why) => self.exclude(now, id, why),
                Ok(()) => self.readmit(now, id),
            }
        }
        self.redial_bootstraps(now);
        self.start_queued_dials(now);
    }

    /// Ends the dials to an excluded peer, and its sessions.
    fn exclude(&mut self, now: Instant, id: PeerId, why: Refusal) {
        for dial in self.dialing.cancel_to(&id) {
            self.close(dial, ByeReason::NotAdmitted);
        }
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let addr = peer.shown_addr();
        match peer.state {
            State::Rumoured { .. } => self.forget(id),
            State::Provisional { .. } | State::Up(_) | State::Unstable { .. } => {
                self.report(Report::NotAdmitted { peer: id, addr, why });
                self.close_all(&id, ByeReason::NotAdmitted);
                self.down(now, id, DownReason::Denied);
            }
            // Kept, so that it can be met again once it is admitted.
            State::Dead(_) | State::Left(_) => {}
        }
    }

    /// Dials an admitted peer again if it is lost, or allows another request for its list if it is connected.
    fn readmit(&mut self, now: Instant, id: PeerId) {
        let target = Target::Peer(id);
        let soon = self.random_between(Duration::ZERO, millis(100));
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        match &mut peer.state {
            State::Dead(_) => {
                peer.backoff.reset();
                peer.addrs.restart_round();
                self.timers.set_no_later(Timer::Dial(target), now + soon);
            }
            State::Provisional { connected, .. }
            | State::Up(connected)
            | State::Unstable { connected, .. } => connected.lists.ask_anew(),
            State::Left(_) | State::Rumoured { .. } => {}
        }
    }

    /// The standing of a peer in the table.
    pub(super) fn standing(&self, now: Instant, id: &PeerId, peer: &Peer) -> Standing {
        if self.is_named_by_user(id) || peer.network_key != KeyProof::None {
            Standing::Trusted
        } else if peer.met.is_none() {
            Standing::Rumoured
        } else if peer.connected_in_all(now) >= ACQUAINTED_AFTER {
            Standing::Acquainted
        } else {
            Standing::Stranger
        }
    }

    /// When the peer stands above strangers, if it stays connected until then.
    pub(super) fn acquainted_at(&self, now: Instant, id: &PeerId) -> Instant {
        if self.is_acquainted(now, id) {
            return now;
        }
        let before = self.peers.get(id).map_or(Duration::ZERO, |peer| peer.connected_in_all(now));
        now + ACQUAINTED_AFTER.saturating_sub(before)
    }

    /// Whether the peer stands above strangers.
    #[must_use]
    pub fn is_acquainted(&self, now: Instant, id: &PeerId) -> bool {
        !self.is_stranger(now, id)
    }

    /// Whether this node knows the peer only by a key that any stranger can make, or not even that.
    pub(super) fn is_stranger(&self, now: Instant, id: &PeerId) -> bool {
        self.peers.get(id).is_none_or(|peer| self.standing(now, id, peer) <= Standing::Stranger)
    }

    /// Whether the user named the peer's id, in the allow list or with `--connect`.
    pub(super) fn is_named_by_user(&self, id: &PeerId) -> bool {
        let is_allowed = self.config.access.allow.as_ref().is_some_and(|allow| allow.contains(id));
        is_allowed || self.bootstraps.is_pinned(id)
    }
}
