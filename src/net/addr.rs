//! Addresses to dial and to listen on: their text form, and which of them can belong to a peer.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes in a host name as text, with a closing dot (RFC 1035 section 2.3.4 allows 255 in its wire form).
pub(crate) const HOST_BYTES_MAX: usize = 254;
/// Bytes in one label of a host name (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
/// Bytes in the name of a network interface: `IFNAMSIZ` without its final NUL (netdevice(7)).
const INTERFACE_BYTES_MAX: usize = 15;

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
            return Ok(Self(name.to_ascii_lowercase().into_boxed_str()));
        }
        Err(bare
            .chars()
            .find(|c| c.is_alphabetic() && !c.is_ascii())
            .map_or(DialAddrError::BadHost, DialAddrError::NotAscii))
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

/// The name of a network interface, such as `eth0`. Whether this machine has it is another question.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName {
    /// The name, filled up with zeros.
    bytes: [u8; INTERFACE_BYTES_MAX],
}

impl InterfaceName {
    /// Checks a name; `None` if no system accepts it.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let is_allowed = |b: u8| b.is_ascii_graphic() && !b"/:%[]".contains(&b);
        let is_name = name.bytes().all(is_allowed) && !matches!(name, "" | "." | "..");
        let mut bytes = [0; INTERFACE_BYTES_MAX];
        bytes.get_mut(..name.len()).filter(|_| is_name)?.copy_from_slice(name.as_bytes());
        Some(Self { bytes })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.bytes.iter().position(|&b| b == 0).unwrap_or(INTERFACE_BYTES_MAX);
        // Only ASCII is accepted, so this is always text.
        std::str::from_utf8(&self.bytes[..end]).unwrap_or_default()
    }

    /// The interface's index now.
    ///
    /// # Errors
    /// This machine has no such interface now. (Only Linux and Android look names up.)
    pub(crate) fn index(&self) -> io::Result<u32> {
        index_of(self.as_str()).ok_or_else(|| {
            let text = format!("this machine has no network interface '{self}' now");
            io::Error::new(io::ErrorKind::NotFound, text)
        })
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// Why a text is not an address to dial. Holds no part of the text but a character that is no ASCII.
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
    /// The text behind the `%` can't be an interface.
    #[error("the text after % is no name or number of a network interface")]
    BadInterface,
    /// The text is a list.
    #[error("this is more than one address; give each with its own option")]
    Several,
    /// The text is a URL.
    #[error("an address is host:port alone, without a scheme such as tls:// and without a path")]
    Url,
    /// The host has a character that is not ASCII.
    #[error("the host contains {0:?}; write the domain in its ASCII form, whose labels begin with xn--")]
    NotAscii(char),
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

/// The interface that an IPv6 address is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    /// None, or this index; 0 is none.
    Index(u32),
    Name(InterfaceName),
}

impl Zone {
    /// The index, or 0 for a name.
    fn index(self) -> u32 {
        match self {
            Self::Index(index) => index,
            Self::Name(_) => 0,
        }
    }
}

/// Parses an IPv6 address, optionally followed by `%` and an interface's name or index.
fn parse_ipv6(text: &str) -> Result<(Ipv6Addr, Zone), DialAddrError> {
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

#[cfg(any(target_os = "linux", target_os = "android"))]
fn index_of(name: &str) -> Option<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    // Any kind of socket will do (netdevice(7)).
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    netdevice::name_to_index(&socket, name).ok()
}

/// Other systems know an interface's index only.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn index_of(_name: &str) -> Option<u32> {
    None
}

/// The name of the interface with this index, if this machine has it now.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn name_of(index: u32) -> Option<InterfaceName> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).ok()?;
    InterfaceName::new(&netdevice::index_to_name(&socket, index).ok()?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn name_of(_index: u32) -> Option<InterfaceName> {
    None
}

/// An IP address of this machine, and its interface if the address is link-local.
///
/// ```
/// use p2p_gossip::LocalIp;
/// assert_eq!("::ffff:192.0.2.7".parse::<LocalIp>()?.to_string(), "192.0.2.7");
/// # Ok::<(), p2p_gossip::DialAddrError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalIp {
    ip: IpAddr,
    zone: Zone,
}

