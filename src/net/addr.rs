//! Addresses to dial: their text form, and which of them can belong to a peer.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::dial_addr_error::DialAddrError;
use super::host_name::HostName;
use super::interface_name::{InterfaceName, name_of};
use super::zone::{Zone, parse_ipv6};

/// An address to dial: a socket address, or a name of an interface or a host that the dialling thread looks up at
/// each dial.
///
/// ```
/// use p2p_gossip::DialAddr;
/// assert_eq!("[::1]:8080".parse::<DialAddr>()?.to_string(), "[::1]:8080");
/// assert_eq!("Node-1.example.org:8080".parse::<DialAddr>()?.to_string(), "node-1.example.org:8080");
/// assert!("node-1.example.org".parse::<DialAddr>().is_err());
/// # Ok::<(), p2p_gossip::DialAddrError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DialAddr {
    /// An IP address and port, and the interface's index if the address is link-local.
    Socket(SocketAddr),
    /// A link-local address and port, behind an interface of this name. The interface need not exist yet.
    LinkLocal {
        /// The address.
        ip: Ipv6Addr,
        /// The interface's name; its index differs each time that the interface is made.
        interface: InterfaceName,
        /// TCP port.
        port: u16,
    },
    /// A host name and port.
    Name {
        /// Valid host name.
        host: HostName,
        /// TCP port.
        port: u16,
    },
}

impl DialAddr {
    /// The socket address; `None` for the name of a host or interface.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(addr) => Some(*addr),
            Self::LinkLocal { .. } | Self::Name { .. } => None,
        }
    }

    /// Whether a peer could have this address. Others, such as multicast addresses, are not dialled.
    #[must_use]
    pub fn is_dialable(&self) -> bool {
        match self {
            Self::Socket(addr) => is_dialable(addr) && !lacks_scope(addr),
            Self::LinkLocal { port, .. } | Self::Name { port, .. } => *port != 0,
        }
    }

    /// The address with the name of its interface, as it is stored: the index differs each time that the interface
    /// is made. Unchanged if this machine does not have that interface now, or the address needs none.
    pub(crate) fn with_interface_name(&self) -> Self {
        match self {
            Self::Socket(SocketAddr::V6(v6)) if is_link_local(&(*v6).into()) => {
                match name_of(v6.scope_id()) {
                    Some(interface) => Self::LinkLocal { ip: *v6.ip(), interface, port: v6.port() },
                    None => self.clone(),
                }
            }
            other => other.clone(),
        }
    }

    /// The address with the index that its interface has now. Unchanged if this machine does not have that
    /// interface now.
    pub(crate) fn with_interface_index(&self) -> Self {
        match self {
            Self::LinkLocal { ip, interface, port } => match interface.index() {
                Ok(index) => Self::Socket(SocketAddrV6::new(*ip, *port, 0, index).into()),
                Err(_) => self.clone(),
            },
            other => other.clone(),
        }
    }

    /// Whether this is a host name, which may stand for any number of addresses.
    pub(crate) fn is_name(&self) -> bool {
        matches!(self, Self::Name { .. })
    }

    /// Whether the address means the machine that dials it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Socket(addr) => addr.ip().to_canonical().is_loopback(),
            Self::LinkLocal { .. } => false,
            Self::Name { host, .. } => host.is_loopback(),
        }
    }
}

impl From<SocketAddr> for DialAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Socket(canonical(addr))
    }
}

impl fmt::Display for DialAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(addr) => addr.fmt(f),
            Self::LinkLocal { ip, interface, port } => write!(f, "[{ip}%{interface}]:{port}"),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Writes the text of [`Display`](fmt::Display).
impl Serialize for DialAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Parses text. Accepts also socket addresses that can't be dialled, because events may show them.
impl<'de> Deserialize<'de> for DialAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let socket = text.parse::<SocketAddr>().ok().map(Self::Socket);
        socket.map_or_else(|| text.parse().map_err(serde::de::Error::custom), Ok)
    }
}

impl FromStr for DialAddr {
    type Err = DialAddrError;

    fn from_str(s: &str) -> Result<Self, DialAddrError> {
        if s.contains("://") {
            return Err(DialAddrError::Url);
        }
        if is_list(s) {
            return Err(DialAddrError::Several);
        }
        let (host, port) = s.rsplit_once(':').ok_or(DialAddrError::NoPort)?;
        if host.starts_with('[') || host.contains(':') {
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let (ip, zone) = parse_ipv6(bare.ok_or(DialAddrError::BadIpv6)?)?;
            let port = parse_port(port)?;
            return match zone {
                Zone::Name(interface) if ip.is_unicast_link_local() => {
                    Ok(Self::LinkLocal { ip, interface, port })
                }
                zone => refuse_unspecified(SocketAddrV6::new(ip, port, 0, zone.index()).into()),
            };
        }
        if host.is_empty() {
            return Err(DialAddrError::NoHost);
        }
        let port = parse_port(port)?;
        if let Ok(ip) = host.parse::<IpAddr>() {
            return refuse_unspecified(SocketAddr::new(ip, port));
        }
        Ok(Self::Name { host: HostName::new(host)?, port })
    }
}

/// Whether more text follows an address, behind a comma or blank.
fn is_list(text: &str) -> bool {
    let mut words = text.split([',', ';', ' ']).filter(|word| !word.is_empty());
    let first = words.next();
    words.next().is_some() && first.is_some_and(|word| word.parse::<DialAddr>().is_ok())
}

