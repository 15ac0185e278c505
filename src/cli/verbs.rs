//! The verbs: what else the program does than run a node, and their arguments.

use std::path::PathBuf;

use argh::{ArgsInfo, FromArgs};

use super::values::parse_file;
use super::words::{Normal, from_argh, normalise};
use super::{Action, PROGRAM, UsageError, help};

/// A verb with its arguments, checked.
#[derive(Debug)]
pub(crate) enum Verb {
    /// Make keys.
    Keygen(Keygen),
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

/// What keys to make, and where; at least one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Keygen {
    /// Of a node: the private key's file and the certificate's.
    pub(crate) node: Option<(PathBuf, PathBuf)>,
    /// Of a closed network.
    pub(crate) network: Option<PathBuf>,
}

/// A verb without its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Keygen,
    Id,
}

impl Kind {
    /// In the order of the help.
    pub(super) const ALL: &[Self] = &[Self::Keygen, Self::Id];

    pub(super) fn named(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == word)
    }

    /// The word on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Keygen => "keygen",
            Self::Id => "id",
        }
    }

    /// One line for the help.
    pub(super) fn summary(self) -> &'static str {
        match self {
            Self::Keygen => "make the key of a node or of a network",
            Self::Id => "print the id of a key",
        }
    }

    /// What the verb's own help says beyond that, in lines.
    pub(super) fn details(self) -> &'static str {
        match self {
            Self::Keygen => {
                "Never overwrites a file. Prints the id of a node's key. Secrets can be read by\n\
                 their owner only.\n"
            }
            Self::Id => "The id is the SHA-256 of the public key: of a node that runs with this key.\n",
        }
    }

    /// Reads what follows the verb.
    pub(super) fn parse(self, arguments: &[String]) -> Result<Action, UsageError> {
        match self {
            Self::Keygen => read(self, arguments, KeygenArguments::check),
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

/// Keys.
#[derive(Debug, FromArgs, ArgsInfo)]
struct KeygenArguments {
    /// file for a new private key of a node
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    key: Option<PathBuf>,

    /// file for that key's certificate
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    cert: Option<PathBuf>,

    /// file for a new key of a closed network
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    network: Option<PathBuf>,
}

impl KeygenArguments {
    fn check(self) -> Result<Verb, UsageError> {
        let (node, network) = match (self.key, self.cert, self.network) {
            (Some(key), Some(cert), network) => (Some((key, cert)), network),
            (None, None, Some(network)) => (None, Some(network)),
            (None, None, None) => {
                return Err(UsageError::new("keygen needs --key and --cert, or --network"));
            }
            (Some(_), None, _) => {
                return Err(UsageError::new("--key needs --cert for the key's certificate"));
            }
            (None, Some(_), _) => return Err(UsageError::new("--cert needs --key for the private key")),
        };
        Ok(Verb::Keygen(Keygen { node, network }))
    }
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
    fn a_key_and_its_certificate_are_made_together() {
        let (node, network) = (Some(("k".into(), "c".into())), Some("n".into()));
        for (line, node, network) in [
            (&["keygen", "--key=k", "--cert=c"][..], node.clone(), None),
            (&["keygen", "--network=n"], None, network.clone()),
            (&["keygen", "--key=k", "--cert=c", "--network=n"], node, network),
        ] {
            let Verb::Keygen(made) = verb(line).unwrap() else { panic!("not keygen: {line:?}") };
            assert_eq!(made, Keygen { node, network });
        }
        assert_eq!(error(&["keygen"]), "keygen needs --key and --cert, or --network");
        assert_eq!(error(&["keygen", "--key=k"]), "--key needs --cert for the key's certificate");
        assert_eq!(error(&["keygen", "--cert=k", "--network=n"]), "--cert needs --key for the private key");
    }

    #[test]
    fn an_id_has_one_source() {
        let source = |line: &[&str]| match verb(line).unwrap() {
            Verb::Id(source) => source,
            other => panic!("{other:?}"),
        };
        assert_eq!(source(&["id", "--key", "k"]), KeySource::Key("k".into()));
        assert_eq!(source(&["id", "--cert=c"]), KeySource::Certificate("c".into()));
        for line in [&["id"][..], &["id", "--key=k", "--cert=c"]] {
            assert_eq!(error(line), "id needs one of --key and --cert");
        }
        assert_eq!(error(&["id", "me"]), "unexpected argument 'me'");
    }
}
