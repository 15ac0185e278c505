//! Brings the arguments into the form that argh takes, and reports errors of their form.

use std::fmt::Write as _;

use argh::{CommandInfoWithArgs, EarlyExit, FlagInfo, FlagInfoKind, Optionality};
use p2p_gossip::ConnectAddr;

use super::usage_error::UsageError;
use super::values::parse_port;
use crate::output::stream::visible;

/// The arguments in the form that argh takes, or a request that needs no argh.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Normal<'a> {
    /// Options with separate values, then `--` and the positionals, if there are any.
    Words(Vec<&'a str>),
    /// Print the help and exit.
    Help,
    /// Print the version and exit.
    Version,
}

/// Splits `--option=value`, which argh does not, and checks the form of the arguments, because argh's messages
/// are less precise. The values themselves are not checked.
pub(super) fn normalize<'a>(
    program: &CommandInfoWithArgs,
    command: &CommandInfoWithArgs,
    arguments: &'a [String],
) -> Result<Normal<'a>, UsageError> {
    let mut normalizer =
        Normalizer { program, command, seen: Vec::new(), words: Vec::new(), positionals: Vec::new() };
    let mut rest = arguments.iter().map(String::as_str);
    let mut only_positionals = false;
    while let Some(word) = rest.next() {
        if only_positionals || word == "-" || !word.starts_with('-') {
            normalizer.add_positional(word)?;
        } else if word == "--" {
            only_positionals = true;
        } else if let Some(request) = normalizer.add_option(word, &mut rest)? {
            return Ok(request);
        }
    }
    normalizer.finish().map(Normal::Words)
}

/// The arguments read so far.
struct Normalizer<'c, 'a> {
    program: &'c CommandInfoWithArgs,
    command: &'c CommandInfoWithArgs,
    /// Long names of the options.
    seen: Vec<&'c str>,
    /// The options with separate values.
    words: Vec<&'a str>,
    positionals: Vec<&'a str>,
}

impl<'a> Normalizer<'_, 'a> {
    fn add_positional(&mut self, word: &'a str) -> Result<(), UsageError> {
        if self.positionals.len() == self.command.positionals.len() {
            return Err(unexpected_argument(word, self.program, self.command.flags));
        }
        self.positionals.push(word);
        Ok(())
    }

    /// Adds an option, with its value from the same word or from the next one. Returns a request for the
    /// help or the version.
    fn add_option(
        &mut self,
        word: &'a str,
        rest: &mut impl Iterator<Item = &'a str>,
    ) -> Result<Option<Normal<'a>>, UsageError> {
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let flag = self.command.flags.iter().find(|flag| flag.long == name || is_short(flag, name));
        let is_help = matches!(name, "-h" | HELP);
        let takes_value = flag.is_some_and(|flag| matches!(flag.kind, FlagInfoKind::Option { .. }));
        if attached.is_some() && (is_help || flag.is_some() && !takes_value) {
            return Err(UsageError::new(format!("option {name} takes no value")));
        }
        if is_help {
            return Ok(Some(Normal::Help));
        }
        let Some(flag) = flag else { return Err(unknown_option(name, self.command.flags)) };
        if flag.long == VERSION {
            return Ok(Some(Normal::Version));
        }
        if flag.optionality != Optionality::Repeating && self.seen.contains(&flag.long) {
            return Err(UsageError::new(format!("option {name} is given more than once")));
        }
        self.seen.push(flag.long);
        self.words.push(name);
        if takes_value {
            self.words.push(match attached {
                Some(value) => value,
                None => separate_value(name, rest.next())?,
            });
        }
        Ok(None)
    }

    /// Checks that nothing is missing, and returns the words for argh.
    fn finish(self) -> Result<Vec<&'a str>, UsageError> {
        let is_missing = |flag: &&FlagInfo<'_>| {
            flag.optionality == Optionality::Required && !self.seen.contains(&flag.long)
        };
        let missing = self.command.flags.iter().find(is_missing);
        if let Some(flag) = missing.filter(|flag| flag.long != HELP) {
            return Err(UsageError::new(format!("option {} is missing", flag.long)));
        }
        let missing = self.command.positionals.get(self.positionals.len());
        if let Some(positional) = missing.filter(|p| p.optionality == Optionality::Required) {
            return Err(UsageError::new(format!("{} is missing", positional.name)));
        }
        let mut words = self.words;
        if !self.positionals.is_empty() {
            words.push("--");
            words.extend(self.positionals);
        }
        Ok(words)
    }
}

const HELP: &str = "--help";
const VERSION: &str = "--version";

fn is_short(flag: &FlagInfo<'_>, name: &str) -> bool {
    flag.short.is_some_and(|short| name.strip_prefix('-').is_some_and(|rest| rest.chars().eq([short])))
}

/// The word after an option, as the option's value.
fn separate_value<'a>(name: &str, next: Option<&'a str>) -> Result<&'a str, UsageError> {
    match next {
        Some(value) if !value.starts_with("--") => Ok(value),
        Some(next) => {
            let next = visible(next);
            Err(UsageError::new(format!("option {name} needs a value, but {next} follows")))
        }
        None => Err(UsageError::new(format!("option {name} needs a value"))),
    }
}

