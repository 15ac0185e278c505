//! Rate limits for log lines of one cause: a burst, then a low rate, and a count of suppressed lines.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::token_bucket::TokenBucket;

/// Default burst of one cause, in lines.
const LINES_AT_ONCE: u32 = 5;
/// Burst of debug lines of one cause. A user of level debug wants every line of an ordinary day, but a peer
/// must not be able to fill the disk.
pub const DEBUG_LINES_AT_ONCE: u32 = 1024;
/// After its burst a cause may write one line in each period of this length.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Limits the log lines of one cause: a burst of five, then one every two seconds. Each call site has one as a
/// `static`.
///
/// ```
/// use p2p_gossip::internals::log_limit::LogLimit;
/// static LIMIT: LogLimit = LogLimit::new();
/// let written = (0..1000).filter_map(|_| LIMIT.check()).count();
/// assert!(written < 100);
/// ```
#[derive(Debug)]
pub struct LogLimit(Mutex<LineBucket>);

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl LogLimit {
    /// A limit with the default burst.
    #[must_use]
    pub const fn new() -> Self {
        Self::at_once(LINES_AT_ONCE)
    }

    /// A limit with a burst of `lines`, for a cause that may concern many peers at the same moment.
    #[must_use]
    pub const fn at_once(lines: u32) -> Self {
        Self(Mutex::new(LineBucket::new(lines, LINE_EVERY)))
    }

    /// A limit with the larger burst of debug lines ([`DEBUG_LINES_AT_ONCE`]).
    #[must_use]
    pub const fn debug() -> Self {
        Self::at_once(DEBUG_LINES_AT_ONCE)
    }

    /// `Some` if the line may be written, with the number of lines suppressed since the last written one.
    pub fn check(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).check(Instant::now())
    }
}

/// A token bucket for lines that counts the suppressed ones. Reads no clock; the caller passes `now`.
#[derive(Debug)]
pub(crate) struct LineBucket {
    lines: TokenBucket,
    suppressed: u64,
}

impl LineBucket {
    /// A burst of `lines_max` lines, then one line every `every`.
    pub(crate) const fn new(lines_max: u32, every: Duration) -> Self {
        Self { lines: TokenBucket::every(lines_max, every), suppressed: 0 }
    }

    /// `Some` if a line may be written now, with the number of lines suppressed since the last written one.
    pub(crate) fn check(&mut self, now: Instant) -> Option<u64> {
        if self.lines.take(now).is_err() {
            self.suppressed += 1;
            return None;
        }
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Whether the burst is whole again after the last line.
    fn is_whole(&mut self, now: Instant) -> bool {
        self.lines.is_full(now)
    }
}

/// Subjects that a [`SubjectLimit`] keeps apart: more than one busy mesh has at a time.
const SUBJECTS_MAX: usize = 256;
/// A line that says the same of the same subject again is no news for this long.
const SAME_LINE_EVERY: Duration = Duration::from_secs(10 * 60);

/// Limits the lines that say the same of one subject, such as an address. It comes before the limit of the cause: a
/// subject that repeats itself then hides no other. Reads no clock; the caller passes `now`.
#[derive(Debug)]
pub(crate) struct SubjectLimit<K>(BTreeMap<K, LineBucket>);

impl<K: Ord> SubjectLimit<K> {
    pub(crate) const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// `Some` if a line about this subject may be written now, with the number of lines suppressed since the last one.
    pub(crate) fn check(&mut self, now: Instant, subject: K) -> Option<u64> {
        if self.0.len() >= SUBJECTS_MAX && !self.0.contains_key(&subject) {
            self.0.retain(|_, lines| !lines.is_whole(now));
            if self.0.len() >= SUBJECTS_MAX {
                // The limit of the cause is left.
                return Some(0);
            }
        }
        self.0.entry(subject).or_insert(LineBucket::new(1, SAME_LINE_EVERY)).check(now)
    }
}

/// Writes a log line unless its call site has used up the given limit. The line ends with the number of
/// suppressed lines.
macro_rules! limited_log {
    ($limit:expr, $level:ident, { $($fields:tt)* }, $text:literal) => {{
        static LIMIT: $crate::util::log_limit::LogLimit = $limit;
        if let Some(suppressed) = LIMIT.check() {
            log::$level!($($fields)*, suppressed; $text);
        }
    }};
}
pub(crate) use limited_log;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_of_one_cause_leaves_a_few_lines_and_a_count() {
        let mut bucket = LineBucket::new(LINES_AT_ONCE, LINE_EVERY);
        let start = crate::test_now();
        let written = (0..1000).filter(|_| bucket.check(start).is_some()).count();
        assert_eq!(written, LINES_AT_ONCE as usize);
        let next = start + LINE_EVERY;
        assert_eq!(bucket.check(next - Duration::from_millis(1)), None);
        assert_eq!(bucket.check(next), Some(1001 - u64::from(LINES_AT_ONCE)));
        assert_eq!(bucket.check(next), None);
    }

    #[test]
    fn subject_that_repeats_itself_gets_one_line_and_hides_no_other() {
        let (mut limit, start) = (SubjectLimit::new(), crate::test_now());
        let written = (0..1000).filter(|_| limit.check(start, "a").is_some()).count();
        assert_eq!((written, limit.check(start, "b")), (1, Some(0)));
        assert_eq!(limit.check(start + SAME_LINE_EVERY, "a"), Some(999));
    }

    #[test]
    fn number_of_subjects_is_bounded() {
        let (mut limit, start) = (SubjectLimit::new(), crate::test_now());
        for n in 0..2 * SUBJECTS_MAX {
            assert_eq!(limit.check(start, n), Some(0));
        }
        assert_eq!(limit.0.len(), SUBJECTS_MAX);
        assert_eq!(limit.check(start, 1), None);
        assert_eq!(limit.check(start + SAME_LINE_EVERY, 3 * SUBJECTS_MAX), Some(0));
        assert_eq!(limit.0.len(), 1);
    }

    #[test]
    fn quiet_cause_regains_its_whole_burst() {
        let mut bucket = LineBucket::new(LINES_AT_ONCE, LINE_EVERY);
        let start = crate::test_now();
        while bucket.check(start).is_some() {}
        let later = start + Duration::from_secs(1_000_000_000);
        assert_eq!((0..1000).filter(|_| bucket.check(later).is_some()).count(), LINES_AT_ONCE as usize);
    }
}
