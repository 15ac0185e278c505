//! The tables of a node, its memory and its members: properties that no single output shows.

use std::collections::BTreeSet;

use p2p_gossip::internals::mesh::{DETOUR_BEYOND_TIMEOUT, KnownPeer, Mesh};
use p2p_gossip::{DialAddr, PeerId, PeerInfo, PeerState};

use super::super::clock::{Micros, micros};
use super::super::oracle::{ExpectedState, PeerOracle, Rank, grace};
use super::super::process::ProcId;
use super::super::world::World;
use super::{ADMISSION, Breach, IDENTITY, LEFT, LIMITS, LIVENESS, MEMORY, RUMOURS, SLACK, STANDING};

impl World {
    /// Checks all nodes, also those that receive no input, whose peers should be dead.
    pub fn check_all_states(&mut self) {
        for proc in 0..self.procs.len() {
            self.with_mesh(proc, |world, mesh| world.check_state(proc, mesh));
        }
    }

    /// Checks that dead peers are down, tables are within their limits, and proven addresses come first.
    pub fn check_state(&mut self, proc: ProcId, mesh: &Mesh) {
        if !self.procs[proc].alive || self.procs[proc].paused || self.procs[proc].oracle.leaving {
            return;
        }
        if let Err(breach) = self.check_tables(proc, mesh) {
            self.report_breaches(proc, [breach]);
        }
    }

    fn check_tables(&mut self, proc: ProcId, mesh: &Mesh) -> Result<(), Breach> {
        let process = &self.procs[proc];
        let (mut known, mut kept) = (0, 0);
        let mut forgotten = Vec::new();
        for (id, state, best) in mesh.visible_states() {
            known += 1;
            if id == process.id {
                return Err((IDENTITY, "it knows itself as a peer".to_owned()));
            }
            let Some(peer) = process.oracle.peers.get(&id) else {
                continue;
            };
            kept += usize::from(peer.is_known && state != PeerState::Rumour);
            if peer.stays_left && !matches!(state, PeerState::Left | PeerState::Rumour) {
                return Err((LEFT, format!("{} left, but is {state:?}", id.short())));
            }
            if state == PeerState::Rumour && peer.state != ExpectedState::Stranger {
                forgotten.push(id);
                continue;
            }
            check_best_address(id, peer, best)?;
            if peer.state == ExpectedState::Up {
                self.check_may_be_up(proc, id, peer)?;
            }
        }
        if known > process.config.peers_max {
            return Err((LIMITS, format!("{known} peers known")));
        }
        // No run takes as long as the forget time, so a known peer goes only to make room.
        let met = process.oracle.peers.values().filter(|peer| peer.is_known).count();
        if kept < met {
            self.check_displaced(proc, mesh)?;
        }
        let oracle = &mut self.procs[proc].oracle;
        for id in forgotten {
            let peer = oracle.peer(id);
            peer.state = ExpectedState::Stranger;
            peer.proven.clear();
        }
        Ok(())
    }

    /// Known peers have gone from the table: they made room for one that stands as high as they do.
    fn check_displaced(&mut self, proc: ProcId, mesh: &Mesh) -> Result<(), Breach> {
        let now = self.now;
        let is_kept = |state: PeerState| state != PeerState::Rumour;
        let kept: BTreeSet<PeerId> =
            mesh.visible_states().filter(|(_, state, _)| is_kept(*state)).map(|(id, ..)| id).collect();
        let oracle = &mut self.procs[proc].oracle;
        let newcomer = oracle.newcomer.map(|id| (id, oracle.peer(id).most_rank(now)));
        for (id, peer) in oracle.peers.iter_mut().filter(|(id, peer)| peer.is_known && !kept.contains(id)) {
            let rank = peer.least_rank(now);
            let Some((newcomer, newcomers_rank)) = newcomer else {
                return Err((MEMORY, format!("{} is forgotten, but no peer came", id.short())));
            };
            if rank > newcomers_rank {
                let detail = format!(
                    "{} ({rank:?}) made room for {} ({newcomers_rank:?})",
                    id.short(),
                    newcomer.short()
                );
                return Err((STANDING, detail));
            }
            peer.is_known = false;
            peer.state = ExpectedState::Stranger;
            peer.stays_left = false;
            peer.proven.clear();
        }
        Ok(())
    }

