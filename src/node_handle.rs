//! A handle on a running node, for threads that look at it or send through it while another thread
//! decides when it stops.

use std::time::Duration;

use crate::event::AlertPhase;
use crate::events::Events;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::mesh::snapshot::PeerInfo;
use crate::runtime::command::Command;
use crate::runtime::status::Status;
use crate::runtime::subscribers::subscription;
use crate::session::delivery::Delivery;
use crate::trust::access::Access;
use crate::util::sync::{Sender, bounded};
use crate::wire::{self, Message};

/// A handle on a [`Node`](crate::Node), from [`Node::handle`](crate::Node::handle); cheap to clone.
/// It does not keep the node running: once the node has stopped, there is nothing left to see.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    control: Sender<Command>,
}

/// Why a message was not broadcast.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// The message is too long.
    #[error("the message has {bytes} bytes; at most {MESSAGE_BYTES_MAX} are allowed")]
    #[non_exhaustive]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The node has left the mesh.
    #[error("the node has stopped")]
    Stopped,
}

impl NodeHandle {
    pub(crate) fn new(control: Sender<Command>) -> Self {
        Self { control }
    }

    /// As [`Node::subscribe`](crate::Node::subscribe).
    #[must_use]
    pub fn subscribe(&self) -> Events {
        let (subscriber, events) = subscription();
        // Without a coordinator the channel is closed at once, as for every other reader.
        let _ = self.control.send(Command::Subscribe(subscriber));
        events
    }

    /// As [`Node::peers`](crate::Node::peers).
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.ask(Command::Peers).unwrap_or_default()
    }

    /// As [`Node::status`](crate::Node::status).
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        self.ask(Command::Status)
    }

    /// The same, or `None` if the node does not answer within this time; for callers that must not wait
    /// for a node that is held up.
    #[must_use]
    pub fn status_within(&self, patience: Duration) -> Option<Status> {
        let (reply, answer) = bounded(1);
        self.control.send(Command::Status(reply)).ok()?;
        answer.recv_timeout(patience).ok()
    }

    /// As [`Node::broadcast`](crate::Node::broadcast).
    ///
    /// # Errors
    /// The message is longer than 4096 bytes, or the node has stopped; the message was sent to no peer.
    pub fn broadcast(&self, text: impl Into<String>) -> Result<Delivery, BroadcastError> {
        let text = text.into();
        let bytes = text.len();
        let frame =
            wire::encode(&Message::Broadcast { text }).map_err(|_| BroadcastError::TooLong { bytes })?;
        self.ask(|reply| Command::Broadcast(frame, reply)).ok_or(BroadcastError::Stopped)
    }

    /// As [`Node::wait_settled`](crate::Node::wait_settled).
    #[must_use]
    pub fn wait_settled(&self) -> bool {
        self.ask(Command::WhenSettled).is_some()
    }

    /// Sends a command to the coordinator and waits for its answer; `None` if the node has stopped.
    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = bounded(1);
        self.control.send(command(reply)).ok()?;
        answer.recv().ok()
    }

    /// As [`Node::set_access`](crate::Node::set_access).
    pub fn set_access(&self, access: Access) {
        // A node that has stopped has no peers.
        let _ = self.control.send(Command::Access(access));
    }

    /// Tells the node that the alert of an [`Event::Alert`](crate::Event::Alert) has been given.
    /// Without that within five seconds, the turn passes to another member. An id that is none changes nothing.
    pub fn alert_done(&self, incident: &str, phase: AlertPhase) {
        if let Ok(incident) = u64::from_str_radix(incident, 16) {
            // A node that has stopped has told the others that it left.
            let _ = self.control.send(Command::AlertDone(incident, phase));
        }
    }

    /// Has the node leave the mesh.
    pub(crate) fn leave(&self) {
        let _ = self.control.send(Command::Leave);
    }
}