fn unexpected_argument(argument: &str, program: &CommandInfoWithArgs, flags: &[FlagInfo<'_>]) -> UsageError {
    let verbs = program.commands.iter().map(|verb| verb.name);
    let shown = visible(argument);
    let mut message = format!("unexpected argument '{shown}'");
    let has = |long: &str| flags.iter().any(|flag| flag.long == long);
    if has("--port") && parse_port(argument).is_ok() {
        let _ = write!(message, "; did you mean --port {shown}?");
    } else if has("--connect") && argument.parse::<ConnectAddr>().is_ok() {
        let _ = write!(message, "; did you mean --connect {shown}?");
    } else if verbs.clone().any(|verb| verb == argument) {
        let _ = write!(message, "; a verb comes before all options");
    } else if let Some(verb) = nearest(argument, verbs).filter(|_| has("--period")) {
        let _ = write!(message, "; did you mean the verb {verb}?");
    }
    UsageError::new(message)
}

fn unknown_option(name: &str, flags: &[FlagInfo<'_>]) -> UsageError {
    let mut message = format!("unknown option {}", visible(name));
    if let Some(nearest) = nearest(name, flags.iter().map(|flag| flag.long)) {
        let _ = write!(message, "; did you mean {nearest}?");
    }
    UsageError::new(message)
}

/// The option or verb that the user probably meant: the only one that begins with `name`, else the
/// one within two typing errors.
fn nearest<'a>(name: &str, all: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let given = name.trim_start_matches('-').to_lowercase();
    if given.is_empty() {
        return None;
    }
    let bare = |word: &'a str| word.trim_start_matches('-');
    let mut begins = all.clone().filter(|word| bare(word).starts_with(&given));
    if let (Some(only), None) = (begins.next(), begins.next()) {
        return Some(only);
    }
    let distance = |word| strsim::damerau_levenshtein(&given, bare(word));
    let (errors, word) = all.map(|word| (distance(word), word)).min()?;
    let errors_max = given.chars().count().div_ceil(3).min(2);
    (errors <= errors_max).then_some(word)
}

/// Brings argh's message into the form of the other messages. Escapes it, as it may quote a value.
pub(super) fn from_argh(exit: &EarlyExit) -> UsageError {
    let message = exit.output.trim_end();
    let mut chars = message.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    let message: String = first.into_iter().chain(chars).collect();
    UsageError::new(visible(&message))
}

#[cfg(test)]
mod tests {
    use super::super::action::IdentitySource;
    use super::super::parse::testing::{error, run};

    #[test]
    fn first_equals_sign_separates_option_and_value() {
        assert_eq!(run(&["--name=a=b"]).unwrap().config.name, "a=b");
        assert_eq!(run(&["--name", "--", "x"]).unwrap_err(), "option --name needs a value, but -- follows");
        assert_eq!(run(&["--name", "a=b"]).unwrap().config.name, "a=b");
        assert_eq!(run(&["--name=--port"]).unwrap().config.name, "--port");
        assert_eq!(run(&["--name=-h"]).unwrap().config.name, "-h");
        assert_eq!(run(&["--name="]).unwrap().config.name, "");
        let options = run(&["--key=dir=1/key.pem"]).unwrap();
        assert_eq!(options.identity, IdentitySource::Key("dir=1/key.pem".into()));
    }

    #[test]
    fn unknown_option_error_names_the_nearest_option() {
        let unknown = |option: &str| error(&[option]);
        assert_eq!(unknown("--prot"), "unknown option --prot; did you mean --port?");
        assert_eq!(unknown("--prot=80"), "unknown option --prot; did you mean --port?");
        assert_eq!(unknown("--conect"), "unknown option --conect; did you mean --connect?");
        assert_eq!(unknown("--per"), "unknown option --per; did you mean --period?");
        assert_eq!(unknown("-port"), "unknown option -port; did you mean --port?");
        assert_eq!(unknown("--PORT"), "unknown option --PORT; did you mean --port?");
        assert_eq!(unknown("--hlep"), "unknown option --hlep; did you mean --help?");
        assert_eq!(unknown("--listen"), "unknown option --listen");
        assert_eq!(unknown("-x"), "unknown option -x");
        assert_eq!(unknown("--p\u{1b}[31m"), "unknown option --p\\u{1b}[31m");
    }

    #[test]
    fn positional_arguments_are_refused_with_a_hint() {
        assert_eq!(error(&["stray"]), "unexpected argument 'stray'");
        assert_eq!(error(&["-"]), "unexpected argument '-'");
        assert_eq!(error(&["8081"]), "unexpected argument '8081'; did you mean --port 8081?");
        assert_eq!(error(&["--", "--port"]), "unexpected argument '--port'");
        let message = error(&["--port", "0", "127.0.0.1:8080"]);
        assert_eq!(message, "unexpected argument '127.0.0.1:8080'; did you mean --connect 127.0.0.1:8080?");
        assert!(run(&["--port", "0", "--"]).is_ok());
    }

    #[test]
    fn missing_superfluous_and_repeated_values_are_refused() {
        assert_eq!(error(&["--port"]), "option --port needs a value");
        assert_eq!(error(&["--key", "--cert"]), "option --key needs a value, but --cert follows");
        assert_eq!(error(&["--help=yes"]), "option --help takes no value");
        assert_eq!(error(&["--version="]), "option --version takes no value");
        assert_eq!(error(&["-V=1"]), "option -V takes no value");
        assert_eq!(error(&["--port=1", "--port", "1"]), "option --port is given more than once");
        assert_eq!(error(&["--cert", "c"]), "--cert needs --key with the private key of that certificate");
        assert!(error(&["--key="]).contains("the file name is empty"));
        assert!(error(&["--output", "xml"]).contains("expected \"text\" or \"json\""));
        assert!(error(&["--connect", "nowhere"]).contains("write host:port"));
        assert!(error(&["--name", "a\nb"]).contains("control character '\\n'"));
        assert!(error(&["--name", &"x".repeat(65)]).contains("65 bytes"));
    }
}
