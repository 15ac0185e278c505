//! Makes the installed files that list the options: completions for three shells, and sections of the manual
//! page. The sources are the arguments, as for the help, and the events. A test compares the results with the
//! files in `src/dist`; `make dist` writes those files.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use argh::{ArgsInfo as _, CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, SubCommandInfo};

use super::node_arguments::Arguments;
use super::reference;
use super::roff::{roff, roff_sentences};
use super::usage_error::PROGRAM;

/// The kind of value that an option takes.
enum Value {
    Nothing,
    Word,
    File,
    Directory,
    OneOf(&'static str),
}

fn value_of(flag: &FlagInfo<'_>) -> Value {
    match flag.kind {
        FlagInfoKind::Switch => Value::Nothing,
        FlagInfoKind::Option { arg_name: "FILE" | "PROGRAM" } => Value::File,
        FlagInfoKind::Option { arg_name: "DIR" } => Value::Directory,
        FlagInfoKind::Option { arg_name: "FORMAT" } => Value::OneOf("text json"),
        FlagInfoKind::Option { arg_name: "HOW" } => Value::OneOf("on off"),
        FlagInfoKind::Option { .. } => Value::Word,
    }
}

/// The options in the order of the help, without argh's own description of `--help`.
fn flags(command: &CommandInfoWithArgs) -> impl Iterator<Item = &'static FlagInfo<'static>> {
    command.flags.iter().filter(|flag| flag.long != "--help")
}

const HELP: &str = "print this help and exit";

fn verbs() -> Vec<SubCommandInfo> {
    Arguments::get_args_info().commands
}

fn all() -> Vec<CommandInfoWithArgs> {
    [Arguments::get_args_info()].into_iter().chain(verbs().into_iter().map(|verb| verb.command)).collect()
}

fn bash() -> String {
    let named = |wanted: fn(&Value) -> bool| {
        let commands = all();
        let names: BTreeSet<&str> = commands
            .iter()
            .flat_map(flags)
            .filter(|flag| wanted(&value_of(flag)))
            .map(|flag| flag.long)
            .collect();
        names.into_iter().collect::<Vec<_>>().join(" | ")
    };
    let words = |command: &CommandInfoWithArgs| {
        flags(command).map(|flag| flag.long).chain(["--help"]).collect::<Vec<_>>().join(" ")
    };
    let mut cases = String::new();
    for SubCommandInfo { name, command: info } in verbs() {
        let _ = writeln!(cases, "    {}) options='{}' ;;", name, words(&info));
    }
    let names = verbs().iter().map(|verb| verb.name).collect::<Vec<_>>().join(" ");
    format!(
        r#"# bash completion for {PROGRAM}, made by `make dist`
_p2p_gossip() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} options
    # bash splits --option=value into three words.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    COMPREPLY=()
    case $previous in
    {files})
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    {directories})
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -d -- "$current")
        return
        ;;
    {formats})
        mapfile -t COMPREPLY < <(compgen -W 'text json' -- "$current")
        return
        ;;
    {switches})
        mapfile -t COMPREPLY < <(compgen -W 'on off' -- "$current")
        return
        ;;
    {others}) return ;;
    esac
    case ${{COMP_WORDS[1]}} in
{cases}    *)
        options='{options}'
        ((COMP_CWORD > 1)) || options+=' {names}'
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
}}
complete -F _p2p_gossip {PROGRAM}
"#,
        files = named(|value| matches!(value, Value::File)),
        directories = named(|value| matches!(value, Value::Directory)),
        formats = named(|value| matches!(value, Value::OneOf("text json"))),
        switches = named(|value| matches!(value, Value::OneOf("on off"))),
        others = named(|value| matches!(value, Value::Word)),
        options = words(&Arguments::get_args_info()),
    )
}

fn zsh() -> String {
    let quoted = |text: &str| text.replace('\'', "'\\''");
    let escaped = |text: &str| quoted(text).replace('[', "\\[").replace(']', "\\]").replace(':', "\\:");
    let arguments = |command: &CommandInfoWithArgs, indent: &str| {
        let mut lines = String::new();
        for flag in flags(command) {
            let repeats = if flag.optionality == Optionality::Repeating { "*" } else { "" };
            let (long, about) = (flag.long, escaped(flag.description));
            let value = match (value_of(flag), &flag.kind) {
                (Value::Nothing, _) | (_, FlagInfoKind::Switch) => String::new(),
                (Value::File, FlagInfoKind::Option { arg_name }) => format!(":{arg_name}:_files"),
                (Value::Directory, FlagInfoKind::Option { arg_name }) => format!(":{arg_name}:_files -/"),
                (Value::OneOf(words), FlagInfoKind::Option { arg_name }) => format!(":{arg_name}:({words})"),
                (Value::Word, FlagInfoKind::Option { arg_name }) => format!(":{arg_name}: "),
            };
            let sign = if value.is_empty() { "" } else { "=" };
            let _ = writeln!(lines, "{indent}'{repeats}{long}{sign}[{about}]{value}' \\");
        }
        let _ = writeln!(lines, "{indent}'(- *)--help[{HELP}]'");
        lines
    };
    let mut cases = String::new();
    let mut names = String::new();
    for SubCommandInfo { name, command: info } in verbs() {
        let _ = write!(names, " {name}\\:\"{}\"", escaped(info.description));
        let _ = write!(
            cases,
            "{name})\n    shift words\n    (( CURRENT-- ))\n    _arguments -S \\\n{arguments}    ;;\n",
            arguments = arguments(&info, "        ")
        );
    }
    format!(
        "\
#compdef {PROGRAM}
# zsh completion for {PROGRAM}, made by `make dist`
case $words[2] in
{cases}*)
    _arguments -S \\
        '1:verb:(({names}))' \\
{arguments}    ;;
esac
",
        names = names.trim_start(),
        arguments = arguments(&Arguments::get_args_info(), "        "),
    )
}

