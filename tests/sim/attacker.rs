//! An attacker: a machine that makes as many keys as it likes and has no mesh. Its sessions speak the protocol, so that
//! nodes take them for peers. A liar in `adversary.rs` is a node of the mesh; an attacker is not.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use p2p_gossip::internals::Expected;
use p2p_gossip::internals::mesh::{SessionId, Vitals};
use p2p_gossip::internals::session::{HelloExchange, Request, SessionEvent};
use p2p_gossip::internals::wire::{self, ByeReason, Hello, Message, Notice, PeerRecord, RECORDS_MAX};
use p2p_gossip::{DialAddr, PeerId};

use super::clock::{MS, Micros, SECOND};
use super::net::{ConnId, Packet, Side};
use super::process::ProcId;
use super::scenario::Slot;
use super::world::{Event, SlotState, World};

/// What an attacker does, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Attack {
    /// The attacker's machine.
    pub slot: Slot,
    pub from: Micros,
    pub until: Micros,
    pub plot: Plot,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Plot {
    /// Fresh keys connect, as fast as the time allows, and each goes after `stay`.
    FreshKeys { at: Vec<Slot>, keys: u32, within: Micros, stay: Micros, advertises: Vec<Target> },
    /// One key is a member of all nodes.
    Member(Lies),
    /// One key comes to all nodes and goes, again and again.
    Flapping { every: Micros },
    /// It forges beacons.
    Beacons { every: Micros },
}

/// What a hostile member tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lies {
    /// Invented peers on each list.
    pub invented: u32,
    /// Each list has other invented peers.
    pub are_new: bool,
    /// The invented peers are at many addresses instead of one.
    pub at_many: bool,
    /// Nodes that left are connected, at their addresses and at a third party's.
    pub left_are_connected: bool,
    /// False alarms about used keys, impossible round-trip times, and many small messages.
    pub noise: bool,
}

/// An address that the attacker wants nodes to dial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// A third party's port, which refuses or does not answer.
    ThirdParty { answers: bool },
    /// A port of the attacker's machine, on which nothing listens.
    OwnMachine,
}

/// Number of addresses of third parties.
const THIRD_PARTIES: u32 = 1_000;
/// Interval of a hostile member's acts.
const ACTS_EVERY: Micros = 100 * MS;

/// The address of a third party. No node has it.
pub fn third_party(n: u32, answers: bool) -> SocketAddr {
    // The network refuses connections to even ports of addresses without a machine, and ignores others.
    let port = if answers { 22 } else { 443 };
    SocketAddr::from(([10, 200, (n / 250) as u8, (n % 250 + 1) as u8], port))
}

/// Whether the address is of a third party.
pub fn is_third_party(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.octets()[..2] == [10, 200])
}

/// The state of an attacker.
#[derive(Debug)]
pub struct Attacker {
    attack: Attack,
    rng: fastrand::Rng,
    /// Its lasting key. It is so large that nodes send it heartbeats, which its sessions acknowledge on their own.
    key: PeerId,
    /// The number of its sessions, and of its fresh keys.
    dialled: u64,
    /// The node and the start of each session that has not ended.
    sessions: BTreeMap<SessionId, (Slot, Micros)>,
}

fn large_key(rng: &mut fastrand::Rng) -> PeerId {
    PeerId::from_bytes(std::array::from_fn(|at| if at == 0 { u8::MAX } else { rng.u8(..) }))
}

impl Attacker {
    pub fn new(attack: Attack, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let key = large_key(&mut rng);
        Self { attack, rng, key, dialled: 0, sessions: BTreeMap::new() }
    }

    fn address(&self, target: Target, own: SocketAddr) -> DialAddr {
        match target {
            Target::ThirdParty { answers } => third_party(0, answers).into(),
            Target::OwnMachine => SocketAddr::new(own.ip(), 2_222).into(),
        }
    }

    /// A list with invented peers.
    fn invented(&mut self, lies: &Lies) -> Vec<PeerRecord> {
        let first = if lies.are_new { self.rng.u64(..) } else { 0 };
        let record = |n: u32| {
            let mut rng = fastrand::Rng::with_seed(first ^ (u64::from(n) << 32) ^ 77);
            let addr = third_party(if lies.at_many { n % THIRD_PARTIES } else { 0 }, n.is_multiple_of(2));
            let id = PeerId::from_bytes(std::array::from_fn(|_| rng.u8(..)));
            PeerRecord { id, addrs: vec![addr.into()], connected: true }
        };
        (0..lies.invented).map(record).collect()
    }
}

