//! Requests for peer lists and their answers: with one connected peer, and with all.

use std::time::{Duration, Instant};

use crate::util::token_bucket::TokenBucket;

/// Shortest and longest wait before this node asks a peer again whose last list had no news.
pub(super) const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
pub(super) const ASK_AGAIN_MAX: Duration = Duration::from_secs(60);
/// An unanswered request may be repeated after this time.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Requests for lists because of digests: at once, and per second in the long run. While hundreds of peers join
/// and leave, all digests differ, and the length of each list grows with the mesh.
const DIGEST_QUESTIONS_BURST: u32 = 8;
const DIGEST_QUESTIONS_PER_SECOND: u32 = 4;
/// Shortest time between two requests for lists because of members that this node knows and has lost: a list could only
/// bring new addresses of them. A member that comes and goes makes all digests differ again and again.
const KNOWN_LOSSES_INTERVAL: Duration = Duration::from_secs(10);
/// A peer that has been lost for longer is left out of lists.
pub(super) const RECENT: Duration = Duration::from_secs(10 * 60);

/// The reason of a request for a list. It decides how soon this node dials the new peers on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExchangeReason {
    /// This node joins the mesh.
    Join,
    /// The two nodes were separated and have reconnected.
    Reconnect,
    /// The membership digests of the two nodes differ.
    Digest,
}

/// The exchange of lists with all peers.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The rate limit of requests for lists because of digests.
    pub(super) digest_questions: TokenBucket,
    /// The rate limit of those about known losses.
    pub(super) known_losses: TokenBucket,
    /// The first change of membership since it last settled; `None` while it is settled.
    pub(super) unsettled_since: Option<Instant>,
    /// The first change of membership since digests were last compared; `None` if there was none.
    pub(super) uncompared_since: Option<Instant>,
    /// Whether any list of peers has been received yet.
    pub(super) has_list: bool,
}

impl Exchange {
    pub(super) fn new(now: Instant) -> Self {
        let digest_questions = TokenBucket::new(DIGEST_QUESTIONS_BURST, DIGEST_QUESTIONS_PER_SECOND, now);
        let known_losses = TokenBucket::every(1, KNOWN_LOSSES_INTERVAL);
        Self {
            digest_questions,
            known_losses,
            unsettled_since: None,
            uncompared_since: None,
            has_list: false,
        }
    }

    /// Whether membership has settled, so that digests can be compared.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled_since.is_none()
    }
}

/// Requests and answers between this node and one connected peer.
#[derive(Debug)]
pub(super) struct PeerExchange {
    /// The open request: the time at which it was sent, its reason, and the number of frames received as its answer.
    pub(super) asked: Option<(Instant, ExchangeReason, usize)>,
    /// The peer's digest that caused the last such request.
    pub(super) asked_for: Option<u64>,
    /// The earliest time of another request about the same digest, and the wait after that request.
    pub(super) not_before: Instant,
    pub(super) interval: Duration,
    /// The time of this node's last answer to the peer.
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

    /// Whether a request is open and its answer may still come.
    pub(super) fn is_answer_due(&self, now: Instant) -> bool {
        self.asked.is_some_and(|(at, ..)| now.saturating_duration_since(at) < ANSWER_WAIT)
    }
}