fn fish() -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let names = verbs().iter().map(|verb| verb.name).collect::<Vec<_>>().join(" ");
    let mut lines =
        format!("# fish completion for {PROGRAM}, made by `make dist`\ncomplete -c {PROGRAM} -f\n");
    for verb in verbs() {
        let (name, about) = (verb.name, quoted(verb.command.description));
        let _ = writeln!(lines, "complete -c {PROGRAM} -n __fish_use_subcommand -a {name} -d '{about}'");
    }
    let mut add = |condition: &str, command: &CommandInfoWithArgs| {
        for flag in flags(command) {
            let value = match value_of(flag) {
                Value::Nothing => String::new(),
                Value::Word => " -x".to_owned(),
                Value::File => " -r -F".to_owned(),
                Value::Directory => " -x -a '(__fish_complete_directories)'".to_owned(),
                Value::OneOf(words) => format!(" -x -a '{words}'"),
            };
            let short = flag.short.map(|short| format!(" -s {short}")).unwrap_or_default();
            let (long, about) = (&flag.long[2..], quoted(flag.description));
            let _ = writeln!(
                lines,
                "complete -c {PROGRAM} -n '{condition}'{short} -l {long}{value} -d '{about}'"
            );
        }
    };
    add(&format!("not __fish_seen_subcommand_from {names}"), &Arguments::get_args_info());
    for SubCommandInfo { name, command: info } in verbs() {
        add(&format!("__fish_seen_subcommand_from {name}"), &info);
    }
    let _ = writeln!(lines, "complete -c {PROGRAM} -s h -l help -d '{HELP}'");
    lines
}

fn roff_options(command: &CommandInfoWithArgs, details: &[(&str, String)]) -> String {
    let mut lines = String::new();
    for flag in flags(command) {
        let short = flag.short.map(|short| format!("\\-{short}, ")).unwrap_or_default();
        let name = roff(flag.long);
        let _ = match flag.kind {
            FlagInfoKind::Option { arg_name } => writeln!(lines, ".TP\n.BI {short}{name} \" {arg_name}\""),
            FlagInfoKind::Switch => writeln!(lines, ".TP\n.B {short}{name}"),
        };
        let _ = writeln!(lines, "{}", roff(flag.description));
        if let Some((_, details)) = details.iter().find(|(option, _)| *option == flag.long) {
            let _ = write!(lines, ".br\n{}", roff_sentences(details));
        }
    }
    let _ = write!(lines, ".TP\n.B \\-h, \\-\\-help\n{HELP}\n");
    lines
}

fn roff_verbs() -> String {
    let mut lines = String::new();
    for SubCommandInfo { name, command: info } in verbs() {
        let _ = writeln!(lines, ".SS {name}");
        let (first, rest) = info.description.split_at(1);
        let _ = writeln!(lines, "{}{}.", first.to_uppercase(), roff(rest));
        let _ = writeln!(lines, "{}", roff(&info.notes.join("\n")));
        for positional in info.positionals {
            let _ = writeln!(lines, ".TP\n.I {}\n{}", positional.name, roff(positional.description));
        }
        lines.push_str(&roff_options(&info, &[]));
    }
    lines
}

/// Replaces the text between the two comments that mark a section of the page.
fn with_section(page: &str, section: &str, text: &str) -> String {
    let (begin, end) = (format!(".\\\" {section}: made by make dist\n"), format!(".\\\" {section}: end\n"));
    let (before, rest) = page.split_once(&begin).expect("the page has the section");
    let (_, after) = rest.split_once(&end).expect("the section has an end");
    format!("{before}{begin}{text}{end}{after}")
}

fn manual(page: &str) -> String {
    let title = format!(".TH P2P\\-GOSSIP 1 2026-01-31 \"{PROGRAM} {}\"\n", env!("CARGO_PKG_VERSION"));
    let (_, rest) = page.split_once('\n').expect("the page has lines");
    let page = format!("{title}{rest}");
    let options = roff_options(&Arguments::get_args_info(), &reference::option_details());
    let page = with_section(&page, "options", &options);
    let page = with_section(&page, "verbs", &roff_verbs());
    with_section(&page, "events", &reference::roff_events())
}

#[test]
fn installed_files_match_the_options_and_events() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/dist");
    let page = std::fs::read_to_string(dir.join("p2p-gossip.1")).expect("the manual page is there");
    let wanted = [
        ("p2p-gossip.1", manual(&page)),
        ("p2p-gossip.bash", bash()),
        ("_p2p-gossip", zsh()),
        ("p2p-gossip.fish", fish()),
    ];
    let write_files = std::env::var_os("P2P_GOSSIP_WRITE_DIST").is_some();
    for (name, wanted) in wanted {
        let file = dir.join(name);
        if write_files {
            std::fs::write(&file, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(found == wanted, "src/dist/{name} does not match the code; run: make dist");
    }
}
