//! The configuration of a node.

use std::time::Duration;

use crate::limits::{
    ADDRS_MAX, FORGET_AFTER, FORGET_AFTER_MAX, FORGET_AFTER_MIN, HEARTBEAT, HEARTBEAT_MAX, HEARTBEAT_MIN,
    NAME_BYTES_MAX, NETWORK_KEYS_MAX, PEERS_LIMIT, PEERS_MAX, PERIOD_DEFAULT, PERIOD_MAX, PERIOD_MIN,
    PING_TEXT_BYTES_MAX, PORT_DEFAULT, TIMEOUT, TIMEOUT_HEARTBEATS_MIN, TIMEOUT_MAX,
};
use crate::net::addr::{DialAddr, is_link_local};
use crate::net::local_ip::LocalIp;
use crate::trust::access::Access;
use crate::trust::network_key::NetworkKey;
use crate::trust::pin::ConnectAddr;
use crate::util::text;

/// Configuration of a [`Node`](crate::Node). Start from [`Config::default`] and set what differs.
///
/// [`Config::check`] refuses values out of range. [`Node::start`](crate::Node::start) calls it first: if it refuses
/// a value, no node starts and the error is [`StartError::Config`](crate::StartError::Config).
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
    /// Time between pings to each peer, which are messages that the peer's user sees as
    /// [`Event::Ping`](crate::Event::Ping). From 10 ms to one day; the default is 5 s. Other values are refused:
    /// [`ConfigError::Period`].
    pub period: Duration,
    /// TCP port to listen on. 0 takes a free port, which [`Node::local_addr`](crate::Node::local_addr) returns. The
    /// default is 8080. If the system refuses the port, for example because another process uses it, the node does
    /// not start: [`StartError::Listen`](crate::StartError::Listen).
    pub port: u16,
    /// Address of this machine to listen on; the node dials from it, too, if the target is of the same IP version.
    /// The default, `None`, is every interface: IPv6 and IPv4, or IPv4 alone on a system without IPv6. A link-local
    /// address without its interface is refused: [`ConfigError::NoScope`]. If the system refuses the address, the
    /// node does not start: [`StartError::Listen`](crate::StartError::Listen).
    pub bind: Option<LocalIp>,
    /// Addresses of peers to join through. The node dials each until a peer answers, for as long as the node runs; an
    /// address with a pin until the pinned peer answers. The default is none: the node waits for others. An address
    /// that no peer can have is refused: [`ConfigError::Nowhere`], or [`ConfigError::NoScope`] for a link-local
    /// address without its interface.
    pub connect: Vec<ConnectAddr>,
    /// The name of a network whose nodes find each other on the local networks of this machine: the node sends beacons
    /// there, small datagrams with its port, and dials the nodes whose beacons name the same network. With
    /// [network keys](#structfield.network_keys) only nodes with the same first key understand its beacons. From 1 to 64
    /// bytes without control characters, else [`ConfigError::Discover`]. The default is `None`: no beacons.
    pub discover: Option<String>,
    /// Addresses at which others reach this node, if they differ from the one that it connects from: behind NAT or
    /// port mapping, or by a host name. Peers get these before the address that they see themselves. At most 4, else
    /// [`ConfigError::Advertised`]; the default is none. An address that no peer can have is refused:
    /// [`ConfigError::Nowhere`].
    pub advertise: Vec<DialAddr>,
    /// The allow and deny lists; [`Node::set_access`](crate::Node::set_access) replaces them while the node runs. The
    /// default admits all peers. No value is refused; the log warns of lists that admit no other node.
    pub access: Access,
    /// Whether the node refuses a peer at an address where it has met another peer, unless a pin in
    /// [`connect`](#structfield.connect) names the peer. The default is `false`: such a peer counts as a new one.
    pub strict: bool,
    /// Whether the node carries circuits between peers that cannot reach each other. Others may carry for it in any case.
    /// The default is `true`. The page [`carriers`](crate::guide::carriers) says what that costs.
    pub relay: bool,
    /// Whether the node asks its router by NAT-PMP to pass on connections from outside. The default is `true`; a node that
    /// listens on loopback or at a public address does not ask.
    pub port_mapping: bool,
    /// The keys of a closed network. A peer must prove one of them; this node proves the first. The default is none:
    /// the network is open. At most 2, else [`ConfigError::NetworkKeys`].
    pub network_keys: Vec<NetworkKey>,
    /// Label that others see beside the id; nothing proves it. At most 64 bytes, else [`ConfigError::NameLength`],
    /// without characters that a terminal acts on, else [`ConfigError::NameCharacter`]. The default is empty.
    pub name: String,
    /// Text of this node's pings. At most 256 bytes, else [`ConfigError::PingText`]. The default is `ping`.
    pub ping_text: String,
    /// Time between heartbeats to each peer. From 100 ms to 20 s, else [`ConfigError::Heartbeat`]. The default is 1 s.
    pub heartbeat: Duration,
    /// Silence after which a peer is dead. From two [heartbeats](#structfield.heartbeat) to one hour, else
    /// [`ConfigError::Timeout`]. The default is 3 s, for every heartbeat: one above 1.5 s needs a longer timeout. A
    /// peer with longer heartbeats of its own gets three of these, but not more than one minute for that reason.
    pub timeout: Duration,
    /// Time for which the node remembers and redials a dead peer, and remembers one that left. Only time counts in
    /// which this node runs and is connected to another peer. From 1 s to 365 days, else [`ConfigError::ForgetAfter`].
    /// The default is one day.
    pub forget_after: Duration,
    /// Number of peers that the node knows at once, in any state. When that many are known, the node learns of no more
    /// from other peers. For a new peer that connects it forgets one that is not connected; if all are connected, it
    /// refuses the new one. From 1 to 4096, else [`ConfigError::PeersMax`]. The default is 1024. The node raises the soft
    /// limit of this process's descriptors as far as that many peers need; if the hard limit does not allow them, it
    /// logs how many peers can be connected.
    pub peers_max: usize,
    /// Whether this node raises alarms: it emits [`Event::Alert`](crate::Event::Alert) when it is its turn among the
    /// members that do so. The program that reads the events then alerts a person, and calls
    /// [`NodeHandle::alert_done`](crate::NodeHandle::alert_done). The default is `false`.
    pub alerts: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            period: PERIOD_DEFAULT,
            port: PORT_DEFAULT,
            bind: None,
            connect: Vec::new(),
            discover: None,
            advertise: Vec::new(),
            access: Access::default(),
            strict: false,
            relay: true,
            port_mapping: true,
            network_keys: Vec::new(),
            name: String::new(),
            ping_text: "ping".to_owned(),
            heartbeat: HEARTBEAT,
            timeout: TIMEOUT,
            forget_after: FORGET_AFTER,
            peers_max: PEERS_MAX,
            alerts: false,
        }
    }
}

