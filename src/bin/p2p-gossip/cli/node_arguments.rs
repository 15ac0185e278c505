//! The arguments that start a node, or the verb instead of them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::{ArgsInfo, FromArgs};
use p2p_gossip::internals::limits::{NETWORK_KEYS_MAX, TIMEOUT_HEARTBEATS};
use p2p_gossip::{AccessSources, Config, ConfigError, ConnectAddr, DialAddr, LocalIp, PeerId};

use super::action::{AfterStdin, IdentitySource, Membership, OnEvent, Options};
use super::control_arguments::control_socket;
use super::usage_error::UsageError;
use super::values::{
    JOIN_TIMEOUT, NodeName, Output, Pings, Switch, TicketSource, parse_bind, parse_file, parse_forget_after,
    parse_heartbeat, parse_http, parse_join_timeout, parse_max_peers, parse_name, parse_network_name,
    parse_period, parse_port, parse_ticket, parse_timeout,
};
use super::verb_arguments::VerbArguments;

/// The arguments as argh takes them. The help shows these descriptions in this order.
#[derive(Debug, FromArgs, ArgsInfo)]
pub(super) struct Arguments {
    #[argh(subcommand)]
    pub(super) verb: Option<VerbArguments>,

    /// time between pings to a peer, e.g. 500ms [default: 5s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_period))]
    period: Option<Duration>,

    /// TCP port to listen on; 0: any free one [default: 8080]
    #[argh(option, arg_name = "PORT", from_str_fn(parse_port))]
    port: Option<u16>,

    /// join through host:port, or ID@host:port; repeatable
    #[argh(option, arg_name = "ADDR")]
    connect: Vec<ConnectAddr>,

    /// find nodes on the local network that give this name
    #[argh(option, arg_name = "NAME", from_str_fn(parse_network_name))]
    discover: Option<String>,

    /// PEM private key [default: a new one, in memory only]
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    key: Option<PathBuf>,

    /// PEM certificate of that key [default: made for it]
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    cert: Option<PathBuf>,

    /// directory with key and known peers [default: none]
    #[argh(option, arg_name = "DIR", from_str_fn(parse_file))]
    state: Option<PathBuf>,

    /// accept this peer and refuse unlisted ones; repeatable
    #[argh(option, arg_name = "ID")]
    allow: Vec<PeerId>,

    /// accept every id in a file, one per line; repeatable
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    allow_file: Vec<PathBuf>,

    /// refuse this peer, even if it is allowed; repeatable
    #[argh(option, arg_name = "ID")]
    deny: Vec<PeerId>,

    /// refuse every id in a file, one per line; repeatable
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    deny_file: Vec<PathBuf>,

    /// refuse new keys at the addresses of known peers
    #[argh(switch)]
    strict: bool,

    /// carry for others: on or off [default: on]
    #[argh(option, arg_name = "HOW")]
    relay: Option<Switch>,

    /// ask the router for a port: on or off [default: on]
    #[argh(option, arg_name = "HOW")]
    port_mapping: Option<Switch>,

    /// key of a closed network; twice while changing it
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    network_key: Vec<PathBuf>,

    /// close the network: make a key in the state directory
    #[argh(switch)]
    closed: bool,

    /// join with a ticket; or the file with it; -: stdin
    #[argh(option, arg_name = "TICKET", from_str_fn(parse_ticket))]
    join: Option<TicketSource>,

    /// IP address to listen on [default: every interface]
    #[argh(option, arg_name = "IP", from_str_fn(parse_bind))]
    bind: Option<LocalIp>,

    /// also tell peers this host:port; up to 4 times
    #[argh(option, arg_name = "ADDR")]
    advertise: Vec<DialAddr>,

    /// label that peers see beside the id [default: none]
    #[argh(option, arg_name = "TEXT", from_str_fn(parse_name))]
    name: Option<NodeName>,

    /// largest number of known peers [default: 1024]
    #[argh(option, arg_name = "N", from_str_fn(parse_max_peers))]
    max_peers: Option<usize>,

    /// time between heartbeats [default: 1s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_heartbeat))]
    heartbeat: Option<Duration>,

    /// silence before a peer is dead [default: 3 heartbeats]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_timeout))]
    timeout: Option<Duration>,

    /// when to forget a dead peer, e.g. 7d [default: 24h]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_forget_after))]
    forget_after: Option<Duration>,

    /// format of stdout: text or json [default: text]
    #[argh(option, arg_name = "FORMAT")]
    output: Option<Output>,

