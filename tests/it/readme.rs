//! Every command in the README and in the guide (`src/guide/*.md`) works. The test runs shell blocks
//! unchanged in a temporary directory. Stand-ins replace the commands that would change the system, reach
//! other hosts or run without end.
//!
//! A node starts far enough to have parsed all its options. `hosts.rs` and `trust.rs` run the recipes
//! for several hosts in full. A command without a stand-in is not found, so a new one needs a line here.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use p2p_gossip::{PeerId, StateDir, Ticket};

use crate::support::executable::{RunToEnd as _, write_script};
use crate::support::skip::{find, has};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// Most lines and columns of the README: a newcomer reads it in five minutes.
const README_LINES_MAX: usize = 200;
const README_COLUMNS_MAX: usize = 100;

/// Commands that the blocks use without a stand-in.
const REAL: [&str; 8] = ["cat", "chmod", "env", "grep", "openssl", "sed", "sha256sum", "timeout"];

/// Stand-ins. They write wrong calls to the file `faults`, because a pipe hides exit codes.
const STAND_INS: [(&str, &str); 8] = [
    (
        "p2p-gossip",
        // A node reports that it cannot listen at its address after it has parsed everything else.
        r#"case $1 in
keygen | id | peers | forget | members | status | watch | why | ping | send | connect | allow | deny | reload | leave | doctor | invite | rotate) want=any ;;
wait)
    # No node starts here.
    want=any
    set -- $(echo "$@" | sed 's/--timeout [^ ]*/--timeout 1/') ;;
*)  want='cannot listen'
    case " $* " in *" --bind "*) ;; *) set -- "$@" --bind 203.0.113.77 ;; esac ;;
esac
timeout 60 "$PROGRAM" "$@" 2>"$WORK/output"
code=$?
[ $code -lt 2 ] && { [ "$want" = any ] || grep -q "$want" "$WORK/output"; } ||
    fault "p2p-gossip $*: exit code $code: $(cat "$WORK/output")"
exit 0"#,
    ),
    (
        "make",
        r#""$MAKE" -n -C "$REPOSITORY" "$@" >"$WORK/output" 2>&1 || fault "make $*: $(cat "$WORK/output")""#,
    ),
    ("systemctl", r#"case $* in *' p2p-gossip') ;; *) fault "systemctl $*" ;; esac"#),
    ("journalctl", r#"case $* in '-u p2p-gossip '*) ;; *) fault "journalctl $*" ;; esac"#),
    ("scp", r#"case $* in 'target/static/p2p-gossip '*:) ;; *) fault "scp $*" ;; esac"#),
    ("curl", r#"case $* in *' localhost:9090/'*) ;; *) fault "curl $*" ;; esac"#),
    (
        "docker",
        r#"case $* in
'build -t p2p-gossip .') [ -e "$REPOSITORY/Dockerfile" ] || fault "docker $*" ;;
'compose -p mesh -f '*) [ -e "$REPOSITORY/$5" ] || fault "docker $*" ;;
'run '*' p2p-gossip '*)
    while [ "$1" != p2p-gossip ]; do shift; done
    shift
    p2p-gossip "$@" ;;
*) fault "docker $*" ;;
esac"#,
    ),
    // Without input the real jq still parses the filter.
    ("jq", r#"[ -z "$JQ" ] || "$JQ" "$@" 2>"$WORK/output" || fault "jq $*: $(cat "$WORK/output")""#),
];

/// A page for users.
struct Page {
    /// Its path in the repository.
    path: String,
    text: String,
}

/// A fenced block of a page.
struct Block<'a> {
    page: &'a str,
    /// The word after the opening fence.
    kind: &'a str,
    text: String,
}

impl Page {
    fn read(path: &str) -> Self {
        let text = fs::read_to_string(Path::new(REPOSITORY).join(path)).unwrap();
        Self { path: path.to_owned(), text }
    }

    fn is_guide(&self) -> bool {
        self.path != "README.md"
    }

    fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            if let Some(kind) = line.strip_prefix("```") {
                let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
                blocks.push(Block { page: &self.path, kind, text: text.join("\n") + "\n" });
            }
        }
        blocks
    }
}

