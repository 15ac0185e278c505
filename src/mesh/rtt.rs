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
pub const RTT_BUCKETS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000,
];

/// A histogram of round-trip times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RttHistogram {
    /// The number of times in each bucket: at most the bound in [`RTT_BUCKETS_US`] and above the bound before. The
    /// last bucket counts times above all bounds. Counts are not cumulative.
    pub counts: [u64; RTT_BUCKETS_US.len() + 1],
    /// The sum of all times.
    pub sum: Duration,
}

impl RttHistogram {
    pub(super) fn measured(&mut self, rtt: Duration) {
        let bucket = RTT_BUCKETS_US.partition_point(|&bound| u128::from(bound) < rtt.as_micros());
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
        assert_eq!(histogram.counts[..2], [2, 1]);
        assert_eq!(histogram.counts[13..], [1, 2]);
        assert_eq!(histogram.sum, Duration::from_micros(65_000_202));
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
