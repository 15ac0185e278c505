//! The time after the last fault: within a limit the mesh is whole, and then it stays so.

use std::collections::{BTreeMap, BTreeSet};

use p2p_gossip::internals::limits::{CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT};
use p2p_gossip::internals::mesh::backoff::CAP;
use p2p_gossip::{DialAddr, PeerState};

use super::checks::{PINGS, WHOLE};
use super::clock::{MS, Micros, SECOND, micros};
use super::process::ProcId;
use super::scenario::Slot;
use super::session::Thread;
use super::world::{Outcome, World};

/// What the design allows beyond the longest backoff.
const BEYOND_BACKOFF: Micros = 2 * SECOND;

/// Who has to learn of another from a third, once that one is back itself: membership settles for
/// 0.25 s, rosters differ for 0.5 s, at worst a heartbeat later; the list brings a dial after 1.5 s.
/// Twice, as the third may itself have to learn.
fn learned_from_others(heartbeat: Micros) -> Micros {
    2 * (SECOND / 4 + heartbeat + SECOND / 2 + 3 * SECOND / 2)
}

/// With a liar among them it takes longer: rosters are not compared before 15 s while rumours are
/// being dialled, and a peer not met yet is looked for at four addresses, 3 s each, true or not.
/// Before that its turn must come, behind a list of strangers who don't exist, twelve at a time.
const LIES_SORTED_OUT: Micros = 15 * SECOND + 4 * 3 * SECOND;

/// The state of convergence so far.
#[derive(Clone, Copy, Debug)]
pub struct Converged {
    pub since: Micros,
    /// When the mesh must be whole.
    pub limit: Micros,
    /// The time since which it holds and no peer came or went.
    pub whole_since: Option<Micros>,
    pub is_over: bool,
}

impl World {
    pub fn wait_for_convergence(&mut self) {
        self.end_faults();
        // Who was taken for an earlier life of its own asks again after the silence that ends that.
        let mut limit = self.obstacles_gone_at() + (micros(CAP) + BEYOND_BACKOFF).max(self.longest_silence());
        if !self.waits_only_until_whole {
            self.islands = self.find_islands();
        }
        if !self.all_know_each_other() {
            limit += learned_from_others(self.longest_heartbeat());
        }
        if !self.scenario.liars.is_empty() {
            let slots = 12;
            limit += LIES_SORTED_OUT + self.scenario.faults.lies_per_list as Micros / slots * 3 * SECOND;
        }
        self.converged_state = Some(Converged { since: self.now, limit, whole_since: None, is_over: false });
    }

    /// When the last consequence of a fault is over that the mesh can't see past: an attempt to
    /// connect without an answer runs until its timeout, a handshake until its own, a connection
    /// whose other end is gone, or stalled, looks alive until the silence has lasted. Only from then
    /// on the next dial is a matter of backoff.
    fn obstacles_gone_at(&self) -> Micros {
        let mut gone = self.now;
        for conn in &self.conns {
            let stalled = conn.ways.iter().any(|way| !way.queue.is_empty() && way.blocked_until >= self.now);
            let half_open = conn.ends[0].open != conn.ends[1].open;
            let (silent, late) = (self.longest_silence(), self.scenario.faults.resend_wait_ms_max * MS);
            for (side, end) in conn.ends.iter().enumerate() {
                if end.thread.is_none() && !conn.ways[side].queue.is_empty() {
                    // Late messages of a process that is gone: their receiver believes them for a while.
                    gone = gone.max(self.now + late + silent);
                }
                let Some(thread) = &end.thread else {
                    continue;
                };
                let until = if thread.is_connecting() {
                    thread.started + micros(CONNECT_TIMEOUT)
                } else if thread.is_handshaking() {
                    thread.started + micros(HANDSHAKE_TIMEOUT)
                } else if thread.is_open() && (stalled || half_open || conn.rough) {
                    self.now + silent
                } else {
                    self.now
                };
                gone = gone.max(until);
            }
        }
        gone
    }

