//! Runs the user's programs for events (`--on-event`) and for alerts (`--alert`): for each program one run at a time, in
//! order, on a separate thread behind a bounded queue.

use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;

use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use jiff::Timestamp;
use p2p_gossip::internals::is_secret_name;
use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::worker::Worker;
use p2p_gossip::{AlertPhase, Event, NodeHandle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::hook_queue::{self, HookQueue, Jobs, QueueFull};
use crate::output::event_json::{self, Time};
use crate::reaper;

/// Limit for one run of `--on-event`; then the program is killed, because later events wait for it.
const EVENT_RUN_MAX: Duration = Duration::from_secs(10);
/// Limit for one run of `--alert`: the next member runs its program after five seconds.
const ALERT_RUN_MAX: Duration = Duration::from_secs(4);
/// Bytes of a script in which the system looks for its interpreter (execve(2)).
const SCRIPT_HEAD_BYTES: u64 = 256;
/// Alerts for which the program has run, so that it does not run again if the node asks again meanwhile.
const ALERTS_REMEMBERED: usize = 256;
/// Prefix of the environment variables that hold the event's fields.
const PREFIX: &str = "P2P_GOSSIP_";
/// Longest time after the deadline of [`Hooks::finish`] until the thread has killed the program. That takes milliseconds,
/// but on a busy machine the thread may not run at once, and what it does not kill goes on without the node.
const KILL_GRACE: Duration = Duration::from_secs(2);
/// Variables that a service manager sets for this process only; the program does not get them.
const NOT_INHERITED: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// The absolute path of an executable file, and the option that named it.
#[derive(Debug)]
pub(crate) struct Program {
    path: PathBuf,
    option: &'static str,
}

/// What a program runs for.
#[derive(Debug)]
pub(crate) enum RunsFor {
    /// Members that come and go, messages, and perhaps pings.
    Events { with_pings: bool },
    /// Alerts. The node learns of each run that succeeds.
    Alerts(NodeHandle),
}

impl RunsFor {
    fn run_max(&self) -> Duration {
        match self {
            Self::Events { .. } => EVENT_RUN_MAX,
            Self::Alerts(_) => ALERT_RUN_MAX,
        }
    }

    fn wants(&self, event: &Event) -> bool {
        match (self, event) {
            (Self::Alerts(_), event) => matches!(event, Event::Alert { .. }),
            (Self::Events { with_pings }, Event::Ping { .. }) => *with_pings,
            // A quiet loss is a part of an isolation, which is an event of its own.
            (Self::Events { .. }, Event::Down { quiet, .. }) => !quiet,
            (Self::Events { .. }, event) => {
                !matches!(event, Event::Listening { .. } | Event::Stopped | Event::Alert { .. })
            }
        }
    }

    /// The program has run for the event, with success.
    fn has_run(&self, event: &Event) {
        if let (Self::Alerts(node), Event::Alert { incident, phase, .. }) = (self, event) {
            node.alert_done(incident, *phase);
        }
    }
}

/// Why the program cannot be run for events.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// The file is missing or not executable.
    #[error("{option}: cannot run {}: {reason}", program.display())]
    Program {
        /// The option that named the program.
        option: &'static str,
        /// The path or name as the user wrote it.
        program: PathBuf,
        /// The system's message, or the fault of the file.
        reason: String,
    },
    /// The user gave a key instead of a program.
    #[error("{0}: the name of a program is needed, not the text of a key")]
    KeyAsName(&'static str),
    /// The system has no thread or memory left.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl Program {
    /// Finds the program as a shell does. This happens once; later changes of PATH or the working
    /// directory have no effect.
    ///
    /// # Errors
    /// The program is missing or not executable.
    pub(crate) fn find(option: &'static str, program: &Path) -> Result<Self, HookError> {
        let error = |reason: String| HookError::Program { option, program: program.to_owned(), reason };
        let can_run = |path: &Path| match path.metadata() {
            Err(found) => Err(error(found.to_string())),
            Ok(found) if !found.is_file() => Err(error("it is not a file".to_owned())),
            Ok(_) => match access(path, Access::EXEC_OK) {
                Ok(()) => {
                    check_interpreter(path).map_err(error)?;
                    let path = std::path::absolute(path).map_err(|found| error(found.to_string()))?;
                    Ok(Self { path, option })
                }
                Err(_) => Err(error("it is not executable".to_owned())),
            },
        };
        if is_secret_name(program) {
            return Err(HookError::KeyAsName(option));
        }
        if program.components().count() > 1 || program.is_absolute() {
            return can_run(program);
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let mut found = env::split_paths(&path).map(|dir| can_run(&dir.join(program)));
        let found = found.find_map(Result::ok);
        found.ok_or_else(|| error("there is no such program in PATH".to_owned()))
    }
}

/// Checks the interpreter of a script: if it is missing, the system says of the script that it does not exist.
fn check_interpreter(program: &Path) -> Result<(), String> {
    let mut head = Vec::new();
    // A program that can be run but not read is no script.
    let Ok(file) = File::open(program) else { return Ok(()) };
    file.take(SCRIPT_HEAD_BYTES).read_to_end(&mut head).map_err(|error| error.to_string())?;
    let Some(line) = head.strip_prefix(b"#!").and_then(|rest| rest.split(|&byte| byte == b'\n').next())
    else {
        return Ok(());
    };
    if line.ends_with(b"\r") {
        let advice = "convert it: sed -i 's/\\r$//' FILE";
        return Err(format!("its lines end with CR LF, so the system finds no interpreter; {advice}"));
    }
    let interpreter = line.trim_ascii().split(u8::is_ascii_whitespace).next().unwrap_or_default();
    if Path::new(OsStr::from_bytes(interpreter)).exists() {
        return Ok(());
    }
    Err("the interpreter in its first line does not exist".to_owned())
}

/// The main thread's handle to the thread that runs the program.
#[derive(Debug)]
pub(crate) struct Hooks {
    queue: HookQueue,
    option: &'static str,
    runs_for: Arc<RunsFor>,
    /// Number of events that the full queue refused.
    lost: u64,
    /// Carries the deadline for the thread's end.
    stop: Sender<Instant>,
    worker: Worker,
}

impl Hooks {
    /// Starts the thread that runs the program.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(crate) fn start(program: Program, runs_for: RunsFor) -> io::Result<Self> {
        let (queue, jobs) = hook_queue::queue();
        let (stop, stopped) = bounded(1);
        let (option, runs_for) = (program.option, Arc::new(runs_for));
        let runner = Runner {
            program,
            runs_for: Arc::clone(&runs_for),
            stop: stopped,
            alerted: VecDeque::new(),
            leave_by: None,
        };
        let worker = Worker::spawn("hooks", move || runner.run(jobs))?;
        Ok(Self { queue, option, runs_for, lost: 0, stop, worker })
    }

    /// Queues an event for the program if it wants such events.
    pub(crate) fn offer(&mut self, time: Timestamp, event: &Event, is_acquainted: bool) {
        if !self.runs_for.wants(event) {
            return;
        }
        if let Err(QueueFull) = self.queue.offer(time, event.clone(), is_acquainted) {
            self.lost += 1;
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(lost = self.lost, suppressed;
                    "the program of {} is too slow; an event was dropped", self.option);
            }
        }
    }

    /// Runs the program for the queued events until the deadline, then kills it.
    pub(crate) fn finish(self, deadline: Instant) {
        let _ = self.stop.try_send(deadline);
        drop(self.queue);
        // The process ends in any case.
        let _ = self.worker.join_until(deadline + KILL_GRACE);
    }
}

