//! The heartbeats of one session: their numbers, and the round-trip times that they measure.
//!
//! The leader of a pair, the node with the smaller id, sends heartbeats and measures the time until each
//! acknowledgement. The next heartbeat tells the follower that time. The coordinator hears of a heartbeat only if it
//! brings news: other vitals of the peer, or a round-trip time now and then.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::mesh::Vitals;

/// Heartbeats whose acknowledgement is awaited. An older acknowledgement measures nothing of use.
const AWAITED_MAX: usize = 8;
/// The coordinator hears of a new round-trip time at most this often, unless a message takes it along.
const RTT_REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// A follower believes at most one told round-trip time in this time. So each ping that it shows, one in five seconds by
/// default, has a new time, and a leader that lies cannot fill the figures with false times.
const BELIEF_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Heartbeats {
    /// The number of the last heartbeat sent.
    sent: u64,
    /// Number and time of each heartbeat whose acknowledgement is awaited.
    awaited: VecDeque<(u64, Instant)>,
    /// The number of the peer's last heartbeat.
    last_seq: Option<u64>,
    /// The time at which the last heartbeat of the peer arrived.
    last_received: Option<Instant>,
    /// The time at which this follower last believed a round-trip time that the leader told.
    believed: Option<Instant>,
    rtt: Option<Duration>,
    /// Whether the coordinator does not know `rtt` yet.
    has_rtt_news: bool,
    /// The vitals that the coordinator knows, and the time of the last report.
    reported: Option<(Vitals, Instant)>,
    has_reported_rtt: bool,
    /// A heartbeat that is acknowledged once the connection takes bytes again.
    delayed_ack: Option<u64>,
}

impl Heartbeats {
    /// Notes a heartbeat that is sent now. Returns its number, and the last round-trip time in microseconds.
    pub(super) fn send(&mut self, now: Instant) -> (u64, u32) {
        self.sent += 1;
        if self.awaited.len() == AWAITED_MAX {
            self.awaited.pop_front();
        }
        self.awaited.push_back((self.sent, now));
        self.repeat()
    }

