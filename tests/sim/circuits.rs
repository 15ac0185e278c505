//! Circuits: the pipes inside a process, and the sessions whose connection is a circuit. Their bytes pass through the real
//! protocols of the carrier.
//!
//! A record inside a circuit has a tag, as in TLS: an end that meets a wrong tag ends its session. So bytes that a bad
//! carrier changes, repeats, exchanges or sends to another circuit reach no protocol.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::mem::take;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use p2p_gossip::PeerId;
use p2p_gossip::internals::Expected;
use p2p_gossip::internals::limits::HANDSHAKE_TIMEOUT;
use p2p_gossip::internals::mesh::{CircuitAt, DialError, SessionId};
use p2p_gossip::internals::session::{CircuitSocket, OutboxFull, PipeEnd, Request, Wake, pipe};

use super::clock::{Micros, SECOND, micros};
use super::net::{Conn, ConnId, Direction, End, Packet, Side};
use super::process::ProcId;
use super::scenario::Slot;
use super::session::{Limit, Stage, Thread};
use super::world::{Event, World};

/// One that waits for news in a pipe.
#[derive(Clone, Copy, Debug)]
pub enum Sleeper {
    /// The thread at this end of a connection.
    Thread(ConnId, Side),
    /// The bad carrier of a circuit.
    BadCarrier(usize),
}

/// Threads that pipes have woken.
pub type Woken = Arc<Mutex<Vec<Sleeper>>>;

#[derive(Debug)]
struct Waker {
    sleeper: Sleeper,
    woken: Woken,
}

impl Wake for Waker {
    fn wake(&self) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.sleeper);
    }
}

/// The tags of the records of one session inside a circuit, at one end.
#[derive(Debug)]
struct Tags {
    is_dialled: bool,
    /// A random number of each side, once it is known: the dialling side first.
    nonces: [Option<u64>; 2],
    sent: u64,
    received: u64,
}

impl Tags {
    fn tag(&self, is_from_dialler: bool, number: u64, kind: u8, bytes: &[u8]) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.nonces, is_from_dialler, number, kind, bytes).hash(&mut hasher);
        hasher.finish()
    }
}

/// What one bad carrier does with one circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mischief {
    Nothing,
    DropAll,
    DropSome,
    Delay(Micros),
    Repeat,
    /// Holds a piece back until the next one has gone.
    Exchange,
    Change,
    /// Sends to the other end of the circuit before this one.
    Splice,
}

/// A circuit that a bad carrier carries.
#[derive(Debug)]
pub struct BadCircuit {
    carrier: Option<Slot>,
    ends: [PipeEnd; 2],
    mischief: Mischief,
    held: [Option<Vec<u8>>; 2],
}

/// The kinds of records inside a circuit.
const CLIENT_HELLO: u8 = 0;
const SERVER_HELLO: u8 = 1;
const FINISHED: u8 = 2;
const BYTES: u8 = 3;
const FIN: u8 = 4;
/// No record is longer.
const RECORD_MAX: usize = 1 << 24;

impl Tags {
    /// The packet of a record, if its tag is right.
    fn open(&mut self, kind: u8, tag: u64, bytes: &[u8]) -> Packet {
        let nonce = bytes.first_chunk::<8>().map(|nonce| u64::from_be_bytes(*nonce));
        match kind {
            CLIENT_HELLO if self.nonces[0].is_none() => self.nonces[0] = nonce,
            SERVER_HELLO if self.nonces[1].is_none() => self.nonces[1] = nonce,
            _ => {}
        }
        let is_right = kind == CLIENT_HELLO || tag == self.tag(!self.is_dialled, self.received, kind, bytes);
        self.received += 1;
        let id = |bytes: &[u8]| bytes.try_into().ok().map(PeerId::from_bytes);
        let packet = match kind {
            CLIENT_HELLO => Some(Packet::ClientHello),
            SERVER_HELLO => bytes.get(8..).and_then(id).map(Packet::ServerHello),
            FINISHED => id(bytes).map(Packet::Finished),
            BYTES => Some(Packet::Bytes(bytes.to_vec())),
            _ => Some(Packet::Fin),
        };
        packet.filter(|_| is_right).unwrap_or(Packet::Garbled)
    }
}