/// The state of the thread that runs the program.
struct Runner {
    program: Program,
    runs_for: Arc<RunsFor>,
    stop: Receiver<Instant>,
    /// The last alerts for which the program has run, at most [`ALERTS_REMEMBERED`].
    alerted: VecDeque<Alerted>,
    /// Deadline for the thread's end, once the node leaves.
    leave_by: Option<Instant>,
}

impl Runner {
    fn run(mut self, jobs: Jobs) {
        let mut dropped = 0_u64;
        for (time, event) in jobs {
            if self.leave_by.is_some_and(|by| Instant::now() >= by) {
                dropped += 1;
                continue;
            }
            let alerted = Alerted::new(&event);
            if alerted.as_ref().is_some_and(|alerted| self.alerted.contains(alerted)) {
                self.runs_for.has_run(&event);
                continue;
            }
            let variables = EventVariables::new(time, &event);
            let outcome = self.run_once(time, &event, &variables);
            if matches!(&outcome, Ok(RunEnd::Exited(status)) if status.success()) {
                self.runs_for.has_run(&event);
                if self.alerted.len() == ALERTS_REMEMBERED {
                    self.alerted.pop_front();
                }
                self.alerted.extend(alerted);
            }
            self.log_outcome(variables.event(), outcome);
        }
        if dropped > 0 {
            log::warn!(dropped; "the node leaves; the program of {} did not run for the last events", self.program.option);
        }
    }

