//! The addresses of this node that its peers do not see, and its Hello does not tell. A message tells them.
//!
//! - The one at which a router passes on connections to this node: the router may answer long after the first sessions
//!   are up, and may change the address later.
//! - The one that this node has towards the carrier of a circuit: the peer inside sees only the carrier. A list contains
//!   only addresses that a peer itself used or named, so without it a peer that is reached only inside circuits would be
//!   listed to no third node.

use std::net::SocketAddr;
use std::time::Instant;

use super::Mesh;
use super::address_scope;
use super::io::{Output, SessionId};
use crate::trust::peer_id::PeerId;
use crate::wire::Message;

impl Mesh {
    /// From now on a router passes on connections to this node at this address, or at none. Peers keep an address that has
    /// ended until their next session with this node; a dial there fails, and they have others.
    pub(super) fn port_mapped(&mut self, mapped: Option<SocketAddr>) {
        self.mapped = mapped;
        let connected: Vec<PeerId> = self.peers.iter_connected().map(|(id, _)| *id).collect();
        for id in connected {
            self.tell_addresses(&id, mapped);
        }
    }

    /// Tells the peer of a new session the addresses of this node that it does not see. The Hello of the session has
    /// replaced what it knew.
    pub(super) fn tell_own_addresses(&mut self, id: &PeerId, session: SessionId) {
        let addrs = self.address_at_carrier(session).into_iter().chain(self.mapped);
        self.tell_addresses(id, addrs);
    }

    fn tell_addresses(&mut self, id: &PeerId, addrs: impl IntoIterator<Item = SocketAddr>) {
        // A leaving node has said its goodbyes already.
        if !self.leaving && self.peers.get(id).is_some_and(|peer| peer.understands_reachable_at) {
            for addr in addrs {
                self.send(id, Message::ReachableAt { addr });
            }
        }
    }

    /// For a session inside a circuit, this node's IP address in its connection to the carrier, with the port at which it
    /// listens. `None` behind a NAT, where that is an address of another network.
    fn address_at_carrier(&self, session: SessionId) -> Option<SocketAddr> {
        let beside = self.relay.inside.get(&session)?.at.session;
        let mut addr = self.sessions.get(beside)?.local?;
        let seen_at = self.punches.seen_at.get(&beside)?;
        addr.set_port(self.config.port);
        Some(addr).filter(|addr| addr.ip() == seen_at.ip())
    }

    /// A peer, whose session comes from `remote`, tells an address at which it may be reached.
    pub(super) fn received_reachable_at(
        &mut self,
        now: Instant,
        id: PeerId,
        remote: SocketAddr,
        addr: SocketAddr,
    ) {
        if let Some(told) = address_scope::as_told_by(remote, addr.into())
            && let Some(peer) = self.peers.get_mut(&id)
            && peer.addrs.claim_another(told)
        {
            self.output(Output::Persist);
            // This may be the first address of it that this node knows.
            self.dial_beside_circuit(now, id);
        }
    }
}
