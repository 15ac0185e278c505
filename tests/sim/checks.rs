//! The invariants of the design, checked against everything that goes in and comes out.

use p2p_gossip::internals::Expected;
use p2p_gossip::internals::limits::{ADDRS_MAX, PEERS_MAX};
use p2p_gossip::internals::mesh::{
    DIALS_IN_FLIGHT_MAX, DialError, DisconnectReason, Input, KnownPeer, Mesh, Output, SESSIONS_PER_PEER_MAX,
    SessionId, SessionUp,
};
use p2p_gossip::internals::session::SessionEvent;
use p2p_gossip::internals::wire::{ByeReason, Message, PeerRecord};
use p2p_gossip::{ConnectAddr, DialAddr, DownReason, Event, PeerId, PeerState};

use super::clock::{MS, Micros, SECOND, micros};
use super::net::{ConnId, Side};
use super::oracle::{
    DIALS_TO_ONE_PEER_MAX, DIALS_WINDOW, Moment, PeerShadow, SessionOracle, Standing, grace,
};
use super::process::ProcId;
use super::world::World;

pub const IDENTITY: &str = "1: one session a peer, never with oneself";
pub const WHOLE: &str = "2: once faults stop, a full mesh in time, and it stays";
pub const LIVENESS: &str = "3: dead after the timeout's silence, neither sooner nor later";
pub const EVENTS: &str = "3: up, down and left take turns and count members";
pub const ADMISSION: &str = "4: who is not admitted is no member, not dialled and not passed on";
pub const LEFT: &str = "4: who left is not dialled";
pub const RUMOURS: &str = "4: rumours never displace what is proven, and are not passed on";
pub const LIMITS: &str = "5: every queue, table and rate within its limit";
pub const MEMORY: &str = "7: no peer is forgotten by a clock, a restart or time off";
pub const PINGS: &str = "6: a ping arrives at most once, and exactly once on a link that stayed up";

/// Who is told later by this much: threads hand over, and clocks count in other steps.
const SLACK: Micros = 100 * MS;
/// News of a goodbye may be overtaken by lists for so long that they are not believed.
const LEFT_QUIET: Micros = 10 * SECOND;

impl World {
    fn local(&self, proc: ProcId) -> Micros {
        self.procs[proc].clock.elapsed(self.now)
    }

    pub fn saw_session_up(&mut self, proc: ProcId, up: &SessionUp, conn: ConnId, side: Side) {
        // As the design has it: our timeout, or three of its heartbeats, but no more than a minute.
        let theirs = (3 * u64::from(up.hello.heartbeat_ms) * MS).min(60 * SECOND);
        let timeout = micros(self.procs[proc].config.timeout).max(theirs);
        let oracle = &mut self.procs[proc].oracle;
        let dialled = oracle.dials.remove(&up.session);
        oracle.changed.insert(up.peer);
        let open = !oracle.cancelled.contains(&up.session);
        oracle.came_up += 1;
        let order = oracle.came_up;
        oracle.sessions.insert(up.session, SessionOracle { peer: up.peer, conn, side, open, order });
        if open {
            oracle.newest = Some((up.peer, up.session));
            oracle.newest_dialled = dialled;
            oracle.newest_timeout = timeout;
        }
        let peer = oracle.peer(up.peer);
        let mut shown: Vec<_> = up.hello.advertised.clone();
        if side == 0 {
            shown.push(up.remote.into());
        } else {
            shown.push(DialAddr::Socket((up.remote.ip(), up.hello.listen_port).into()));
        }
        peer.first_hand.extend(shown.into_iter().filter(DialAddr::is_dialable));
    }

