//! The files installed with the program: shell completions, the manual page, the Dockerfile, and the install
//! rules of the Makefile. A test prints a message and passes if its tool is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dist").join(name)
}

/// True if a tool is not installed; prints a message in that case.
fn is_missing(tool: &str) -> bool {
    let is_missing = Command::new(tool).arg("--version").output().is_err();
    if is_missing {
        println!("skipped: {tool} is missing");
    }
    is_missing
}

/// Runs the command successfully and returns its stdout.
#[track_caller]
fn output_of(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}: {stderr}{}", String::from_utf8_lossy(&stdout));
    assert_eq!(stderr, "", "{command:?}");
    String::from_utf8(stdout).unwrap()
}

/// The completions of bash for the last of these words.
fn bash(words: &[&str], dir: &Path) -> Vec<String> {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source '{file}'; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _p2p_gossip; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        file = dist("p2p-gossip.bash").display(),
        words = words.join(" "),
    );
    let output =
        output_of(Command::new("bash").args(["--noprofile", "--norc", "-uc", &script]).current_dir(dir));
    output.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_options_values_and_verbs() {
    if is_missing("bash") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a key.pem"), "").unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let bash = |words: &[&str]| bash(words, dir.path());
    assert_eq!(bash(&["p2p-gossip", "--conn"]), ["--connect"]);
    assert_eq!(bash(&["p2p-gossip", "key"]), ["keygen"]);
    assert_eq!(bash(&["p2p-gossip", "--quiet", "key"]), [""; 0]);
    assert_eq!(bash(&["p2p-gossip", "--output", ""]), ["text", "json"]);
    assert_eq!(bash(&["p2p-gossip", "--output", "=", "j"]), ["json"]);
    assert_eq!(bash(&["p2p-gossip", "--output", "="]), ["text", "json"]);
    assert_eq!(bash(&["p2p-gossip", "--pings", "of"]), ["off"]);
    assert_eq!(bash(&["p2p-gossip", "--key", "a"]), ["a key.pem"]);
    assert_eq!(bash(&["p2p-gossip", "--state", ""]), ["state"]);
    assert_eq!(bash(&["p2p-gossip", "--port", ""]), [""; 0]);
    assert_eq!(bash(&["p2p-gossip", "keygen", "--netw"]), ["--network"]);
    assert_eq!(bash(&["p2p-gossip", "id", "--port"]), [""; 0]);
}

#[test]
fn zsh_parses_its_completion_file() {
    if !is_missing("zsh") {
        output_of(Command::new("zsh").arg("-n").arg(dist("_p2p-gossip")));
    }
}

#[test]
fn fish_completes_options_values_and_verbs() {
    if is_missing("fish") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let fish = |line: &str| {
        let script = format!("source '{}'; complete -C '{line}'", dist("p2p-gossip.fish").display());
        let output = output_of(Command::new("fish").args(["-N", "-c", &script]).env("HOME", home.path()));
        output.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(fish("p2p-gossip --conn"), ["--connect"]);
    assert_eq!(fish("p2p-gossip key"), ["keygen"]);
    assert_eq!(fish("p2p-gossip --output j"), ["json"]);
    assert_eq!(fish("p2p-gossip id --k"), ["--key"]);
}

#[test]
fn manual_page_passes_lint_and_lists_every_option() {
    if is_missing("mandoc") {
        return;
    }
    assert_eq!(output_of(Command::new("mandoc").arg("-Tlint").arg(dist("p2p-gossip.1"))), "");
    let text = output_of(Command::new("mandoc").args(["-Tascii", "-Owidth=200"]).arg(dist("p2p-gossip.1")));
    // mandoc prints bold and underlined characters twice, with a backspace between.
    let mut plain = String::new();
    for c in text.chars() {
        if c == '\u{8}' {
            plain.pop();
        } else {
            plain.push(c);
        }
    }
    let help = output_of(Command::new(env!("CARGO_BIN_EXE_p2p-gossip")).arg("--help"));
    let options = help.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 4);
    for option in options {
        assert!(plain.contains(option.trim_end_matches([',', ';', '.'])), "{option} is missing:\n{plain}");
    }
    assert!(plain.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn dockerfile_passes_lint() {
    if !is_missing("hadolint") {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
        assert_eq!(output_of(Command::new("hadolint").arg(file)), "");
    }
}

/// All files below a directory, sorted.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn install_puts_files_in_standard_places_and_uninstall_removes_them() {
    if is_missing("make") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let make = |rule: &str| {
        let destination = format!("DESTDIR={}", root.path().display());
        let mut command = Command::new("make");
        command.args(["-s", "-C", env!("CARGO_MANIFEST_DIR"), rule, "PREFIX=/usr", &destination]);
        // A make that runs these tests has its own settings in the environment.
        output_of(command.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL"))
    };
    make("install-files");
    let wanted = [
        "usr/lib/systemd/system/p2p-gossip.service",
        "usr/share/bash-completion/completions/p2p-gossip",
        "usr/share/fish/vendor_completions.d/p2p-gossip.fish",
        "usr/share/man/man1/p2p-gossip.1",
        "usr/share/zsh/site-functions/_p2p-gossip",
    ];
    assert_eq!(files(root.path()), wanted.map(|file| root.path().join(file)));
    let unit = std::fs::read_to_string(root.path().join(wanted[0])).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/p2p-gossip --state "), "{unit}");
    make("uninstall");
    assert_eq!(files(root.path()), [""; 0].map(PathBuf::from));
}
