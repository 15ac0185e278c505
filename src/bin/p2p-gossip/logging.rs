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
use log::{Level, LevelFilter, Record};

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

/// The modules that write log lines; no other package of the program does. A filter that names none of them has no
/// effect.
const MODULES: [&str; 23] = [
    "p2p_gossip::hooks",
    "p2p_gossip::http::event_stream",
    "p2p_gossip::http::routes",
    "p2p_gossip::http::server",
    "p2p_gossip::logging",
    "p2p_gossip::members",
    "p2p_gossip::output::console",
    "p2p_gossip::output::event_json",
    "p2p_gossip::run",
    "p2p_gossip::runtime::capacity",
    "p2p_gossip::runtime::coordinator",
    "p2p_gossip::runtime::discovery",
    "p2p_gossip::runtime::event_log",
    "p2p_gossip::runtime::listener",
    "p2p_gossip::runtime::port_mapping",
    "p2p_gossip::session::established",
    "p2p_gossip::session::failure",
    "p2p_gossip::session::pending",
    "p2p_gossip::session::thread",
    "p2p_gossip::stdin",
    "p2p_gossip::store::exchange",
    "p2p_gossip::store::writer",
    "p2p_gossip::systemd",
];

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
        // A peer chooses its name, with which a line may begin, and must not choose the line's priority.
        let prefix = if self.is_journal { journal::prefix(Level::Info) } else { "" };
        let lines: String = lines.lines().map(|line| format!("{prefix}{line}\n")).collect();
        let _ = self.queue.try_send(Job::Line(lines.into_bytes()));
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

/// The log filter to use for this value of RUST_LOG, and a warning about the parts that have no effect.
fn filter_from(variable: Result<String, VarError>) -> (String, Option<String>) {
    let default = || FILTER_DEFAULT.to_owned();
    let value = match variable {
        Ok(value) => value,
        Err(VarError::NotPresent) => return (default(), None),
        Err(VarError::NotUnicode(_)) => {
            let warning = format!("RUST_LOG is not valid UTF-8; using {FILTER_DEFAULT}");
            return (default(), Some(warning));
        }
    };
    // What follows a slash is a text that a line must contain.
    let (parts, text) = value.split_at(value.find('/').unwrap_or(value.len()));
    if text.matches('/').count() > 1 {
        return (default(), Some(format!("RUST_LOG has more than one '/'; using {FILTER_DEFAULT}")));
    }
    let parts = parts.split(',').map(str::trim).filter(|part| !part.is_empty());
    let (known, ignored): (Vec<_>, Vec<_>) =
        parts.map(|part| filter_part(part).ok_or(part)).partition(Result::is_ok);
    let known: Vec<String> = known.into_iter().flatten().collect();
    let ignored: Vec<&str> = ignored.into_iter().filter_map(Result::err).collect();
    let warning = (!ignored.is_empty()).then(|| {
        let instead = if known.is_empty() { format!("; using {FILTER_DEFAULT}") } else { String::new() };
        format!(
            "RUST_LOG: '{}' is ignored: it is neither a level (error, warn, info, debug, trace or off) nor a \
             module of this program that logs, as in p2p_gossip::session=debug{instead}",
            ignored.join(",")
        )
    });
    let filter = if known.is_empty() { default() } else { known.join(",") };
    (filter + text, warning)
}

/// A part of a filter, a level or `MODULE[=LEVEL]`, as env_logger reads it. `None` if no log line can match it. A
/// hyphen in a module's name means an underscore, so that the program's own name is understood.
fn filter_part(part: &str) -> Option<String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let (module, level) = part.split_once('=').map_or((part, None), |(module, level)| (module, Some(level)));
    if level.is_none() && is_level(module) {
        return Some(module.to_owned());
    }
    if level.is_some_and(|level| !is_level(level.trim())) {
        return None;
    }
    let module = module.trim().replace('-', "_");
    let is_known = !module.is_empty() && MODULES.iter().any(|known| known.starts_with(&module));
    is_known.then(|| level.map_or_else(|| module.clone(), |level| format!("{module}={}", level.trim())))
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
    let is_connection =
        ["handshake", "session-", "http connection"].iter().any(|prefix| name.starts_with(prefix));
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
    use std::path::Path;

    use super::*;

    #[test]
    fn filter_is_understood_or_reported() {
        let filter_of = |text: &str| filter_from(Ok(text.to_owned()));
        assert_eq!(filter_of(""), ("info".to_owned(), None));
        assert_eq!(filter_from(Err(VarError::NotPresent)), ("info".to_owned(), None));
        for good in [
            "off",
            "DEBUG",
            "warn,p2p_gossip::session=trace",
            "p2p_gossip",
            "p2p_gossip::session::established=debug",
            "p2p_gossip::mem=off",
            "info/peer",
        ] {
            assert_eq!(filter_of(good), (good.to_owned(), None));
        }
        assert_eq!(filter_of("p2p-gossip=debug"), ("p2p_gossip=debug".to_owned(), None));
        assert_eq!(
            filter_of(" warn, p2p-gossip::run = trace,"),
            ("warn,p2p_gossip::run=trace".to_owned(), None)
        );
        assert_eq!(filter_of("/peer"), ("info/peer".to_owned(), None));
        for bad in [
            "level=debug",
            "*=debug",
            "*",
            "=debug",
            "verbose",
            "p2p_gossip=loud",
            "p2p_gossip::sesion=debug",
            "p2p_gossip::session::protocol::x=trace",
            "p2p_gossip::runner=debug",
            "rustls=debug",
            "a=b=c",
        ] {
            let (filter, warning) = filter_of(bad);
            assert_eq!(filter, "info", "{bad}");
            let warning = warning.unwrap_or_else(|| panic!("{bad} is silent"));
            assert!(
                warning.contains(&format!("'{bad}' is ignored")) && warning.ends_with("; using info"),
                "{warning}"
            );
        }
        let (filter, warning) = filter_of("level=debug,warn,*=info/x");
        assert_eq!(filter, "warn/x");
        let warning = warning.unwrap();
        assert!(
            warning.contains("'level=debug,*=info' is ignored") && !warning.contains("using"),
            "{warning}"
        );
        assert_eq!(filter_of("info/a/b").0, "info");
        assert!(filter_of("info/a/b").1.unwrap().contains("'/'"));
        let (filter, warning) = filter_from(Err(VarError::NotUnicode("x".into())));
        assert_eq!(filter, "info");
        assert!(warning.unwrap().contains("UTF-8"));
    }

    /// The modules whose files write log lines, found in the source.
    fn logging_modules(dir: &Path, module: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            if path.is_dir() {
                let inner = if ["bin", PROGRAM].contains(&name) {
                    module.to_owned()
                } else {
                    format!("{module}::{name}")
                };
                logging_modules(&path, &inner, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let macros = [
                    "log::error!(",
                    "log::warn!(",
                    "log::info!(",
                    "log::debug!(",
                    "log::trace!(",
                    "limited_log!(",
                ];
                if macros.iter().any(|call| text.contains(call)) {
                    let is_parent = ["mod", "lib", "main"].contains(&name);
                    found.push(if is_parent { module.to_owned() } else { format!("{module}::{name}") });
                }
            }
        }
    }

    #[test]
    fn list_of_modules_is_complete() {
        let mut found = vec!["p2p_gossip::members".to_owned()];
        logging_modules(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "p2p_gossip", &mut found);
        found.sort();
        assert_eq!(found, MODULES, "MODULES must list the modules that write log lines");
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
