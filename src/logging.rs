//! Logs for stderr: what a line looks like, and a queue that keeps a stderr which nobody reads
//! from holding up the node.

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

use p2p_gossip::log_limit::LogLimit;
use p2p_gossip::queue;

use crate::cli::PROGRAM;
use crate::journal;
use crate::stdio::{Stream, is_coloured, visible};

/// Lines waiting for stderr; beyond it they are dropped and counted.
const LINES_QUEUED: usize = 1024;
/// What is logged unless RUST_LOG says otherwise.
const FILTER_DEFAULT: &str = "info";
/// The same where stdout is on the same screen: it shows who comes and goes already.
const FILTER_ON_SCREEN: &str = "info,p2p_gossip::members=off";

/// The running log writer. Dropping it waits a moment for what is queued.
#[derive(Debug)]
pub(crate) struct Logs {
    queue: queue::Sender<Job>,
    /// Whether each line begins with its priority.
    is_journal: bool,
}

#[derive(Debug)]
enum Job {
    Line(Vec<u8>),
    /// Answered when everything queued before it has been written.
    Flush(Sender<()>),
}

impl Logs {
    /// Starts the writer and makes it the process's logger, panics included.
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, jobs) = queue::bounded(LINES_QUEUED);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut stderr = Stream::new(io::stderr())?;
        let counted = Arc::clone(&dropped);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_jobs(&jobs, &mut stderr, &counted))?;
        let is_journal = journal::reads(io::stderr());
        let logs = Self { queue: queue.clone(), is_journal };

        let is_on_screen = io::stdout().is_terminal() && io::stderr().is_terminal();
        let (filter, complaint) = match env::var("RUST_LOG") {
            Err(VarError::NotPresent) if is_on_screen => (FILTER_ON_SCREEN.to_owned(), None),
            variable => filter_from(variable),
        };
        if let Some(complaint) = complaint {
            logs.say(&complaint);
        }
        let style = if is_coloured(&io::stderr()) { WriteStyle::Always } else { WriteStyle::Never };
        env_logger::Builder::new()
            .parse_filters(&filter)
            .target(Target::Pipe(Box::new(Lines { queue, dropped })))
            .write_style(style)
            .format(if is_journal { format_for_journal } else { format_record })
            .try_init()
            .map_err(io::Error::other)?;
        std::panic::set_hook(Box::new(log_panic));
        Ok(logs)
    }

    /// Writes one line for the user, whatever RUST_LOG says.
    pub(crate) fn say(&self, message: &str) {
        let prefix = if self.is_journal { journal::prefix(Level::Error) } else { "" };
        let line = format!("{prefix}{PROGRAM}: {}\n", visible(message));
        // A queue that is full means that nobody reads stderr.
        let _ = self.queue.try_send(Job::Line(line.into_bytes()));
    }

    /// Writes lines that the user asked for, which the logs leave in one piece.
    pub(crate) fn show(&self, lines: &str) {
        let _ = self.queue.try_send(Job::Line(lines.as_bytes().to_vec()));
    }

    /// Waits until everything queued so far is written, but not longer than this.
    pub(crate) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
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
    while let Ok(job) = queue::wait(jobs) {
        // There is no place left to report a failing stderr to.
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
            let line = format!("{PROGRAM}: {count} log lines dropped: nobody read stderr\n");
            let _ = stderr.write_all(line.as_bytes());
        }
    }
}

/// Where env_logger writes: it hands over each line whole.
struct Lines {
    queue: queue::Sender<Job>,
    dropped: Arc<AtomicU64>,
}

