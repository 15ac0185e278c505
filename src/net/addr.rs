//! Addresses to dial and to listen on: their text form, and which of them can belong to a peer.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes in a host name as text, with a closing dot (RFC 1035 section 2.3.4 allows 255 in its wire form).
pub(crate) const HOST_BYTES_MAX: usize = 254;
/// Bytes in one label of a host name (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// An address to dial: a socket address, or a DNS name that the dialling thread resolves at each dial.
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
    /// A host name and port.
    Name {
        /// Valid host name.
        host: HostName,
        /// TCP port.
        port: u16,
    },
}

impl DialAddr {
    /// The socket address; `None` for a name.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(addr) => Some(*addr),
            Self::Name { .. } => None,
        }
    }

    /// Whether a peer could have this address. Others, such as multicast addresses, are not dialled.
    #[must_use]
    pub fn is_dialable(&self) -> bool {
        match self {
            Self::Socket(addr) => is_dialable(addr) && !lacks_scope(addr),
            Self::Name { port, .. } => *port != 0,
        }
    }

    /// Whether the address means the machine that dials it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Socket(addr) => addr.ip().to_canonical().is_loopback(),
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

/// A host name: RFC 1123 section 2.1, plus the underscore, which is common in practice; in lower case.
/// A name whose last label is a number is refused: resolvers take `127.1` and `0x7f.1` for IPv4 addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// Checks a name and converts it to lower case.
    ///
    /// # Errors
    /// The text is no host name.
    pub fn new(name: &str) -> Result<Self, DialAddrError> {
        let bare = name.strip_suffix('.').unwrap_or(name);
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= LABEL_BYTES_MAX
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let last_is_number = bare.rsplit('.').next().is_some_and(|last| {
            let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
            last.bytes().all(|b| b.is_ascii_digit())
                || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
        });
        if bare.len() < HOST_BYTES_MAX && bare.split('.').all(label_ok) && !last_is_number {
            Ok(Self(name.to_ascii_lowercase().into_boxed_str()))
        } else {
            Err(DialAddrError::BadHost)
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name means the machine that resolves it: RFC 6761 section 6.3, and the names that systems
    /// have in /etc/hosts.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let bare = self.0.strip_suffix('.').unwrap_or(&self.0);
        let known = [
            "localhost",
            "localhost.localdomain",
            "localhost4",
            "localhost6",
            "ip6-localhost",
            "ip6-loopback",
        ];
        known.contains(&bare) || bare.ends_with(".localhost")
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not an address to dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialAddrError {
    /// The text has no `:port` at its end.
    #[error("the port is missing: write host:port, for example 192.0.2.7:8080")]
    NoPort,
    /// The text behind the last colon is no port.
    #[error("the port must be a number from 1 to 65535")]
    BadPort,
    /// The host is empty.
    #[error("the host is missing: write host:port, for example 192.0.2.7:8080")]
    NoHost,
    /// An IPv6 address lacks brackets, or the text in them is none.
    #[error("an IPv6 address is written in brackets: [2001:db8::7]:8080")]
    BadIpv6,
    /// The host is neither an IP address nor a host name.
    #[error("the host is neither an IP address nor a host name")]
    BadHost,
    /// `0.0.0.0` and `[::]` mean every interface; no peer can be reached there.
    #[error(
        "the host is the unspecified address; name the machine to connect to, for example 127.0.0.1:8080"
    )]
    Unspecified,
    /// The text behind the `%` is no interface of this machine.
    #[error("this machine has no network interface '{}'", .0.escape_default())]
    NoInterface(String),
}

impl FromStr for DialAddr {
    type Err = DialAddrError;

