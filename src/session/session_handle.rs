//! The coordinator's handle of a session: its outbox and its waker.

#[cfg(test)]
use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, TrySendError};

use super::outgoing::{Heartbeat, Outgoing};
use super::outlet::Shared;
use crate::limits::{OUTBOX_FRAMES, OUTBOX_FRAMES_WITH_MESSAGES};
use crate::net::waker::Waker;
use crate::session::delivery::Receipt;
use crate::util::queue;
use crate::wire::{ByeReason, Frame};

/// The coordinator's handle of a session. Dropping it ends the session without a goodbye.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    outbox: Option<queue::Sender<Outgoing>>,
    waker: Arc<Waker>,
    /// `Some` once the session is up.
    outlet: Option<Arc<Shared>>,
}

/// The coordinator writes directly only if at most this many frames are queued. If more are queued, the
/// session's thread is already writing.
const FEW_FRAMES: usize = 2;

/// The outbox is full because the peer does not read its frames. The item was not queued.
#[derive(Debug)]
pub(crate) struct OutboxFull;

impl SessionHandle {
    /// Stores the sending side of a session that has come up.
    pub(crate) fn connect(&mut self, outlet: Arc<Shared>) {
        self.outlet = Some(outlet);
    }

    /// Sends a frame, or queues it; never blocks.
    pub(crate) fn send(&self, frame: Frame) -> Result<(), OutboxFull> {
        self.put_now(Outgoing::Frame(frame))
    }

    /// Sends a heartbeat, or queues it; never blocks.
    pub(crate) fn beat(&self, heartbeat: Heartbeat) -> Result<(), OutboxFull> {
        self.put_now(Outgoing::Heartbeat(heartbeat))
    }

    /// Queues a heartbeat that goes out when the thread wakes for another reason; never blocks.
    pub(crate) fn post(&self, heartbeat: Heartbeat) -> Result<(), OutboxFull> {
        self.queue(Outgoing::Heartbeat(heartbeat)).map(drop)
    }

    /// Queues a broadcast message if there is room for more than heartbeats; never blocks.
    pub(crate) fn offer(&self, frame: Frame, receipt: Receipt) -> Result<(), OutboxFull> {
        match &self.outbox {
            Some(outbox) if outbox.len() >= OUTBOX_FRAMES_WITH_MESSAGES => Err(OutboxFull),
            _ => self.put(Outgoing::Message(frame, receipt)),
        }
    }

    /// Frames waiting to be sent.
    pub(crate) fn backlog(&self) -> usize {
        self.outbox.as_ref().map_or(0, queue::Sender::len)
    }

    /// Requests the delivery of all frames that have arrived by now, and then `Drained`; never blocks.
    pub(crate) fn drain_unread(&self) -> Result<(), OutboxFull> {
        self.put(Outgoing::DrainUnread)
    }

    /// Says goodbye after what is queued, then closes; never blocks.
    pub(crate) fn bye(&self, reason: ByeReason) -> Result<(), OutboxFull> {
        self.put(Outgoing::Bye(reason))
    }

    /// Queues an item and writes it without the session's thread, if that thread is not at work and the socket
    /// takes the bytes.
    fn put_now(&self, outgoing: Outgoing) -> Result<(), OutboxFull> {
        if self.queue(outgoing)? {
            let outlet = self.outlet.as_ref().filter(|_| self.backlog() <= FEW_FRAMES);
            if !outlet.is_some_and(|outlet| outlet.try_send()) {
                self.waker.wake();
            }
        }
        Ok(())
    }

    fn put(&self, outgoing: Outgoing) -> Result<(), OutboxFull> {
        if self.queue(outgoing)? {
            self.waker.wake();
        }
        Ok(())
    }

    /// Queues an item without waking the session's thread. Returns whether the session still runs.
    fn queue(&self, outgoing: Outgoing) -> Result<bool, OutboxFull> {
        match self.outbox.as_ref().map(|outbox| outbox.try_send(outgoing)) {
            Some(Err(TrySendError::Full(_))) => Err(OutboxFull),
            // A session that has ended has reported that, or is about to.
            Some(Err(TrySendError::Disconnected(_))) | None => Ok(false),
            Some(Ok(())) => Ok(true),
        }
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        // The sender goes first, so that the woken thread finds its outbox closed.
        self.outbox = None;
        self.waker.wake();
    }
}

/// A handle of a session whose thread takes no item out of the outbox, and that outbox.
#[cfg(test)]
pub(crate) fn stuck() -> io::Result<(SessionHandle, impl Drop)> {
    Ok(handle_and_outbox(&Arc::new(Waker::new()?)))
}

pub(super) fn handle_and_outbox(waker: &Arc<Waker>) -> (SessionHandle, Receiver<Outgoing>) {
    let (sender, receiver) = queue::bounded(OUTBOX_FRAMES);
    (SessionHandle { outbox: Some(sender), waker: Arc::clone(waker), outlet: None }, receiver)
}