    /// After the mesh has taken it in: it is the one to send on, or was refused for a reason.
    pub fn check_newest(&mut self, proc: ProcId, mesh: &Mesh) {
        let moment = self.moment(proc);
        let Some((peer, session)) = self.procs[proc].oracle.newest.take() else {
            return;
        };
        let process = &mut self.procs[proc];
        if !process.oracle.sessions.get(&session).is_some_and(|s| s.open) {
            return;
        }
        process.oracle.heard(peer, moment);
        process.oracle.peer(peer).timeout = process.oracle.newest_timeout;
        if mesh.open_sessions(&peer).last() != Some(&session) {
            let open = mesh.open_sessions(&peer).to_vec();
            self.violated(IDENTITY, format!("p{proc}: {session} is the newest, but open are {open:?}"));
            return;
        }
        if session.is_dialled() {
            let conn = process.oracle.sessions[&session].conn;
            let reached = DialAddr::from(self.conns[conn].addr);
            let oracle = &mut self.procs[proc].oracle;
            let dialled = oracle.newest_dialled.take();
            let peer = oracle.peer(peer);
            // A name counts if the peer says that it is its own.
            let own = dialled.filter(|addr| peer.first_hand.contains(addr));
            peer.proven = [reached].into_iter().chain(own).collect();
        }
    }

    /// This process's now.
    pub fn moment(&self, proc: ProcId) -> Moment {
        let process = &self.procs[proc];
        process.oracle.moment(self.now, process.clock.elapsed(self.now))
    }

    /// An event of a session, which was reported at this moment, reaches the mesh.
    pub fn saw_event(&mut self, proc: ProcId, moment: Moment, session: SessionId, event: &SessionEvent) {
        let session = &session;
        let message = match event {
            SessionEvent::Received { message, .. } => Some(message),
            SessionEvent::Heartbeat { .. } => None,
            _ => return,
        };
        let oracle = &mut self.procs[proc].oracle;
        let Some(&SessionOracle { peer, open, .. }) = oracle.sessions.get(session) else {
            return;
        };
        if open || matches!(message, Some(Message::Ping { .. })) {
            oracle.heard(peer, moment);
            if open && std::mem::take(&mut oracle.peer(peer).refuses) {
                oracle.changed.insert(peer);
            }
        }
        if let Some(Message::Peers { records, .. }) = message {
            for record in records.iter().filter(|record| record.connected) {
                oracle.peer(record.id).listed_connected = Some(moment.at);
            }
        }
    }

    /// A session's thread has heard its peer now. The mesh asks for that time before it declares a death.
    pub fn saw_heard(&mut self, proc: ProcId, session: SessionId) {
        let moment = self.moment(proc);
        let oracle = &mut self.procs[proc].oracle;
        if let Some(&SessionOracle { peer, open: true, .. }) = oracle.sessions.get(&session) {
            // The mesh asks the newest session only.
            if oracle.open_sessions(&peer).max_by_key(|open| oracle.order(open)) == Some(session) {
                oracle.heard(peer, moment);
            }
        }
    }

    /// An input reaches the mesh.
    pub fn saw_input(&mut self, proc: ProcId, input: &Input) {
        match input {
            Input::SessionDown { session, reason } => self.saw_session_down(proc, *session, *reason),
            Input::DialFailed { session, reason } => self.saw_dial_failed(proc, *session, reason),
            _ => {}
        }
    }

    pub fn saw_dial_failed(&mut self, proc: ProcId, session: SessionId, reason: &DialError) {
        let process = &mut self.procs[proc];
        let at = process.oracle.dials.remove(&session);
        if let (Some(at), DialError::WrongId { found }) = (at, reason)
            && *found == process.id
        {
            // Where its own key answers it looks for others last.
            let there = process.oracle.peers.values_mut().filter(|peer| peer.proven.contains(&at));
            there.for_each(|peer| peer.proven.clear());
        }
    }

