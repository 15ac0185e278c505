//! The state machine: one node's knowledge of the mesh, and the rule for each input and timer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::accounts::Accounts;
use super::alert_state::Alerts;
use super::backoff;
use super::beacons::Beacons;
use super::bootstraps::Bootstraps;
use super::circuit_table::Relay;
use super::dial_queue::DialQueue;
use super::inquiries::Witnesses;
use super::io::{CircuitAt, Input, Output, Report, SessionId, UnixTime};
use super::key_state::NetworkKeys;
use super::list_exchange::Exchange;
use super::measures::Measures;
use super::peer::Connected;
use super::peer_table::PeerTable;
use super::punch_table::Punches;
use super::session_table::{Session, SessionTable};
use super::silent_losses::{Isolation, SilentLosses};
use super::timer::{Timer, Timers};
use crate::config::Config;
use crate::event::Event;
use crate::trust::peer_id::PeerId;
use crate::wire::Message;

/// More timers than can be due at once. Without this limit a timer that is set for a time in the past would hang a test.
const TIMERS_AT_ONCE_MAX: usize = 1_000_000;

/// One node's view of the mesh. The module's documentation says how a driver uses it.
#[derive(Debug)]
pub struct Mesh {
    pub(super) config: Config,
    pub(super) id: PeerId,
    pub(super) instance: u64,
    pub(super) rng: fastrand::Rng,
    /// Every other known node, in any state.
    pub(super) peers: PeerTable,
    pub(super) sessions: SessionTable,
    pub(super) bootstraps: Bootstraps,
    pub(super) beacons: Beacons,
    pub(super) dialing: DialQueue,
    pub(super) accounts: Accounts,
    pub(super) exchange: Exchange,
    pub(super) relay: Relay,
    pub(super) punches: Punches,
    pub(super) measures: Measures,
    pub(super) network_keys: NetworkKeys,
    pub(super) alerts: Alerts,
    pub(super) witnesses: Witnesses,
    pub(super) silent_losses: SilentLosses,
    /// `Some` while this node is isolated.
    pub(super) isolation: Option<Isolation>,
    pub(super) timers: Timers,
    pub(super) outputs: VecDeque<Output>,
    /// The address at which a router passes on connections to this node.
    pub(super) mapped: Option<SocketAddr>,
    pub(super) leaving: bool,
    /// The wall clock's time at the last call of [`Mesh::set_wall_clock`].
    pub(super) wall: UnixTime,
}

impl Mesh {
    /// A node that knows only the addresses in `config.connect`, and dials them at once.
    /// `instance` is a random number of this process, which goes into its Hello. `seed` decides every random choice.
    #[must_use]
    pub fn new(config: Config, id: PeerId, instance: u64, seed: u64, now: Instant) -> Self {
        let mut mesh = Self {
            bootstraps: Bootstraps::new(&config.connect, now),
            beacons: Beacons::default(),
            dialing: DialQueue::new(now),
            accounts: Accounts::default(),
            exchange: Exchange::new(now),
            relay: Relay::new(now),
            punches: Punches::default(),
            measures: Measures::new(now),
            network_keys: NetworkKeys::default(),
            alerts: Alerts::default(),
            witnesses: Witnesses::new(now),
            silent_losses: SilentLosses::default(),
            isolation: None,
            peers: PeerTable::new(&id, config.peers_max),
            config,
            id,
            instance,
            rng: fastrand::Rng::with_seed(seed),
            sessions: SessionTable::default(),
            timers: Timers::new(now),
            outputs: VecDeque::new(),
            mapped: None,
            leaving: false,
            wall: UnixTime::default(),
        };
        mesh.announce();
        mesh.dial_bootstraps(now);
        mesh
    }

