//! The verbs: what else the program does than run a node, and their arguments.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::values::parse_file;
use super::words::{Normal, from_argh, normalise};
use super::{Action, PROGRAM, UsageError, help};

/// A verb with its arguments, checked.
#[derive(Debug)]
pub(crate) enum Verb {
    /// Print the id of a key.
    Id(KeySource),
}

/// Where a key is whose id is wanted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// In this private key.
    Key(PathBuf),
    /// In this certificate.
    Certificate(PathBuf),
}

/// A verb without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Id,
}

impl Kind {
    /// In the order of the help.
    pub(super) const ALL: &[Self] = &[Self::Id];

    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == word)
    }

    /// The word on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
        }
    }

    /// One line for the help.
    pub(super) fn summary(self) -> &'static str {
        match self {
            Self::Id => "print the id of a key",
        }
    }

    /// What the verb's own help says beyond that, in lines.
    pub(super) fn details(self) -> &'static str {
        match self {
            Self::Id => "The id is the SHA-256 of the public key: of a node that runs with this key.\n",
        }
    }

    /// Reads what follows the verb.
    pub(super) fn parse(self, arguments: &[String]) -> Result<Action, UsageError> {
        match self {
            Self::Id => read(self, arguments, IdArguments::check),
        }
    }
}

fn read<A: FromArgs + ArgsInfo>(
    kind: Kind,
    arguments: &[String],
    check: fn(A) -> Result<Verb, UsageError>,
) -> Result<Action, UsageError> {
    let info = A::get_args_info();
    let words = match normalise(&info, arguments)? {
        Normal::Words(words) => words,
        Normal::Help | Normal::Version => return Ok(Action::Print(help::of_verb(kind, &info))),
    };
    let arguments = A::from_args(&[PROGRAM, kind.name()], &words).map_err(|exit| from_argh(&exit))?;
    check(arguments).map(Action::Verb)
}

/// The id of a key.
#[derive(Debug, FromArgs, ArgsInfo)]
struct IdArguments {
    /// PEM private key
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    key: Option<PathBuf>,

    /// PEM certificate
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    cert: Option<PathBuf>,
}

impl IdArguments {
    fn check(self) -> Result<Verb, UsageError> {
        match (self.key, self.cert) {
            (Some(key), None) => Ok(Verb::Id(KeySource::Key(key))),
            (None, Some(cert)) => Ok(Verb::Id(KeySource::Certificate(cert))),
            _ => Err(UsageError::new("id needs one of --key and --cert")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{error, verb};
    use super::*;

    #[test]
    fn an_id_has_one_source() {
        let source = |line: &[&str]| match verb(line).unwrap() {
            Verb::Id(source) => source,
        };
        assert_eq!(source(&["id", "--key", "k"]), KeySource::Key("k".into()));
        assert_eq!(source(&["id", "--cert=c"]), KeySource::Certificate("c".into()));
        for line in [&["id"][..], &["id", "--key=k", "--cert=c"]] {
            assert_eq!(error(line), "id needs one of --key and --cert");
        }
        assert_eq!(error(&["id", "me"]), "unexpected argument 'me'");
    }
}
