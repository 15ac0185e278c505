//! The time after the last fault: the mesh becomes whole within a limit and stays whole.

use std::collections::{BTreeMap, BTreeSet};

use p2p_gossip::internals::limits::{CONNECT_TIMEOUT, HANDSHAKE_TIMEOUT};
use p2p_gossip::internals::mesh::SessionId;
use p2p_gossip::internals::mesh::backoff::CAP;
use p2p_gossip::{DialAddr, KeyRing, PeerState};

use super::checks::{PINGS, WHOLE};
use super::clock::{MS, Micros, SECOND, micros};
use super::net::{Conn, ConnId, Side};
use super::oracle::SessionOracle;
use super::process::ProcId;
use super::scenario::Slot;
use super::session::Thread;
use super::world::{Outcome, World};

/// Time that the design allows beyond the longest backoff.
const BEYOND_BACKOFF: Micros = 2 * SECOND;

/// Time in which a node learns of a peer from a third node. Membership settles for 0.25 s. At worst a heartbeat later
/// the digests differ, and the node asks after another 0.5 s. The list leads to a dial within 1.5 s. All of this counts
/// twice, because the third node may have to learn of the peer first.
fn learned_from_others(heartbeat: Micros) -> Micros {
    2 * (SECOND / 4 + heartbeat + SECOND / 2 + 3 * SECOND / 2)
}

/// Additional time if there is a liar. Nodes compare digests only after 15 s while they dial rumours. Then a node dials
/// a peer that it has not met at four addresses, true or false, for 3 s each.
const LIES_RESOLVED: Micros = 15 * SECOND + 4 * 3 * SECOND;

/// Additional time if some nodes cannot connect: a dial fails after 3 s, a carrier is asked after 2 s, and again after 2 s
/// if it does not know the peer yet.
const FOUND_THROUGH_OTHERS: Micros = 7 * SECOND;

/// Time that a bad carrier costs which accepts a circuit that leads nowhere.
const LED_ASTRAY: Micros = 4 * SECOND;
/// Additional time if nodes find each other by beacons: one each 30 s with a quarter of jitter, by a clock that may be
/// slow; a dial that was under way at its arrival; and the patience and jitter of the dial.
const FOUND_BY_BEACONS: Micros = 38 * SECOND + 4 * SECOND;

/// Invented peers on a list that a node dials at the same time, before the real one.
const INVENTED_DIALLED_AT_ONCE: Micros = 12;

/// The state of the convergence.
#[derive(Clone, Copy, Debug)]
pub struct Converged {
    /// The time at which the faults ended.
    pub since: Micros,
    /// The time by which the mesh must be whole.
    pub limit: Micros,
    /// The time since which the mesh is whole.
    pub whole_since: Option<Micros>,
    pub is_over: bool,
}

impl World {
    /// Ends all faults and sets the limit by which the mesh must be whole.
    pub fn start_convergence(&mut self) {
        self.end_faults();
        // A node that a peer took for its own previous run dials again after that peer's timeout.
        let mut limit = self.obstacles_gone_at() + (micros(CAP) + BEYOND_BACKOFF).max(self.longest_silence());
        if !self.stops_when_whole {
            self.islands = self.find_islands();
        }
        if !self.all_know_each_other() {
            limit += learned_from_others(self.longest_heartbeat());
        }
        if self.scenario.faults.discover {
            limit += FOUND_BY_BEACONS;
        }
        if !self.scenario.walls.is_empty() {
            limit += learned_from_others(self.longest_heartbeat()) + FOUND_THROUGH_OTHERS;
        }
        limit += self.scenario.bad_carriers.len() as Micros * 2 * LED_ASTRAY;
        if !self.scenario.liars.is_empty() {
            let rounds = self.scenario.faults.lies_per_list as Micros / INVENTED_DIALLED_AT_ONCE;
            limit += LIES_RESOLVED + rounds * 3 * SECOND;
        }
        self.converged_state = Some(Converged { since: self.now, limit, whole_since: None, is_over: false });
    }

    /// The time at which the last consequence of a fault is over that a node cannot notice earlier. An unanswered
    /// connection attempt and a handshake run until their timeouts. A stalled or half-open connection looks alive until
    /// the silence has lasted. Afterwards the time until the next dial is a matter of the backoff.
    fn obstacles_gone_at(&self) -> Micros {
        let ends = self.conns.iter().flat_map(|conn| [(conn, 0), (conn, 1)]);
        ends.map(|(conn, side)| self.obstacle_gone_at(conn, side)).max().unwrap_or(self.now).max(self.now)
    }