impl World {
    /// The attacker acts.
    pub fn attack(&mut self, proc: ProcId) {
        let Some(mut attacker) = self.procs[proc].attacker.take() else {
            return;
        };
        let is_over = self.now >= attacker.attack.until || self.faults_ended && !self.scenario.attacks_go_on;
        if is_over {
            // The kernel closes its connections.
            return self.stop(proc, true);
        }
        while let Some((_, session, conn, side, event)) = self.procs[proc].inbox.pop_front() {
            self.attacker_hears(proc, &mut attacker, session, (conn, side), event);
        }
        let next = match attacker.attack.plot.clone() {
            Plot::FreshKeys { at, keys, within, stay, advertises } => {
                self.bring_fresh_keys(proc, &mut attacker, &at, keys, within, stay, &advertises)
            }
            Plot::Member(lies) => self.act_as_member(proc, &mut attacker, &lies),
            Plot::Flapping { every } => self.flap(proc, &mut attacker, every),
            Plot::Beacons { every } => self.forge_beacon(attacker.attack.slot, every),
        };
        self.procs[proc].attacker = Some(attacker);
        self.schedule(self.now + next, Event::Attack(proc));
    }

    /// Lets the attacker handle what its session reported.
    pub fn wake_attacker(&mut self, proc: ProcId) {
        if let Some(mut attacker) = self.procs[proc].attacker.take() {
            while let Some((_, session, conn, side, event)) = self.procs[proc].inbox.pop_front() {
                self.attacker_hears(proc, &mut attacker, session, (conn, side), event);
            }
            self.procs[proc].attacker = Some(attacker);
        }
    }

    fn attacker_hears(
        &mut self,
        proc: ProcId,
        attacker: &mut Attacker,
        session: SessionId,
        end: (ConnId, Side),
        event: SessionEvent,
    ) {
        match event {
            SessionEvent::Received { message: Message::PeersRequest, .. } => {
                if let Plot::Member(lies) = attacker.attack.plot.clone() {
                    let records = self.lies(attacker, &lies);
                    self.send_records(end, records);
                }
            }
            SessionEvent::Down(_) | SessionEvent::DialFailed(_) => {
                attacker.sessions.remove(&session);
                self.procs[proc].handles.remove(&session);
            }
            _ => {}
        }
    }

    fn lies(&mut self, attacker: &mut Attacker, lies: &Lies) -> Vec<PeerRecord> {
        let mut records = attacker.invented(lies);
        if lies.left_are_connected {
            for slot in 0..self.slots.len() {
                let SlotState { addr, key, ref proc, .. } = self.slots[slot];
                if proc.is_none() && self.scenario.attacks.iter().all(|attack| attack.slot != slot) {
                    let addrs = vec![addr.into(), third_party(0, false).into()];
                    records.insert(0, PeerRecord { id: key, addrs, connected: true });
                }
            }
        }
        records
    }

    fn send_records(&mut self, (conn, side): (ConnId, Side), records: Vec<PeerRecord>) {
        let frames = records.chunks(RECORDS_MAX).count().max(1);
        for at in 0..frames {
            let records = records.chunks(RECORDS_MAX).nth(at).unwrap_or_default().to_vec();
            self.say(conn, side, &Message::Peers { records, more: at + 1 < frames });
        }
    }

    /// Sends a message on a session, if its outbox has room.
    fn say(&mut self, conn: ConnId, side: Side, message: &Message) {
        if let Ok(frame) = wire::encode(message) {
            let _ = self.put(conn, side, Request::Send(frame));
        }
    }

    /// Connects to a node with this key.
    fn come(
        &mut self,
        proc: ProcId,
        attacker: &mut Attacker,
        to: Slot,
        key: PeerId,
        advertised: Vec<DialAddr>,
    ) {
        attacker.dialled += 1;
        let session = SessionId::dialled(attacker.dialled);
        let hello = Hello {
            instance: u64::from(key.as_bytes()[1]),
            name: String::new(),
            listen_port: self.slots[self.procs[proc].slot].listen_port,
            advertised,
            heartbeat_ms: 1_000,
            capabilities: Vec::new(),
            proofs: Vec::new(),
        };
        let addr = self.slots[to].addr;
        self.dial(proc, session, addr, Expected::AnyPeer, Vec::new());
        let conn = self.procs[proc].handles[&session].0;
        self.conns[conn].key = Some((key, Arc::new(HelloExchange::new(hello, Vec::new()))));
        // What an attacker sends need not arrive.
        self.conns[conn].disturbed = true;
        attacker.sessions.insert(session, (to, self.now));
    }