impl Write for Lines {
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

/// The filter to use, and what is wrong with the one asked for.
fn filter_from(variable: Result<String, VarError>) -> (String, Option<String>) {
    let default = || FILTER_DEFAULT.to_owned();
    let filter = match variable {
        Ok(filter) if filter.trim().is_empty() => return (default(), None),
        Ok(filter) => filter,
        Err(VarError::NotPresent) => return (default(), None),
        Err(VarError::NotUnicode(_)) => {
            let complaint = format!("RUST_LOG is not valid UTF-8; using {FILTER_DEFAULT}");
            return (default(), Some(complaint));
        }
    };
    let shown = visible(&filter);
    if env_filter::Builder::new().try_parse(&filter).is_err() {
        let complaint = format!("RUST_LOG='{shown}' is not a log filter; using {FILTER_DEFAULT}");
        return (default(), Some(complaint));
    }
    // env_logger takes a word that is no level for a module's name, which silences all others.
    let is_nothing = |word: &str| {
        !word.is_empty() && !word.contains(['=', ':', '_']) && word.parse::<log::LevelFilter>().is_err()
    };
    let modules = filter.split('/').next().unwrap_or_default();
    let odd = modules.split(',').map(str::trim).find(|word| is_nothing(word) && *word != "rustls");
    let complaint = odd.map(|word| {
        format!("RUST_LOG: '{}' is no log level, so it is taken for the name of a module", visible(word))
    });
    (filter, complaint)
}

/// `2026-01-31T12:00:00Z INFO  peer up peer=1f3a5c7e90 addr=127.0.0.1:8081`; from debug on with the
/// module that says it.
fn format_record(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let style = out.default_level_style(record.level());
    let time = out.timestamp_seconds();
    let level = record.level();
    write!(out, "{time} {style}{level:<5}{style:#} ")?;
    if level >= Level::Debug {
        write!(out, "{}: ", record.target())?;
    }
    writeln!(out, "{}", line_of(record))
}

/// The same without a time stamp, and with the level as the journal reads it.
fn format_for_journal(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    write!(out, "{}", journal::prefix(record.level()))?;
    if record.level() >= Level::Debug {
        write!(out, "{}: ", record.target())?;
    }
    writeln!(out, "{}", line_of(record))
}

/// Message and key-values on one line.
fn line_of(record: &Record<'_>) -> String {
    let mut line = String::new();
    line.push_str(&visible(&record.args().to_string()));
    // Writing into a String does not fail.
    let _ = record.key_values().visit(&mut Pairs(&mut line));
    line
}

struct Pairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let Self(line) = self;
        let value = visible(&value.to_string());
        let _ = write!(line, " {key}=");
        // Quoted where a reader could not tell where it ends.
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

/// A panic is a log line like others; where it ends is decided by whoever catches it. Panics of
/// connections' threads are limited: a peer may know how to cause one again and again.
fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    static LIMIT: LogLimit = LogLimit::new();
    let thread = thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let is_of_connection = ["accept-", "dial-", "http connection"].iter().any(|of| name.starts_with(of));
    let Some(suppressed) = (if is_of_connection { LIMIT.check() } else { Some(0) }) else {
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
    fn a_filter_that_makes_no_sense_is_reported_and_not_obeyed() {
        let of = |text: &str| filter_from(Ok(text.to_owned()));
        assert_eq!(of(""), ("info".to_owned(), None));
        assert_eq!(filter_from(Err(VarError::NotPresent)), ("info".to_owned(), None));
        for good in ["off", "DEBUG", "warn,p2p_gossip::session=trace", "p2p_gossip", "rustls", "info/peer"] {
            assert_eq!(of(good), (good.to_owned(), None));
        }
        let (filter, complaint) = of("p2p_gossip=loud");
        assert_eq!(filter, "info");
        assert!(complaint.unwrap().contains("'p2p_gossip=loud'"));
        assert!(of("verbose").1.unwrap().contains("'verbose' is no log level"));
        let (filter, complaint) = filter_from(Err(VarError::NotUnicode("x".into())));
        assert_eq!(filter, "info");
        assert!(complaint.unwrap().contains("UTF-8"));
    }

    #[test]
    fn key_values_can_be_told_apart_and_move_no_cursor() {
        let pairs = [("peer", "ab12"), ("name", ""), ("reason", "connection \"refused\"\u{1b}[2J")];
        let record = Record::builder().args(format_args!("peer down")).key_values(&pairs).build();
        let wanted = "peer down peer=ab12 name=\"\" reason=\"connection \\\"refused\\\"\\u{1b}[2J\"";
        assert_eq!(line_of(&record), wanted);
    }

    #[test]
    fn a_queue_that_nobody_takes_from_drops_and_counts() {
        let (queue, jobs) = queue::bounded(2);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut lines = Lines { queue, dropped: Arc::clone(&dropped) };
        for _ in 0..5 {
            lines.write_all(b"line\n").unwrap();
        }
        assert_eq!((jobs.len(), dropped.load(Ordering::Relaxed)), (2, 3));
    }
}
