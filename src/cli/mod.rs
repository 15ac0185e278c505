//! The command line: what may be written on it, and what that asks for.
//!
//! Options alone start a node; a verb as the first word does something else and ends.
//!
//! | file | owns |
//! |---|---|
//! | `run.rs` | the arguments that start a node |
//! | `verbs.rs` | the verbs and their arguments |
//! | `values.rs` | how single values parse |
//! | `words.rs` | arguments as argh takes them, and what is wrong with them |
//! | `help.rs` | the help texts |
//! | `dist.rs` | completions and manual page: held to the options by a test |
//! | `reference.rs` | the reference in the manual page: details of options, events as JSON |

#[cfg(test)]
mod dist;
mod help;
#[cfg(test)]
mod reference;
mod run;
mod values;
mod verbs;
mod words;

use std::ffi::OsString;
use std::fmt;

pub(crate) use run::{AfterStdin, IdentitySource, OnEvent, Options};
pub(crate) use values::{IdPrefix, Output};
pub(crate) use verbs::{KeySource, Keygen, Verb};

use crate::stdio::visible;
use verbs::Kind;

/// What the program is called in its own messages, whatever the file is called.
pub(crate) const PROGRAM: &str = "p2p-gossip";

/// What every PEM text begins with.
const PEM_BEGIN: &[u8] = b"-----BEGIN";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Run a node.
    Run(Box<Options>),
    /// Do this and end.
    Verb(Verb),
    /// Print this text and end: a help or the version.
    Print(String),
}

/// What is wrong with the command line; the program ends with exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageError {
    message: String,
    /// The verb whose help says more, if there is one.
    verb: Option<Kind>,
}

impl UsageError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), verb: None }
    }

    /// The command that prints the help about it.
    pub(crate) fn help_command(&self) -> String {
        match self.verb {
            Some(verb) => format!("{PROGRAM} {} --help", verb.name()),
            None => format!("{PROGRAM} --help"),
        }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Reads the arguments, without the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, UsageError> {
    let mut texts = Vec::new();
    for (index, argument) in arguments.into_iter().enumerate() {
        // Other messages quote the argument, and this may be a private key.
        if argument.as_encoded_bytes().windows(PEM_BEGIN.len()).any(|found| found == PEM_BEGIN) {
            let message = format!("argument {} is the text of a PEM file; its name is needed", index + 1);
            return Err(UsageError::new(message));
        }
        texts.push(argument.into_string().map_err(|bytes| {
            let shown = bytes.to_string_lossy();
            UsageError::new(format!("argument {} is not valid UTF-8: '{}'", index + 1, visible(&shown)))
        })?);
    }
    match texts.split_first().and_then(|(first, rest)| Some((Kind::named(first)?, rest))) {
        Some((verb, rest)) => verb.parse(rest).map_err(|error| UsageError { verb: Some(verb), ..error }),
        None => run::parse(&texts),
    }
}

#[cfg(test)]
mod testing {
    use super::*;

    fn parse_line(line: &[&str]) -> Result<Action, UsageError> {
        parse(line.iter().map(OsString::from))
    }

    pub(super) fn run(line: &[&str]) -> Result<Options, String> {
        match parse_line(line) {
            Ok(Action::Run(options)) => Ok(*options),
            Ok(other) => panic!("not a node: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn verb(line: &[&str]) -> Result<Verb, String> {
        match parse_line(line) {
            Ok(Action::Verb(verb)) => Ok(verb),
            Ok(other) => panic!("not a verb: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    pub(super) fn error(line: &[&str]) -> String {
        parse_line(line).expect_err("the arguments are wrong").to_string()
    }

    pub(super) fn printed(line: &[&str]) -> String {
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
    fn bytes_that_are_no_text_are_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let line = [OsString::from("--name"), OsString::from_vec(b"a\xff".to_vec())];
        let message = parse(line).unwrap_err().to_string();
        assert_eq!(message, "argument 2 is not valid UTF-8: 'a\u{fffd}'");
    }

    #[test]
    fn help_and_version_are_answered_at_once() {
        for line in [&["-h"][..], &["--help"], &["--port", "x", "--help"], &["--help", "--prot"]] {
            assert!(printed(line).starts_with("p2p-gossip "));
        }
        for line in [&["-V"][..], &["--version", "--port"]] {
            assert_eq!(printed(line), format!("p2p-gossip {}\n", env!("CARGO_PKG_VERSION")));
        }
        assert!(printed(&["id", "--key", "k", "--help"]).starts_with("p2p-gossip id"));
    }

    #[test]
    fn a_verb_comes_first_and_a_mistyped_one_is_recognised() {
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
