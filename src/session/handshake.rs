//! Connects or accepts, and completes the TLS handshake, under one absolute deadline that includes the Hellos.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use super::base::Session;
use super::connect::{self, Route};
use super::failure::Failure;
use super::hello::{self, Exported};
use super::link::{Link, LinkError, Stream};
use super::pending::PendingGuard;
use super::protocol::Request;
use super::session_handle::Outgoing;
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::mesh::DialSource;
use crate::net::addr::DialAddr;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::Expected;
use crate::trust::tls::{NewConnection, Tls, authenticated_peer};
use crate::trust::tls_error::TlsError;

/// The start of a session.
pub(super) enum Origin {
    Dial { addr: DialAddr, expected: Expected, source: DialSource },
    Accept { socket: TcpStream, remote: SocketAddr, pending: PendingGuard },
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
    /// See [`crate::mesh::SessionUp::handshake_delay`].
    pub(super) handshake_delay: Duration,
}

/// A connection whose TLS handshake is not complete.
struct Opening {
    pending: Option<PendingGuard>,
    link: Box<Link>,
    early: Vec<u8>,
    remote: SocketAddr,
    deadline: Instant,
}

impl Session {
    /// Connects or accepts, and completes the TLS handshake.
    ///
    /// # Errors
    /// The handshake was not complete within [`HANDSHAKE_TIMEOUT`]; the connection is closed.
    pub(super) fn secure(&self, origin: Origin) -> Result<Secured, Failure> {
        let started = Instant::now();
        let mut opening = self.open(origin, started + HANDSHAKE_TIMEOUT)?;
        let connected = Instant::now();
        while opening.link.is_handshaking() {
            self.step(&mut opening)?;
        }
        let Opening { pending, link, early, remote, deadline } = opening;
        let peer = authenticated_peer(link.tls())?;
        let exported = hello::exported(link.tls()).map_err(Failure::Exporter)?;
        let handshake_delay = if pending.is_none() {
            connected.elapsed().saturating_sub(connected.duration_since(started))
        } else {
            Duration::ZERO
        };
        Ok(Secured { link, early, peer, remote, exported, deadline, pending, handshake_delay })
    }

    /// Connects if this node dials, and starts TLS.
    fn open(&self, origin: Origin, deadline: Instant) -> Result<Opening, Failure> {
        let (link, remote, pending) = match origin {
            Origin::Accept { socket, remote, pending } => {
                socket.set_nonblocking(true).map_err(LinkError::Io)?;
                (self.begin(socket, Tls::accept)?, remote, Some(pending))
            }
            Origin::Dial { addr, expected, source } => {
                let Self { context, end, .. } = self;
                let route = Route { addr: &addr, source, from: context.source };
                let interrupted = || is_cancelled(&end.outbox);
                let opened = connect::open(route, context, &end.waker, deadline, interrupted);
                let (socket, remote) = opened.map_err(|error| match error.kind() {
                    io::ErrorKind::Interrupted => Failure::Cancelled,
                    _ => Failure::Connect(error),
                })?;
                (self.begin(socket, |tls| tls.dial(expected))?, remote, None)
            }
        };
        Ok(Opening { pending, link, early: Vec::new(), remote, deadline })
    }

    /// Starts TLS on a socket that is connected and does not block.
    fn begin(
        &self,
        socket: TcpStream,
        start: impl FnOnce(&Tls) -> Result<NewConnection, TlsError>,
    ) -> Result<Box<Link>, LinkError> {
        let connection = start(&self.context.tls)?;
        Ok(Box::new(Link::new(socket, connection, &self.context.counters)?))
    }

    /// One round of writing, waiting and reading.
    fn step(&self, opening: &mut Opening) -> Result<(), Failure> {
        opening.link.flush()?;
        let ready = opening.link.wait(&self.end.waker, true, Some(opening.deadline))?;
        if ready.woken {
            if self.eviction.is_evicted() {
                return Err(Failure::Evicted);
            }
            // The coordinator has no handle of an accepted session yet.
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
