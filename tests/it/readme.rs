//! Every command in the README is one that works: shell blocks are run as they stand, in a directory of
//! their own, with stand-ins for what would change the system, reach other hosts or run for ever.
//!
//! A node is started far enough to have understood everything that it was told. The recipes for several
//! hosts are run in full by `hosts.rs` and `trust.rs`. A command that has no stand-in is not found, so a new
//! one in the README needs a line here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::executable::write_script;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// What the blocks may use as it is.
const REAL: [&str; 8] = ["cat", "chmod", "env", "grep", "openssl", "sed", "sha256sum", "timeout"];

/// Stand-ins. What is wrong with how they are called goes to the file `faults`, as a pipe hides exit codes.
const STAND_INS: [(&str, &str); 8] = [
    (
        "p2p-gossip",
        // A node that can't listen where it should says so once it has understood everything else.
        r#"case $1 in
keygen | id | peers | forget) want=any ;;
*)  want='cannot listen'
    case " $* " in *" --bind "*) ;; *) set -- "$@" --bind 203.0.113.77 ;; esac ;;
esac
timeout 60 "$PROGRAM" "$@" 2>"$WORK/said"
code=$?
[ $code -lt 2 ] && { [ "$want" = any ] || grep -q "$want" "$WORK/said"; } ||
    fault "p2p-gossip $*: exit code $code: $(cat "$WORK/said")"
exit 0"#,
    ),
    (
        "make",
        r#""$MAKE" -n -C "$REPOSITORY" "$@" >"$WORK/said" 2>&1 || fault "make $*: $(cat "$WORK/said")""#,
    ),
    ("systemctl", r#"case $* in *' p2p-gossip') ;; *) fault "systemctl $*" ;; esac"#),
    ("journalctl", r#"case $* in '-u p2p-gossip '*) ;; *) fault "journalctl $*" ;; esac"#),
    ("scp", r#"case $* in 'target/static/p2p-gossip '*:) ;; *) fault "scp $*" ;; esac"#),
    ("curl", r#"case $* in *' localhost:9090/'*) ;; *) fault "curl $*" ;; esac"#),
    (
        "docker",
        r#"case $* in
'build -t p2p-gossip .') [ -e "$REPOSITORY/Dockerfile" ] || fault "docker $*" ;;
'compose -f '*) [ -e "$REPOSITORY/$3" ] || fault "docker $*" ;;
'run '*' p2p-gossip '*)
    while [ "$1" != p2p-gossip ]; do shift; done
    shift
    p2p-gossip "$@" ;;
*) fault "docker $*" ;;
esac"#,
    ),
    // Without input a program is still read by the real one.
    ("jq", r#"[ -z "$JQ" ] || "$JQ" "$@" 2>"$WORK/said" || fault "jq $*: $(cat "$WORK/said")""#),
];

/// The shell blocks.
fn blocks() -> Vec<&'static str> {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```sh\n").skip(1);
    blocks.map(|block| block.split_once("```").expect("it ends").0).collect()
}

/// Where a command is, if it is there.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

#[test]
fn every_command_in_the_readme_is_understood() {
    if find("make").is_none() || find("openssl").is_none() {
        println!("skipped: make or openssl is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (work, tools) = (dir.path().join("work"), dir.path().join("tools"));
    fs::create_dir_all(work.join("default")).unwrap();
    fs::create_dir(work.join("lib")).unwrap();
    fs::create_dir(&tools).unwrap();
    for name in REAL {
        symlink(find(name).unwrap_or_else(|| panic!("{name} is missing")), tools.join(name)).unwrap();
    }
    for (name, body) in STAND_INS {
        let script = format!("#!/bin/sh\nfault() {{ echo \"$*\" >>\"$WORK/faults\"; }}\n{body}\n");
        write_script(&tools.join(name), &script);
    }
    symlink(tools.join("p2p-gossip"), work.join("p2p-gossip")).unwrap();
    fs::copy(Path::new(REPOSITORY).join("tests/fixtures/keys/ed25519_cert.pem"), work.join("cert.pem"))
        .unwrap();

    // What is a file of its own says in its second line where it is.
    let (scripts, commands): (Vec<&str>, Vec<&str>) = blocks().into_iter().partition(|b| b.starts_with("#!"));
    for script in scripts {
        let name = script.lines().nth(1).and_then(|line| line.strip_prefix("# ./")).expect("its name");
        write_script(&work.join(name), script);
    }
    assert!(commands.len() > 10, "there are {} blocks", commands.len());
    for block in commands {
        // Not this system's directories.
        let block = block.replace("/etc/default/", "default/").replace("/var/lib/", "lib/");
        let output = Command::new("/bin/sh")
            .args(["-euc", &block])
            .current_dir(&work)
            .env_clear()
            .env("PATH", &tools)
            .env("HOME", &work)
            .env("WORK", &work)
            .env("REPOSITORY", REPOSITORY)
            .env("PROGRAM", env!("CARGO_BIN_EXE_p2p-gossip"))
            .env("MAKE", find("make").unwrap())
            .env("JQ", find("jq").unwrap_or_default())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("not found"), "{block}\n{said}");
        let faults = fs::read_to_string(work.join("faults")).unwrap_or_default();
        assert_eq!(faults, "", "{block}\n{said}");
    }
    for made in ["node.key", "node.crt", "network.key", "allowed", "default/p2p-gossip"] {
        assert!(work.join(made).exists(), "no command has made {made}");
    }
}