fn refuse_unspecified(addr: SocketAddr) -> Result<DialAddr, DialAddrError> {
    let addr = canonical(addr);
    if addr.ip().is_unspecified() {
        return Err(DialAddrError::Unspecified);
    }
    Ok(DialAddr::Socket(addr))
}

fn parse_port(port: &str) -> Result<u16, DialAddrError> {
    match port.parse() {
        Ok(number) if number != 0 && !port.starts_with('+') => Ok(number),
        _ => Err(DialAddrError::BadPort),
    }
}

/// Converts an address to its one form. An IPv4 address mapped into IPv6 (`::ffff:192.0.2.7`), as a listener on
/// every interface sees IPv4 peers, becomes an IPv4 address. Flow labels are removed, and so are the scopes of
/// addresses that need none.
#[must_use]
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => {
                let scope = if v6.ip().is_unicast_link_local() { v6.scope_id() } else { 0 };
                SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into()
            }
        },
        SocketAddr::V4(_) => addr,
    }
}

/// Whether this is an IPv6 address that is valid on one link only (RFC 4291 section 2.5.6).
#[must_use]
pub(crate) fn is_link_local(addr: &SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local())
}

/// Whether the address has a meaning in one network only: private (RFC 1918, RFC 4193), link-local (RFC 3927, RFC 4291),
/// or shared behind a provider's address translation (RFC 6598).
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_private() || v4.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The index of a link-local address's interface; 0 if it has none.
#[must_use]
pub(crate) fn scope_of(addr: &SocketAddr) -> u32 {
    match addr {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

/// Whether this is a link-local address without its interface.
pub(crate) fn lacks_scope(addr: &SocketAddr) -> bool {
    is_link_local(addr) && scope_of(addr) == 0
}

fn is_dialable(addr: &SocketAddr) -> bool {
    let ip_ok = match addr.ip().to_canonical() {
        // 0.0.0.0/8 is "this network" (RFC 1122 section 3.2.1.3); 240.0.0.0/4 is reserved and includes broadcast.
        IpAddr::V4(ip) => !ip.is_multicast() && ip.octets()[0] != 0 && ip.octets()[0] < 240,
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    };
    ip_ok && addr.port() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, DialAddrError> {
        text.parse::<DialAddr>().map(|addr| addr.to_string())
    }

    #[test]
    fn each_address_has_one_text() {
        for (text, shown) in [
            ("192.0.2.7:80", "192.0.2.7:80"),
            ("[2001:DB8::7]:80", "[2001:db8::7]:80"),
            ("[::ffff:192.0.2.7]:80", "192.0.2.7:80"),
            ("[fe80::1%3]:80", "[fe80::1%3]:80"),
            ("[FE80::1%wlan7]:80", "[fe80::1%wlan7]:80"),
            ("[2001:db8::7%wlan7]:80", "[2001:db8::7]:80"),
            ("[2001:db8::7%3]:80", "[2001:db8::7]:80"),
            ("Node_1.Example.org.:80", "node_1.example.org.:80"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(shown));
        }
    }

    #[test]
    fn text_that_is_no_address_is_refused_with_the_reason() {
        for (text, error) in [
            ("192.0.2.7", DialAddrError::NoPort),
            ("192.0.2.7:0", DialAddrError::BadPort),
            (":80", DialAddrError::NoHost),
            ("2001:db8::7:80", DialAddrError::BadIpv6),
            ("[2001:db8::g]:80", DialAddrError::BadIpv6),
            ("0.0.0.0:80", DialAddrError::Unspecified),
            ("a..b:80", DialAddrError::BadHost),
            ("256.1.1.1:80", DialAddrError::BadHost),
            ("[fe80::1%0]:80", DialAddrError::BadInterface),
            ("[fe80::1%]:80", DialAddrError::BadInterface),
            ("[fe80::1%longer-than-fifteen]:80", DialAddrError::BadInterface),
            ("[fe80::1%a/b]:80", DialAddrError::BadInterface),
            ("a:1,b:2", DialAddrError::Several),
            ("[::1]:1, 192.0.2.7:2", DialAddrError::Several),
            ("a:1,b", DialAddrError::Several),
            ("tls://a:1", DialAddrError::Url),
            ("https://a.example/", DialAddrError::Url),
            ("müller.example:1", DialAddrError::NotAscii('ü')),
            ("a\u{ad}b:1", DialAddrError::BadHost),
        ] {
            assert_eq!(parsed(text), Err(error), "{text}");
        }
    }

    #[test]
    fn loopback_is_recognized_by_all_its_names() {
        for text in
            ["localhost:1", "LOCALHOST.:1", "a.localhost:1", "ip6-loopback:1", "127.9.9.9:1", "[::1]:1"]
        {
            assert!(text.parse::<DialAddr>().unwrap().is_loopback(), "{text}");
        }
        for text in ["localhost.example:1", "notlocalhost:1", "10.0.0.1:1"] {
            assert!(!text.parse::<DialAddr>().unwrap().is_loopback(), "{text}");
        }
    }

    #[test]
    fn address_that_no_peer_can_have_is_not_dialable() {
        for addr in [
            "0.0.0.0:1",
            "[::]:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[ff02::1]:1",
            "10.0.0.1:0",
            "[fe80::1]:1",
        ] {
            assert!(!DialAddr::Socket(addr.parse().unwrap()).is_dialable(), "{addr}");
        }
        for addr in ["127.0.0.1:1", "10.0.0.1:1", "[::1]:1", "[fe80::1%1]:1"] {
            assert!(DialAddr::Socket(addr.parse().unwrap()).is_dialable(), "{addr}");
        }
    }
}
