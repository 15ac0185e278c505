//! What is wrong with the command line.

use std::fmt;

use super::verb::Kind;

/// What the program is called in its own messages, whatever the file is called.
pub(crate) const PROGRAM: &str = "p2p-gossip";

/// What is wrong with the command line; the program ends with exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageError {
    pub(super) message: String,
    /// The verb whose help says more, if there is one.
    pub(super) verb: Option<Kind>,
}

impl UsageError {
    pub(super) fn new(message: impl Into<String>) -> Self {
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