    /// Looks up the index of an interface's name behind the `%` of a link-local address.
    fn from_str(s: &str) -> Result<Self, DialAddrError> {
        let (host, port) = s.rsplit_once(':').ok_or(DialAddrError::NoPort)?;
        if host.starts_with('[') || host.contains(':') {
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let (ip, scope) = parse_ipv6(bare.ok_or(DialAddrError::BadIpv6)?)?;
            return refuse_unspecified(SocketAddrV6::new(ip, parse_port(port)?, 0, scope).into());
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

/// Parses an IPv6 address, optionally followed by `%` and an interface's name or index. Returns the index, or 0.
fn parse_ipv6(text: &str) -> Result<(Ipv6Addr, u32), DialAddrError> {
    let (ip, zone) = text.split_once('%').map_or((text, None), |(ip, zone)| (ip, Some(zone)));
    let ip: Ipv6Addr = ip.parse().map_err(|_| DialAddrError::BadIpv6)?;
    let scope = match zone {
        None => 0,
        Some(zone) => interface_index(zone).ok_or_else(|| DialAddrError::NoInterface(zone.to_owned()))?,
    };
    Ok((ip, scope))
}

fn interface_index(zone: &str) -> Option<u32> {
    if zone.bytes().all(|b| b.is_ascii_digit()) {
        return zone.parse().ok().filter(|&index| index != 0);
    }
    index_of(zone)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn index_of(name: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    // Any kind of socket will do (netdevice(7)).
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::name_to_index(&socket, name).ok()
}

/// Other systems accept an interface's index only.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn index_of(_name: &str) -> Option<u32> {
    None
}

/// An IP address of this machine, and the interface's index if the address is link-local.
///
/// ```
/// use p2p_gossip::LocalIp;
/// assert_eq!("::ffff:192.0.2.7".parse::<LocalIp>()?.to_string(), "192.0.2.7");
/// # Ok::<(), p2p_gossip::DialAddrError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalIp {
    ip: IpAddr,
    scope: u32,
}

impl LocalIp {
    /// The address.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The address with a port.
    #[must_use]
    pub fn with_port(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
        }
    }

    /// Whether the address is link-local without an interface.
    #[must_use]
    pub fn lacks_scope(self) -> bool {
        lacks_scope(&self.with_port(0))
    }
}

impl From<IpAddr> for LocalIp {
    fn from(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), scope: 0 }
    }
}

impl FromStr for LocalIp {
    type Err = DialAddrError;

    fn from_str(s: &str) -> Result<Self, DialAddrError> {
        if let Ok(ip) = s.parse::<IpAddr>() {
            return Ok(ip.into());
        }
        let (ip, scope) = parse_ipv6(s).map_err(|error| match error {
            DialAddrError::NoInterface(_) => error,
            _ => DialAddrError::BadHost,
        })?;
        let addr = canonical(SocketAddrV6::new(ip, 0, 0, scope).into());
        Ok(Self { ip: addr.ip(), scope: scope_of(&addr) })
    }
}

impl fmt::Display for LocalIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            0 => self.ip.fmt(f),
            scope => write!(f, "{}%{scope}", self.ip),
        }
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

/// The index of a link-local address's interface; 0 if it has none.
#[must_use]
pub(crate) fn scope_of(addr: &SocketAddr) -> u32 {
    match addr {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

fn lacks_scope(addr: &SocketAddr) -> bool {
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
            ("[fe80::1%0]:80", DialAddrError::NoInterface("0".to_owned())),
            ("[fe80::1%no-such-if]:80", DialAddrError::NoInterface("no-such-if".to_owned())),
        ] {
            assert_eq!(parsed(text), Err(error), "{text}");
        }
    }

    #[test]
    fn text_that_resolvers_take_for_an_address_is_no_host_name() {
        for host in ["127.1", "0x7f.1", "2130706433", "0x7f000001", "a.0X7F", "a.1.", "1"] {
            assert_eq!(HostName::new(host), Err(DialAddrError::BadHost), "{host}");
        }
        for host in ["1.a", "0x7g", "4you.example", "a1"] {
            assert!(HostName::new(host).is_ok(), "{host}");
        }
    }

    #[test]
    fn host_name_and_label_lengths_are_limited() {
        let label = "x".repeat(LABEL_BYTES_MAX);
        let longest = format!("{label}.{label}.{label}.{}", "x".repeat(61));
        assert_eq!(longest.len(), 253);
        assert!(HostName::new(&longest).is_ok() && HostName::new(&format!("{longest}.")).is_ok());
        assert!(HostName::new(&format!("{longest}x")).is_err());
        assert!(HostName::new(&format!("{label}x")).is_err());
        assert!(HostName::new("").is_err() && HostName::new(".").is_err());
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

    #[cfg(target_os = "linux")]
    #[test]
    fn interface_is_accepted_by_name_and_by_index() {
        let by_name = parsed("[fe80::1%lo]:80").unwrap();
        assert_eq!(parsed(&by_name), Ok(by_name.clone()));
        assert_eq!("fe80::1%lo".parse::<LocalIp>().map(|ip| ip.with_port(80).to_string()), Ok(by_name));
    }

    #[test]
    fn local_ip_is_an_ip_without_a_port() {
        for (text, shown) in [("192.0.2.7", "192.0.2.7"), ("::1", "::1"), ("fe80::1%3", "fe80::1%3")] {
            assert_eq!(text.parse::<LocalIp>().map(|ip| ip.to_string()).as_deref(), Ok(shown));
        }
        for text in ["", "host", "192.0.2.7:80", "[::1]", "192.0.2.7%1"] {
            assert_eq!(text.parse::<LocalIp>(), Err(DialAddrError::BadHost), "{text}");
        }
        assert!("fe80::1".parse::<LocalIp>().unwrap().lacks_scope());
    }
}
