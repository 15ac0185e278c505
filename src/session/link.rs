//! Moves bytes between one socket and its TLS connection. Only [`Link::wait`] blocks, and it ends at a deadline
//! or when the thread's waker is used.

use std::io::{self, BufRead as _, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustls::Connection;

use super::circuit_socket::CircuitSocket;
use crate::net::waker::Waker;
use crate::session::counters::Counters;
use crate::trust::tls::{NewConnection, Rejection};
use crate::trust::tls_error::TlsError;
use crate::wire::Frame;

/// Most bytes read from the socket at a time. Bounds the memory that one peer can make this node hold.
const READ_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the first read. Most of the time no more have arrived.
const FIRST_READ_BYTES: usize = 4 * 1024;
/// Bytes of each further read: a TLS record.
const NEXT_READ_BYTES: usize = 16 * 1024;

/// A connection that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// This node's verifier did not accept the peer's certificate.
    #[error("{0}")]
    Rejected(Rejection),
}

/// The events that ended a wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) woken: bool,
}

/// Whether the peer may still send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Open,
    Ended,
}

/// What carries the bytes of a session.
#[derive(Debug)]
pub(crate) enum Transport {
    /// A connected, non-blocking socket.
    Tcp(TcpStream),
    /// One end of a circuit. The thread's waker tells of its news.
    Circuit(CircuitSocket),
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Circuit(socket) => socket.read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Circuit(socket) => socket.write(bytes),
        }
    }

    /// Sends all TLS records that wait in one system call, so they share TCP segments.
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write_vectored(parts),
            Self::Circuit(socket) => socket.write_vectored(parts),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Link {
    transport: Transport,
    tls: Connection,
    rejection: Arc<OnceLock<Rejection>>,
    counters: Arc<Counters>,
    /// Writing has failed, so bytes that wait are never sent.
    is_broken: bool,
}

impl Link {
    pub(crate) fn new(
        transport: Transport,
        (mut tls, rejection): NewConnection,
        counters: &Arc<Counters>,
    ) -> io::Result<Self> {
        if let Transport::Tcp(socket) = &transport {
            // Frames are small and written whole, so Nagle's algorithm would only add latency.
            socket.set_nodelay(true)?;
        }
        // The outbox bounds the queued bytes, in whole frames.
        tls.set_buffer_limit(None);
        Ok(Self { transport, tls, rejection, counters: Arc::clone(counters), is_broken: false })
    }

    pub(crate) fn tls(&self) -> &Connection {
        &self.tls
    }

    /// Whether bytes wait for the socket to take them.
    pub(crate) fn is_write_pending(&self) -> bool {
        !self.is_broken && self.tls.wants_write()
    }

