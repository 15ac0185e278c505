//! The coordinator's end of a session.

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

/// The coordinator's end of a session. Dropping it ends the session without a word.
#[derive(Debug)]
pub(crate) struct SessionHandle {
    outbox: Option<queue::Sender<Outgoing>>,
    waker: Arc<Waker>,
    /// Once the session is up.
    outlet: Option<Arc<Shared>>,
}

/// Frames that the coordinator sends itself: what lay ready, and what it is for. The thread of a session that
/// has more to send is at it.
const FEW_FRAMES: usize = 2;

/// A peer's outbox is full: it does not read what it is sent.
#[derive(Debug)]
pub(crate) struct OutboxFull;

impl SessionHandle {
    /// The session is up: what is sent from now on may go this way.
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
        self.leave(Outgoing::Heartbeat(heartbeat)).map(drop)
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

    /// Asks for `Quiet` after everything that has arrived by now; never blocks.
    pub(crate) fn probe(&self) -> Result<(), OutboxFull> {
        self.put(Outgoing::Probe)
    }

    /// Says goodbye after what is queued, then closes; never blocks.
    pub(crate) fn bye(&self, reason: ByeReason) -> Result<(), OutboxFull> {
        self.put(Outgoing::Bye(reason))
    }

    /// Past the session's thread, if that does not have to wait and is not at work already.
    fn put_now(&self, outgoing: Outgoing) -> Result<(), OutboxFull> {
        if self.leave(outgoing)? {
            let outlet = self.outlet.as_ref().filter(|_| self.backlog() <= FEW_FRAMES);
            if !outlet.is_some_and(|outlet| outlet.try_send()) {
                self.waker.wake();
            }
        }
        Ok(())
    }

    fn put(&self, outgoing: Outgoing) -> Result<(), OutboxFull> {
        if self.leave(outgoing)? {
            self.waker.wake();
        }
        Ok(())
    }

    /// Whether somebody is there who will take it.
    fn leave(&self, outgoing: Outgoing) -> Result<bool, OutboxFull> {
        match self.outbox.as_ref().map(|outbox| outbox.try_send(outgoing)) {
            Some(Err(TrySendError::Full(_))) => Err(OutboxFull),
            // A session that has ended has said so, or is about to.
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

/// The coordinator's end of a session whose thread takes nothing out of the outbox.
#[cfg(test)]
pub(crate) fn stuck() -> io::Result<(SessionHandle, impl Drop)> {
    Ok(handle_and_outbox(&Arc::new(Waker::new()?)))
}

pub(super) fn handle_and_outbox(waker: &Arc<Waker>) -> (SessionHandle, Receiver<Outgoing>) {
    let (sender, receiver) = queue::bounded(OUTBOX_FRAMES);
    (SessionHandle { outbox: Some(sender), waker: Arc::clone(waker), outlet: None }, receiver)
}
