//! One cause must not fill the log: a few lines a window, then a count of what was left out.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lines for one cause within [`WINDOW`].
const LINES_MAX: u32 = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// Limits the log lines of one cause: five in ten seconds. One of these, as a `static`, a call site.
///
/// ```
/// use p2p_gossip::log_limit::LogLimit;
/// static LIMIT: LogLimit = LogLimit::new();
/// let written = (0..1000).filter_map(|_| LIMIT.check()).count();
/// assert_eq!(written, 5);
/// ```
#[derive(Debug)]
pub struct LogLimit(Mutex<Window>);

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Nothing has been written yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Window { began: None, lines: 0, suppressed: 0 }))
    }

    /// Whether to write the line, and how many were left out before it.
    pub fn check(&self) -> Option<u64> {
        self.check_at(Instant::now())
    }

    fn check_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_over = window.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW);
        if is_over {
            window.began = Some(now);
            window.lines = 0;
        }
        if window.lines == LINES_MAX {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_cause_leaves_a_few_lines_and_a_count() {
        let limit = LogLimit::new();
        let start = Instant::now();
        let written = (0..1000).filter(|_| limit.check_at(start).is_some()).count();
        assert_eq!(written, LINES_MAX as usize);
        assert_eq!(limit.check_at(start + WINDOW), Some(1000 - u64::from(LINES_MAX)));
        assert_eq!(limit.check_at(start + WINDOW), Some(0));
    }
}