impl Config {
    /// Sets the time between pings to each peer: from 10 ms to one day, by default 5 s.
    /// See [`period`](#structfield.period).
    #[must_use]
    pub fn period(self, period: Duration) -> Self {
        Self { period, ..self }
    }

    /// Sets the TCP port to listen on; 0 takes a free port, and the default is 8080.
    /// See [`port`](#structfield.port).
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Sets the address to listen on and to dial from, by default every interface. A link-local address needs its
    /// interface. See [`bind`](#structfield.bind).
    #[must_use]
    pub fn bind(self, bind: LocalIp) -> Self {
        Self { bind: Some(bind), ..self }
    }

    /// Sets the addresses to join through, by default none. A peer must be able to have each.
    /// See [`connect`](#structfield.connect).
    #[must_use]
    pub fn connect(self, connect: impl IntoIterator<Item = ConnectAddr>) -> Self {
        Self { connect: connect.into_iter().collect(), ..self }
    }

    /// Sets the name of the network whose nodes find each other on the local networks, by default none.
    /// See [`discover`](#structfield.discover).
    #[must_use]
    pub fn discover(self, network: impl Into<String>) -> Self {
        Self { discover: Some(network.into()), ..self }
    }

    /// Sets the addresses at which others reach this node: at most 4, by default none.
    /// See [`advertise`](#structfield.advertise).
    #[must_use]
    pub fn advertise(self, advertise: impl IntoIterator<Item = DialAddr>) -> Self {
        Self { advertise: advertise.into_iter().collect(), ..self }
    }

