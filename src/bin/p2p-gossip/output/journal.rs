//! Whether stderr goes to the journal of systemd, which has time stamps and levels of its own.

use std::env;
use std::os::fd::AsFd;

use log::Level;

/// What a line for the journal begins with (sd-daemon(3)): its priority, as syslog counts.
pub(crate) fn prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    }
}

/// Whether the journal reads this stream: JOURNAL_STREAM names its device and inode. A stream that
/// was redirected since is not the one meant.
pub(crate) fn reads(stream: impl AsFd) -> bool {
    let Ok(named) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    rustix::fs::fstat(stream).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}
