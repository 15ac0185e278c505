//! What a node is told before it starts, and every limit and interval it keeps to.

use std::time::Duration;

use crate::access::Access;
use crate::addr::{DialAddr, LocalIp, is_link_local};
use crate::network_key::NetworkKey;
use crate::pin::ConnectAddr;
use crate::text;
use crate::wire::ADDRS_MAX;

/// TCP port a node listens on unless told otherwise.
pub const PORT_DEFAULT: u16 = 8080;
/// Time between pings to a peer unless told otherwise.
pub const PERIOD_DEFAULT: Duration = Duration::from_secs(5);
/// Shortest accepted ping period: below it a mesh of a few dozen nodes would do little else.
pub const PERIOD_MIN: Duration = Duration::from_millis(10);
/// Longest accepted ping period, a day: anything above is a typing error.
pub const PERIOD_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Time between heartbeats to a peer unless told otherwise.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Shortest accepted time between heartbeats: faster ones cost a busy machine its own punctuality.
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Longest accepted time between heartbeats: peers wait for three of them, and none waits longer
/// than a minute ([`PEER_TIMEOUT_MAX`]).
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(20);
/// Heartbeats of silence after which a peer is dead unless told otherwise: one may be late, one lost.
pub const TIMEOUT_HEARTBEATS: u32 = 3;
/// Heartbeats of silence that are the least accepted: a single late one is no death.
pub const TIMEOUT_HEARTBEATS_MIN: u32 = 2;
/// Silence after which a peer is dead unless told otherwise.
pub const TIMEOUT: Duration = HEARTBEAT.saturating_mul(TIMEOUT_HEARTBEATS);
/// Longest accepted timeout: whoever is gone would be a member for an hour.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60 * 60);
/// Longest time that a peer gets because of its own slow heartbeats, lest it be immortal.
pub const PEER_TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Time a dead peer is remembered and redialled unless told otherwise. Only time counts in which this node runs
/// and is connected to another peer.
pub const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest accepted time to remember a dead peer: below it nobody would be redialled.
pub const FORGET_AFTER_MIN: Duration = Duration::from_secs(1);
/// Longest accepted time to remember a dead peer, a year: anything above is a typing error.
pub const FORGET_AFTER_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Peers known at once, in whatever state, unless told otherwise; a full mesh of more is beyond the
/// descriptors that most systems give a process.
pub const PEERS_MAX: usize = 1024;
/// Most peers that may be asked for: four thousand threads are the end of what a machine does well.
pub const PEERS_LIMIT: usize = 4096;

/// Network keys at once: the one in use, and the one before or after it.
pub const NETWORK_KEYS_MAX: usize = 2;
/// Bytes in a node's name: one label, not a document.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes in the text of a ping.
pub const PING_TEXT_BYTES_MAX: usize = 256;
/// Bytes in a broadcast message: a line of text or a small document, not a file transfer.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024;

/// Wait for an answer to a TCP connection attempt. Short, as a fresh attempt finds a healed network
/// sooner than the kernel's ever rarer retries of an old one.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// IP addresses of a name that one dial tries. Any peer can tell a name that has thousands, and so direct
/// this node's connection attempts at machines of its choice.
pub const NAME_ADDRS_MAX: usize = 4;
/// Lookups under way at once of names that peers told: this many for peers that were met and as many for
/// peers never met. A name server that does not answer holds no more dials than that.
pub const PEER_LOOKUPS_AT_ONCE: usize = 4;
/// Such lookups that may start at once, each kind of its own: a node that joins a mesh of some dozens of
/// names looks them all up.
pub const PEER_LOOKUPS_BURST: u32 = 32;
/// Such lookups per second in the long run, each kind of its own, whatever names peers tell: each costs the
/// name server two queries or more.
pub const PEER_LOOKUPS_PER_SECOND: u32 = 4;
/// Lookups under way at once of names given with `--connect`: as many as there may be dials.
pub const USER_LOOKUPS_AT_ONCE: usize = 16;
/// Such lookups that may start at once: as many as dials.
pub const USER_LOOKUPS_BURST: u32 = 128;
/// Such lookups per second in the long run: 64 names that do not answer are each looked up every 2 seconds.
pub const USER_LOOKUPS_PER_SECOND: u32 = 32;
/// From accept or dial until the other side's Hello, all together: a silent or slow stranger holds
/// a thread no longer than this, and a hundred nodes can still start at once on a small machine.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// From our goodbye until the other side has closed as well.
pub const LINGER: Duration = Duration::from_secs(2);
/// From our goodbye until the process may go when it leaves the mesh.
pub const LEAVE_FLUSH: Duration = Duration::from_millis(500);
/// From a change among the known peers until it is handed over to be written: a mesh that forms
/// changes many times a second.
pub const REMEMBER_DELAY: Duration = Duration::from_millis(500);
/// Between two times at which the known peers are written though none has come or gone: when they
/// were last seen has changed, and is all that a killed node has to tell who is long gone.
pub const REMEMBER_EVERY: Duration = Duration::from_secs(10 * 60);
/// First and longest wait before known peers that could not be written are written again.
pub const REMEMBER_RETRY_MIN: Duration = Duration::from_secs(1);
/// See [`REMEMBER_RETRY_MIN`].
pub const REMEMBER_RETRY_MAX: Duration = Duration::from_secs(60);
/// From the end of a node until it no longer waits for its disk: with [`LEAVE_FLUSH`] less than a
/// second.
pub const REMEMBER_FLUSH: Duration = Duration::from_millis(400);
/// A peer that takes none of the bytes waiting for it for this long is too slow.
pub const WRITE_STALL: Duration = Duration::from_secs(10);

