//! What a node is told before it starts, and every limit and interval it keeps to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use crate::text;

/// TCP port a node listens on unless told otherwise.
pub const PORT_DEFAULT: u16 = 8080;
/// Time between pings to a peer unless told otherwise.
pub const PERIOD_DEFAULT: Duration = Duration::from_secs(5);
/// Shortest accepted ping period: below it a mesh of a few dozen nodes would do little else.
pub const PERIOD_MIN: Duration = Duration::from_millis(10);
/// Longest accepted ping period, a day: anything above is a typing error.
pub const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Time between heartbeats to a peer. Three of them fit into [`TIMEOUT`].
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Silence after which a peer is dead.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// Time a dead peer is remembered and redialled.
pub const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Peers known at once, in whatever state; a full mesh of more is beyond one machine's descriptors.
pub const PEERS_MAX: usize = 1024;

/// Bytes in a node's name: one label, not a document.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes in the text of a ping.
pub const PING_TEXT_BYTES_MAX: usize = 256;

/// Wait for an answer to a TCP connection attempt. Short, as a fresh attempt finds a healed network
/// sooner than the kernel's ever rarer retries of an old one.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// From accept or dial until the other side's Hello, all together: a silent or slow stranger holds
/// a thread no longer than this, and a hundred nodes can still start at once on a small machine.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From our goodbye until the other side has closed as well.
pub const LINGER: Duration = Duration::from_secs(2);
/// From our goodbye until the process may go when it leaves the mesh.
pub const LEAVE_FLUSH: Duration = Duration::from_millis(500);
/// A peer that takes none of the bytes waiting for it for this long is too slow.
pub const WRITE_STALL: Duration = Duration::from_secs(10);

/// Accepted connections that have not yet said Hello. When full, the oldest one of the address
/// that holds most gives way, so strangers that say nothing never keep a peer out.
pub const UNAUTHENTICATED_MAX: usize = 256;
/// Connections that may wait in the kernel to be accepted: a whole mesh may dial at once.
pub const BACKLOG: i32 = 1024;
/// Frames waiting to be sent to one peer; more means that it is too slow.
pub const OUTBOX_FRAMES: usize = 256;
/// Session events waiting for the coordinator; beyond it sessions wait, and TCP slows their peers.
pub const INBOX_EVENTS: usize = 1024;
/// Events waiting for the user; beyond it they are dropped and counted.
pub const EVENTS_QUEUED: usize = 4096;
/// Events waiting above which pings are dropped: whoever floods us with pings must not hide who comes
/// and goes.
pub const EVENTS_QUEUED_WITH_PINGS: usize = EVENTS_QUEUED / 2;
/// Frames taken from one peer per second in the long run, and at once; who sends more is read
/// more slowly. An honest peer sends a few.
pub const FRAMES_PER_SECOND: u32 = 2000;
/// See [`FRAMES_PER_SECOND`].
pub const FRAMES_BURST: u32 = 4000;
/// Virtual memory for the stack of a session's thread; only what it touches becomes real.
pub const SESSION_STACK_BYTES: usize = 512 * 1024;

/// Configuration of a [`Node`](crate::Node). Start from [`Config::default`] and change what differs.
///
/// ```
/// use p2p_gossip::Config;
/// let config = Config { port: 0, connect: vec!["192.0.2.7:8080".parse()?], ..Config::default() };
/// config.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Time between application pings to each peer.
    pub period: Duration,
    /// TCP port to listen on; 0 takes any free one.
    pub port: u16,
    /// Address to listen on and to dial from; `None` is every interface, IPv4 and IPv6.
    pub bind: Option<IpAddr>,
    /// Peers to join through. Each is dialled until it answers, for as long as the node runs.
    pub connect: Vec<DialAddr>,
    /// Label shown beside the id; declared by the node itself and authenticated by nobody.
    pub name: String,
    /// What our pings say.
    pub ping_text: String,
    /// Time between heartbeats to each peer.
    pub heartbeat: Duration,
    /// Silence after which a peer is dead.
    pub timeout: Duration,
    /// Time a dead or departed peer is remembered.
    pub forget_after: Duration,
    /// Peers known at once, in whatever state.
    pub peers_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            period: PERIOD_DEFAULT,
            port: PORT_DEFAULT,
            bind: None,
            connect: Vec::new(),
            name: String::new(),
            ping_text: "ping".to_owned(),
            heartbeat: HEARTBEAT,
            timeout: TIMEOUT,
            forget_after: FORGET_AFTER,
            peers_max: PEERS_MAX,
        }
    }
}

impl Config {
    /// Checks that the values make sense, alone and together.
    ///
    /// # Errors
    /// The first value that does not, with what would be accepted.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.period < PERIOD_MIN || self.period > PERIOD_MAX {
            return Err(ConfigError::Period(self.period));
        }
        check_name(&self.name)?;
        if self.ping_text.len() > PING_TEXT_BYTES_MAX {
            return Err(ConfigError::PingText(self.ping_text.len()));
        }
        if self.heartbeat < Duration::from_millis(10) || self.timeout < self.heartbeat * 2 {
            return Err(ConfigError::Timeout { heartbeat: self.heartbeat, timeout: self.timeout });
        }
        if self.peers_max == 0 {
            return Err(ConfigError::PeersMax);
        }
        Ok(())
    }
}

