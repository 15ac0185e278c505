//! Connects or accepts, and completes the TLS handshake, under one absolute deadline that includes the Hellos.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use crossbeam_channel::{Receiver, TryRecvError};

use super::base::Session;
use super::circuit_socket::CircuitSocket;
use super::connect::{self, DialTarget, Until};
use super::context::Context;
use super::failure::Failure;
use super::hello::{self, Exported};
use super::link::{Link, LinkError, Stream, Transport};
use super::pending::PendingGuard;
use super::protocol::Request;
use super::punch::{self, PunchTarget};
use super::session_handle::Outgoing;
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::Expected;
use crate::trust::tls::{NewConnection, Rejection, Tls, authenticated_peer};
use crate::trust::tls_error::TlsError;

/// The start of a session.
pub(super) enum Origin {
    Dial(DialTarget),
    Accept { socket: TcpStream, remote: SocketAddr, pending: PendingGuard },
    Circuit(CircuitEnd),
    Punch(PunchTarget),
}

/// An open circuit in which a session runs.
pub(crate) struct CircuitEnd {
    pub(crate) socket: CircuitSocket,
    /// The peer at the other end. A handshake with another one fails.
    pub(crate) peer: PeerId,
    /// The carrier's socket address.
    pub(crate) remote: SocketAddr,
}

/// A connection whose TLS handshake is complete.
pub(super) struct Secured {
    pub(super) link: Box<Link>,
    /// Decrypted bytes that arrived with the end of the handshake.
    pub(super) early: Vec<u8>,
    pub(super) peer: PeerId,
    pub(super) remote: SocketAddr,
    pub(super) exported: Exported,
    /// The deadline for the peer's Hello.
    pub(super) deadline: Instant,
    /// For an accepted connection.
    pub(super) pending: Option<PendingGuard>,
}

/// A connection whose TLS handshake is not complete.
struct Opening {
    pending: Option<PendingGuard>,
    link: Box<Link>,
    early: Vec<u8>,
    /// The deadline for the handshake.
    deadline: Instant,
}

impl Session {
    /// Connects or accepts, and completes the TLS handshake.
    ///
    /// # Errors
    /// The handshake was not complete within [`HANDSHAKE_TIMEOUT`]; the connection is closed.
    pub(super) fn secure(&self, origin: Origin) -> Result<Secured, Failure> {
        let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
        match origin {
            Origin::Accept { socket, remote, pending } => {
                socket.set_nonblocking(true).map_err(LinkError::Io)?;
                let link = self.begin(Transport::Tcp(socket), Tls::accept)?;
                self.shake_hands(
                    Opening { pending: Some(pending), link, early: Vec::new(), deadline },
                    remote,
                )
            }
            Origin::Dial(target) => self.dial(&target, deadline),
            Origin::Circuit(CircuitEnd { socket, peer, remote }) => {
                self.meet(Transport::Circuit(socket), peer, remote, deadline)
            }
            Origin::Punch(target) => self.punch(&target, deadline),
        }
    }

    /// Tries the IP addresses of the target one after the other. A name may have addresses of several hosts, so this
    /// node itself, a peer that is not expected or another service at one address says nothing about the next.
    fn dial(&self, target: &DialTarget, deadline: Instant) -> Result<Secured, Failure> {
        let Context { lookups, interfaces, .. } = &*self.context;
        let addrs = connect::addresses(target, lookups, interfaces)?;
        connect::in_turn(&addrs, deadline, Instant::now, |addr, until| {
            let secured = self.dial_one(target, addr, until);
            match secured {
                Ok(secured) if addrs.len() > 1 && secured.peer == self.context.id => Err(Failure::OwnAddress),
                // The peer sees a connection that was closed early, as a port scan makes.
                Ok(secured) if target.skip.peers.contains(&secured.peer) => Err(Failure::NothingNew),
                Ok(secured) => Ok(Secured { deadline, ..secured }),
                Err(Failure::Link(LinkError::Rejected(Rejection::WrongId { found, .. })))
                    if addrs.len() > 1 && found == self.context.id =>
                {
                    Err(Failure::OwnAddress)
                }
                Err(failure) => Err(failure),
            }
        })
    }

