//! Tests of help, version and wrong arguments.

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
            "--join-timeout",
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
fn help_into_a_closed_pipe_succeeds() {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    let mut node = Node::spawn_with(program().arg("--help"), writer.into(), Stdio::piped());
    let (status, _, stderr) = node.wait();
    assert_eq!((status.code(), stderr), (Some(0), vec![]));
}

#[test]
fn invalid_option_value_is_named_with_the_reason() {
    let long = "x".repeat(65);
    let rows: &[(&str, &[&str], &str)] = &[
        ("--period", &["0", "-1", "NaN", "inf", "-inf", "1e9", "0.001"], "0.01 to 86400"),
        ("--period", &["soon", "", "5 s"], "a number of seconds"),
        ("--port", &["65536", "-1", "http", "", "80.5"], "0 to 65535"),
        ("--connect", &["127.0.0.1", "example.org", ""], "port is missing"),
        ("--connect", &["a:0", "a:65536", "a:b", "a:"], "1 to 65535"),
        ("--connect", &["::1:8080", "[::1:8080", "[x]:1"], "brackets"),
        ("--connect", &[":8080"], "host is missing"),
        ("--connect", &["a b:1", "1.2.3:1", "-a:1"], "host name"),
        ("--connect", &["0.0.0.0:8080", "[::]:8080"], "unspecified"),
        ("--connect", &["abcdef@a:1", "@a:1"], "first 16"),
        ("--connect", &[&format!("{}@a:1", "0".repeat(65))], "65 digits"),
        ("--connect", &["0123456789abcdeg@a:1"], "'g'"),
        ("--connect", &["0123456789abcdef@a"], "port is missing"),
        ("--allow", &["", "0123456789abcdef"], "64 hexadecimal digits"),
        ("--allow", &["0123456789"], "this has 10"),
        ("--deny", &["bob"], "64 hexadecimal digits"),
        ("--deny", &[&format!("{}@192.0.2.7:8080", "0a".repeat(32))], "without @"),
        ("--deny", &[&vec!["0a"; 32].join(":")], "without the colons"),
        ("--allow-file", &[""], "empty"),
        ("--deny-file", &[""], "empty"),
        ("--key", &[""], "empty"),
        ("--bind", &["localhost", "1.2.3", "[::1]", ""], "an IP address"),
        ("--bind", &["127.0.0.1:8080"], "--port"),
        ("--bind", &["224.0.0.1"], "multicast"),
        ("--bind", &["fe80::1%longer-than-fifteen"], "interface"),
        ("--connect", &["[fe80::1%]:1"], "interface"),
        ("--connect", &["a:1,b:2", "[::1]:1 192.0.2.7:2"], "more than one address"),
        ("--connect", &["tls://a:1", "https://a.example/"], "without a scheme"),
        ("--connect", &["m\u{fc}ller.example:1"], "xn--"),
        ("--advertise", &["127.1:1", "0x7f.1:1"], "host name"),
        ("--advertise", &["0.0.0.0:1"], "unspecified"),
        ("--max-peers", &["0", "4097", "1.5", "", "-1"], "1 to 4096"),
        ("--heartbeat", &["0", "0.09", "21", "-1"], "0.1 to 20"),
        ("--heartbeat", &["fast", ""], "a number of seconds"),
        ("--timeout", &["0", "3601"], "0.2 to 3600"),
        ("--forget-after", &["soon", "", "1w", "12h1d"], "1d12h"),
        ("--forget-after", &["0", "366d"], "1s to 365d"),
        ("--name", &[&long], "at most 64"),
        ("--name", &["a\u{1b}[31mb", "a\nb", "a\u{202e}b"], "control character"),
        ("--name", &["\u{1f468}\u{200d}\u{1f469}"], "use a single emoji"),
        ("--http", &["", "65536", "127.0.0.1", "::1:80", "example.org:80"], "192.0.2.7:9090"),
        ("--output", &["xml", "JSON", ""], "\"json\""),
    ];
    for (option, values, needle) in rows {
        for value in *values {
            assert_usage_error(&[*option, *value], &[option, needle]);
            assert_usage_error(&[format!("{option}={value}")], &[option, needle]);
        }
    }
}

#[test]
fn invalid_arguments_are_named_with_the_reason() {
    assert_usage_error(&["--prot", "8080"], &["--prot", "--port"]);
    assert_usage_error(&["--conect=a:1"], &["--conect", "--connect"]);
    assert_usage_error(&["--frobnicate"], &["--frobnicate"]);
    assert_usage_error(&["-p", "8080"], &["option -p"]);
    assert_usage_error(&["--port"], &["--port", "value"]);
    assert_usage_error(&["--port", "--name", "x"], &["--port", "value", "--name"]);
    assert_usage_error(&["--port=1", "--port=2"], &["--port", "more than once"]);
    assert_usage_error(&["--version=1"], &["--version", "no value"]);
    assert_usage_error(&["8080"], &["'8080'", "--port 8080"]);
    assert_usage_error(&["127.0.0.1:80"], &["--connect 127.0.0.1:80"]);
    assert_usage_error(&["--", "--port=1"], &["'--port=1'"]);
    assert_usage_error(&[""], &["''"]);
    assert_usage_error(&["--cert", "cert.pem"], &["--cert", "--key"]);
    assert_usage_error(&["--timeout=1.9"], &["1.9s", "from 2 "]);
    assert_usage_error(&["--connect=224.0.0.1:1"], &["224.0.0.1:1"]);
    assert_usage_error(&["--connect=[fe80::1]:1"], &["interface", "[fe80::1%eth0]:8080"]);
    assert_usage_error(&["--bind=fe80::1"], &["interface", "fe80::1%eth0"]);
    assert_usage_error(&["--heartbeat=5", "--timeout=9"], &["9s", "5s", "from 10"]);
    assert_usage_error(&["--advertise=a.example:1"; 5], &["5 addresses", "at most 4"]);
}

#[test]
fn non_utf8_argument_is_a_usage_error() {
    use std::os::unix::ffi::OsStrExt as _;
    let name = OsStr::from_bytes(b"--name=\xff");
    assert_usage_error(&[OsStr::new("--port=0"), name], &["argument 2", "UTF-8", "--name="]);
}

#[test]
fn id_verb_has_its_own_help_and_prints_the_id() {
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
    assert!(stderr.lines().last().unwrap().contains("p2p-gossip id --help"), "{stderr}");
}
