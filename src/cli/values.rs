//! How the values of options parse, and what is said of those that do not.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use argh::FromArgValue;
use p2p_gossip::DialAddr;
use p2p_gossip::addr::{DialAddrError, LocalIp};
use p2p_gossip::config::{PERIOD_MAX, PERIOD_MIN, check_name};

/// What stdout carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromArgValue)]
pub(crate) enum Output {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

pub(super) fn parse_period(value: &str) -> Result<Duration, String> {
    let seconds: f64 =
        value.parse().map_err(|_| "it must be a number of seconds, for example 5 or 0.5".to_owned())?;
    // Negative, NaN and beyond what a Duration holds all fail here.
    let period = Duration::try_from_secs_f64(seconds).ok();
    period.filter(|period| (PERIOD_MIN..=PERIOD_MAX).contains(period)).ok_or_else(|| {
        format!("it must be from {} to {} seconds", PERIOD_MIN.as_secs_f64(), PERIOD_MAX.as_secs())
    })
}

pub(super) fn parse_port(value: &str) -> Result<u16, String> {
    let digits_only = value.bytes().all(|b| b.is_ascii_digit());
    let port = if digits_only { value.parse().ok() } else { None };
    port.ok_or_else(|| "it must be a whole number from 0 to 65535".to_owned())
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
    let is_broadcast = matches!(bind.ip(), IpAddr::V4(v4) if v4.is_broadcast());
    if bind.ip().is_multicast() || is_broadcast {
        return Err("nobody can connect to a multicast or broadcast address".to_owned());
    }
    Ok(bind)
}

pub(super) fn parse_name(value: &str) -> Result<String, String> {
    check_name(value).map_err(|error| error.to_string())?;
    Ok(value.to_owned())
}