    /// Ends a session, with a goodbye or without.
    fn go(&mut self, proc: ProcId, attacker: &mut Attacker, session: SessionId, bye: Option<ByeReason>) {
        attacker.sessions.remove(&session);
        let Some((conn, side)) = self.procs[proc].handles.remove(&session) else {
            return;
        };
        match bye {
            Some(reason) => {
                let _ = self.put(conn, side, Request::Bye(reason));
                self.drop_handle(conn, side);
            }
            None => {
                self.conns[conn].ends[side].thread = None;
                self.close_socket(conn, side, Packet::Fin);
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn bring_fresh_keys(
        &mut self,
        proc: ProcId,
        attacker: &mut Attacker,
        at: &[Slot],
        keys: u32,
        within: Micros,
        stay: Micros,
        advertises: &[Target],
    ) -> Micros {
        let gone = |&(_, &(_, came)): &(&SessionId, &(Slot, Micros))| self.now >= came + stay;
        let gone: Vec<SessionId> =
            attacker.sessions.iter().filter(gone).map(|(session, _)| *session).collect();
        for session in gone {
            self.go(proc, attacker, session, None);
        }
        let own = self.procs[proc].addr;
        let advertised: Vec<DialAddr> =
            advertises.iter().map(|&target| attacker.address(target, own)).collect();
        if attacker.dialled < u64::from(keys) {
            let key = large_key(&mut attacker.rng);
            let to = at[(attacker.dialled % at.len() as u64) as usize];
            self.come(proc, attacker, to, key, advertised);
        }
        (within / Micros::from(keys.max(1))).max(1)
    }

    fn act_as_member(&mut self, proc: ProcId, attacker: &mut Attacker, lies: &Lies) -> Micros {
        self.come_to_all(proc, attacker, vec![third_party(0, true).into()]);
        // Another digest makes nodes ask for the list.
        self.procs[proc].vitals = Vitals { digest: attacker.rng.u64(..), interval_ms: 1_000 };
        if lies.noise {
            let sessions: Vec<SessionId> = attacker.sessions.keys().copied().collect();
            for session in sessions {
                self.disturb(proc, attacker, session);
            }
        }
        ACTS_EVERY
    }

    /// One of a hostile member's acts on one session.
    fn disturb(&mut self, proc: ProcId, attacker: &mut Attacker, session: SessionId) {
        let Some(&(conn, side)) = self.procs[proc].handles.get(&session) else {
            return;
        };
        match attacker.rng.u32(..20) {
            0 => self.say(conn, side, &Message::Notice(Notice::KeyInUse(third_party(0, true)))),
            1 | 2 => {
                let rtt_us = [0, 1, u32::MAX][attacker.rng.usize(..3)];
                let digest = attacker.rng.u64(..);
                let seq = attacker.rng.u64(..);
                let interval_ms = [1, 1_000, 60_000][attacker.rng.usize(..3)];
                self.say(conn, side, &Message::Heartbeat { seq, digest, interval_ms, rtt_us });
            }
            3 => {
                for _ in 0..20 {
                    self.say(conn, side, &Message::Broadcast { text: "x".to_owned() });
                }
            }
            4 => {
                let lists = Lies { invented: 60, are_new: true, ..Lies::default() };
                let records = attacker.invented(&lists);
                self.send_records((conn, side), records);
            }
            5 if attacker.rng.u32(..4) == 0 => {
                let reasons = [ByeReason::Cloned, ByeReason::Full, ByeReason::Replaced, ByeReason::Leaving];
                let reason = reasons[attacker.rng.usize(..reasons.len())];
                self.go(proc, attacker, session, Some(reason));
            }
            6 => {
                let at = third_party(attacker.rng.u32(..100), true);
                self.say(conn, side, &Message::ReachableAt { addr: at });
            }
            _ => {}
        }
    }

    /// Its lasting key connects to all nodes with which it has no session.
    fn come_to_all(&mut self, proc: ProcId, attacker: &mut Attacker, advertised: Vec<DialAddr>) {
        for slot in 0..self.slots.len() {
            let is_node = self.slots[slot].proc.is_some_and(|other| self.procs[other].attacker.is_none());
            let is_there = attacker.sessions.values().any(|(to, _)| *to == slot);
            if is_node && slot != self.procs[proc].slot && !is_there {
                self.come(proc, attacker, slot, attacker.key, advertised.clone());
            }
        }
    }

    fn flap(&mut self, proc: ProcId, attacker: &mut Attacker, every: Micros) -> Micros {
        if attacker.sessions.is_empty() {
            self.come_to_all(proc, attacker, Vec::new());
        } else {
            let sessions: Vec<SessionId> = attacker.sessions.keys().copied().collect();
            let bye = attacker.rng.bool().then_some(ByeReason::Leaving);
            sessions.into_iter().for_each(|session| self.go(proc, attacker, session, bye));
        }
        every / 2
    }
}

impl Attack {
    /// One key that comes to all nodes and goes five times a second.
    pub fn flapping(slot: Slot, from: Micros, until: Micros) -> Self {
        Self { slot, from, until, plot: Plot::Flapping { every: SECOND / 5 } }
    }

    pub fn member(slot: Slot, from: Micros, until: Micros, lies: Lies) -> Self {
        Self { slot, from, until, plot: Plot::Member(lies) }
    }
}
