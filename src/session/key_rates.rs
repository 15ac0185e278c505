//! What each key may do in all of its sessions together: how often it may open one, and how many frames it may send.
//! So a peer gains nothing by opening one session after another.

use std::collections::BTreeMap;
use std::time::Instant;

use super::rate_limit::KeyRateLimit;
use crate::limits::{KEY_SESSIONS_BURST, KEY_SESSIONS_PER_SECOND, KEYS_RATED_MAX};
use crate::trust::peer_id::PeerId;
use crate::util::token_bucket::TokenBucket;

/// The rates of all keys that have a session, or had one a short time ago.
#[derive(Debug, Default)]
pub struct KeyRates {
    keys: BTreeMap<PeerId, KeyRate>,
}

#[derive(Debug)]
struct KeyRate {
    sessions: TokenBucket,
    /// Shared with the key's sessions.
    frames: KeyRateLimit,
}

/// The key opens sessions faster than a node accepts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its key opens sessions too often")]
pub struct TooManySessions;

impl KeyRates {
    /// Admits a session with the holder of this key, whose handshake is complete. Returns the rate limit of the frames
    /// of all sessions with this key. A session that this node dialled costs the key nothing.
    ///
    /// # Errors
    /// The key has used up its rate of new sessions.
    pub fn admit(
        &mut self,
        now: Instant,
        key: PeerId,
        is_dialled: bool,
    ) -> Result<KeyRateLimit, TooManySessions> {
        if self.keys.len() >= KEYS_RATED_MAX && !self.keys.contains_key(&key) {
            self.prune(now);
        }
        let rate = self.keys.entry(key).or_insert_with(|| KeyRate {
            sessions: TokenBucket::new(KEY_SESSIONS_BURST, KEY_SESSIONS_PER_SECOND, now),
            frames: KeyRateLimit::new(now),
        });
        if !is_dialled {
            rate.sessions.take(now).map_err(|_| TooManySessions)?;
        }
        Ok(rate.frames.clone())
    }

    /// Forgets keys without a session: those that would get their whole burst again anyway, and if none is left of
    /// these, all.
    fn prune(&mut self, now: Instant) {
        self.keys.retain(|_, rate| rate.frames.is_shared() || !rate.sessions.is_full(now));
        if self.keys.len() >= KEYS_RATED_MAX {
            self.keys.retain(|_, rate| rate.frames.is_shared());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::FRAMES_BURST;

    fn key(n: usize) -> PeerId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        PeerId::from_bytes(bytes)
    }

    #[test]
    fn key_opens_its_burst_of_sessions_and_then_some_a_second() {
        let (mut rates, start) = (KeyRates::default(), crate::test_now());
        let admitted = |rates: &mut KeyRates, now, key| {
            (0..1000).filter(|_| rates.admit(now, key, false).is_ok()).count()
        };
        assert_eq!(admitted(&mut rates, start, key(1)), KEY_SESSIONS_BURST as usize);
        let later = start + Duration::from_secs(2);
        assert_eq!(admitted(&mut rates, later, key(1)), 2 * KEY_SESSIONS_PER_SECOND as usize);
        // Neither another key nor a dial of this node pays for it.
        assert_eq!(admitted(&mut rates, later, key(2)), KEY_SESSIONS_BURST as usize);
        assert!(rates.admit(later, key(1), true).is_ok());
    }

    #[test]
    fn sessions_of_one_key_share_the_rate_of_frames() {
        let (mut rates, now) = (KeyRates::default(), crate::test_now());
        let mut sessions: Vec<KeyRateLimit> =
            [1, 1, 1, 2].iter().map(|&n| rates.admit(now, key(n), false).unwrap()).collect();
        let admitted =
            |frames: &mut KeyRateLimit| (0..2 * FRAMES_BURST).filter(|_| frames.admit(now).is_ok()).count();
        let of_first: usize = sessions[..3].iter_mut().map(admitted).sum();
        assert_eq!((of_first, admitted(&mut sessions[3])), (FRAMES_BURST as usize, FRAMES_BURST as usize));
        // A new session does not bring a new burst.
        assert!(rates.admit(now, key(1), false).unwrap().admit(now).is_err());
    }

    #[test]
    fn number_of_keys_is_bounded_and_keys_with_a_session_are_kept() {
        let (mut rates, now) = (KeyRates::default(), crate::test_now());
        let mut kept = rates.admit(now, key(0), false).unwrap();
        while kept.admit(now).is_ok() {}
        for n in 1..3 * KEYS_RATED_MAX {
            let _ = rates.admit(now, key(n), false);
            assert!(rates.keys.len() <= KEYS_RATED_MAX);
        }
        assert!(rates.admit(now, key(0), false).unwrap().admit(now).is_err());
    }
}
