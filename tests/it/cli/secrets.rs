//! Marked secrets in everything that the program reads: no message shows a piece of one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use super::program::{ED25519, ED25519_CERT, Files, Node, addr_of, program, run};
use crate::support::executable::RunToEnd as _;
use crate::support::leaks::{assert_hidden, with_backslashes, with_blanks};

/// A word that no message of the program contains.
const MARK: &str = "Xq7MarkedSecretZ0";
/// 64 hexadecimal digits, as in a network key.
const DIGITS: &str = "5ec5e7d1915c0de0123456789abcdef05ec5e7d1915c0de0123456789abcdef0";

/// Fails if the text shows a piece of a secret.
#[track_caller]
fn assert_no_secret(shown: &str) {
    assert!(!shown.contains(&MARK[..8]) && !shown.contains("5ec5e7d19"), "{shown}");
    assert_hidden(ED25519, shown);
    assert_hidden(ED25519_CERT, shown);
    // The mark as a list of decimal or hexadecimal bytes.
    for numbers in [
        MARK.bytes().take(6).map(|byte| byte.to_string()).collect::<Vec<_>>(),
        MARK.bytes().take(6).map(|byte| format!("{byte:02x}")).collect(),
    ] {
        for separator in [", ", " ", ""] {
            assert!(!shown.contains(&numbers.join(separator)), "{shown}");
        }
    }
}

/// Runs the program to its end, or for as long as it takes to start, and checks all that it prints.
#[track_caller]
fn assert_refused_without_secret(args: &[&str]) {
    let mut command = program();
    let output = command.env("RUST_LOG", "trace").args(args).stdin(Stdio::null()).run_to_end();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{args:?}: {:?}", output.status);
    for stream in [output.stdout, output.stderr] {
        assert_no_secret(&String::from_utf8_lossy(&stream));
    }
}

/// Texts that may stand in the wrong file by mistake.
fn secrets() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        MARK.to_owned(),
        format!("{MARK}\n"),
        format!("{MARK} = '{MARK}'\nversion = 1\n"),
        format!("version = 1\n[[peer]]\nid = '{DIGITS}'\nname = \"{MARK}\u{1b}\"\n"),
        format!("version = '{MARK}'\n"),
        format!("version = 1\n{MARK} = 2\n"),
        format!("-----BEGIN {MARK}-----\n{MARK}\n-----END {MARK}-----\n"),
        format!("-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN CERTIFICATE-----\n{MARK}{MARK}AAA\n-----END CERTIFICATE-----\n"),
        format!("{DIGITS}{DIGITS}\n"),
        format!("{DIGITS}\n{DIGITS}\n{MARK}\n"),
        format!("{DIGITS} {MARK}\n"),
        with_blanks(ED25519),
        with_backslashes(ED25519),
        ED25519.replace("MC4C", "MC?C"),
        ED25519.lines().nth(1).unwrap().to_owned(),
    ]
    .map(String::into_bytes)
    .into();
    // Binary data with the mark in it: DER of a string, and bytes that are no text.
    let length = u8::try_from(MARK.len()).unwrap();
    all.push([&[0x30, length + 2, 0x0c, length], MARK.as_bytes()].concat());
    all.push([&[0xff, 0xfe, 0], MARK.as_bytes(), &[0x80]].concat());
    all
}

