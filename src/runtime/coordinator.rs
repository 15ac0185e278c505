//! The coordinator's thread: owns a [`Mesh`], passes inputs to it and executes its outputs.
//!
//! Invariant: the thread blocks only in [`Coordinator::next_event`]. It writes frames to sockets that do not
//! block. Files, name lookups and terminals belong to other threads.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use super::event_log::{MEMBERS, log_access_warning, log_event, log_report, log_unsendable};
use crate::event::Event;
use crate::limits::LEAVE_FLUSH;
use crate::mesh::snapshot::PeerInfo;
use crate::mesh::{DialError, DisconnectReason, Input, Mesh, Output, SessionId};
use crate::runtime::member_log::MemberLog;
use crate::runtime::status::{Queues, Status};
use crate::runtime::subscribers::{Observer, Subscribers};
use crate::session::delivery::{BroadcastBuilder, Delivery};
use crate::session::{self, Context, Established, Heartbeat, Received, SessionEvent, SessionHandle};
use crate::store::writer::{Store, wall_clock};
use crate::trust::access::Access;
use crate::util::log_limit::{LogLimit, limited_log};
use crate::util::queue;
use crate::wire::{self, ByeReason, Frame, Message};

/// Session events handled before the timers are checked.
const BATCH_MAX: usize = 256;
/// Longest wait if no timer is set.
const IDLE: Duration = Duration::from_secs(3600);

/// A request of the embedding program.
#[derive(Debug)]
pub(crate) enum Command {
    /// Say goodbye and stop.
    Leave,
    /// Replace the access lists.
    Access(Access),
    /// Reply with all known peers.
    Peers(Sender<Vec<PeerInfo>>),
    /// Reply with a snapshot of the node.
    Status(Sender<Status>),
    /// Add a subscriber.
    Subscribe(queue::Sender<Event>),
    /// Replace the primary queue by an observer, which first gets the events that wait in the queue.
    Observe(Box<dyn Observer>, Receiver<Event>),
    /// Send this frame to every peer that is connected now, and reply with its delivery.
    Broadcast(Frame, Sender<Delivery>),
    /// Reply once membership has settled.
    WhenSettled(Sender<()>),
}

#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) mesh: Mesh,
    /// Passes the known peers to the writer; `None` without a state directory, and once the node leaves.
    pub(crate) memory: Option<Store>,
    pub(crate) context: Arc<Context>,
    pub(crate) inbox: Receiver<(SessionId, SessionEvent)>,
    /// Messages that did not wake this thread. They are handled before other events.
    pub(crate) routine: Receiver<Received>,
    pub(crate) control: Receiver<Command>,
    pub(crate) subscribers: Subscribers,
    pub(crate) sessions: BTreeMap<SessionId, SessionHandle>,
    pub(crate) member_log: MemberLog,
    /// Deadline for the last goodbyes; `Some` once the node leaves.
    pub(crate) leave_by: Option<Instant>,
    /// One reply channel for each thread that waits for membership to settle.
    pub(crate) settle_waiters: Vec<Sender<()>>,
}

/// When a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Now,
    /// When its session does something anyway.
    Next,
}

/// An input of the coordinator's loop.
enum CoordinatorEvent {
    Session(SessionId, SessionEvent),
    Command(Command),
    /// A timer is due.
    Timeout,
}

impl Coordinator {
    /// Runs until the node has left the mesh.
    pub(crate) fn run(mut self, listening: Event) {
        self.notify(listening);
        self.execute_outputs(Instant::now());
        while !self.is_done() {
            let event = self.next_event();
            self.handle_event(event);
            self.handle_session_events_in_inbox();
            self.handle_due_timers();
        }
        self.notify(Event::Stopped);
    }

    fn is_done(&self) -> bool {
        self.leave_by.is_some_and(|at| self.sessions.is_empty() || Instant::now() >= at)
    }

    /// Waits for the next event or the next deadline.
    fn next_event(&self) -> CoordinatorEvent {
        let memory = self.memory.as_ref().map(Store::due);
        let due = self.leave_by.or_else(|| self.mesh.poll_timeout().into_iter().chain(memory).min());
        let wait = due.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        select! {
            recv(self.inbox) -> event => match event {
                Ok((id, event)) => CoordinatorEvent::Session(id, event),
                Err(_) => CoordinatorEvent::Command(Command::Leave),
            },
            recv(self.control) -> command => CoordinatorEvent::Command(command.unwrap_or(Command::Leave)),
            default(wait) => CoordinatorEvent::Timeout,
        }
    }

