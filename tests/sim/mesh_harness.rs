//! A harness for one mesh alone: tests give it inputs and look at its outputs. It tests rules whose violation other
//! nodes of a full mesh would compensate, so no run of many nodes would show it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use p2p_gossip::internals::mesh::{
    DialError, DisconnectReason, Input, KnownPeer, Mesh, Output, SessionId, SessionUp, UnixTime, Vitals,
};
use p2p_gossip::internals::wire::{Hello, Message, PeerRecord};
use p2p_gossip::internals::{Expected, sample};
use p2p_gossip::{Config, DialAddr, Event, NetworkKey, PeerId, PeerInfo, Verdict};

pub struct MeshHarness {
    pub mesh: Mesh,
    now: Instant,
    /// Turns of the mesh at this moment.
    turns: u32,
    /// While time passes, sessions answer at once that they have no unread messages.
    pub answers_drains: bool,
    /// The heartbeat interval that this node's Hellos tell.
    pub told_interval_ms: u32,
}

/// Turns at one moment after which the mesh is assumed to loop.
const TURNS_MAX: u32 = 10_000;

/// The instance number of the node's own process.
pub const OWN_INSTANCE: u64 = 1;
/// The local address of each connection.
pub const INNER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 168, 1, 9)), 50_000);
/// The wall clock while the harness runs.
pub const WALL: UnixTime = UnixTime(1_769_860_800);

/// The stored record of a peer that was connected until the previous run ended an hour ago.
pub fn known(n: u8) -> KnownPeer {
    let last_seen = UnixTime(WALL.0 - 3_600);
    let mut peer = sample::known_peer(id(n), addr(n).into());
    peer.first_seen = UnixTime(WALL.0 - 100_000);
    peer.last_seen = last_seen;
    peer.addrs[0].last_success = Some(last_seen);
    peer
}

pub fn id(n: u8) -> PeerId {
    PeerId::from_bytes([n; 32])
}

pub fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 8080))
}

impl MeshHarness {
    /// Node 9 with these bootstrap addresses.
    pub fn new(connect: &[SocketAddr]) -> Self {
        Self::with(Config::default().connect(connect.iter().map(|addr| (*addr).into())))
    }

    /// Node 9 with this configuration.
    pub fn with(config: Config) -> Self {
        let now = Instant::now();
        let told_interval_ms = u32::try_from(config.heartbeat.as_millis()).unwrap();
        let mesh = Mesh::new(config, id(9), OWN_INSTANCE, 1, now);
        Self { mesh, now, turns: 0, answers_drains: true, told_interval_ms }
    }

    /// Node 9, which restores these peers from a previous run.
    pub fn remembering(known: Vec<KnownPeer>) -> Self {
        let mut harness = Self::new(&[]);
        harness.restore(known);
        harness
    }

    pub fn restore(&mut self, known: Vec<KnownPeer>) {
        self.restore_at(WALL, known);
    }

