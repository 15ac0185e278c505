//! Rules for messages, lists of peers, and closing a session.

use p2p_gossip::PeerId;
use p2p_gossip::internals::limits::ADDRS_MAX;
use p2p_gossip::internals::mesh::{Mesh, SessionId};
use p2p_gossip::internals::wire::{ByeReason, Message, PeerRecord};

use super::super::oracle::{ExpectedState, SessionOracle};
use super::super::process::ProcId;
use super::super::world::World;
use super::{IDENTITY, RUMOURS, listed_since_it_left};

impl World {
    /// `message`: what the node sends on the session, `None` for a heartbeat.
    pub(super) fn check_send(
        &mut self,
        proc: ProcId,
        session: SessionId,
        message: Option<&Message>,
        mesh: &Mesh,
    ) {
        let process = &self.procs[proc];
        let Some(&SessionOracle { peer, open, .. }) = process.oracle.sessions.get(&session) else {
            // The session may have ended in the same turn.
            return;
        };
        if !open {
            self.violated(IDENTITY, format!("p{proc} sends on {session} after closing it"));
            return;
        }
        // An answer goes out on the session of the question, which need not be the newest.
        let is_answer = matches!(
            message,
            Some(Message::Peers { .. } | Message::CircuitAccept { .. } | Message::SeenAt { .. })
        );
        let older = mesh.open_sessions(&peer).split_last().map_or(&[][..], |(_, older)| older);
        if !is_answer && older.contains(&session) {
            self.violated(IDENTITY, format!("p{proc} sends on {session}, which is not the newest"));
            return;
        }
        if let Some(Message::PeersRequest) = message {
            self.procs[proc].oracle.asked.insert(peer);
        }
        let Some(Message::Peers { records, .. }) = message else {
            return;
        };
        for record in records {
            if let Err(detail) = self.check_record(proc, peer, record) {
                self.violated(RUMOURS, format!("p{proc} lists {}: {detail}", record.id.short()));
            }
        }
    }

    /// A record describes another peer that the node has met and admits, with addresses learned from that peer.
    fn check_record(&self, proc: ProcId, to: PeerId, record: &PeerRecord) -> Result<(), String> {
        let process = &self.procs[proc];
        if record.id == to || record.id == process.id {
            return Err("it is the recipient or the sender".to_owned());
        }
        let peer = process.oracle.peers.get(&record.id).ok_or("never met")?;
        process.oracle.access.check(&record.id).map_err(|refusal| refusal.to_string())?;
        let is_listable = match peer.state {
            ExpectedState::Up | ExpectedState::Down => true,
            // Another list may have shown that a peer that left is back.
            ExpectedState::Left => listed_since_it_left(peer),
            ExpectedState::Stranger => false,
        };
        if !is_listable {
            return Err(format!("{:?}", peer.state));
        }
        if record.connected != (peer.state == ExpectedState::Up) {
            return Err(format!("as connected: {}", record.connected));
        }
        if record.addrs.is_empty() || record.addrs.len() > ADDRS_MAX {
            return Err("with no or too many addresses".to_owned());
        }
        match record.addrs.iter().find(|addr| !peer.first_hand.contains(addr)) {
            Some(addr) => Err(format!("at {addr}, which the peer never showed")),
            None => Ok(()),
        }
    }

    pub(super) fn check_close(&mut self, proc: ProcId, session: SessionId, reason: ByeReason) {
        self.stats.addresses_taken += u64::from(reason == ByeReason::AddressTaken);
        let oracle = &mut self.procs[proc].oracle;
        let is_coming_up = session.is_carried() && !oracle.sessions.contains_key(&session);
        if oracle.dials.contains_key(&session) || is_coming_up {
            oracle.cancelled.insert(session);
            return;
        }
        let Some(closed) = oracle.sessions.get_mut(&session) else {
            return;
        };
        let was_open = std::mem::replace(&mut closed.open, false);
        let peer = closed.peer;
        oracle.changed.insert(peer);
        let is_newest = oracle.newest == Some((peer, session));
        let was_cancelled = oracle.cancelled.contains(&session);
        let has_direct = oracle.open_sessions(&peer).any(|open| !open.is_carried());
        // The node that opened a circuit keeps a direct session on which it hears the peer.
        let is_needless = session.is_carried() && session.is_dialled() && has_direct;
        if !was_open && !was_cancelled {
            self.violated(IDENTITY, format!("p{proc} closes {session} twice"));
        } else if is_newest && reason == ByeReason::Duplicate && !was_cancelled && !is_needless {
            self.violated(IDENTITY, format!("p{proc} closes {session}, the newest, as a duplicate"));
        } else if is_newest && !is_needless {
            // The node refused the new session, so it never counted.
            oracle.sessions.remove(&session);
        }
    }
}