    /// Queued commands come before a session event: a subscriber gets every event that arrives after its
    /// subscription.
    fn handle_event(&mut self, event: CoordinatorEvent) {
        if matches!(event, CoordinatorEvent::Session(..)) {
            self.handle_queued_commands();
        }
        self.handle_one_event(event);
    }

    fn handle_queued_commands(&mut self) {
        // Only the commands that are queued now: others may arrive without end.
        for _ in 0..self.control.len() {
            let Ok(command) = self.control.try_recv() else {
                break;
            };
            self.handle_one_event(CoordinatorEvent::Command(command));
        }
    }

    /// Session events come before timers: a frame that arrived while this thread was busy counts as received
    /// before the peer's deadline.
    fn handle_session_events_in_inbox(&mut self) {
        for _ in 0..BATCH_MAX {
            let Ok((id, event)) = self.inbox.try_recv() else {
                break;
            };
            self.handle_event(CoordinatorEvent::Session(id, event));
        }
    }

    fn handle_due_timers(&mut self) {
        let now = self.now();
        self.handle_routine(now);
        if self.mesh.poll_timeout().is_some_and(|at| at <= now) {
            self.mesh.handle_timeout(now);
            self.execute_outputs(now);
        }
        if self.memory.as_ref().is_some_and(|memory| memory.due() <= now) {
            self.persist(now);
        }
        if !self.settle_waiters.is_empty() && self.mesh.is_settled(now) {
            for waiter in self.settle_waiters.drain(..) {
                let _ = waiter.try_send(());
            }
        }
    }

    fn handle_one_event(&mut self, event: CoordinatorEvent) {
        let now = self.now();
        self.handle_routine(now);
        match event {
            CoordinatorEvent::Timeout => {}
            CoordinatorEvent::Command(command) => self.handle_command(now, command),
            CoordinatorEvent::Session(id, event) => self.handle_session_event(now, id, event),
        }
        self.execute_outputs(now);
    }

    fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            // A reply fails if its caller no longer waits.
            Command::Peers(reply) => {
                let _ = reply.try_send(self.mesh.peers(now));
            }
            Command::Status(reply) => {
                let _ = reply.try_send(self.status(now));
            }
            Command::Broadcast(frame, reply) => {
                let _ = reply.try_send(self.broadcast(&frame));
            }
            Command::Subscribe(queue) => self.subscribers.add(queue),
            Command::Observe(observer, waiting) => self.subscribers.observe(observer, &waiting),
            Command::Access(access) => {
                log_access_warning(&access, &self.mesh.id());
                // TLS first: no refused peer may complete a handshake between the two steps.
                self.context.tls.set_access(access.clone());
                self.mesh.handle(now, Input::Access(access));
            }
            Command::WhenSettled(reply) => self.settle_waiters.push(reply),
            Command::Leave => self.leave(now),
        }
    }

    fn leave(&mut self, now: Instant) {
        if self.leave_by.is_none() {
            self.leave_by = Some(now + LEAVE_FLUSH);
            // The known peers are stored before further goodbyes arrive. If all nodes stop at once, each
            // looks for the others again at its next start.
            self.persist(now);
            self.memory = None;
            self.mesh.handle(now, Input::Leave);
        }
    }

    fn handle_routine(&mut self, now: Instant) {
        // Only the messages that are queued now: others may arrive without end.
        for _ in 0..self.routine.len() {
            let Ok(Received { session, message, arrived }) = self.routine.try_recv() else {
                return;
            };
            self.mesh.handle(now, Input::Received { session, message, arrived });
            self.execute_outputs(now);
        }
    }

    /// Returns the time now, and sets the wall clock of the mesh.
    fn now(&mut self) -> Instant {
        self.mesh.set_wall_clock(wall_clock());
        Instant::now()
    }

    fn persist(&mut self, now: Instant) {
        if let Some(memory) = &mut self.memory {
            memory.persist(now, self.mesh.known_peers());
        }
    }

    fn handle_session_event(&mut self, now: Instant, session: SessionId, event: SessionEvent) {
        let input = match event {
            SessionEvent::Up(established) => {
                let Established { up, handle, outlet } = *established;
                if let Some(handle) = handle {
                    self.sessions.insert(session, handle);
                }
                if let Some(handle) = self.sessions.get_mut(&session) {
                    handle.connect(outlet);
                }
                Input::SessionUp(up)
            }
            SessionEvent::Received(message, arrived) => Input::Received { session, message, arrived },
            SessionEvent::Drained => Input::Drained { session },
            SessionEvent::Down(reason) => Input::SessionDown { session, reason },
            SessionEvent::DialFailed(reason) => Input::DialFailed { session, reason },
        };
        let is_end = matches!(input, Input::SessionDown { .. } | Input::DialFailed { .. });
        self.mesh.handle(now, input);
        if is_end {
            // Not earlier: the session sends until the mesh gives it no more messages.
            self.sessions.remove(&session);
        }
    }

    /// Executes the outputs of the mesh. `decided` is the time at which the mesh decided on them.
    fn execute_outputs(&mut self, decided: Instant) {
        while let Some(output) = self.mesh.poll_output() {
            match output {
                Output::Dial { session, addr, expected, source } => {
                    self.context.counters.dials.one();
                    let started = session::dial(&self.context, session, addr, expected, source);
                    self.record_dial(session, started);
                }
                Output::Send { session, message } => self.send(session, &message, decided, When::Now),
                Output::Post { session, message } => self.send(session, &message, decided, When::Next),
                Output::DrainUnread { session } => self.drain_unread(session),
                Output::Close { session, reason } => self.close(session, reason),
                Output::Persist => {
                    if let Some(memory) = &mut self.memory {
                        memory.changed(Instant::now());
                    }
                }
                Output::Notify(event) => self.log_and_notify(event),
                Output::Report(report) => log_report(&report),
            }
        }
    }

    fn record_dial(&mut self, session: SessionId, started: io::Result<SessionHandle>) {
        match started {
            Ok(handle) => {
                self.sessions.insert(session, handle);
            }
            Err(error) => {
                let reason = DialError::Failed(format!("no thread or descriptor left: {error}"));
                self.mesh.handle(Instant::now(), Input::DialFailed { session, reason });
            }
        }
    }

    fn drain_unread(&self, session: SessionId) {
        if let Some(Err(session::OutboxFull)) = self.sessions.get(&session).map(SessionHandle::drain_unread) {
            // The peer neither sends nor reads. The mesh does not wait for the answer.
            limited_log!(LogLimit::debug(), debug, { session:% = session },
                "outbox full; unread frames are not drained");
        }
    }

    fn close(&mut self, session: SessionId, reason: ByeReason) {
        if let Some(Err(session::OutboxFull)) = self.sessions.get(&session).map(|handle| handle.bye(reason)) {
            // There is no room for a goodbye.
            self.sessions.remove(&session);
        }
    }

    fn log_and_notify(&mut self, event: Event) {
        if let Some(suppressed) = self.member_log.check(Instant::now(), &event) {
            if suppressed > 0 {
                log::warn!(target: MEMBERS, suppressed; "membership lines suppressed: too many changes");
            }
            log_event(&event);
        }
        self.notify(event);
    }

    fn send(&mut self, session: SessionId, message: &Message, decided: Instant, when: When) {
        if let Message::Ping { seq, .. } = message {
            log::trace!(session:% = session, ping = *seq; "sending a ping");
        }
        let Some(handle) = self.sessions.get(&session) else {
            return;
        };
        let sent = if let Message::Heartbeat { seq, echo, digest } = *message {
            let heartbeat = Heartbeat { seq, echo, digest, decided };
            match when {
                When::Now => handle.beat(heartbeat),
                When::Next => handle.post(heartbeat),
            }
        } else {
            match wire::encode(message) {
                Ok(frame) => handle.send(frame),
                Err(error) => return log_unsendable(session, &error),
            }
        };
        if let Err(session::OutboxFull) = sent {
            self.drop_slow_peer(session);
        }
    }

    /// Ends the session of a peer that does not read its frames, without a goodbye.
    fn drop_slow_peer(&mut self, session: SessionId) {
        self.context.counters.peers_too_slow.one();
        self.sessions.remove(&session);
        let reason = DisconnectReason::Slow;
        self.mesh.handle(Instant::now(), Input::SessionDown { session, reason });
    }

    fn notify(&mut self, event: Event) {
        self.subscribers.publish(event);
    }

    /// Queues one encoded frame for all peers. A slow peer misses it and delays no other peer.
    fn broadcast(&self, frame: &Frame) -> Delivery {
        let mut builder = BroadcastBuilder::new(self.sessions.len());
        if self.leave_by.is_none() {
            let active = self.mesh.active_sessions();
            for handle in active.filter_map(|(_, session)| self.sessions.get(&session)) {
                match handle.offer(Arc::clone(frame), builder.receipt()) {
                    Ok(()) => builder.reached(),
                    Err(session::OutboxFull) => {
                        self.context.counters.messages_missed.one();
                        builder.missed();
                    }
                }
            }
        }
        builder.finish()
    }

    fn status(&self, now: Instant) -> Status {
        let outboxes = self.sessions.values().map(SessionHandle::backlog);
        Status {
            mesh: self.mesh.status(now),
            totals: self.context.counters.totals(),
            queues: Queues {
                inbox: self.inbox.len() + self.routine.len(),
                events: self.subscribers.backlog(),
                outboxes: outboxes.clone().sum(),
                outbox_longest: outboxes.max().unwrap_or(0),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use crate::config::Config;
    use crate::event::DownReason;
    use crate::limits::{OUTBOX_FRAMES, PEERS_MAX};
    use crate::mesh::SessionUp;
    use crate::trust::identity::Identity;
    use crate::trust::peer_id::PeerId;
    use crate::wire::Hello;

    fn coordinator(now: Instant) -> (Coordinator, Receiver<Event>) {
        let identity = Identity::generate().unwrap();
        let (context, inbox, routine) = session::context(&identity);
        let (events, seen) = queue::bounded(usize::MAX);
        let coordinator = Coordinator {
            mesh: Mesh::new(Config::default(), identity.id(), 1, 1, now),
            memory: None,
            context,
            inbox,
            routine,
            control: bounded(1).1,
            subscribers: Subscribers::new(events, Arc::default()),
            sessions: BTreeMap::new(),
            member_log: MemberLog::new(PEERS_MAX),
            leave_by: None,
            settle_waiters: Vec::new(),
        };
        (coordinator, seen)
    }

    fn up(coordinator: &mut Coordinator, session: SessionId, handle: SessionHandle, now: Instant) {
        let hello = Hello::plain();
        let (peer, remote) = (PeerId::from_bytes([7; 32]), ([127, 0, 0, 1], 4000).into());
        coordinator.sessions.insert(session, handle);
        coordinator.mesh.handle(now, Input::SessionUp(SessionUp { session, peer, hello, remote }));
    }

    #[test]
    fn subscriber_gets_events_that_arrive_after_its_command() {
        let now = crate::test_now();
        let (mut coordinator, _) = coordinator(now);
        let session = SessionId::accepted(1);
        let (handle, _outbox) = session::stuck().unwrap();
        up(&mut coordinator, session, handle, now);
        let (control, commands) = bounded(3);
        coordinator.control = commands;
        let subscribed = [(); 3].map(|()| {
            let (queue, events) = queue::bounded(9);
            control.send(Command::Subscribe(queue)).unwrap();
            events
        });
        let message = Message::Broadcast { text: "hello".to_owned() };
        coordinator.handle_event(CoordinatorEvent::Session(session, SessionEvent::Received(message, now)));
        for events in subscribed {
            assert!(events.try_iter().any(|event| matches!(event, Event::Message { .. })));
        }
    }

    #[test]
    fn peer_that_reads_nothing_is_dropped_when_its_outbox_is_full() {
        let mut now = crate::test_now();
        let (mut coordinator, seen) = coordinator(now);
        let session = SessionId::accepted(1);
        let (handle, _outbox) = session::stuck().unwrap();
        up(&mut coordinator, session, handle, now);
        let mut rounds = 0;
        // The peer is alive: it sends heartbeats, but does not read ours.
        while coordinator.sessions.contains_key(&session) {
            now += Duration::from_secs(1);
            rounds += 1;
            assert!(rounds <= OUTBOX_FRAMES, "its outbox holds more than {OUTBOX_FRAMES} frames");
            let message = Message::Heartbeat { seq: 1, echo: None, digest: 0 };
            coordinator.handle_session_event(now, session, SessionEvent::Received(message, now));
            coordinator.mesh.handle_timeout(now);
            coordinator.execute_outputs(now);
        }
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
        up(&mut coordinator, session, handle, now);
        let frame = wire::encode(&Message::Broadcast { text: "hello".to_owned() }).unwrap();
        let deliveries: Vec<Delivery> = (0..OUTBOX_FRAMES).map(|_| coordinator.broadcast(&frame)).collect();
        let reached: usize = deliveries.iter().map(Delivery::reached).sum();
        let missed: usize = deliveries.iter().map(Delivery::missed).sum();
        assert_eq!(
            (reached + missed, coordinator.status(now).queues.outbox_longest),
            (OUTBOX_FRAMES, reached)
        );
        assert!(reached > 0 && reached <= OUTBOX_FRAMES / 2, "{reached}");
        assert!(coordinator.sessions[&session].send(frame).is_ok());
        assert!(seen.try_iter().all(|event| !matches!(event, Event::Down { .. })));
        // Nothing was written.
        assert!(deliveries.iter().all(|delivery| delivery.wait(Duration::ZERO) == 0));
        // A wait does not include sessions that have ended.
        drop(outbox);
        coordinator.sessions.clear();
        assert_eq!(deliveries[0].wait(Duration::from_secs(60)), 0);
    }
}