/// Accepted connections that have not yet said Hello. For one more, the oldest connection of the source
/// that holds the most gives way, so strangers that say nothing never keep a peer out.
pub const UNAUTHENTICATED_MAX: usize = 256;
/// Connections that may wait in the kernel to be accepted: a whole mesh may dial at once.
pub const BACKLOG: i32 = 1024;
/// Frames waiting to be sent to one peer; more means that it is too slow.
pub const OUTBOX_FRAMES: usize = 256;
/// Frames waiting for one peer above which broadcast messages pass it by: whoever broadcasts faster
/// than a peer reads must not take the room that heartbeats need, and so end the connection.
pub const OUTBOX_FRAMES_WITH_MESSAGES: usize = OUTBOX_FRAMES / 2;
/// Session events waiting for the coordinator; beyond it sessions wait, and TCP slows their peers. The
/// places are made, and take memory, when the node starts.
pub const INBOX_EVENTS: usize = 256;
/// Routine messages waiting for the coordinator, which is not woken for them; beyond it they are events.
pub const ROUTINE_MESSAGES: usize = 1024;
/// Events waiting for the user; beyond it they are dropped and counted.
pub const EVENTS_QUEUED: usize = 4096;
/// Events waiting above which pings and messages are dropped: whoever floods us with them must not
/// hide who comes and goes.
pub const EVENTS_QUEUED_WITH_TRAFFIC: usize = EVENTS_QUEUED / 2;
/// Frames taken from one peer per second in the long run, and at once; who sends more is read
/// more slowly. An honest peer sends a few.
pub const FRAMES_PER_SECOND: u32 = 2000;
/// See [`FRAMES_PER_SECOND`].
pub const FRAMES_BURST: u32 = 4000;
/// Virtual memory for the stack of a session's thread; only what it touches becomes real.
pub const SESSION_STACK_BYTES: usize = 256 * 1024;
/// The same for the stacks on which names are looked up and handshakes compute: exchanging keys takes ten
/// times the stack of all that follows.
pub const HANDSHAKE_STACK_BYTES: usize = 512 * 1024;

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
    pub bind: Option<LocalIp>,
    /// Peers to join through. Each is dialled until it answers, for as long as the node runs; one
    /// that is pinned until the right one answers.
    pub connect: Vec<ConnectAddr>,
    /// Where others reach this node if that is not where it connects from: behind NAT or port
    /// mapping, or by a host name. At most [`ADDRS_MAX`]; told before the address that others see.
    pub advertise: Vec<DialAddr>,
    /// Who may be a peer; can be changed while the node runs.
    pub access: Access,
    /// Whether the address of a known peer is closed to everybody else.
    pub strict: bool,
    /// The keys of a closed network: all are accepted, the first is proven. None: the network is open.
    /// At most [`NETWORK_KEYS_MAX`].
    pub network_keys: Vec<NetworkKey>,
    /// Label shown beside the id; declared by the node itself and authenticated by nobody.
    pub name: String,
    /// What our pings say.
    pub ping_text: String,
    /// Time between heartbeats to each peer.
    pub heartbeat: Duration,
    /// Silence after which a peer is dead.
    pub timeout: Duration,
    /// Time a dead or departed peer is remembered. Only time counts in which this node runs and is connected to
    /// another peer.
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
            advertise: Vec::new(),
            access: Access::default(),
            strict: false,
            network_keys: Vec::new(),
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
        if self.heartbeat < HEARTBEAT_MIN || self.heartbeat > HEARTBEAT_MAX {
            return Err(ConfigError::Heartbeat(self.heartbeat));
        }
        if self.timeout < self.heartbeat * TIMEOUT_HEARTBEATS_MIN || self.timeout > TIMEOUT_MAX {
            return Err(ConfigError::Timeout { heartbeat: self.heartbeat, timeout: self.timeout });
        }
        if self.forget_after < FORGET_AFTER_MIN || self.forget_after > FORGET_AFTER_MAX {
            return Err(ConfigError::ForgetAfter(self.forget_after));
        }
        if self.peers_max == 0 || self.peers_max > PEERS_LIMIT {
            return Err(ConfigError::PeersMax(self.peers_max));
        }
        if self.network_keys.len() > NETWORK_KEYS_MAX {
            return Err(ConfigError::NetworkKeys(self.network_keys.len()));
        }
        self.check_addresses()
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        if let Some(bind) = self.bind.filter(|bind| bind.lacks_scope()) {
            return Err(ConfigError::NoScope { addr: bind.to_string(), example: "fe80::1%eth0" });
        }
        if let Some(addr) = self.connect.iter().map(|connect| &connect.addr).find(|addr| !addr.is_dialable())
        {
            let lacks_scope = addr.socket().is_some_and(|addr| is_link_local(&addr) && addr.port() != 0);
            let addr = addr.to_string();
            let example = "[fe80::1%eth0]:8080";
            return Err(if lacks_scope {
                ConfigError::NoScope { addr, example }
            } else {
                ConfigError::Nowhere(addr)
            });
        }
        if self.advertise.len() > ADDRS_MAX {
            return Err(ConfigError::Advertised(self.advertise.len()));
        }
        // Others give a link-local address the scope that it has on their side.
        let nowhere = |addr: &&DialAddr| {
            !addr.is_dialable() && !addr.socket().is_some_and(|addr| is_link_local(&addr) && addr.port() != 0)
        };
        if let Some(addr) = self.advertise.iter().find(nowhere) {
            return Err(ConfigError::Nowhere(addr.to_string()));
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
    /// There are more network keys than a change of keys needs.
    #[error("there are {0} network keys; at most {NETWORK_KEYS_MAX} are accepted, the one to prove first")]
    NetworkKeys(usize),
    /// The name is too long.
    #[error("the name has {0} bytes; at most {NAME_BYTES_MAX} are allowed")]
    NameLength(usize),
    /// The name has a character that a terminal would act on.
    #[error("the name contains the control character {0:?}")]
    NameCharacter(char),
    /// The ping text is too long.
    #[error("the ping text has {0} bytes; at most {PING_TEXT_BYTES_MAX} are allowed")]
    PingText(usize),
    /// The time between heartbeats is out of range.
    #[error(
        "the heartbeat is {0:?}; it must be from {min} to {max} seconds",
        min = HEARTBEAT_MIN.as_secs_f64(), max = HEARTBEAT_MAX.as_secs()
    )]
    Heartbeat(Duration),
    /// Peers would be declared dead between two of their heartbeats, or hardly ever.
    #[error(
        "the timeout is {timeout:?} with a heartbeat of {heartbeat:?}; it must be from {min} (two heartbeats) to {max} seconds",
        min = (*heartbeat * TIMEOUT_HEARTBEATS_MIN).as_secs_f64(), max = TIMEOUT_MAX.as_secs()
    )]
    Timeout {
        /// Time between heartbeats.
        heartbeat: Duration,
        /// Silence after which a peer is dead.
        timeout: Duration,
    },
    /// Dead peers would be forgotten at once, or never.
    #[error(
        "dead peers are forgotten after {0:?}; it must be from {min} second to {max} days",
        min = FORGET_AFTER_MIN.as_secs(), max = FORGET_AFTER_MAX.as_secs() / (24 * 60 * 60)
    )]
    ForgetAfter(Duration),
    /// No peer could ever be known, or more than a machine can serve.
    #[error("at most {0} peers are wanted; it must be from 1 to {PEERS_LIMIT}")]
    PeersMax(usize),
    /// More addresses than are told to others.
    #[error("{0} addresses are advertised; at most {ADDRS_MAX} are told to others")]
    Advertised(usize),
    /// Nobody can be reached there.
    #[error("nobody can be reached at {0}: it is an unspecified, multicast or broadcast address, or port 0")]
    Nowhere(String),
    /// A link-local address without the interface that it is behind.
    #[error("the link-local address {addr} needs the interface that it is behind, for example {example}")]
    NoScope {
        /// The address.
        addr: String,
        /// How one is written there.
        example: &'static str,
    },
}