    /// The same for one end of a connection.
    fn obstacle_gone_at(&self, conn: &Conn, side: Side) -> Micros {
        let silent = self.longest_silence();
        let Some(thread) = &conn.ends[side].thread else {
            if conn.ways[side].queue.is_empty() {
                return self.now;
            }
            // The receiver believes the late messages of a process that is gone until its timeout.
            return self.now + self.scenario.faults.resend_wait_ms_max * MS + silent;
        };
        let stalled = conn.ways.iter().any(|way| !way.queue.is_empty() && way.blocked_until >= self.now);
        let half_open = conn.ends[0].open != conn.ends[1].open;
        if thread.is_connecting() {
            thread.started + micros(CONNECT_TIMEOUT)
        } else if thread.is_handshaking() {
            thread.started + micros(HANDSHAKE_TIMEOUT)
        } else if thread.is_open() && (stalled || half_open || conn.disturbed) {
            self.now + silent
        } else {
            self.now
        }
    }

    fn longest_heartbeat(&self) -> Micros {
        self.scenario.rhythm.iter().map(|(heartbeat_ms, _)| heartbeat_ms * MS).max().unwrap_or(0)
    }

    /// The longest time until a node notices a silence: the longest timeout or three of the slowest heartbeats, and one
    /// more heartbeat.
    fn longest_silence(&self) -> Micros {
        let timeout = self.scenario.rhythm.iter().map(|(_, timeout_ms)| timeout_ms * MS).max().unwrap_or(0);
        timeout.max(3 * self.longest_heartbeat()) + self.longest_heartbeat()
    }

    /// The islands: groups of nodes that can find each other because one knows an address of another. After moves some
    /// nodes may know no valid address, and no node knows theirs. Maps each process to the smallest one of its island.
    fn find_islands(&self) -> BTreeMap<ProcId, ProcId> {
        let members = self.expected_members();
        let mut island: BTreeMap<ProcId, ProcId> = members.iter().map(|&proc| (proc, proc)).collect();
        let pairs = || members.iter().flat_map(|&a| members.iter().map(move |&b| (a, b)));
        // Joins two islands at a time until no process knows one of another island.
        let is_walled =
            |a: ProcId, b: ProcId| self.scenario.walls.contains(&(self.procs[a].slot, self.procs[b].slot));
        let finds = |a: ProcId, b: ProcId| self.knows(a, b) && !is_walled(a, b);
        while let Some((a, b)) = pairs().find(|&(a, b)| island[&a] != island[&b] && finds(a, b)) {
            let (smaller, larger) = (island[&a].min(island[&b]), island[&a].max(island[&b]));
            island.values_mut().filter(|at| **at == larger).for_each(|at| *at = smaller);
        }
        island
    }

    fn all_know_each_other(&self) -> bool {
        let pairs = self.islands.iter().flat_map(|a| self.islands.iter().map(move |b| (a, b)));
        let mut together = pairs.filter(|(a, b)| a.0 < b.0 && a.1 == b.1);
        together.all(|((&a, _), (&b, _))| self.knows(a, b) || self.knows(b, a))
    }

    /// Whether one process knows an address that leads to the other.
    fn knows(&self, knower: ProcId, other: ProcId) -> bool {
        // Of a node behind a router the beacon names a port that leads nowhere, and its own dials reach the others.
        let hears_beacons = |proc: ProcId| self.procs[proc].discoverer.is_some();
        let is_mapped = |proc: ProcId| self.scenario.mapped.contains(&self.procs[proc].slot);
        if hears_beacons(knower) && hears_beacons(other) && !is_mapped(other) {
            return true;
        }
        let (process, target) = (&self.procs[knower], &self.procs[other]);
        let leads_there = |addr: &DialAddr| self.resolve(addr).contains(&target.addr);
        if process.config.connect.iter().any(|bootstrap| leads_there(&bootstrap.addr)) {
            return true;
        }
        let told = process.oracle.peers.get(&target.id);
        let is_told_truly = |addr: &&DialAddr| !told.is_some_and(|peer| peer.only_liars_told(addr));
        process.mesh().peers(process.clock.local(self.now)).iter().any(|peer| {
            peer.id == target.id
                && peer.addrs.iter().filter(is_told_truly).any(leads_there)
                && match peer.state {
                    PeerState::Dead => true,
                    // The peer may be a previous process with the same key, whose goodbye may yet arrive.
                    PeerState::Up | PeerState::Unstable => self.is_connected_to(knower, other),
                    _ => false,
                }
        })
    }

