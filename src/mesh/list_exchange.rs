//! Requests for peer lists and their answers, between this node and one live peer.

use std::time::{Duration, Instant};

use crate::util::token_bucket::TokenBucket;

/// Shortest and longest wait before the same peer is asked again without having brought news.
pub(super) const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
pub(super) const ASK_AGAIN_MAX: Duration = Duration::from_secs(60);
/// A request unanswered for this long may be repeated.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Lists asked for because of rosters, at once and a second in the long run: while hundreds come and go all
/// rosters differ, and each list is as long as the mesh is large.
const ROSTER_QUESTIONS_BURST: u32 = 8;
const ROSTER_QUESTIONS_PER_SECOND: u32 = 4;

/// Why a list was asked for, which decides how its news is acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExchangeReason {
    /// We are new here.
    Join,
    /// We were apart.
    Reconnect,
    /// The other side knows other members than we do.
    Roster,
}

pub(super) fn digest_questions(now: Instant) -> TokenBucket {
    TokenBucket::new(ROSTER_QUESTIONS_BURST, ROSTER_QUESTIONS_PER_SECOND, now)
}

/// Requests and answers between us and one live peer.
#[derive(Debug)]
pub(super) struct PeerExchange {
    /// The request under way, and the frames that have answered it.
    pub(super) asked: Option<(Instant, ExchangeReason, usize)>,
    /// Roster that the peer had when we last asked because of it.
    pub(super) asked_for: Option<u64>,
    pub(super) not_before: Instant,
    pub(super) interval: Duration,
    pub(super) answered: Option<Instant>,
}

impl PeerExchange {
    pub(super) fn new(now: Instant) -> Self {
        Self { asked: None, asked_for: None, not_before: now, interval: ASK_AGAIN_MIN, answered: None }
    }

    /// Allows another question about the same digest: an old answer may be news now.
    pub(super) fn ask_anew(&mut self) {
        self.asked_for = None;
    }

    /// Whether a request is under way that may still be answered.
    pub(super) fn is_answer_due(&self, now: Instant) -> bool {
        self.asked.is_some_and(|(at, ..)| now.saturating_duration_since(at) < ANSWER_WAIT)
    }
}
