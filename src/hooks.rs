//! The program that is run for events (`--on-event`): one at a time, in order, behind a bounded
//! queue on a thread of its own.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, never, select};
use jiff::Timestamp;
use p2p_gossip::Event;
use p2p_gossip::config::EVENTS_QUEUED;
use p2p_gossip::log_limit::LogLimit;
use p2p_gossip::queue;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::cli::OnEvent;
use crate::event_json::{self, Time};

/// A program that runs for longer is killed: others wait behind it.
const RUN_MAX: Duration = Duration::from_secs(10);
/// What the program is told about the event is in variables that begin like this.
const PREFIX: &str = "P2P_GOSSIP_";
/// Set by a service manager for this process, and nobody else's business.
const NOT_INHERITED: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// A program that exists and may be run.
#[derive(Debug)]
struct Program(PathBuf);

/// Why a program cannot be run for events.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    /// It is not there, or is no program.
    #[error("--on-event: cannot run {}: {reason}", program.display())]
    Program {
        /// As the user wrote it.
        program: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// There is no thread for it.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl Program {
    /// Finds it as a shell would, once: what happens to PATH or the working directory later does
    /// not matter.
    fn find(program: &Path) -> Result<Self, HookError> {
        let error = |reason: String| HookError::Program { program: program.to_owned(), reason };
        let can_run = |path: &Path| match path.metadata() {
            Err(found) => Err(error(found.to_string())),
            Ok(found) if !found.is_file() => Err(error("it is not a file".to_owned())),
            Ok(_) => match access(path, Access::EXEC_OK) {
                Ok(()) => Ok(Self(std::path::absolute(path).map_err(|found| error(found.to_string()))?)),
                Err(_) => Err(error("it is not executable".to_owned())),
            },
        };
        if program.components().count() > 1 || program.is_absolute() {
            return can_run(program);
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let mut found = env::split_paths(&path).map(|dir| can_run(&dir.join(program)));
        let found = found.find_map(Result::ok);
        found.ok_or_else(|| error("there is no such program in PATH".to_owned()))
    }
}

/// The way to the program.
#[derive(Debug)]
pub(crate) struct Hooks {
    queue: queue::Sender<(Timestamp, Event)>,
    with_pings: bool,
    lost: u64,
    /// Takes the time by which everything has to be over.
    stop: Sender<Instant>,
    /// Closed when the thread has ended.
    done: Receiver<()>,
}

impl Hooks {
    /// Starts the thread that runs the program.
    ///
    /// # Errors
    /// There is no such program, or no thread for it.
    pub(crate) fn start(on_event: &OnEvent) -> Result<Self, HookError> {
        let program = Program::find(&on_event.program)?;
        let (queue, jobs) = queue::bounded(EVENTS_QUEUED);
        let ((stop, stopped), (finished, done)) = (bounded(1), bounded(0));
        thread::Builder::new().name("hooks".to_owned()).spawn(move || {
            let _finished: Sender<()> = finished;
            Runner { program, stop: stopped, leave_by: None }.run(&jobs);
        })?;
        Ok(Self { queue, with_pings: on_event.with_pings, lost: 0, stop, done })
    }

    /// Runs the program for this event when its turn comes, if it is one to run for. When too many
    /// wait, what peers say gives way first, so that it does not hide who comes and goes.
    pub(crate) fn offer(&mut self, time: Timestamp, event: &Event) {
        let is_wanted = match event {
            Event::Up { .. } | Event::Down { .. } | Event::Left { .. } | Event::Message { .. } => true,
            Event::Ping { .. } => self.with_pings,
            _ => false,
        };
        if !is_wanted {
            return;
        }
        let offered = self.queue.offer((time, event.clone()), event.is_traffic());
        if let Err(TrySendError::Full(_)) = offered {
            self.lost += 1;
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(lost = self.lost, suppressed;
                    "the program of --on-event is too slow; events are lost to it");
            }
        }
    }

    /// Lets the program run for what is queued until the deadline, and kills it then.
    pub(crate) fn finish(self, deadline: Instant) {
        let _ = self.stop.try_send(deadline);
        drop(self.queue);
        // A moment more, for the killing.
        let _ = self.done.recv_deadline(deadline + Duration::from_millis(50));
    }
}

