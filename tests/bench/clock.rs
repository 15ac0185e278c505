//! A clock that all processes share, and statistics of times.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the machine started: the same in every process. A [`std::time::Instant`] cannot be passed to
/// another process.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every system has this clock").into()
}

/// The middle value, or the mean of the two middle values if their number is even; NaN for no values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The distribution of times in seconds: median, 99th percentile, maximum, and the number of values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    pub(crate) count: usize,
}

impl Spread {
    /// Computes the distribution; `None` if there are no values.
    pub(crate) fn of(mut seconds: Vec<f64>) -> Option<Self> {
        seconds.sort_by(f64::total_cmp);
        let max = *seconds.last()?;
        let at = |percent: usize| seconds[(seconds.len() * percent / 100).min(seconds.len() - 1)];
        Some(Self { p50: at(50), p99: at(99), max, count: seconds.len() })
    }
}