    /// Restores these peers while the wall clock shows this time.
    pub fn restore_at(&mut self, wall: UnixTime, known: Vec<KnownPeer>) {
        self.mesh.set_wall_clock(wall);
        self.mesh.restore(self.now, known);
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn is_settled(&self) -> bool {
        self.mesh.is_settled(self.now)
    }

    /// Handles one input and returns the outputs.
    pub fn handle(&mut self, input: Input) -> Vec<Output> {
        self.mesh.handle(self.now, input);
        self.outputs()
    }

    /// A session with this peer comes up, from the peer's usual address.
    pub fn up(&mut self, session: SessionId, peer: PeerId, instance: u64) -> Vec<Output> {
        self.up_at(session, peer, instance, addr(peer.as_bytes()[0]))
    }

    /// A session with this peer comes up from this address.
    pub fn up_at(
        &mut self,
        session: SessionId,
        peer: PeerId,
        instance: u64,
        remote: SocketAddr,
    ) -> Vec<Output> {
        self.up_with_hello(session, peer, remote, Hello { instance, ..hello() })
    }

    /// A session with this peer comes up from this address with this Hello.
    pub fn up_with_hello(
        &mut self,
        session: SessionId,
        peer: PeerId,
        remote: SocketAddr,
        hello: Hello,
    ) -> Vec<Output> {
        self.up_with_key(session, peer, remote, hello, None)
    }

    fn up_with_key(
        &mut self,
        session: SessionId,
        peer: PeerId,
        remote: SocketAddr,
        hello: Hello,
        network_key: Option<NetworkKey>,
    ) -> Vec<Output> {
        let local = (!session.is_carried()).then_some(INNER);
        let told_interval_ms = self.told_interval_ms;
        let up = SessionUp { session, peer, hello, remote, local, network_key, told_interval_ms };
        self.handle(Input::SessionUp(up))
    }

    /// A peer dials this node, and their session comes up.
    pub fn meets(&mut self, n: u8) -> SessionId {
        let session = SessionId::accepted(1000 + u64::from(n));
        self.up(session, id(n), 1);
        session
    }

    /// The same with a peer that proves a network key.
    pub fn meets_with_key(&mut self, n: u8, key: Option<NetworkKey>) -> SessionId {
        self.meets_with_key_outputs(n, key);
        SessionId::accepted(1000 + u64::from(n))
    }

    pub fn meets_with_key_outputs(&mut self, n: u8, key: Option<NetworkKey>) -> Vec<Output> {
        let session = SessionId::accepted(1000 + u64::from(n));
        self.up_with_key(session, id(n), addr(n), Hello { instance: 1, ..hello() }, key)
    }

    pub fn receives(&mut self, session: SessionId, message: Message) -> Vec<Output> {
        let arrived = self.now;
        self.handle(Input::Received { session, message, arrived, rtt: None })
    }

    /// A heartbeat with this membership digest arrives.
    pub fn heartbeat(&mut self, session: SessionId, digest: u64) -> Vec<Output> {
        let vitals = Vitals { digest, interval_ms: 1000 };
        let arrived = self.now;
        self.handle(Input::Heartbeat { session, vitals, arrived, rtt: None })
    }

    /// A heartbeat or acknowledgement brings this round-trip time.
    pub fn measures(&mut self, session: SessionId, rtt: Duration) -> Vec<Output> {
        let vitals = Vitals { digest: 0, interval_ms: 1000 };
        let arrived = self.now;
        self.handle(Input::Heartbeat { session, vitals, arrived, rtt: Some(rtt) })
    }

    /// The dial gets no answer.
    pub fn dial_fails(&mut self, session: SessionId) -> Vec<Output> {
        let reason = DialError::Failed("no node answers".to_owned());
        self.handle(Input::DialFailed { session, reason })
    }

    /// The dial reaches a peer with another id than expected.
    pub fn dial_finds(&mut self, session: SessionId, found: PeerId) -> Vec<Output> {
        self.handle(Input::DialFailed { session, reason: DialError::WrongId { found } })
    }

    pub fn down(&mut self, session: SessionId, reason: DisconnectReason) -> Vec<Output> {
        self.handle(Input::SessionDown { session, reason })
    }

    /// A list arrives that shows these peers as connected.
    pub fn list(
        &mut self,
        session: SessionId,
        named: impl Iterator<Item = (PeerId, SocketAddr)>,
    ) -> Vec<Output> {
        let record =
            |(id, addr): (PeerId, SocketAddr)| PeerRecord { id, addrs: vec![addr.into()], connected: true };
        self.receives(session, Message::Peers { records: named.map(record).collect(), more: false })
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.mesh.poll_output()).collect()
    }

    /// Advances the time and runs the timers that are due.
    fn turn(&mut self, at: Instant) {
        self.turns = if at > self.now { 0 } else { self.turns + 1 };
        assert!(self.turns < TURNS_MAX, "the mesh sets timers at the same moment in an endless loop");
        self.now = self.now.max(at);
        self.mesh.handle_timeout(self.now);
    }

    /// Lets time pass while every dial fails at once. Returns the outputs.
    pub fn wait(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut all = self.outputs();
        let mut seen = all.len();
        while let Some(at) = self.mesh.poll_timeout().filter(|at| *at <= end) {
            self.turn(at);
            all.extend(self.outputs());
            while seen < all.len() {
                if let Output::Dial { session, .. } = all[seen] {
                    all.extend(self.dial_fails(session));
                }
                self.answer_drain(seen, &mut all);
                seen += 1;
            }
        }
        self.now = end;
        all
    }

    /// Lets time pass while no dial ends. Returns the outputs.
    pub fn wait_with_dials_open(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut all = self.outputs();
        let mut seen = all.len();
        while let Some(at) = self.mesh.poll_timeout().filter(|at| *at <= end) {
            self.turn(at);
            all.extend(self.outputs());
            while seen < all.len() {
                self.answer_drain(seen, &mut all);
                seen += 1;
            }
        }
        self.now = end;
        all
    }

    /// Runs the next timer this late.
    pub fn wait_for_late_timer(&mut self, late: Duration) -> Vec<Output> {
        let at = self.mesh.poll_timeout().expect("a timer is set");
        self.turn(at + late);
        let mut all = self.outputs();
        for at in 0..all.len() {
            self.answer_drain(at, &mut all);
        }
        all
    }

    /// If this output asks a session for its unread messages, the session answers that there are none.
    fn answer_drain(&mut self, at: usize, all: &mut Vec<Output>) {
        if let Output::DrainUnread { session, since } = all[at]
            && self.answers_drains
        {
            all.extend(self.handle(Input::Drained { session, heard: since }));
        }
    }

