//! After any sequence of inputs, honest or not, the mesh is within its limits and its events are in order.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use p2p_gossip::{HostName, Access, Config, DialAddr, Event, PeerId, PeerState};
use p2p_gossip::internals::beacon::Beacon;
use p2p_gossip::internals::Expected;
use p2p_gossip::internals::mesh::{DIAL_LANES, DIALS_IN_FLIGHT_MAX, DialError, DisconnectReason, Input, Mesh, Output, SESSIONS_PER_PEER_MAX, SessionId, SessionUp, Vitals};
use p2p_gossip::internals::wire::{
    self, ByeReason, CircuitReason, Hearing, Hello, Message, Notice, PeerRecord, Sighting,
};

const PEERS_MAX: usize = 12;

#[derive(Arbitrary, Debug)]
enum Step {
    Wait { ms: u16 },
    Accepted { peer: u8, instance: u8, from: u8 },
    DialUp { which: u8, peer: Option<u8>, instance: u8 },
    DialFails { which: u8, found: Option<u8>, cancelled: bool },
    Receives { which: u8, content: Content },
    Ends { which: u8, why: u8 },
    Drained { which: u8, silent_ms: u16 },
    Access { denied: u8, allowed: Option<u8> },
    Leave,
    Beacon { host: u8, port: u16, instance: u8 },
}

#[derive(Arbitrary, Debug)]
enum Content {
    Ping { seq: u64 },
    Heartbeat { digest: u64, interval_ms: u32, rtt_us: Option<u32> },
    Request,
    Peers { records: Vec<(u8, Vec<(u8, u16)>, bool)>, more: bool },
    KeyInUse,
    Question { lost: Vec<(u8, u8, u32)> },
    Report { sightings: Vec<(u8, u8, u32)> },
    CircuitOpen { circuit: u8, target: u8 },
    CircuitOffer { circuit: u8, from: u8 },
    CircuitAccept { circuit: u8 },
    CircuitClose { circuit: u8, reason: u8 },
}

/// Peer 0 is the node itself. Some ids are below its id and some above, so that either side is the arbiter.
fn id(n: u8) -> PeerId {
    let order = [8, 1, 2, 3, 12, 13, 14, 15][usize::from(n % 8)];
    PeerId::from_bytes([order + 16 * (n / 8 % 2); 32])
}

fn addr(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host % 16], port))
}

/// Sockets and names: on this machine, on one link, or without a valid host.
fn dial_addr(host: u8, port: u16) -> DialAddr {
    match host / 16 {
        0 => DialAddr::Name { host: HostName::new("node.example").expect("a name"), port },
        1 => DialAddr::Name { host: HostName::new("localhost").expect("a name"), port },
        2 => DialAddr::Socket(([127, 0, 0, host % 16], port).into()),
        3 => DialAddr::Socket(([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(host % 16)], port).into()),
        4 => DialAddr::Socket(([0, 0, 0, 0], port).into()),
        _ => addr(host, port).into(),
    }
}

fn hello(peer: u8, instance: u8) -> Hello {
    Hello {
        instance: (instance % 4).into(),
        name: String::new(),
        listen_port: 8080 * u16::from(peer % 2),
        advertised: vec![dial_addr(peer, 8080)],
        heartbeat_ms: u32::from(instance) * 1000,
        capabilities: vec![instance.into()],
        proofs: Vec::new(),
    }
}

struct Driver {
    mesh: Mesh,
    now: Instant,
    accepted: u64,
    dials: BTreeMap<SessionId, Expected>,
    access: Access,
    sessions: BTreeMap<SessionId, PeerId>,
    up: BTreeSet<PeerId>,
    /// The digest that sessions send with heartbeats.
    digest: Option<u64>,
    is_leaving: bool,
}

impl Driver {
    fn new(is_strict: bool) -> Self {
        let now = Instant::now();
        let connect = vec![addr(1, 8080).into(), "nowhere.example:1".parse().expect("an address")];
        let config = Config::default().connect(connect).strict(is_strict).peers_max(PEERS_MAX);
        let mesh = Mesh::new(config, id(0), 0, 7, now);
        let (dials, sessions, up) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let access = Access::default();
        Self { mesh, now, accepted: 0, dials, access, sessions, up, digest: None, is_leaving: false }
    }

    fn session(&self, which: u8) -> Option<SessionId> {
        let count = self.sessions.len();
        self.sessions.keys().nth(usize::from(which).checked_rem(count)?).copied()
    }