    pub fn saw_session_down(&mut self, proc: ProcId, session: SessionId, reason: DisconnectReason) {
        let (moment, now) = (self.moment(proc), self.now);
        let oracle = &mut self.procs[proc].oracle;
        let Some(ended) = oracle.sessions.remove(&session) else {
            return;
        };
        oracle.changed.insert(ended.peer);
        if !ended.open || oracle.open_sessions(&ended.peer).next().is_some() || oracle.leaving {
            return;
        }
        if let DisconnectReason::Bye(_) = reason {
            oracle.heard(ended.peer, moment);
        }
        if let DisconnectReason::Bye(said) = reason {
            let wants_us = matches!(said, ByeReason::Duplicate | ByeReason::Silent | ByeReason::Leaving);
            oracle.peer(ended.peer).refuses |= !wants_us;
        }
        let promised = matches!(reason, DisconnectReason::Bye(ByeReason::Duplicate | ByeReason::Silent));
        if oracle.is_up(&ended.peer) {
            if promised {
                oracle.peer(ended.peer).sessionless_since = Some(now);
            } else {
                oracle.must_be_down.push(ended.peer);
            }
        }
    }

    pub fn check_output(&mut self, proc: ProcId, output: &Output, mesh: &Mesh) {
        match output {
            Output::Dial { session, addr, expected, source } => {
                let hearsay = source.is_from_peer();
                self.check_dial(proc, *session, addr, *expected, hearsay, mesh);
                // No node here is on loopback.
                if hearsay && addr.is_loopback() {
                    self.violated(RUMOURS, format!("p{proc} dials {addr} because others say so"));
                }
            }
            Output::Send { session, message } => self.check_send(proc, *session, Some(message), mesh),
            Output::Heartbeat { session } => self.check_send(proc, *session, None, mesh),
            Output::Close { session, reason } => self.check_close(proc, *session, *reason),
            Output::DrainUnread { .. } | Output::Vitals(_) | Output::Persist => {}
            Output::Notify(event) => self.check_event(proc, event),
            Output::Report(report) => {
                if let p2p_gossip::internals::mesh::Report::WrongId { expected, .. } = report {
                    self.procs[proc].oracle.peer(*expected).proven.clear();
                }
            }
        }
    }

    fn check_dial(
        &mut self,
        proc: ProcId,
        session: SessionId,
        addr: &p2p_gossip::DialAddr,
        expected: Expected,
        hearsay: bool,
        mesh: &Mesh,
    ) {
        self.stats.dials += 1;
        let (local, now) = (self.local(proc), self.now);
        let process = &mut self.procs[proc];
        self.trace.mix(&session);
        process.oracle.dials.insert(session, addr.clone());
        let mut wrong = Vec::new();
        if !process.oracle.take_token(local) {
            wrong.push((LIMITS, "more dials a second than allowed".to_owned()));
        }
        let in_flight = mesh.dials_in_flight();
        if in_flight > DIALS_IN_FLIGHT_MAX {
            wrong.push((LIMITS, format!("{in_flight} dials in flight")));
        }
        if process.oracle.leaving {
            wrong.push((LEFT, "dials while it leaves".to_owned()));
        }
        if !addr.is_dialable() {
            wrong.push((LIMITS, format!("dials {addr}, where no node can be")));
        }
        match expected {
            Expected::AnyPeer | Expected::Pinned(_) => {
                let pin = |seed: &ConnectAddr| seed.pin.map_or(Expected::AnyPeer, Expected::Pinned);
                if !process.config.connect.iter().any(|seed| seed.addr == *addr && pin(seed) == expected) {
                    wrong.push((RUMOURS, format!("dials {addr} expecting {expected}")));
                }
            }
            Expected::Peer(id) if id == process.id => wrong.push((IDENTITY, "dials itself".to_owned())),
            Expected::Peer(id) => {
                if let Err(why) = process.oracle.access.check(&id) {
                    wrong.push((ADMISSION, format!("dials {}: {why}", id.short())));
                }
                if !mesh.open_sessions(&id).is_empty() {
                    wrong.push((IDENTITY, format!("dials {} while connected to it", id.short())));
                }
                let peer = process.oracle.peer(id);
                let listed = peer.listed_connected.is_some_and(|at| at + SLACK > peer.since + LEFT_QUIET);
                // Bootstrap addresses are dialled regardless of the last peer there.
                if peer.standing == Standing::Left && !listed && hearsay {
                    wrong.push((LEFT, format!("dials {}, who left", id.short())));
                }
                peer.dials.retain(|&at| at + DIALS_WINDOW > now);
                peer.dials.push(now);
                // A liar's lists give hope again and again; then only the limit for all dials counts.
                if peer.dials.len() > DIALS_TO_ONE_PEER_MAX && self.scenario.liars.is_empty() {
                    let dials = peer.dials.len();
                    wrong.push((LIMITS, format!("{dials} dials to {} within ten seconds", id.short())));
                }
            }
        }
        for (invariant, detail) in wrong {
            self.violated(invariant, format!("p{proc}: {detail}"));
        }
    }

