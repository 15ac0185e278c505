//! Virtual time in microseconds, and clocks that run a little fast or slow.

use std::time::{Duration, Instant};

/// Virtual time in microseconds since the start of the run, or a duration.
pub type Micros = u64;
pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

pub fn micros(duration: Duration) -> Micros {
    duration.as_micros() as Micros
}

/// One process's clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    base: Instant,
    /// Deviation in parts per million: fast if positive, slow if negative.
    ppm: i64,
}

impl Clock {
    pub fn new(base: Instant, ppm: i64) -> Self {
        Self { base, ppm }
    }

    /// Time on this clock since the start of the run.
    pub fn elapsed(&self, now: Micros) -> Micros {
        now.saturating_add_signed(
            now as i64 / 1_000_000 * self.ppm + now as i64 % 1_000_000 * self.ppm / 1_000_000,
        )
    }

    pub fn local(&self, now: Micros) -> Instant {
        self.base + Duration::from_micros(self.elapsed(now))
    }

    /// The first moment of virtual time at which this clock shows at least `at`.
    pub fn global(&self, at: Instant) -> Micros {
        // The deadline may lie between two microseconds, and a step before it would do nothing.
        let wanted = at.saturating_duration_since(self.base).as_nanos().div_ceil(1_000) as Micros;
        let rate = (1_000_000 + self.ppm) as u128;
        let mut now = (u128::from(wanted) * 1_000_000 / rate) as Micros;
        now = now.saturating_sub(2);
        while self.elapsed(now) < wanted {
            now += 1;
        }
        now
    }
}