    fn run_once(&mut self, time: Timestamp, event: &Event, variables: &EventVariables) -> io::Result<RunEnd> {
        let mut line = String::new();
        event_json::print(&mut line, time, event, None);
        let mut command = Command::new(&self.program.path);
        for (name, _) in env::vars_os().filter(|(name, _)| is_reserved(name)) {
            command.env_remove(name);
        }
        // A new process group, so that the program's children can be killed with it.
        command.envs(variables.map()).process_group(0);
        // Stdout carries only events, so the program's output goes to stderr.
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        command.stdin(Stdio::piped()).stdout(output).stderr(Stdio::inherit());
        let mut child = reaper::spawn(&mut command)?;
        let end = self.wait_for_end(&mut child, line);
        reaper::release();
        end
    }

    /// Passes the line to the program, and waits until the program ends or is killed.
    fn wait_for_end(&mut self, child: &mut Child, line: String) -> io::Result<RunEnd> {
        let limit = Instant::now() + self.runs_for.run_max();
        let exit_watch = match watch_exit(child, line, limit) {
            Ok(worker) => worker,
            Err(error) => {
                kill(child)?;
                return Err(io::Error::other(format!("killed: cannot start a thread to watch it: {error}")));
            }
        };
        loop {
            let deadline = self.leave_by.map_or(limit, |by| by.min(limit));
            select! {
                recv(exit_watch.ended()) -> _ => return child.wait().map(RunEnd::Exited),
                recv(self.stop) -> by => {
                    self.leave_by = Some(by.unwrap_or_else(|_| Instant::now()));
                    self.stop = never();
                }
                default(deadline.saturating_duration_since(Instant::now())) => {
                    kill(child)?;
                    return Ok(if deadline < limit { RunEnd::NodeLeaves } else { RunEnd::TimedOut });
                }
            }
        }
    }

    fn log_outcome(&self, event: &str, outcome: io::Result<RunEnd>) {
        let reason = match outcome {
            Ok(RunEnd::Exited(status)) if status.success() => {
                static LIMIT: LogLimit = LogLimit::debug();
                if let Some(suppressed) = LIMIT.check() {
                    log::debug!(event, suppressed; "the program of {} has run", self.program.option);
                }
                return;
            }
            Ok(RunEnd::Exited(status)) => status.to_string(),
            Ok(RunEnd::TimedOut) => format!("killed after {:?}", self.runs_for.run_max()),
            Ok(RunEnd::NodeLeaves) => "killed: the node leaves".to_owned(),
            Err(error) => error.to_string(),
        };
        static LIMIT: LogLimit = LogLimit::new();
        if let Some(suppressed) = LIMIT.check() {
            log::warn!(event, reason:% = reason, suppressed; "the program of {} failed", self.program.option);
        }
    }
}

/// The incident and the phase of an alert.
#[derive(Debug, PartialEq, Eq)]
struct Alerted(String, AlertPhase);

impl Alerted {
    fn new(event: &Event) -> Option<Self> {
        match event {
            Event::Alert { incident, phase, .. } => Some(Self(incident.clone(), *phase)),
            _ => None,
        }
    }
}

/// How a run ended.
enum RunEnd {
    Exited(ExitStatus),
    TimedOut,
    NodeLeaves,
}

