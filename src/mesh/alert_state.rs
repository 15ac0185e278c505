//! What the mesh keeps for alerts: the incidents, and losses that are no incident yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::incidents::Incidents;
use crate::event::Verdict;
use crate::trust::peer_id::PeerId;
use crate::util::token_bucket::TokenBucket;

/// Incidents about strangers, and about links that only others see: at once, and one more in each period of this
/// length. New keys are free, so anyone can lose as many peers as it likes.
const STRANGE_INCIDENTS_BURST: u32 = 32;
const STRANGE_INCIDENT_EVERY: Duration = Duration::from_secs(60);
/// News that a node passes on: at once, and per second in the long run.
const PASSED_ON_BURST: u32 = 256;
const PASSED_ON_EVERY: Duration = Duration::from_millis(100);

/// The incidents, and losses that are no incident yet.
#[derive(Debug)]
pub(super) struct Alerts {
    pub(super) incidents: Incidents,
    /// The peers that were lost by silence, and the longest time between two messages of each. Of the others the connection
    /// was closed, so their machines live.
    pub(super) fell_silent: BTreeMap<PeerId, Duration>,
    /// Peers lost by silence that no member hears, and the time at which those lost so far become one incident.
    pub(super) silent: BTreeMap<PeerId, Instant>,
    pub(super) silent_until: Option<Instant>,
    /// Broken links, and when each becomes an incident.
    pub(super) links: BTreeMap<PeerId, Instant>,
    /// Since when this node is isolated, if it is.
    pub(super) isolated_since: Option<Instant>,
    /// The time at which the isolation becomes an incident.
    pub(super) isolated_until: Option<Instant>,
    /// Lost peers on which there is a verdict, and the number of losses by their first verdict.
    pub(super) judged: BTreeSet<PeerId>,
    pub(super) downs: BTreeMap<Verdict, u64>,
    pub(super) strange: TokenBucket,
    pub(super) passed_on: TokenBucket,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            incidents: Incidents::default(),
            fell_silent: BTreeMap::new(),
            silent: BTreeMap::new(),
            silent_until: None,
            links: BTreeMap::new(),
            isolated_since: None,
            isolated_until: None,
            judged: BTreeSet::new(),
            downs: BTreeMap::new(),
            strange: TokenBucket::every(STRANGE_INCIDENTS_BURST, STRANGE_INCIDENT_EVERY),
            passed_on: TokenBucket::every(PASSED_ON_BURST, PASSED_ON_EVERY),
        }
    }
}

impl Alerts {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let links = self.links.values().min().copied();
        let losses = [self.silent_until, links, self.isolated_until, self.incidents.next_deadline()];
        losses.into_iter().flatten().min()
    }

    /// The number of losses by the first verdict on each.
    pub(super) fn downs(&self) -> &BTreeMap<Verdict, u64> {
        &self.downs
    }

    /// A peer is back, or will not come back.
    pub(super) fn forget(&mut self, id: &PeerId) {
        self.fell_silent.remove(id);
        self.judged.remove(id);
        self.silent.remove(id);
        self.links.remove(id);
    }

    pub(super) fn check_limits(&self) {
        self.incidents.check_limits();
    }
}
