//! The coordinator's thread: waits for session events, commands and deadlines, and passes them to the [`Driver`].
//!
//! Invariant: the thread blocks only in [`Coordinator::next_event`]. Sockets, files, name lookups and terminals belong
//! to other threads.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use super::command::Command;
use super::driver::{Driver, Effects};
use super::event_log::{MEMBERS, log_access_warning, log_event, log_report, log_unsendable};
use crate::event::Event;
use crate::mesh::{CircuitAt, DialError, DialSource, Input, Mesh, Report, SessionId, Skip, UnixTime, Vitals};
use crate::net::addr::DialAddr;
use crate::net::beacon::Beacon;
use crate::net::waker::Waker;
use crate::runtime::history::History;
use crate::runtime::member_log::MemberLog;
use crate::runtime::status::{Queues, Status};
use crate::runtime::subscribers::Subscribers;
use crate::session::delivery::{Delivery, receipts};
use crate::session::{
    self, CircuitEnd, CircuitSocket, Context, DialTarget, FromSession, OutboxFull, PunchTarget, Request,
    SessionHandle, Wake,
};
use crate::store::writer::{Store, wall_clock};
use crate::trust::key_ring::KeyRing;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::Expected;
use crate::wire::{self, ByeReason, CircuitReason, Frame, Message};

/// Longest wait if no timer is set.
const IDLE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) driver: Driver,
    pub(crate) control: Receiver<Command>,
    /// Beacons of other nodes; never ready without discovery.
    pub(crate) beacons: Receiver<Beacon>,
    /// One reply channel for each thread that waits for membership to settle.
    pub(crate) settle_waiters: Vec<Sender<()>>,
    pub(crate) node: Threads,
}

/// The effects of a node in its threads: sessions, the writer of the known peers, subscribers and the log.
#[derive(Debug)]
pub(crate) struct Threads {
    /// Passes the known peers to the writer; `None` without a state directory, and once the node leaves.
    pub(crate) store: Option<Store>,
    pub(crate) context: Arc<Context>,
    pub(crate) inbox: Receiver<FromSession>,
    pub(crate) subscribers: Subscribers,
    pub(crate) sessions: BTreeMap<SessionId, SessionHandle>,
    pub(crate) member_log: MemberLog,
    pub(crate) history: History,
}

/// An input of the coordinator's loop.
enum CoordinatorEvent {
    Session(FromSession),
    Command(Command),
    /// A beacon of another node.
    Beacon(Beacon),
    /// A timer is due.
    Timeout,
}

impl Coordinator {
    /// Runs until the node has left the mesh.
    pub(crate) fn run(mut self, listening: Event) {
        self.node.subscribers.publish(&listening, false);
        self.handle_event(CoordinatorEvent::Timeout);
        while !self.driver.is_done(&self.node) {
            let event = self.next_event();
            self.handle_event(event);
        }
        self.node.subscribers.publish(&Event::Stopped, false);
    }

    /// Waits for the next event or the next deadline.
    fn next_event(&self) -> CoordinatorEvent {
        let store = self.node.store.as_ref().map(Store::due);
        let due = self.driver.poll_timeout().into_iter().chain(store).min();
        let wait = due.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        select! {
            recv(self.node.inbox) -> event => {
                event.map_or(CoordinatorEvent::Command(Command::Leave), CoordinatorEvent::Session)
            }
            recv(self.control) -> command => CoordinatorEvent::Command(command.unwrap_or(Command::Leave)),
            recv(self.beacons) -> beacon => beacon.map_or(CoordinatorEvent::Timeout, CoordinatorEvent::Beacon),
            default(wait) => CoordinatorEvent::Timeout,
        }
    }

    fn handle_event(&mut self, event: CoordinatorEvent) {
        let mut first = None;
        match event {
            CoordinatorEvent::Session(event) => first = Some(event),
            CoordinatorEvent::Command(command) => self.handle_command(command),
            CoordinatorEvent::Beacon(beacon) => self.driver.beacon(&mut self.node, beacon),
            CoordinatorEvent::Timeout => {}
        }
        let Self { driver, control, settle_waiters, node, .. } = self;
        driver.turn(node, |driver, node| {
            // Queued commands come before a session event: a subscriber gets every event that arrives after its
            // subscription. Only the commands that are queued now: others may arrive without end.
            let event = first.take().or_else(|| node.inbox.try_recv().ok())?;
            for command in control.try_iter().take(control.len()) {
                handle_command(driver, node, settle_waiters, command);
            }
            if let Some(handle) = event.handle {
                node.sessions.insert(event.session, handle);
            }
            Some((event.session, event.event))
        });
        self.persist_if_due();
        self.answer_settle_waiters();
    }

