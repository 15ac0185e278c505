//! Keeps connections with a complete response open for a moment. Closing a socket while the client still sends
//! would reset the connection, and the client could lose the response.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use p2p_gossip::internals::worker::Worker;

/// Time from the last byte of the response until the connection is closed.
const LINGER: Duration = Duration::from_secs(1);
/// Limit of connections that are kept open. For one more, the oldest is closed early.
const LINGERING_MAX: usize = 64;

/// The thread that closes finished connections. It holds them outside the limit of connections, so that a client
/// that stays does not keep others out.
#[derive(Clone, Debug)]
pub(super) struct Lingering(Sender<Arc<TcpStream>>);

impl Lingering {
    /// Starts the thread; it ends when the last clone of this is dropped.
    pub(super) fn start() -> io::Result<Self> {
        let (queue, finished) = bounded(LINGERING_MAX);
        // Not joined: the thread ends with the process.
        Worker::spawn("http linger", move || close_after_linger(&finished))?;
        Ok(Self(queue))
    }

    /// Takes a connection with a complete response. The client sees its end at once.
    pub(super) fn add(&self, socket: Arc<TcpStream>) {
        // An error means that the client has closed the connection. If the queue is full, this closes it.
        if socket.shutdown(Shutdown::Write).is_ok() {
            let _ = self.0.try_send(socket);
        }
    }
}

fn close_after_linger(finished: &Receiver<Arc<TcpStream>>) {
    let mut held: VecDeque<(Instant, Arc<TcpStream>)> = VecDeque::new();
    loop {
        let next = match held.front() {
            Some((until, _)) => finished.recv_deadline(*until),
            None => finished.recv().map_err(RecvTimeoutError::from),
        };
        match next {
            Ok(socket) => {
                if held.len() == LINGERING_MAX {
                    held.pop_front();
                }
                held.push_back((Instant::now() + LINGER, socket));
            }
            Err(RecvTimeoutError::Timeout) => {
                held.pop_front();
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
