//! The command line: what may be written on it, and how that becomes a [`Config`].

use std::ffi::OsString;
use std::fmt;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, EarlyExit, FlagInfo, FlagInfoKind, FromArgValue, FromArgs, Optionality};
use p2p_gossip::config::{PERIOD_MAX, PERIOD_MIN, check_name};
use p2p_gossip::{Config, DialAddr};

use crate::stdio::visible;

/// What the program is called in its own messages, whatever the file is called.
pub(crate) const PROGRAM: &str = "p2p-gossip";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Action {
    /// Run a node.
    Run(Box<Options>),
    /// Print this text and end: the help or the version.
    Print(String),
}

/// Everything needed to run a node.
#[derive(Debug)]
pub(crate) struct Options {
    /// Checked.
    pub(crate) config: Config,
    /// Where the key and certificate come from.
    pub(crate) identity: IdentitySource,
    /// What stdout carries.
    pub(crate) output: Output,
}

/// Where a node's key and certificate come from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IdentitySource {
    /// Made at the start, gone at the end.
    Generated,
    /// The key from a file, with a certificate made for it.
    Key(PathBuf),
    /// Both from files.
    KeyAndCertificate(PathBuf, PathBuf),
}

/// What stdout carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromArgValue)]
pub(crate) enum Output {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// The arguments as argh takes them. The help is made from these lines too, in this order.
#[derive(Debug, FromArgs, ArgsInfo)]
struct Arguments {
    /// time between pings to every peer, e.g. 0.5 [default: 5]
    #[argh(option, arg_name = "SECONDS", from_str_fn(parse_period))]
    period: Option<Duration>,

    /// TCP port to listen on; 0: any free one [default: 8080]
    #[argh(option, arg_name = "PORT", from_str_fn(parse_port))]
    port: Option<u16>,

    /// join through the peer at host:port; may be repeated
    #[argh(option, arg_name = "ADDR")]
    connect: Vec<DialAddr>,

    /// PEM private key [default: a new one, in memory only]
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    key: Option<PathBuf>,

    /// PEM certificate of that key [default: made for the key]
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    cert: Option<PathBuf>,

    /// IP address to listen on [default: every interface]
    #[argh(option, arg_name = "IP", from_str_fn(parse_bind))]
    bind: Option<IpAddr>,

    /// label that others see beside the id [default: none]
    #[argh(option, arg_name = "TEXT", from_str_fn(parse_name))]
    name: Option<String>,

    /// what stdout carries: text or json [default: text]
    #[argh(option, arg_name = "FORMAT")]
    output: Option<Output>,

    /// print the version and exit
    #[argh(switch, short = 'V')]
    #[expect(dead_code, reason = "answered before argh sees the arguments; here for the help")]
    version: bool,
}

/// What is wrong with the command line; the program ends with exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the arguments, without the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Action, UsageError> {
    let mut texts = Vec::new();
    for (index, argument) in arguments.into_iter().enumerate() {
        texts.push(argument.into_string().map_err(|bytes| {
            let shown = bytes.to_string_lossy();
            UsageError(format!("argument {} is not valid UTF-8: '{}'", index + 1, visible(&shown)))
        })?);
    }
    let words = match normalise(&texts)? {
        Normal::Words(words) => words,
        Normal::Help => return Ok(Action::Print(help())),
        Normal::Version => return Ok(Action::Print(format!("{PROGRAM} {}\n", env!("CARGO_PKG_VERSION")))),
    };
    let arguments = Arguments::from_args(&[PROGRAM], &words).map_err(|exit| from_argh(&exit))?;
    check(arguments).map(|options| Action::Run(Box::new(options)))
}

fn check(arguments: Arguments) -> Result<Options, UsageError> {
    let identity = match (arguments.key, arguments.cert) {
        (None, None) => IdentitySource::Generated,
        (Some(key), None) => IdentitySource::Key(key),
        (Some(key), Some(cert)) => IdentitySource::KeyAndCertificate(key, cert),
        (None, Some(_)) => {
            return Err(UsageError("--cert needs --key with the private key of that certificate".into()));
        }
    };
    let default = Config::default();
    let config = Config {
        period: arguments.period.unwrap_or(default.period),
        port: arguments.port.unwrap_or(default.port),
        bind: arguments.bind,
        connect: arguments.connect,
        name: arguments.name.unwrap_or_default(),
        ..default
    };
    config.check().map_err(|error| UsageError(error.to_string()))?;
    Ok(Options { config, identity, output: arguments.output.unwrap_or_default() })
}