    /// show pings on stdout: on or off [default: on]
    #[argh(option, arg_name = "HOW")]
    pings: Option<Pings>,

    /// the same as --pings off
    #[argh(switch)]
    quiet: bool,

    /// send each line of stdin to every peer
    #[argh(switch)]
    stdin: bool,

    /// leave when stdin has ended
    #[argh(switch)]
    exit_after_stdin: bool,

    /// give up if no peer answers in time [default: 60s]
    #[argh(option, arg_name = "TIME", from_str_fn(parse_join_timeout))]
    join_timeout: Option<Duration>,

    /// run this for each event but pings and alerts
    #[argh(option, arg_name = "PROGRAM", from_str_fn(parse_file))]
    on_event: Option<PathBuf>,

    /// run it for ping events, too
    #[argh(switch)]
    on_event_pings: bool,

    /// run this once in the whole mesh for each incident
    #[argh(option, arg_name = "PROGRAM", from_str_fn(parse_file))]
    alert: Option<PathBuf>,

    /// serve a page and metrics on a port or IP:port
    #[argh(option, arg_name = "ADDR", from_str_fn(parse_http))]
    http: Option<SocketAddr>,

    /// control socket [default: control in the --state DIR]
    #[argh(option, arg_name = "FILE", from_str_fn(parse_file))]
    control: Option<PathBuf>,

    /// print the version and exit
    #[argh(switch, short = 'V')]
    #[expect(dead_code, reason = "normalize handles it before argh; this field is for the help")]
    version: bool,
}

/// Checks the arguments of a node.
pub(super) fn check(arguments: Arguments) -> Result<Options, UsageError> {
    let identity = check_identity(arguments.key, arguments.cert)?;
    let shows_pings = check_pings(arguments.pings, arguments.quiet)?;
    let stdin = check_stdin(arguments.stdin, arguments.exit_after_stdin, arguments.join_timeout)?;
    let on_event = check_on_event(arguments.on_event, arguments.on_event_pings)?;
    let default = Config::default();
    let heartbeat = arguments.heartbeat.unwrap_or(default.heartbeat);
    let name = arguments.name.unwrap_or_default();
    let mut config = Config::default()
        .period(arguments.period.unwrap_or(default.period))
        .port(arguments.port.unwrap_or(default.port))
        .connect(arguments.connect)
        .advertise(arguments.advertise)
        .strict(arguments.strict)
        .relay(arguments.relay.unwrap_or_default() == Switch::On)
        .port_mapping(arguments.port_mapping.unwrap_or_default() == Switch::On)
        .name(name.text)
        .heartbeat(heartbeat)
        .timeout(arguments.timeout.unwrap_or(heartbeat * TIMEOUT_HEARTBEATS))
        .forget_after(arguments.forget_after.unwrap_or(default.forget_after))
        .peers_max(arguments.max_peers.unwrap_or(default.peers_max))
        .alerts(arguments.alert.is_some());
    config.bind = arguments.bind;
    config.discover = arguments.discover;
    config.check().map_err(|error| UsageError::new(error.to_string()))?;
    let network_keys = arguments.network_key;
    if network_keys.len() > NETWORK_KEYS_MAX {
        return Err(UsageError::new(ConfigError::NetworkKeys(network_keys.len()).to_string()));
    }
    let membership = check_membership(
        arguments.closed,
        arguments.join,
        arguments.state.is_some(),
        !network_keys.is_empty(),
        stdin.is_some(),
    )?;
    let access = AccessSources::default()
        .allow(arguments.allow)
        .allow_files(arguments.allow_file)
        .deny(arguments.deny)
        .deny_files(arguments.deny_file);
    let control = control_socket(arguments.control, arguments.state.as_deref());
    Ok(Options {
        config,
        is_name_shortened: name.is_shortened,
        identity,
        state: arguments.state,
        access,
        network_keys,
        membership,
        output: arguments.output.unwrap_or_default(),
        shows_pings,
        stdin,
        on_event,
        alert: arguments.alert,
        http: arguments.http,
        control,
        is_bare: false,
    })
}

