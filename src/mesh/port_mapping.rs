//! The address at which a router passes on connections to this node: the router may answer long after the first sessions
//! are up, and may change the address later. So no Hello tells it, and all peers hear of it in a message.

use std::net::SocketAddr;

use super::Mesh;
use super::address_scope;
use super::io::Output;
use crate::trust::peer_id::PeerId;
use crate::wire::Message;

impl Mesh {
    /// From now on a router passes on connections to this node at this address, or at none. Peers keep an address that has
    /// ended until their next session with this node; a dial there fails, and they have others.
    pub(super) fn port_mapped(&mut self, mapped: Option<SocketAddr>) {
        self.mapped = mapped;
        let connected: Vec<PeerId> = self.peers.iter_connected().map(|(id, _)| *id).collect();
        for id in connected {
            self.tell_mapped(&id);
        }
    }

    /// Tells a connected peer the address, if there is one. The Hello of each new session has replaced what the peer knew.
    pub(super) fn tell_mapped(&mut self, id: &PeerId) {
        // A leaving node has said its goodbyes already.
        if let Some(addr) = self.mapped.filter(|_| !self.leaving)
            && self.peers.get(id).is_some_and(|peer| peer.understands_mapped)
        {
            self.send(id, Message::Mapped { addr });
        }
    }

    /// A peer, whose session comes from `remote`, tells at which address a router passes on connections to it.
    pub(super) fn received_mapped(&mut self, id: PeerId, remote: SocketAddr, addr: SocketAddr) {
        if let Some(told) = address_scope::as_told_by(remote, addr.into())
            && let Some(peer) = self.peers.get_mut(&id)
            && peer.addrs.claim_another(told)
        {
            self.output(Output::Persist);
        }
    }
}