/// The connection of a session inside a circuit.
#[derive(Debug)]
pub struct CircuitLink {
    pub peer: PeerId,
    /// `None` once the session has ended.
    socket: Option<CircuitSocket>,
    received: Vec<u8>,
    tags: Tags,
    /// Bytes for which there is no credit.
    pub unsent: Vec<u8>,
    has_ended: bool,
}

impl World {
    fn waker(&self, sleeper: Sleeper) -> Arc<dyn Wake> {
        Arc::new(Waker { sleeper, woken: Arc::clone(&self.woken) })
    }

    /// Lets those look that pipes have woken.
    pub fn wake_circuits(&mut self) {
        let woken = take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        for sleeper in woken {
            match sleeper {
                Sleeper::Thread(conn, side) => self.schedule(self.now, Event::Circuit(conn, side)),
                Sleeper::BadCarrier(circuit) => {
                    let delay = match self.bad_circuits[circuit].mischief {
                        Mischief::Delay(delay) => delay,
                        _ => 0,
                    };
                    self.schedule(self.now + delay, Event::BadCircuit(circuit));
                }
            }
        }
    }

    /// Joins circuits on two connections of one process.
    pub fn carry(
        &mut self,
        circuits: [CircuitAt; 2],
        acquainted_at: [Instant; 2],
        at: [(ConnId, Side); 2],
    ) -> Result<(), SessionId> {
        let wakers = at.map(|(conn, side)| self.waker(Sleeper::Thread(conn, side)));
        let slot = self.conns[at[0].0].ends[at[0].1].slot;
        let is_bad = slot.is_some_and(|slot| self.scenario.bad_carriers.contains(&slot));
        let ends = if is_bad { self.carry_badly(slot, wakers) } else { pipe(wakers) };
        let ends = ends.into_iter().zip(acquainted_at);
        for ((circuit, (conn, side)), (end, acquainted_at)) in circuits.into_iter().zip(at).zip(ends) {
            let attach = Request::Attach(circuit.circuit, end, acquainted_at);
            self.put(conn, side, attach).map_err(|OutboxFull| circuit.session)?;
        }
        Ok(())
    }

    /// Starts a session inside a circuit.
    pub fn enter_circuit(
        &mut self,
        proc: ProcId,
        id: SessionId,
        (at, outer): (CircuitAt, (ConnId, Side)),
        peer: PeerId,
        (remote, acquainted_at): (SocketAddr, Instant),
    ) -> Result<(), DialError> {
        let (conn, side) = (self.conns.len(), usize::from(!id.is_dialled()));
        let sleepers = [Sleeper::Thread(outer.0, outer.1), Sleeper::Thread(conn, side)];
        let [end, inner] = pipe(sleepers.map(|sleeper| self.waker(sleeper)));
        let attached = self.put(outer.0, outer.1, Request::Attach(at.circuit, end, acquainted_at));
        attached.map_err(|OutboxFull| DialError::Failed("the carrier does not read".to_owned()))?;
        let (stage, expected) = if id.is_dialled() {
            (Stage::AwaitingServer, Expected::Peer(peer))
        } else {
            (Stage::AwaitingClient, Expected::AnyPeer)
        };
        let slot = Some(self.procs[proc].slot);
        let thread = Some(Thread::new(id, stage, expected, self.now));
        let mut ends = [End::default(), End::default()];
        ends[side] = End { proc: Some(proc), slot, open: true, thread, ..End::default() };
        let circuit = CircuitLink {
            peer,
            socket: Some(CircuitSocket::new(inner)),
            received: Vec::new(),
            tags: Tags { is_dialled: id.is_dialled(), nonces: [None; 2], sent: 0, received: 0 },
            unsent: Vec::new(),
            has_ended: false,
        };
        self.conns.push(Conn {
            ends,
            ways: [Direction::default(), Direction::default()],
            addr: remote,
            source: remote,
            key: None,
            established: true,
            pings: Default::default(),
            // A carrier that goes takes what is under way with it.
            disturbed: true,
            circuit: Some(circuit),
        });
        self.procs[proc].conns.insert((conn, side));
        self.procs[proc].handles.insert(id, (conn, side));
        self.limit(conn, side, Limit::Handshake, self.now + micros(HANDSHAKE_TIMEOUT));
        if id.is_dialled() {
            self.transmit(conn, side, Packet::ClientHello);
        }
        Ok(())
    }