    fn check_send(&mut self, proc: ProcId, session: SessionId, message: Option<&Message>, mesh: &Mesh) {
        let process = &self.procs[proc];
        let Some(&SessionOracle { peer, open, .. }) = process.oracle.sessions.get(&session) else {
            // It may have ended with the same turn.
            return;
        };
        if !open {
            self.violated(IDENTITY, format!("p{proc} sends on {session} after closing it"));
            return;
        }
        // A list goes to the peer that asked for it, on the session of its request.
        let is_answer = matches!(message, Some(Message::Peers { .. }));
        let older = mesh.open_sessions(&peer).split_last().map_or(&[][..], |(_, older)| older);
        if !is_answer && older.contains(&session) {
            self.violated(IDENTITY, format!("p{proc} sends on {session}, which is not the newest"));
            return;
        }
        if let Some(Message::Peers { records, .. }) = message {
            for record in records {
                if let Err(why) = self.check_record(proc, peer, record) {
                    self.violated(RUMOURS, format!("p{proc} passes on {}: {why}", record.id.short()));
                }
            }
        }
    }

    fn check_record(&self, proc: ProcId, to: PeerId, record: &PeerRecord) -> Result<(), String> {
        let process = &self.procs[proc];
        if record.id == to || record.id == process.id {
            return Err("the one asking, or itself".to_owned());
        }
        let peer = process.oracle.peers.get(&record.id).ok_or("never met")?;
        process.oracle.access.check(&record.id).map_err(|why| why.to_string())?;
        let connected = peer.standing == Standing::Up;
        if !matches!(peer.standing, Standing::Up | Standing::Down) {
            // A list may have told that a peer that left is back.
            let listed = peer.listed_connected.is_some_and(|at| at + SLACK > peer.since + LEFT_QUIET);
            if !(peer.standing == Standing::Left && listed) {
                return Err(format!("{:?}", peer.standing));
            }
        }
        if record.connected != connected {
            return Err(format!("as connected: {}", record.connected));
        }
        if record.addrs.is_empty() || record.addrs.len() > ADDRS_MAX {
            return Err("with no or too many addresses".to_owned());
        }
        match record.addrs.iter().find(|addr| !peer.first_hand.contains(addr)) {
            Some(addr) => Err(format!("at {addr}, which it never showed")),
            None => Ok(()),
        }
    }