    fn longest_heartbeat(&self) -> Micros {
        self.scenario.rhythm.iter().map(|(heartbeat_ms, _)| heartbeat_ms * MS).max().unwrap_or(0)
    }

    /// Until a silence is noticed: the longest timeout, or three of the slowest heartbeats; and one
    /// heartbeat more.
    fn longest_silence(&self) -> Micros {
        let timeout = self.scenario.rhythm.iter().map(|(_, timeout_ms)| timeout_ms * MS).max().unwrap_or(0);
        timeout.max(3 * self.longest_heartbeat()) + self.longest_heartbeat()
    }

    /// Nodes that can find each other, because one knows an address of another. After moves some cannot,
    /// and no node can tell them. Each node with the smallest that its knowledge leads to.
    fn find_islands(&self) -> BTreeMap<ProcId, ProcId> {
        let members = self.expected_members();
        let mut island: BTreeMap<ProcId, ProcId> = members.iter().map(|&proc| (proc, proc)).collect();
        loop {
            let mut joined = false;
            for &a in &members {
                for &b in &members {
                    let (smaller, larger) = (island[&a].min(island[&b]), island[&a].max(island[&b]));
                    if smaller != larger && self.knows(a, b) {
                        island.values_mut().filter(|at| **at == larger).for_each(|at| *at = smaller);
                        joined = true;
                    }
                }
            }
            if !joined {
                return island;
            }
        }
    }

    fn all_know_each_other(&self) -> bool {
        let pairs = self.islands.iter().flat_map(|a| self.islands.iter().map(move |b| (a, b)));
        let mut together = pairs.filter(|(a, b)| a.0 < b.0 && a.1 == b.1);
        together.all(|((&a, _), (&b, _))| self.knows(a, b) || self.knows(b, a))
    }

    fn knows(&self, a: ProcId, b: ProcId) -> bool {
        let (a, b) = (&self.procs[a], &self.procs[b]);
        let leads_there = |addr: &DialAddr| self.resolve(addr) == Some(b.addr);
        a.config.connect.iter().any(|seed| leads_there(&seed.addr))
            || a.mesh().peers(a.clock.local(self.now)).iter().any(|peer| {
                // Up counts only if it is this process: of an earlier one it may yet hear a goodbye.
                let connected = || {
                    let sessions = a.mesh().open_sessions(&b.id).iter();
                    let conns = sessions.filter_map(|session| a.oracle.sessions.get(session));
                    conns.into_iter().any(|s| {
                        let other = self.conns[s.conn].ends[1 - s.side].proc;
                        other.is_some_and(|other| std::ptr::eq(&raw const self.procs[other], b))
                    })
                };
                peer.id == b.id
                    && peer.addrs.iter().any(leads_there)
                    && (peer.state == PeerState::Dead || peer.state == PeerState::Up && connected())
            })
    }

    /// Called often: notes when the mesh is whole, and whether it stays so.
    pub fn watch_convergence(&mut self) {
        let Some(mut convergence) = self.converged_state else {
            return;
        };
        let missing = self.missing_link();
        if missing.is_none() && convergence.whole_since.is_none() {
            convergence.whole_since = Some(self.now);
            self.note(|| "## whole".to_owned());
        }
        match (missing, convergence.whole_since) {
            (None, Some(_)) if self.waits_only_until_whole => convergence.is_over = true,
            (None, Some(since))
                if self.now >= since + self.scenario.stay && self.now >= convergence.limit =>
            {
                self.check_pings_arrived();
                convergence.is_over = true;
            }
            (Some(_), Some(_)) if self.now <= convergence.limit => {
                // A link that only looked alive was replaced: that is still healing.
                convergence.whole_since = None;
            }
            (Some(missing), _) if self.now > convergence.limit => {
                let took = (self.now - convergence.since) as f64 / SECOND as f64;
                let limit = (convergence.limit - convergence.since) as f64 / SECOND as f64;
                self.violated(
                    WHOLE,
                    format!("{took:.1} s after the last fault, limit {limit:.1} s: {missing}"),
                );
            }
            _ => {}
        }
        self.converged_state = Some(convergence);
    }

