//! The coordinator's handle of a session: its outbox, its waker, and the time at which it last heard its peer.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::protocol::Request;
use crate::limits::{OUTBOX_FRAMES, OUTBOX_FRAMES_WITH_MESSAGES};
use crate::net::waker::Waker;
use crate::session::delivery::Receipt;
use crate::util::queue;
use crate::util::sync::{AtomicBool, AtomicU64, Ordering, Receiver, TrySendError};
use crate::wire::{ByeReason, Frame};

/// The outbox is full because the peer does not read its frames. The item was not queued.
#[derive(Debug)]
pub struct OutboxFull;

/// An item in a session's outbox.
#[derive(Debug)]
pub(super) enum Outgoing {
    Request(Request),
    /// A broadcast message, with the receipt for its sender.
    Message(Frame, Receipt),
}

/// The coordinator's handle of a session. Dropping it ends the session without a goodbye.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    outbox: Option<queue::Sender<Outgoing>>,
    waker: Arc<Waker>,
    signals: Arc<Signals>,
}

impl SessionHandle {
    /// Queues a frame; never blocks.
    pub(crate) fn send(&self, frame: Frame) -> Result<(), OutboxFull> {
        self.put(Outgoing::Request(Request::Send(frame)))
    }

    /// Requests a heartbeat; never blocks. A request that the session's thread has not seen yet is enough, so
    /// heartbeats do not pile up on a busy machine.
    pub(crate) fn heartbeat(&self) {
        self.signals.want_heartbeat(Instant::now());
        self.waker.wake();
    }

    /// Queues a broadcast message if there is room for more than pings and lists; never blocks.
    pub(crate) fn offer(&self, frame: Frame, receipt: Receipt) -> Result<(), OutboxFull> {
        if self.backlog() >= OUTBOX_FRAMES_WITH_MESSAGES {
            return Err(OutboxFull);
        }
        self.put(Outgoing::Message(frame, receipt))
    }

    /// Items waiting to be sent.
    pub(crate) fn backlog(&self) -> usize {
        self.outbox.as_ref().map_or(0, queue::Sender::len)
    }

    /// Requests the delivery of all messages that have arrived by now, and then `Drained`; never blocks. The request
    /// does not wait behind frames that the peer does not read.
    pub(crate) fn drain_unread(&self) {
        self.signals.is_drain_wanted.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Says goodbye after what is queued, then closes; never blocks.
    pub(crate) fn bye(&self, reason: ByeReason) -> Result<(), OutboxFull> {
        self.put(Outgoing::Request(Request::Bye(reason)))
    }

    /// Queues a request about a circuit; never blocks.
    pub(crate) fn request(&self, request: Request) -> Result<(), OutboxFull> {
        self.put(Outgoing::Request(request))
    }

    /// Wakes the session's thread.
    pub(crate) fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    /// The time at which the session last heard its peer; `None` if it is not up.
    pub(crate) fn heard(&self) -> Option<Instant> {
        self.signals.heard()
    }

    /// The local address of the connection, once its handshake is complete, if this node dialled it.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.signals.local_addr()
    }

    /// Lets the session have heard its peer at this time.
    #[cfg(test)]
    pub(crate) fn hear(&self, at: Instant) {
        self.signals.set_heard(at);
    }

    /// Queues an item and wakes the session's thread. A session that has ended has reported that, or is about to.
    fn put(&self, outgoing: Outgoing) -> Result<(), OutboxFull> {
        match self.outbox.as_ref().map(|outbox| outbox.try_send(outgoing)) {
            Some(Err(TrySendError::Full(_))) => return Err(OutboxFull),
            Some(Err(TrySendError::Disconnected(_))) | None => {}
            Some(Ok(())) => self.waker.wake(),
        }
        Ok(())
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        // The sender goes first, so that the woken thread finds its outbox closed.
        self.outbox = None;
        self.waker.wake();
    }
}