/// Checks a node's name: at most [`NAME_BYTES_MAX`] bytes, nothing that a terminal would act on.
///
/// # Errors
/// Says which of the two it breaks.
pub fn check_name(name: &str) -> Result<(), ConfigError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(ConfigError::NameLength(name.len()));
    }
    if let Some(bad) = name.chars().find(|&c| text::is_unsafe(c)) {
        return Err(ConfigError::NameCharacter(bad));
    }
    Ok(())
}

/// A configuration value that can't be used.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The ping period is out of range.
    #[error("the period is {0:?}; it must be from 0.01 seconds to 86400 (a day)")]
    Period(Duration),
    /// The name is too long.
    #[error("the name has {0} bytes; at most {NAME_BYTES_MAX} are allowed")]
    NameLength(usize),
    /// The name has a character that a terminal would act on.
    #[error("the name contains the control character {0:?}")]
    NameCharacter(char),
    /// The ping text is too long.
    #[error("the ping text has {0} bytes; at most {PING_TEXT_BYTES_MAX} are allowed")]
    PingText(usize),
    /// Peers would be declared dead between two of their heartbeats.
    #[error(
        "the timeout is {timeout:?} with a heartbeat of {heartbeat:?}; it must be at least two heartbeats, and a heartbeat at least 10 ms"
    )]
    Timeout {
        /// Time between heartbeats.
        heartbeat: Duration,
        /// Silence after which a peer is dead.
        timeout: Duration,
    },
    /// No peer could ever be known.
    #[error("peers_max is 0; it must be at least 1")]
    PeersMax,
}

/// Where to dial: a socket address, or a DNS name that the dialling thread resolves anew each time.
///
/// ```
/// use p2p_gossip::DialAddr;
/// assert_eq!("[::1]:8080".parse::<DialAddr>()?.to_string(), "[::1]:8080");
/// assert_eq!("node-1.example.org:8080".parse::<DialAddr>()?.to_string(), "node-1.example.org:8080");
/// assert!("node-1.example.org".parse::<DialAddr>().is_err());
/// # Ok::<(), p2p_gossip::config::DialAddrError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialAddr {
    /// An IP address and port.
    Socket(SocketAddr),
    /// A host name and port.
    Name {
        /// Host name, checked for the characters that host names have.
        host: String,
        /// TCP port.
        port: u16,
    },
}

impl DialAddr {
    /// The socket address, if no name has to be resolved first.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Socket(addr) => Some(*addr),
            Self::Name { .. } => None,
        }
    }
}

impl From<SocketAddr> for DialAddr {
    fn from(addr: SocketAddr) -> Self {
        Self::Socket(addr)
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

/// Why a text is not an address to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialAddrError {
    /// There is no `:port` at the end.
    #[error("the port is missing: write host:port, for example 192.0.2.7:8080")]
    NoPort,
    /// What follows the last colon is not a port.
    #[error("the port must be a number from 1 to 65535")]
    BadPort,
    /// The host is empty.
    #[error("the host is missing: write host:port, for example 192.0.2.7:8080")]
    NoHost,
    /// An IPv6 address needs brackets, or what is in them is not one.
    #[error("an IPv6 address is written in brackets: [2001:db8::7]:8080")]
    BadIpv6,
    /// The host is neither an IP address nor a host name.
    #[error("the host is neither an IP address nor a host name")]
    BadHost,
    /// `0.0.0.0` and `[::]` mean every interface; nobody can be reached there.
    #[error(
        "the host is the unspecified address; name the machine to connect to, for example 127.0.0.1:8080"
    )]
    Unspecified,
}

impl FromStr for DialAddr {
    type Err = DialAddrError;

    fn from_str(s: &str) -> Result<Self, DialAddrError> {
        let (host, port) = s.rsplit_once(':').ok_or(DialAddrError::NoPort)?;
        if host.starts_with('[') || host.contains(':') {
            // `[v6%scope]:port` goes through std's parser, which knows numeric scopes.
            let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let bare = inner.ok_or(DialAddrError::BadIpv6)?;
            let port = parse_port(port)?;
            if let Ok(SocketAddr::V6(addr)) = format!("[{bare}]:{port}").parse() {
                return specified(SocketAddr::V6(addr));
            }
            return Err(DialAddrError::BadIpv6);
        }
        if host.is_empty() {
            return Err(DialAddrError::NoHost);
        }
        let port = parse_port(port)?;
        if let Ok(ip) = host.parse::<IpAddr>() {
            return specified(SocketAddr::new(ip, port));
        }
        if !is_host_name(host) {
            return Err(DialAddrError::BadHost);
        }
        Ok(Self::Name { host: host.to_owned(), port })
    }
}

fn specified(addr: SocketAddr) -> Result<DialAddr, DialAddrError> {
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

/// RFC 1123 section 2.1, plus the underscore that people use anyway. A name made of digits and
/// dots only is a mistyped IPv4 address, not a name.
fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253
        && host.split('.').all(label_ok)
        && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// An IPv4 address mapped into IPv6 (`::ffff:192.0.2.7`) as the IPv4 address that it is: a listener
/// on every interface sees IPv4 peers like that.
#[must_use]
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(IpAddr::V4(v4), v6.port()),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}
