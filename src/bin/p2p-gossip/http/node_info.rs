//! The facts about a node that stay the same while it runs.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use p2p_gossip::{Config, Node, PeerId};

/// The facts about a node that stay the same while it runs.
#[derive(Debug)]
pub(super) struct NodeInfo {
    pub(super) id: PeerId,
    pub(super) name: String,
    pub(super) addr: SocketAddr,
    pub(super) started: Timestamp,
    pub(super) period: Duration,
    pub(super) heartbeat: Duration,
    pub(super) timeout: Duration,
}

impl NodeInfo {
    /// The facts of a node that has just started with this configuration.
    pub(super) fn new(node: &Node, config: &Config) -> Self {
        Self {
            id: node.id(),
            name: config.name.clone(),
            addr: node.local_addr(),
            started: Timestamp::now(),
            period: config.period,
            heartbeat: config.heartbeat,
            timeout: config.timeout,
        }
    }
}