    /// Connects to one address and completes the TLS handshake there.
    fn dial_one(&self, target: &DialTarget, addr: SocketAddr, until: Until) -> Result<Secured, Failure> {
        let Self { context, end, .. } = self;
        let mut interrupted = || is_cancelled(&end.outbox);
        let opened = connect::open(addr, context.source, &end.waker, until.connected, &mut interrupted);
        let socket = opened.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => Failure::Cancelled,
            _ => Failure::Connect(error),
        })?;
        let link = self.begin(Transport::Tcp(socket), |tls| tls.dial(target.expected))?;
        let opening = Opening { pending: None, link, early: Vec::new(), deadline: until.secured };
        self.shake_hands(opening, addr)
    }

    /// Connects at the same time as the peer, and completes the TLS handshake.
    fn punch(&self, target: &PunchTarget, deadline: Instant) -> Result<Secured, Failure> {
        let Self { end, .. } = self;
        let mut interrupted = || is_cancelled(&end.outbox);
        let met = punch::meet_half_way(target, &end.waker, &mut interrupted);
        let socket = met.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => Failure::Cancelled,
            _ => Failure::Connect(error),
        })?;
        socket.set_nonblocking(true).map_err(LinkError::Io)?;
        let remote = socket.peer_addr().map_err(LinkError::Io)?;
        self.meet(Transport::Tcp(socket), target.peer, remote, deadline)
    }

    /// Completes the TLS handshake with this peer, inside a circuit or on a connection that both nodes opened. The name of
    /// the session tells which of them is the dialler.
    fn meet(
        &self,
        transport: Transport,
        peer: PeerId,
        remote: SocketAddr,
        deadline: Instant,
    ) -> Result<Secured, Failure> {
        let expected = Expected::Peer(peer);
        let link = if self.id.is_dialled() {
            self.begin(transport, |tls| tls.dial(expected))?
        } else {
            self.begin(transport, Tls::accept)?
        };
        let opening = Opening { pending: None, link, early: Vec::new(), deadline };
        let secured = self.shake_hands(opening, remote)?;
        if secured.peer == peer {
            Ok(secured)
        } else {
            // Another peer is at the other end than the one that was named.
            let found = secured.peer;
            Err(Failure::Link(LinkError::Rejected(Rejection::WrongId { expected, found })))
        }
    }

    /// Completes the TLS handshake.
    fn shake_hands(&self, mut opening: Opening, remote: SocketAddr) -> Result<Secured, Failure> {
        while opening.link.is_handshaking() {
            self.step(&mut opening)?;
        }
        let Opening { pending, link, early, deadline } = opening;
        let peer = authenticated_peer(link.tls())?;
        let exported = hello::exported(link.tls()).map_err(Failure::Exporter)?;
        self.context.interfaces.note(&remote);
        Ok(Secured { link, early, peer, remote, exported, deadline, pending })
    }

    /// Starts TLS on a socket that is connected and does not block.
    fn begin(
        &self,
        transport: Transport,
        start: impl FnOnce(&Tls) -> Result<NewConnection, TlsError>,
    ) -> Result<Box<Link>, LinkError> {
        let connection = start(&self.context.tls)?;
        Ok(Box::new(Link::new(transport, connection, &self.context.counters)?))
    }

    /// One round of writing, waiting and reading.
    fn step(&self, opening: &mut Opening) -> Result<(), Failure> {
        opening.link.flush()?;
        let ready = opening.link.wait(&self.end.waker, true, Some(opening.deadline))?;
        if ready.woken {
            if self.eviction.is_evicted() {
                return Err(Failure::Evicted);
            }
            // The coordinator has no handle of an accepted connection yet.
            if opening.pending.is_none() && is_cancelled(&self.end.outbox) {
                return Err(Failure::Cancelled);
            }
        }
        if Instant::now() >= opening.deadline {
            return Err(Failure::Deadline);
        }
        if ready.readable {
            // An answer goes out with the next write: the dialler's proof and Hello travel in one segment.
            let Opening { link, early, .. } = opening;
            let stream = link.read(|bytes| early.extend_from_slice(bytes))?;
            if stream == Stream::Ended && link.is_handshaking() {
                return Err(Failure::ClosedEarly);
            }
        }
        Ok(())
    }
}

/// Whether the coordinator wants to end a dial that has not sent its Hello. It sends nothing else to it.
fn is_cancelled(outbox: &Receiver<Outgoing>) -> bool {
    loop {
        match outbox.try_recv() {
            Ok(Outgoing::Request(Request::Bye(_) | Request::Release)) | Err(TryRecvError::Disconnected) => {
                return true;
            }
            Ok(_) => {}
            Err(TryRecvError::Empty) => return false,
        }
    }
}