    fn dial(&self, which: u8) -> Option<SessionId> {
        let count = self.dials.len();
        self.dials.keys().nth(usize::from(which).checked_rem(count)?).copied()
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Wait { ms } => {
                self.now += Duration::from_millis(ms.into());
                self.mesh.handle_timeout(self.now);
            }
            Step::Accepted { peer, instance, from } => {
                self.accepted += 1;
                let session = SessionId::accepted(self.accepted);
                self.session_comes_up(session, peer, instance, addr(from, 40_000));
            }
            Step::DialUp { which, peer, instance } => {
                if let Some(session) = self.dial(which) {
                    self.dial_succeeds(session, peer, instance);
                }
            }
            Step::DialFails { which, found, cancelled } => {
                if let Some(session) = self.dial(which) {
                    self.dial_fails(session, found, cancelled);
                }
            }
            Step::Receives { which, content } => {
                if let Some(session) = self.session(which) {
                    self.feed(input(session, self.now, content));
                }
            }
            Step::Ends { which, why } => {
                if let Some(session) = self.session(which) {
                    self.session_ends(session, why);
                }
            }
            Step::Drained { which, silent_ms } => {
                if let Some(session) = self.session(which) {
                    let silence = Duration::from_millis(silent_ms.into());
                    let heard = self.now.checked_sub(silence).unwrap_or(self.now);
                    self.feed(Input::Drained { session, heard });
                }
            }
            Step::Access { denied, allowed } => {
                let some = |mask: u8| (1..9).filter(move |n| mask >> (n - 1) & 1 == 1).map(id);
                let access = Access::default().deny(some(denied));
                self.access = match allowed {
                    Some(allowed) => access.allow(some(allowed)),
                    None => access,
                };
                self.feed(Input::Access(self.access.clone()));
            }
            Step::Beacon { host, port, instance } => {
                let beacon = Beacon { instance: instance.into(), addr: addr(host, port) };
                self.feed(Input::Beacon(beacon));
            }
            Step::Leave => {
                self.is_leaving = true;
                self.feed(Input::Leave);
            }
        }
        self.execute_outputs();
        self.check();
    }

    fn dial_succeeds(&mut self, session: SessionId, peer: Option<u8>, instance: u8) {
        let expected = self.dials.remove(&session).unwrap_or(Expected::AnyPeer);
        let known = (expected != Expected::AnyPeer)
            .then(|| (0..=255).find(|&n| expected.is_met_by(&id(n))))
            .flatten();
        let peer = known.or(peer).unwrap_or(1);
        self.session_comes_up(session, peer, instance, addr(peer, 8080));
    }

    fn dial_fails(&mut self, session: SessionId, found: Option<u8>, cancelled: bool) {
        self.dials.remove(&session);
        let reason = match found {
            _ if cancelled => DialError::Cancelled,
            Some(n) => DialError::WrongId { found: id(n) },
            None => DialError::Refused("refused".to_owned()),
        };
        self.feed(Input::DialFailed { session, reason });
    }

    fn session_ends(&mut self, session: SessionId, why: u8) {
        self.sessions.remove(&session);
        // Some of the numbers are reasons that only a later version knows.
        let reason = match why % 20 {
            0 => DisconnectReason::Closed,
            1 => DisconnectReason::Protocol,
            2 => DisconnectReason::Slow,
            bye => DisconnectReason::Bye(ByeReason::from_number(u16::from(bye) - 3)),
        };
        self.feed(Input::SessionDown { session, reason });
    }

    fn session_comes_up(&mut self, session: SessionId, peer: u8, instance: u8, remote: SocketAddr) {
        self.sessions.insert(session, id(peer));
        let hello = hello(peer, instance);
        let local = (!session.is_carried()).then_some(remote);
        let (peer, network_key, told_interval_ms) = (id(peer), None, 1000);
        let up = SessionUp { session, peer, hello, remote, local, network_key, told_interval_ms };
        self.feed(Input::SessionUp(up));
    }

    fn feed(&mut self, input: Input) {
        self.mesh.handle(self.now, input);
    }

    fn execute_outputs(&mut self) {
        while let Some(output) = self.mesh.poll_output() {
            match output {
                Output::Dial { session, expected, addr, source, .. } => {
                    assert!(addr.is_dialable() && !(source.is_from_peer() && addr.is_loopback()), "dialled {addr}");
                    assert!(session.is_dialled() && expected != Expected::Peer(id(0)), "the node dialled its own id");
                    assert!(self.dials.insert(session, expected).is_none(), "ids are never used again");
                    assert!(!self.is_leaving, "dialled after the goodbye");
                }
                Output::Send { session, message } => {
                    assert!(self.sessions.contains_key(&session), "sent on a session that is gone");
                    assert!(!self.is_leaving, "sent after the goodbye");
                    wire::encode(&message).expect("the mesh sends only messages that can be encoded");
                }
                Output::Heartbeat { session } => {
                    let peer = self.sessions.get(&session).expect("a heartbeat on a session that is gone");
                    assert!(id(0) < *peer, "the other node of the pair sends the heartbeats");
                    assert!(!self.is_leaving, "a heartbeat after the goodbye");
                }
                Output::DrainUnread { session, since } => {
                    assert!(self.sessions.contains_key(&session), "drained a session that is gone");
                    assert!(since <= self.now, "heard a peer in the future");
                }
                Output::Vitals(vitals) => self.digest = Some(vitals.digest),
                Output::Notify(Event::Up { peer, members, .. }) => {
                    assert!(peer != id(0) && self.up.insert(peer), "up twice");
                    assert_eq!(members, self.up.len() + 1);
                }
                Output::Notify(Event::Down { peer, members, .. } | Event::Left { peer, members, .. }) => {
                    assert!(self.up.remove(&peer), "a peer was lost that was not up");
                    assert_eq!(members, self.up.len() + 1);
                }
                Output::Notify(Event::Ping { peer, .. }) => {
                    assert!(self.up.contains(&peer) || self.is_unstable(&peer), "a ping of a peer that is not up");
                }
                Output::Notify(Event::Verdict { peer, asked, seen_by, .. }) => {
                    assert!(!self.up.contains(&peer), "a verdict on a peer that is up");
                    assert!(seen_by <= asked, "{seen_by} of {asked} hear the peer");
                }
                Output::Carry { circuits, .. } => {
                    assert!(circuits.iter().all(|end| self.sessions.contains_key(&end.session)), "carried on a session that is gone");
                }
                Output::EnterCircuit { session, at, .. } => {
                    assert!(session.is_carried() && !self.is_leaving && self.sessions.contains_key(&at.session));
                }
                Output::Punch { session, beside, .. } => {
                    assert!(session.is_punched() && beside.is_dialled() && !self.is_leaving);
                    self.feed(Input::DialFailed { session, reason: DialError::Failed(String::new()) });
                }
                Output::CloseCircuit { .. } | Output::Close { .. } | Output::NetworkKeys(_) | Output::Persist | Output::Notify(_) | Output::Report(_) => {}
            }
        }
    }

    fn is_unstable(&self, id: &PeerId) -> bool {
        self.mesh.visible_states().any(|(peer, state, _)| peer == *id && state == PeerState::Unstable)
    }

    fn check(&self) {
        assert!(self.mesh.dials_in_flight() <= DIAL_LANES * DIALS_IN_FLIGHT_MAX);
        assert_eq!(self.mesh.members(), self.up.len() + 1);
        assert_eq!(self.digest, Some(self.mesh.digest()), "sessions send an old digest");
        let peers = self.mesh.peers(self.now);
        assert!(peers.len() <= PEERS_MAX, "{} peers known", peers.len());
        for peer in &peers {
            assert_eq!(peer.state == PeerState::Up, self.up.contains(&peer.id));
            let is_admitted = self.access.check(&peer.id).is_ok();
            // A leaving node no longer ends the session of a denied peer.
            assert!(self.is_leaving || is_admitted || !matches!(peer.state, PeerState::Up | PeerState::Unstable), "a denied peer is a member");
            let open = self.mesh.open_sessions(&peer.id);
            let most = if id(0) < peer.id { 1 } else { SESSIONS_PER_PEER_MAX };
            assert!(open.len() <= most, "{} sessions with one peer", open.len());
        }
    }
}