    /// A pipe has news for the thread at this end of a connection.
    pub fn circuit_news(&mut self, conn: ConnId, side: Side) {
        if self.runs_later(conn, side) {
            return;
        }
        if self.conns[conn].circuit.is_some() {
            self.flush_circuit(conn);
            while let Some(packet) = self.next_packet(conn) {
                self.thread_receives(conn, side, packet);
            }
        }
        self.run_thread(conn, side);
    }

    /// Sends a packet inside a circuit.
    pub fn transmit_in_circuit(&mut self, conn: ConnId, packet: Packet) {
        let nonce = self.rng.u64(..);
        let Some(circuit) = &mut self.conns[conn].circuit else {
            return;
        };
        let tags = &mut circuit.tags;
        let (kind, bytes) = match packet {
            Packet::ClientHello => {
                tags.nonces[0] = Some(nonce);
                (CLIENT_HELLO, nonce.to_be_bytes().to_vec())
            }
            Packet::ServerHello(id) => {
                tags.nonces[1] = Some(nonce);
                (SERVER_HELLO, [&nonce.to_be_bytes()[..], id.as_bytes()].concat())
            }
            Packet::Finished(id) => (FINISHED, id.as_bytes().to_vec()),
            Packet::Bytes(bytes) => (BYTES, bytes),
            Packet::Fin | Packet::Rst | Packet::Garbled => (FIN, Vec::new()),
        };
        let tag = if kind == CLIENT_HELLO { 0 } else { tags.tag(tags.is_dialled, tags.sent, kind, &bytes) };
        tags.sent += 1;
        circuit.unsent.push(kind);
        circuit.unsent.extend(u32::try_from(bytes.len()).expect("a short packet").to_be_bytes());
        circuit.unsent.extend(tag.to_be_bytes());
        circuit.unsent.extend(bytes);
        self.flush_circuit(conn);
    }

    fn flush_circuit(&mut self, conn: ConnId) {
        if let Some(CircuitLink { socket: Some(socket), unsent, .. }) = &mut self.conns[conn].circuit {
            while let Ok(written) = socket.write(unsent) {
                unsent.drain(..written);
                if unsent.is_empty() {
                    return;
                }
            }
        }
    }

    /// The next packet that has arrived inside a circuit; a `Fin` at its end.
    fn next_packet(&mut self, conn: ConnId) -> Option<Packet> {
        let circuit = self.conns[conn].circuit.as_mut()?;
        let socket = circuit.socket.as_mut()?;
        let mut buffer = [0; 4096];
        let is_over = loop {
            match socket.read(&mut buffer) {
                Ok(0) => break true,
                Ok(read) => circuit.received.extend_from_slice(&buffer[..read]),
                Err(_) => break false,
            }
        };
        let mut is_garbled = false;
        let whole = circuit.received.split_first_chunk::<13>().and_then(|(head, rest)| {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            is_garbled = length > RECORD_MAX;
            let tag = head[5..].iter().fold(0, |tag, byte| tag << 8 | u64::from(*byte));
            Some((head[0], tag, rest.get(..length)?.to_vec()))
        });
        let Some((kind, tag, bytes)) = whole else {
            let is_news = (is_over || is_garbled) && !std::mem::replace(&mut circuit.has_ended, true);
            return is_news.then_some(if is_garbled { Packet::Garbled } else { Packet::Fin });
        };
        circuit.received.drain(..13 + bytes.len());
        let packet = circuit.tags.open(kind, tag, &bytes);
        if let Packet::Garbled = packet {
            circuit.has_ended = true;
            self.stats.garbled += 1;
        }
        Some(packet)
    }

