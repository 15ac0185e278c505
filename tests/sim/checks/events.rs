//! Rules for events: up, down and left alternate, count the members, and come in time.

use p2p_gossip::internals::mesh::Mesh;
use p2p_gossip::{DownReason, Event, PeerId, PeerState};

use super::super::oracle::ExpectedState;
use super::super::process::ProcId;
use super::super::world::World;
use super::{ADMISSION, Breach, EVENTS, IDENTITY, LIVENESS};

impl World {
    pub(super) fn check_event(&mut self, proc: ProcId, event: &Event) {
        if let Some(seen) = &mut self.seen {
            seen.push((self.now, proc, event.clone()));
        }
        let breach = match event {
            Event::Up { peer, members, .. } => {
                if self.procs[proc].oracle.held(*peer) {
                    self.last_change = self.now;
                    self.check_members(proc, *members)
                } else {
                    let breach = self.check_up(proc, *peer);
                    self.change_state(proc, *peer, ExpectedState::Up, *members).or(breach)
                }
            }
            Event::Down { peer, reason, members, .. } => {
                let breach =
                    self.check_was_up(proc, *peer, "down").or_else(|| self.check_down(proc, *peer, *reason));
                self.change_state(proc, *peer, ExpectedState::Down, *members).or(breach)
            }
            Event::Left { peer, members, .. } => {
                let breach = self.check_was_up(proc, *peer, "left");
                self.change_state(proc, *peer, ExpectedState::Left, *members).or(breach)
            }
            Event::Ping { peer, seq, .. } => {
                let breach = self.check_was_up(proc, *peer, "sent a ping");
                if let Some((conn, side)) = self.procs[proc].oracle.input_from {
                    self.ping_delivered(proc, conn, side, *peer, *seq);
                }
                breach
            }
            _ => None,
        };
        self.report_breaches(proc, breach);
    }

    /// An unstable peer comes and goes without `up` and `down`.
    pub fn note_unstable(&mut self, proc: ProcId, mesh: &Mesh) {
        if mesh.unstable_peers() == 0 && self.procs[proc].oracle.unstable.is_empty() {
            return;
        }
        for (id, state, _) in mesh.visible_states() {
            let oracle = &self.procs[proc].oracle;
            let (is_up, was_unstable) = (oracle.is_up(&id), oracle.unstable.contains(&id));
            let state = match state {
                PeerState::Unstable if !is_up => {
                    self.last_change = self.now;
                    self.procs[proc].oracle.set_unstable(id, self.now);
                    continue;
                }
                PeerState::Dead if was_unstable => ExpectedState::Down,
                PeerState::Left if was_unstable => ExpectedState::Left,
                _ => continue,
            };
            self.last_change = self.now;
            self.procs[proc].oracle.set_state(id, state, self.now);
        }
    }

    /// Expects this state of the peer from now on, and checks the number of members that the event states.
    fn change_state(
        &mut self,
        proc: ProcId,
        peer: PeerId,
        state: ExpectedState,
        members: usize,
    ) -> Option<Breach> {
        self.last_change = self.now;
        let oracle = &mut self.procs[proc].oracle;
        oracle.set_state(peer, state, self.now);
        self.check_members(proc, members)
    }

    fn check_members(&self, proc: ProcId, members: usize) -> Option<Breach> {
        let up = self.procs[proc].oracle.up;
        (members != up + 1).then(|| (EVENTS, format!("{members} members, but {up} are up")))
    }

    fn check_up(&self, proc: ProcId, peer: PeerId) -> Option<Breach> {
        let process = &self.procs[proc];
        if peer == process.id {
            return Some((IDENTITY, "it met itself".to_owned()));
        }
        if process.oracle.is_up(&peer) {
            return Some((EVENTS, format!("{} up twice", peer.short())));
        }
        let refusal = process.oracle.access.check(&peer).err()?;
        Some((ADMISSION, format!("{} up: {refusal}", peer.short())))
    }

    fn check_was_up(&self, proc: ProcId, peer: PeerId, event: &str) -> Option<Breach> {
        let is_up = self.procs[proc].oracle.is_up(&peer);
        (!is_up).then(|| (EVENTS, format!("{} {event}, but was not up", peer.short())))
    }

    fn check_down(&self, proc: ProcId, peer: PeerId, reason: DownReason) -> Option<Breach> {
        if self.scenario.loses_no_peer {
            return Some((
                LIVENESS,
                format!("{} down ({reason}), but nothing has happened to it", peer.short()),
            ));
        }
        match reason {
            DownReason::Closed => self.check_lost(proc, peer),
            DownReason::Timeout => self.check_timeout(proc, peer),
            _ => None,
        }
    }

    /// A connection without a fault between two running processes is not lost.
    fn check_lost(&self, proc: ProcId, peer: PeerId) -> Option<Breach> {
        let (conn, side) = self.procs[proc].oracle.input_from?;
        let other = &self.procs[self.conns[conn].ends[1 - side].proc?];
        let is_sound =
            !self.conns[conn].disturbed && other.alive && !other.oracle.leaving && other.id == peer;
        is_sound.then(|| (EVENTS, format!("{} lost although c{conn} had no fault", peer.short())))
    }

    fn check_timeout(&self, proc: ProcId, peer: PeerId) -> Option<Breach> {
        let process = &self.procs[proc];
        let known = process.oracle.peers.get(&peer)?;
        let silence = self.local(proc) - known.heard;
        let least = known.timeout + process.oracle.least_patience(&peer);
        let most = self.most_silence(proc, peer, known);
        if silence < least {
            let detail = format!("{} dead after {silence} of at least {least} µs", peer.short());
            return Some((LIVENESS, detail));
        }
        if silence > most {
            let detail = format!("{} dead after {silence} of at most {most} µs", peer.short());
            return Some((LIVENESS, detail));
        }
        None
    }
}
