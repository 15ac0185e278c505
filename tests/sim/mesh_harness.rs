//! One mesh at the end of a string: what it is told, and what it then wants. For rules that a whole
//! mesh would make up for, so that no run of many nodes shows when one is broken.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_gossip::internals::mesh::{
    DialError, DisconnectReason, Input, KnownPeer, Mesh, Output, SessionId, SessionUp, UnixTime, Vitals,
};
use p2p_gossip::internals::wire::{Hello, Message, PeerRecord};
use p2p_gossip::internals::{Expected, sample};
use p2p_gossip::{Config, DialAddr, Event, PeerId, PeerInfo};

pub struct MeshHarness {
    pub mesh: Mesh,
    now: Instant,
    /// Turns at this moment.
    turns: u32,
    /// Whether sessions answer at once, while time passes, that nothing is unread.
    pub answers_drains: bool,
}

/// Turns at one moment that no mesh needs.
const TURNS_MAX: u32 = 10_000;

pub const OWN_INSTANCE: u64 = 1;
/// The wall clock's time while the harness runs.
pub const WALL: UnixTime = UnixTime(1_769_860_800);

/// A peer as it is remembered that was there when the memory ends, an hour ago.
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
    /// Node 9, which joins through node 3 if asked to.
    pub fn new(connect: &[SocketAddr]) -> Self {
        Self::with(Config::default().connect(connect.iter().map(|addr| (*addr).into())))
    }

    pub fn with(config: Config) -> Self {
        let now = Instant::now();
        Self { mesh: Mesh::new(config, id(9), OWN_INSTANCE, 1, now), now, turns: 0, answers_drains: true }
    }

    /// Node 9, which knows these from an earlier life.
    pub fn remembering(known: Vec<KnownPeer>) -> Self {
        let mut mesh_harness = Self::new(&[]);
        mesh_harness.restore(known);
        mesh_harness
    }

    pub fn restore(&mut self, known: Vec<KnownPeer>) {
        self.recall_at(WALL, known);
    }

    /// The same while the clock on the wall says something else.
    pub fn recall_at(&mut self, wall: UnixTime, known: Vec<KnownPeer>) {
        self.mesh.set_wall_clock(wall);
        self.mesh.restore(self.now, known);
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn is_settled(&self) -> bool {
        self.mesh.is_settled(self.now)
    }

    pub fn tell(&mut self, input: Input) -> Vec<Output> {
        self.mesh.handle(self.now, input);
        self.outputs()
    }

    pub fn up(&mut self, session: SessionId, peer: PeerId, instance: u64) -> Vec<Output> {
        self.up_at(session, peer, instance, addr(peer.as_bytes()[0]))
    }

    /// The same from this address.
    pub fn up_at(
        &mut self,
        session: SessionId,
        peer: PeerId,
        instance: u64,
        remote: SocketAddr,
    ) -> Vec<Output> {
        self.up_as(session, peer, remote, Hello { instance, ..hello() })
    }

    /// The same with all that it says of itself.
    pub fn up_as(
        &mut self,
        session: SessionId,
        peer: PeerId,
        remote: SocketAddr,
        hello: Hello,
    ) -> Vec<Output> {
        self.tell(Input::SessionUp(SessionUp { session, peer, hello, remote }))
    }

    /// A peer that others dial, up.
    pub fn meets(&mut self, n: u8) -> SessionId {
        let session = SessionId::accepted(1000 + u64::from(n));
        self.up(session, id(n), 1);
        session
    }

    pub fn receives(&mut self, session: SessionId, message: Message) -> Vec<Output> {
        let arrived = self.now;
        self.tell(Input::Received { session, message, arrived, rtt: None })
    }

    /// A heartbeat from a peer that knows others than we do, or not.
    pub fn heartbeat(&mut self, session: SessionId, digest: u64) -> Vec<Output> {
        let vitals = Vitals { digest, interval_ms: 1000 };
        let arrived = self.now;
        self.tell(Input::Heartbeat { session, vitals, arrived, rtt: None })
    }

    /// A heartbeat or acknowledgement brings this round-trip time.
    pub fn measures(&mut self, session: SessionId, rtt: Duration) -> Vec<Output> {
        let vitals = Vitals { digest: 0, interval_ms: 1000 };
        let arrived = self.now;
        self.tell(Input::Heartbeat { session, vitals, arrived, rtt: Some(rtt) })
    }

    pub fn fails(&mut self, session: SessionId) -> Vec<Output> {
        let reason = DialError::Failed("no node answers".to_owned());
        self.tell(Input::DialFailed { session, reason })
    }

    pub fn finds(&mut self, session: SessionId, found: PeerId) -> Vec<Output> {
        self.tell(Input::DialFailed { session, reason: DialError::WrongId { found } })
    }

    pub fn down(&mut self, session: SessionId, reason: DisconnectReason) -> Vec<Output> {
        self.tell(Input::SessionDown { session, reason })
    }

    /// A list arrives that names these peers as connected.
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

    /// Time comes to what is due next.
    fn turn(&mut self, at: Instant) {
        self.turns = if at > self.now { 0 } else { self.turns + 1 };
        assert!(self.turns < TURNS_MAX, "the mesh always wants something more at the same moment");
        self.now = self.now.max(at);
        self.mesh.handle_timeout(self.now);
    }

    /// Lets time pass while every dial fails at once; what the mesh wants meanwhile.
    pub fn wait(&mut self, time: Duration) -> Vec<Output> {
        let end = self.now + time;
        let mut all = self.outputs();
        let mut seen = all.len();
        while let Some(at) = self.mesh.poll_timeout().filter(|at| *at <= end) {
            self.turn(at);
            all.extend(self.outputs());
            while seen < all.len() {
                if let Output::Dial { session, .. } = all[seen] {
                    all.extend(self.fails(session));
                }
                self.answer_drain(seen, &mut all);
                seen += 1;
            }
        }
        self.now = end;
        all
    }

    /// Lets time pass while no dial comes to an end.
    pub fn wait_in_vain(&mut self, time: Duration) -> Vec<Output> {
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

    /// Serves the next timer this late.
    pub fn wait_for_late_timer(&mut self, late: Duration) -> Vec<Output> {
        let at = self.mesh.poll_timeout().expect("a timer is set");
        self.turn(at + late);
        let mut all = self.outputs();
        for at in 0..all.len() {
            self.answer_drain(at, &mut all);
        }
        all
    }

    fn answer_drain(&mut self, at: usize, all: &mut Vec<Output>) {
        if let Output::DrainUnread { session, since } = all[at]
            && self.answers_drains
        {
            all.extend(self.tell(Input::Drained { session, heard: since }));
        }
    }

    /// Time passes while the process stands still.
    pub fn stand_still(&mut self, time: Duration) {
        self.now += time;
    }

    pub fn info(&self, peer: PeerId) -> Option<PeerInfo> {
        self.mesh.peers(self.now).into_iter().find(|info| info.id == peer)
    }

    /// Lets time pass until the mesh wants to dial; that and what came before.
    pub fn wait_for_dial(&mut self) -> Vec<Output> {
        let mut all = self.outputs();
        while dials(&all) == 0 {
            self.now = self.now.max(self.mesh.poll_timeout().expect("something is to come"));
            self.mesh.handle_timeout(self.now);
            all.extend(self.outputs());
        }
        all
    }

    /// The dial that a `--connect` address makes the mesh begin with.
    pub fn first_dial(&mut self) -> SessionId {
        self.mesh.handle_timeout(self.now);
        let dialled = self.outputs().into_iter().find_map(|output| match output {
            Output::Dial { session, .. } => Some(session),
            _ => None,
        });
        dialled.expect("a --connect address is dialled at once")
    }
}

/// What a peer says of itself that listens at the usual port.
pub fn hello() -> Hello {
    Hello {
        instance: 1,
        name: String::new(),
        listen_port: 8080,
        advertised: vec![],
        heartbeat_ms: 1000,
        capabilities: vec![],
        proof: None,
    }
}

/// The dials among the outputs: which, where, and who must be there.
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

/// The messages among the outputs that are sent at once, and on which session.
pub fn sent(outputs: &[Output]) -> Vec<(SessionId, &Message)> {
    let send = |output| match output {
        &Output::Send { session, ref message } => Some((session, message)),
        _ => None,
    };
    outputs.iter().filter_map(send).collect()
}

/// The peers on the lists among the outputs.
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

pub fn asks_for_a_list(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Send { message: Message::PeersRequest, .. }))
}

pub fn closes(outputs: &[Output], wanted: SessionId) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Close { session, .. } if *session == wanted))
}

pub fn drains(outputs: &[Output], wanted: SessionId) -> bool {
    outputs.iter().any(|output| matches!(output, Output::DrainUnread { session, .. } if *session == wanted))
}

pub fn told(outputs: &[Output]) -> Vec<Event> {
    let event = |output: &Output| match output {
        Output::Notify(event) => Some(event.clone()),
        _ => None,
    };
    outputs.iter().filter_map(event).collect()
}