    /// Sets the allow and deny lists, which by default admit all peers. See [`access`](#structfield.access).
    #[must_use]
    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Sets whether the node refuses a peer at an address where it has met another peer, by default `false`.
    /// See [`strict`](#structfield.strict).
    #[must_use]
    pub fn strict(self, strict: bool) -> Self {
        Self { strict, ..self }
    }

    /// Sets whether the node carries circuits between peers that cannot reach each other, by default `true`.
    /// See [`relay`](#structfield.relay).
    #[must_use]
    pub fn relay(self, relay: bool) -> Self {
        Self { relay, ..self }
    }

    /// Sets whether the node asks its router to pass on connections from outside, by default `true`.
    /// See [`port_mapping`](#structfield.port_mapping).
    #[must_use]
    pub fn port_mapping(self, port_mapping: bool) -> Self {
        Self { port_mapping, ..self }
    }

    /// Sets the keys of a closed network: at most 2, by default none. A peer must prove one of them; this node proves
    /// the first. See [`network_keys`](#structfield.network_keys).
    #[must_use]
    pub fn network_keys(self, network_keys: impl IntoIterator<Item = NetworkKey>) -> Self {
        Self { network_keys: network_keys.into_iter().collect(), ..self }
    }

    /// Sets the label that others see beside the id: at most 64 bytes without control characters, by default empty.
    /// See [`name`](#structfield.name).
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Sets the text of this node's pings: at most 256 bytes, by default `ping`.
    /// See [`ping_text`](#structfield.ping_text).
    #[must_use]
    pub fn ping_text(self, ping_text: impl Into<String>) -> Self {
        Self { ping_text: ping_text.into(), ..self }
    }

    /// Sets the time between heartbeats to each peer: from 100 ms to 20 s, by default 1 s. A heartbeat above half the
    /// timeout needs a longer [`timeout`](Config::timeout), too. See [`heartbeat`](#structfield.heartbeat).
    #[must_use]
    pub fn heartbeat(self, heartbeat: Duration) -> Self {
        Self { heartbeat, ..self }
    }

    /// Sets the silence after which a peer is dead: from two heartbeats to one hour, by default 3 s.
    /// See [`timeout`](#structfield.timeout).
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sets the connected time after which a dead or departed peer is forgotten: from 1 s to 365 days, by default one
    /// day. See [`forget_after`](#structfield.forget_after).
    #[must_use]
    pub fn forget_after(self, forget_after: Duration) -> Self {
        Self { forget_after, ..self }
    }

    /// Sets the number of peers that the node knows at once, in any state: from 1 to 4096, by default 1024.
    /// See [`peers_max`](#structfield.peers_max).
    #[must_use]
    pub fn peers_max(self, peers_max: usize) -> Self {
        Self { peers_max, ..self }
    }

    /// Sets whether this node raises alarms; by default it does not. See [`alerts`](#structfield.alerts).
    #[must_use]
    pub fn alerts(self, alerts: bool) -> Self {
        Self { alerts, ..self }
    }

    /// Checks that each value is in its range, alone and together with the others.
    ///
    /// # Errors
    /// The first value that is not, with the values that are accepted.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.period < PERIOD_MIN || self.period > PERIOD_MAX {
            return Err(ConfigError::Period(self.period));
        }
        check_name(&self.name)?;
        if self.discover.as_deref().is_some_and(|name| name.is_empty() || check_name(name).is_err()) {
            return Err(ConfigError::Discover);
        }
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
    #[error("the name contains the control character {0:?}{advice}", advice = character_advice(*.0))]
    NameCharacter(char),
    /// The name of the network to look for is empty, too long, or has a character that a terminal would act on.
    #[error(
        "the name of the network to look for must have from 1 to {NAME_BYTES_MAX} bytes and no control characters"
    )]
    Discover,
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
    /// More addresses to advertise than peers accept.
    #[error("{0} addresses are advertised; at most {ADDRS_MAX} are allowed")]
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