/// Returns how the node belongs to a closed network whose key is in the state directory.
fn check_membership(
    closed: bool,
    join: Option<TicketSource>,
    has_state: bool,
    has_network_key: bool,
    reads_stdin: bool,
) -> Result<Membership, UsageError> {
    let (option, membership) = match (closed, join) {
        (false, None) => return Ok(Membership::AsStored),
        (true, None) => ("--closed", Membership::Closed),
        (false, Some(TicketSource::Stdin)) if reads_stdin => {
            return Err(UsageError::new(
                "--join - reads the ticket from standard input, and --stdin the messages",
            ));
        }
        (false, Some(ticket)) => ("--join", Membership::Joins(ticket)),
        (true, Some(_)) => {
            return Err(UsageError::new(
                "--closed makes a new network, and --join joins another; give one of them",
            ));
        }
    };
    if !has_state {
        return Err(UsageError::new(format!(
            "{option} needs --state with a directory for the network's key"
        )));
    }
    if has_network_key {
        return Err(UsageError::new(format!(
            "{option} keeps the network's key in the state directory; omit --network-key"
        )));
    }
    Ok(membership)
}

fn check_identity(key: Option<PathBuf>, cert: Option<PathBuf>) -> Result<IdentitySource, UsageError> {
    match (key, cert) {
        (None, None) => Ok(IdentitySource::Default),
        (Some(key), None) => Ok(IdentitySource::Key(key)),
        (Some(key), Some(cert)) => Ok(IdentitySource::KeyAndCertificate(key, cert)),
        (None, Some(_)) => {
            Err(UsageError::new("--cert needs --key with the private key of that certificate"))
        }
    }
}

/// Returns whether stdout shows pings.
fn check_pings(pings: Option<Pings>, quiet: bool) -> Result<bool, UsageError> {
    match (pings, quiet) {
        (None | Some(Pings::Off), true) | (Some(Pings::Off), false) => Ok(false),
        (None | Some(Pings::On), false) => Ok(true),
        (Some(Pings::On), true) => Err(UsageError::new("--quiet and --pings on contradict each other")),
    }
}

fn check_stdin(
    stdin: bool,
    exit_after_stdin: bool,
    join_timeout: Option<Duration>,
) -> Result<Option<AfterStdin>, UsageError> {
    match (stdin, exit_after_stdin) {
        (true, true) => Ok(Some(AfterStdin::Leave { join_timeout: join_timeout.unwrap_or(JOIN_TIMEOUT) })),
        _ if join_timeout.is_some() => Err(UsageError::new("--join-timeout needs --exit-after-stdin")),
        (true, false) => Ok(Some(AfterStdin::Stay)),
        (false, false) => Ok(None),
        (false, true) => Err(UsageError::new("--exit-after-stdin needs --stdin")),
    }
}

fn check_on_event(program: Option<PathBuf>, with_pings: bool) -> Result<Option<OnEvent>, UsageError> {
    if with_pings && program.is_none() {
        return Err(UsageError::new("--on-event-pings needs --on-event"));
    }
    Ok(program.map(|program| OnEvent { program, with_pings }))
}

#[cfg(test)]
mod tests {
    use super::super::help::HELP_COLUMN;
    use super::super::parse::testing::{error, printed, run};
    use super::*;

    #[test]
    fn empty_command_line_is_the_default_configuration() {
        let options = run(&[]).unwrap();
        let default = Config::default();
        assert_eq!((options.config.period, options.config.port), (default.period, default.port));
        assert_eq!((options.identity, options.state), (IdentitySource::Default, None));
        assert_eq!(options.output, Output::Text);
    }

