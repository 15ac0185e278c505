//! Runs the program under test, to its end or as a node, and makes the files that it reads.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::executable::{RunToEnd as _, copy_program, write_script};

/// Deadline for anything that must happen, also on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// A clean stop takes less than a second; this leaves room for a busy machine.
pub(super) const STOP_MAX: Duration = Duration::from_secs(10);
/// User id without rights, for tests that root's rights would defeat. No other process has it.
pub(super) const UNPRIVILEGED_UID: u32 = 54_321;

pub(super) const ED25519: &str = include_str!("../../fixtures/keys/ed25519.pem");
pub(super) const ED25519_CERT: &str = include_str!("../../fixtures/keys/ed25519_cert.pem");
/// `openssl pkey -in ed25519.pem -pubout -outform der | sha256sum`, as for the ids below.
pub(super) const ED25519_ID: &str = "c53c49b583571e4df69fd1ab60942165e7afb131005aa1b57940b3511881aea0";

/// The program, run by the user that runs the tests.
pub(super) fn program() -> Command {
    without_environment(Command::new(env!("CARGO_BIN_EXE_p2p-gossip")))
}

/// The program, run by a user without root's rights. Root runs a copy as another user, in a place where
/// that user can read it.
pub(super) fn unprivileged(files: &Files) -> Command {
    if !rustix::process::geteuid().is_root() {
        return program();
    }
    let copy = files.path("p2p-gossip");
    copy_program(env!("CARGO_BIN_EXE_p2p-gossip").as_ref(), &copy);
    fs::set_permissions(files.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = without_environment(Command::new(copy));
    command.uid(UNPRIVILEGED_UID).gid(UNPRIVILEGED_UID);
    command
}

/// Removes the variables of the tests' environment that change what the program prints.
fn without_environment(mut command: Command) -> Command {
    command.stdin(Stdio::null());
    for name in ["RUST_LOG", "RUST_BACKTRACE", "NO_COLOR"] {
        command.env_remove(name);
    }
    command
}

/// Runs the program until it ends by itself.
pub(super) fn run<S: AsRef<OsStr>>(args: &[S]) -> Output {
    program().args(args).run_to_end()
}

/// Waits for the child's end; panics after `PATIENCE`.
fn wait(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the program still runs after {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Asserts a usage error: exit code 2, two lines on stderr, each needle in the first.
#[track_caller]
pub(super) fn assert_usage_error<S: AsRef<OsStr> + std::fmt::Debug>(args: &[S], needles: &[&str]) {
    let output = run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
    let lines: Vec<&str> = stderr.lines().collect();
    let [message, advice] = lines[..] else { panic!("{args:?}: {stderr}") };
    assert!(message.starts_with("p2p-gossip: "), "{args:?}: {message}");
    assert!(advice.contains("p2p-gossip --help"), "{args:?}: {advice}");
    for needle in needles {
        assert!(message.contains(needle), "{args:?}: {message:?} lacks {needle:?}");
    }
}

/// Asserts a failure at run time: exit code 1, one line on stderr with each needle.
#[track_caller]
pub(super) fn assert_failure<S: AsRef<OsStr>>(args: &[S], needles: &[&str]) {
    assert_failure_of(program().args(args), needles);
}

/// As `assert_failure`, for a prepared command.
#[track_caller]
pub(super) fn assert_failure_of(command: &mut Command, needles: &[&str]) {
    let output = command.run_to_end();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{command:?} wrote to stdout");
    assert!(stderr.starts_with("p2p-gossip: ") && stderr.lines().count() == 1, "{command:?}: {stderr}");
    for needle in needles {
        assert!(stderr.contains(needle), "{command:?}: {stderr:?} lacks {needle:?}");
    }
}

/// A running node; killed when dropped.
pub(super) struct Node {
    child: Child,
    stdout: Option<Receiver<String>>,
    stderr: Option<Receiver<String>>,
}

impl Node {
    /// Starts a node on a free port of loopback; it prints its events as JSON.
    pub(super) fn start(args: &[&str]) -> Self {
        Self::spawn(program().args(["--port", "0", "--bind", "127.0.0.1", "--output", "json"]).args(args))
    }

    pub(super) fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::piped(), Stdio::piped())
    }

    /// Starts the command; threads read the piped streams line by line.
    pub(super) fn spawn_with(command: &mut Command, stdout: Stdio, stderr: Stdio) -> Self {
        let mut child = command.stdout(stdout).stderr(stderr).spawn().expect("binary starts");
        let stdout = child.stdout.take().map(lines_of);
        let stderr = child.stderr.take().map(lines_of);
        Self { child, stdout, stderr }
    }

    /// Starts the command with a pipe as stderr. `JOURNAL_STREAM` names that pipe only if `is_read_by_journal`.
    pub(super) fn spawn_for_journal(mut command: Command, is_read_by_journal: bool) -> Self {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let stat = rustix::fs::fstat(&writer).unwrap();
        let inode = if is_read_by_journal { stat.st_ino } else { stat.st_ino + 1 };
        command.env("JOURNAL_STREAM", format!("{}:{inode}", stat.st_dev));
        let mut node = Self::spawn_with(&mut command, Stdio::piped(), writer.into());
        // The command holds the writing end, which would keep the reader waiting, until it is dropped here.
        node.stderr = Some(lines_of(fs::File::from(reader)));
        node
    }

    /// The node's standard input. The command must have asked for a pipe.
    pub(super) fn stdin(&mut self) -> &mut ChildStdin {
        self.child.stdin.as_mut().expect("a pipe that is still open")
    }

    /// Closes the node's standard input.
    pub(super) fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// The next line on stdout.
    #[track_caller]
    pub(super) fn line(&self) -> String {
        match self.stdout.as_ref().unwrap().recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("{error} on stdout; stderr: {:?}", self.stderr_so_far()),
        }
    }

    /// The next event of this kind on stdout; skips others.
    #[track_caller]
    pub(super) fn event(&self, kind: &str) -> Value {
        loop {
            let line = self.line();
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// The next line on stderr that contains the needle; skips others.
    #[track_caller]
    pub(super) fn log_line(&self, needle: &str) -> String {
        loop {
            match self.stderr.as_ref().unwrap().recv_timeout(PATIENCE) {
                Ok(line) if line.contains(needle) => return line,
                Ok(_) => {}
                Err(error) => panic!("{error} on stderr before {needle:?}"),
            }
        }
    }

    pub(super) fn stderr_so_far(&self) -> Vec<String> {
        self.stderr.as_ref().map(|lines| lines.try_iter().collect()).unwrap_or_default()
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; returns the status and the unread lines of stdout and stderr.
    pub(super) fn wait(&mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        let status = wait(&mut self.child);
        let rest = |lines: Option<Receiver<String>>| lines.map(|lines| lines.iter().collect());
        (status, rest(self.stdout.take()).unwrap_or_default(), rest(self.stderr.take()).unwrap_or_default())
    }

    /// Sends SIGTERM and asserts a clean stop: exit code 0, in time, `stopped` as the last event.
    #[track_caller]
    pub(super) fn stop(mut self) {
        let began = Instant::now();
        self.signal(Signal::TERM);
        let (status, stdout, stderr) = self.wait();
        assert_eq!(status.code(), Some(0), "{stderr:?}");
        assert!(began.elapsed() < STOP_MAX, "took {:?}", began.elapsed());
        let last = stdout.last().expect("a last line");
        assert!(last.contains("stopped"), "{last}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = unbounded();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            // Dropping the receiver closes the pipe: the node loses its reader.
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

pub(super) fn addr_of(listening: &Value) -> String {
    listening["addr"].as_str().unwrap().to_owned()
}

/// A temporary directory of files. Removed when dropped.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file that only its owner can read; returns its path.
    pub(super) fn private(&self, name: &str, content: &str) -> String {
        self.with_mode(name, content, 0o600)
    }

    pub(super) fn with_mode(&self, name: &str, content: &str, mode: u32) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Writes an executable shell script; returns its path.
    pub(super) fn script(&self, name: &str, lines: &str) -> String {
        let path = self.path(name);
        write_script(&path, &format!("#!/bin/sh\n{lines}\n"));
        path.to_str().unwrap().to_owned()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(super) fn dir(&self) -> &Path {
        self.0.path()
    }
}

/// The reading and the writing end of a full pipe.
pub(super) fn full_pipe() -> (OwnedFd, OwnedFd) {
    use rustix::fs::{OFlags, fcntl_setfl};
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b"x").is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}