/// Starts a thread that writes the line to the program and ends when the program has ended. The thread does
/// not reap the process: the process id stays valid until the caller does.
fn watch_exit(child: &mut Child, line: String, deadline: Instant) -> io::Result<Worker> {
    let (stdin, pid) = (child.stdin.take(), Pid::from_child(child));
    Worker::spawn("hook", move || {
        if let Some(stdin) = stdin {
            // The program need not read its input.
            let _ = write_line(stdin, line.as_bytes(), deadline);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
    })
}

/// Writes the line until the deadline, or until the program closes its standard input.
fn write_line(mut stdin: ChildStdin, mut line: &[u8], deadline: Instant) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&stdin, true)?;
    while !line.is_empty() {
        match stdin.write(line) {
            Ok(count) => line = &line[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let wait = deadline.saturating_duration_since(Instant::now());
                if wait.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
                let _ = poll(&mut [PollFd::new(&stdin, PollFlags::OUT)], Some(&wait));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Kills the program and its children, and reaps the program.
fn kill(child: &mut Child) -> io::Result<()> {
    // The program is not reaped yet, so the group id still belongs to it.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    child.wait().map(drop)
}

/// Whether the program must not inherit this variable.
fn is_reserved(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX) || NOT_INHERITED.contains(&name))
}

/// An event's fields as environment variables, by name.
struct EventVariables(BTreeMap<String, String>);

impl EventVariables {
    fn new(time: Timestamp, event: &Event) -> Self {
        let mut variables = BTreeMap::from([(format!("{PREFIX}TIME"), Time(time).to_string())]);
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(event) {
            for (name, value) in fields {
                let value = match value {
                    serde_json::Value::Null => String::new(),
                    // An environment variable cannot hold NUL.
                    serde_json::Value::String(text) => text.replace('\0', "\u{fffd}"),
                    // One element on each line. Names have no line feeds.
                    serde_json::Value::Array(elements) => {
                        let elements = elements.iter().filter_map(serde_json::Value::as_str);
                        elements.collect::<Vec<_>>().join("\n").replace('\0', "\u{fffd}")
                    }
                    other => other.to_string(),
                };
                variables.insert(format!("{PREFIX}{}", name.to_ascii_uppercase()), value);
            }
        }
        Self(variables)
    }

    /// The kind of event: `up`, `down`, …
    fn event(&self) -> &str {
        self.0.get("P2P_GOSSIP_EVENT").map_or("?", String::as_str)
    }

    fn map(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use p2p_gossip::PeerId;
    use p2p_gossip::internals::sample;

    fn ping(text: &str) -> Event {
        let peer = PeerId::from_bytes([0xab; 32]);
        let addr = "127.0.0.1:1".parse().unwrap();
        sample::ping(peer, "", addr, 7, text, None)
    }

    #[test]
    fn event_fields_become_environment_variables() {
        let time = "2026-01-31T12:00:00.1239Z".parse().unwrap();
        let variables = EventVariables::new(time, &ping("a\0b\n\u{1b}[2J"));
        let wanted = [
            ("ADDR", "127.0.0.1:1"),
            ("EVENT", "ping"),
            ("NAME", ""),
            ("PEER", &"ab".repeat(32)),
            ("RTT_MS", ""),
            ("SEQ", "7"),
            ("TEXT", "a\u{fffd}b\n\u{1b}[2J"),
            ("TIME", "2026-01-31T12:00:00.123Z"),
            ("VIA", ""),
        ];
        let wanted = wanted.map(|(name, value)| (format!("{PREFIX}{name}"), value.to_owned()));
        assert_eq!(variables.map(), &BTreeMap::from(wanted));
        assert_eq!(variables.event(), "ping");
    }

    #[test]
    fn change_of_path_runs_the_program_with_the_carrier() {
        let [peer, via] = [0xab, 0xcd].map(|byte| PeerId::from_bytes([byte; 32]));
        let path = |via| sample::path(peer, "bob", "127.0.0.1:1".parse().unwrap(), via);
        assert!(RunsFor::Events { with_pings: false }.wants(&path(None)));
        let time = "2026-01-31T12:00:00.1239Z".parse().unwrap();
        for (via, shown) in [(Some(via), "cd".repeat(32)), (None, String::new())] {
            let variables = EventVariables::new(time, &path(via));
            assert_eq!(variables.event(), "path");
            assert_eq!(variables.map()["P2P_GOSSIP_VIA"], shown);
        }
    }

    #[test]
    fn only_executable_files_are_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plain");
        std::fs::write(&file, "x").unwrap();
        let error = |path: &Path| Program::find("--on-event", path).unwrap_err().to_string();
        assert!(error(&file).ends_with("plain: it is not executable"));
        assert!(error(dir.path()).ends_with(": it is not a file"));
        assert!(error(&dir.path().join("none")).contains("No such file"));
        let script = |text: &str| {
            let file = dir.path().join("script");
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
            Program::find("--on-event", &file).map_err(|error| error.to_string())
        };
        assert!(script("#!/bin/sh\r\nexit\r\n").unwrap_err().contains("lines end with CR LF"));
        assert!(script("#!/no/such/sh -e\n").unwrap_err().contains("interpreter"));
        assert!(script("#! /bin/sh -e\nexit\r\n").is_ok() && script("\x7fELF").is_ok());
        assert!(error(Path::new("no-such-program-anywhere")).contains("no such program in PATH"));
        assert!(Program::find("--on-event", Path::new("sh")).unwrap().path.is_absolute());
    }
}
