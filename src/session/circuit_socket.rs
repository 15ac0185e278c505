//! The socket of a session inside a circuit: it reads and writes as a connection that does not block.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use super::pipe::PipeEnd;
use crate::limits::CIRCUIT_WINDOW_BYTES;
use crate::wire::CIRCUIT_BYTES_MAX;

/// Credit is given back once this many bytes have been read, so that a heartbeat costs no message of credit.
const CREDIT_STEP_BYTES: usize = CIRCUIT_WINDOW_BYTES / 4;

/// One end of a circuit. Dropping it closes the circuit.
#[derive(Debug)]
pub struct CircuitSocket {
    end: PipeEnd,
    /// Bytes received and not read yet, and how many of them have been read.
    received: Vec<u8>,
    read: usize,
    /// Bytes that may still be written.
    allowed: usize,
    /// Bytes read for which no credit has been given back yet.
    unconfirmed: usize,
    is_ended: bool,
}

impl CircuitSocket {
    /// The socket of an open circuit.
    #[must_use]
    pub fn new(end: PipeEnd) -> Self {
        Self {
            end,
            received: Vec::new(),
            read: 0,
            allowed: CIRCUIT_WINDOW_BYTES,
            unconfirmed: 0,
            is_ended: false,
        }
    }

    /// Whether a read returns bytes or the end of the stream.
    pub fn is_readable(&mut self) -> bool {
        self.look();
        self.read < self.received.len() || self.is_ended
    }

    /// Whether a write takes bytes, or fails.
    pub fn is_writable(&mut self) -> bool {
        self.look();
        self.allowed > 0 || self.is_ended
    }

    /// Takes what the other end of the pipe has; no more bytes while some wait here.
    fn look(&mut self) {
        if !self.end.has_news() {
            return;
        }
        let waits = self.read < self.received.len();
        let news = self.end.take(if waits { 0 } else { CIRCUIT_BYTES_MAX });
        if !waits {
            self.received = news.bytes;
            self.read = 0;
        }
        self.allowed += news.credit;
        self.is_ended |= news.ended.is_some();
    }
}

impl Read for CircuitSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_readable() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let waiting = &self.received[self.read..];
        let length = waiting.len().min(buffer.len());
        buffer[..length].copy_from_slice(&waiting[..length]);
        self.read += length;
        if self.read == self.received.len() {
            self.received = Vec::new();
            self.read = 0;
        }
        self.unconfirmed += length;
        if self.unconfirmed >= CREDIT_STEP_BYTES {
            self.end.grant(std::mem::take(&mut self.unconfirmed));
            self.end.wake();
        }
        Ok(length)
    }
}

impl Write for CircuitSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    /// Takes all TLS records that wait, as far as there is credit.
    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.look();
        if self.is_ended {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut written = 0;
        for part in parts {
            let length = part.len().min(self.allowed);
            self.end.write(&part[..length]);
            self.allowed -= length;
            written += length;
        }
        self.end.wake();
        if written == 0 && parts.iter().any(|part| !part.is_empty()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