    /// Handles one input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.detect_stall(now);
        match input {
            Input::SessionUp(up) => self.session_up(now, up),
            Input::Received { session, message, arrived, rtt } => {
                self.received(now, session, message, arrived, rtt);
            }
            Input::Heartbeat { session, vitals, arrived, rtt } => {
                self.received_heartbeat(now, session, vitals, arrived, rtt);
            }
            Input::SessionDown { session, reason } => self.session_down(now, session, reason),
            Input::Drained { session, heard } => self.session_drained(now, session, heard),
            Input::DialFailed { session, reason } => self.dial_failed(now, session, reason),
            Input::Beacon(beacon) => self.beacon_heard(now, beacon),
            Input::Access(access) => self.access_changed(now, access),
            Input::RotateNetworkKey { key, grace } => self.rotate_network_key(now, key, grace),
            Input::Mapped(mapped) => self.port_mapped(mapped),
            Input::Connect(connect) => self.connect_to(now, connect),
            Input::Ping(peer) => self.ping_now(now, peer),
            Input::Forget(peer) => self.forget(peer),
            Input::AlertDone { incident, phase } => self.alert_done(now, incident, phase),
            Input::Leave => self.leave(now),
        }
        self.check_invariants(now);
    }

    /// Handles every timer that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.detect_stall(now);
        self.note_lateness(now);
        let mut handled = 0;
        while let Some(timer) = self.timers.pop_due(now) {
            handled += 1;
            debug_assert!(
                handled <= TIMERS_AT_ONCE_MAX,
                "{timer:?} is set again and again for a time that is past"
            );
            match timer {
                Timer::Dial(target) => self.dial_due(now, target),
                Timer::Heartbeat(peer) => self.heartbeat_due(now, peer),
                Timer::Ping(peer) => self.send_ping(now, peer),
                Timer::Silence(peer) => self.check_silence(now, peer),
                Timer::Grace(peer) => self.grace_expired(now, peer),
                Timer::DigestCheck(peer) => self.check_digest(now, peer),
                Timer::Held(peer) => self.peer_held(now, peer),
                Timer::Witness(peer) => self.witness_due(now, peer),
                Timer::Forget(peer) => self.forget_due(now, peer),
                Timer::Settled => self.settled(now),
                Timer::KeyRound => self.key_round_due(now),
                Timer::Alerts => self.alerts_due(now),
                Timer::Path(peer) => self.path_due(now, peer),
                Timer::Punch(peer) => self.punch_due(now, peer),
                Timer::LeaveCarriers => self.leave_carriers(),
            }
        }
        self.start_queued_dials(now);
        self.check_invariants(now);
    }

    /// The next output, in order. The driver calls this until it returns `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The time at which the driver must call [`Mesh::handle_timeout`] next; `None` if no timer is set.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Sets the number of peers that may be connected, if the system allows fewer than `config.peers_max`. The driver
    /// calls this before the first input.
    pub fn set_connected_max(&mut self, connected_max: usize) {
        self.peers.set_connected_max(connected_max);
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The number of members for the user, this node included. Unstable peers are not among them.
    #[must_use]
    pub fn members(&self) -> usize {
        self.peers.members() + 1
    }

    /// Digest of this node and all members, also those that are unstable; see [`membership_digest`](super::membership_digest).
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.peers.digest()
    }

    /// The session on which this node sends to each connected peer, at most one per peer; for checks.
    pub fn active_sessions(&self) -> impl Iterator<Item = (PeerId, SessionId)> {
        self.peers.iter_connected().filter_map(|(id, connected)| Some((*id, connected.active()?)))
    }

    /// The sessions with one peer that are up and on which neither side has said goodbye, oldest first.
    #[must_use]
    pub fn open_sessions(&self, peer: &PeerId) -> &[SessionId] {
        self.peers.connected(peer).map_or(&[], Connected::sessions)
    }

    /// The number of [`Output::Dial`]s that have no answer yet.
    #[must_use]
    pub fn dials_in_flight(&self) -> usize {
        self.dialing.in_flight()
    }

    /// The number of times that this node went through all peers; for checks of what an input costs.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.peers.passes()
    }

    fn received(
        &mut self,
        now: Instant,
        session: SessionId,
        message: Message,
        arrived: Instant,
        rtt: Option<Duration>,
    ) {
        let Some(Session { peer, remote, closing, .. }) = self.sessions.get(session) else {
            return;
        };
        if !closing {
            self.measured(now, peer, rtt);
            self.heard(now, arrived, &peer);
        }
        // After a goodbye only pings and broadcasts are still shown, and only while the peer is a member: no event about a
        // peer follows its `down`. They are no sign of life: a session that this node has ended may be that of a process
        // which it refused.
        if let Message::Ping { seq, text } = message {
            self.received_ping(peer, seq, text);
        } else if let Message::Broadcast { text } = message {
            self.received_broadcast(peer, text);
        } else if let Message::CircuitClose { circuit, reason } = message {
            // Also after a goodbye: a search waits for the answer of a carrier.
            self.circuit_closed(now, CircuitAt { session, circuit }, reason);
        } else if !closing {
            match message {
                Message::PeersRequest => self.answer_list(now, peer, session),
                Message::Peers { records, more } => self.received_list(now, peer, remote, records, more),
                Message::Notice(notice) => self.received_notice(peer, remote, notice),
                Message::NetworkKey { generation, key, grace_s } => {
                    let grace = Duration::from_secs(grace_s);
                    self.received_network_key(now, peer, generation, &key, grace);
                }
                Message::NetworkKeyHeld { generation } => self.received_network_key_held(peer, generation),
                Message::Incident(news) => self.received_incident(now, peer, news),
                Message::WitnessRequest { lost } => self.received_question(now, peer, &lost),
                Message::WitnessReport { sightings } => self.received_testimony(now, peer, &sightings),
                Message::CircuitOpen { circuit, target } => {
                    self.circuit_asked(now, peer, CircuitAt { session, circuit }, target);
                }
                Message::CircuitOffer { circuit, from } => {
                    self.circuit_offered(now, peer, CircuitAt { session, circuit }, from);
                }
                Message::CircuitAccept { circuit } => {
                    self.circuit_accepted(now, CircuitAt { session, circuit });
                }
                Message::SeenAt { addr } => self.received_seen_address(session, addr),
                Message::Punch { addr } => self.received_punch(now, peer, session, addr),
                Message::ReachableAt { addr } => self.received_reachable_at(now, peer, remote, addr),
                // The session handles the bytes of circuits.
                Message::CircuitData { .. }
                | Message::CircuitCredit { .. }
                | Message::Hello(_)
                | Message::Bye(_)
                | Message::Heartbeat { .. }
                | Message::HeartbeatAck { .. }
                | Message::Extension { .. }
                | Message::CircuitClose { .. }
                | Message::Ping { .. }
                | Message::Broadcast { .. } => {}
            }
        }
        self.start_queued_dials(now);
    }

    pub(super) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn report(&mut self, report: Report) {
        self.outputs.push_back(Output::Report(report));
    }

    pub(super) fn notify(&mut self, event: Event) {
        self.outputs.push_back(Output::Notify(event));
    }

    /// Sends on the peer's active session, if it has one. A leaving node says only goodbye.
    pub(super) fn send(&mut self, peer: &PeerId, message: Message) {
        let active = self.peers.connected(peer).and_then(Connected::active).filter(|_| !self.leaving);
        if let Some(session) = active {
            self.output(Output::Send { session, message });
        }
    }

    pub(super) fn random_between(&mut self, low: Duration, high: Duration) -> Duration {
        backoff::between(&mut self.rng, low, high)
    }

    pub(super) fn is_connected(&self, peer: &PeerId) -> bool {
        self.peers.connected(peer).is_some()
    }
}

pub(super) const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
