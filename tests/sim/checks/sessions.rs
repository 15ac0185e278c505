//! The open sessions after each turn of a coordinator: those that came up and were not closed.

use p2p_gossip::PeerId;
use p2p_gossip::internals::mesh::{Mesh, SESSIONS_PER_PEER_MAX, SessionId};

use super::super::process::ProcId;
use super::super::world::World;
use super::{EVENTS, IDENTITY};

impl World {
    /// Runs after each turn of a coordinator.
    pub fn check_after_turn(&mut self, proc: ProcId, mesh: &Mesh) {
        let oracle = &mut self.procs[proc].oracle;
        let changed = std::mem::take(&mut oracle.changed);
        let lost = std::mem::take(&mut oracle.must_be_down);
        if changed.is_empty() || oracle.leaving {
            return;
        }
        let process = &self.procs[proc];
        let mut breach = None;
        for id in lost {
            if process.oracle.is_up(&id) && mesh.open_sessions(&id).is_empty() {
                breach =
                    Some((EVENTS, format!("{} lost its last session, but no down followed", id.short())));
            }
        }
        let (members, up) = (mesh.members(), process.oracle.up);
        if members != up + 1 {
            breach = Some((EVENTS, format!("{members} members, but {up} are up")));
        }
        if mesh.digest() != process.oracle.digest {
            breach = Some((EVENTS, "the digest is not that of the members".to_owned()));
        }
        for id in changed {
            if let Err(detail) = self.check_sessions(proc, id, mesh) {
                breach = Some((IDENTITY, detail));
            }
        }
        self.report_breaches(proc, breach);
    }

    /// The sessions with one peer are those that came up and were not closed, within the limit.
    fn check_sessions(&self, proc: ProcId, id: PeerId, mesh: &Mesh) -> Result<(), String> {
        let process = &self.procs[proc];
        let open = mesh.open_sessions(&id);
        let may_refuse = process.oracle.peers.get(&id).is_some_and(|peer| peer.refuses);
        if !process.oracle.is_up(&id) && !may_refuse && !open.is_empty() {
            return Err(format!("{} is not up, but open: {open:?}", id.short()));
        }
        let is_carried = open.iter().any(|session| session.is_carried());
        let most = if process.id < id && !is_carried { 1 } else { SESSIONS_PER_PEER_MAX };
        if open.len() > most {
            return Err(format!("{} of at most {most} sessions with {}", open.len(), id.short()));
        }
        let is_expected = |session: &SessionId| {
            process
                .oracle
                .sessions
                .get(session)
                .is_some_and(|s| s.open && s.peer == id && self.id_at(s.conn, 1 - s.side) == Some(id))
        };
        if !open.iter().all(is_expected) || open.len() != process.oracle.open_sessions(&id).count() {
            let expected: Vec<SessionId> = process.oracle.open_sessions(&id).collect();
            return Err(format!("sessions with {}: {open:?} instead of {expected:?}", id.short()));
        }
        Ok(())
    }
}
