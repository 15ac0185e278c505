//! Which peers are admitted: the lists of the user, and with `strict` the addresses of known peers.

use std::time::{Duration, Instant};

use super::dial_queue::Target;
use super::io::{Report, SessionUp};
use super::machine::{Mesh, millis};
use super::peer::{SeenTimes, State};
use super::timer::Timer;
use crate::event::DownReason;
use crate::net::addr::DialAddr;
use crate::trust::access::{Access, Refusal};
use crate::trust::peer_id::PeerId;
use crate::wire::ByeReason;

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
        let SessionUp { session, peer, ref hello, remote } = *up;
        if let Err(why) = self.config.access.check(&peer) {
            self.report(Report::NotAdmitted { peer, addr: remote.into(), why });
            return Err(ByeReason::NotAdmitted);
        }
        if self.config.strict && !self.bootstraps.is_pinned(&peer) {
            let mut at = remote;
            if !session.is_dialled() {
                at.set_port(hello.listen_port);
            }
            let at = DialAddr::Socket(at);
            for addr in dialled.into_iter().chain([&at]) {
                if let Some(owner) = self.peers.owner_of(addr, &peer) {
                    self.tell_wrong_id(addr, owner, peer, true);
                    return Err(ByeReason::AddressTaken);
                }
            }
        }
        Ok(())
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

    /// The user has changed the lists: sessions with excluded peers end, and peers that are admitted again are dialled.
    pub(super) fn access_changed(&mut self, now: Instant, access: Access) {
        self.config.access = access;
        if self.leaving {
            return;
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
        self.timers.cancel(Timer::Dial(Target::Peer(id)));
        let Some(peer) = self.peers.get(&id) else {
            return;
        };
        let addr = peer.shown_addr();
        match peer.state {
            State::Rumoured { .. } => self.forget(id),
            State::Provisional { .. } | State::Up(_) => {
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
            State::Provisional { connected, .. } | State::Up(connected) => connected.lists.ask_anew(),
            State::Left(_) | State::Rumoured { .. } => {}
        }
    }
}