    fn handle_command(&mut self, command: Command) {
        handle_command(&mut self.driver, &mut self.node, &mut self.settle_waiters, command);
    }

    fn persist_if_due(&mut self) {
        let now = Instant::now();
        if let Some(store) = self.node.store.as_mut().filter(|store| store.due() <= now) {
            store.persist(now, self.driver.mesh().known_peers());
        }
    }

    fn answer_settle_waiters(&mut self) {
        if !self.settle_waiters.is_empty() && self.driver.mesh().is_settled(Instant::now()) {
            for waiter in self.settle_waiters.drain(..) {
                let _ = waiter.try_send(());
            }
        }
    }
}

/// Handles a command. A reply fails if its caller no longer waits.
fn handle_command(
    driver: &mut Driver,
    node: &mut Threads,
    settle_waiters: &mut Vec<Sender<()>>,
    command: Command,
) {
    match command {
        Command::Peers(reply) => {
            driver.refresh(node);
            let _ = reply.try_send(driver.mesh().peers(Instant::now()));
        }
        Command::Status(reply) => {
            driver.refresh(node);
            let _ = reply.try_send(node.status(driver.mesh()));
        }
        Command::Broadcast(frame, reply) => {
            let _ = reply.try_send(node.broadcast(driver, &frame));
        }
        Command::Subscribe(subscriber) => node.subscribers.add(subscriber),
        Command::Access(access) => {
            log_access_warning(&access, &driver.mesh().id());
            // TLS first: no refused peer may complete a handshake between the two steps.
            node.context.tls.set_access(access.clone());
            driver.set_access(node, access);
        }
        Command::RotateNetworkKey(key, grace, reply) => {
            let _ = reply.try_send(driver.rotate_network_key(node, key, grace));
        }
        Command::Mapped(mapped) => driver.port_mapped(node, mapped),
        Command::Connect(connect, reply) => {
            let checked = driver.mesh().check_connect(&connect);
            if checked.is_ok() {
                node.history.connect(Instant::now(), &connect.addr);
                driver.connect(node, connect);
            }
            let _ = reply.try_send(checked);
        }
        Command::Ping(peer, reply) => {
            let seq = driver.mesh().next_ping(&peer);
            if seq.is_ok() {
                driver.ping(node, peer);
            }
            let _ = reply.try_send(seq);
        }
        Command::Forget(peer, reply) => {
            let checked = driver.mesh().check_forget(&peer);
            if checked.is_ok() {
                driver.forget(node, peer);
                node.history.forget(&peer);
            }
            let _ = reply.try_send(checked);
        }
        Command::PeerHistory(peer, reply) => {
            driver.refresh(node);
            let _ = reply.try_send(node.history.of_peer(Instant::now(), driver.mesh(), peer));
        }
        Command::AddressHistory(addr, reply) => {
            let _ = reply.try_send(node.history.of_address(Instant::now(), &addr));
        }
        Command::AlertDone(incident, phase) => driver.alert_done(node, incident, phase),
        Command::WhenSettled(reply) => settle_waiters.push(reply),
        Command::Leave => driver.leave(node),
    }
}

impl Threads {
    /// Queues one encoded frame for all peers. A slow peer misses it and delays no other peer.
    fn broadcast(&self, driver: &Driver, frame: &Frame) -> Delivery {
        let (receipt, receipts) = receipts();
        let (mut reached, mut missed) = (0, 0);
        if !driver.is_leaving() {
            let active = driver.mesh().active_sessions();
            for handle in active.filter_map(|(_, session)| self.sessions.get(&session)) {
                match handle.offer(Arc::clone(frame), receipt.clone()) {
                    Ok(()) => reached += 1,
                    Err(OutboxFull) => {
                        self.context.counters.messages_missed.one();
                        missed += 1;
                    }
                }
            }
        }
        Delivery::new(reached, missed, receipts)
    }

    fn status(&self, mesh: &Mesh) -> Status {
        let outboxes = self.sessions.values().map(SessionHandle::backlog);
        Status {
            mesh: mesh.status(Instant::now()),
            totals: self.context.counters.totals(),
            queues: Queues {
                inbox: self.inbox.len(),
                events: self.subscribers.backlog(),
                outboxes: outboxes.clone().sum(),
                outbox_longest: outboxes.max().unwrap_or(0),
            },
        }
    }
}

