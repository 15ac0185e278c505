//! The files installed with the program: shell completions, the manual page, the Dockerfile, scripts and recipes for
//! other systems, and the install rules of the Makefile. A test prints a message and passes if its tool is missing.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::executable::RunToEnd as _;
use crate::support::skip::has;

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dist").join(name)
}

/// Runs the command successfully and returns its stdout.
#[track_caller]
fn output_of(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).run_to_end();
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
    if !has("bash", "Debian: bash") {
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
    if has("zsh", "Debian: zsh") {
        output_of(Command::new("zsh").arg("-n").arg(dist("_p2p-gossip")));
    }
}

#[test]
fn fish_completes_options_values_and_verbs() {
    if !has("fish", "Debian: fish") {
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
    if !has("mandoc", "Debian: mandoc") {
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
    if has("hadolint", "https://github.com/hadolint/hadolint") {
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
    if !has("make", "Debian: make") {
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

fn text_of(file: &str) -> String {
    std::fs::read_to_string(dist(file)).unwrap()
}

/// Runs a script of a POSIX shell and returns its stdout.
#[track_caller]
fn sh(script: &str, arguments: &[&Path]) -> String {
    output_of(Command::new("sh").args(["-euc", script, "sh"]).args(arguments))
}

/// The paths below a directory, without it.
fn names_below(root: &Path) -> Vec<String> {
    let files = files(root).into_iter();
    files.map(|file| file.strip_prefix(root).unwrap().to_str().unwrap().to_owned()).collect()
}

/// An empty program at the place where `make build` puts the real one.
fn built_program(target: &Path) {
    std::fs::create_dir(target.join("release")).unwrap();
    std::fs::write(target.join("release/p2p-gossip"), "").unwrap();
}

#[test]
fn services_and_recipes_use_options_that_the_program_has() {
    let help = output_of(Command::new(env!("CARGO_BIN_EXE_p2p-gossip")).arg("--help"));
    let known: Vec<&str> = help.split_whitespace().map(|word| word.trim_end_matches(',')).collect();
    for file in [
        "alpine/p2p-gossip.confd",
        "compose.yaml",
        "openwrt/p2p-gossip.options",
        "p2p-gossip.default",
        "p2p-gossip.openrc",
        "p2p-gossip.procd",
        "p2p-gossip.service",
    ] {
        let text = text_of(file);
        // Lines with the options of other programs.
        let is_foreign =
            |line: &&str| ["docker compose", "checkpath", "systemctl"].iter().any(|word| line.contains(word));
        let lines = text.lines().filter(|line| !is_foreign(line));
        let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
        let options: Vec<&str> = words.filter(|word| word.starts_with("--") && word.len() > 3).collect();
        assert!(!options.is_empty(), "{file} has no option");
        for option in options {
            assert!(known.contains(&option), "{file}: the program has no {option}");
        }
    }
}

#[test]
fn recipes_build_this_version() {
    for (file, line) in [("alpine/APKBUILD", "pkgver="), ("openwrt/Makefile", "PKG_VERSION:=")] {
        let text = text_of(file);
        let version = text.lines().find_map(|other| other.strip_prefix(line)).unwrap();
        assert_eq!(version, env!("CARGO_PKG_VERSION"), "{file}");
        let archive = format!("p2p-gossip-{version}.crate");
        assert!(text.contains(&archive), "{file} takes its source from another archive than {archive}");
    }
}

/// The function of the recipe that fills the package, with the Makefile that ships.
#[test]
fn recipe_for_alpine_fills_its_package() {
    let root = tempfile::tempdir().unwrap();
    built_program(root.path());
    let package = root.path().join("package");
    let script = "cd \"$1\"; pkgdir=$2 srcdir=$3 CTARGET=none CARGO_TARGET_DIR=$3
        export CARGO_TARGET_DIR; unset MAKEFLAGS MFLAGS MAKELEVEL
        . src/dist/alpine/APKBUILD; package >/dev/null; rm -r \"$srcdir/unused\"
        for name in $subpackages; do echo \"$name\"; done";
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let subpackages = sh(script, &[source, &package, root.path()]);
    let found = names_below(&package);
    for file in [
        "etc/conf.d/p2p-gossip",
        "etc/init.d/p2p-gossip",
        "usr/bin/p2p-gossip",
        "usr/share/bash-completion/completions/p2p-gossip",
        "usr/share/doc/p2p-gossip/alerts/ntfy",
        "usr/share/doc/p2p-gossip/grafana.json",
        "usr/share/fish/vendor_completions.d/p2p-gossip.fish",
        "usr/share/licenses/p2p-gossip/LICENSE",
        "usr/share/man/man1/p2p-gossip.1",
        "usr/share/zsh/site-functions/_p2p-gossip",
    ] {
        assert!(found.iter().any(|name| name == file), "{file} is missing: {found:?}");
    }
    assert!(!found.iter().any(|name| name.contains("systemd")), "{found:?}");
    // Each of them takes its files out of the package: the shells, OpenRC, and the manual page with the documents.
    assert_eq!(subpackages.lines().count(), 5, "{subpackages}");
    let script = text_of("p2p-gossip.openrc");
    let user = script.lines().find_map(|line| line.strip_prefix("command_user=")).unwrap();
    assert_eq!(user, "\"p2p-gossip:p2p-gossip\"");
    assert!(text_of("alpine/p2p-gossip.pre-install").contains("adduser -S"), "no script makes the user");
}

/// The rules of OpenWrt's build that the recipe uses, as far as they install files.
const OPENWRT_RULES: &str = "INSTALL_DIR:=install -d -m0755
INSTALL_BIN:=install -m0755
INSTALL_CONF:=install -m0600
define RustBinPackage
endef
define BuildPackage
install:
\t$(call Package/$(1)/install,$(OUT))
endef
";

#[test]
fn recipe_for_openwrt_fills_its_package() {
    if !has("make", "Debian: make") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for dir in ["include", "feeds/packages/lang/rust", "install/bin"] {
        std::fs::create_dir_all(path(dir)).unwrap();
    }
    std::fs::write(path("rules.mk"), OPENWRT_RULES).unwrap();
    std::fs::write(path("include/package.mk"), "").unwrap();
    std::fs::write(path("feeds/packages/lang/rust/rust-package.mk"), "").unwrap();
    std::fs::write(path("install/bin/p2p-gossip"), "").unwrap();
    let set = |name: &str, value: &Path| format!("{name}={}", value.display());
    let mut make = Command::new("make");
    make.arg("-sf").arg(dist("openwrt/Makefile")).arg("install").args([
        set("TOPDIR", root.path()),
        set("INCLUDE_DIR", &path("include")),
        set("PKG_INSTALL_DIR", &path("install")),
        set("PKG_BUILD_DIR", Path::new(env!("CARGO_MANIFEST_DIR"))),
        set("OUT", &path("out")),
    ]);
    output_of(make.env_remove("MAKEFLAGS").env_remove("MFLAGS").env_remove("MAKELEVEL"));
    let wanted = ["etc/init.d/p2p-gossip", "etc/p2p-gossip.options", "usr/bin/p2p-gossip"];
    assert_eq!(names_below(&path("out")), wanted);
}

/// The script of procd, with functions in place of procd's that show what they get.
#[test]
fn service_of_openwrt_passes_the_options_of_its_file() {
    let root = tempfile::tempdir().unwrap();
    let options = root.path().join("options");
    std::fs::write(&options, "# ours\n--name\nweb 1\n\n--quiet\n--connect\n192.0.2.7:8080").unwrap();
    let script = "procd_set_param() { if [ $1 = command ]; then shift; printf '%s\\n' \"$@\"; fi }
        procd_append_param() { shift; printf '%s\\n' \"$@\"; }
        procd_open_instance() { :; }; procd_close_instance() { :; }
        . \"$1\"; STATE=$2/state; OPTIONS=$2/options; start_service; ls -ld \"$STATE\" | cut -c 1-10";
    let shown = sh(script, &[&dist("p2p-gossip.procd"), root.path()]);
    let state = root.path().join("state");
    let wanted = format!(
        "/usr/bin/p2p-gossip\n--state\n{}\n--quiet\n--name\nweb 1\n--quiet\n--connect\n192.0.2.7:8080\ndrwx------\n",
        state.display()
    );
    assert_eq!(shown, wanted);
}

#[test]
fn shell_scripts_pass_lint() {
    let scripts = [
        "alerts/alertmanager",
        "alerts/mail",
        "alerts/ntfy",
        "alerts/webhook",
        "alpine/APKBUILD",
        "alpine/p2p-gossip.pre-install",
        "deb/build",
        "deb/postinst",
        "deb/postrm",
        "deb/prerm",
        "p2p-gossip.openrc",
        "p2p-gossip.procd",
    ];
    let paths = scripts.map(dist);
    for path in &paths {
        output_of(Command::new("sh").arg("-n").arg(path));
    }
    if has("shellcheck", "Debian: shellcheck") {
        // The service managers read the variables that nothing here uses, and set those that nothing here sets.
        let excluded = "--exclude=SC2034,SC2154";
        output_of(Command::new("shellcheck").args(["--shell=dash", excluded]).args(&paths));
    }
}