/// The thread behind the queue.
struct Runner {
    program: Program,
    stop: Receiver<Instant>,
    /// When everything has to be over, once the node leaves.
    leave_by: Option<Instant>,
}

impl Runner {
    fn run(mut self, jobs: &Receiver<(Timestamp, Event)>) {
        let mut left_out = 0_u64;
        for (time, event) in jobs {
            if self.leave_by.is_some_and(|by| Instant::now() >= by) {
                left_out += 1;
                continue;
            }
            let facts = Facts::of(time, &event);
            match self.run_for(time, &event, &facts) {
                Ok(Ended::Exited(status)) if status.success() => {
                    static LIMIT: LogLimit = LogLimit::debug();
                    if let Some(suppressed) = LIMIT.check() {
                        log::debug!(event = facts.word(), suppressed; "the program of --on-event has run");
                    }
                }
                Ok(Ended::Exited(status)) => complain(facts.word(), &status),
                Ok(Ended::TooLong) => complain(facts.word(), &format_args!("killed after {RUN_MAX:?}")),
                Ok(Ended::Leaving) => complain(facts.word(), &"killed: the node leaves"),
                Err(error) => complain(facts.word(), &error),
            }
        }
        if left_out > 0 {
            log::warn!(left_out; "the node leaves; the program of --on-event did not run for the last events");
        }
    }

    fn run_for(&mut self, time: Timestamp, event: &Event, facts: &Facts) -> io::Result<Ended> {
        let mut line = String::new();
        event_json::print(&mut line, time, event, None);
        let mut command = Command::new(&self.program.0);
        for (name, _) in env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        // A group of its own, so that what it starts can be killed with it.
        command.envs(facts.variables()).process_group(0);
        // Stdout is for events.
        let output = io::stderr().as_fd().try_clone_to_owned()?;
        let mut child = command.stdin(Stdio::piped()).stdout(output).stderr(Stdio::inherit()).spawn()?;
        let limit = Instant::now() + RUN_MAX;
        let Some(exited) = watch(&mut child, line, limit) else {
            kill(&mut child)?;
            return Err(io::Error::other("no thread is left to watch it; killed"));
        };
        loop {
            let deadline = self.leave_by.map_or(limit, |by| by.min(limit));
            select! {
                recv(exited) -> _ => return child.wait().map(Ended::Exited),
                recv(self.stop) -> by => {
                    self.leave_by = Some(by.unwrap_or_else(|_| Instant::now()));
                    self.stop = never();
                }
                default(deadline.saturating_duration_since(Instant::now())) => {
                    kill(&mut child)?;
                    return Ok(if deadline < limit { Ended::Leaving } else { Ended::TooLong });
                }
            }
        }
    }
}

/// How a run ended.
enum Ended {
    Exited(ExitStatus),
    TooLong,
    Leaving,
}

fn complain(event: &str, reason: &dyn std::fmt::Display) {
    static LIMIT: LogLimit = LogLimit::new();
    if let Some(suppressed) = LIMIT.check() {
        log::warn!(event, reason:% = reason, suppressed; "the program of --on-event failed");
    }
}

/// Feeds the program its line, then waits for its end without collecting it, so that until the
/// owner does that the process id stays its own. The channel is closed at the end; `None` if
/// there is no thread for this.
fn watch(child: &mut Child, line: String, deadline: Instant) -> Option<Receiver<()>> {
    let (ended, exited) = bounded::<()>(0);
    let (stdin, pid) = (child.stdin.take()?, Pid::from_child(child));
    let watch = move || {
        let _ended = ended;
        // It need not read what it is given.
        let _ = feed(stdin, line.as_bytes(), deadline);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
    };
    thread::Builder::new().name("hook".to_owned()).spawn(watch).ok()?;
    Some(exited)
}

/// Writes the line for as long as somebody may read it.
fn feed(mut stdin: ChildStdin, mut line: &[u8], deadline: Instant) -> io::Result<()> {
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

/// Kills the program and what it has started, and collects it.
fn kill(child: &mut Child) -> io::Result<()> {
    // It has not been collected, so the group is its own.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    child.wait().map(drop)
}

fn is_ours(name: &OsString) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(PREFIX) || NOT_INHERITED.contains(&name))
}

