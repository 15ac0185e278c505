//! Not part of the API: the internal items that the program, the simulator and the tests use.
//! Anything here may change in any version.

pub use crate::config::check_name;
pub use crate::trust::pin::{Expected, PIN_DIGITS_MIN};
pub use crate::trust::secret_text::{is_key_text, is_secret_name, is_ticket_text};

/// Defaults, limits and intervals.
pub mod limits {
    pub use crate::limits::*;
}

/// The pure state machine that decides about membership, dials and deaths.
pub mod mesh {
    pub use crate::mesh::*;
}

/// Drives the mesh: the order of its inputs and outputs.
pub mod driver {
    pub use crate::runtime::driver::*;
}

/// One connection above TLS, as a pure state machine.
pub mod session {
    pub use crate::session::{
        CircuitSocket, Ends, Exported, HelloExchange, KeyRateLimit, KeyRates, OutboxFull, PipeEnd, Protocol,
        Request, Role, SessionEvent, SessionLimits, Surplus, TooManySessions, Transmit, Wake, pipe,
    };
}

/// Messages and their framing.
pub mod wire {
    pub use crate::wire::*;
}

pub use crate::session::probe::{Probe, ProbeAnswer, probe};
/// Beacons: their encoding, and what a node does with them.
pub mod beacon {
    pub use crate::net::beacon::{BEACON_BYTES, Beacon, Beacons};
    pub use crate::net::beacon_pace::BEACON_INTERVAL;
    pub use crate::net::discoverer::{Discoverer, Found};
    pub use crate::net::links::BEACON_PORT;
}

pub use crate::util::{log_limit, queue, text, worker};

/// The queues of a node, for `select!`.
pub mod queues {
    use crossbeam_channel::Receiver;

    use crate::events::Events;
    pub use crate::events::QueuedEvent;
    use crate::node::Node;

    /// The queue of a subscription.
    #[must_use]
    pub fn events(events: &Events) -> &Receiver<QueuedEvent> {
        events.queue()
    }

    /// Whether later pings come into the queue of a subscription.
    #[must_use]
    pub fn has_pings(events: &Events) -> bool {
        events.has_pings()
    }

    /// Nothing is ever sent; the sender is gone once the node's coordinator has ended.
    #[must_use]
    pub fn coordinator_ended(node: &Node) -> Receiver<()> {
        node.coordinator_ended()
    }
}

/// Values for tests and for the reference of the program: the types may get more fields, so no other crate builds
/// them field by field.
pub mod sample {
    use std::net::SocketAddr;
    use std::time::Duration;

    use crate::event::{AlertKind, AlertPhase, DownReason, Event, Verdict};
    use crate::mesh::{KnownAddr, KnownPeer, UnixTime};
    use crate::net::addr::DialAddr;
    use crate::trust::network_key::NetworkKey;
    use crate::trust::peer_id::PeerId;

    /// [`Event::Listening`].
    #[must_use]
    pub fn listening(id: PeerId, addr: SocketAddr) -> Event {
        Event::Listening { id, addr }
    }

    /// [`Event::Up`].
    #[must_use]
    pub fn up(peer: PeerId, name: &str, addr: DialAddr, members: usize) -> Event {
        Event::Up { peer, name: name.to_owned(), addr, via: None, members }
    }

    /// [`Event::Path`].
    #[must_use]
    pub fn path(peer: PeerId, name: &str, addr: DialAddr, via: Option<PeerId>) -> Event {
        Event::Path { peer, name: name.to_owned(), addr, via }
    }

    /// [`Event::Down`].
    #[must_use]
    pub fn down(peer: PeerId, name: &str, addr: DialAddr, reason: DownReason, members: usize) -> Event {
        Event::Down { peer, name: name.to_owned(), addr, reason, members, quiet: false }
    }

    /// [`Event::Down`] that is a part of an isolation.
    #[must_use]
    pub fn quiet_down(peer: PeerId, name: &str, addr: DialAddr, reason: DownReason, members: usize) -> Event {
        Event::Down { peer, name: name.to_owned(), addr, reason, members, quiet: true }
    }

    /// [`Event::Verdict`] of seven members, of which none hears the peer of `node`, and all others do otherwise.
    #[must_use]
    pub fn verdict(peer: PeerId, name: &str, addr: DialAddr, verdict: Verdict) -> Event {
        let seen_by = if verdict == Verdict::Link { 7 } else { 0 };
        Event::Verdict { peer, name: name.to_owned(), addr, verdict, asked: 7, seen_by, heard_ms: Some(2140) }
    }

    /// [`Event::Isolated`].
    #[must_use]
    pub fn isolated(lost: usize, members: usize) -> Event {
        Event::Isolated { lost, members }
    }

    /// [`Event::Rejoined`].
    #[must_use]
    pub fn rejoined(members: usize) -> Event {
        Event::Rejoined { members }
    }

    /// [`Event::Unstable`].
    #[must_use]
    pub fn unstable(peer: PeerId, name: &str, addr: DialAddr, losses: usize) -> Event {
        Event::Unstable { peer, name: name.to_owned(), addr, losses }
    }

    /// [`Event::Alert`]: the peer is down.
    #[must_use]
    pub fn alert(peer: PeerId, name: &str) -> Event {
        let text = format!("{name} ({}) is down", peer.short());
        let (peers, names, incident) = (vec![peer], vec![name.to_owned()], "0f3a9c5be1724d68".to_owned());
        Event::Alert { incident, kind: AlertKind::Node, phase: AlertPhase::Begin, peers, names, text }
    }

    /// [`Event::Left`].
    #[must_use]
    pub fn left(peer: PeerId, name: &str, addr: DialAddr, members: usize) -> Event {
        Event::Left { peer, name: name.to_owned(), addr, members }
    }

    /// [`Event::Ping`].
    #[must_use]
    pub fn ping(
        peer: PeerId,
        name: &str,
        addr: DialAddr,
        seq: u64,
        text: &str,
        rtt_ms: Option<f64>,
    ) -> Event {
        Event::Ping { peer, name: name.to_owned(), addr, via: None, seq, text: text.to_owned(), rtt_ms }
    }

    /// [`Event::Message`].
    #[must_use]
    pub fn message(peer: PeerId, name: &str, addr: DialAddr, text: &str) -> Event {
        Event::Message { peer, name: name.to_owned(), addr, text: text.to_owned() }
    }

    /// The network key with these bytes.
    #[must_use]
    pub fn network_key(bytes: [u8; 32]) -> NetworkKey {
        NetworkKey::from_bytes(bytes)
    }

    /// An acquainted peer without a name, which claimed the address.
    #[must_use]
    pub fn known_peer(id: PeerId, addr: DialAddr) -> KnownPeer {
        KnownPeer {
            id,
            name: String::new(),
            first_seen: UnixTime(0),
            last_seen: UnixTime(0),
            left: false,
            connected: Duration::from_secs(3600),
            missed: Duration::ZERO,
            addrs: vec![KnownAddr { addr, last_success: None, is_origin: false, is_foreign: false }],
        }
    }
}
