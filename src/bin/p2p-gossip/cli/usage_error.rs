//! Errors of the command line.

use std::fmt;

/// The program's name in its own messages; the name of the executable file does not matter.
pub(crate) const PROGRAM: &str = "p2p-gossip";

/// An error of the command line; the program exits with code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageError {
    pub(super) message: String,
    /// The verb on the command line, if there is one.
    pub(super) verb: Option<&'static str>,
}

impl UsageError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), verb: None }
    }

    /// The command that prints the matching help.
    pub(crate) fn help_command(&self) -> String {
        match self.verb {
            Some(verb) => format!("{PROGRAM} {verb} --help"),
            None => format!("{PROGRAM} --help"),
        }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