/// argh's words in the form of our other messages; a value may hold what a terminal acts on.
fn from_argh(exit: &EarlyExit) -> UsageError {
    let message = exit.output.trim_end();
    let mut chars = message.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    let message: String = first.into_iter().chain(chars).collect();
    UsageError(visible(&message))
}

fn parse_period(value: &str) -> Result<Duration, String> {
    let seconds: f64 =
        value.parse().map_err(|_| "it must be a number of seconds, for example 5 or 0.5".to_owned())?;
    // Negative, NaN and beyond what a Duration holds all fail here.
    let period = Duration::try_from_secs_f64(seconds).ok();
    period.filter(|period| (PERIOD_MIN..=PERIOD_MAX).contains(period)).ok_or_else(|| {
        format!("it must be from {} to {} seconds", PERIOD_MIN.as_secs_f64(), PERIOD_MAX.as_secs())
    })
}

fn parse_port(value: &str) -> Result<u16, String> {
    let digits_only = value.bytes().all(|b| b.is_ascii_digit());
    let port = if digits_only { value.parse().ok() } else { None };
    port.ok_or_else(|| "it must be a whole number from 0 to 65535".to_owned())
}

fn parse_file(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err("the file name is empty".to_owned()) } else { Ok(PathBuf::from(value)) }
}

fn parse_bind(value: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = value.parse().map_err(|_| {
        let is_with_port = value.parse::<DialAddr>().is_ok();
        let advice = if is_with_port { "; the port is given with --port" } else { "" };
        format!("it must be an IP address, for example 192.0.2.7 or 2001:db8::7{advice}")
    })?;
    let ip = ip.to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_multicast() || is_broadcast {
        return Err("nobody can connect to a multicast or broadcast address".to_owned());
    }
    Ok(ip)
}

fn parse_name(value: &str) -> Result<String, String> {
    check_name(value).map_err(|error| error.to_string())?;
    Ok(value.to_owned())
}

/// The arguments as argh understands them, or what is answered without it.
#[derive(Debug, PartialEq, Eq)]
enum Normal<'a> {
    Words(Vec<&'a str>),
    Help,
    Version,
}

/// Splits `--option=value`, which argh does not, and reports everything that is wrong with the
/// arguments but for the values themselves, where argh would say less.
fn normalise(arguments: &[String]) -> Result<Normal<'_>, UsageError> {
    let flags = Arguments::get_args_info().flags;
    let mut seen: Vec<&str> = Vec::new();
    let mut words = Vec::new();
    let mut rest = arguments.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        if word == "--" {
            // Only positional arguments may follow, and there are none to give.
            if let Some(positional) = rest.next() {
                return Err(unexpected(positional));
            }
            break;
        }
        if word == "-" || !word.starts_with('-') {
            return Err(unexpected(word));
        }
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let is_help = matches!(name, "-h" | "--help");
        let flag = flags.iter().find(|flag| {
            flag.long == name
                || flag.short.is_some_and(|short| name.strip_prefix('-') == Some(short_str(short)))
        });
        let Some(flag) = flag.filter(|_| !is_help) else {
            return match (is_help, attached) {
                (true, None) => Ok(Normal::Help),
                (true, Some(_)) => Err(UsageError(format!("option {name} takes no value"))),
                (false, _) => Err(unknown(name, flags)),
            };
        };
        if !takes_value(flag) {
            return match attached {
                // --version is the only one.
                None => Ok(Normal::Version),
                Some(_) => Err(UsageError(format!("option {name} takes no value"))),
            };
        }
        if flag.optionality != Optionality::Repeating && seen.contains(&flag.long) {
            return Err(UsageError(format!("option {name} is given more than once")));
        }
        seen.push(flag.long);
        let value = match attached {
            Some(value) => value,
            None => match rest.next() {
                Some(value) if !value.starts_with("--") => value,
                Some(next) => {
                    let next = visible(next);
                    return Err(UsageError(format!("option {name} needs a value, but {next} follows")));
                }
                None => return Err(UsageError(format!("option {name} needs a value"))),
            },
        };
        words.extend([name, value]);
    }
    Ok(Normal::Words(words))
}

fn takes_value(flag: &FlagInfo<'_>) -> bool {
    matches!(flag.kind, FlagInfoKind::Option { .. })
}

fn short_str(short: char) -> &'static str {
    // The only short options that this program has.
    if short == 'V' { "V" } else { "h" }
}

