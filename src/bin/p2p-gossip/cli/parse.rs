//! Parses the command line into an action.

use std::ffi::OsString;

use argh::{ArgsInfo as _, CommandInfoWithArgs, FromArgs as _, SubCommandInfo};

use p2p_gossip::internals::is_key_text;

#[cfg(test)]
use super::action::Verb;
use super::action::{Action, Options};
use super::help;
use super::node_arguments::{self, Arguments};
use super::normalize::{Normal, from_argh, normalize};
use super::usage_error::{PROGRAM, UsageError};
use crate::output::stream::visible;

/// Parses the arguments, without the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, UsageError> {
    let mut texts = Vec::new();
    for (index, argument) in arguments.into_iter().enumerate() {
        // The messages below quote the argument.
        let bytes = argument.as_encoded_bytes();
        let value = bytes.iter().position(|&byte| byte == b'=').map_or(bytes, |at| &bytes[at + 1..]);
        let word = bytes.iter().position(|&byte| byte != b'-').map_or(bytes, |at| &bytes[at..]);
        if is_key_text(word) || is_key_text(value) || is_key_text(bytes) {
            let message = format!("argument {} is the text of a key; give the name of the file", index + 1);
            return Err(UsageError::new(message));
        }
        texts.push(argument.into_string().map_err(|bytes| {
            let shown = bytes.to_string_lossy();
            UsageError::new(format!("argument {} is not valid UTF-8: '{}'", index + 1, visible(&shown)))
        })?);
    }
    let program = Arguments::get_args_info();
    let verb = texts.first().and_then(|first| program.commands.iter().find(|verb| verb.name == first));
    parse_texts(&program, verb, &texts).map_err(|error| {
        UsageError { verb: verb.map(|verb| verb.name), ..error }.without_rest_of_ticket(&texts)
    })
}

/// Parses the arguments of a node, or of the verb that the first of them names.
fn parse_texts(
    program: &CommandInfoWithArgs,
    verb: Option<&SubCommandInfo>,
    texts: &[String],
) -> Result<Action, UsageError> {
    let command = verb.map_or(program, |verb| &verb.command);
    let rest = &texts[usize::from(verb.is_some())..];
    let words = match normalize(program, command, rest)? {
        Normal::Words(words) => words,
        Normal::Help => return Ok(Action::Print(help::help(program, verb))),
        Normal::Version => return Ok(Action::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION")))),
    };
    let words: Vec<&str> = verb.map(|verb| verb.name).into_iter().chain(words).collect();
    let mut arguments = Arguments::from_args(&[PROGRAM], &words).map_err(|exit| from_argh(&exit))?;
    match arguments.verb.take() {
        Some(verb) => verb.check().map(Action::Verb),
        None => {
            let options = node_arguments::check(arguments)?;
            Ok(Action::Run(Box::new(Options { is_bare: texts.is_empty(), ..options })))
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    fn parse_line(line: &[&str]) -> Result<Action, UsageError> {
        parse(line.iter().map(OsString::from))
    }

    pub(in super::super) fn run(line: &[&str]) -> Result<Options, String> {
        match parse_line(line) {
            Ok(Action::Run(options)) => Ok(*options),
            Ok(other) => panic!("not a node: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(in super::super) fn verb(line: &[&str]) -> Result<Verb, String> {
        match parse_line(line) {
            Ok(Action::Verb(verb)) => Ok(verb),
            Ok(other) => panic!("not a verb: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(in super::super) fn error(line: &[&str]) -> String {
        parse_line(line).expect_err("the arguments are wrong").to_string()
    }

    pub(in super::super) fn printed(line: &[&str]) -> String {
        match parse_line(line) {
            Ok(Action::Print(text)) => text,
            other => panic!("{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;

    #[cfg(unix)]
    #[test]
    fn argument_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let line = [OsString::from("--name"), OsString::from_vec(b"a\xff".to_vec())];
        let message = parse(line).unwrap_err().to_string();
        assert_eq!(message, "argument 2 is not valid UTF-8: 'a\u{fffd}'");
    }

    #[test]
    fn help_and_version_override_other_arguments() {
        for line in [&["-h"][..], &["--help"], &["--port", "x", "--help"], &["--help", "--prot"]] {
            assert!(printed(line).starts_with("p2p-gossip "));
        }
        for line in [&["-V"][..], &["--version", "--port"]] {
            assert_eq!(printed(line), format!("p2p-gossip {}\n", env!("CARGO_PKG_VERSION")));
        }
        assert!(printed(&["id", "--key", "k", "--help"]).starts_with("p2p-gossip id"));
    }

    #[test]
    fn verb_is_the_first_argument_and_a_typing_error_gets_a_hint() {
        assert!(matches!(verb(&["id", "--key", "k"]), Ok(Verb::Id(_))));
        assert_eq!(error(&["iid"]), "unexpected argument 'iid'; did you mean the verb id?");
        assert_eq!(error(&["ID"]), "unexpected argument 'ID'; did you mean the verb id?");
        assert_eq!(
            error(&["--port", "0", "id"]),
            "unexpected argument 'id'; a verb comes before all options"
        );
        let error = parse(["id", "--kye=k"].map(OsString::from)).unwrap_err();
        assert_eq!(error.to_string(), "unknown option --kye; did you mean --key?");
        assert_eq!(error.help_command(), "p2p-gossip id --help");
    }
}