/// The README, then the pages of the guide.
fn pages() -> Vec<Page> {
    let mut pages = vec![Page::read("README.md")];
    let entries = fs::read_dir(Path::new(REPOSITORY).join("src/guide")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
    names.sort();
    assert!(names.len() >= 8, "the guide has only {names:?}");
    pages.extend(names.iter().map(|name| Page::read(&format!("src/guide/{name}"))));
    pages
}

#[test]
fn every_command_in_the_pages_is_valid() {
    if !has("make", "Debian: make") || !has("openssl", "Debian: openssl") {
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
    // The ticket of the network in `mesh`, in a file with the name that stands for it.
    let ring = StateDir::open(&work.join("mesh")).unwrap().close_network().unwrap();
    let member = (PeerId::from_bytes([7; 32]), vec!["192.0.2.7:8080".parse().unwrap()]);
    fs::write(work.join("TICKET"), Ticket::new(&ring, [member]).to_text().as_bytes()).unwrap();
    // The pages name programs of the repository.
    symlink(Path::new(REPOSITORY).join("src"), work.join("src")).unwrap();
    fs::copy(Path::new(REPOSITORY).join("tests/fixtures/keys/ed25519_cert.pem"), work.join("cert.pem"))
        .unwrap();

    let pages = pages();
    let blocks = pages.iter().flat_map(Page::blocks).filter(|block| block.kind == "sh");
    // A script names its file in its second line.
    let (scripts, commands): (Vec<Block>, Vec<Block>) = blocks.partition(|b| b.text.starts_with("#!"));
    for script in scripts {
        let name = script.text.lines().nth(1).and_then(|line| line.strip_prefix("# ./")).expect("its name");
        write_script(&work.join(name), &script.text);
    }
    assert!(commands.len() > 20, "there are {} blocks", commands.len());
    for Block { page, text, .. } in commands {
        // Directories and an interface that this machine may lack.
        let block = text.replace("/etc/default/", "default/").replace("%eth0", "%lo");
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
            .run_to_end();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !stderr.contains("not found"), "{page}:\n{block}\n{stderr}");
        let faults = fs::read_to_string(work.join("faults")).unwrap_or_default();
        assert_eq!(faults, "", "{page}:\n{block}\n{stderr}");
    }
    for made in ["node.key", "node.crt", "network.key", "new.key", "allowed", "default/p2p-gossip"] {
        assert!(work.join(made).exists(), "no command has created {made}");
    }
}

#[test]
fn every_block_has_a_kind_that_a_test_checks() {
    for page in pages() {
        for Block { page, kind, text } in page.blocks() {
            match kind {
                // Run above. Rust blocks are doctests of the library, which includes these pages.
                "sh" | "rust" | "rust,no_run" => {}
                // Given to promtool by `http/scrape.rs`.
                "yaml" => assert_eq!(page, "src/guide/operations.md", "no test checks this YAML:\n{text}"),
                "json" => text.lines().for_each(|line| {
                    let event = serde_json::from_str::<p2p_gossip::Event>(line);
                    assert!(event.is_ok(), "{page}: {line}: {event:?}");
                }),
                // Text output and diagrams contain nothing to run.
                "text" => {}
                other => panic!("{page}: no test checks blocks of the kind {other:?}:\n{text}"),
            }
        }
    }
}

#[test]
fn readme_fits_a_newcomer() {
    let readme = Page::read("README.md").text;
    assert!(readme.lines().count() <= README_LINES_MAX, "{} lines", readme.lines().count());
    for (line, number) in readme.lines().zip(1..) {
        assert!(line.chars().count() <= README_COLUMNS_MAX, "line {number} is too long: {line}");
    }
    // A first ping without a round-trip time would need an explanation.
    assert!(!readme.lines().any(|line| line.contains("  ping  ") && line.contains(" -  ")));
}

#[test]
fn guide_pages_begin_with_their_reader() {
    for page in pages().iter().filter(|page| page.is_guide()) {
        let mut lines = page.text.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("# ")), "{} has no title", page.path);
        let first = lines.find(|line| !line.is_empty()).unwrap_or_default();
        assert!(first.starts_with("This page is for "), "{}: {first}", page.path);
    }
}

#[test]
fn links_of_the_pages_have_targets() {
    let pages = pages();
    let names: Vec<&str> =
        pages.iter().filter_map(|page| Path::new(&page.path).file_stem()?.to_str()).collect();
    for page in &pages {
        let dir = Path::new(REPOSITORY).join(&page.path).parent().unwrap().to_owned();
        let inline = page.text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        let defined = page.text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
        let targets: Vec<&str> = inline.chain(defined.map(|(_, target)| target)).collect();
        for target in targets.iter().filter(|target| !target.starts_with("https://")) {
            assert!(dir.join(target).is_file(), "{}: {target} is not there", page.path);
        }
        // rustdoc resolves the names of all pages; the repository's web view needs a definition of each link.
        for name in &names {
            let is_used = page.text.replace(&format!("[{name}]: "), "").contains(&format!("[{name}]"));
            let is_defined = targets.contains(&format!("{name}.md").as_str());
            assert!(!is_used || is_defined, "{}: [{name}] has no target", page.path);
        }
    }
}
