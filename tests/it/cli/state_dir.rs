//! Tests of `--state`: making the directory, its required modes, its lock, and damaged files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::program::{
    ED25519, ED25519_CERT, ED25519_ID, Files, Node, assert_failure, assert_failure_of, assert_usage_error,
    run, unprivileged,
};
use crate::support::skip::say_skipped;

const KNOWN_PEERS: &str = "\
version = 1

[[peer]]
id = \"abababababababababababababababababababababababababababababababab\"
name = \"bob\"
first_seen = \"2026-01-31T12:00:00Z\"
last_seen = \"2999-01-31T12:00:00Z\"
left = true

[[peer.address]]
addr = \"192.0.2.7:8080\"
last_success = \"2026-01-31T12:00:00Z\"
";

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Makes a state directory with these files (name, content, mode); returns its path.
fn state_with(files: &Files, content: &[(&str, &str, u32)]) -> String {
    let path = files.path("state");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    for (name, content, mode) in content {
        files.with_mode(&format!("state/{name}"), content, *mode);
    }
    path.to_str().unwrap().to_owned()
}

/// The id in the node's `listening` event.
fn id_of(node: &Node) -> String {
    node.event("listening")["id"].as_str().unwrap().to_owned()
}

#[test]
fn new_state_directory_is_private_and_keeps_the_identity() {
    let files = Files::new();
    let state = files.path("state");
    let path = state.to_str().unwrap();
    let node = Node::start(&["--state", path]);
    let id = id_of(&node);
    // A node that is killed leaves nothing to clean up: the next one replaces its control socket.
    drop(node);
    assert_eq!(mode(&state), 0o700);
    assert_eq!(names(&state), ["cert.pem", "control", "key.pem", "lock"]);
    assert_eq!(mode(&state.join("key.pem")), 0o600);

    let certificate = fs::read(state.join("cert.pem")).unwrap();
    let again = Node::start(&["--state", path]);
    assert_eq!(id_of(&again), id);
    again.stop();
    assert_eq!(fs::read(state.join("cert.pem")).unwrap(), certificate);
    // A symbolic link to the directory works too.
    let link = files.path("link");
    symlink(&state, &link).unwrap();
    let through_link = Node::start(&["--state", link.to_str().unwrap()]);
    assert_eq!(id_of(&through_link), id);
    for state in [path, link.to_str().unwrap()] {
        let printed = run(&["id", "--state", state]);
        assert_eq!(String::from_utf8(printed.stdout).unwrap(), format!("{id}\n"));
    }
}

#[test]
fn umask_changes_no_mode_of_the_state_directory() {
    for mask in ["000", "277"] {
        let files = Files::new();
        let state = files.path("state");
        let script = format!(
            "umask {mask}; exec \"$0\" --port 0 --bind 127.0.0.1 --output json --state {}",
            state.display()
        );
        let node = Node::spawn(Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_p2p-gossip")]));
        node.event("listening");
        assert_eq!((mode(&state), mode(&state.join("key.pem"))), (0o700, 0o600), "{mask}");
        node.stop();
    }
}

#[test]
fn key_option_overrides_the_key_of_the_state_directory() {
    let files = Files::new();
    let key = files.private("mine.pem", ED25519);
    let state = files.path("state");
    let state_arg = state.to_str().unwrap();
    let node = Node::start(&["--state", state_arg, "--key", &key]);
    assert_eq!(id_of(&node), ED25519_ID);
    node.stop();
    assert!(!state.join("key.pem").exists());
}

#[test]
fn state_directory_of_or_open_to_other_users_is_refused_with_a_remedy() {
    let files = Files::new();
    let state = state_with(&files, &[]);
    for bits in [0o750, 0o770, 0o701, 0o702, 0o777] {
        fs::set_permissions(&state, fs::Permissions::from_mode(bits)).unwrap();
        let shown = format!("mode {bits:04o}");
        let needles = [&*state, "other users", &shown, "chmod 700"];
        assert_failure(&["--state", &state], &needles);
        assert_failure(&["peers", "--state", &state], &needles);
        assert_failure(&["forget", "--state", &state, "abababab"], &needles);
    }
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&state, Some(12_345), None).unwrap();
        assert_failure(&["--state", &state], &[&state, "12345"]);
    } else {
        assert_failure(&["--state", "/"], &["the number 0"]);
    }
}

