//! The help texts, made from argh's description of the arguments.

use std::fmt::Write as _;

use argh::{CommandInfoWithArgs, FlagInfoKind, Optionality, SubCommandInfo};

use super::usage_error::PROGRAM;

/// Column in which the descriptions of the options begin.
pub(super) const HELP_COLUMN: usize = 26;
/// The headings of groups of options, each with the first option of its group. The first group has none.
const HEADINGS: [(&str, &str); 4] = [
    ("--allow", "Access:"),
    ("--bind", "Network:"),
    ("--output", "Input and output:"),
    ("--version", "Other:"),
];

/// The help of the verb, or of the program.
pub(super) fn help(program: &CommandInfoWithArgs, verb: Option<&SubCommandInfo>) -> String {
    verb.map_or_else(|| program_help(program), |verb| verb_help(verb.name, &verb.command))
}

/// The program's help, with the arguments that start a node.
fn program_help(command: &CommandInfoWithArgs) -> String {
    let mut verbs = String::new();
    for verb in &command.commands {
        let name = format!("  {}", verb.name);
        let _ = writeln!(verbs, "{name:<HELP_COLUMN$}{}", verb.command.description);
    }
    format!(
        "\
{PROGRAM} {version}
A secure peer-to-peer mesh: start a node, point the next ones at any node,
and every node knows which nodes are alive.

Usage: {PROGRAM} [OPTIONS]
       {PROGRAM} VERB [OPTIONS]

Examples:
  {PROGRAM} --period 5 --port 8080
  {PROGRAM} --period 3 --port 8081 --connect 127.0.0.1:8080

Options:
{options}
Verbs (VERB --help lists the options of each):
{verbs}
Environment:
  RUST_LOG   log level on stderr: error, warn, info, debug, trace or off,
             or by module: warn,p2p_gossip::session=debug [default: info]
  NO_COLOR   no colours if set and not empty

Signals:
  SIGINT and SIGTERM leave the mesh; SIGHUP reads --allow-file and --deny-file
  again and applies them at once; SIGUSR1 lists the known peers on stderr

Exit codes:
  0  stopped by SIGINT (Ctrl-C), SIGTERM or the end of stdin; verb succeeded
  1  failed: the port is in use, a file cannot be read, ...
  2  wrong usage
",
        version = env!("CARGO_PKG_VERSION"),
        options = options(command, &HEADINGS),
    )
}

/// The help of a verb.
fn verb_help(name: &str, command: &CommandInfoWithArgs) -> String {
    let mut usage = format!("Usage: {PROGRAM} {name} [OPTIONS]");
    for positional in command.positionals {
        let _ = match positional.optionality {
            Optionality::Required => write!(usage, " {}", positional.name),
            _ => write!(usage, " [{}]", positional.name),
        };
    }
    let mut arguments = String::new();
    for positional in command.positionals {
        let left = format!("  {}", positional.name);
        let _ = writeln!(arguments, "{left:<HELP_COLUMN$}{}", positional.description);
    }
    let arguments = if arguments.is_empty() { String::new() } else { format!("Arguments:\n{arguments}\n") };
    format!(
        "{PROGRAM} {name}: {summary}\n{details}\n\n{usage}\n\n{arguments}Options:\n{options}",
        summary = command.description,
        details = command.notes.join("\n"),
        options = options(command, &[]),
    )
}

/// A line for each option, and a heading above each group.
fn options(command: &CommandInfoWithArgs, headings: &[(&str, &str)]) -> String {
    let mut options = String::new();
    let mut line = |left: &str, right: &str| {
        let _ = match right {
            "" => writeln!(options, "{left}"),
            _ => writeln!(options, "{left:<HELP_COLUMN$}{right}"),
        };
    };
    for flag in command.flags {
        if let Some((_, heading)) = headings.iter().find(|(first, _)| *first == flag.long) {
            line(&format!("\n{heading}"), "");
        }
        let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
        match flag.kind {
            FlagInfoKind::Option { arg_name } => {
                line(&format!("  {short}{} {arg_name}", flag.long), flag.description);
            }
            // argh lists --help first and with its own text; the last line below replaces it.
            FlagInfoKind::Switch if flag.long == "--help" => {}
            FlagInfoKind::Switch => line(&format!("  {short}{}", flag.long), flag.description),
        }
    }
    line("  -h, --help", "print this help and exit");
    options
}

#[cfg(test)]
mod tests {
    use argh::ArgsInfo as _;

    use super::super::node_arguments::Arguments;
    use super::super::parse::testing::printed;
    use super::*;

    #[test]
    fn help_of_every_verb_fits_and_lists_its_options() {
        for verb in &Arguments::get_args_info().commands {
            let help = printed(&[verb.name, "--help"]);
            assert!(help.starts_with(&format!("{PROGRAM} {}: ", verb.name)), "{help}");
            assert!(help.contains(&format!("\nUsage: {PROGRAM} {} ", verb.name)), "{help}");
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{line}");
            }
            let lines = help.lines().skip_while(|line| *line != "Options:").skip(1);
            for line in lines {
                assert!(
                    line[..HELP_COLUMN].ends_with(' ') && !line[HELP_COLUMN..].starts_with(' '),
                    "{line}"
                );
            }
            assert!(
                printed(&["--help"])
                    .contains(&format!("\n  {:<24}{}\n", verb.name, verb.command.description))
            );
        }
    }
}
