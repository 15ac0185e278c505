//! A running node: the embedding API, which starts and joins the threads.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded, never, unbounded};

use crate::config::{Config, ConfigError};
use crate::event::Event;
use crate::events::Events;
use crate::limits::{ADDRS_MAX, INBOX_EVENTS};
use crate::mesh::Mesh;
use crate::mesh::snapshot::PeerInfo;
use crate::net::addr::DialAddr;
use crate::net::beacon::Beacons;
use crate::net::interfaces::Interfaces;
use crate::net::links::BEACON_PORT;
use crate::net::listen;
use crate::net::local_ip::LocalIp;
use crate::node_handle::{BroadcastError, NodeHandle};
use crate::runtime::capacity::{self, Capacity};
use crate::runtime::coordinator::{Coordinator, Threads};
use crate::runtime::discovery::{BEACONS_QUEUED, Discovery};
use crate::runtime::driver::Driver;
use crate::runtime::event_log::log_access_warning;
use crate::runtime::history::History;
use crate::runtime::listener::Listener;
use crate::runtime::member_log::MemberLog;
use crate::runtime::port_mapping::{self, PortMapping};
use crate::runtime::status::Status;
use crate::runtime::subscribers::{Subscribers, subscription};
use crate::session::delivery::Delivery;
use crate::session::{
    Context, HelloExchange, Lookups, Places, SessionDelay, SharedHelloExchange, SharedVitals,
    handshake_threads,
};
use crate::store::state_dir::{StateDir, StateError};
use crate::store::writer::{self, WriterThread, wall_clock};
use crate::trust::access::Access;
use crate::trust::identity::Identity;
use crate::trust::key_ring::KeyRing;
use crate::trust::peer_id::PeerId;
use crate::trust::tls::Tls;
use crate::trust::tls_error::TlsError;
use crate::util::worker::Worker;
use crate::wire::{ALERT_CAPABILITY, Hello, PUNCH_CAPABILITY, REACHABLE_AT_CAPABILITY};

/// A running node. Dropping it leaves the mesh as [`Node::shutdown`] does.
///
/// Two nodes meet in one process:
///
/// ```
/// use p2p_gossip::{Config, Event, Identity, Node};
///
/// // Port 0 takes any free one; the first node waits for others on loopback.
/// let loopback = Config::default().port(0).bind("127.0.0.1".parse()?);
/// let first = Node::start(loopback.clone(), Identity::generate()?)?;
///
/// let through_first = vec![first.local_addr().into()];
/// let second = Node::start(loopback.connect(through_first), Identity::generate()?)?;
///
/// // Events end when the node does; this loop ends when the second node sees the first.
/// for event in second.events() {
///     if let Event::Up { peer, members, .. } = event {
///         assert_eq!((peer, members), (first.id(), 2));
///         break;
///     }
/// }
/// second.shutdown();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Node {
    id: PeerId,
    local_addr: SocketAddr,
    events: Events,
    handle: NodeHandle,
    listener: Listener,
    /// The thread of the beacons, if the node looks for others by beacons.
    discovery: Option<Discovery>,
    /// The thread that asks the router to pass on connections, if the node may be behind one.
    port_mapping: Option<PortMapping>,
    coordinator: Option<Worker>,
    /// The thread that writes the known peers, if the node has a state directory.
    writing: Option<WriterThread>,
}

/// A node that is not started yet, from [`Node::builder`].
///
/// ```
/// # use p2p_gossip::{Config, Event, Identity, Node};
/// # let config = Config::default().port(0).bind("127.0.0.1".parse()?);
/// let mut builder = Node::builder(config, Identity::generate()?);
/// let alarms = builder.subscribe();
/// let node = builder.start()?;
/// assert!(matches!(alarms.recv()?, Event::Listening { .. }));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct NodeBuilder {
    config: Config,
    identity: Identity,
    state: Option<StateDir>,
    subscribers: Subscribers,
    events: Events,
}

impl NodeBuilder {
    /// Adds a state directory: the node dials the known peers of the directory as well, and keeps those that it meets
    /// there. The identity need not be the directory's.
    #[must_use]
    pub fn state(self, state: StateDir) -> Self {
        Self { state: Some(state), ..self }
    }

    /// Another queue of all events, from `Listening` on, with the same bound as [`Node::events`]. Dropping it ends the
    /// subscription.
    #[must_use]
    pub fn subscribe(&mut self) -> Events {
        let (subscriber, events) = subscription();
        self.subscribers.add(subscriber);
        events
    }