#[test]
fn unusable_state_directory_is_named_with_the_reason() {
    let files = Files::new();
    let file = files.private("file", "");
    let missing = files.path("missing/state");
    assert_failure(
        &["--state", missing.to_str().unwrap()],
        &["cannot make", "missing/state", "No such file"],
    );
    assert_failure(&["--state", &file], &["file", "not a directory"]);
    for verb in ["peers", "id"] {
        assert_failure(&[verb, "--state", missing.to_str().unwrap()], &["cannot use", "No such file"]);
    }
    assert_failure(&["forget", "abababab", "--state", missing.to_str().unwrap()], &["No such file"]);
    assert!(!missing.exists());
    assert_usage_error(&["--state", ""], &["--state", "empty"]);

    let files = Files::new();
    let mut command = unprivileged(&files);
    fs::set_permissions(files.path("."), fs::Permissions::from_mode(0o555)).unwrap();
    assert_failure_of(command.arg("--state").arg(files.path("state")), &["cannot make", "Permission denied"]);
    fs::set_permissions(files.path("."), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn read_only_state_directory_fails_the_start() {
    let files = Files::new();
    let mut command = unprivileged(&files);
    // The user that runs the program must own the directory.
    if rustix::process::geteuid().is_root() {
        chown(files.path("."), Some(super::program::UNPRIVILEGED_UID), None).unwrap();
    }
    let state = files.path("state");
    assert!(
        unprivileged_sh(&files, "mkdir -m 700 state && chmod 500 state").success(),
        "the directory can be made"
    );
    assert_failure_of(command.arg("--state").arg(&state), &["cannot lock", "lock", "Permission denied"]);
}

/// Runs a shell command in the files' directory, as the user that `unprivileged` takes.
fn unprivileged_sh(files: &Files, script: &str) -> std::process::ExitStatus {
    use std::os::unix::process::CommandExt as _;
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(files.path("."));
    if rustix::process::geteuid().is_root() {
        shell.uid(super::program::UNPRIVILEGED_UID).gid(super::program::UNPRIVILEGED_UID);
    }
    shell.status().unwrap()
}

#[test]
fn state_key_open_to_others_or_behind_a_symlink_is_refused() {
    let files = Files::new();
    let state = state_with(&files, &[("key.pem", ED25519, 0o640)]);
    assert_failure(&["--state", &state], &["key.pem", "mode 0640", "chmod 600"]);
    let key = files.path("state/key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&key, files.path("elsewhere")).unwrap();
    symlink(files.path("elsewhere"), &key).unwrap();
    for args in [&["--state", &*state][..], &["id", "--state", &state]] {
        assert_failure(args, &["key.pem", "symbolic link"]);
    }
    // A dangling link is no missing key: the program must not make the link's target.
    fs::remove_file(files.path("elsewhere")).unwrap();
    assert_failure(&["--state", &state], &["key.pem", "symbolic link"]);
    assert!(!files.path("elsewhere").exists());
}

/// Who owns the parent can rename the directory and put a link in its place.
#[test]
fn state_directory_that_others_can_exchange_is_refused() {
    if !rustix::process::geteuid().is_root() {
        say_skipped("only root can give files away");
        return;
    }
    let files = Files::new();
    let parent = files.path("parent");
    fs::create_dir(&parent).unwrap();
    let (state, parent_name) = (parent.join("state"), parent.to_str().unwrap());
    let args = ["--port=0", "--state", state.to_str().unwrap()];
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o777)).unwrap();
    assert_failure(&args, &["other users can put another directory", parent_name, "mode 0777", "go-w"]);
    fs::set_permissions(&parent, fs::Permissions::from_mode(0o755)).unwrap();
    chown(&parent, Some(12_345), None).unwrap();
    assert_failure(&args, &["other users can put another directory", parent_name, "belongs to user 12345"]);
    assert!(!state.exists());
    chown(&parent, Some(0), None).unwrap();
    let node = Node::start(&args[1..]);
    let id = id_of(&node);
    node.stop();
    chown(&parent, Some(12_345), None).unwrap();
    assert_failure(&args, &[parent_name, "belongs to user 12345"]);
    // Commands that only read do not start a node, but the directory could be another one as well.
    assert_failure(&["id", "--state", args[2]], &["belongs to user 12345"]);
    chown(&state, Some(12_345), None).unwrap();
    chown(state.join("key.pem"), Some(12_345), None).unwrap();
    assert_eq!(String::from_utf8(run(&["id", "--state", args[2]]).stdout).unwrap(), format!("{id}\n"));
}

/// The owner of the parent exchanges the directory for a link while the node runs as root.
#[test]
fn running_node_writes_no_file_behind_a_link_in_the_place_of_its_directory() {
    let files = Files::new();
    let (state, moved, victim) = (files.path("state"), files.path("moved"), files.path("victim"));
    let node = Node::start(&["--state", state.to_str().unwrap()]);
    let addr = super::program::addr_of(&node.event("listening"));
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("known_peers.toml"), "not ours").unwrap();
    fs::rename(&state, &moved).unwrap();
    symlink(&victim, &state).unwrap();
    let peer = Node::start(&["--connect", &addr]);
    let id = node.event("up")["peer"].as_str().unwrap().to_owned();
    peer.stop();
    // The last write is complete when the node has ended.
    node.stop();
    assert!(fs::read_to_string(moved.join("known_peers.toml")).unwrap().contains(&id));
    assert_eq!(names(&victim), ["known_peers.toml"]);
    assert_eq!(fs::read_to_string(victim.join("known_peers.toml")).unwrap(), "not ours");
}