    #[test]
    fn options_take_values_in_either_form() {
        let apart = "--period 0.5 --port 0 --connect a.example:1 --connect [::1]:2 --key k --cert c --state s \
                     --bind ::1 --name bob --output json --advertise b.example:3 --advertise [::2]:4 \
                     --max-peers 7 --heartbeat 0.5 --timeout 2 --forget-after 30m";
        let joined = "--period=0.5 --port=0 --connect=a.example:1 --connect=[::1]:2 --key=k --cert=c --state=s \
                      --bind=::1 --name=bob --output=json --advertise=b.example:3 --advertise=[::2]:4 \
                      --max-peers=7 --heartbeat=0.5 --timeout=2 --forget-after=30m";
        for line in [apart, joined] {
            let options = run(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
            assert_eq!(options.config.period, Duration::from_millis(500));
            assert_eq!(options.config.port, 0);
            let connect: Vec<_> = options.config.connect.iter().map(ToString::to_string).collect();
            assert_eq!(connect, ["a.example:1", "[::1]:2"]);
            assert_eq!(options.identity, IdentitySource::KeyAndCertificate("k".into(), "c".into()));
            assert_eq!(options.config.bind, Some("::1".parse().unwrap()));
            assert_eq!(options.config.name, "bob");
            assert_eq!(options.state, Some("s".into()));
            assert_eq!(options.output, Output::Json);
            let advertise: Vec<_> = options.config.advertise.iter().map(ToString::to_string).collect();
            assert_eq!(advertise, ["b.example:3", "[::2]:4"]);
            assert_eq!(options.config.peers_max, 7);
            assert_eq!(options.config.heartbeat, Duration::from_millis(500));
            assert_eq!(options.config.timeout, Duration::from_secs(2));
            assert_eq!(options.config.forget_after, Duration::from_secs(30 * 60));
        }
    }

    #[test]
    fn http_port_means_loopback_unless_an_address_is_given() {
        let http = |value| run(&["--http", value]).unwrap().http.unwrap().to_string();
        for (value, addr) in [
            ("9090", "127.0.0.1:9090"),
            (":9090", "127.0.0.1:9090"),
            ("0", "127.0.0.1:0"),
            ("localhost:9090", "127.0.0.1:9090"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("192.0.2.7:9090", "192.0.2.7:9090"),
            ("[::1]:9090", "[::1]:9090"),
        ] {
            assert_eq!(http(value), addr);
        }
        for bad in [
            "",
            ":",
            "65536",
            "-1",
            "+80",
            "127.0.0.1",
            "::1:80",
            "[::1]",
            "example.org:80",
            "http://localhost:80",
        ] {
            let message = error(&["--http", bad]);
            assert!(message.contains("'--http'") && message.contains("9090 or 192.0.2.7:9090"), "{message}");
        }
        assert!(error(&["--http", "224.0.0.1:80"]).contains("multicast"));
        assert!(run(&[]).unwrap().http.is_none());
    }

    #[test]
    fn access_options_are_collected_from_ids_and_files() {
        let (a, b) = (PeerId::from_bytes([0xaa; 32]), PeerId::from_bytes([0xbb; 32]));
        let (a_text, b_text) = (a.to_string(), b.to_string().to_uppercase());
        let pinned = format!("{}@a.example:1", &b_text[..16]);
        let options = run(&[
            "--allow",
            &a_text,
            "--allow",
            &b_text,
            "--allow-file=f",
            "--allow-file",
            "g",
            "--deny",
            &b_text,
            "--deny-file",
            "h",
            "--strict",
            "--connect",
            &pinned,
        ])
        .unwrap();
        let access =
            AccessSources::default().allow([a, b]).allow_files(["f", "g"]).deny([b]).deny_files(["h"]);
        assert_eq!(options.access, access);
        assert!(options.config.strict && options.config.connect[0].pin.is_some_and(|pin| pin.matches(&b)));
        assert!(!run(&[]).unwrap().config.strict);
        assert_eq!(error(&["--strict=yes"]), "option --strict takes no value");
        assert_eq!(error(&["--strict", "--strict"]), "option --strict is given more than once");
    }

    #[test]
    fn quiet_means_pings_off() {
        for (line, shows_pings) in [
            (&[][..], true),
            (&["--pings=on"], true),
            (&["--pings", "off"], false),
            (&["--quiet"], false),
            (&["--quiet", "--pings=off"], false),
        ] {
            assert_eq!(run(line).unwrap().shows_pings, shows_pings, "{line:?}");
        }
        assert_eq!(error(&["--quiet", "--pings=on"]), "--quiet and --pings on contradict each other");
        assert!(error(&["--pings=some"]).contains("\"on\" or \"off\""));
    }

    #[test]
    fn long_host_name_is_shortened_at_a_dot() {
        let host = format!("web1.{}.example.org", "x".repeat(50));
        let options = run(&["--name", &host]).unwrap();
        assert_eq!(options.config.name, format!("web1.{}.example", "x".repeat(50)));
        assert!(options.is_name_shortened && !run(&["--name=web1.example"]).unwrap().is_name_shortened);
        // A boundary at the limit, and a first label of the largest length.
        let host = format!("{}.{}.org", "x".repeat(60), "y".repeat(3));
        assert_eq!(run(&["--name", &host]).unwrap().config.name, host[..64]);
        let host = format!("{}.{}", "x".repeat(63), "y".repeat(63));
        assert_eq!(run(&["--name", &host]).unwrap().config.name, host[..63]);
        for bad in ["x".repeat(65), format!("web 1.{}", "x".repeat(65))] {
            assert!(error(&["--name", &bad]).contains("at most 64"));
        }
        assert!(error(&["--name", "\u{1f468}\u{200d}\u{1f469}"]).contains("use a single emoji"));
    }

    #[test]
    fn on_event_program_runs_for_pings_only_with_on_event_pings() {
        assert_eq!(run(&[]).unwrap().on_event, None);
        for (line, with_pings) in
            [(&["--on-event=p"][..], false), (&["--on-event-pings", "--on-event", "p"], true)]
        {
            let on_event = OnEvent { program: "p".into(), with_pings };
            assert_eq!(run(line).unwrap().on_event, Some(on_event));
        }
        assert_eq!(error(&["--on-event-pings"]), "--on-event-pings needs --on-event");
    }

    #[test]
    fn node_leaves_after_stdin_only_with_exit_after_stdin() {
        assert_eq!(run(&[]).unwrap().stdin, None);
        assert_eq!(run(&["--stdin"]).unwrap().stdin, Some(AfterStdin::Stay));
        for (line, seconds) in [
            (&["--stdin", "--exit-after-stdin"][..], 60),
            (&["--join-timeout=2m", "--stdin", "--exit-after-stdin"], 120),
        ] {
            let leave = AfterStdin::Leave { join_timeout: Duration::from_secs(seconds) };
            assert_eq!(run(line).unwrap().stdin, Some(leave));
        }
        assert_eq!(error(&["--exit-after-stdin"]), "--exit-after-stdin needs --stdin");
        for line in [&["--join-timeout=2m"][..], &["--stdin", "--join-timeout=2m"]] {
            assert_eq!(error(line), "--join-timeout needs --exit-after-stdin");
        }
    }

    #[test]
    fn default_timeout_depends_on_the_heartbeat() {
        assert_eq!(run(&["--heartbeat", "5"]).unwrap().config.timeout, Duration::from_secs(15));
        assert_eq!(run(&["--heartbeat", "0.1"]).unwrap().config.timeout, Duration::from_millis(300));
        assert_eq!(run(&["--timeout", "2"]).unwrap().config.heartbeat, Duration::from_secs(1));
        let message = error(&["--timeout", "1.9"]);
        assert!(message.contains("the timeout is 1.9s with a heartbeat of 1s"), "{message}");
        assert!(message.contains("from 2 (two heartbeats) to 3600 seconds"), "{message}");
        let message = error(&["--heartbeat", "10", "--timeout", "15"]);
        assert!(message.contains("from 20 (two heartbeats)"), "{message}");
        for bad in ["0", "0.09", "20.1", "-1", "NaN"] {
            assert!(error(&["--heartbeat", bad]).contains("from 0.1 to 20 seconds"));
        }
        assert!(error(&["--timeout", "3601"]).contains("to 3600 seconds"));
    }

    #[test]
    fn times_take_units() {
        for (text, millis) in [
            ("90", 90_000),
            ("90s", 90_000),
            ("30m", 1_800_000),
            ("24h", 86_400_000),
            ("1d12h", 129_600_000),
            ("1h1m1s500ms", 3_661_500),
            ("1.5h", 5_400_000),
        ] {
            let config = run(&["--forget-after", text]).unwrap().config;
            assert_eq!(config.forget_after, Duration::from_millis(millis), "{text}");
        }
        let config = run(&["--period=20ms", "--heartbeat=1500ms", "--timeout=1m30s"]).unwrap().config;
        assert_eq!(config.period, Duration::from_millis(20));
        assert_eq!(config.heartbeat, Duration::from_millis(1500));
        assert_eq!(config.timeout, Duration::from_secs(90));
        for option in ["--forget-after", "--period", "--heartbeat", "--timeout", "--join-timeout"] {
            for bad in ["", "d", "1w", "1 h", "1h 30m", "12h1d", "1h1h", "1h30", "1,5", "1.2.3s", "-1h"] {
                let message = error(&[option, bad]);
                assert!(message.contains("0.5, 90s or 1d12h"), "{message}");
            }
        }
        for bad in ["0", "-1", "0d", "366d", "99999999999999999999", "18446744073709551615d"] {
            let message = error(&["--forget-after", bad]);
            assert!(message.contains("from 1s to 365d"), "{message}");
        }
    }

    #[test]
    fn max_peers_and_advertise_are_limited() {
        for bad in ["0", "4097", "-1", "many", ""] {
            let message = error(&["--max-peers", bad]);
            assert!(message.contains("from 1 to 4096"), "{message}");
        }
        let five: Vec<&str> = ["--advertise", "a.example:1"].repeat(5);
        assert!(error(&five).contains("5 addresses are advertised; at most 4"));
        assert!(run(&five[..8]).is_ok());
        assert!(error(&["--advertise", "a.example"]).contains("the port is missing"));
        assert!(error(&["--advertise", "224.0.0.1:1"]).contains("224.0.0.1:1"));
        assert!(run(&["--advertise", "[fe80::1]:1"]).is_ok());
    }

    #[test]
    fn link_local_addresses_need_their_interface() {
        for line in [["--connect", "[fe80::1]:1"], ["--bind", "fe80::1"]] {
            let message = error(&line);
            assert!(message.contains("fe80::1") && message.contains("%eth0"), "{message}");
        }
        for line in [["--connect", "[fe80::1%a/b]:1"], ["--bind", "fe80::1%a/b"]] {
            let message = error(&line);
            assert!(message.contains("no name or number of a network interface"), "{message}");
        }
        // The interface need not exist yet.
        for line in [
            ["--connect", "[fe80::1%1]:1"],
            ["--bind", "fe80::1%1"],
            ["--connect", "[fe80::1%nowhere0]:1"],
            ["--bind", "fe80::1%nowhere0"],
        ] {
            assert!(run(&line).is_ok());
        }
    }

    #[test]
    fn periods_out_of_range_are_refused() {
        for bad in ["0", "-1", "NaN", "inf", "-inf", "1e300", "86401", "0.009", "-0"] {
            let message = error(&["--period", bad]);
            assert!(message.contains("--period") && message.contains(bad), "{message}");
            assert!(message.contains("from 0.01 to 86400 seconds"), "{message}");
        }
        for bad in ["", "soon", "1,5"] {
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
    fn bind_takes_unicast_ip_addresses_only() {
        for bad in ["", "localhost", "[::1]", "1.2.3", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            assert!(error(&["--bind", bad]).contains("'--bind'"));
        }
        assert!(error(&["--bind", "127.0.0.1:80"]).contains("the port is given with --port"));
        let mapped = run(&["--bind", "::ffff:127.0.0.1"]).unwrap();
        assert_eq!(mapped.config.bind, Some("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn help_lists_every_option_and_its_default() {
        let help = printed(&["--help"]);
        let lines: Vec<&str> = help.lines().collect();
        for flag in Arguments::get_args_info().flags {
            let count =
                lines.iter().filter(|line| line.trim_start().contains(flag.long) && line.starts_with("  "));
            assert!(count.count() >= 1, "{}", flag.long);
        }
        let default = Config::default();
        let line = |option: &str| *lines.iter().find(|line| line.trim_start().starts_with(option)).unwrap();
        assert!(line("--period").contains(&format!("[default: {}s]", default.period.as_secs())));
        assert!(line("--port").contains(&format!("[default: {}]", default.port)));
        assert!(line("--max-peers").contains(&format!("[default: {}]", default.peers_max)));
        assert!(line("--heartbeat").contains(&format!("[default: {}s]", default.heartbeat.as_secs())));
        assert!(line("--timeout").contains(&format!("[default: {TIMEOUT_HEARTBEATS} heartbeats]")));
        let hours = default.forget_after.as_secs() / 3600;
        assert!(line("--forget-after").contains(&format!("[default: {hours}h]")));
        assert!(line("--join-timeout").contains(&format!("[default: {}s]", JOIN_TIMEOUT.as_secs())));
        assert!(
            line("--advertise")
                .contains(&format!("up to {} times", p2p_gossip::internals::limits::ADDRS_MAX))
        );
        for line in &lines {
            assert!(line.chars().count() <= 80, "{line}");
        }
        // Every description starts in the same column.
        let options = lines.iter().skip_while(|line| **line != "Options:");
        let options = options.take_while(|line| !line.starts_with("Verbs"));
        for line in options.filter(|line| line.starts_with(' ')) {
            assert!(line.is_char_boundary(HELP_COLUMN), "{line}");
            assert!(line[..HELP_COLUMN].ends_with(' ') && !line[HELP_COLUMN..].starts_with(' '), "{line}");
        }
    }

    #[test]
    fn examples_in_the_help_are_valid() {
        let help = printed(&["--help"]);
        let examples: Vec<&str> =
            help.lines().filter_map(|line| line.strip_prefix("  p2p-gossip ")).collect();
        assert_eq!(examples.len(), 2);
        for example in examples {
            run(&example.split(' ').collect::<Vec<_>>()).unwrap();
        }
    }
}