    /// The number of the last heartbeat, and the last round-trip time in microseconds.
    pub(super) fn repeat(&self) -> (u64, u32) {
        let rtt_us = self.rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1));
        (self.sent, rtt_us)
    }

    /// Notes an acknowledgement. Returns whether it gave the first round-trip time of this session.
    pub(super) fn acknowledged(&mut self, arrived: Instant, seq: u64) -> bool {
        let Some(at) = self.awaited.iter().position(|&(sent, _)| sent == seq) else {
            return false;
        };
        let Some((_, sent_at)) = self.awaited.drain(..=at).next_back() else {
            return false;
        };
        self.measured(arrived.saturating_duration_since(sent_at))
    }

    /// Notes a heartbeat of the leader, with the round-trip time that it tells; 0 if it has none. The leader measured
    /// that time between its last two heartbeats, so a longer time is false. A leader tells what it likes, as often as
    /// it likes, so only one time in two seconds counts. Returns whether it is to be acknowledged: a leader repeats a
    /// number only to tell the time.
    pub(super) fn received(&mut self, arrived: Instant, seq: u64, rtt_us: u32) -> bool {
        let previous = self.last_received.replace(arrived);
        let age = self.believed.map(|at| arrived.saturating_duration_since(at));
        if let Some(previous) = previous
            && rtt_us > 0
            && age.is_none_or(|age| age >= BELIEF_INTERVAL)
        {
            self.believed = Some(arrived);
            let longest = arrived.saturating_duration_since(previous);
            self.measured(Duration::from_micros(rtt_us.into()).min(longest));
        }
        self.last_seq.replace(seq) != Some(seq)
    }

    /// Returns whether the coordinator should hear of a heartbeat or acknowledgement with these vitals: `None` if not,
    /// otherwise the round-trip time that it does not know yet, if there is one.
    pub(super) fn report(&mut self, now: Instant, vitals: Vitals) -> Option<Option<Duration>> {
        let is_due = match self.reported {
            Some((known, _)) if known != vitals => true,
            Some((_, at)) => {
                let is_time = now.saturating_duration_since(at) >= RTT_REPORT_INTERVAL;
                self.has_rtt_news && (is_time || !self.has_reported_rtt)
            }
            None => true,
        };
        is_due.then(|| {
            self.reported = Some((vitals, now));
            self.take_rtt_news()
        })
    }

    /// The round-trip time, if the coordinator does not know it yet.
    pub(super) fn take_rtt_news(&mut self) -> Option<Duration> {
        let news = self.rtt.filter(|_| std::mem::take(&mut self.has_rtt_news));
        self.has_reported_rtt |= news.is_some();
        news
    }

    /// Remembers the heartbeat to acknowledge later, instead of an earlier one.
    pub(super) fn delay_ack(&mut self, seq: u64) {
        self.delayed_ack = Some(seq);
    }

    pub(super) fn take_delayed_ack(&mut self) -> Option<u64> {
        self.delayed_ack.take()
    }

    /// Returns whether this is the first round-trip time of the session.
    fn measured(&mut self, rtt: Duration) -> bool {
        self.has_rtt_news = true;
        self.rtt.replace(rtt).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn leader_measures_from_heartbeat_to_acknowledgement() {
        let start = crate::test_now();
        let mut heartbeats = Heartbeats::default();
        assert_eq!(heartbeats.send(start), (1, 0));
        assert_eq!(heartbeats.send(start + ms(100)), (2, 0));
        assert!(heartbeats.acknowledged(start + ms(130), 2));
        // An acknowledgement that is late, repeated or invented measures nothing.
        for seq in [1, 2, 7] {
            assert!(!heartbeats.acknowledged(start + ms(900), seq));
        }
        assert_eq!(heartbeats.take_rtt_news(), Some(ms(30)));
        assert_eq!(heartbeats.take_rtt_news(), None);
        assert_eq!(heartbeats.send(start + ms(1000)), (3, 30_000));
    }

    #[test]
    fn unanswered_heartbeats_are_forgotten() {
        let start = crate::test_now();
        let mut heartbeats = Heartbeats::default();
        for _ in 0..1000 {
            heartbeats.send(start);
        }
        assert_eq!(heartbeats.awaited.len(), AWAITED_MAX);
        assert!(heartbeats.acknowledged(start + ms(1), 1000));
    }

    #[test]
    fn follower_believes_no_longer_time_than_the_leader_can_have_measured() {
        let start = crate::test_now();
        let mut heartbeats = Heartbeats::default();
        assert!(heartbeats.received(start, 1, u32::MAX));
        assert_eq!(heartbeats.take_rtt_news(), None);
        assert!(!heartbeats.received(start + ms(1000), 1, 500));
        assert_eq!(heartbeats.take_rtt_news(), Some(Duration::from_micros(500)));
        assert!(heartbeats.received(start + ms(2_200), 2, 500));
        assert!(heartbeats.received(start + ms(3_000), 3, u32::MAX));
        assert_eq!(heartbeats.take_rtt_news(), Some(ms(800)));
    }

    #[test]
    fn follower_believes_one_time_in_two_seconds() {
        let start = crate::test_now();
        let mut heartbeats = Heartbeats::default();
        let news = (0..600).filter(|n| {
            assert!(heartbeats.received(start + ms(10 * n), *n, 1));
            heartbeats.take_rtt_news().is_some()
        });
        assert_eq!(news.count(), 3);
    }

    #[test]
    fn coordinator_hears_of_news_only() {
        let start = crate::test_now();
        let vitals = |digest| Vitals { digest, interval_ms: 1000 };
        let mut heartbeats = Heartbeats::default();
        assert_eq!(heartbeats.report(start, vitals(1)), Some(None));
        assert_eq!(heartbeats.report(start + ms(1000), vitals(1)), None);
        assert_eq!(heartbeats.report(start + ms(2000), vitals(2)), Some(None));
        // The first round-trip time at once, later ones at intervals or with a message.
        heartbeats.measured(ms(1));
        assert_eq!(heartbeats.report(start + ms(2500), vitals(2)), Some(Some(ms(1))));
        heartbeats.measured(ms(2));
        assert_eq!(heartbeats.report(start + ms(3500), vitals(2)), None);
        assert_eq!(heartbeats.take_rtt_news(), Some(ms(2)));
        heartbeats.measured(ms(3));
        assert_eq!(heartbeats.report(start + ms(12_500), vitals(2)), Some(Some(ms(3))));
    }
}
