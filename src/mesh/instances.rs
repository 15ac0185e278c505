//! The processes of a peer. Each has a random instance number, which is in its Hello. A new process replaces the old
//! one, and two processes that use one key are reported.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

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
pub(super) enum Process {
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

    /// Whether this process is the last one that was accepted.
    pub(super) fn is_current(&self, instance: u64) -> bool {
        self.current == Some(instance)
    }

    /// The number of the last process that was accepted; 0 if none was.
    pub(super) fn last(&self) -> u64 {
        self.current.unwrap_or_default()
    }

    /// Notes the process of an accepted peer.
    pub(super) fn accept(&mut self, instance: u64) {
        self.current = Some(instance);
    }

    /// Judges the process of a peer that says Hello, and makes it the current one unless it is late or a clone.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        instance: u64,
        is_connected: bool,
        timeout: Duration,
    ) -> Process {
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
