//! Round-trip times: those of one peer since it was last up, and a histogram of all.

use std::time::Duration;

/// The round-trip times of one peer since it was last up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    pub(super) last: Option<Duration>,
    pub(super) min: Option<Duration>,
    sum: Duration,
    count: u32,
}

impl Rtt {
    pub(super) fn measured(&mut self, rtt: Duration) {
        self.last = Some(rtt);
        self.min = Some(self.min.map_or(rtt, |min| min.min(rtt)));
        self.sum += rtt;
        self.count = self.count.saturating_add(1);
    }

    pub(super) fn mean(&self) -> Option<Duration> {
        self.sum.checked_div(self.count)
    }
}

/// Upper bounds of the buckets of a [`RttHistogram`] in microseconds, from loopback to intercontinental links.
const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000,
];

/// A histogram of round-trip times. A later version may have other buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RttHistogram {
    /// The number of times in each bucket. The last bucket counts times above all bounds.
    counts: [u64; BOUNDS_US.len() + 1],
    sum: Duration,
}

impl RttHistogram {
    /// The buckets in ascending order: the upper bound of each, and the number of times that are at most this bound
    /// and above the bound before. The last bucket has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> + '_ {
        let bounds = BOUNDS_US.iter().map(|&us| Some(Duration::from_micros(us)));
        bounds.chain([None]).zip(self.counts.iter().copied())
    }

    /// The number of all times.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of all times.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// A time that is at least as long as this per cent of all times: the bound of their bucket. `None` without times.
    pub(super) fn percentile(&self, per_cent: u64) -> Option<Duration> {
        let wanted = (self.count() * per_cent).div_ceil(100).max(1);
        let mut counted = 0;
        let bucket = self.counts.iter().position(|count| {
            counted += count;
            counted >= wanted
        })?;
        Some(BOUNDS_US.get(bucket).map_or(Duration::MAX, |&us| Duration::from_micros(us)))
    }

    pub(super) fn measured(&mut self, rtt: Duration) {
        let bucket = BOUNDS_US.partition_point(|&bound| u128::from(bound) < rtt.as_micros());
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(rtt);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_in_the_first_bucket_that_it_does_not_exceed() {
        let mut histogram = RttHistogram::default();
        for us in [0, 100, 101, 2_500_000, 2_500_001, 60_000_000] {
            histogram.measured(Duration::from_micros(us));
        }
        let buckets: Vec<(Option<Duration>, u64)> = histogram.buckets().collect();
        let us = |us| Some(Duration::from_micros(us));
        assert_eq!(buckets[..2], [(us(100), 2), (us(250), 1)]);
        assert_eq!(buckets[13..], [(us(2_500_000), 1), (None, 2)]);
        assert_eq!((histogram.count(), histogram.sum()), (6, Duration::from_micros(65_000_202)));
    }

    #[test]
    fn percentile_is_the_bound_of_its_bucket() {
        let mut histogram = RttHistogram::default();
        assert_eq!(histogram.percentile(99), None);
        (0..99).for_each(|_| histogram.measured(Duration::from_micros(200)));
        histogram.measured(Duration::from_secs(3));
        let us = |us| Some(Duration::from_micros(us));
        assert_eq!((histogram.percentile(1), histogram.percentile(99)), (us(250), us(250)));
        assert_eq!(histogram.percentile(100), Some(Duration::MAX));
    }

    #[test]
    fn rtt_keeps_last_minimum_and_mean() {
        let mut rtt = Rtt::default();
        assert_eq!((rtt.last, rtt.min, rtt.mean()), (None, None, None));
        for ms in [3, 1, 5] {
            rtt.measured(Duration::from_millis(ms));
        }
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!((rtt.last, rtt.min, rtt.mean()), (ms(5), ms(1), ms(3)));
    }
}
