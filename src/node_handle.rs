//! A handle on a running node, for threads that look at it or send through it while another thread
//! decides when it stops.

use std::time::Duration;

use crate::event::AlertPhase;
use crate::events::Events;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::mesh::RotateError;
use crate::mesh::snapshot::{PeerInfo, RequestError};
use crate::net::addr::DialAddr;
use crate::runtime::command::Command;
use crate::runtime::history::{HistoryEntry, PeerHistory};
use crate::runtime::status::Status;
use crate::runtime::subscribers::subscription;
use crate::session::delivery::Delivery;
use crate::trust::access::Access;
use crate::trust::network_key::NetworkKey;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::ConnectAddr;
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

    /// Makes a new key of the network. This node tells it to all members over their sessions. Members that are away may
    /// prove the key before for `grace`, from 30 seconds to 365 days, in which this node is connected to a member.
    /// Returns the number of changes since the network began.
    ///
    /// # Errors
    /// The node has no network key in its state directory, accepts too many earlier keys, or has stopped, or the system
    /// provides no randomness. The key stays.
    pub fn rotate_network_key(&self, grace: Duration) -> Result<u64, RotateError> {
        let key = NetworkKey::generate()?;
        self.ask(|reply| Command::RotateNetworkKey(key, grace, reply)).unwrap_or(Err(RotateError::Stopped))
    }

    /// As [`Node::wait_settled`](crate::Node::wait_settled).
    #[must_use]
    pub fn wait_settled(&self) -> bool {
        self.ask(Command::WhenSettled).is_some()
    }

    /// Joins through one more address, as with [`Config::connect`](crate::Config::connect): the node dials it now, and
    /// whenever the peer behind it is not connected, until the node stops.
    ///
    /// # Errors
    /// The address can't be dialled, there are too many, or the node has stopped.
    pub fn connect(&self, connect: ConnectAddr) -> Result<(), RequestError> {
        self.ask(|reply| Command::Connect(connect, reply)).unwrap_or(Err(RequestError::Stopped))
    }

    /// Sends a ping to a peer now, and returns its number among the pings to that peer. The peer receives it as
    /// [`Event::Ping`](crate::Event::Ping). Whether the peer lives shows [`PeerInfo::silence`], which each heartbeat ends.
    ///
    /// # Errors
    /// The peer is not connected, or the node has stopped.
    pub fn ping(&self, peer: PeerId) -> Result<u64, RequestError> {
        self.ask(|reply| Command::Ping(peer, reply)).unwrap_or(Err(RequestError::Stopped))
    }

    /// Forgets a peer that is not connected, with all of its addresses. The node meets it again if another peer lists it
    /// as connected, if it comes by itself, or if a [`Config::connect`](crate::Config::connect) address leads to it.
    ///
    /// # Errors
    /// The peer is connected or not known, or the node has stopped.
    pub fn forget(&self, peer: PeerId) -> Result<(), RequestError> {
        self.ask(|reply| Command::Forget(peer, reply)).unwrap_or(Err(RequestError::Stopped))
    }

    /// What the node knows of a peer: its addresses and what has happened, as a timeline of limited length. `None` if it
    /// knows nothing, or has stopped.
    #[must_use]
    pub fn peer_history(&self, peer: PeerId) -> Option<PeerHistory> {
        self.ask(|reply| Command::PeerHistory(peer, reply)).flatten()
    }

    /// What has happened at an address that the user named with [`Config::connect`](crate::Config::connect) or
    /// [`NodeHandle::connect`], the oldest first. It tells of dials that led to no peer.
    #[must_use]
    pub fn address_history(&self, addr: DialAddr) -> Vec<HistoryEntry> {
        self.ask(|reply| Command::AddressHistory(addr, reply)).unwrap_or_default()
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
