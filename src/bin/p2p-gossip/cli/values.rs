//! Parsers of option values, with an error for each wrong value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use argh::FromArgValue;
use p2p_gossip::internals::check_name;
use p2p_gossip::internals::limits::{
    FORGET_AFTER_MAX, FORGET_AFTER_MIN, HEARTBEAT_MAX, HEARTBEAT_MIN, PEERS_LIMIT, PERIOD_MAX, PERIOD_MIN,
    TIMEOUT_HEARTBEATS_MIN, TIMEOUT_MAX,
};
use p2p_gossip::{DialAddr, DialAddrError, LocalIp, PeerId};

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

fn seconds_between(value: &str, min: Duration, max: Duration) -> Result<Duration, String> {
    let seconds: f64 =
        value.parse().map_err(|_| "it must be a number of seconds, for example 5 or 0.5".to_owned())?;
    // Fails for negative values, NaN and values beyond the range of Duration.
    let duration = Duration::try_from_secs_f64(seconds).ok();
    duration
        .filter(|duration| (min..=max).contains(duration))
        .ok_or_else(|| format!("it must be from {} to {} seconds", min.as_secs_f64(), max.as_secs()))
}

/// Parses a whole number with an optional unit: `s` (default), `m`, `h` or `d`.
pub(super) fn parse_forget_after(value: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 60 * 60), ('d', 24 * 60 * 60)];
    let unit = UNITS.iter().find_map(|&(letter, seconds)| Some((value.strip_suffix(letter)?, seconds)));
    let (count, unit) = unit.unwrap_or((value, 1));
    let is_number = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return Err("it must be a whole number of seconds, or with a unit: 30m, 24h or 7d".to_owned());
    }
    let seconds = count.parse().ok().and_then(|count: u64| count.checked_mul(unit));
    let after = Duration::from_secs(seconds.unwrap_or(u64::MAX));
    if (FORGET_AFTER_MIN..=FORGET_AFTER_MAX).contains(&after) {
        return Ok(after);
    }
    let days_max = FORGET_AFTER_MAX.as_secs() / (24 * 60 * 60);
    Err(format!("it must be from {}s to {days_max}d", FORGET_AFTER_MIN.as_secs()))
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

pub(super) fn parse_bind(value: &str) -> Result<LocalIp, String> {
    let bind: LocalIp = value.parse().map_err(|error| match error {
        DialAddrError::NoInterface(_) => error.to_string(),
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

pub(super) fn parse_name(value: &str) -> Result<String, String> {
    check_name(value).map_err(|error| error.to_string())?;
    Ok(value.to_owned())
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

/// Fewest digits of a prefix; shorter ones too easily match an unintended peer.
const ID_DIGITS_MIN: usize = 8;
/// Digits of a whole id.
const ID_DIGITS: usize = 64;

pub(super) fn parse_id_prefix(value: &str) -> Result<IdPrefix, String> {
    let is_hex = value.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hex && (ID_DIGITS_MIN..=ID_DIGITS).contains(&value.len()) {
        Ok(IdPrefix(value.to_ascii_lowercase()))
    } else {
        Err(format!("it must be from {ID_DIGITS_MIN} to {ID_DIGITS} hexadecimal digits of an id"))
    }
}