    /// Whether one process has an open session that ends at the other.
    fn is_connected_to(&self, proc: ProcId, other: ProcId) -> bool {
        let process = &self.procs[proc];
        let sessions = process.mesh().open_sessions(&self.procs[other].id).iter();
        let mut sessions = sessions.filter_map(|session| process.oracle.sessions.get(session));
        sessions.any(|s| self.far_end(s.conn, s.side) == Some(other))
    }

    /// Notes when the mesh becomes whole, and reports a violation if it is not whole after the limit.
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
            (None, Some(_)) if self.stops_when_whole => convergence.is_over = true,
            (None, Some(since))
                if self.now >= since + self.scenario.stay && self.now >= convergence.limit =>
            {
                self.check_pings_arrived();
                convergence.is_over = true;
            }
            (Some(_), Some(_)) if self.now <= convergence.limit => {
                // A session that only looked alive was replaced, so the mesh is still healing.
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

    /// The running processes that must be members: those that neither share a key nor leave.
    fn expected_members(&self) -> Vec<ProcId> {
        let running: Vec<ProcId> = self.slots.iter().filter_map(|slot| slot.proc).collect();
        // A peer may refuse a process with a shared key for good, even after the other process is gone.
        let shared = |slot: Slot| {
            let used = |other: Slot| self.scenario.key_of[other] == self.scenario.key_of[slot];
            (0..self.slots.len()).filter(|&other| used(other)).count() > 1
        };
        let alone = |&proc: &ProcId| !shared(self.procs[proc].slot) && !self.procs[proc].is_attacker;
        let members: Vec<ProcId> = running.iter().copied().filter(alone).collect();
        members.into_iter().filter(|&proc| !self.procs[proc].is_leaving()).collect()
    }

    /// Describes the first session that a full mesh has and this mesh lacks.
    fn missing_link(&self) -> Option<String> {
        let members = self.expected_members();
        let rings = members.iter().filter_map(|&proc| self.slots[self.procs[proc].slot].ring.as_ref());
        let mut rings = rings.map(KeyRing::current);
        let first = rings.next();
        if rings.any(|key| Some(key) != first) {
            return Some("the nodes have different network keys".to_owned());
        }
        let cloned = self.slots.iter().filter_map(|slot| slot.proc).count() - members.len();
        members.iter().find_map(|&proc| {
            let counted = self.procs[proc].mesh().members();
            let is_attacked =
                self.slots.iter().filter_map(|slot| slot.proc).any(|proc| self.procs[proc].is_attacker);
            if counted > members.len() + cloned && !is_attacked {
                return Some(format!("p{proc} counts {counted} members of {}", members.len()));
            }
            let meets = |other: &&ProcId| {
                **other != proc && self.share_island(proc, **other) && self.have_path(&members, proc, **other)
            };
            let mut others = members.iter().filter(meets);
            others.find_map(|&other| self.link_fault(proc, other))
        })
    }

    /// Whether two processes of an island can connect, or both can connect to a third one of it that carries well.
    fn have_path(&self, members: &[ProcId], a: ProcId, b: ProcId) -> bool {
        let slot = |proc: ProcId| self.procs[proc].slot;
        let carries = |proc: ProcId| {
            let is_bad = self.scenario.bad_carriers.contains(&slot(proc)) || self.procs[proc].is_liar;
            self.scenario.relay && !is_bad
        };
        let is_between = |&&other: &&ProcId| {
            carries(other)
                && other != a
                && other != b
                && self.share_island(a, other)
                && self.can_connect(a, other)
                && self.can_connect(other, b)
        };
        self.can_connect(a, b) || members.iter().any(|other| is_between(&other))
    }

    /// Whether one of two processes can open a connection to the other.
    fn can_connect(&self, a: ProcId, b: ProcId) -> bool {
        let (a, b) = (self.procs[a].slot, self.procs[b].slot);
        !self.scenario.walls.contains(&(a, b)) || !self.scenario.walls.contains(&(b, a))
    }

    fn share_island(&self, a: ProcId, b: ProcId) -> bool {
        self.islands.get(&a) == self.islands.get(&b)
    }

    /// The reason why two processes do not have one session that both use.
    fn link_fault(&self, proc: ProcId, other: ProcId) -> Option<String> {
        let process = &self.procs[proc];
        let peer = self.procs[other].id;
        let open = process.mesh().open_sessions(&peer);
        let Some(session) = open.last() else {
            return Some(format!("p{proc} has 0 sessions with {}", peer.short()));
        };
        // A pair that moves from a silent connection to a circuit has both for a moment, and its ends do not learn of that
        // at the same time. The same holds for its way back: the connection comes up at one end first.
        let theirs = self.procs[other].mesh().open_sessions(&process.id);
        let is_moving = |proc: ProcId, open: &[SessionId]| open.iter().any(|s| self.is_new_circuit(proc, s));
        let moves_back = || {
            let is_in_circuit = |open: &[SessionId]| open.last().is_some_and(|session| session.is_carried());
            is_in_circuit(theirs) && self.is_half_up(proc, session)
                || is_in_circuit(open) && theirs.last().is_some_and(|session| self.is_half_up(other, session))
        };
        if !theirs.is_empty() && (is_moving(proc, open) || is_moving(other, theirs) || moves_back()) {
            return None;
        }
        if !open[..open.len() - 1].iter().all(|older| older.is_carried()) {
            return Some(format!("p{proc} has {} sessions with {}", open.len(), peer.short()));
        }
        let Some(&SessionOracle { conn, side, .. }) = process.oracle.sessions.get(session) else {
            return Some(format!("p{proc} has {session}, which does not exist"));
        };
        let remote = self.far_end(conn, side).map(|remote| &self.procs[remote]);
        let same = remote.filter(|remote| remote.alive).is_some_and(|remote| {
            let newest = remote.mesh().open_sessions(&process.id).last();
            let newest = newest.and_then(|session| remote.oracle.sessions.get(session));
            newest.is_some_and(|newest| newest.conn == conn || self.far_conn(conn) == Some(newest.conn))
        });
        (!same).then(|| format!("p{proc} and {} use different connections", peer.short()))
    }

    /// Whether the session is inside a circuit, and began no longer ago than a silence lasts.
    fn is_new_circuit(&self, proc: ProcId, session: &SessionId) -> bool {
        let known = self.procs[proc].oracle.sessions.get(session);
        let thread = known.and_then(|s| self.conns[s.conn].ends[s.side].thread.as_ref());
        session.is_carried()
            && thread.is_some_and(|thread| self.now < thread.started + self.longest_silence())
    }

    /// Whether the session is a connection that is about to come up at its other end as well.
    fn is_half_up(&self, proc: ProcId, session: &SessionId) -> bool {
        let known = self.procs[proc].oracle.sessions.get(session).filter(|_| !session.is_carried());
        known.is_some_and(|&SessionOracle { conn, side, .. }| {
            let far = &self.conns[conn].ends[1 - side];
            let comes_up = |thread: &Thread| thread.is_handshaking() || thread.is_open();
            let is_up = |proc: ProcId| self.procs[proc].oracle.sessions.values().any(|s| s.conn == conn);
            far.thread.as_ref().is_some_and(comes_up) && !far.proc.is_some_and(is_up)
        })
    }

    /// The process at the other end of a connection, or of a circuit.
    pub fn far_end(&self, conn: ConnId, side: Side) -> Option<ProcId> {
        if self.conns[conn].circuit.is_none() {
            return self.conns[conn].ends[1 - side].proc;
        }
        // At either end of a circuit the other side of the connection has no process.
        self.far_conn(conn).and_then(|far| self.conns[far].ends[1 - side].proc)
    }

    /// Reports a ping that is older than a second and has not arrived on a connection that is up.
    fn check_pings_arrived(&mut self) {
        let young = self.now - SECOND;
        let since = self.converged_state.and_then(|convergence| convergence.whole_since).unwrap_or(self.now);
        for conn in 0..self.conns.len() {
            let ends = &self.conns[conn].ends;
            let is_up = Thread::is_open;
            let is_attackers = self.conns[conn].key.is_some();
            if is_attackers || !ends.iter().all(|end| end.thread.as_ref().is_some_and(is_up)) {
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

    /// The result of the run, once it is over.
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
