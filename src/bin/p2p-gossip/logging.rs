//! Log lines on stderr: their format, and a queue and thread so that a blocked stderr does not delay the
//! node.

use std::env::{self, VarError};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use env_logger::fmt::{Formatter, Target, WriteStyle};
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};

use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::queue;
use p2p_gossip::internals::worker::Worker;

use crate::cli::PROGRAM;
use crate::output::journal;
use crate::output::stream::{Stream, is_coloured, visible};

/// Limit of lines that wait for stderr; more are dropped and counted.
const LINES_QUEUED: usize = 1024;
/// The log filter without RUST_LOG.
const FILTER_DEFAULT: &str = "info";
/// The log filter without RUST_LOG if stdout is on the same screen: it shows membership changes already.
const FILTER_ON_SCREEN: &str = "info,p2p_gossip::members=off";

/// The handle to the log's thread. Dropping it waits briefly for the queued lines.
#[derive(Debug)]
pub(crate) struct Logs {
    queue: queue::Sender<Job>,
    /// Whether the journal reads stderr; then each line begins with its priority.
    is_journal: bool,
}

#[derive(Debug)]
enum Job {
    Line(Vec<u8>),
    /// Asks for an answer when all jobs before this one are done.
    Flush(Sender<()>),
}

impl Logs {
    /// Starts the thread and sets the process's logger and panic hook.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, jobs) = queue::bounded(LINES_QUEUED);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut stderr = Stream::new(io::stderr())?;
        let counted = Arc::clone(&dropped);
        Worker::spawn("log", move || write_jobs(&jobs, &mut stderr, &counted))?;
        let is_journal = journal::reads(io::stderr());
        let logs = Self { queue: queue.clone(), is_journal };

        let is_on_screen = io::stdout().is_terminal() && io::stderr().is_terminal();
        let (filter, warning) = match env::var("RUST_LOG") {
            Err(VarError::NotPresent) if is_on_screen => (FILTER_ON_SCREEN.to_owned(), None),
            variable => filter_from(variable),
        };
        if let Some(warning) = warning {
            logs.print_message(&warning);
        }
        let style = if is_coloured(&io::stderr()) { WriteStyle::Always } else { WriteStyle::Never };
        env_logger::Builder::new()
            .parse_filters(&filter)
            .target(Target::Pipe(Box::new(QueueWriter { queue, dropped })))
            .write_style(style)
            .format(if is_journal { format_for_journal } else { format_record })
            .try_init()
            .map_err(io::Error::other)?;
        std::panic::set_hook(Box::new(log_panic));
        Ok(logs)
    }

    /// Writes one line for the user, independent of RUST_LOG.
    pub(crate) fn print_message(&self, message: &str) {
        let prefix = if self.is_journal { journal::prefix(Level::Error) } else { "" };
        let line = format!("{prefix}{PROGRAM}: {}\n", visible(message));
        // A full queue means that stderr is blocked.
        let _ = self.queue.try_send(Job::Line(line.into_bytes()));
    }

    /// Writes lines that the user asked for; no log line comes between them.
    pub(crate) fn show(&self, lines: &str) {
        let _ = self.queue.try_send(Job::Line(lines.as_bytes().to_vec()));
    }

    /// Waits until all lines queued so far are written, but not longer than `timeout`.
    pub(crate) fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let (done, written) = bounded(1);
        if self.queue.send_past_limit(Job::Flush(done)).is_ok() {
            let _ = written.recv_deadline(deadline);
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.flush(Duration::from_millis(100));
    }
}

fn write_jobs(jobs: &Receiver<Job>, stderr: &mut Stream, dropped: &AtomicU64) {
    for job in jobs {
        // A failure of stderr cannot be reported anywhere.
        match job {
            Job::Line(line) => {
                let _ = stderr.write_all(&line);
            }
            Job::Flush(done) => {
                let _ = done.try_send(());
            }
        }
        let count = dropped.swap(0, Ordering::Relaxed);
        if count != 0 {
            let line = format!("{PROGRAM}: {count} log lines dropped: stderr was blocked\n");
            let _ = stderr.write_all(line.as_bytes());
        }
    }
}

/// The target of env_logger, which writes one whole line at a time.
struct QueueWriter {
    queue: queue::Sender<Job>,
    dropped: Arc<AtomicU64>,
}

