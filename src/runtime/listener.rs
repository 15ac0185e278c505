//! The accept loop of the listening socket.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::mesh::SessionId;
use crate::net::listen::{Connection, ListenSocket};
use crate::net::waker::Waker;
use crate::session::pending::PendingConnections;
use crate::session::{self, Context, Eviction};
use crate::util::log_limit::{LogLimit, limited_log};
use crate::util::sync::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use crate::util::worker::Worker;

/// Pause after a failed accept. Without it, a lack of descriptors would keep one core busy.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Time after which the listener looks again whether a connection that gave way is closed. Its thread only has to run.
const CLOSE_WAIT: Duration = Duration::from_millis(2);

/// The running accept loop.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Arc<ListenSocket>,
    /// Dropped to stop the thread; nothing is ever sent.
    stop: Option<Sender<()>>,
    thread: Option<Worker>,
}

impl Listener {
    /// Starts the thread that accepts connections; at most `accepted_max` of them are open at once, and of these at most
    /// `pending_max` have an unfinished handshake.
    ///
    /// # Errors
    /// The system has no thread or memory left.
    pub(crate) fn start(
        socket: ListenSocket,
        context: Arc<Context>,
        pending_max: usize,
        accepted_max: usize,
    ) -> io::Result<Self> {
        let socket = Arc::new(socket);
        let (stop, stopped) = bounded(0);
        let mut accepting = Accepting {
            socket: Arc::clone(&socket),
            context,
            stopped,
            pending: PendingConnections::new(pending_max),
            accepted_max,
            wakers: Vec::new(),
        };
        let thread = Worker::spawn("listener", move || accepting.run())?;
        Ok(Self { socket, stop: Some(stop), thread: Some(thread) })
    }

    /// Stops accepting, and closes every connection that is not yet authenticated.
    pub(crate) fn stop(&mut self) {
        // First, because the thread looks for this after each accept.
        self.stop = None;
        self.socket.interrupt_accept();
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

struct Accepting {
    socket: Arc<ListenSocket>,
    context: Arc<Context>,
    stopped: Receiver<()>,
    pending: Arc<PendingConnections>,
    /// The number of connections that may be open, also those that gave way and are not closed yet.
    accepted_max: usize,
    /// The wakers of the accepted connections. That of a closed connection is gone.
    wakers: Vec<Weak<Waker>>,
}

impl Accepting {
    fn run(&mut self) {
        let mut accepted = 0;
        loop {
            self.wait_for_room();
            let connection = self.next_connection();
            if self.stopped.try_recv() == Err(TryRecvError::Disconnected) {
                self.pending.evict_all();
                return;
            }
            let started = connection.and_then(|(socket, remote, waker)| {
                accepted += 1;
                self.context.counters.connections_accepted.one();
                self.start_session(SessionId::accepted(accepted), socket, remote, waker)
            });
            match started {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    // Descriptors or threads have run out. Pending connections give theirs back.
                    let evicted = self.pending.evict_some();
                    limited_log!(LogLimit::new(), error, { reason:% = error, evicted },
                        "cannot accept connections; closed the oldest unfinished handshakes; retrying");
                    let _ = self.stopped.recv_timeout(ACCEPT_BACKOFF);
                }
            }
        }
    }

    /// Waits until fewer connections are open than may be. On a busy machine the threads of those that gave way close them
    /// late, and without this wait the newcomers would take the last descriptors.
    fn wait_for_room(&mut self) {
        let is_open = |waker: &Weak<Waker>| waker.strong_count() > 0;
        while self.wakers.len() >= self.accepted_max {
            self.wakers.retain(is_open);
            let is_stopped = || self.stopped.recv_timeout(CLOSE_WAIT) == Err(RecvTimeoutError::Disconnected);
            if self.wakers.len() >= self.accepted_max && is_stopped() {
                return;
            }
        }
    }

    /// Waits for a connection. The waker is created first. If it takes the last descriptor, the connection
    /// waits in the kernel for a free one, and is not closed for lack of a waker.
    fn next_connection(&self) -> io::Result<(Connection, SocketAddr, Waker)> {
        let waker = Waker::new()?;
        let (socket, remote) = self.socket.accept()?;
        Ok((socket, remote, waker))
    }

    fn start_session(
        &mut self,
        id: SessionId,
        socket: Connection,
        remote: SocketAddr,
        waker: Waker,
    ) -> io::Result<()> {
        let waker = Arc::new(waker);
        self.wakers.push(Arc::downgrade(&waker));
        let eviction = Eviction::new(&waker);
        let guard = self.pending.add(id, remote, &eviction);
        session::accept(&self.context, id, socket, remote, guard, waker, eviction)
    }
}

/// Whether the error concerns one connection and not the listener. The next accept may succeed at once.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted)
}
