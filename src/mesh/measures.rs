//! What this node has measured of itself and of its links: by this it judges the silence of its peers.

use std::time::{Duration, Instant};

use super::load::Load;
use super::rtt::RttHistogram;
use super::stall::Stalls;

/// What this node has measured of itself and of its links.
#[derive(Debug)]
pub(super) struct Measures {
    /// The start of the mesh. Send times of heartbeats are counted from it.
    pub(super) started: Instant,
    pub(super) stalls: Stalls,
    pub(super) load: Load,
    /// How long a session took to see a request, if one has said so since the last timer.
    pub(super) session_delay: Duration,
    /// Every round-trip time.
    pub(super) rtt: RttHistogram,
}

impl Measures {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            stalls: Stalls::new(now),
            load: Load::new(now),
            session_delay: Duration::ZERO,
            rtt: RttHistogram::default(),
        }
    }
}
