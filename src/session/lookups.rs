//! Budgets for name lookups: one for each kind of source, so that no source delays another.
//!
//! A peer may send any number of names, and each lookup costs this machine and its name server several
//! queries. So a name from a peer is looked up only while its budget lasts. Otherwise the dial fails at once and
//! is repeated after its backoff.

use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::limits::{
    PEER_LOOKUPS_AT_ONCE, PEER_LOOKUPS_BURST, PEER_LOOKUPS_PER_SECOND, USER_LOOKUPS_AT_ONCE,
    USER_LOOKUPS_BURST, USER_LOOKUPS_PER_SECOND,
};
use crate::mesh::DialSource;
use crate::util::token_bucket::TokenBucket;

/// The lookup budgets of a node.
#[derive(Debug)]
pub(crate) struct Lookups {
    user: Budget,
    known_peers: Budget,
    unknown_peers: Budget,
}

impl Lookups {
    /// Full budgets, without a lookup in progress.
    pub(crate) fn new(now: Instant) -> Self {
        let peers = || Budget::new(PEER_LOOKUPS_AT_ONCE, PEER_LOOKUPS_BURST, PEER_LOOKUPS_PER_SECOND, now);
        Self {
            user: Budget::new(USER_LOOKUPS_AT_ONCE, USER_LOOKUPS_BURST, USER_LOOKUPS_PER_SECOND, now),
            known_peers: peers(),
            unknown_peers: peers(),
        }
    }

    /// Permits one lookup, which lasts until the permit is dropped. Never blocks.
    ///
    /// # Errors
    /// The budget of this source is used up; it is unchanged.
    pub(super) fn begin(&self, source: DialSource, now: Instant) -> io::Result<Permit<'_>> {
        let budget = match source {
            DialSource::User => &self.user,
            DialSource::KnownPeer => &self.known_peers,
            DialSource::UnknownPeer => &self.unknown_peers,
        };
        let is_allowed = budget.state().begin(budget.at_once_max, now);
        if is_allowed { Ok(Permit(budget)) } else { Err(budget.refusal(source)) }
    }
}

/// One lookup in progress.
#[derive(Debug)]
pub(super) struct Permit<'a>(&'a Budget);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

#[derive(Debug)]
struct Budget {
    at_once_max: usize,
    per_second: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    starts: TokenBucket,
}

impl Budget {
    fn new(at_once_max: usize, burst: u32, per_second: u32, now: Instant) -> Self {
        let starts = TokenBucket::new(burst, per_second, now);
        Self { at_once_max, per_second, state: Mutex::new(State { under_way: 0, starts }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Both fields are valid at any time: no code that holds the lock panics between changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusal(&self, source: DialSource) -> io::Error {
        let names = match source {
            DialSource::User => "given with --connect",
            DialSource::KnownPeer => "of known peers",
            DialSource::UnknownPeer => "of peers that this node has not met",
        };
        let Self { at_once_max, per_second, .. } = self;
        let text = format!(
            "name not looked up: of names {names} at most {at_once_max} are looked up at once, \
             and {per_second} a second"
        );
        io::Error::new(ErrorKind::ResourceBusy, text)
    }
}

impl State {
    fn begin(&mut self, at_once_max: usize, now: Instant) -> bool {
        let is_allowed = self.under_way < at_once_max && self.starts.take(now).is_ok();
        self.under_way += usize::from(is_allowed);
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mesh::{DIALS_BURST, DIALS_IN_FLIGHT_MAX};

    const ALL: [DialSource; 3] = [DialSource::User, DialSource::KnownPeer, DialSource::UnknownPeer];

    #[test]
    fn slow_lookups_for_peers_leave_the_other_budgets_untouched() {
        let now = crate::test_now();
        let lookups = Lookups::new(now);
        for source in [DialSource::UnknownPeer, DialSource::KnownPeer] {
            let mut under_way: Vec<_> =
                (0..PEER_LOOKUPS_AT_ONCE).map(|_| lookups.begin(source, now).unwrap()).collect();
            let refused = lookups.begin(source, now).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ResourceBusy);
            assert!(refused.to_string().contains("at most 4 are looked up at once"), "{refused}");
            let others = ALL.into_iter().filter(|&other| other != source);
            assert!(others.clone().all(|other| lookups.begin(other, now).is_ok()), "{source:?}");
            // The end of one lookup makes room for another one.
            under_way.pop();
            assert!(lookups.begin(source, now).is_ok(), "{source:?}");
        }
    }

    #[test]
    fn many_short_lookups_for_peers_end_with_the_bucket() {
        let mut now = crate::test_now();
        let lookups = Lookups::new(now);
        let count = |source, now| (0..1000).filter(|_| lookups.begin(source, now).is_ok()).count();
        assert_eq!(count(DialSource::UnknownPeer, now), PEER_LOOKUPS_BURST as usize);
        assert_eq!(count(DialSource::UnknownPeer, now), 0);
        assert_eq!(count(DialSource::KnownPeer, now), PEER_LOOKUPS_BURST as usize);
        assert_eq!(count(DialSource::User, now), USER_LOOKUPS_BURST as usize);
        now += Duration::from_secs(3);
        assert_eq!(count(DialSource::UnknownPeer, now), 3 * PEER_LOOKUPS_PER_SECOND as usize);
    }

    #[test]
    fn refused_lookup_takes_no_token() {
        let now = crate::test_now();
        let lookups = Lookups::new(now);
        let source = DialSource::KnownPeer;
        let under_way: Vec<_> = (0..PEER_LOOKUPS_AT_ONCE).map(|_| lookups.begin(source, now)).collect();
        assert!((0..1000).all(|_| lookups.begin(source, now).is_err()));
        drop(under_way);
        let left = (0..1000).filter(|_| lookups.begin(source, now).is_ok()).count();
        assert_eq!(left, PEER_LOOKUPS_BURST as usize - PEER_LOOKUPS_AT_ONCE);
    }

    #[test]
    fn user_budget_covers_all_dials_that_may_start_at_once() {
        let now = crate::test_now();
        let lookups = Lookups::new(now);
        let in_flight: Vec<_> =
            (0..DIALS_IN_FLIGHT_MAX).map(|_| lookups.begin(DialSource::User, now)).collect();
        assert!(in_flight.iter().all(Result::is_ok));
        assert_eq!(USER_LOOKUPS_BURST, DIALS_BURST);
    }

    #[test]
    fn panicking_lookup_gives_its_slot_back() {
        let now = crate::test_now();
        let lookups = Lookups::new(now);
        for _ in 0..PEER_LOOKUPS_AT_ONCE {
            let look_up = || {
                let _permit = lookups.begin(DialSource::UnknownPeer, now).unwrap();
                panic!("inside the resolver");
            };
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(look_up)).is_err());
        }
        assert!(lookups.begin(DialSource::UnknownPeer, now).is_ok());
    }
}