/// The fields of an event, as variables of the environment.
struct Facts(BTreeMap<String, String>);

impl Facts {
    fn of(time: Timestamp, event: &Event) -> Self {
        let mut facts = BTreeMap::from([(format!("{PREFIX}TIME"), Time(time).to_string())]);
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(event) {
            for (name, value) in fields {
                let value = match value {
                    serde_json::Value::Null => String::new(),
                    // The one character that a variable cannot hold.
                    serde_json::Value::String(text) => text.replace('\0', "\u{fffd}"),
                    other => other.to_string(),
                };
                facts.insert(format!("{PREFIX}{}", name.to_ascii_uppercase()), value);
            }
        }
        Self(facts)
    }

    /// What happened: `up`, `down`, …
    fn word(&self) -> &str {
        self.0.get("P2P_GOSSIP_EVENT").map_or("?", String::as_str)
    }

    fn variables(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_gossip::PeerId;
    use p2p_gossip::config::EVENTS_QUEUED_WITH_TRAFFIC;

    fn ping(text: &str) -> Event {
        let peer = PeerId::from_bytes([0xab; 32]);
        let addr = "127.0.0.1:1".parse().unwrap();
        Event::Ping { peer, name: String::new(), addr, seq: 7, text: text.to_owned(), rtt_ms: None }
    }

    #[test]
    fn every_field_is_a_variable_with_what_the_peer_said() {
        let time = "2026-01-31T12:00:00.1239Z".parse().unwrap();
        let facts = Facts::of(time, &ping("a\0b\n\u{1b}[2J"));
        let wanted = [
            ("ADDR", "127.0.0.1:1"),
            ("EVENT", "ping"),
            ("NAME", ""),
            ("PEER", &"ab".repeat(32)),
            ("RTT_MS", ""),
            ("SEQ", "7"),
            ("TEXT", "a\u{fffd}b\n\u{1b}[2J"),
            ("TIME", "2026-01-31T12:00:00.123Z"),
        ];
        let wanted = wanted.map(|(name, value)| (format!("{PREFIX}{name}"), value.to_owned()));
        assert_eq!(facts.variables(), &BTreeMap::from(wanted));
        assert_eq!(facts.word(), "ping");
    }

    #[test]
    fn a_flood_of_messages_leaves_room_for_who_comes_and_goes() {
        let (queue, jobs) = queue::bounded(EVENTS_QUEUED);
        let (stop, done) = (bounded(1).0, bounded(0).1);
        let mut hooks = Hooks { queue, with_pings: false, lost: 0, stop, done };
        let time = Timestamp::UNIX_EPOCH;
        let Event::Ping { peer, name, addr, text, .. } = ping("x") else { unreachable!() };
        hooks.offer(time, &ping("not wanted"));
        assert_eq!((jobs.len(), hooks.lost), (0, 0));
        let message = Event::Message { peer, name: name.clone(), addr: addr.clone(), text };
        (0..EVENTS_QUEUED).for_each(|_| hooks.offer(time, &message));
        assert_eq!(jobs.len(), EVENTS_QUEUED_WITH_TRAFFIC);
        let left = Event::Left { peer, name, addr, members: 1 };
        (0..EVENTS_QUEUED).for_each(|_| hooks.offer(time, &left));
        assert_eq!(jobs.len(), EVENTS_QUEUED);
        assert_eq!(hooks.lost, EVENTS_QUEUED as u64);
    }

    #[test]
    fn only_what_can_be_run_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plain");
        std::fs::write(&file, "x").unwrap();
        let error = |path: &Path| Program::find(path).unwrap_err().to_string();
        assert!(error(&file).ends_with("plain: it is not executable"));
        assert!(error(dir.path()).ends_with(": it is not a file"));
        assert!(error(&dir.path().join("none")).contains("No such file"));
        assert!(error(Path::new("no-such-program-anywhere")).contains("no such program in PATH"));
        assert!(Program::find(Path::new("sh")).unwrap().0.is_absolute());
    }
}
