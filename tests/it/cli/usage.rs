//! Help, version, and arguments that are wrong.

use std::ffi::OsStr;
use std::process::Stdio;

use super::program::{
    ED25519, ED25519_CERT, ED25519_ID, Files, Node, assert_failure, assert_usage_error, program, run,
};

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
            "--advertise",
            "--max-peers",
            "--heartbeat",
            "--timeout",
            "--forget-after",
            "--output",
            "--pings",
            "--quiet",
            "--stdin",
            "--exit-after-stdin",
            "--on-event",
            "--on-event-pings",
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
        ("--connect", &["abcdef@a:1", "@a:1"], "at least the first 16 of its 64"),
        ("--connect", &[&format!("{}@a:1", "0".repeat(65))], "has 65 digits; an id has 64"),
        ("--connect", &["0123456789abcdeg@a:1"], "contains 'g'; an id is made of hexadecimal digits"),
        ("--connect", &["0123456789abcdef@a"], "the port is missing"),
        ("--allow", &["", "0123456789abcdef"], "a peer id is 64 hexadecimal digits"),
        ("--deny", &["bob"], "a peer id is 64 hexadecimal digits"),
        ("--allow-file", &[""], "the file name is empty"),
        ("--deny-file", &[""], "the file name is empty"),
        ("--key", &[""], "the file name is empty"),
        ("--bind", &["localhost", "1.2.3", "[::1]", ""], "an IP address"),
        ("--bind", &["127.0.0.1:8080"], "the port is given with --port"),
        ("--bind", &["224.0.0.1"], "multicast"),
        ("--bind", &["fe80::1%nowhere0"], "no network interface 'nowhere0'"),
        ("--connect", &["[fe80::1%nowhere0]:1"], "no network interface 'nowhere0'"),
        ("--advertise", &["127.1:1", "0x7f.1:1"], "neither an IP address nor a host name"),
        ("--advertise", &["0.0.0.0:1"], "the unspecified address"),
        ("--max-peers", &["0", "4097", "1.5", "", "-1"], "from 1 to 4096"),
        ("--heartbeat", &["0", "0.09", "21", "-1"], "from 0.1 to 20 seconds"),
        ("--heartbeat", &["fast", ""], "a number of seconds"),
        ("--timeout", &["0", "3601"], "from 0.2 to 3600 seconds"),
        ("--forget-after", &["soon", "", "1.5h", "1w"], "30m, 24h or 7d"),
        ("--forget-after", &["0", "366d"], "from 1s to 365d"),
        ("--name", &[&long], "65 bytes; at most 64"),
        ("--name", &["a\u{1b}[31mb", "a\nb", "a\u{202e}b"], "control character"),
        #[cfg(feature = "http")]
        ("--http", &["", "65536", "127.0.0.1", "::1:80", "example.org:80"], "9090 or 192.0.2.7:9090"),
        #[cfg(not(feature = "http"))]
        ("--http", &["9090"], "this build has no HTTP"),
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
    assert_usage_error(&["--timeout=1.9"], &["timeout is 1.9s", "from 2 (two heartbeats) to 3600 seconds"]);
    assert_usage_error(&["--connect=224.0.0.1:1"], &["nobody can be reached at 224.0.0.1:1"]);
    assert_usage_error(&["--connect=[fe80::1]:1"], &["needs the interface", "[fe80::1%eth0]:8080"]);
    assert_usage_error(&["--bind=fe80::1"], &["needs the interface", "fe80::1%eth0"]);
    assert_usage_error(&["--heartbeat=5", "--timeout=9"], &["timeout is 9s", "heartbeat of 5s", "from 10"]);
    assert_usage_error(&["--advertise=a.example:1"; 5], &["5 addresses are advertised; at most 4"]);
}

#[test]
fn bytes_that_are_no_text_are_wrong_usage() {
    use std::os::unix::ffi::OsStrExt as _;
    let name = OsStr::from_bytes(b"--name=\xff");
    assert_usage_error(&[OsStr::new("--port=0"), name], &["argument 2 is not valid UTF-8", "--name="]);
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
