//! The verbs `keygen` and `id` of the real program: files are never overwritten, and openssl confirms the ids.

use crate::support::executable::RunToEnd as _;
use crate::support::skip::has;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs the program to its end; returns the exit code, stdout and stderr.
fn run<S: AsRef<OsStr>>(args: &[S]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2p-gossip"));
    command.args(args).stdin(Stdio::null()).env_remove("RUST_LOG").env_remove("RUST_BACKTRACE");
    let output = command.run_to_end();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Runs the program successfully and returns its stdout.
#[track_caller]
fn run_ok<S: AsRef<OsStr> + std::fmt::Debug>(args: &[S]) -> String {
    let (code, stdout, stderr) = run(args);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{args:?}");
    stdout
}

/// Checks a failure at run time: exit code 1, one line on stderr with each needle.
#[track_caller]
fn assert_failure<S: AsRef<OsStr> + std::fmt::Debug>(args: &[S], needles: &[&str]) {
    let (code, stdout, stderr) = run(args);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{args:?}: {stderr}");
    assert!(stderr.starts_with("p2p-gossip: ") && stderr.lines().count() == 1, "{args:?}: {stderr}");
    for needle in needles {
        assert!(stderr.contains(needle), "{args:?}: {stderr:?} lacks {needle:?}");
    }
}

/// Checks a usage error: exit code 2, a message with each needle, and a hint to the help text.
#[track_caller]
fn assert_usage_error(args: &[&str], needles: &[&str]) {
    let (code, stdout, stderr) = run(args);
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}: {stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    let [message, advice] = lines[..] else { panic!("{args:?}: {stderr}") };
    assert!(message.starts_with("p2p-gossip: "), "{args:?}: {message}");
    for needle in needles {
        assert!(message.contains(needle), "{args:?}: {message:?} lacks {needle:?}");
    }
    assert!(advice.contains(&format!("p2p-gossip {} --help", args[0])), "{args:?}: {advice}");
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o7777
}

/// Runs a shell pipeline and returns its output. `None` if openssl is not installed.
fn shell(script: &str, directory: &Path) -> Option<String> {
    if !has("openssl", "Debian: openssl") {
        return None;
    }
    let output =
        Command::new("sh").args(["-ec", script]).current_dir(directory).stdin(Stdio::null()).run_to_end();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn keygen_creates_a_key_and_certificate_and_never_overwrites_them() {
    let files = Files::new();
    let (key, cert) = (files.text("key.pem"), files.text("cert.pem"));
    let id = run_ok(&["keygen", "--key", &key, "--cert", &cert]);
    assert_eq!((id.len(), id.ends_with('\n')), (65, true), "{id}");
    assert_eq!((mode(&files.path("key.pem")), mode(&files.path("cert.pem"))), (0o600, 0o644));
    assert_eq!(run_ok(&["id", "--key", &key]), id);
    assert_eq!(run_ok(&["id", "--cert", &cert]), id);

    let before = fs::read(&key).unwrap();
    assert_failure(&["keygen", "--key", &key, "--cert", &files.text("other")], &["key.pem", "exists"]);
    assert_failure(&["keygen", "--key", &files.text("other"), "--cert", &cert], &["cert.pem", "exists"]);
    symlink(files.path("nowhere"), files.path("link")).unwrap();
    assert_failure(&["keygen", "--key", &files.text("link"), "--cert", &files.text("x")], &["exists"]);
    assert_eq!(fs::read(&key).unwrap(), before);
    assert_eq!(files.names(), ["cert.pem", "key.pem", "link"]);
    assert_failure(&["keygen", "--key", "/no/such/key", "--cert", &files.text("x")], &["/no/such/key"]);
}

#[test]
fn keygen_creates_a_private_network_key_and_never_overwrites_it() {
    let files = Files::new();
    let (key, cert, network) = (files.text("key.pem"), files.text("cert.pem"), files.text("network.key"));
    assert_eq!(run_ok(&["keygen", "--network", &network]), "");
    let text = fs::read_to_string(&network).unwrap();
    let digits = text.strip_suffix('\n').unwrap();
    assert!(digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{text}");
    assert_eq!(mode(&files.path("network.key")), 0o600);
    // If one of the files exists, keygen creates none.
    let all = ["keygen", "--key", &key, "--cert", &cert, "--network", &network];
    assert_failure(&all, &["network.key", "exists"]);
    assert_eq!(files.names(), ["network.key"]);
    assert_eq!(fs::read_to_string(&network).unwrap(), text);
}

#[test]
fn secret_files_are_private_under_any_umask() {
    let files = Files::new();
    for mask in ["000", "277"] {
        let (key, cert) = (format!("{mask}.key"), format!("{mask}.cert"));
        let script =
            format!("umask {mask}; exec \"$0\" keygen --key {key} --cert {cert} --network {mask}.net");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_p2p-gossip")])
            .current_dir(files.0.path())
            .stdin(Stdio::null())
            .run_to_end();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for secret in [key, format!("{mask}.net")] {
            assert_eq!(mode(&files.path(&secret)), 0o600, "{secret}");
        }
    }
}

#[test]
fn keygen_and_id_name_missing_options() {
    assert_usage_error(&["keygen"], &["--key", "--cert", "--network"]);
    assert_usage_error(&["keygen", "--key", "k"], &["--key", "--cert"]);
    assert_usage_error(&["keygen", "--netwrok", "k"], &["--netwrok", "--network"]);
    assert_usage_error(&["id"], &["id needs"]);
}

/// The pipeline is the one of the guide (guide: security).
#[test]
fn id_equals_the_openssl_digest_for_every_kind_of_key() {
    let files = Files::new();
    let id_by_openssl =
        "openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform der | sha256sum";
    let kinds = [
        "-algorithm ED25519",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
    ];
    for kind in kinds {
        let make = format!(
            "umask 077; openssl genpkey {kind} -out key.pem 2>/dev/null; \
             openssl req -new -x509 -key key.pem -subj /CN=x -days 9 -out cert.pem; {id_by_openssl}"
        );
        let Some(sum) = shell(&make, files.0.path()) else { return };
        for (option, file) in [("--key", "key.pem"), ("--cert", "cert.pem")] {
            let id = run_ok(&["id", option, &files.text(file)]);
            assert_eq!(sum.split_whitespace().next(), Some(id.trim()), "{kind} {option}");
        }
    }
    // The same for a pair that keygen has created.
    fs::remove_file(files.path("key.pem")).unwrap();
    fs::remove_file(files.path("cert.pem")).unwrap();
    let id = run_ok(&["keygen", "--key", &files.text("key.pem"), "--cert", &files.text("cert.pem")]);
    // openssl 3.0 refuses the later version of PKCS#8.
    shell("openssl pkey -in key.pem -noout", files.0.path()).unwrap();
    let sum = shell(id_by_openssl, files.0.path()).unwrap();
    assert_eq!(sum.split_whitespace().next(), Some(id.trim()));
}