impl Effects for Threads {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_clock(&self) -> UnixTime {
        wall_clock()
    }

    fn dial(
        &mut self,
        session: SessionId,
        addr: DialAddr,
        expected: Expected,
        source: DialSource,
        skip: Skip,
    ) -> Result<(), DialError> {
        self.context.counters.dials.one();
        let started = session::dial(&self.context, session, DialTarget { addr, expected, source, skip });
        let handle =
            started.map_err(|error| DialError::Failed(format!("no thread or descriptor left: {error}")))?;
        self.sessions.insert(session, handle);
        Ok(())
    }

    fn send(&mut self, session: SessionId, message: Message) -> Result<(), OutboxFull> {
        if let Message::Ping { seq, .. } = &message {
            log::trace!(session:% = session, ping = *seq; "sending a ping");
        }
        let Some(handle) = self.sessions.get(&session) else {
            return Ok(());
        };
        let sent = match wire::encode(&message) {
            Ok(frame) => handle.send(frame),
            Err(error) => {
                log_unsendable(session, &error);
                return Ok(());
            }
        };
        if sent.is_err() {
            self.context.counters.peers_too_slow.one();
        }
        sent
    }

    fn carry(&mut self, circuits: [CircuitAt; 2], acquainted_at: [Instant; 2]) -> Result<(), SessionId> {
        let [Some(a), Some(b)] = circuits.map(|at| self.sessions.get(&at.session)) else {
            return Ok(());
        };
        let wakers = [a, b].map(|handle| Arc::clone(handle.waker()) as Arc<dyn Wake>);
        let ends = session::pipe(wakers).into_iter().zip(acquainted_at);
        for ((at, handle), (end, acquainted_at)) in circuits.into_iter().zip([a, b]).zip(ends) {
            let attach = Request::Attach(at.circuit, end, acquainted_at);
            handle.request(attach).map_err(|OutboxFull| at.session)?;
        }
        Ok(())
    }

    fn enter_circuit(
        &mut self,
        session: SessionId,
        at: CircuitAt,
        peer: PeerId,
        remote: SocketAddr,
        acquainted_at: Instant,
    ) -> Result<(), DialError> {
        let failed = |text: String| DialError::Failed(text);
        let none_left = |error| failed(format!("no thread or descriptor left: {error}"));
        let outer = self.sessions.get(&at.session).ok_or_else(|| failed("the carrier is gone".to_owned()))?;
        let waker = Arc::new(Waker::new().map_err(none_left)?);
        let [end, inner] = session::pipe([Arc::clone(outer.waker()) as Arc<dyn Wake>, waker.clone()]);
        outer
            .request(Request::Attach(at.circuit, end, acquainted_at))
            .map_err(|OutboxFull| failed("the carrier does not read".to_owned()))?;
        let circuit = CircuitEnd { socket: CircuitSocket::new(inner), peer, remote };
        let handle = session::enter_circuit(&self.context, session, circuit, waker).map_err(none_left)?;
        self.sessions.insert(session, handle);
        Ok(())
    }

    fn punch(
        &mut self,
        session: SessionId,
        peer: PeerId,
        addr: SocketAddr,
        beside: SessionId,
    ) -> Result<(), DialError> {
        let failed = |text: String| DialError::Failed(text);
        let local = self.sessions.get(&beside).and_then(SessionHandle::local_addr);
        let local = local.ok_or_else(|| failed("the carrier is gone".to_owned()))?;
        self.context.counters.dials.one();
        let started = session::punch(&self.context, session, PunchTarget { peer, addr, local });
        let handle = started.map_err(|error| failed(format!("no thread or descriptor left: {error}")))?;
        self.sessions.insert(session, handle);
        Ok(())
    }

    fn close_circuit(&mut self, at: CircuitAt, reason: CircuitReason) -> Result<(), OutboxFull> {
        let handle = self.sessions.get(&at.session);
        handle.map_or(Ok(()), |handle| handle.request(Request::CloseCircuit(at.circuit, reason)))
    }

    fn heartbeat(&mut self, session: SessionId) {
        if let Some(handle) = self.sessions.get(&session) {
            handle.heartbeat();
        }
    }

    fn heard(&self, session: SessionId) -> Option<Instant> {
        self.sessions.get(&session)?.heard()
    }