    /// A peer that is up has been heard within its timeout, or has lost its session within the grace.
    fn check_may_be_up(&self, proc: ProcId, id: PeerId, peer: &PeerOracle) -> Result<(), Breach> {
        let process = &self.procs[proc];
        let patience = process.oracle.patience(&id);
        let silence = self.local(proc).saturating_sub(peer.heard);
        let Some(since) = peer.sessionless_since else {
            if silence > self.most_silence(proc, id, peer) {
                return Err((LIVENESS, format!("{} still up after {silence} µs of silence", id.short())));
            }
            return Ok(());
        };
        // Clocks differ by a hundredth.
        let grace_end = since + grace() * 102 / 100 + patience * 101 / 100 + SLACK;
        if grace_end < self.now && process.oracle.open_sessions(&id).next().is_none() {
            return Err((LIVENESS, format!("{} still up without a session", id.short())));
        }
        Ok(())
    }

    /// The longest silence of a peer that is up.
    pub(super) fn most_silence(&self, proc: ProcId, id: PeerId, peer: &PeerOracle) -> Micros {
        let process = &self.procs[proc];
        let patience = process.oracle.patience(&id);
        // A timeout has two heartbeats of the node at least, and the node waits for three.
        let heartbeat = micros(process.config.heartbeat);
        let told = if process.longest_told > heartbeat { 3 * process.longest_told } else { 0 };
        let longest = peer.timeout.max(told) + heartbeat + patience;
        let waits = process.oracle.waits_for_detour(&id, peer);
        longest + if waits { micros(DETOUR_BEYOND_TIMEOUT) } else { 0 } + SLACK
    }

    /// Checks that the stored record of each peer agrees with the run, at any wall clock.
    pub fn check_memory(&mut self, proc: ProcId, known: &[KnownPeer]) {
        let oracle = &self.procs[proc].oracle;
        let error = known.iter().find_map(|known| {
            let peer = oracle.peers.get(&known.id)?;
            // Clocks differ by a hundredth.
            let gone = (self.now - peer.since) * 102 / 100 + SLACK;
            let detail = match peer.state {
                _ if known.last_seen < known.first_seen => {
                    "was seen last before it was seen first".to_owned()
                }
                // The session that has just come up is noted later.
                _ if oracle.newcomer == Some(known.id) => return None,
                _ if peer.stays_left && !known.left => "left, but is stored as lost".to_owned(),
                _ if peer.most_rank(self.now) == Rank::Stranger
                    && let Some(addr) =
                        known.addrs.iter().find(|known| !is_at_its_machine(peer, &known.addr)) =>
                {
                    format!("is a stranger, but is stored at {}, which only it claims", addr.addr)
                }
                ExpectedState::Up if known.missed.is_zero() => return None,
                ExpectedState::Up => format!("is up, but has missed {:?}", known.missed),
                _ if micros(known.missed) <= gone => return None,
                _ => format!("has missed {:?}, but has been away for {gone} µs", known.missed),
            };
            Some(format!("p{proc}: {} {detail}", known.id.short()))
        });
        error.into_iter().for_each(|error| self.violated(MEMORY, error));
    }

    /// Checks after a change of the access lists that no excluded peer is a member.
    pub fn check_admission(&mut self, proc: ProcId, mesh: &Mesh) {
        let process = &self.procs[proc];
        if process.oracle.leaving {
            return;
        }
        let is_excluded =
            |peer: &&PeerInfo| peer.state == PeerState::Up && process.oracle.access.check(&peer.id).is_err();
        let peers = mesh.peers(process.clock.local(self.now));
        if let Some(peer) = peers.iter().find(is_excluded) {
            self.violated(ADMISSION, format!("p{proc}: {} is still up", peer.id.short()));
        }
    }
}

/// Whether a stranger was reached at this address, or came from its machine.
fn is_at_its_machine(peer: &PeerOracle, addr: &DialAddr) -> bool {
    peer.reached.contains(addr) || addr.socket().is_some_and(|addr| Some(addr.ip()) == peer.came_from)
}

/// The first address of a peer is one at which a handshake with it was completed, if there is one.
fn check_best_address(id: PeerId, peer: &PeerOracle, best: Option<&DialAddr>) -> Result<(), Breach> {
    if peer.proven.is_empty() || best.is_some_and(|best| peer.proven.contains(best)) {
        return Ok(());
    }
    Err((RUMOURS, format!("{} is proven at {:?}, but {best:?} comes first", id.short(), peer.proven)))
}
