//! Log lines for the journal of systemd, which adds time stamps and reads priorities.

use std::env;
use std::os::fd::AsFd;

use log::Level;

/// The priority in front of a line for the journal, in the numbers of syslog (sd-daemon(3)).
pub(crate) fn prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// Whether the journal reads this stream: JOURNAL_STREAM has the stream's device and inode. A stream that was
/// redirected later differs.
pub(crate) fn reads(stream: impl AsFd) -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(stream).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}