    /// Who runs, with a key of its own.
    fn expected_members(&self) -> Vec<ProcId> {
        let running: Vec<ProcId> = self.slots.iter().filter_map(|slot| slot.proc).collect();
        // Of processes that shared a key one may be refused for good, also once the other is gone.
        let shared = |slot: Slot| {
            let used = |other: Slot| self.scenario.key_of[other] == self.scenario.key_of[slot];
            (0..self.slots.len()).filter(|&other| used(other)).count() > 1
        };
        let alone = |&proc: &ProcId| !shared(self.procs[proc].slot);
        let members: Vec<ProcId> = running.iter().copied().filter(alone).collect();
        members.into_iter().filter(|&proc| !self.procs[proc].is_leaving()).collect()
    }

    /// The first link that a full mesh would have and this one has not.
    fn missing_link(&self) -> Option<String> {
        let members = self.expected_members();
        let cloned = self.slots.iter().filter_map(|slot| slot.proc).count() - members.len();
        for &proc in &members {
            let process = &self.procs[proc];
            if process.mesh().members() > members.len() + cloned {
                return Some(format!(
                    "p{proc} counts {} members of {}",
                    process.mesh().members(),
                    members.len()
                ));
            }
            let others = members
                .iter()
                .filter(|&&other| other != proc && self.islands.get(&other) == self.islands.get(&proc));
            for other in others.map(|&other| &self.procs[other].id) {
                let [session] = process.mesh().open_sessions(other) else {
                    let open = process.mesh().open_sessions(other).len();
                    return Some(format!("p{proc} has {open} sessions with {}", other.short()));
                };
                let Some(oracle) = process.oracle.sessions.get(session) else {
                    return Some(format!("p{proc} has {session}, which does not exist"));
                };
                let (conn, side) = (oracle.conn, oracle.side);
                let theirs = self.conns[conn].ends[1 - side].proc.map(|proc| &self.procs[proc]);
                let same = theirs.is_some_and(|theirs| {
                    theirs.alive
                        && theirs.mesh().open_sessions(&process.id).last().is_some_and(|session| {
                            theirs.oracle.sessions.get(session).is_some_and(|oracle| oracle.conn == conn)
                        })
                });
                if !same {
                    return Some(format!("p{proc} and {} use different connections", other.short()));
                }
            }
        }
        None
    }

    /// On links that are up every ping has arrived by now, but for those just sent.
    fn check_pings_arrived(&mut self) {
        let young = self.now - SECOND;
        let since = self.converged_state.and_then(|convergence| convergence.whole_since).unwrap_or(self.now);
        for conn in 0..self.conns.len() {
            let ends = &self.conns[conn].ends;
            let is_up = Thread::is_open;
            if !ends.iter().all(|end| end.thread.as_ref().is_some_and(is_up)) {
                continue;
            }
            for side in 0..2 {
                let lost = self.conns[conn].pings[side].iter().find(|(_, at)| *at < young && *at > since);
                if let Some(&(seq, _)) = lost {
                    self.violated(PINGS, format!("#{seq} on c{conn} from its end {side} never arrived"));
                }
            }
        }
    }

    pub fn outcome(&mut self) -> Option<Outcome> {
        let convergence = self.converged_state.filter(|convergence| convergence.is_over)?;
        Some(Outcome {
            trace_hash: std::hash::Hasher::finish(&self.trace),
            virtual_time: self.now,
            healed_after: convergence.whole_since.unwrap_or(self.now) - convergence.since,
            heal_limit: convergence.limit - convergence.since,
            islands: self.islands.values().collect::<BTreeSet<_>>().len(),
            stats: self.stats.clone(),
        })
    }
}
