//! One cause must not fill the log: some lines at once, then a few a minute, and a count of what was
//! left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines for one cause at once, unless it may have more.
const LINES_AT_ONCE: u32 = 5;
/// Debug lines for one cause at once: a user that asks for them wants each of an ordinary day, and a peer
/// must not be able to fill the disk with them.
pub const DEBUG_LINES_AT_ONCE: u32 = 1024;
/// For this long a cause that has used up its lines waits for the next one.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Limits the log lines of one cause: five at once, then one every two seconds. One of these, as a
/// `static`, a call site.
///
/// ```
/// use p2p_gossip::log_limit::LogLimit;
/// static LIMIT: LogLimit = LogLimit::new();
/// let written = (0..1000).filter_map(|_| LIMIT.check()).count();
/// assert!(written < 100);
/// ```
#[derive(Debug)]
pub struct LogLimit(Mutex<Allowance>);

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl LogLimit {
    /// Nothing has been written yet.
    #[must_use]
    pub const fn new() -> Self {
        Self::at_once(LINES_AT_ONCE)
    }

    /// The same with so many lines at once, for a cause that may befall many peers in one moment.
    #[must_use]
    pub const fn at_once(lines: u32) -> Self {
        Self(Mutex::new(Allowance::new(lines, LINE_EVERY)))
    }

    /// For lines of level debug, of which users want more.
    #[must_use]
    pub const fn debug() -> Self {
        Self::at_once(DEBUG_LINES_AT_ONCE)
    }

    /// Whether to write the line, and how many were left out before it.
    pub fn check(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).check(Instant::now())
    }
}

/// Lines that may be written: a token bucket that remembers what it refused.
#[derive(Debug)]
pub(crate) struct Allowance {
    lines_max: u32,
    every: Duration,
    lines: u32,
    /// Since when the next line has been on its way.
    refilled: Option<Instant>,
    suppressed: u64,
}

impl Allowance {
    /// So many lines at once, and one more each time that this time has passed.
    pub(crate) const fn new(lines_max: u32, every: Duration) -> Self {
        Self { lines_max, every, lines: lines_max, refilled: None, suppressed: 0 }
    }

    /// Whether to write a line now, and how many were left out before it.
    pub(crate) fn check(&mut self, now: Instant) -> Option<u64> {
        let refilled = *self.refilled.get_or_insert(now);
        let due = now.saturating_duration_since(refilled).as_nanos() / self.every.as_nanos();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        self.lines = self.lines.saturating_add(due).min(self.lines_max);
        // A full bucket starts anew with the line that is taken from it.
        let is_full = self.lines == self.lines_max;
        self.refilled = Some(if is_full { now } else { refilled + self.every * due });
        if self.lines == 0 {
            self.suppressed += 1;
            return None;
        }
        self.lines -= 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_cause_leaves_a_few_lines_and_a_count() {
        let mut allowance = Allowance::new(LINES_AT_ONCE, LINE_EVERY);
        let start = crate::some_moment();
        let written = (0..1000).filter(|_| allowance.check(start).is_some()).count();
        assert_eq!(written, LINES_AT_ONCE as usize);
        let next = start + LINE_EVERY;
        assert_eq!(allowance.check(next - Duration::from_millis(1)), None);
        assert_eq!(allowance.check(next), Some(1001 - u64::from(LINES_AT_ONCE)));
        assert_eq!(allowance.check(next), None);
    }

    #[test]
    fn a_cause_that_was_quiet_may_say_as_much_as_at_first() {
        let mut allowance = Allowance::new(LINES_AT_ONCE, LINE_EVERY);
        let start = crate::some_moment();
        while allowance.check(start).is_some() {}
        let later = start + Duration::from_secs(1_000_000_000);
        assert_eq!((0..1000).filter(|_| allowance.check(later).is_some()).count(), LINES_AT_ONCE as usize);
    }
}