    /// The events that [`Node::events`] will have.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Starts the node: when this returns, its port accepts connections.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start(self) -> Result<Node, StartError> {
        Node::launch(self)
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address can't be listened on.
    #[error("cannot listen on {addr}: {source}")]
    #[non_exhaustive]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The beacons of other nodes can't be received.
    #[error("cannot receive beacons on UDP port {BEACON_PORT}: {source}")]
    #[non_exhaustive]
    Discovery {
        /// The system's error.
        source: io::Error,
    },
    /// The system refuses a thread or a descriptor.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// The network key in the state directory can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The TLS library refuses the identity.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] TlsError),
}

/// The addresses that the node sends to peers: the user's, then the address on which it listens, if that is a
/// single one.
fn advertised(config: &Config, source: Option<LocalIp>, port: u16) -> Vec<DialAddr> {
    let listening = source.map(|ip| ip.dial_addr(port));
    let mut addrs = config.advertise.clone();
    addrs.extend(listening.filter(|addr| !config.advertise.contains(addr)));
    addrs.truncate(ADDRS_MAX);
    addrs
}

/// The Hello of this process, without the proof of the network key, which each connection adds.
fn hello(config: &Config, instance: u64, source: Option<LocalIp>, listen_port: u16) -> Hello {
    Hello {
        instance,
        name: config.name.clone(),
        listen_port,
        advertised: advertised(config, source, listen_port),
        heartbeat_ms: u32::try_from(config.heartbeat.as_millis()).unwrap_or(u32::MAX),
        capabilities: [PUNCH_CAPABILITY, REACHABLE_AT_CAPABILITY]
            .into_iter()
            .chain(config.alerts.then_some(ALERT_CAPABILITY))
            .collect(),
        proofs: Vec::new(),
    }
}

impl Node {
    /// Starts a node: when this returns, its port accepts connections.
    ///
    /// # Errors
    /// The configuration is not valid, or the system refuses the port, a thread or a descriptor.
    pub fn start(config: Config, identity: Identity) -> Result<Self, StartError> {
        Self::builder(config, identity).start()
    }

    /// A node that is not started yet, to which more can be added.
    #[must_use]
    pub fn builder(config: Config, identity: Identity) -> NodeBuilder {
        let (primary, events) = subscription();
        let mut subscribers = Subscribers::default();
        subscribers.add(primary);
        NodeBuilder { config, identity, state: None, subscribers, events }
    }

    fn launch(builder: NodeBuilder) -> Result<Self, StartError> {
        let NodeBuilder { mut config, identity, state, subscribers, events } = builder;
        config.check()?;
        let id = identity.id();
        log_access_warning(&config.access, &id);
        let socket = listen::listen(config.bind, config.port)
            .map_err(|(addr, source)| StartError::Listen { addr, source })?;
        let local_addr = socket.local_addr()?;
        config.port = local_addr.port();
        let source = config.bind.filter(|bind| !bind.ip().is_unspecified());
        let instance = fastrand::u64(..);
        let hello = hello(&config, instance, source, local_addr.port());
        let told_addrs = hello.advertised.clone();
        // Only the Hello exchange needs these keys. They never change, and keys of the state directory may.
        let mut keys = std::mem::take(&mut config.network_keys);
        let ring = match &state {
            Some(state) if keys.is_empty() => state.key_ring()?,
            _ => None,
        };
        keys.extend(ring.iter().flat_map(KeyRing::keys).cloned());
        let beacons =
            config.discover.clone().map(|network| (Beacons::new(&network, &keys, instance), network));
        let hello_exchange = HelloExchange::new(hello, keys);

        let (inbox_sender, inbox) = bounded(INBOX_EVENTS);
        let (control, commands) = unbounded();
        let mapped = control.clone();
        let handle = NodeHandle::new(control);
        let now = Instant::now();
        let descriptors = capacity::raise_descriptor_limit(capacity::descriptors_for(config.peers_max));
        let capacity = Capacity::new(config.peers_max, descriptors);
        capacity::log_capacity_warning(capacity, config.peers_max, descriptors);
        let context = Arc::new(Context {
            id,
            tls: Tls::new(&identity, config.access.clone())?,
            hello_exchange: SharedHelloExchange::new(hello_exchange),
            lookups: Lookups::new(now),
            places: Places::new(capacity.sessions),
            interfaces: Interfaces::default(),
            source,
            inbox: inbox_sender,
            vitals: SharedVitals::default(),
            session_delay: SessionDelay::default(),
            counters: Arc::default(),
            handshakes: handshake_threads(),
        });
        let member_log = MemberLog::new(config.peers_max);
        let port_mapping = (config.port_mapping && port_mapping::is_useful(local_addr))
            .then(|| PortMapping::start(local_addr.port(), None, mapped))
            .transpose()?;
        let mut mesh = Mesh::new(config, id, instance, fastrand::u64(..), now);
        mesh.set_connected_max(capacity.members);
        if let Some(ring) = ring {
            mesh.set_key_ring(now, ring);
        }
        let (store, writing) = match state {
            Some(state) => {
                state.note_listening(local_addr.port(), &told_addrs);
                mesh.set_wall_clock(wall_clock());
                mesh.restore(now, state.known_peers().to_vec());
                let (store, writing) = writer::start(state, now)?;
                (Some(store), Some(writing))
            }
            None => (None, None),
        };
        let (found, discovered) = bounded(BEACONS_QUEUED);
        let discovery = beacons
            .map(|(beacons, network)| {
                Discovery::start(network, beacons, local_addr, Arc::clone(&context), found)
            })
            .transpose()
            .map_err(|source| StartError::Discovery { source })?;
        let coordinator = Coordinator {
            driver: Driver::new(mesh),
            control: commands,
            beacons: if discovery.is_some() { discovered } else { never() },
            settle_waiters: Vec::new(),
            node: Threads {
                store,
                context: Arc::clone(&context),
                inbox,
                subscribers,
                sessions: BTreeMap::new(),
                member_log,
                history: History::default(),
            },
        };
        let listener = Listener::start(socket, context, capacity.pending, capacity.accepted)?;
        let listening = Event::Listening { id, addr: local_addr };
        let coordinator = Some(Worker::spawn("coordinator", move || coordinator.run(listening))?);
        Ok(Self { id, local_addr, events, handle, listener, discovery, port_mapping, coordinator, writing })
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Where it listens, with the actual port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The events of the node, from `Listening` to `Stopped`. The queue is bounded: when the program takes no
    /// events, new ones are dropped and counted ([`Events::dropped`]).
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Another queue of the later events, for another reader, with the same bound as the first. Dropping it ends the
    /// subscription. [`NodeBuilder::subscribe`] gives a queue of all events.
    #[must_use]
    pub fn subscribe(&self) -> Events {
        self.handle.subscribe()
    }

    /// All peers that this node knows, sorted by id; empty once the node has stopped.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.handle.peers()
    }

