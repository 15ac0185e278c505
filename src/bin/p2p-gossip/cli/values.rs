//! Parsers of option values, with an error for each wrong value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use argh::FromArgValue;
use p2p_gossip::internals::check_name;
use p2p_gossip::internals::limits::{
    FORGET_AFTER_MAX, FORGET_AFTER_MIN, HEARTBEAT_MAX, HEARTBEAT_MIN, NAME_BYTES_MAX, PEERS_LIMIT,
    PERIOD_MAX, PERIOD_MIN, TIMEOUT_HEARTBEATS_MIN, TIMEOUT_MAX,
};
use p2p_gossip::internals::mesh::KEY_GRACE_MAX;
use p2p_gossip::{Config, ConfigError, DialAddr, DialAddrError, HostName, LocalIp, PeerId, Ticket};

/// Default and limits of the time in which a node that only sends its standard input must join the mesh.
pub(super) const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Default of the time for which the key before the last change is accepted.
pub(super) const GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);
pub(super) const JOIN_TIMEOUT_MIN: Duration = Duration::from_secs(1);
pub(super) const JOIN_TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

/// The format of stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromArgValue)]
pub(crate) enum Output {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object on each line, for programs.
    Json,
}

/// Whether stdout shows pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromArgValue)]
pub(super) enum Pings {
    On,
    Off,
}

/// The value of an option that is on by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromArgValue)]
pub(super) enum Switch {
    #[default]
    On,
    Off,
}

pub(super) fn parse_period(value: &str) -> Result<Duration, String> {
    seconds_between(value, PERIOD_MIN, PERIOD_MAX)
}

pub(super) fn parse_heartbeat(value: &str) -> Result<Duration, String> {
    seconds_between(value, HEARTBEAT_MIN, HEARTBEAT_MAX)
}

/// The lower limit depends on the heartbeat; [`Config::check`](p2p_gossip::Config::check) knows it.
pub(super) fn parse_timeout(value: &str) -> Result<Duration, String> {
    seconds_between(value, HEARTBEAT_MIN * TIMEOUT_HEARTBEATS_MIN, TIMEOUT_MAX)
}

pub(super) fn parse_join_timeout(value: &str) -> Result<Duration, String> {
    seconds_between(value, JOIN_TIMEOUT_MIN, JOIN_TIMEOUT_MAX)
}

pub(crate) fn parse_grace(value: &str) -> Result<Duration, String> {
    parse_time(value)?
        .filter(|time| *time <= KEY_GRACE_MAX)
        .ok_or_else(|| format!("it must be at most {}d", KEY_GRACE_MAX.as_secs() / (24 * 60 * 60)))
}

pub(super) fn parse_forget_after(value: &str) -> Result<Duration, String> {
    let days_max = FORGET_AFTER_MAX.as_secs() / (24 * 60 * 60);
    parse_time(value)?
        .filter(|time| (FORGET_AFTER_MIN..=FORGET_AFTER_MAX).contains(time))
        .ok_or_else(|| format!("it must be from {}s to {days_max}d", FORGET_AFTER_MIN.as_secs()))
}

fn seconds_between(value: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    parse_time(value)?
        .filter(|time| (min..=max).contains(time))
        .ok_or_else(|| format!("it must be from {} to {} seconds", min.as_secs_f64(), max.as_secs()))
}

/// The units of time, the longest first, with their lengths in seconds.
const UNITS: [(&str, f64); 5] = [("d", 86_400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001)];

/// Parses a number of seconds, or numbers with units, the longest unit first: `0.5`, `90s`, `1d12h`. `None` is
/// a time that is negative or beyond every limit.
fn parse_time(value: &str) -> Result<Option<Duration>, String> {
    let wrong = || {
        "it must be a number of seconds, or numbers with the units d, h, m, s and ms: 0.5, 90s or 1d12h"
            .to_owned()
    };
    if let Ok(seconds) = value.parse() {
        return Ok(Duration::try_from_secs_f64(seconds).ok());
    }
    let (mut rest, mut units, mut seconds) = (value, &UNITS[..], 0.0);
    while !rest.is_empty() {
        let count_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (count, after) = rest.split_at(count_end);
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let at = units.iter().position(|(name, _)| *name == unit).ok_or_else(wrong)?;
        seconds += count.parse::<f64>().map_err(|_| wrong())? * units[at].1;
        (rest, units) = (after, &units[at + 1..]);
    }
    if value.is_empty() { Err(wrong()) } else { Ok(Duration::try_from_secs_f64(seconds).ok()) }
}

/// Parses a whole number of digits alone: `parse` would accept a sign, too.
fn parse_digits<N: FromStr>(value: &str) -> Option<N> {
    let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    if is_number { value.parse().ok() } else { None }
}

pub(super) fn parse_max_peers(value: &str) -> Result<usize, String> {
    parse_digits(value)
        .filter(|count| (1..=PEERS_LIMIT).contains(count))
        .ok_or_else(|| format!("it must be a whole number from 1 to {PEERS_LIMIT}"))
}

pub(super) fn parse_members(value: &str) -> Result<usize, String> {
    parse_digits(value)
        .filter(|count| (1..=PEERS_LIMIT + 1).contains(count))
        .ok_or_else(|| format!("it must be a whole number from 1 to {}", PEERS_LIMIT + 1))
}