impl LocalIp {
    /// The address.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.ip
    }

    /// The address with a port, and with the index that its interface has now.
    ///
    /// # Errors
    /// The address names an interface that this machine does not have now.
    pub fn socket_addr(self, port: u16) -> io::Result<SocketAddr> {
        let index = match self.zone {
            Zone::Index(index) => index,
            Zone::Name(interface) => interface.index()?,
        };
        Ok(self.with_index(port, index))
    }

    /// The address with a port, as peers dial it.
    #[must_use]
    pub fn dial_addr(self, port: u16) -> DialAddr {
        match (self.ip, self.zone) {
            (IpAddr::V6(ip), Zone::Name(interface)) => DialAddr::LinkLocal { ip, interface, port },
            (_, zone) => DialAddr::Socket(self.with_index(port, zone.index())),
        }
    }

    fn with_index(self, port: u16, index: u32) -> SocketAddr {
        match self.ip {
            IpAddr::V4(ip) => SocketAddr::new(ip.into(), port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, index).into(),
        }
    }

    /// Whether the address is link-local without an interface.
    #[must_use]
    pub fn lacks_scope(self) -> bool {
        matches!(self.zone, Zone::Index(index) if lacks_scope(&self.with_index(0, index)))
    }
}

impl From<IpAddr> for LocalIp {
    fn from(ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), zone: Zone::Index(0) }
    }
}

impl FromStr for LocalIp {
    type Err = DialAddrError;

    fn from_str(s: &str) -> Result<Self, DialAddrError> {
        if let Ok(ip) = s.parse::<IpAddr>() {
            return Ok(ip.into());
        }
        let (ip, zone) = parse_ipv6(s).map_err(|error| match error {
            DialAddrError::BadInterface => error,
            _ => DialAddrError::BadHost,
        })?;
        let zone = if ip.is_unicast_link_local() { zone } else { Zone::Index(0) };
        Ok(Self { ip: IpAddr::V6(ip).to_canonical(), zone })
    }
}

impl fmt::Display for LocalIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.zone {
            Zone::Index(0) => self.ip.fmt(f),
            Zone::Index(index) => write!(f, "{}%{index}", self.ip),
            Zone::Name(interface) => write!(f, "{}%{interface}", self.ip),
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
    fn interface_stays_a_name_until_its_index_is_needed() {
        let local: LocalIp = "fe80::1%lo".parse().unwrap();
        assert_eq!(local.dial_addr(80).to_string(), "[fe80::1%lo]:80");
        assert_eq!(parsed("[fe80::1%lo]:80").as_deref(), Ok("[fe80::1%lo]:80"));
        let by_index = local.socket_addr(80).unwrap();
        assert_eq!(by_index, format!("[fe80::1%{}]:80", scope_of(&by_index)).parse().unwrap());
        let by_name = DialAddr::Socket(by_index).with_interface_name();
        assert_eq!(by_name, local.dial_addr(80));
        assert_eq!(by_name.with_interface_index(), DialAddr::Socket(by_index));
        let absent: DialAddr = "[fe80::1%no-such-if]:80".parse().unwrap();
        assert!(absent.is_dialable() && absent.with_interface_index() == absent);
        let refused = "fe80::1%no-such-if".parse::<LocalIp>().unwrap().socket_addr(80).unwrap_err();
        assert!(refused.to_string().contains("no network interface 'no-such-if' now"), "{refused}");
    }

    #[test]
    fn local_ip_is_an_ip_without_a_port() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::1", "::1"),
            ("fe80::1%3", "fe80::1%3"),
            ("fe80::1%wlan7", "fe80::1%wlan7"),
            ("::1%wlan7", "::1"),
        ] {
            assert_eq!(text.parse::<LocalIp>().map(|ip| ip.to_string()).as_deref(), Ok(shown));
        }
        for text in ["", "host", "192.0.2.7:80", "[::1]", "192.0.2.7%1"] {
            assert_eq!(text.parse::<LocalIp>(), Err(DialAddrError::BadHost), "{text}");
        }
        assert!("fe80::1".parse::<LocalIp>().unwrap().lacks_scope());
    }
}
