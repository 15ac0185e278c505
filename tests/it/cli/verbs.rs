//! The verbs beside the options.

use super::program::{ED25519, ED25519_CERT, ED25519_ID, Files, assert_failure, run};

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