    fn drain_unread(&mut self, session: SessionId) {
        if let Some(handle) = self.sessions.get(&session) {
            handle.drain_unread();
        }
    }

    fn close(&mut self, session: SessionId, reason: ByeReason) -> Result<(), OutboxFull> {
        self.sessions.get(&session).map_or(Ok(()), |handle| handle.bye(reason))
    }

    fn release(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    fn has_no_sessions(&self) -> bool {
        self.sessions.is_empty()
    }

    fn take_session_delay(&mut self) -> Duration {
        self.context.session_delay.take()
    }

    fn set_vitals(&mut self, vitals: Vitals) {
        self.context.vitals.set(vitals);
    }

    fn set_key_ring(&mut self, ring: &KeyRing, _mesh: &Mesh) {
        self.context.hello_exchange.set_keys(ring.keys().cloned().collect());
        if let Some(store) = &mut self.store {
            store.keys_changed(Instant::now(), ring.clone());
        }
    }

    fn persist_soon(&mut self, now: Instant, _mesh: &Mesh) {
        if let Some(store) = &mut self.store {
            store.changed(now);
        }
    }

    fn persist_last(&mut self, now: Instant, mesh: &Mesh) {
        if let Some(mut store) = self.store.take() {
            store.persist(now, mesh.known_peers());
        }
    }

    fn notify(&mut self, event: Event, is_acquainted: bool) {
        if let Some(suppressed) = self.member_log.check(Instant::now(), &event, is_acquainted) {
            if suppressed > 0 {
                log::warn!(target: MEMBERS, suppressed; "membership lines suppressed: too many changes");
            }
            log_event(&event);
        }
        self.history.note_event(Instant::now(), &event);
        self.subscribers.publish(&event, is_acquainted);
    }

    fn report(&mut self, report: Report) {
        self.history.note_report(Instant::now(), &report);
        log_report(&report);
    }

    fn before_input(&mut self, input: &Input, mesh: &Mesh) {
        self.history.note_input(Instant::now(), input, mesh);
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::config::Config;
    use crate::event::DownReason;
    use crate::events::Events;
    use crate::limits::{OUTBOX_FRAMES, PEERS_MAX};
    use crate::mesh::{DisconnectReason, SessionUp};
    use crate::runtime::subscribers::subscription;
    use crate::session::SessionEvent;
    use crate::trust::identity::Identity;
    use crate::wire::Hello;

    fn coordinator(now: Instant) -> (Coordinator, Events) {
        let identity = Identity::generate().unwrap();
        let (context, inbox) = session::context(&identity);
        let (subscriber, seen) = subscription();
        let mut subscribers = Subscribers::default();
        subscribers.add(subscriber);
        let coordinator = Coordinator {
            driver: Driver::new(Mesh::new(Config::default(), identity.id(), 1, 1, now)),
            control: bounded(1).1,
            beacons: crossbeam_channel::never(),
            settle_waiters: Vec::new(),
            node: Threads {
                store: None,
                context,
                inbox,
                subscribers,
                sessions: BTreeMap::new(),
                member_log: MemberLog::new(PEERS_MAX),
                history: History::default(),
            },
        };
        (coordinator, seen)
    }

    fn up(coordinator: &mut Coordinator, session: SessionId, handle: SessionHandle) {
        let hello = Hello::plain();
        let (peer, remote) = (PeerId::from_bytes([0; 32]), ([127, 0, 0, 1], 4000).into());
        let up = SessionUp {
            session,
            peer,
            hello,
            remote,
            local: None,
            network_key: None,
            told_interval_ms: 1000,
        };
        let event = SessionEvent::Up(Box::new(up));
        let event = FromSession { session, event, handle: Some(handle) };
        coordinator.handle_event(CoordinatorEvent::Session(event));
    }

    fn received(session: SessionId, message: Message, arrived: Instant) -> CoordinatorEvent {
        let event = SessionEvent::Received { message, arrived, rtt: None };
        CoordinatorEvent::Session(FromSession { session, event, handle: None })
    }

    #[test]
    fn subscriber_gets_events_that_arrive_after_its_command() {
        let now = crate::test_now();
        let (mut coordinator, _) = coordinator(now);
        let session = SessionId::accepted(1);
        let (handle, _outbox) = session::stuck().unwrap();
        up(&mut coordinator, session, handle);
        let (control, commands) = bounded(3);
        coordinator.control = commands;
        let subscribed = [(); 3].map(|()| {
            let (subscriber, events) = subscription();
            control.send(Command::Subscribe(subscriber)).unwrap();
            events
        });
        let message = Message::Broadcast { text: "hello".to_owned() };
        coordinator.handle_event(received(session, message, now));
        for events in subscribed {
            assert!(events.try_iter().any(|event| matches!(event, Event::Message { .. })));
        }
    }

    /// The newer session acknowledged heartbeats, which is no news for the coordinator, and ends.
    #[test]
    fn peer_was_heard_when_its_ended_session_last_heard_it() {
        let now = crate::test_now();
        let (mut coordinator, _) = coordinator(now);
        let sessions = [1, 2].map(SessionId::accepted);
        let mut outboxes = Vec::new();
        for session in sessions {
            let (handle, outbox) = session::stuck().unwrap();
            up(&mut coordinator, session, handle);
            outboxes.push(outbox);
        }
        let heard = Instant::now() + Duration::from_secs(2);
        coordinator.node.sessions[&sessions[1]].hear(heard);
        let event = SessionEvent::Down(DisconnectReason::Closed);
        let event = FromSession { session: sessions[1], event, handle: None };
        coordinator.handle_event(CoordinatorEvent::Session(event));
        let peers = coordinator.driver.mesh().peers(heard);
        assert_eq!(coordinator.driver.mesh().members(), 2);
        assert!(peers[0].silence.is_some_and(|silence| silence < Duration::from_millis(1)), "{peers:?}");
    }

    #[test]
    fn peer_that_reads_nothing_is_dropped_when_its_outbox_is_full() {
        let now = crate::test_now();
        let (mut coordinator, seen) = coordinator(now);
        let session = SessionId::accepted(1);
        let (handle, _outbox) = session::stuck().unwrap();
        up(&mut coordinator, session, handle);
        let is_connected = |coordinator: &Coordinator| coordinator.node.sessions.contains_key(&session);
        // Heartbeats take no room.
        let before = coordinator.node.sessions[&session].backlog();
        (0..OUTBOX_FRAMES).for_each(|_| coordinator.node.heartbeat(session));
        assert_eq!(coordinator.node.sessions[&session].backlog(), before);
        let frame = wire::encode(&Message::PeersRequest).unwrap();
        let mut frames = 0;
        while coordinator.node.sessions[&session].send(Arc::clone(&frame)).is_ok() {
            frames += 1;
            assert!(frames <= OUTBOX_FRAMES, "its outbox holds more than {OUTBOX_FRAMES} frames");
        }
        // The mesh answers this, and there is no room.
        coordinator.handle_event(received(session, Message::PeersRequest, now));
        assert!(!is_connected(&coordinator));
        let downs: Vec<DownReason> = seen
            .try_iter()
            .filter_map(|event| if let Event::Down { reason, .. } = event { Some(reason) } else { None })
            .collect();
        assert_eq!(downs, [DownReason::Slow]);
    }

    #[test]
    fn broadcasts_skip_a_peer_that_reads_nothing_and_leave_room_for_heartbeats() {
        let now = crate::test_now();
        let (mut coordinator, seen) = coordinator(now);
        let session = SessionId::accepted(1);
        let (handle, outbox) = session::stuck().unwrap();
        up(&mut coordinator, session, handle);
        let before = coordinator.node.sessions[&session].backlog();
        let frame = wire::encode(&Message::Broadcast { text: "hello".to_owned() }).unwrap();
        let deliveries: Vec<Delivery> =
            (0..OUTBOX_FRAMES).map(|_| coordinator.node.broadcast(&coordinator.driver, &frame)).collect();
        let reached: usize = deliveries.iter().map(Delivery::reached).sum();
        let missed: usize = deliveries.iter().map(Delivery::missed).sum();
        assert_eq!(
            (reached + missed, coordinator.node.status(coordinator.driver.mesh()).queues.outbox_longest),
            (OUTBOX_FRAMES, before + reached)
        );
        assert!(reached > 0 && reached <= OUTBOX_FRAMES / 2, "{reached}");
        assert!(coordinator.node.sessions[&session].send(frame).is_ok());
        assert!(seen.try_iter().all(|event| !matches!(event, Event::Down { .. })));
        // Nothing was written.
        assert!(deliveries.iter().all(|delivery| delivery.wait(Duration::ZERO) == 0));
        // A wait does not include sessions that have ended.
        drop(outbox);
        coordinator.node.sessions.clear();
        assert_eq!(deliveries[0].wait(Duration::from_secs(60)), 0);
    }
}
