//! The configuration of a node.

use std::time::Duration;

use crate::limits::{
    ADDRS_MAX, FORGET_AFTER, FORGET_AFTER_MAX, FORGET_AFTER_MIN, HEARTBEAT, HEARTBEAT_MAX, HEARTBEAT_MIN,
    NAME_BYTES_MAX, NETWORK_KEYS_MAX, PEERS_LIMIT, PEERS_MAX, PERIOD_DEFAULT, PERIOD_MAX, PERIOD_MIN,
    PING_TEXT_BYTES_MAX, PORT_DEFAULT, TIMEOUT, TIMEOUT_HEARTBEATS_MIN, TIMEOUT_MAX,
};
use crate::net::addr::{DialAddr, LocalIp, is_link_local};
use crate::trust::access::Access;
use crate::trust::network_key::NetworkKey;
use crate::trust::pin::ConnectAddr;
use crate::util::text;

/// Configuration of a [`Node`](crate::Node). Start from [`Config::default`] and set what differs.
///
/// ```
/// use p2p_gossip::Config;
/// let config = Config::default().port(0).connect(["192.0.2.7:8080".parse()?]);
/// config.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
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
    /// mapping, or by a host name. At most 4; peers get these before the address that they see themselves.
    pub advertise: Vec<DialAddr>,
    /// The allow and deny lists; can be changed while the node runs.
    pub access: Access,
    /// Whether other peers are refused at the address of a known peer.
    pub strict: bool,
    /// The keys of a closed network: all are accepted, the first is proven. None: the network is open.
    /// At most 2.
    pub network_keys: Vec<NetworkKey>,
    /// Label shown beside the id; declared by the node itself; nothing proves it.
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
    /// Most peers known at once, in any state.
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
    /// Sets the time between application pings to each peer.
    #[must_use]
    pub fn period(self, period: Duration) -> Self {
        Self { period, ..self }
    }

    /// Sets the TCP port to listen on; 0 takes any free one.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Sets the address to listen on and to dial from.
    #[must_use]
    pub fn bind(self, bind: LocalIp) -> Self {
        Self { bind: Some(bind), ..self }
    }

    /// Sets the addresses to join through.
    #[must_use]
    pub fn connect(self, connect: impl IntoIterator<Item = ConnectAddr>) -> Self {
        Self { connect: connect.into_iter().collect(), ..self }
    }

    /// Sets the addresses at which others reach this node.
    #[must_use]
    pub fn advertise(self, advertise: impl IntoIterator<Item = DialAddr>) -> Self {
        Self { advertise: advertise.into_iter().collect(), ..self }
    }

    /// Sets the allow and deny lists.
    #[must_use]
    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Sets whether other peers are refused at the address of a known peer.
    #[must_use]
    pub fn strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// Sets the keys of a closed network: all are accepted, the first is proven.
    #[must_use]
    pub fn network_keys(self, network_keys: impl IntoIterator<Item = NetworkKey>) -> Self {
        Self { network_keys: network_keys.into_iter().collect(), ..self }
    }

    /// Sets the label that others see beside the id.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Sets the text of this node's pings.
    #[must_use]
    pub fn ping_text(self, ping_text: impl Into<String>) -> Self {
        Self { ping_text: ping_text.into(), ..self }
    }

    /// Sets the time between heartbeats to each peer.
    #[must_use]
    pub fn heartbeat(self, heartbeat: Duration) -> Self {
        Self { heartbeat, ..self }
    }

    /// Sets the silence after which a peer is dead.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sets the connected time after which a dead or departed peer is forgotten.
    #[must_use]
    pub fn forget_after(self, forget_after: Duration) -> Self {
        Self { forget_after, ..self }
    }

    /// Sets the number of peers that may be known at once, in any state.
    #[must_use]
    pub fn peers_max(self, peers_max: usize) -> Self {
        Self { peers_max, ..self }
    }

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
    #[non_exhaustive]
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
    /// No node can be reached at the address.
    #[error("no node can be reached at {0}: it is an unspecified, multicast or broadcast address, or port 0")]
    Nowhere(String),
    /// A link-local address without the interface that it is behind.
    #[error("the link-local address {addr} needs the interface that it is behind, for example {example}")]
    #[non_exhaustive]
    NoScope {
        /// The address.
        addr: String,
        /// How one is written there.
        example: &'static str,
    },
}