    /// The node's current state and its counters; `None` once it has stopped.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.handle.status()
    }

    /// Sends a message to every peer that is connected now; each receives it as [`Event::Message`]. The messages of one
    /// sender arrive in order, each at most once. A peer misses the message if it is lost meanwhile, or reads too
    /// slowly.
    ///
    /// ```
    /// # use p2p_gossip::{Config, Identity, Node};
    /// # use std::time::Duration;
    /// # let config = Config::default().port(0).bind("127.0.0.1".parse()?);
    /// let node = Node::start(config, Identity::generate()?)?;
    /// let delivery = node.broadcast("hello")?;
    /// // No peer is connected yet.
    /// assert_eq!((delivery.reached(), delivery.wait(Duration::from_secs(1))), (0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The message is longer than 4096 bytes, or the node has
    /// stopped; the message was sent to no peer.
    pub fn broadcast(&self, text: impl Into<String>) -> Result<Delivery, BroadcastError> {
        self.handle.broadcast(text)
    }

    /// Waits until the mesh has settled: this node is connected to a peer, if it has addresses to join through or
    /// known peers, and has met, or tried to meet, every peer that it heard of. A broadcast then reaches the whole mesh. Returns `false` if the node stops before that.
    #[must_use]
    pub fn wait_settled(&self) -> bool {
        self.handle.wait_settled()
    }

    /// Disconnected once the coordinator has ended, after a panic as well; nothing is ever sent.
    pub(crate) fn coordinator_ended(&self) -> Receiver<()> {
        self.coordinator.as_ref().map_or_else(|| bounded(0).1, |worker| worker.ended().clone())
    }

    /// A handle for other threads, which may outlive the node.
    #[must_use]
    pub fn handle(&self) -> NodeHandle {
        self.handle.clone()
    }

    /// Replaces the allow and deny lists: sessions with peers that these exclude end at once, and peers that
    /// these admit again are dialled again.
    pub fn set_access(&self, access: Access) {
        self.handle.set_access(access);
    }

    /// Says goodbye to all peers and stops. This waits at most half a second until the goodbyes are sent, and at
    /// most 400 ms until the known peers are on disk. A clone of [`Node::events`] still has the last events.
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        // First no new connections, then goodbye to all peers.
        if let Some(discovery) = &mut self.discovery {
            discovery.stop();
        }
        if let Some(port_mapping) = &mut self.port_mapping {
            port_mapping.stop();
        }
        self.listener.stop();
        self.handle.leave();
        if let Some(coordinator) = self.coordinator.take() {
            coordinator.join();
        }
        if let Some(writing) = self.writing.take() {
            writing.finish();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}