impl Write for QueueWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Job::Line(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log filter to use for this value of RUST_LOG, and a warning if the value is wrong.
fn filter_from(variable: Result<String, VarError>) -> (String, Option<String>) {
    let default = || FILTER_DEFAULT.to_owned();
    let filter = match variable {
        Ok(filter) if filter.trim().is_empty() => return (default(), None),
        Ok(filter) => filter,
        Err(VarError::NotPresent) => return (default(), None),
        Err(VarError::NotUnicode(_)) => {
            let warning = format!("RUST_LOG is not valid UTF-8; using {FILTER_DEFAULT}");
            return (default(), Some(warning));
        }
    };
    let shown = visible(&filter);
    if env_filter::Builder::new().try_parse(&filter).is_err() {
        let warning = format!("RUST_LOG='{shown}' is not a log filter; using {FILTER_DEFAULT}");
        return (default(), Some(warning));
    }
    // env_logger takes a word that is not a level for a module's name, which silences all other modules.
    let is_suspect = |word: &str| {
        !word.is_empty() && !word.contains(['=', ':', '_']) && word.parse::<log::LevelFilter>().is_err()
    };
    let modules = filter.split('/').next().unwrap_or_default();
    let suspect = modules.split(',').map(str::trim).find(|word| is_suspect(word) && *word != "rustls");
    let warning = suspect.map(|word| {
        format!("RUST_LOG: '{}' is not a log level and is taken for the name of a module", visible(word))
    });
    (filter, warning)
}

/// Writes `2026-01-31T12:00:00Z INFO  peer up peer=1f3a5c7e90 addr=127.0.0.1:8081`. Lines of levels debug and
/// trace also name the module.
fn format_record(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let style = out.default_level_style(record.level());
    let time = out.timestamp_seconds();
    let level = record.level();
    write!(out, "{time} {style}{level:<5}{style:#} ")?;
    if level >= Level::Debug {
        write!(out, "{}: ", record.target())?;
    }
    writeln!(out, "{}", format_line(record))
}

/// As [`format_record`], but without a time, and with the level as the journal's priority.
fn format_for_journal(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    write!(out, "{}", journal::prefix(record.level()))?;
    if record.level() >= Level::Debug {
        write!(out, "{}: ", record.target())?;
    }
    writeln!(out, "{}", format_line(record))
}

/// The message and its key-values on one line: `peer down peer=ab12 reason="connection refused"`.
fn format_line(record: &Record<'_>) -> String {
    let mut line = String::new();
    line.push_str(&visible(&record.args().to_string()));
    // Writing into a String does not fail.
    let _ = record.key_values().visit(&mut Pairs(&mut line));
    line
}

/// Appends key-values to a line.
struct Pairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let Self(line) = self;
        let value = visible(&value.to_string());
        let _ = write!(line, " {key}=");
        // Quoted if a reader could not see where the value ends.
        if value.is_empty() || value.contains([' ', '"', '=']) {
            line.push('"');
            line.push_str(&value.replace('"', "\\\""));
            line.push('"');
        } else {
            line.push_str(&value);
        }
        Ok(())
    }
}

/// Logs a panic. Panics of connections' threads are rate-limited, because a peer may be able to cause them
/// repeatedly.
fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    static LIMIT: LogLimit = LogLimit::new();
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let is_connection = ["accept-", "dial-", "http connection"].iter().any(|prefix| name.starts_with(prefix));
    let Some(suppressed) = (if is_connection { LIMIT.check() } else { Some(0) }) else {
        return;
    };
    let place = info.location().map_or_else(|| "unknown".to_owned(), ToString::to_string);
    let payload = info.payload();
    let message = payload.downcast_ref::<&str>().copied();
    let message = message.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = message.unwrap_or("no message");
    log::error!(thread = name, place:% = place, message = message, suppressed; "a thread panicked; this is a bug");
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        for frame in trace.to_string().lines() {
            log::error!("{frame}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_filter_is_reported_and_ignored() {
        let filter_of = |text: &str| filter_from(Ok(text.to_owned()));
        assert_eq!(filter_of(""), ("info".to_owned(), None));
        assert_eq!(filter_from(Err(VarError::NotPresent)), ("info".to_owned(), None));
        for good in ["off", "DEBUG", "warn,p2p_gossip::session=trace", "p2p_gossip", "rustls", "info/peer"] {
            assert_eq!(filter_of(good), (good.to_owned(), None));
        }
        let (filter, warning) = filter_of("p2p_gossip=loud");
        assert_eq!(filter, "info");
        assert!(warning.unwrap().contains("'p2p_gossip=loud'"));
        assert!(filter_of("verbose").1.unwrap().contains("'verbose' is not a log level"));
        let (filter, warning) = filter_from(Err(VarError::NotUnicode("x".into())));
        assert_eq!(filter, "info");
        assert!(warning.unwrap().contains("UTF-8"));
    }

    #[test]
    fn key_values_are_quoted_and_escaped() {
        let pairs = [("peer", "ab12"), ("name", ""), ("reason", "connection \"refused\"\u{1b}[2J")];
        let record = Record::builder().args(format_args!("peer down")).key_values(&pairs).build();
        let wanted = "peer down peer=ab12 name=\"\" reason=\"connection \\\"refused\\\"\\u{1b}[2J\"";
        assert_eq!(format_line(&record), wanted);
    }

    #[test]
    fn full_queue_drops_lines_and_counts_them() {
        let (queue, jobs) = queue::bounded(2);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = QueueWriter { queue, dropped: Arc::clone(&dropped) };
        for _ in 0..5 {
            writer.write_all(b"line\n").unwrap();
        }
        assert_eq!((jobs.len(), dropped.load(Ordering::Relaxed)), (2, 3));
    }
}
