//! The program as a user meets it: arguments, messages, exit codes, key files, signals, and
//! standard streams that nobody reads. Runs the real binary.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(unix)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// For anything that must happen, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// A clean stop takes less than a second; this leaves room for a busy machine.
const STOP_MAX: Duration = Duration::from_secs(10);

const ED25519: &str = include_str!("keys/ed25519.pem");
const ED25519_CERT: &str = include_str!("keys/ed25519_cert.pem");
/// `openssl pkey -in ed25519.pem -pubout -outform der | sha256sum`, as for the ids below.
const ED25519_ID: &str = "c53c49b583571e4df69fd1ab60942165e7afb131005aa1b57940b3511881aea0";

// Helpers

/// The program, without what the environment of the tests would change in it.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-gossip"));
    command.stdin(Stdio::null());
    for name in ["RUST_LOG", "RUST_BACKTRACE", "NO_COLOR", "TZ"] {
        command.env_remove(name);
    }
    command
}

/// Runs the program to its end, which it should find by itself.
fn run<S: AsRef<OsStr>>(args: &[S]) -> Output {
    let mut child =
        program().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("binary starts");
    let status = wait(&mut child);
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
    Output { status, stdout, stderr }
}

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

/// A message for wrong usage: exit code 2, two lines on stderr, each needle in the first.
#[track_caller]
fn assert_usage_error<S: AsRef<OsStr> + std::fmt::Debug>(args: &[S], needles: &[&str]) {
    let output = run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
    let lines: Vec<&str> = stderr.lines().collect();
    let [message, advice] = lines[..] else { panic!("{args:?}: {stderr}") };
    assert!(message.starts_with("p2p-gossip: "), "{args:?}: {message}");
    assert_eq!(advice, "Try 'p2p-gossip --help' for more information.");
    for needle in needles {
        assert!(message.contains(needle), "{args:?}: {message:?} lacks {needle:?}");
    }
}

/// A failure at run time: exit code 1, one line on stderr with each needle.
#[track_caller]
fn assert_failure<S: AsRef<OsStr> + std::fmt::Debug>(args: &[S], needles: &[&str]) {
    let output = run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
    assert!(stderr.starts_with("p2p-gossip: ") && stderr.lines().count() == 1, "{args:?}: {stderr}");
    for needle in needles {
        assert!(stderr.contains(needle), "{args:?}: {stderr:?} lacks {needle:?}");
    }
}

/// A running node; killed when dropped.
struct Node {
    child: Child,
    stdout: Option<Receiver<String>>,
    stderr: Option<Receiver<String>>,
}

impl Node {
    /// A node on a free port of loopback that shows its events as JSON.
    fn start(args: &[&str]) -> Self {
        Self::spawn(program().args(["--port", "0", "--bind", "127.0.0.1", "--output", "json"]).args(args))
    }

    fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::piped(), Stdio::piped())
    }

    /// Streams that are piped are read, line by line.
    fn spawn_with(command: &mut Command, stdout: Stdio, stderr: Stdio) -> Self {
        let mut child = command.stdout(stdout).stderr(stderr).spawn().expect("binary starts");
        let stdout = child.stdout.take().map(lines_of);
        let stderr = child.stderr.take().map(lines_of);
        Self { child, stdout, stderr }
    }

    /// The next line on stdout.
    #[track_caller]
    fn line(&self) -> String {
        match self.stdout.as_ref().unwrap().recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("{error} on stdout; stderr: {:?}", self.stderr_so_far()),
        }
    }

    /// The next event of this kind.
    #[track_caller]
    fn event(&self, kind: &str) -> Value {
        loop {
            let line = self.line();
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if event["event"] == kind {
                return event;
            }
        }
    }

    /// The next line on stderr that contains this.
    #[track_caller]
    fn log_line(&self, needle: &str) -> String {
        loop {
            match self.stderr.as_ref().unwrap().recv_timeout(PATIENCE) {
                Ok(line) if line.contains(needle) => return line,
                Ok(_) => {}
                Err(error) => panic!("{error} on stderr before {needle:?}"),
            }
        }
    }

    fn stderr_so_far(&self) -> Vec<String> {
        self.stderr.as_ref().map(|lines| lines.try_iter().collect()).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; what stdout and stderr still had to say comes with it.
    fn wait(&mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        let status = wait(&mut self.child);
        let rest = |lines: Option<Receiver<String>>| lines.map(|lines| lines.iter().collect());
        (status, rest(self.stdout.take()).unwrap_or_default(), rest(self.stderr.take()).unwrap_or_default())
    }

    /// SIGTERM, and everything that a clean stop promises.
    #[track_caller]
    fn stop(mut self) {
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

fn addr_of(listening: &Value) -> String {
    listening["addr"].as_str().unwrap().to_owned()
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A file that only its owner can read.
    fn private(&self, name: &str, content: &str) -> String {
        self.with_mode(name, content, 0o600)
    }

    fn with_mode(&self, name: &str, content: &str, mode: u32) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Both ends of a pipe in which there is no room left.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    use rustix::fs::{OFlags, fcntl_setfl};
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b"x").is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

// Help and version

#[test]
fn help_and_version_go_to_stdout() {
    for option in ["--help", "-h"] {
        let output = run(&[option]);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
        for option in [
            "--period",
            "--port",
            "--connect",
            "--key",
            "--cert",
            "--bind",
            "--name",
            "--output",
            "-h, --help",
        ] {
            assert!(stdout.contains(option), "{option} is missing:\n{stdout}");
        }
        assert!(stdout.contains("RUST_LOG") && stdout.contains("Exit codes"), "{stdout}");
    }
    for option in ["--version", "-V"] {
        let output = run(&[option]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.stdout, format!("p2p-gossip {}\n", env!("CARGO_PKG_VERSION")).into_bytes());
    }
}

#[test]
fn help_into_a_closed_pipe_is_no_failure() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    let mut node = Node::spawn_with(program().arg("--help"), writer.into(), Stdio::piped());
    let (status, _, stderr) = node.wait();
    assert_eq!((status.code(), stderr), (Some(0), vec![]));
}

#[test]
fn a_verb_has_a_help_of_its_own_and_does_what_it_says() {
    let output = run(&["id", "--help"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    assert!(stdout.contains("Usage: p2p-gossip id ") && stdout.contains("--cert FILE"), "{stdout}");

    let files = Files::new();
    let key = files.private("key.pem", ED25519);
    let cert = files.with_mode("cert.pem", ED25519_CERT, 0o644);
    for (option, file) in [("--key", key), ("--cert", cert)] {
        let output = run(&["id", option, &file]);
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{ED25519_ID}\n"));
    }
    assert_failure(&["id", "--key", files.path("none").to_str().unwrap()], &["cannot read", "none"]);

    let output = run(&["id"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.ends_with("\nTry 'p2p-gossip id --help' for more information.\n"), "{stderr}");
}

// Wrong usage

#[test]
fn each_option_says_what_is_wrong_with_its_value() {
    let long = "x".repeat(65);
    let rows: &[(&str, &[&str], &str)] = &[
        ("--period", &["0", "-1", "NaN", "inf", "-inf", "1e9", "0.001"], "from 0.01 to 86400 seconds"),
        ("--period", &["soon", "", "5s"], "a number of seconds"),
        ("--port", &["65536", "-1", "http", "", "80.5"], "a whole number from 0 to 65535"),
        ("--connect", &["127.0.0.1", "example.org", ""], "the port is missing"),
        ("--connect", &["a:0", "a:65536", "a:b", "a:"], "the port must be a number from 1 to 65535"),
        ("--connect", &["::1:8080", "[::1:8080", "[x]:1"], "in brackets"),
        ("--connect", &[":8080"], "the host is missing"),
        ("--connect", &["a b:1", "1.2.3:1", "-a:1"], "neither an IP address nor a host name"),
        ("--connect", &["0.0.0.0:8080", "[::]:8080"], "the unspecified address"),
        ("--key", &[""], "the file name is empty"),
        ("--bind", &["localhost", "1.2.3", "[::1]", ""], "an IP address"),
        ("--bind", &["127.0.0.1:8080"], "the port is given with --port"),
        ("--bind", &["224.0.0.1"], "multicast"),
        ("--name", &[&long], "65 bytes; at most 64"),
        ("--name", &["a\u{1b}[31mb", "a\nb", "a\u{202e}b"], "control character"),
        ("--output", &["xml", "JSON", ""], "\"text\" or \"json\""),
    ];
    for (option, values, needle) in rows {
        for value in *values {
            assert_usage_error(&[*option, *value], &[option, needle]);
            assert_usage_error(&[format!("{option}={value}")], &[option, needle]);
        }
    }
}

#[test]
fn arguments_that_make_no_sense_say_so() {
    assert_usage_error(&["--prot", "8080"], &["unknown option --prot; did you mean --port?"]);
    assert_usage_error(&["--conect=a:1"], &["unknown option --conect; did you mean --connect?"]);
    assert_usage_error(&["--frobnicate"], &["unknown option --frobnicate"]);
    assert_usage_error(&["-p", "8080"], &["unknown option -p"]);
    assert_usage_error(&["--port"], &["option --port needs a value"]);
    assert_usage_error(&["--port", "--name", "x"], &["option --port needs a value, but --name follows"]);
    assert_usage_error(&["--port=1", "--port=2"], &["option --port is given more than once"]);
    assert_usage_error(&["--version=1"], &["option --version takes no value"]);
    assert_usage_error(&["8080"], &["unexpected argument '8080'; did you mean --port 8080?"]);
    assert_usage_error(&["127.0.0.1:80"], &["did you mean --connect 127.0.0.1:80?"]);
    assert_usage_error(&["--", "--port=1"], &["unexpected argument '--port=1'"]);
    assert_usage_error(&[""], &["unexpected argument ''"]);
    assert_usage_error(&["--cert", "cert.pem"], &["--cert needs --key"]);
}

#[test]
fn bytes_that_are_no_text_are_wrong_usage() {
    use std::os::unix::ffi::OsStrExt as _;
    let name = OsStr::from_bytes(b"--name=\xff");
    assert_usage_error(&[OsStr::new("--port=0"), name], &["argument 2 is not valid UTF-8", "--name="]);
}

// Ports and addresses

#[test]
fn a_port_in_use_is_named_with_what_to_do() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = holder.local_addr().unwrap();
    let port = addr.port().to_string();
    let needles = [&*addr.to_string(), "another program listens there", "another --port, or 0"];
    assert_failure(&["--bind", "127.0.0.1", "--port", &port], &needles);
}

#[test]
fn a_forbidden_port_is_named_with_what_to_do() {
    match TcpListener::bind("127.0.0.1:1") {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            assert_failure(&["--bind=127.0.0.1", "--port=1"], &["127.0.0.1:1", "ports below 1024"]);
        }
        other => eprintln!("SKIPPED: every port is allowed here ({other:?})"),
    }
}

#[test]
fn an_address_that_is_not_ours_is_named_with_what_to_do() {
    let needles = ["203.0.113.254:0", "no interface of this machine has that address", "--bind"];
    assert_failure(&["--bind", "203.0.113.254", "--port", "0"], &needles);
}

#[test]
fn an_unreachable_peer_is_reported_and_the_node_runs_on() {
    // Bound until the end and never listened on: nobody else gets the port, and connecting is refused.
    let held = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&held, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = SocketAddr::try_from(rustix::net::getsockname(&held).unwrap()).unwrap();
    let node = Node::start(&["--connect", &addr.to_string()]);
    let listening = node.event("listening");
    let line = node.log_line("cannot join");
    assert!(line.contains(" WARN ") && line.contains(&format!("addr={addr}")), "{line}");
    let second = Node::start(&["--connect", &addr_of(&listening)]);
    second.event("up");
    node.event("up");
    node.stop();
}

// Keys and certificates

#[test]
fn every_kind_of_key_is_taken_and_its_id_is_the_hash_of_the_public_key() {
    let kinds = [
        ("Ed25519, PKCS#8", ED25519, ED25519_ID),
        (
            "P-256, SEC1",
            include_str!("keys/p256_sec1.pem"),
            "5dfbc065f395e3d0cb341ead8f13fde922ba930d1b4262215f9352b8aa9b8060",
        ),
        (
            "P-384, PKCS#8",
            include_str!("keys/p384.pem"),
            "cb879c207912858acf333a4aaf53a77708e24e87fb7c1cf5312e55ad8bb34fd5",
        ),
        (
            "RSA 2048, PKCS#1",
            include_str!("keys/rsa2048_pkcs1.pem"),
            "2709fe848c910a227f13762b3e22f390bb254b67f090c1b218fd9a53482e4112",
        ),
    ];
    let files = Files::new();
    let first = Node::start(&[]);
    let addr = addr_of(&first.event("listening"));
    for (kind, pem, id) in kinds {
        let key = files.private("key.pem", pem);
        let node = Node::start(&["--key", &key, "--connect", &addr]);
        assert_eq!(node.event("listening")["id"], id, "{kind}");
        // It is not only shown: the others know it by that id.
        assert_eq!(first.event("up")["peer"], id, "{kind}");
        node.stop();
        assert_eq!(first.event("left")["peer"], id, "{kind}");
    }
    first.stop();
}

#[test]
fn the_id_stays_when_the_key_does_and_changes_when_it_does_not() {
    let files = Files::new();
    let key = files.private("key.pem", ED25519);
    let cert = files.with_mode("cert.pem", ED25519_CERT, 0o644);
    let id_of = |args: &[&str]| {
        let node = Node::start(args);
        let id = node.event("listening")["id"].as_str().unwrap().to_owned();
        node.stop();
        id
    };
    assert_eq!(id_of(&["--key", &key]), ED25519_ID);
    assert_eq!(id_of(&["--key", &key]), ED25519_ID);
    assert_eq!(id_of(&["--key", &key, "--cert", &cert]), ED25519_ID);
    let (one, two) = (id_of(&[]), id_of(&[]));
    assert_eq!(one.len(), 64);
    assert_ne!(one, two);
}

#[test]
fn a_certificate_made_with_openssl_serves_and_its_id_can_be_checked_with_openssl() {
    let files = Files::new();
    let (key, cert) = (files.path("key.pem"), files.path("cert.pem"));
    let (key, cert) = (key.to_str().unwrap(), cert.to_str().unwrap());
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ed25519", "-noenc", "-subj", "/CN=a node", "-days", "30"])
        .args(["-keyout", key, "-out", cert])
        .output();
    let Ok(made) = made else {
        eprintln!("SKIPPED: openssl is not installed");
        return;
    };
    if !made.status.success() {
        eprintln!("SKIPPED: openssl cannot do this: {}", String::from_utf8_lossy(&made.stderr));
        return;
    }
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    let pipeline = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der | sha256sum";
    let sum = Command::new("sh").args(["-c", pipeline, cert]).output().unwrap();
    let wanted = String::from_utf8(sum.stdout).unwrap();
    let wanted = wanted.split_whitespace().next().unwrap();

    let node = Node::start(&["--key", key, "--cert", cert]);
    let listening = node.event("listening");
    assert_eq!(listening["id"], wanted);
    let peer = Node::start(&["--connect", &addr_of(&listening)]);
    assert_eq!(peer.event("up")["peer"], wanted);
    peer.stop();
    node.stop();
}

#[test]
fn a_key_file_that_cannot_be_used_is_named_with_the_reason() {
    let files = Files::new();
    let fails = |file: &str, needle: &str| assert_failure(&["--port=0", "--key", file], &[file, needle]);
    fails(files.path("missing.pem").to_str().unwrap(), "No such file");
    fails(files.0.path().to_str().unwrap(), "directory");
    fails(&files.private("empty.pem", ""), "is empty");
    fails(&files.private("text.pem", "not a key\n"), "no PEM block with a private key");
    fails(&files.private("cert.pem", ED25519_CERT), "it has a certificate: did you mean --cert?");
    fails(&files.private("encrypted.pem", include_str!("keys/encrypted.pem")), "encrypted");
    for (name, pem) in
        [("rsa1024.pem", include_str!("keys/rsa1024.pem")), ("rsa5120.pem", include_str!("keys/rsa5120.pem"))]
    {
        fails(&files.private(name, pem), "RSA");
    }
    fails(&files.private("p521.pem", include_str!("keys/p521.pem")), "accepted are Ed25519");
    let cut: String = ED25519.chars().take(60).collect();
    fails(&files.private("cut.pem", &cut), "");
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
    let files = Files::new();
    for mode in [0o644, 0o640, 0o604, 0o660] {
        let key = files.with_mode("key.pem", ED25519, mode);
        let repair = format!("chmod 600 {key}");
        assert_failure(&["--port=0", "--key", &key], &[&key, &format!("{mode:04o}"), &repair]);
        let mended = Command::new("sh").args(["-c", &repair]).status().unwrap();
        assert!(mended.success());
        let node = Node::start(&["--key", &key]);
        node.event("listening");
        node.stop();
    }
}

#[test]
fn a_key_that_cannot_be_opened_is_named() {
    let files = Files::new();
    let key = files.with_mode("key.pem", ED25519, 0o000);
    if fs::read(Path::new(&key)).is_ok() {
        eprintln!("SKIPPED: this user may read every file");
        return;
    }
    assert_failure(&["--port=0", "--key", &key], &[&key, "Permission denied"]);
}

#[test]
fn a_certificate_file_that_cannot_be_used_is_named_with_the_reason() {
    let files = Files::new();
    let key = files.private("key.pem", ED25519);
    let fails = |file: &str, needle: &str| {
        assert_failure(&["--port=0", "--key", &key, "--cert", file], &[file, needle]);
    };
    fails(files.path("missing.pem").to_str().unwrap(), "No such file");
    fails(files.0.path().to_str().unwrap(), "directory");
    fails(&files.private("empty.pem", ""), "is empty");
    fails(&files.private("text.pem", "not a certificate\n"), "no PEM block with a certificate");
    fails(&files.private("other.pem", ED25519), "it has a private key: did you mean --key?");
}

#[test]
fn a_key_and_a_certificate_of_two_pairs_are_refused_by_both_names() {
    let files = Files::new();
    let cert = files.private("cert.pem", ED25519_CERT);
    for other in [include_str!("keys/other.pem"), include_str!("keys/p384.pem")] {
        let key = files.private("key.pem", other);
        assert_failure(
            &["--port=0", "--key", &key, "--cert", &cert],
            &[&key, &cert, "do not belong together"],
        );
    }
}

// What is shown

#[test]
fn the_text_output_tells_how_to_join_and_the_command_works() {
    let first = Node::spawn(program().args(["--port", "0", "--name", "alice", "--period", "0.1"]));
    let (listening, id, join) = (first.line(), first.line(), first.line());
    assert!(listening.contains("  listening  "), "{listening}");
    let id = id.split_whitespace().last().unwrap().to_owned();
    assert_eq!(id.len(), 64);
    let command = join.split_once("p2p-gossip ").expect("a command").1;

    let args: Vec<&str> = command.split(' ').collect();
    let second = Node::spawn(program().args(args).args(["--output", "json", "--name", "bob"]));
    let up = second.event("up");
    assert_eq!((&up["peer"], &up["name"], &up["members"]), (&id.into(), &"alice".into(), &2.into()));
    let first_line_of = |word: &str| loop {
        let line = first.line();
        assert!(!line.contains('\x1b'), "colour in a pipe: {line:?}");
        if line.split_whitespace().nth(1) == Some(word) {
            break line;
        }
    };
    assert!(first_line_of("up").contains("bob"));
    second.stop();
    assert!(first_line_of("left").contains("bob"));
    first.stop();
}

#[test]
fn the_json_events_have_the_promised_fields() {
    let first = Node::start(&["--name", "alice", "--period", "0.1"]);
    let listening = first.event("listening");
    let second = Node::start(&["--name", "bob", "--connect", &addr_of(&listening), "--period", "0.1"]);
    let id = second.event("listening")["id"].clone();
    let up = first.event("up");
    let ping = first.event("ping");
    second.stop();
    let left = first.event("left");
    for event in [&listening, &up, &ping, &left] {
        let time = event["time"].as_str().unwrap();
        let is_utc_with_millis = time.len() == "2026-01-31T12:00:00.123Z".len() && time.ends_with('Z');
        assert!(is_utc_with_millis, "{event}");
        assert!(event["addr"].is_string(), "{event}");
    }
    for event in [&up, &ping, &left] {
        assert_eq!((&event["peer"], &event["name"]), (&id, &"bob".into()), "{event}");
    }
    assert_eq!((&up["members"], &left["members"]), (&2.into(), &1.into()));
    assert!(ping["seq"].is_u64() && ping["text"].is_string(), "{ping}");
    first.stop();
}

// Logs

#[test]
fn logs_go_to_stderr_at_info_unless_told_otherwise() {
    let start = |filter: Option<&str>| {
        let mut command = program();
        command.args(["--port", "0", "--bind", "127.0.0.1", "--output", "json"]);
        filter.map(|filter| command.env("RUST_LOG", filter));
        Node::spawn(&mut command)
    };
    let logs_of = |filter: Option<&str>| {
        let first = start(filter);
        let addr = addr_of(&first.event("listening"));
        let second = Node::start(&["--connect", &addr, "--name", "bob smith"]);
        first.event("up");
        second.stop();
        first.event("left");
        first.signal(Signal::TERM);
        let mut first = first;
        let (status, _, stderr) = first.wait();
        assert_eq!(status.code(), Some(0));
        stderr
    };
    let lines = logs_of(None);
    let up = lines.iter().find(|line| line.contains("peer up")).unwrap();
    assert!(up.contains("Z INFO  peer up peer=") && up.contains(" name=\"bob smith\" addr=127."), "{up}");
    assert!(!up.contains('\x1b'), "{up:?}");
    assert_eq!(logs_of(Some("off")), Vec::<String>::new());
    assert_eq!(logs_of(Some("error")), Vec::<String>::new());
    let lines = logs_of(Some("p2p_gossip=loud"));
    assert!(lines[0].contains("RUST_LOG='p2p_gossip=loud' is not a log filter"), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("peer up")), "{lines:?}");
}

// Signals, and streams that nobody reads

#[test]
fn a_signal_stops_the_node_cleanly_and_its_peers_see_it_leave() {
    for signal in [Signal::INT, Signal::TERM] {
        let first = Node::start(&[]);
        let addr = addr_of(&first.event("listening"));
        let mut second = Node::start(&["--connect", &addr]);
        first.event("up");
        let began = Instant::now();
        second.signal(signal);
        let (status, stdout, _) = second.wait();
        assert_eq!(status.code(), Some(0));
        assert!(began.elapsed() < STOP_MAX, "took {:?}", began.elapsed());
        let last: Value = serde_json::from_str(stdout.last().unwrap()).unwrap();
        assert_eq!(last["event"], "stopped");
        first.event("left");
        first.stop();
    }
}

/// A stdout in which nothing fits keeps a leaving node waiting half a second: time for a second
/// signal. On a machine so busy that it comes too late, the next try may be in time.
#[test]
fn a_second_signal_ends_the_node_at_once() {
    let first = Node::start(&[]);
    let addr = addr_of(&first.event("listening"));
    for _ in 0..20 {
        let (_reader, writer) = full_pipe();
        let mut command = program();
        command.args(["--port", "0", "--bind", "127.0.0.1", "--connect", &addr]);
        let mut second = Node::spawn_with(&mut command, writer.into(), Stdio::piped());
        first.event("up");
        second.signal(Signal::TERM);
        second.log_line("leaving the mesh");
        second.signal(Signal::INT);
        let (status, _, _) = second.wait();
        if status.signal() == Some(Signal::INT.as_raw()) {
            return;
        }
        assert_eq!(status.code(), Some(0));
    }
    panic!("the second signal never ended the node");
}

#[test]
fn streams_that_nobody_reads_stop_neither_the_heartbeats_nor_the_leaving() {
    let first = Node::start(&["--period", "0.01"]);
    let addr = addr_of(&first.event("listening"));
    let (_unread_stdout, stdout) = full_pipe();
    let (_unread_stderr, stderr) = full_pipe();
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--period", "0.01", "--connect", &addr]);
    command.env("RUST_LOG", "trace");
    let mut second = Node::spawn_with(&mut command, stdout.into(), stderr.into());
    let id = first.event("up")["peer"].clone();
    // Beyond the timeout of three seconds, every event of the second node had nowhere to go.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        let event: Value = serde_json::from_str(&first.line()).unwrap();
        assert_eq!((&event["event"], &event["peer"]), (&"ping".into(), &id), "{event}");
    }
    let began = Instant::now();
    second.signal(Signal::TERM);
    let (status, _, _) = second.wait();
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < STOP_MAX, "took {:?}", began.elapsed());
    first.event("left");
    first.stop();
}

#[test]
fn a_closed_stdout_is_reported_once_and_the_node_runs_on() {
    let first = Node::start(&["--period", "0.01"]);
    let addr = addr_of(&first.event("listening"));
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--period", "0.01", "--connect", &addr]);
    let mut second = Node::spawn_with(&mut command, writer.into(), Stdio::piped());
    second.log_line("cannot write to stdout");
    for _ in 0..50 {
        first.event("ping");
    }
    second.signal(Signal::TERM);
    let (status, _, stderr) = second.wait();
    assert_eq!(status.code(), Some(0));
    assert!(!stderr.iter().any(|line| line.contains("stdout")), "{stderr:?}");
    first.event("left");
    first.stop();
}

#[test]
fn a_stderr_that_is_closed_hides_a_failure_but_not_its_exit_code() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    let second = writer.try_clone().unwrap();
    let mut node = Node::spawn_with(program().arg("--port"), Stdio::null(), writer.into());
    assert_eq!(node.wait().0.code(), Some(2));
    let mut node = Node::spawn_with(program().args(["--key", "/nonexistent"]), Stdio::null(), second.into());
    assert_eq!(node.wait().0.code(), Some(1));
}