fn sightings(all: Vec<(u8, u8, u32)>) -> Vec<Sighting> {
    let hearing = |n: u8| [Hearing::Hears, Hearing::Silent, Hearing::Lost, Hearing::Unknown][usize::from(n % 4)];
    all.into_iter().map(|(n, kind, ago_ms)| Sighting { peer: id(n), hearing: hearing(kind), ago_ms }).collect()
}

fn input(session: SessionId, arrived: Instant, content: Content) -> Input {
    let message = match content {
        Content::Heartbeat { digest, interval_ms, rtt_us } => {
            let rtt = rtt_us.map(|us| Duration::from_micros(us.into()));
            let vitals = Vitals { digest, interval_ms };
            return Input::Heartbeat { session, vitals, arrived, rtt };
        }
        Content::Ping { seq } => Message::Ping { seq, text: String::new() },
        Content::Request => Message::PeersRequest,
        Content::Peers { records, more } => {
            let record = |(n, addrs, connected): (u8, Vec<(u8, u16)>, bool)| {
                let addrs = addrs.into_iter().take(4).map(|(host, port)| dial_addr(host, port)).collect();
                PeerRecord { id: id(n), addrs, connected }
            };
            Message::Peers { records: records.into_iter().map(record).collect(), more }
        }
        Content::Question { lost } => Message::WitnessRequest { lost: self::sightings(lost) },
        Content::Report { sightings } => Message::WitnessReport { sightings: self::sightings(sightings) },
        Content::CircuitOpen { circuit, target } => Message::CircuitOpen { circuit: circuit.into(), target: id(target) },
        Content::CircuitOffer { circuit, from } => Message::CircuitOffer { circuit: circuit.into(), from: id(from) },
        Content::CircuitAccept { circuit } => Message::CircuitAccept { circuit: circuit.into() },
        Content::CircuitClose { circuit, reason } => {
            Message::CircuitClose { circuit: circuit.into(), reason: CircuitReason::from_number(reason.into()) }
        }
        Content::KeyInUse => Message::Notice(Notice::KeyInUse(addr(3, 8080))),
    };
    Input::Received { session, message, arrived, rtt: None }
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (is_strict, steps) = input;
    let mut driver = Driver::new(is_strict);
    driver.execute_outputs();
    driver.check();
    for step in steps {
        driver.step(step);
    }
});