#[test]
fn root_reads_the_state_of_a_service_and_leaves_its_owner_and_mode() {
    use std::os::unix::fs::MetadataExt as _;
    if !rustix::process::geteuid().is_root() {
        say_skipped("only root can read the files of another user");
        return;
    }
    const SERVICE: u32 = super::program::UNPRIVILEGED_UID;
    let files = Files::new();
    let content = [("known_peers.toml", KNOWN_PEERS, 0o640), ("key.pem", ED25519, 0o600)];
    let state = state_with(&files, &content);
    for path in ["state", "state/known_peers.toml", "state/key.pem"] {
        chown(files.path(path), Some(SERVICE), Some(SERVICE)).unwrap();
    }
    // A node of root would make files that the service cannot read.
    assert_failure(&["--port=0", "--state", &state], &["belongs to user 54321"]);
    assert!(String::from_utf8(run(&["peers", "--state", &state]).stdout).unwrap().contains("bob"));
    let id = run(&["id", "--state", &state]);
    assert_eq!(String::from_utf8(id.stdout).unwrap(), format!("{ED25519_ID}\n"));
    let forgotten = run(&["forget", "--state", &state, "abababab"]);
    assert_eq!(forgotten.status.code(), Some(0), "{}", String::from_utf8_lossy(&forgotten.stderr));
    assert!(!fs::read_to_string(files.path("state/known_peers.toml")).unwrap().contains("bob"));
    for (name, bits) in [("known_peers.toml", 0o640), ("lock", 0o600)] {
        let metadata = fs::metadata(files.path("state").join(name)).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o777),
            (SERVICE, SERVICE, bits),
            "{name}"
        );
    }
    // The service could plant a link, so root follows none.
    fs::remove_file(files.path("state/known_peers.toml")).unwrap();
    symlink(files.private("elsewhere", KNOWN_PEERS), files.path("state/known_peers.toml")).unwrap();
    assert_failure(&["peers", "--state", &state], &["known_peers.toml", "not a regular file"]);
    // Another user still reads nothing.
    let mut command = unprivileged(&files);
    std::os::unix::process::CommandExt::uid(&mut command, SERVICE + 1);
    assert_failure_of(command.args(["peers", "--state", &state]), &["Permission denied"]);
}

#[test]
fn certificate_without_its_key_is_refused_with_a_remedy() {
    let files = Files::new();
    let state = state_with(&files, &[("cert.pem", ED25519_CERT, 0o644)]);
    let needles = ["key.pem is missing", "cert.pem"];
    assert_failure(&["--state", &state], &needles);
    let made = run(&["keygen", "--key", &format!("{state}/key.pem"), "--cert", &format!("{state}/other")]);
    assert_eq!(made.status.code(), Some(0));
    assert_failure(&["--state", &state], &["cert.pem is not"]);
    fs::write(files.path("state/cert.pem"), "").unwrap();
    assert_failure(&["--state", &state], &["cert.pem is empty; move it away"]);
    fs::remove_file(files.path("state/cert.pem")).unwrap();
    let node = Node::start(&["--state", &state]);
    assert_eq!(format!("{}\n", id_of(&node)), String::from_utf8(made.stdout).unwrap());
    assert!(files.path("state/cert.pem").exists());
}

#[test]
fn state_directory_in_use_is_refused() {
    let files = Files::new();
    let state = state_with(&files, &[("known_peers.toml", KNOWN_PEERS, 0o600)]);
    let node = Node::start(&["--state", &state]);
    let id = id_of(&node);
    let process = format!("process {}", node.pid());
    assert_failure(&["--state", &state], &[&state, "in use", &process]);
    // `peers` and `id` only read: they need no lock.
    let listed = run(&["peers", "--state", &state]);
    assert!(String::from_utf8(listed.stdout).unwrap().contains("bob"));
    assert_eq!(String::from_utf8(run(&["id", "--state", &state]).stdout).unwrap(), format!("{id}\n"));
    // The running node forgets it.
    assert_eq!(run(&["forget", "--state", &state, "abababab"]).status.code(), Some(0));
    // The lock ends with the process, also with a killed one.
    let mut node = node;
    node.signal(Signal::KILL);
    node.wait();
    assert_eq!(id_of(&Node::start(&["--state", &state])), id);
}

