//! Circuits: the pipes inside a process, and the sessions whose connection is a circuit. Their bytes pass through the real
//! protocols of the carrier.

use std::io::{Read as _, Write as _};
use std::mem::take;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use p2p_gossip::PeerId;
use p2p_gossip::internals::Expected;
use p2p_gossip::internals::limits::HANDSHAKE_TIMEOUT;
use p2p_gossip::internals::mesh::{CircuitAt, DialError, SessionId};
use p2p_gossip::internals::session::{CircuitSocket, OutboxFull, Request, Wake, pipe};

use super::clock::micros;
use super::net::{Conn, ConnId, Direction, End, Packet, Side};
use super::process::ProcId;
use super::session::{Limit, Stage, Thread};
use super::world::{Event, World};

/// The ends of connections whose threads pipes have woken.
pub type Woken = Arc<Mutex<Vec<(ConnId, Side)>>>;

/// Wakes the thread at one end of a connection.
#[derive(Debug)]
struct ThreadWaker {
    at: (ConnId, Side),
    woken: Woken,
}

impl Wake for ThreadWaker {
    fn wake(&self) {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(self.at);
    }
}

/// The connection of a session inside a circuit.
#[derive(Debug)]
pub struct CircuitLink {
    pub peer: PeerId,
    /// `None` once the session has ended.
    socket: Option<CircuitSocket>,
    received: Vec<u8>,
    /// Bytes for which there is no credit.
    pub unsent: Vec<u8>,
    has_ended: bool,
}

impl World {
    fn waker(&self, at: (ConnId, Side)) -> Arc<dyn Wake> {
        Arc::new(ThreadWaker { at, woken: Arc::clone(&self.woken) })
    }

    /// Lets the threads look that pipes have woken.
    pub fn wake_circuits(&mut self) {
        let woken = take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner));
        for (conn, side) in woken {
            self.schedule(self.now, Event::Circuit(conn, side));
        }
    }

    /// Joins circuits on two connections of one process.
    pub fn carry(&mut self, circuits: [CircuitAt; 2], at: [(ConnId, Side); 2]) -> Result<(), SessionId> {
        let ends = pipe(at.map(|at| self.waker(at)));
        for ((circuit, (conn, side)), end) in circuits.into_iter().zip(at).zip(ends) {
            let attach = Request::Attach(circuit.circuit, end);
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
        remote: SocketAddr,
    ) -> Result<(), DialError> {
        let (conn, side) = (self.conns.len(), usize::from(!id.is_dialled()));
        let [end, inner] = pipe([self.waker(outer), self.waker((conn, side))]);
        let attached = self.put(outer.0, outer.1, Request::Attach(at.circuit, end));
        attached.map_err(|OutboxFull| DialError::Failed("the carrier does not read".to_owned()))?;
        let (stage, expected) = if id.is_dialled() {
            (Stage::AwaitingServer, Expected::Peer(peer))
        } else {
            (Stage::AwaitingClient, Expected::AnyPeer)
        };
        let slot = Some(self.procs[proc].slot);
        let thread = Some(Thread::new(id, stage, expected, self.now));
        let mut ends = [End::default(), End::default()];
        ends[side] = End { proc: Some(proc), slot, open: true, fin_sent: false, thread, heard: None };
        let circuit = CircuitLink {
            peer,
            socket: Some(CircuitSocket::new(inner)),
            received: Vec::new(),
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
        let Some(circuit) = &mut self.conns[conn].circuit else {
            return;
        };
        let (kind, bytes) = match packet {
            Packet::ClientHello => (0, Vec::new()),
            Packet::ServerHello(id) => (1, id.as_bytes().to_vec()),
            Packet::Finished(id) => (2, id.as_bytes().to_vec()),
            Packet::Bytes(bytes) => (3, bytes),
            Packet::Fin | Packet::Rst => (4, Vec::new()),
        };
        circuit.unsent.push(kind);
        circuit.unsent.extend(u32::try_from(bytes.len()).expect("a short packet").to_be_bytes());
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
        let whole = circuit.received.split_first_chunk::<5>().and_then(|(head, rest)| {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            Some((head[0], rest.get(..length)?.to_vec()))
        });
        let Some((kind, bytes)) = whole else {
            let is_news = is_over && !std::mem::replace(&mut circuit.has_ended, true);
            return is_news.then_some(Packet::Fin);
        };
        circuit.received.drain(..5 + bytes.len());
        let id = || PeerId::from_bytes(bytes.as_slice().try_into().expect("an id"));
        Some(match kind {
            0 => Packet::ClientHello,
            1 => Packet::ServerHello(id()),
            2 => Packet::Finished(id()),
            3 => Packet::Bytes(bytes),
            _ => Packet::Fin,
        })
    }

    /// The session inside a circuit has ended.
    pub fn close_circuit_link(&mut self, conn: ConnId) {
        if let Some(circuit) = &mut self.conns[conn].circuit {
            circuit.socket = None;
        }
    }
}