/// Advice for the user on a character of a name, to be appended to the message.
fn character_advice(c: char) -> &'static str {
    match c {
        '\u{200d}' => ", which joins emoji into one; use a single emoji",
        '\u{200b}'..='\u{200f}' | '\u{2028}'.. => ", which is invisible; leave it out",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn config() -> Config {
        Config::default()
    }

    /// The comments of the fields state these ranges.
    #[test]
    fn range_of_each_value_is_the_documented_one() {
        let slow = || config().heartbeat(20 * SECOND);
        let addr: DialAddr = "192.0.2.7:8080".parse().unwrap();
        let keys = |count: usize| (0..count).map(|_| NetworkKey::generate().unwrap());
        for accepted in [
            config(),
            config().period(10 * MS),
            config().period(DAY),
            config().name("é".repeat(32)),
            config().ping_text("x".repeat(256)),
            config().heartbeat(100 * MS),
            config().heartbeat(1500 * MS),
            slow().timeout(40 * SECOND),
            config().timeout(2 * SECOND),
            config().timeout(3600 * SECOND),
            config().forget_after(SECOND),
            config().forget_after(365 * DAY),
            config().peers_max(1),
            config().peers_max(4096),
            config().network_keys(keys(2)),
            config().advertise(vec![addr.clone(); 4]),
        ] {
            assert_eq!(accepted.check(), Ok(()));
        }
        let timeout = |heartbeat, timeout| ConfigError::Timeout { heartbeat, timeout };
        for (refused, error) in [
            (config().period(9 * MS), ConfigError::Period(9 * MS)),
            (config().period(DAY + MS), ConfigError::Period(DAY + MS)),
            (config().name("x".repeat(65)), ConfigError::NameLength(65)),
            (config().name("a\u{1b}"), ConfigError::NameCharacter('\u{1b}')),
            (config().ping_text("x".repeat(257)), ConfigError::PingText(257)),
            (config().heartbeat(99 * MS), ConfigError::Heartbeat(99 * MS)),
            (config().heartbeat(20 * SECOND + MS), ConfigError::Heartbeat(20 * SECOND + MS)),
            (config().heartbeat(1501 * MS), timeout(1501 * MS, 3 * SECOND)),
            (config().timeout(1999 * MS), timeout(SECOND, 1999 * MS)),
            (config().timeout(3600 * SECOND + MS), timeout(SECOND, 3600 * SECOND + MS)),
            (config().forget_after(999 * MS), ConfigError::ForgetAfter(999 * MS)),
            (config().forget_after(365 * DAY + MS), ConfigError::ForgetAfter(365 * DAY + MS)),
            (config().peers_max(0), ConfigError::PeersMax(0)),
            (config().peers_max(4097), ConfigError::PeersMax(4097)),
            (config().network_keys(keys(3)), ConfigError::NetworkKeys(3)),
            (config().advertise(vec![addr; 5]), ConfigError::Advertised(5)),
        ] {
            assert_eq!(refused.check(), Err(error));
        }
    }

    #[test]
    fn address_that_no_peer_can_have_is_refused() {
        let multicast: DialAddr = "224.0.0.1:8080".parse().unwrap();
        let nowhere = ConfigError::Nowhere(multicast.to_string());
        assert_eq!(config().advertise([multicast.clone()]).check().as_ref(), Err(&nowhere));
        assert_eq!(config().connect([multicast.into()]).check(), Err(nowhere));
        // Peers give an advertised link-local address the interface on their side.
        let link_local: DialAddr = "[fe80::1]:8080".parse().unwrap();
        assert_eq!(config().advertise([link_local.clone()]).check(), Ok(()));
        assert!(matches!(config().connect([link_local.into()]).check(), Err(ConfigError::NoScope { .. })));
        let bind = "fe80::1".parse().unwrap();
        assert!(matches!(config().bind(bind).check(), Err(ConfigError::NoScope { .. })));
    }
}