#[test]
fn no_reader_shows_a_secret_from_a_file() {
    let files = Files::new();
    let good = files.private("good.pem", ED25519);
    let state = files.path("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let state = state.to_str().unwrap();
    for secret in secrets() {
        let write = |name: &str| {
            let path = files.path(name);
            fs::write(&path, &secret).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let file = write("secret");
        for args in [
            &["id", "--key", &*file][..],
            &["id", "--cert", &file],
            &["--port=0", "--key", &file],
            &["--port=0", "--key", &good, "--cert", &file],
            &["--port=0", "--network-key", &file],
            &["--port=0", "--allow-file", &file],
            &["--port=0", "--deny-file", &file],
            &["--port=0", "--on-event", &file],
            &["--port=0", "--state", &file],
            &["keygen", "--key", &file, "--cert", &file],
            &["keygen", "--network", &file],
        ] {
            assert_refused_without_secret(args);
        }
        for name in ["key.pem", "cert.pem", "known_peers.toml"] {
            let path = write(&format!("state/{name}"));
            if name == "cert.pem" {
                files.private("state/key.pem", ED25519);
            }
            assert_refused_without_secret(&["--port=0", "--state", state]);
            if name == "known_peers.toml" {
                assert_refused_without_secret(&["peers", "--state", state]);
                assert_refused_without_secret(&["forget", "--state", state, "abababab"]);
            }
            fs::remove_file(path).unwrap();
            let _ = fs::remove_file(files.path("state/key.pem"));
        }
    }
}

#[test]
fn secret_in_the_place_of_a_file_name_or_value_is_not_shown() {
    let files = Files::new();
    let in_directory = |args: &[&str]| {
        let output = program().current_dir(files.dir()).args(args).stdin(Stdio::null()).run_to_end();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{args:?}: {:?}", output.status);
        assert_no_secret(&String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty());
    };
    let base64 = ED25519.lines().nth(1).unwrap();
    let (ticket, upper) = (format!("p2pg{DIGITS}{DIGITS}"), format!("P2PG-{DIGITS}"));
    for secret in [ED25519, base64, DIGITS, &ticket, &upper] {
        for option in [
            "--join",
            "--alert",
            "--cert",
            "--http",
            "--heartbeat",
            "--key",
            "--state",
            "--control",
            "--network-key",
            "--allow-file",
            "--deny-file",
            "--on-event",
            "--connect",
            "--advertise",
            "--bind",
            "--port",
            "--period",
            "--timeout",
            "--output",
            "--max-peers",
            "--prot",
        ] {
            in_directory(&["--bind=127.0.0.1", "--port=0", option, secret]);
            in_directory(&[&format!("{option}={secret}")]);
        }
        for args in [
            &[secret][..],
            &["id", secret],
            &["id", "--key", secret],
            &["id", "--cert", secret],
            &["id", "--state", secret],
            &["peers", "--state", secret],
            &["forget", "--state", secret, "abababab"],
            &["members", "--state", secret],
            &["members", "--control", secret],
            &["doctor", "--state", secret],
            &["doctor", "--network-key", secret],
            &["invite", "--control", secret],
            &["rotate", "--network-key", secret],
            &["why", secret],
            &["why", "--control", "none", secret],
            &["ping", "--control", "none", secret],
            &["keygen", "--network", secret, secret],
            &[&format!("--{secret}")],
        ] {
            in_directory(args);
        }
    }
    assert_eq!(fs::read_dir(files.dir()).unwrap().count(), 0, "something was made under the name of a key");
}

/// A line that is no message, and an environment variable of the log.
#[test]
fn secret_on_standard_input_or_in_a_log_filter_is_not_shown() {
    use std::io::Write as _;
    let listener = Node::start(&[]);
    let addr = addr_of(&listener.event("listening"));
    let mut command = program();
    command.args(["--port", "0", "--bind", "127.0.0.1", "--connect", &addr, "--stdin", "--exit-after-stdin"]);
    let mut node = Node::spawn(command.env("RUST_LOG", "debug").stdin(Stdio::piped()));
    // A line that is too long, and one that is no text.
    let lines = [MARK.repeat(300).as_bytes(), b"\n", MARK.as_bytes(), b"\xff\n"].concat();
    node.stdin().write_all(&lines).unwrap();
    node.close_stdin();
    let (status, _, stderr) = node.wait();
    assert_eq!(status.code(), Some(1), "{stderr:?}");
    assert!(stderr.iter().any(|line| line.contains("not UTF-8")), "{stderr:?}");
    assert_no_secret(&stderr.join("\n"));
    listener.stop();
}

#[test]
fn network_key_file_with_a_mistake_is_refused_by_line() {
    let files = Files::new();
    let file = files.private("network.key", &format!("# ours\n{}\n", &DIGITS[1..]));
    let output = run(&["--port=0", "--network-key", &file]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("line 2") && message.contains("64 hexadecimal digits"), "{message}");
    assert_no_secret(&message);
}