    fn check_close(&mut self, proc: ProcId, session: SessionId, reason: ByeReason) {
        let oracle = &mut self.procs[proc].oracle;
        oracle.leaving |= reason == ByeReason::Leaving;
        if oracle.dials.contains_key(&session) {
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
        if !was_open && !was_cancelled {
            self.violated(IDENTITY, format!("p{proc} closes {session} twice"));
        } else if is_newest && reason == ByeReason::Duplicate && !was_cancelled {
            self.violated(IDENTITY, format!("p{proc} closes {session}, the newest, as a duplicate"));
        } else if is_newest {
            // Refused: it never counted.
            oracle.sessions.remove(&session);
        }
    }

    fn check_event(&mut self, proc: ProcId, event: &Event) {
        let (local, now) = (self.local(proc), self.now);
        let process = &mut self.procs[proc];
        let oracle = &mut process.oracle;
        let mut wrong = None;
        match event {
            Event::Up { peer, members, .. } => {
                if *peer == process.id {
                    wrong = Some((IDENTITY, "it met itself".to_owned()));
                } else if oracle.is_up(peer) {
                    wrong = Some((EVENTS, format!("{} up twice", peer.short())));
                } else if let Err(why) = oracle.access.check(peer) {
                    wrong = Some((ADMISSION, format!("{} up: {why}", peer.short())));
                }
                oracle.set_standing(*peer, Standing::Up, now);
                if *members != oracle.up + 1 {
                    wrong = Some((EVENTS, format!("{members} members, but {} are up", oracle.up)));
                }
                self.last_change = now;
            }
            Event::Down { peer, reason, members, .. } => {
                wrong = self.check_down(proc, *peer, *reason, local);
                let oracle = &mut self.procs[proc].oracle;
                if !oracle.is_up(peer) {
                    wrong = Some((EVENTS, format!("{} down, but it was not up", peer.short())));
                }
                oracle.set_standing(*peer, Standing::Down, now);
                if *members != oracle.up + 1 {
                    wrong = Some((EVENTS, format!("{members} members, but {} are up", oracle.up)));
                }
                self.last_change = now;
            }
            Event::Left { peer, members, .. } => {
                if !oracle.is_up(peer) {
                    wrong = Some((EVENTS, format!("{} left, but it was not up", peer.short())));
                }
                oracle.set_standing(*peer, Standing::Left, now);
                if *members != oracle.up + 1 {
                    wrong = Some((EVENTS, format!("{members} members, but {} are up", oracle.up)));
                }
                self.last_change = now;
            }
            Event::Ping { peer, seq, .. } => {
                if !oracle.is_up(peer) {
                    wrong = Some((EVENTS, format!("ping of {}, which is not up", peer.short())));
                }
                if let Some((conn, side)) = oracle.input_from {
                    self.ping_delivered(proc, conn, side, *peer, *seq);
                }
            }
            _ => {}
        }
        if let Some((invariant, detail)) = wrong {
            self.violated(invariant, format!("p{proc}: {detail}"));
        }
    }

    fn check_down(
        &mut self,
        proc: ProcId,
        peer: PeerId,
        reason: DownReason,
        local: Micros,
    ) -> Option<(&'static str, String)> {
        let oracle = &self.procs[proc].oracle;
        if reason == DownReason::Closed
            && let Some((conn, side)) = oracle.input_from
            && !self.conns[conn].rough
            && let Some(other) = self.conns[conn].ends[1 - side].proc
            && self.procs[other].alive
            && !self.procs[other].oracle.leaving
            && self.procs[other].id == peer
        {
            return Some((EVENTS, format!("{} lost though nothing happened to c{conn}", peer.short())));
        }
        if reason != DownReason::Timeout {
            return None;
        }
        let &PeerShadow { heard, timeout, .. } = oracle.peers.get(&peer)?;
        let silence = local - heard;
        let least = timeout + oracle.least_patience(&peer);
        let heartbeat = micros(self.procs[proc].config.heartbeat);
        let most = timeout + heartbeat + oracle.patience(&peer) + SLACK;
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

    fn ping_delivered(&mut self, proc: ProcId, conn: ConnId, side: Side, peer: PeerId, seq: u64) {
        self.stats.pings += 1;
        let pings = &mut self.conns[conn].pings[1 - side];
        match pings.iter().position(|&(sent, _)| sent == seq) {
            Some(at) => {
                pings.remove(at);
            }
            None => self.violated(PINGS, format!("p{proc} shows #{seq}, which c{conn} did not bring")),
        }
        let Some(sender) = self.conns[conn].ends[1 - side].proc else {
            return;
        };
        if !self.procs[proc].oracle.peer(peer).delivered.entry(sender).or_default().insert(seq) {
            self.violated(PINGS, format!("p{proc} shows #{seq} of {} twice", peer.short()));
        }
    }

    /// A connection that ended in peace has delivered every ping.
    pub fn audit(&mut self, conn: ConnId) {
        let now = self.now;
        if self.conns[conn].rough {
            return;
        }
        for side in 0..2 {
            let ends = &self.conns[conn].ends;
            let (Some(from), Some(to)) = (ends[side].proc, ends[1 - side].proc) else {
                continue;
            };
            let Some(&(seq, sent)) = self.conns[conn].pings[side].front() else {
                continue;
            };
            let (sender, receiver) = (&self.procs[from], &self.procs[to]);
            let stayed = |a: &super::process::Process, b: PeerId| {
                a.alive
                    && !a.paused
                    && !a.oracle.leaving
                    && a.oracle.peers.get(&b).is_some_and(|p| p.standing == Standing::Up && p.since <= sent)
            };
            if stayed(sender, receiver.id) && stayed(receiver, sender.id) && now > sent + SECOND {
                self.violated(PINGS, format!("#{seq} from p{from} to p{to} on c{conn} was lost"));
            }
        }
    }

    /// What is written down of a peer agrees with what happened, whatever the clock on the wall says.
    pub fn check_memory(&mut self, proc: ProcId, known: &[KnownPeer]) {
        let oracle = &self.procs[proc].oracle;
        let error = known.iter().find_map(|known| {
            let peer = oracle.peers.get(&known.id)?;
            // Clocks differ by a hundredth.
            let gone = (self.now - peer.since) * 102 / 100 + SLACK;
            let detail = match peer.standing {
                _ if known.last_seen < known.first_seen => {
                    "was seen last before it was seen first".to_owned()
                }
                Standing::Up if known.missed.is_zero() => return None,
                Standing::Up => format!("is up, but has missed {:?}", known.missed),
                _ if micros(known.missed) <= gone => return None,
                _ => format!("has missed {:?}, but is gone for {gone} µs", known.missed),
            };
            Some(format!("p{proc}: {} {detail}", known.id.short()))
        });
        error.into_iter().for_each(|error| self.violated(MEMORY, error));
    }

    /// After a change of the lists no peer that they exclude is a member.
    pub fn check_admission(&mut self, proc: ProcId, mesh: &Mesh) {
        let process = &self.procs[proc];
        if process.oracle.leaving {
            return;
        }
        let is_kept_out = |peer: &&p2p_gossip::PeerInfo| {
            peer.state == PeerState::Up && process.oracle.access.check(&peer.id).is_err()
        };
        let peers = mesh.peers(process.clock.local(self.now));
        if let Some(peer) = peers.iter().find(is_kept_out) {
            self.violated(ADMISSION, format!("p{proc}: {} is still up", peer.id.short()));
        }
    }

    pub fn audit_later(&mut self, conn: ConnId) {
        if !self.conns[conn].rough {
            self.schedule(self.now + 2 * SECOND, super::world::Event::Audit(conn));
        }
    }

    /// After each turn of a coordinator.
    pub fn check_after_turn(&mut self, proc: ProcId, mesh: &Mesh) {
        let oracle = &mut self.procs[proc].oracle;
        let changed = std::mem::take(&mut oracle.changed);
        let lost = std::mem::take(&mut oracle.must_be_down);
        if changed.is_empty() || oracle.leaving {
            return;
        }
        let process = &self.procs[proc];
        let mut wrong = None;
        for id in lost {
            if process.oracle.is_up(&id) && mesh.open_sessions(&id).is_empty() {
                wrong = Some((EVENTS, format!("{} lost its last session, but no down followed", id.short())));
            }
        }
        if mesh.members() != process.oracle.up + 1 {
            let (members, up) = (mesh.members(), process.oracle.up);
            wrong = Some((EVENTS, format!("{members} members, but {up} are up")));
        }
        if mesh.digest() != process.oracle.digest {
            wrong = Some((EVENTS, "the roster is not that of the members".to_owned()));
        }
        for id in changed {
            if let Err(detail) = self.check_sessions(proc, id, mesh) {
                wrong = Some((IDENTITY, detail));
            }
        }
        if let Some((invariant, detail)) = wrong {
            self.violated(invariant, format!("p{proc}: {detail}"));
        }
    }

    /// The sessions with one peer are those that came up and were not closed, and not too many.
    fn check_sessions(&self, proc: ProcId, id: PeerId, mesh: &Mesh) -> Result<(), String> {
        let process = &self.procs[proc];
        let open = mesh.open_sessions(&id);
        let may_refuse = process.oracle.peers.get(&id).is_some_and(|peer| peer.refuses);
        if !process.oracle.is_up(&id) && !may_refuse && !open.is_empty() {
            return Err(format!("{} is not up, but open: {open:?}", id.short()));
        }
        let most = if process.id < id { 1 } else { SESSIONS_PER_PEER_MAX };
        if open.len() > most {
            return Err(format!("{} of at most {most} sessions with {}", open.len(), id.short()));
        }
        let known = |session: &SessionId| {
            process.oracle.sessions.get(session).is_some_and(|s| {
                let other = self.conns[s.conn].ends[1 - s.side].proc;
                s.open && s.peer == id && other.is_some_and(|other| self.procs[other].id == id)
            })
        };
        if !open.iter().all(known) || open.len() != process.oracle.open_sessions(&id).count() {
            let oracle: Vec<SessionId> = process.oracle.open_sessions(&id).collect();
            let shown: Vec<String> = open.iter().chain(&oracle).map(ToString::to_string).collect();
            return Err(format!("sessions with {}: {shown:?}", id.short()));
        }
        Ok(())
    }

    /// Also those that no input comes to any more: their peers should be dead by now.
    pub fn check_all_states(&mut self) {
        for proc in 0..self.procs.len() {
            self.with_mesh(proc, |world, mesh| world.check_state(proc, mesh));
        }
    }

    /// What no output would show: a peer that should be dead by now, tables too large, the proven displaced.
    pub fn check_state(&mut self, proc: ProcId, mesh: &Mesh) {
        if !self.procs[proc].alive || self.procs[proc].paused || self.procs[proc].oracle.leaving {
            return;
        }
        if let Err((invariant, detail)) = self.state_is_sound(proc, mesh) {
            self.violated(invariant, format!("p{proc}: {detail}"));
        }
    }

    fn state_is_sound(&mut self, proc: ProcId, mesh: &Mesh) -> Result<(), (&'static str, String)> {
        let local = self.local(proc);
        let now = self.now;
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
            if state == PeerState::Rumour && peer.standing != Standing::Stranger {
                forgotten.push(id);
                continue;
            }
            if !peer.proven.is_empty() && !best.is_some_and(|best| peer.proven.contains(best)) {
                return Err((
                    RUMOURS,
                    format!("{} is proven at {:?}, but {best:?} comes first", id.short(), peer.proven),
                ));
            }
            if peer.standing != Standing::Up {
                continue;
            }
            let silence = local.saturating_sub(peer.heard);
            let heartbeat = micros(process.config.heartbeat);
            let most = peer.timeout + heartbeat + process.oracle.patience(&id) + SLACK;
            // Without a session the grace decides, below.
            if silence > most && peer.sessionless_since.is_none() {
                return Err((LIVENESS, format!("{} still up after {silence} µs of silence", id.short())));
            }
            let held = process.oracle.patience(&id) * 101 / 100;
            if peer.sessionless_since.is_some_and(|since| since + grace() * 102 / 100 + held + SLACK < now)
                && process.oracle.open_sessions(&id).next().is_none()
            {
                return Err((LIVENESS, format!("{} still up without a session", id.short())));
            }
        }
        if known > process.config.peers_max {
            return Err((LIMITS, format!("{known} peers known")));
        }
        // Nothing here takes as long as `--forget-after`, and only a small table forgets to make room.
        let met = process.oracle.peers.values().filter(|peer| peer.is_known).count();
        if kept < met && process.config.peers_max >= PEERS_MAX {
            return Err((MEMORY, format!("{kept} of {met} known peers are left")));
        }
        let oracle = &mut self.procs[proc].oracle;
        for id in forgotten {
            let peer = oracle.peer(id);
            peer.standing = Standing::Stranger;
            peer.proven.clear();
        }
        Ok(())
    }
}