    /// Lets time pass while the process stalls.
    pub fn stall(&mut self, time: Duration) {
        self.now += time;
    }

    pub fn info(&self, peer: PeerId) -> Option<PeerInfo> {
        self.mesh.peers(self.now).into_iter().find(|info| info.id == peer)
    }

    /// Lets time pass until the mesh dials. Returns the outputs up to then.
    pub fn wait_for_dial(&mut self) -> Vec<Output> {
        let mut all = self.outputs();
        while dials(&all) == 0 {
            self.now = self.now.max(self.mesh.poll_timeout().expect("a mesh that will dial has a timer"));
            self.mesh.handle_timeout(self.now);
            all.extend(self.outputs());
        }
        all
    }

    /// The first dial to a bootstrap address.
    pub fn first_dial(&mut self) -> SessionId {
        self.mesh.handle_timeout(self.now);
        let dialled = self.outputs().into_iter().find_map(|output| match output {
            Output::Dial { session, .. } => Some(session),
            _ => None,
        });
        dialled.expect("the mesh dials a bootstrap address at once")
    }
}

/// The Hello of a peer that listens on the usual port.
pub fn hello() -> Hello {
    Hello {
        instance: 1,
        name: String::new(),
        listen_port: 8080,
        advertised: vec![],
        heartbeat_ms: 1000,
        capabilities: vec![],
        proofs: Vec::new(),
    }
}

/// The dials among the outputs: session, address and expected peer.
pub fn dialled(outputs: &[Output]) -> Vec<(SessionId, DialAddr, Expected)> {
    let dial = |output: &Output| match output {
        Output::Dial { session, addr, expected, .. } => Some((*session, addr.clone(), *expected)),
        _ => None,
    };
    outputs.iter().filter_map(dial).collect()
}

pub fn dials_to(outputs: &[Output], peer: PeerId) -> usize {
    dialled(outputs).iter().filter(|(.., expected)| *expected == Expected::Peer(peer)).count()
}

/// The messages among the outputs, with their sessions.
pub fn sent(outputs: &[Output]) -> Vec<(SessionId, &Message)> {
    let send = |output| match output {
        &Output::Send { session, ref message } => Some((session, message)),
        _ => None,
    };
    outputs.iter().filter_map(send).collect()
}

/// The records on the lists among the outputs.
pub fn listed(outputs: &[Output]) -> Vec<PeerRecord> {
    let records = |(_, message): (SessionId, &Message)| match message {
        Message::Peers { records, .. } => records.clone(),
        _ => Vec::new(),
    };
    sent(outputs).into_iter().flat_map(records).collect()
}

pub fn requests(outputs: &[Output]) -> usize {
    sent(outputs).iter().filter(|(_, message)| matches!(message, Message::PeersRequest)).count()
}

pub fn dials(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Dial { .. })).count()
}

pub fn requests_list(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Send { message: Message::PeersRequest, .. }))
}

pub fn closes(outputs: &[Output], wanted: SessionId) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Close { session, .. } if *session == wanted))
}

pub fn drains(outputs: &[Output], wanted: SessionId) -> bool {
    outputs.iter().any(|output| matches!(output, Output::DrainUnread { session, .. } if *session == wanted))
}

/// The events among the outputs, without verdicts on lost peers.
pub fn events_of(outputs: &[Output]) -> Vec<Event> {
    let mut events = all_events_of(outputs);
    events.retain(|event| !matches!(event, Event::Verdict { .. }));
    events
}

/// The events among the outputs.
pub fn all_events_of(outputs: &[Output]) -> Vec<Event> {
    let event = |output: &Output| match output {
        Output::Notify(event) => Some(event.clone()),
        _ => None,
    };
    outputs.iter().filter_map(event).collect()
}

/// The verdicts among the outputs: the peer, the verdict, and the numbers of members asked and of those that hear it.
pub fn verdicts_of(outputs: &[Output]) -> Vec<(PeerId, Verdict, usize, usize)> {
    let verdict = |event: Event| match event {
        Event::Verdict { peer, verdict, asked, seen_by, .. } => Some((peer, verdict, asked, seen_by)),
        _ => None,
    };
    all_events_of(outputs).into_iter().filter_map(verdict).collect()
}

/// The questions about lost peers among the outputs: the session, and the peers.
pub fn questions(outputs: &[Output]) -> Vec<(SessionId, Vec<PeerId>)> {
    let question = |(session, message): (SessionId, &Message)| match message {
        Message::WitnessRequest { lost } => Some((session, lost.iter().map(|one| one.peer).collect())),
        _ => None,
    };
    sent(outputs).into_iter().filter_map(question).collect()
}
