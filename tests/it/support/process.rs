//! Runs one `p2p-gossip` process: starts it, reads its output, signals it, and kills it when dropped.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use p2p_gossip::Event;
use rustix::process::{Pid, Signal, kill_process};

/// How to start a node. `Spec::named` uses any free port; `with_…` methods add the rest.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) period_s: f64,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) connect: Vec<SocketAddr>,
    pub(crate) key: Option<PathBuf>,
    pub(crate) state: Option<PathBuf>,
    /// `RUST_LOG` of the node.
    pub(crate) log: String,
    /// Whether the node has its own process group, so that Ctrl-C in the terminal does not reach it.
    pub(crate) own_group: bool,
    /// Shell commands that run before the shell becomes the program, for example `ulimit`.
    pub(crate) limits: Option<String>,
    /// `--output` of the node.
    pub(crate) format: &'static str,
    /// Network namespace to run in; `None` for the test's.
    pub(crate) namespace: Option<String>,
    /// The node's root directory, for chroot(8); the program is `/p2p-gossip` in it.
    pub(crate) root: Option<PathBuf>,
    /// Further arguments, in the order in which they were added.
    pub(crate) args: Vec<OsString>,
}

impl Spec {
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            period_s: 0.2,
            bind: None,
            port: 0,
            connect: Vec::new(),
            key: None,
            state: None,
            log: "debug".to_owned(),
            own_group: false,
            limits: None,
            format: "json",
            namespace: None,
            root: None,
            args: Vec::new(),
        }
    }

    pub(crate) fn with_period(self, period_s: f64) -> Self {
        Self { period_s, ..self }
    }

    /// Listens on this address; port 0 takes any free one.
    pub(crate) fn with_bind(self, addr: SocketAddr) -> Self {
        Self { bind: Some(addr.ip()), port: addr.port(), ..self }
    }

    pub(crate) fn with_connect(mut self, addr: SocketAddr) -> Self {
        self.connect.push(addr);
        self
    }

    pub(crate) fn with_key(self, key: &Path) -> Self {
        Self { key: Some(key.to_owned()), ..self }
    }

    pub(crate) fn with_state(self, state: &Path) -> Self {
        Self { state: Some(state.to_owned()), ..self }
    }

    pub(crate) fn with_log(self, log: impl Into<String>) -> Self {
        Self { log: log.into(), ..self }
    }

    /// Ctrl-C in the terminal reaches the program that started the node, but not the node. That program
    /// decides when the node ends.
    #[allow(dead_code, reason = "the demo and the benchmark use it, the tests do not")]
    pub(crate) fn with_own_group(self) -> Self {
        Self { own_group: true, ..self }
    }

    /// Runs these shell commands first, for example `ulimit -n 64`.
    pub(crate) fn with_limits(self, limits: impl Into<String>) -> Self {
        Self { limits: Some(limits.into()), ..self }
    }

    /// Prints text for people; each line arrives as `Output::Garbage`.
    pub(crate) fn with_text_output(self) -> Self {
        Self { format: "text", ..self }
    }

    /// Adds arguments, separated by blanks.
    pub(crate) fn with_args(mut self, args: &str) -> Self {
        self.args.extend(args.split_whitespace().map(OsString::from));
        self
    }

    /// Runs in this network namespace.
    pub(crate) fn with_namespace(self, namespace: String) -> Self {
        Self { namespace: Some(namespace), ..self }
    }

    /// Runs `/p2p-gossip` of this directory with the directory as its root. Needs root's rights.
    pub(crate) fn with_root(self, root: &Path) -> Self {
        Self { root: Some(root.to_owned()), ..self }
    }

    /// Adds an option with a value.
    pub(crate) fn with_option(mut self, option: &str, value: impl AsRef<OsStr>) -> Self {
        self.args.extend([option.into(), value.as_ref().to_owned()]);
        self
    }

    /// Adds an option without a value.
    pub(crate) fn with_switch(mut self, option: &str) -> Self {
        self.args.push(option.into());
        self
    }

    /// The command that starts the node. Every wrapper (ip, sh, chroot) execs the next one, so the
    /// process id is the node's.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["ip", "netns", "exec", namespace].map(OsString::from));
        }
        if let Some(limits) = &self.limits {
            let script = format!("{limits} && exec \"$0\" \"$@\"");
            words.extend(["sh", "-c", &script].map(OsString::from));
        }
        match &self.root {
            Some(root) => words.extend(["chroot".into(), root.into(), "/p2p-gossip".into()]),
            None => words.push(program.into()),
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.args(["--output", self.format, "--name", &self.name]);
        command.args(["--period", &self.period_s.to_string(), "--port", &self.port.to_string()]);
        if let Some(bind) = self.bind {
            command.args(["--bind", &bind.to_string()]);
        }
        for addr in &self.connect {
            command.args(["--connect", &addr.to_string()]);
        }
        command.args(&self.args);
        if let Some(key) = &self.key {
            command.args([OsStr::new("--key"), key.as_os_str()]);
        }
        if let Some(state) = &self.state {
            command.args([OsStr::new("--state"), state.as_os_str()]);
        }
        command.env("RUST_LOG", &self.log);
        if self.own_group {
            command.process_group(0);
        }
        command
    }
}