    /// The address of this end; `None` inside a circuit.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match &self.transport {
            Transport::Tcp(socket) => socket.local_addr().ok(),
            Transport::Circuit(_) => None,
        }
    }

    /// Lets further sockets of this machine use the local port beside this connection, and returns the local address. `None`
    /// inside a circuit, or if the system refuses that.
    pub(crate) fn share_port(&self) -> Option<SocketAddr> {
        if let Transport::Tcp(socket) = &self.transport {
            sockopt::set_socket_reuseaddr(socket, true).ok()?;
        }
        self.local_addr()
    }

    /// Gives up the bytes that wait. A wait for a broken socket to take them would end at once, again and again.
    pub(crate) fn stop_writing(&mut self) {
        self.is_broken = true;
    }

    /// Waits for the socket, the waker or the deadline. With `reading`, received bytes end the wait; bytes that wait
    /// for the socket always do once it takes them.
    pub(crate) fn wait(
        &mut self,
        waker: &Waker,
        reading: bool,
        deadline: Option<Instant>,
    ) -> Result<Ready, LinkError> {
        let is_write_pending = self.is_write_pending();
        let socket = match &mut self.transport {
            Transport::Tcp(socket) => socket,
            Transport::Circuit(socket) => {
                return wait_in_circuit(socket, waker, reading, is_write_pending, deadline);
            }
        };
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, reading);
        interest.set(PollFlags::OUT, is_write_pending);
        let mut fds =
            [PollFd::new(waker.fd(), PollFlags::IN), PollFd::from_borrowed_fd(socket.as_fd(), interest)];
        // With no interest at all a hung-up socket would still end every wait at once.
        let count = if interest.is_empty() { 1 } else { 2 };
        poll_until(&mut fds[..count], deadline)?;
        let [woken, socket] = fds.each_ref().map(PollFd::revents);
        if woken.contains(PollFlags::IN) {
            waker.clear();
        }
        let failed = PollFlags::HUP | PollFlags::ERR;
        let readable = reading && socket.intersects(PollFlags::IN | failed);
        Ok(Ready { readable, woken: woken.contains(PollFlags::IN) })
    }

    /// Reads received bytes, up to [`READ_BYTES_MAX`], decrypts them and passes them to `take`.
    ///
    /// # Errors
    /// The socket or TLS failed. After a TLS error the alert for the peer has been sent, if the socket took it.
    pub(crate) fn read(&mut self, mut take: impl FnMut(&[u8])) -> Result<Stream, LinkError> {
        let mut budget = READ_BYTES_MAX;
        let (mut first, mut next) = ([0; FIRST_READ_BYTES], Vec::new());
        while budget > 0 {
            let chunk = if next.is_empty() { &mut first[..] } else { &mut next[..] };
            let read = match self.transport.read(chunk) {
                Ok(0) => return Ok(Stream::Ended),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            self.counters.bytes_received.add(read);
            budget = budget.saturating_sub(read);
            // Otherwise a further read would find nothing.
            let is_full = read == chunk.len();
            if self.decrypt(&chunk[..read], &mut take)? == Stream::Ended {
                return Ok(Stream::Ended);
            }
            if !is_full {
                break;
            }
            next.resize(NEXT_READ_BYTES, 0);
        }
        Ok(Stream::Open)
    }

    /// Passes received bytes through TLS, and what they decrypt to to `take`.
    fn decrypt(&mut self, mut received: &[u8], take: &mut impl FnMut(&[u8])) -> Result<Stream, LinkError> {
        while !received.is_empty() {
            if self.tls.read_tls(&mut received)? == 0 {
                // The peer has closed its direction of TLS before these bytes.
                return Ok(Stream::Ended);
            }
            let state = match self.tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    let _ = self.flush();
                    return Err(match self.rejection.get() {
                        Some(rejection) => LinkError::Rejected(rejection.clone()),
                        None => LinkError::Tls(error.into()),
                    });
                }
            };
            let mut plain = state.plaintext_bytes_to_read();
            while plain > 0 {
                let mut reader = self.tls.reader();
                let chunk = reader.fill_buf()?;
                take(chunk);
                let taken = chunk.len();
                reader.consume(taken);
                plain = plain.saturating_sub(taken.max(1));
            }
            if state.peer_has_closed() {
                return Ok(Stream::Ended);
            }
        }
        Ok(Stream::Open)
    }

    /// Encrypts a frame; [`Link::flush`] sends it.
    pub(crate) fn queue(&mut self, frame: &Frame) -> Result<(), LinkError> {
        Ok(self.tls.writer().write_all(frame)?)
    }

    /// Writes until no byte is left or the socket takes no more. Returns whether no byte is left.
    pub(crate) fn flush(&mut self) -> Result<bool, LinkError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.transport) {
                Ok(0) => return Err(io::Error::from(ErrorKind::WriteZero).into()),
                Ok(written) => self.counters.bytes_sent.add(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Queues the TLS close alert. No frame may be queued after it.
    pub(crate) fn close_notify(&mut self) {
        self.tls.send_close_notify();
    }

    /// Shuts the sending side of the TCP connection. A circuit has no half that could be shut; the TLS close alert is
    /// enough.
    pub(crate) fn shutdown_write(&self) {
        if let Transport::Tcp(socket) = &self.transport {
            let _ = socket.shutdown(std::net::Shutdown::Write);
        }
    }

    /// Whether the TLS handshake is not yet complete.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }
}

/// As [`Link::wait`], for a circuit. The thread at the other end of its pipe uses the waker.
fn wait_in_circuit(
    socket: &mut CircuitSocket,
    waker: &Waker,
    reading: bool,
    is_write_pending: bool,
    deadline: Option<Instant>,
) -> Result<Ready, LinkError> {
    let mut is_ready = || (reading && socket.is_readable(), is_write_pending && socket.is_writable());
    let mut woken = false;
    if is_ready() == (false, false) {
        let mut fds = [PollFd::new(waker.fd(), PollFlags::IN)];
        poll_until(&mut fds, deadline)?;
        woken = fds[0].revents().contains(PollFlags::IN);
        if woken {
            waker.clear();
        }
    }
    Ok(Ready { readable: is_ready().0, woken })
}

/// poll(2) with an absolute deadline. A signal ends it early.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    let timeout = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
    match poll(fds, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_wait_go_out_in_one_call() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let parts = [IoSlice::new(b"one"), IoSlice::new(b"two")];
        assert_eq!(Transport::Tcp(socket).write_vectored(&parts).unwrap(), 6);
    }
}