fn unexpected(argument: &str) -> UsageError {
    let shown = visible(argument);
    let mut message = format!("unexpected argument '{shown}'");
    if parse_port(argument).is_ok() {
        let _ = write!(message, "; did you mean --port {shown}?");
    } else if argument.parse::<DialAddr>().is_ok() {
        let _ = write!(message, "; did you mean --connect {shown}?");
    }
    UsageError(message)
}

fn unknown(name: &str, flags: &[FlagInfo<'_>]) -> UsageError {
    let mut message = format!("unknown option {}", visible(name));
    if let Some(nearest) = nearest(name, flags) {
        let _ = write!(message, "; did you mean {nearest}?");
    }
    UsageError(message)
}

/// The option that was probably meant: the one that begins like this, else one that a typing error
/// or two turn into it.
fn nearest<'a>(name: &str, flags: &'a [FlagInfo<'a>]) -> Option<&'a str> {
    let given = name.trim_start_matches('-').to_lowercase();
    if given.is_empty() {
        return None;
    }
    let bare = |long: &'a str| long.trim_start_matches('-');
    let mut begins = flags.iter().map(|flag| flag.long).filter(|long| bare(long).starts_with(&given));
    if let (Some(only), None) = (begins.next(), begins.next()) {
        return Some(only);
    }
    let distance = |long| strsim::damerau_levenshtein(&given, bare(long));
    let (errors, long) = flags.iter().map(|flag| (distance(flag.long), flag.long)).min()?;
    let errors_max = given.chars().count().div_ceil(3).min(2);
    (errors <= errors_max).then_some(long)
}

/// Column in which the descriptions of the options begin.
const HELP_COLUMN: usize = 25;

fn help() -> String {
    let mut options = String::new();
    let mut line = |left: &str, right: &str| {
        let _ = writeln!(options, "{left:<HELP_COLUMN$}{right}");
    };
    for flag in Arguments::get_args_info().flags {
        let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
        match flag.kind {
            FlagInfoKind::Option { arg_name } => {
                line(&format!("  {short}{} {arg_name}", flag.long), flag.description);
            }
            // argh lists its own --help first and with other words.
            FlagInfoKind::Switch if flag.long == "--help" => {}
            FlagInfoKind::Switch => line(&format!("  {short}{}", flag.long), flag.description),
        }
    }
    line("  -h, --help", "print this help and exit");
    format!(
        "\
{PROGRAM} {version}
A secure peer-to-peer mesh: start a node, point the next ones at any node,
and every node knows who is alive.

Usage: {PROGRAM} [OPTIONS]

Options:
{options}
Examples:
  {PROGRAM} --period 5 --port 8080
  {PROGRAM} --period 3 --port 8081 --connect 127.0.0.1:8080

Environment:
  RUST_LOG   what is logged to stderr: error, warn, info, debug, trace or off,
             or by module: warn,p2p_gossip::session=debug [default: info]
  NO_COLOR   no colours if set to anything

Exit codes:
  0  stopped by SIGINT (Ctrl-C) or SIGTERM
  1  failed: the port is in use, a file cannot be read, ...
  2  wrong usage
",
        version = env!("CARGO_PKG_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &[&str]) -> Result<Options, String> {
        match parse(line.iter().map(OsString::from)) {
            Ok(Action::Run(options)) => Ok(*options),
            Ok(Action::Print(text)) => panic!("printed instead: {text}"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn error(line: &[&str]) -> String {
        run(line).expect_err("the arguments are wrong")
    }

    fn printed(line: &[&str]) -> String {
        match parse(line.iter().map(OsString::from)) {
            Ok(Action::Print(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_at_all_is_the_default_configuration() {
        let options = run(&[]).unwrap();
        let default = Config::default();
        assert_eq!((options.config.period, options.config.port), (default.period, default.port));
        assert_eq!(options.identity, IdentitySource::Generated);
        assert_eq!(options.output, Output::Text);
    }

    #[test]
    fn every_option_arrives_in_either_form() {
        let apart = "--period 0.5 --port 0 --connect a.example:1 --connect [::1]:2 --key k --cert c \
                     --bind ::1 --name bob --output json";
        let joined = "--period=0.5 --port=0 --connect=a.example:1 --connect=[::1]:2 --key=k --cert=c \
                      --bind=::1 --name=bob --output=json";
        for line in [apart, joined] {
            let options = run(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
            assert_eq!(options.config.period, Duration::from_millis(500));
            assert_eq!(options.config.port, 0);
            let connect: Vec<_> = options.config.connect.iter().map(ToString::to_string).collect();
            assert_eq!(connect, ["a.example:1", "[::1]:2"]);
            assert_eq!(options.identity, IdentitySource::KeyAndCertificate("k".into(), "c".into()));
            assert_eq!(options.config.bind, Some("::1".parse().unwrap()));
            assert_eq!(options.config.name, "bob");
            assert_eq!(options.output, Output::Json);
        }
    }

    #[test]
    fn only_the_first_equals_sign_separates() {
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
    fn periods_that_make_no_sense_are_refused() {
        for bad in ["0", "-1", "NaN", "inf", "-inf", "1e300", "86401", "0.009", "-0"] {
            let message = error(&["--period", bad]);
            assert!(message.contains("--period") && message.contains(bad), "{message}");
            assert!(message.contains("from 0.01 to 86400 seconds"), "{message}");
        }
        for bad in ["", "soon", "5s", "1,5"] {
            let message = error(&["--period", bad]);
            assert!(message.contains("'--period'") && message.contains("number of seconds"), "{message}");
        }
        for (good, millis) in [("0.01", 10), ("5", 5000), (".5", 500), ("1e1", 10_000), ("86400", 86_400_000)]
        {
            assert_eq!(run(&["--period", good]).unwrap().config.period, Duration::from_millis(millis));
        }
    }

    #[test]
    fn ports_are_whole_numbers_of_16_bits() {
        for bad in ["", "65536", "-1", "+80", "80a", "8080.0", " 80"] {
            let message = error(&["--port", bad]);
            assert!(message.contains("'--port'") && message.contains("from 0 to 65535"), "{message}");
        }
        assert_eq!(run(&["--port", "65535"]).unwrap().config.port, 65535);
    }

    #[test]
    fn addresses_to_bind_are_ours_to_have() {
        for bad in ["", "localhost", "[::1]", "1.2.3", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert!(error(&["--bind", bad]).contains("'--bind'"));
        }
        assert!(error(&["--bind", "127.0.0.1:80"]).contains("the port is given with --port"));
        let mapped = run(&["--bind", "::ffff:127.0.0.1"]).unwrap();
        assert_eq!(mapped.config.bind, Some("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn an_unknown_option_names_the_nearest() {
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
    fn arguments_that_are_not_options_are_refused() {
        assert_eq!(error(&["stray"]), "unexpected argument 'stray'");
        assert_eq!(error(&["-"]), "unexpected argument '-'");
        assert_eq!(error(&["8081"]), "unexpected argument '8081'; did you mean --port 8081?");
        assert_eq!(error(&["--", "--port"]), "unexpected argument '--port'");
        let message = error(&["--port", "0", "127.0.0.1:8080"]);
        assert_eq!(message, "unexpected argument '127.0.0.1:8080'; did you mean --connect 127.0.0.1:8080?");
        assert!(run(&["--port", "0", "--"]).is_ok());
    }

    #[test]
    fn values_missing_superfluous_or_twice() {
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
    }

    #[test]
    fn the_help_has_a_line_for_every_option_and_tells_the_true_defaults() {
        let help = help();
        let lines: Vec<&str> = help.lines().collect();
        for flag in Arguments::get_args_info().flags {
            let count =
                lines.iter().filter(|line| line.trim_start().contains(flag.long) && line.starts_with("  "));
            assert!(count.count() >= 1, "{}", flag.long);
        }
        let default = Config::default();
        let line = |option: &str| *lines.iter().find(|line| line.contains(option)).unwrap();
        assert!(line("--period").contains(&format!("[default: {}]", default.period.as_secs())));
        assert!(line("--port").contains(&format!("[default: {}]", default.port)));
        for line in &lines {
            assert!(line.chars().count() <= 80, "{line}");
        }
        // Every description starts in the same column.
        let options = lines.iter().skip_while(|line| **line != "Options:").skip(1);
        for line in options.take_while(|line| !line.is_empty()) {
            assert!(line.is_char_boundary(HELP_COLUMN), "{line}");
            assert!(line[..HELP_COLUMN].ends_with(' ') && !line[HELP_COLUMN..].starts_with(' '), "{line}");
        }
    }

    #[test]
    fn the_examples_of_the_help_are_valid() {
        let help = help();
        let examples: Vec<&str> =
            help.lines().filter_map(|line| line.strip_prefix("  p2p-gossip ")).collect();
        assert_eq!(examples.len(), 2);
        for example in examples {
            run(&example.split(' ').collect::<Vec<_>>()).unwrap();
        }
    }
}