pub(super) fn parse_port(value: &str) -> Result<u16, String> {
    parse_digits(value).ok_or_else(|| "it must be a whole number from 0 to 65535".to_owned())
}

/// Parses a port, which means this machine's loopback address, or an IP address with a port.
pub(super) fn parse_http(value: &str) -> Result<SocketAddr, String> {
    let port = value.strip_prefix("localhost:").or(value.strip_prefix(':')).unwrap_or(value);
    let addr = match parse_port(port) {
        Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        Err(_) => value.parse().map_err(|_| {
            "it must be a port, or an IP address of this machine and a port: 9090 or 192.0.2.7:9090"
                .to_owned()
        })?,
    };
    if is_multicast_or_broadcast(addr.ip()) {
        return Err("a node cannot listen on a multicast or broadcast address".to_owned());
    }
    Ok(addr)
}

fn is_multicast_or_broadcast(ip: IpAddr) -> bool {
    ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast())
}

pub(super) fn parse_file(value: &str) -> Result<PathBuf, String> {
    if value.is_empty() { Err("the file name is empty".to_owned()) } else { Ok(PathBuf::from(value)) }
}

/// The source of a ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TicketSource {
    /// The ticket itself.
    Ticket(Box<Ticket>),
    /// A file that holds it.
    File(PathBuf),
    Stdin,
}

/// The ticket itself, `-` for standard input, or a file.
pub(super) fn parse_ticket(value: &str) -> Result<TicketSource, String> {
    match value {
        "" => Err("the ticket is empty".to_owned()),
        "-" => Ok(TicketSource::Stdin),
        file if !Ticket::is_ticket(file) => Ok(TicketSource::File(file.into())),
        ticket => Ticket::find(ticket)
            .map(|ticket| TicketSource::Ticket(Box::new(ticket)))
            .map_err(|error| error.to_string()),
    }
}

pub(super) fn parse_bind(value: &str) -> Result<LocalIp, String> {
    let bind: LocalIp = value.parse().map_err(|error| match error {
        DialAddrError::BadInterface => error.to_string(),
        _ => {
            let is_with_port = value.parse::<DialAddr>().is_ok();
            let advice = if is_with_port { "; the port is given with --port" } else { "" };
            format!("it must be an IP address, for example 192.0.2.7 or 2001:db8::7{advice}")
        }
    })?;
    if is_multicast_or_broadcast(bind.ip()) {
        return Err("a node cannot listen on a multicast or broadcast address".to_owned());
    }
    Ok(bind)
}

/// A node's name, and whether it is the beginning of a longer host name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeName {
    pub(super) text: String,
    pub(super) is_shortened: bool,
}

/// Parses a node's name. A host name that is too long, as `$(hostname -f)` may be, loses its last labels.
pub(super) fn parse_name(value: &str) -> Result<NodeName, String> {
    let name = |text: &str, is_shortened| NodeName { text: text.to_owned(), is_shortened };
    match check_name(value) {
        Ok(()) => Ok(name(value, false)),
        Err(ConfigError::NameLength(_)) if value.contains('.') && HostName::new(value).is_ok() => {
            let fitting = &value[..NAME_BYTES_MAX + 1];
            // A label has at most 63 bytes, so there is a dot.
            let end = fitting.rfind('.').unwrap_or(NAME_BYTES_MAX);
            Ok(name(&value[..end], true))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Parses the name of a network whose nodes find each other by beacons.
pub(super) fn parse_network_name(value: &str) -> Result<String, String> {
    let name = Config::default().discover(value);
    name.check().map(|()| value.to_owned()).map_err(|error| error.to_string())
}

/// The first digits of a peer's id, in lower case; the verb `forget` selects a peer by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdPrefix(String);

impl IdPrefix {
    pub(crate) fn matches(&self, id: &PeerId) -> bool {
        id.to_string().starts_with(&self.0)
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a user names a peer of which a verb only asks. A name is no proof of who a peer is, so verbs that change something
/// take an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerText {
    /// The first digits of its id.
    Id(IdPrefix),
    /// The name that the peer gives itself.
    Name(String),
}

/// Parses the digits of an id; what has other characters, or too few digits, is a name.
pub(super) fn parse_peer(value: &str) -> Result<PeerText, String> {
    if let Ok(prefix) = parse_id_prefix(value) {
        return Ok(PeerText::Id(prefix));
    }
    if value.is_empty() || Config::default().name(value).check().is_err() {
        return Err(format!("it must be a name, or from {ID_DIGITS_MIN} to {ID_DIGITS} digits of an id"));
    }
    Ok(PeerText::Name(value.to_owned()))
}

/// Fewest digits of a prefix; shorter ones too easily match an unintended peer.
const ID_DIGITS_MIN: usize = 8;
/// Digits of a whole id.
const ID_DIGITS: usize = 64;

pub(crate) fn parse_id_prefix(value: &str) -> Result<IdPrefix, String> {
    let is_hex = value.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex && (ID_DIGITS_MIN..=ID_DIGITS).contains(&value.len()) {
        Ok(IdPrefix(value.to_ascii_lowercase()))
    } else {
        Err(format!("it must be from {ID_DIGITS_MIN} to {ID_DIGITS} hexadecimal digits of an id"))
    }
}
