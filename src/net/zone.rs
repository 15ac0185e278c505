//! The zone of an IPv6 address: the network interface behind which a link-local one is valid (RFC 4007).

use std::net::Ipv6Addr;

use super::dial_addr_error::DialAddrError;
use super::interface_name::InterfaceName;

/// The interface that an IPv6 address is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    /// None, or this index; 0 is none.
    Index(u32),
    /// The interface of this name, which need not exist yet.
    Name(InterfaceName),
}

impl Zone {
    /// The index, or 0 for a name.
    pub(crate) fn index(self) -> u32 {
        match self {
            Self::Index(index) => index,
            Self::Name(_) => 0,
        }
    }
}

/// Parses an IPv6 address, optionally followed by `%` and an interface's name or index.
pub(crate) fn parse_ipv6(text: &str) -> Result<(Ipv6Addr, Zone), DialAddrError> {
    let (ip, zone) = text.split_once('%').map_or((text, None), |(ip, zone)| (ip, Some(zone)));
    let ip: Ipv6Addr = ip.parse().map_err(|_| DialAddrError::BadIpv6)?;
    let zone = zone.map_or(Some(Zone::Index(0)), |zone| {
        if zone.bytes().all(|b| b.is_ascii_digit()) {
            return zone.parse().ok().filter(|&index| index != 0).map(Zone::Index);
        }
        InterfaceName::new(zone).map(Zone::Name)
    });
    Ok((ip, zone.ok_or(DialAddrError::BadInterface)?))
}