/// The session's end of a [`SessionHandle`].
#[derive(Debug)]
pub(super) struct SessionEnd {
    pub(super) outbox: Receiver<Outgoing>,
    pub(super) waker: Arc<Waker>,
    pub(super) signals: Arc<Signals>,
}

/// What the coordinator and a session tell each other without a queue.
#[derive(Debug)]
pub(super) struct Signals {
    epoch: Instant,
    /// When the session last heard its peer, in nanoseconds since `epoch`; 0 before it is up. So the coordinator need
    /// not wake the session to ask.
    heard_nanos: AtomicU64,
    is_drain_wanted: AtomicBool,
    /// When the coordinator asked for the heartbeat that the session has not seen yet, in nanoseconds since `epoch`; 0 if
    /// it has not.
    heartbeat_wanted_nanos: AtomicU64,
    /// See [`SessionHandle::local_addr`].
    local_addr: OnceLock<SocketAddr>,
}

impl Signals {
    fn new(epoch: Instant) -> Self {
        let [heard_nanos, heartbeat_wanted_nanos] = [(); 2].map(|()| AtomicU64::new(0));
        let (is_drain_wanted, local_addr) = (AtomicBool::new(false), OnceLock::new());
        Self { epoch, heard_nanos, is_drain_wanted, heartbeat_wanted_nanos, local_addr }
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr.get().copied()
    }

    /// The time since the coordinator or the listener ordered the session.
    pub(super) fn age(&self) -> Duration {
        self.epoch.elapsed()
    }

    pub(super) fn set_local_addr(&self, addr: SocketAddr) {
        // The handshake of a session completes once.
        let _ = self.local_addr.set(addr);
    }

    pub(super) fn set_heard(&self, at: Instant) {
        self.heard_nanos.store(self.nanos(at), Ordering::Relaxed);
    }

    /// Nanoseconds since `epoch`, never 0.
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    fn time(&self, nanos: u64) -> Option<Instant> {
        (nanos > 0).then(|| self.epoch + Duration::from_nanos(nanos))
    }

    fn heard(&self) -> Option<Instant> {
        self.time(self.heard_nanos.load(Ordering::Relaxed))
    }

    /// Takes the coordinator's request to drain.
    pub(super) fn take_drain_request(&self) -> bool {
        take(&self.is_drain_wanted)
    }

    fn want_heartbeat(&self, now: Instant) {
        // The oldest request tells how long the session takes.
        let now = self.nanos(now);
        let _ = self.heartbeat_wanted_nanos.compare_exchange(0, now, Ordering::Release, Ordering::Relaxed);
    }

    /// Takes the coordinator's request for a heartbeat. Returns the time at which it asked.
    pub(super) fn take_heartbeat_request(&self) -> Option<Instant> {
        // Most of the time there is none, and a read costs less than an exchange.
        let is_wanted = self.heartbeat_wanted_nanos.load(Ordering::Relaxed) > 0;
        if is_wanted { self.time(self.heartbeat_wanted_nanos.swap(0, Ordering::Acquire)) } else { None }
    }
}

fn take(flag: &AtomicBool) -> bool {
    // Most of the time it is not set, and a read costs less than an exchange.
    flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::Acquire)
}

pub(super) fn handle_and_end(waker: Arc<Waker>) -> (SessionHandle, SessionEnd) {
    let (sender, outbox) = queue::bounded(OUTBOX_FRAMES);
    let signals = Arc::new(Signals::new(Instant::now()));
    let end = SessionEnd { outbox, waker: Arc::clone(&waker), signals: Arc::clone(&signals) };
    (SessionHandle { outbox: Some(sender), waker, signals }, end)
}

/// A handle of a session whose thread takes no item out of the outbox, and its other end.
#[cfg(test)]
pub(crate) fn stuck() -> std::io::Result<(SessionHandle, impl Drop)> {
    let (handle, end) = handle_and_end(Arc::new(Waker::new()?));
    Ok((handle, end.outbox))
}
