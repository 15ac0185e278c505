//! Tests of `--key` and `--cert`: accepted kinds of files, refusals, and that no message shows a key.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::program::{
    ED25519, ED25519_CERT, ED25519_ID, Files, Node, addr_of, assert_failure, assert_failure_of,
    assert_usage_error, program, run, unprivileged,
};
use crate::support::executable::RunToEnd as _;
use crate::support::leaks::{assert_hidden, with_backslashes, with_blanks};
use crate::support::skip::{has, say_skipped};

#[test]
fn every_key_kind_is_accepted_and_its_id_hashes_the_public_key() {
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
        // The other node knows it by the same id.
        assert_eq!(first.event("up")["peer"], id, "{kind}");
        node.stop();
        assert_eq!(first.event("left")["peer"], id, "{kind}");
    }
    first.stop();
}

#[test]
fn id_depends_on_the_key_alone() {
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
fn openssl_certificate_works_and_openssl_computes_the_same_id() {
    if !has("openssl", "Debian: openssl") {
        return;
    }
    let files = Files::new();
    let (key, cert) = (files.path("key.pem"), files.path("cert.pem"));
    let (key, cert) = (key.to_str().unwrap(), cert.to_str().unwrap());
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ed25519", "-noenc", "-subj", "/CN=a node", "-days", "30"])
        .args(["-keyout", key, "-out", cert])
        .stdin(Stdio::null())
        .run_to_end();
    if !made.status.success() {
        say_skipped(&format!("openssl cannot do this: {}", String::from_utf8_lossy(&made.stderr)));
        return;
    }
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    let pipeline = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der | sha256sum";
    let sum = Command::new("sh").args(["-c", pipeline, cert]).stdin(Stdio::null()).run_to_end();
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

/// Runs a shell script in the directory of the files; false, with the reason on stderr, if it fails.
fn shell(files: &Files, script: &str) -> bool {
    let output =
        Command::new("sh").args(["-ec", script]).current_dir(files.dir()).stdin(Stdio::null()).run_to_end();
    if !output.status.success() {
        say_skipped(&format!("{script}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    output.status.success()
}

/// Each file is refused with a message that names its form. The command in the message makes a file that is accepted.
#[test]
fn file_of_another_form_is_named_with_the_command_that_converts_it() {
    let files = Files::new();
    let (ec, pkcs12) = ("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256", "-passout pass:");
    let prepare = format!(
        "umask 077; {ec} -out key.pem; openssl req -x509 -key key.pem -subj /CN=x -out cert.pem; \
         openssl pkcs12 -export -inkey key.pem -in cert.pem {pkcs12} -out old.p12"
    );
    if !shell(&files, &prepare) {
        return;
    }
    for (option, make, form) in [
        ("key", "openssl pkey -in key.pem -outform der -out old", "is a private key in binary form (DER)"),
        ("key", "openssl ec -in key.pem -outform der -out old", "is a private key in binary form (DER)"),
        ("key", "cp old.p12 old", "is a PKCS#12 file"),
        ("cert", "cp old.p12 old", "is a PKCS#12 file"),
        ("cert", "openssl x509 -in cert.pem -outform der -out old", "is a certificate in binary form (DER)"),
        (
            "key",
            "openssl pkcs8 -topk8 -in key.pem -outform der -passout pass: -out old",
            "is an encrypted private key in binary form (DER)",
        ),
        ("key", "openssl pkcs8 -topk8 -in key.pem -passout pass: -out old", "it has an encrypted one"),
        ("key", "printf '\\377\\376' > old; iconv -f UTF-8 -t UTF-16LE key.pem >> old", "is UTF-16 text"),
        ("key", "ssh-keygen -q -t ecdsa -N '' -f old", "it has a key in OpenSSH's own form"),
    ] {
        if !shell(&files, &format!("umask 077; rm -f old new; {make}")) {
            continue;
        }
        let args = match option {
            "key" => vec!["id", "--key", "old"],
            _ => vec!["--port=0", "--key", "key.pem", "--cert", "old"],
        };
        let output = program().args(&args).current_dir(files.dir()).stdin(Stdio::null()).run_to_end();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{make}: {message}");
        assert!(message.contains(form), "{make}: {message}");
        let command = ["openssl ", "iconv ", "ssh-keygen "].iter().find_map(|tool| message.find(tool));
        let command = &message[command.expect("the message names a command")..];
        let command = command.split(" (").next().unwrap().trim();
        let words = command.replace("OLD", "old").replace("NEW", "new");
        let password =
            if command.contains("pkcs12") || form.contains("encrypted") { "-passin pass:" } else { "" };
        let copy = if words.contains("COPY") { "cp old new; " } else { "" };
        let convert = format!("umask 077; {copy}{} {password}", words.replace("COPY", "new"));
        assert!(shell(&files, &convert), "{convert}");
        let option = format!("--{option}");
        let args = ["id", &option, "new"];
        let output = program().args(args).current_dir(files.dir()).stdin(Stdio::null()).run_to_end();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{make}; {convert}: {message}");
    }
}

#[test]
fn files_that_hold_something_else_are_named() {
    let files = Files::new();
    let prepare = "umask 077; openssl genpkey -algorithm ED25519 -out key.pem; \
         openssl req -new -key key.pem -subj /CN=x -out request.pem; \
         openssl req -new -key key.pem -subj /CN=x -outform der -out request.der; \
         openssl pkey -in key.pem -pubout -out public.pem; \
         openssl pkey -in key.pem -pubout -outform der -out public.der; \
         openssl req -x509 -key key.pem -subj /CN=x -out cert.pem; chmod 644 cert.pem; \
         openssl ecparam -name prime256v1 -genkey -noout -out ec.pem; \
         openssl pkey -in ec.pem -ec_conv_form compressed -out point.pem; \
         openssl req -x509 -key point.pem -subj /CN=x -out point_cert.pem";
    if !shell(&files, prepare) {
        return;
    }
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    for (name, form) in [("request", "certificate request"), ("public", "public key")] {
        for file in [path(&format!("{name}.pem")), path(&format!("{name}.der"))] {
            assert_failure(&["id", "--key", &file], &[&file, form, "name the file of the private key"]);
            assert_failure(&["id", "--cert", &file], &[&file, form, "leave --cert out"]);
        }
    }
    let (key, cert) = (path("key.pem"), path("cert.pem"));
    let needles = ["the two files are swapped", &*format!("{cert} has the certificate"), &*key];
    assert_failure(&["--port=0", "--key", &cert, "--cert", &key], &needles);
    // A key with a compressed point works; peers refuse a certificate with one.
    let (key, cert) = (path("point.pem"), path("point_cert.pem"));
    assert_eq!(run(&["id", "--key", &key]).status.code(), Some(0));
    let needles =
        [&*cert, "compressed point", "leave --cert out", "openssl ec -in OLD -conv_form uncompressed"];
    assert_failure(&["--port=0", "--key", &key, "--cert", &cert], &needles);
    assert_failure(&["id", "--cert", &cert], &needles);
}

#[test]
fn unusable_key_file_is_named_with_the_reason() {
    let files = Files::new();
    let fails = |file: &str, needle: &str| assert_failure(&["--port=0", "--key", file], &[file, needle]);
    fails(files.path("missing.pem").to_str().unwrap(), "No such file");
    fails(files.dir().to_str().unwrap(), "directory");
    fails(&files.private("empty.pem", ""), "is empty; copy the private key into it again");
    fails(&files.private("text.pem", "not a key\n"), "PEM");
    fails(&files.private("cert.pem", ED25519_CERT), "did you mean --cert?");
    // A file without a secret is the wrong file, whatever its mode is.
    fails(&files.with_mode("public.pem", ED25519_CERT, 0o644), "did you mean --cert?");
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

/// Such files come from `KEY=$(cat key.pem); echo $KEY > bad.pem` and from files of environment variables.
#[test]
fn key_file_without_line_breaks_is_refused_with_a_remedy_and_never_shown() {
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
        let copy_file = "copy the file itself";
        for (text, remedy) in [
            (with_blanks(key), copy_file),
            (with_backslashes(key), copy_file),
            (key.lines().take(2).collect::<Vec<_>>().join("\n"), "copy the whole file"),
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

/// The user error is `--key "$(cat key.pem)"`.
#[test]
fn key_given_as_a_file_name_is_never_shown() {
    let attached = format!("--key={ED25519}");
    for args in
        [&["--key", ED25519][..], &[&attached], &[ED25519], &["--cert", ED25519], &["--bind", ED25519]]
    {
        assert_usage_error(args, &["the text of a key"]);
        assert_hidden(ED25519, &String::from_utf8(run(args).stderr).unwrap());
    }
}

#[test]
fn key_readable_by_others_is_refused_with_the_chmod_that_repairs_it() {
    let files = Files::new();
    for mode in [0o644, 0o640, 0o604, 0o660] {
        let key = files.with_mode("key.pem", ED25519, mode);
        let repair = format!("chmod 600 {key}");
        assert_failure(&["--port=0", "--key", &key], &[&key, &format!("{mode:04o}"), &repair]);
        let repaired = Command::new("sh").args(["-c", &repair]).status().unwrap();
        assert!(repaired.success());
        let node = Node::start(&["--key", &key]);
        node.event("listening");
        node.stop();
    }
}

/// systemd's `LoadCredential=` lets a service read a file of root by an access control list, which shows as
/// a mode of 0440.
#[test]
fn key_from_a_service_manager_is_accepted() {
    let files = Files::new();
    let with_credentials = |directory: &Path| {
        let mut command = program();
        command.env("CREDENTIALS_DIRECTORY", directory);
        command
    };
    let key = files.with_mode("key.pem", ED25519, 0o440);
    let output = with_credentials(files.dir()).args(["id", "--key", &key]).stdin(Stdio::null()).run_to_end();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), ED25519_ID);
    // A file outside the credentials directory is refused, and so is one open to other users.
    let elsewhere = files.dir().join("elsewhere");
    assert_failure_of(with_credentials(&elsewhere).args(["id", "--key", &key]), &["mode 0440"]);
    for mode in [0o444, 0o460] {
        let key = files.with_mode("key.pem", ED25519, mode);
        let needle = format!("mode {mode:04o}");
        assert_failure_of(with_credentials(files.dir()).args(["id", "--key", &key]), &[&needle]);
    }
}

#[test]
fn key_without_permission_to_read_is_named() {
    let files = Files::new();
    let key = files.with_mode("key.pem", ED25519, 0o000);
    let mut command = unprivileged(&files);
    assert_failure_of(command.args(["--port=0", "--key", &key]), &[&key, "Permission denied"]);
}

#[test]
fn unusable_certificate_file_is_named_with_the_reason() {
    let files = Files::new();
    let key = files.private("key.pem", ED25519);
    let fails = |file: &str, needle: &str| {
        assert_failure(&["--port=0", "--key", &key, "--cert", file], &[file, needle]);
    };
    fails(files.path("missing.pem").to_str().unwrap(), "No such file");
    fails(files.dir().to_str().unwrap(), "directory");
    fails(&files.private("empty.pem", ""), "is empty; without a certificate file, p2p-gossip makes");
    fails(&files.private("text.pem", "not a certificate\n"), "PEM");
    fails(&files.private("other.pem", ED25519), "did you mean --key?");
}

#[test]
fn mismatched_key_and_certificate_are_refused_with_both_names() {
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
