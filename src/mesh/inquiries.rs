//! All inquiries about lost peers, and the limits of questions and answers.

use std::collections::BTreeMap;
use std::time::Instant;

use super::inquiry::Inquiry;
use crate::trust::peer_id::PeerId;
use crate::util::token_bucket::TokenBucket;

/// Inquiries about strangers: at once, and per second in the long run. New keys are free, and each inquiry costs up to
/// 16 questions.
const STRANGERS_BURST: u32 = 32;
const STRANGERS_PER_SECOND: u32 = 2;
/// Questions that one member may ask: at once, and per second in the long run.
pub(super) const QUESTIONS_BURST: u32 = 16;
pub(super) const QUESTIONS_PER_SECOND: u32 = 4;
/// Questions of all strangers together: at once, and per second in the long run.
const STRANGERS_QUESTIONS_BURST: u32 = 256;
const STRANGERS_QUESTIONS_PER_SECOND: u32 = 32;

/// The inquiries about lost peers.
#[derive(Debug)]
pub(super) struct Witnesses {
    /// An inquiry lasts until the peer is up again, has left or is forgotten.
    pub(super) inquiries: BTreeMap<PeerId, Inquiry>,
    /// The rate limit of inquiries about strangers.
    pub(super) about_strangers: TokenBucket,
    /// The rate limit of answers to strangers, to all of them together.
    pub(super) of_strangers: TokenBucket,
}

impl Witnesses {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            inquiries: BTreeMap::new(),
            about_strangers: TokenBucket::new(STRANGERS_BURST, STRANGERS_PER_SECOND, now),
            of_strangers: TokenBucket::new(STRANGERS_QUESTIONS_BURST, STRANGERS_QUESTIONS_PER_SECOND, now),
        }
    }

    pub(super) fn get(&self, id: &PeerId) -> Option<&Inquiry> {
        self.inquiries.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Inquiry)> {
        self.inquiries.iter()
    }
}