/// An output of a running node.
#[derive(Debug)]
pub(crate) enum Output {
    /// A line on stdout, as JSON and as the parsed event.
    Event { json: serde_json::Value, event: Event },
    /// A line on stdout that is no event, and the parser's error.
    Garbage { line: String, error: String },
    /// A line on stderr.
    Log(String),
    /// The node has closed its stdout: it has ended or soon does.
    Ended,
}

/// A node's process. Killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a node. Two threads, for stdout and stderr, call `sink` with each output.
    pub(crate) fn spawn<S>(program: &Path, spec: &Spec, sink: S) -> io::Result<Self>
    where
        S: Fn(Output) + Clone + Send + 'static,
    {
        let mut child = spec
            .command(program)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("stdout was asked to be a pipe");
        let stderr = child.stderr.take().expect("stderr was asked to be a pipe");
        // From here on an early return kills the child.
        let process = Self { child };
        let log_sink = sink.clone();
        read_lines(&format!("{} stderr", spec.name), stderr, move |line| {
            if let Some(line) = line {
                log_sink(Output::Log(line));
            }
        })?;
        read_lines(&format!("{} stdout", spec.name), stdout, move |line| {
            sink(line.map_or(Output::Ended, |line| parse(&line)));
        })?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless the process has ended already.
    pub(crate) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        // Another process may have the id of a reaped child.
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), signal)?;
        }
        Ok(())
    }

    /// How the process ended; `None` if it still runs at the deadline.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        // The standard library cannot wait for a child with a deadline, so this polls.
        const POLL_EVERY: Duration = Duration::from_millis(5);
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(POLL_EVERY);
        }
    }

    /// Ends the process without warning, even a stopped one.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the process has ended already.
        let _ = self.kill();
    }
}

/// Writes a new Ed25519 key that only its owner can read, as the program requires.
pub(crate) fn write_key(file: &Path) -> io::Result<()> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(io::Error::other)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?
        .write_all(key.serialize_pem().as_bytes())
}

fn parse(line: &str) -> Output {
    let json = serde_json::from_str::<serde_json::Value>(line);
    let parsed = json.and_then(|json| Ok((serde_json::from_value(json.clone())?, json)));
    match parsed {
        Ok((event, json)) => Output::Event { json, event },
        Err(error) => Output::Garbage { line: line.to_owned(), error: error.to_string() },
    }
}

/// Calls `sink` with each line, and once with `None` when there are no more.
fn read_lines<R, S>(thread_name: &str, source: R, sink: S) -> io::Result<()>
where
    R: Read + Send + 'static,
    S: Fn(Option<String>) + Send + 'static,
{
    let read = move || {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        // A killed process may leave a partial line, which is ignored.
        while source.read_until(b'\n', &mut line).is_ok() && line.pop() == Some(b'\n') {
            sink(Some(String::from_utf8_lossy(&line).into_owned()));
            line.clear();
        }
        sink(None);
    };
    thread::Builder::new().name(thread_name.to_owned()).spawn(read).map(drop)
}
