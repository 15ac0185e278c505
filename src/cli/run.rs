//! The arguments that start a node.

use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use p2p_gossip::addr::LocalIp;
use p2p_gossip::{Config, DialAddr};

use super::values::{Output, parse_bind, parse_file, parse_name, parse_period, parse_port};
use super::words::{Normal, from_argh, normalise};
use super::{Action, PROGRAM, UsageError, help};

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
    bind: Option<LocalIp>,

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

/// Reads a command line without a verb.
pub(super) fn parse(arguments: &[String]) -> Result<Action, UsageError> {
    let words = match normalise(&Arguments::get_args_info(), arguments)? {
        Normal::Words(words) => words,
        Normal::Help => return Ok(Action::Print(help::of_program(&Arguments::get_args_info()))),
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
            return Err(UsageError::new("--cert needs --key with the private key of that certificate"));
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
    config.check().map_err(|error| UsageError::new(error.to_string()))?;
    Ok(Options { config, identity, output: arguments.output.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::super::help::HELP_COLUMN;
    use super::super::testing::{error, printed, run};
    use super::*;

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
    fn the_help_has_a_line_for_every_option_and_tells_the_true_defaults() {
        let help = printed(&["--help"]);
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
        let help = printed(&["--help"]);
        let examples: Vec<&str> =
            help.lines().filter_map(|line| line.strip_prefix("  p2p-gossip ")).collect();
        assert_eq!(examples.len(), 2);
        for example in examples {
            run(&example.split(' ').collect::<Vec<_>>()).unwrap();
        }
    }
}
