//! The processes of a peer. Each has a random instance number, which is in its Hello. A new process replaces the old
//! one, and two processes that use one key are reported.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::dial_queue::Target;
use super::io::{Report, SessionUp};
use super::machine::Mesh;
use crate::event::DownReason;
use crate::wire::{ByeReason, Message, Notice};

/// Replaced instances remembered per peer. An older instance counts as a new one.
const REPLACED_MAX: usize = 8;

/// The processes of one peer in this run.
#[derive(Debug, Default)]
pub(super) struct Instances {
    /// The last one that was accepted; `None` if the peer was not met in this run.
    current: Option<u64>,
    /// Its predecessors, oldest first, at most [`REPLACED_MAX`]; and the time of the last replacement.
    replaced: VecDeque<u64>,
    replaced_at: Option<Instant>,
    /// Whether the log has reported that the peer's key is in use twice.
    clone_reported: bool,
}

/// What a process that says Hello is to the ones before.
#[derive(Debug, PartialEq, Eq)]
enum Process {
    /// The first in this run, or the same as before.
    Same,
    /// A new one, or one that comes back after its successor is gone.
    Restarted,
    /// Its successor is connected, and replaced it a moment ago: perhaps this is a late Hello of a process that has
    /// ended.
    Late,
    /// Its successor is connected: two processes use one key. Only the first time is `is_news`.
    Clone { is_news: bool },
}

impl Instances {
    /// Whether the peer was met in this run.
    pub(super) fn is_met(&self) -> bool {
        self.current.is_some()
    }

    /// Notes the process of an accepted peer.
    pub(super) fn accept(&mut self, instance: u64) {
        self.current = Some(instance);
    }

    /// Judges the process of a peer that says Hello, and makes it the current one unless it is late or a clone.
    fn judge(&mut self, now: Instant, instance: u64, is_connected: bool, timeout: Duration) -> Process {
        if self.current == Some(instance) {
            return Process::Same;
        }
        if is_connected && self.replaced.contains(&instance) {
            let is_late = self.replaced_at.is_some_and(|at| now.saturating_duration_since(at) < timeout);
            if is_late {
                return Process::Late;
            }
            return Process::Clone { is_news: !std::mem::replace(&mut self.clone_reported, true) };
        }
        let Some(old) = self.current.replace(instance) else {
            return Process::Same;
        };
        self.replaced.retain(|&replaced| replaced != instance);
        if self.replaced.len() == REPLACED_MAX {
            self.replaced.pop_front();
        }
        self.replaced.push_back(old);
        self.replaced_at = Some(now);
        Process::Restarted
    }

    pub(super) fn check_limits(&self) {
        debug_assert!(self.replaced.len() <= REPLACED_MAX, "{} replaced instances", self.replaced.len());
    }
}

impl Mesh {
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
                if is_connected {
                    self.close_all(&up.peer, ByeReason::Replaced);
                    self.down(now, up.peer, DownReason::Restarted);
                }
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
                let bootstrap = self.bootstraps.get_mut(bootstrap);
                bootstrap.is_self = true;
                let addr = bootstrap.addr.clone();
                self.report(Report::BootstrapIsSelf { addr });
            }
        } else {
            self.report(Report::OurKeyInUse { addr: up.remote });
            self.refuse(up.session, ByeReason::Cloned);
            self.retry_refused(now, target);
        }
    }

    /// A peer reports that another process uses this node's key.
    pub(super) fn received_notice(&mut self, notice: Notice) {
        let Notice::KeyInUse(addr) = notice;
        self.report(Report::OurKeyInUse { addr });
    }
}
