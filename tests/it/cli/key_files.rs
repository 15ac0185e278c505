//! Keys and certificates.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::program::{
    ED25519, ED25519_CERT, ED25519_ID, Files, Node, addr_of, assert_failure, assert_failure_of,
    assert_usage_error, program, run, unprivileged,
};
use crate::support::leaks::{assert_hidden, with_backslashes, with_blanks};

#[test]
fn every_kind_of_key_is_taken_and_its_id_is_the_hash_of_the_public_key() {
    let kinds = [
        ("Ed25519, PKCS#8", ED25519, ED25519_ID),
        (
            "P-256, SEC1",
            include_str!("../../fixtures/keys/p256_sec1.pem"),
            "5dfbc065f395e3d0cb341ead8f13fde922ba930d1b4262215f9352b8aa9b8060",
        ),
        (
            "P-384, PKCS#8",
            include_str!("../../fixtures/keys/p384.pem"),
            "cb879c207912858acf333a4aaf53a77708e24e87fb7c1cf5312e55ad8bb34fd5",
        ),
        (
            "RSA 2048, PKCS#1",
            include_str!("../../fixtures/keys/rsa2048_pkcs1.pem"),
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
    fails(files.dir().to_str().unwrap(), "directory");
    fails(&files.private("empty.pem", ""), "is empty");
    fails(&files.private("text.pem", "not a key\n"), "PEM");
    fails(&files.private("cert.pem", ED25519_CERT), "did you mean --cert?");
    fails(&files.private("encrypted.pem", include_str!("../../fixtures/keys/encrypted.pem")), "decrypt");
    for (name, pem) in [
        ("rsa1024.pem", include_str!("../../fixtures/keys/rsa1024.pem")),
        ("rsa5120.pem", include_str!("../../fixtures/keys/rsa5120.pem")),
    ] {
        fails(&files.private(name, pem), "RSA");
    }
    fails(&files.private("p521.pem", include_str!("../../fixtures/keys/p521.pem")), "Ed25519");
    let cut: String = ED25519.chars().take(60).collect();
    fails(&files.private("cut.pem", &cut), "is cut off");
}

/// `KEY=$(cat key.pem); echo $KEY > bad.pem`, and what becomes of a key in a file of environment variables.
#[test]
fn a_key_file_without_line_breaks_is_refused_with_a_remedy_and_shown_nowhere() {
    let keys = [
        ED25519,
        include_str!("../../fixtures/keys/encrypted.pem"),
        include_str!("../../fixtures/keys/p256_sec1.pem"),
        include_str!("../../fixtures/keys/p384.pem"),
        include_str!("../../fixtures/keys/p521.pem"),
        include_str!("../../fixtures/keys/rsa1024.pem"),
        include_str!("../../fixtures/keys/rsa2048_pkcs1.pem"),
        include_str!("../../fixtures/keys/rsa5120.pem"),
    ];
    let files = Files::new();
    let state = files.path("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let state = state.to_str().unwrap();
    for key in keys {
        let lost = "copy the file itself, not its text through a shell variable";
        for (text, remedy) in [
            (with_blanks(key), lost),
            (with_backslashes(key), lost),
            (key.lines().take(2).collect::<Vec<_>>().join("\n"), "copy the whole file again"),
        ] {
            let bad = files.private("bad.pem", &text);
            let in_state = files.private("state/key.pem", &text);
            for (args, file) in [
                (["id", "--key", &bad], &bad),
                (["--port=0", "--key", &bad], &bad),
                (["id", "--state", state], &in_state),
                (["--port=0", "--state", state], &in_state),
            ] {
                assert_failure(&args, &[file, remedy]);
                let output = run(&args);
                assert_hidden(key, &String::from_utf8(output.stdout).unwrap());
                assert_hidden(key, &String::from_utf8(output.stderr).unwrap());
            }
        }
    }
}

/// `--key "$(cat key.pem)"`.
#[test]
fn a_key_in_the_place_of_its_file_name_is_shown_nowhere() {
    let attached = format!("--key={ED25519}");
    for args in
        [&["--key", ED25519][..], &[&attached], &[ED25519], &["--cert", ED25519], &["--bind", ED25519]]
    {
        assert_usage_error(args, &["is the text of a PEM file"]);
        assert_hidden(ED25519, &String::from_utf8(run(args).stderr).unwrap());
    }
    let digits = "0123456789abcdef".repeat(4);
    assert_failure(&["--port=0", "--network-key", &digits], &["not the key itself"]);
    assert!(
        !String::from_utf8(run(&["--port=0", "--network-key", &digits]).stderr)
            .unwrap()
            .contains("0123456789")
    );
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

/// systemd's `LoadCredential=` lets a service read a file of root's by an access control list, which shows as
/// a mode of 0440.
#[test]
fn a_key_that_a_service_manager_lends_is_taken() {
    let files = Files::new();
    let with_credentials = |directory: &Path| {
        let mut command = program();
        command.env("CREDENTIALS_DIRECTORY", directory);
        command
    };
    let key = files.with_mode("key.pem", ED25519, 0o440);
    let output = with_credentials(files.dir()).args(["id", "--key", &key]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), ED25519_ID);
    // It is not enough that there are others, and nobody else may read it.
    let elsewhere = files.dir().join("elsewhere");
    assert_failure_of(with_credentials(&elsewhere).args(["id", "--key", &key]), &["mode 0440"]);
    for mode in [0o444, 0o460] {
        let key = files.with_mode("key.pem", ED25519, mode);
        let needle = format!("mode {mode:04o}");
        assert_failure_of(with_credentials(files.dir()).args(["id", "--key", &key]), &[&needle]);
    }
}

#[test]
fn a_key_that_cannot_be_opened_is_named() {
    let files = Files::new();
    let key = files.with_mode("key.pem", ED25519, 0o000);
    let mut command = unprivileged(&files);
    assert_failure_of(command.args(["--port=0", "--key", &key]), &[&key, "Permission denied"]);
}

#[test]
fn a_certificate_file_that_cannot_be_used_is_named_with_the_reason() {
    let files = Files::new();
    let key = files.private("key.pem", ED25519);
    let fails = |file: &str, needle: &str| {
        assert_failure(&["--port=0", "--key", &key, "--cert", file], &[file, needle]);
    };
    fails(files.path("missing.pem").to_str().unwrap(), "No such file");
    fails(files.dir().to_str().unwrap(), "directory");
    fails(&files.private("empty.pem", ""), "is empty");
    fails(&files.private("text.pem", "not a certificate\n"), "PEM");
    fails(&files.private("other.pem", ED25519), "did you mean --key?");
}

#[test]
fn a_key_and_a_certificate_of_two_pairs_are_refused_by_both_names() {
    let files = Files::new();
    let cert = files.private("cert.pem", ED25519_CERT);
    for other in [include_str!("../../fixtures/keys/other.pem"), include_str!("../../fixtures/keys/p384.pem")]
    {
        let key = files.private("key.pem", other);
        assert_failure(
            &["--port=0", "--key", &key, "--cert", &cert],
            &[&key, &cert, "do not belong together"],
        );
    }
}