    /// A bad carrier joins two circuits. Returns the ends of its two pipes.
    fn carry_badly(&mut self, carrier: Option<Slot>, wakers: [Arc<dyn Wake>; 2]) -> [PipeEnd; 2] {
        let circuit = self.bad_circuits.len();
        let [first, second] = wakers;
        let [first, near] = pipe([first, self.waker(Sleeper::BadCarrier(circuit))]);
        let [second, far] = pipe([second, self.waker(Sleeper::BadCarrier(circuit))]);
        let all = [
            Mischief::Nothing,
            Mischief::DropAll,
            Mischief::DropSome,
            Mischief::Delay(self.rng.u64(0..4 * SECOND)),
            Mischief::Repeat,
            Mischief::Exchange,
            Mischief::Change,
            Mischief::Splice,
        ];
        let mischief = all[self.rng.usize(..all.len())];
        self.bad_circuits.push(BadCircuit { carrier, ends: [near, far], mischief, held: [None, None] });
        [first, second]
    }

    /// A bad carrier passes on what it likes. After the faults it passes on nothing.
    pub fn pass_badly(&mut self, circuit: usize) {
        for way in 0..2 {
            let news = self.bad_circuits[circuit].ends[way].take(usize::MAX);
            let is_lucky = self.rng.u32(..6) > 0;
            let mut bytes = news.bytes;
            let carrier = self.bad_circuits[circuit].carrier;
            let (before, rest) = self.bad_circuits.split_at_mut(circuit);
            let BadCircuit { ends, mischief, held, .. } = &mut rest[0];
            if let Some(other) = before.iter_mut().rfind(|other| other.carrier == carrier)
                && *mischief == Mischief::Splice
                && !is_lucky
            {
                other.ends[way].write(&std::mem::take(&mut bytes));
                other.ends[way].wake();
            }
            let to = &mut ends[1 - way];
            to.grant(news.credit);
            match *mischief {
                _ if self.faults_ended => bytes.clear(),
                Mischief::DropAll => bytes.clear(),
                _ if is_lucky => {}
                Mischief::DropSome => bytes.clear(),
                Mischief::Repeat => bytes.extend(bytes.clone()),
                Mischief::Exchange if held[way].is_none() => held[way] = Some(take(&mut bytes)),
                Mischief::Change => {
                    bytes.iter_mut().take(1 + circuit % 30).last().into_iter().for_each(|byte| *byte ^= 1);
                }
                Mischief::Nothing | Mischief::Delay(_) | Mischief::Exchange | Mischief::Splice => {}
            }
            let is_held = bytes.is_empty();
            if !bytes.is_empty() {
                to.write(&bytes);
            }
            if let Some(late) = held[way].take_if(|_| !is_held) {
                to.write(&late);
            }
            to.wake();
            if let Some(reason) = news.ended {
                to.end(reason);
            }
        }
    }

    /// The connection at the other end of a circuit, once both ends have shaken hands.
    pub fn far_conn(&self, conn: ConnId) -> Option<ConnId> {
        let tags =
            |conn: &Conn| conn.circuit.as_ref().map(|circuit| (circuit.tags.nonces, circuit.tags.is_dialled));
        let (nonces, is_dialled) = tags(&self.conns[conn])?;
        let is_far = |other: &Conn| tags(other) == Some((nonces, !is_dialled));
        nonces[1].and_then(|_| self.conns.iter().rposition(is_far))
    }

    /// The session inside a circuit has ended.
    pub fn close_circuit_link(&mut self, conn: ConnId) {
        if let Some(circuit) = &mut self.conns[conn].circuit {
            circuit.socket = None;
        }
    }
}