#[test]
fn damaged_known_peers_are_refused_by_line_and_left_unchanged() {
    let files = Files::new();
    let state = state_with(&files, &[]);
    let file = files.path("state/known_peers.toml");
    let cut_short = &KNOWN_PEERS[..KNOWN_PEERS.find("left").unwrap() + 6];
    for (content, needles) in [
        (KNOWN_PEERS.replace("abab\"", "ab\""), ["line 4", "64 hexadecimal digits"]),
        (KNOWN_PEERS.replace("bob", "b\u{202e}b"), ["line 5", "control character"]),
        (KNOWN_PEERS.replace("true", "perhaps"), ["line 8", "damaged"]),
        (cut_short.to_owned(), ["line 8", "damaged"]),
        (KNOWN_PEERS.replace(":8080", ""), ["line 11", "port is missing"]),
        (KNOWN_PEERS.replace("version = 1", "version = 2"), ["version 2", "later"]),
        (String::new(), ["line 1", "version"]),
        ("\u{1b}[31m".to_owned(), ["line 1", "damaged"]),
    ] {
        fs::write(&file, &content).unwrap();
        for args in [
            &["--state", &*state][..],
            &["peers", "--state", &state],
            &["forget", "--state", &state, "abababab"],
        ] {
            assert_failure(args, &[&["known_peers.toml"], &needles[..]].concat());
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), content);
    }
    // The refused starts left no half-made identity behind.
    assert_eq!(names(&files.path("state")), ["known_peers.toml", "lock"]);
    fs::write(&file, vec![b'#'; 17 << 20]).unwrap();
    assert_failure(&["--state", &state], &["known_peers.toml", "16 MiB"]);
}

#[test]
fn half_written_files_of_a_killed_process_are_removed() {
    let files = Files::new();
    let half = &KNOWN_PEERS[..100];
    let state = state_with(
        &files,
        &[
            ("known_peers.toml", KNOWN_PEERS, 0o600),
            (".known_peers.toml.tmp", half, 0o600),
            (".key.pem.tmp", "", 0o600),
        ],
    );
    let node = Node::start(&["--state", &state]);
    node.event("listening");
    assert_eq!(names(&files.path("state")), ["cert.pem", "control", "key.pem", "known_peers.toml", "lock"]);
}

#[test]
fn forget_takes_an_id_prefix() {
    let files = Files::new();
    let two = KNOWN_PEERS.to_owned()
        + &KNOWN_PEERS[KNOWN_PEERS.find("[[peer]]").unwrap()..].replace(&"ab".repeat(28), &"cd".repeat(28));
    let state = state_with(&files, &[("known_peers.toml", &two, 0o600)]);
    let listed = || {
        let output = run(&["peers", "--state", &state, "--output=json"]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        text.lines().map(line).collect::<Vec<_>>()
    };
    let before = listed();
    assert_eq!(before.len(), 2);
    assert_eq!(before[0]["name"], "bob");
    assert_eq!(before[0]["left"], true);
    assert_eq!(before[0]["first_seen"], "2026-01-31T12:00:00Z");
    assert_eq!(before[0]["addresses"][0]["addr"], "192.0.2.7:8080");
    assert_eq!(before[0]["addresses"][0]["last_success"], "2026-01-31T12:00:00Z");

    assert_failure(&["forget", "--state", &state, "12345678"], &["begins with 12345678"]);
    let output = run(&["forget", "--state", &state, "ABABABAB"]);
    let forgotten = before.iter().find(|peer| peer["id"].as_str().unwrap().starts_with("abababab"));
    let id = forgotten.unwrap()["id"].as_str().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("forgot {id}\n"));
    assert_eq!(listed(), before.iter().filter(|peer| peer["id"] != id).cloned().collect::<Vec<_>>());
    assert_failure(&["forget", "--state", &state, "abababab"], &["no known peer"]);

    // A prefix that two peers share is refused.
    let alike = KNOWN_PEERS.to_owned()
        + &KNOWN_PEERS[KNOWN_PEERS.find("[[peer]]").unwrap()..].replacen("abab\"", "abcc\"", 1);
    fs::write(files.path("state/known_peers.toml"), &alike).unwrap();
    assert_failure(&["forget", "--state", &state, &"ab".repeat(31)], &["2 known peers"]);
    assert_eq!(fs::read_to_string(files.path("state/known_peers.toml")).unwrap(), alike);
    assert_eq!(run(&["forget", "--state", &state, &"ab".repeat(32)]).status.code(), Some(0));
    assert_eq!(listed().len(), 1);
}
