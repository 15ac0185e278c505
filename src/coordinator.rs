//! The coordinator's thread: owns a [`Mesh`], tells it what happened and carries out what it wants.
//!
//! Invariant: it never blocks but in [`Coordinator::next_turn`]. Frames go to sockets that do not block; no
//! file, name lookup or terminal is touched here; whatever can block happens on another thread.

mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use crate::access::Access;
use crate::config::LEAVE_FLUSH;
use crate::delivery::{Delivery, Posting};
use crate::log_limit::LogLimit;
use crate::member_log::MemberLog;
use crate::memory::{Memory, wall_clock};
use crate::mesh::event::Event;
use crate::mesh::status::PeerInfo;
use crate::mesh::{DialError, DisconnectReason, Input, Mesh, Output, SessionId};
use crate::queue;
use crate::session::{self, Context, Established, Heartbeat, Received, SessionEvent, SessionHandle};
use crate::status::{Queues, Status};
use crate::subscribers::{Observer, Subscribers};
use crate::wire::{self, Frame, Message};
pub(crate) use words::tell_oddity;
use words::{MEMBERS, log_event, log_report, log_unsendable};

/// Inbox events taken in one turn before timers are looked at.
const BATCH_MAX: usize = 256;
/// Wait when nothing is due at all.
const IDLE: Duration = Duration::from_secs(3600);

/// What the embedding program wants.
#[derive(Debug)]
pub(crate) enum Command {
    /// Say goodbye and stop.
    Leave,
    /// From now on these may be peers, and nobody else.
    Access(Access),
    /// Tell who is known.
    Peers(Sender<Vec<PeerInfo>>),
    /// Tell what the node is doing.
    Status(Sender<Status>),
    /// Tell this one, too, what happens.
    Subscribe(queue::Sender<Event>),
    /// Tell this one instead of the first queue, beginning with what waits there.
    Observe(Box<dyn Observer>, Receiver<Event>),
    /// Send this frame to every peer that is connected now.
    Broadcast(Frame, Sender<Delivery>),
    /// Tell when membership has settled.
    WhenSettled(Sender<()>),
}

#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) mesh: Mesh,
    /// Where its known peers are kept, if anywhere.
    pub(crate) memory: Option<Memory>,
    pub(crate) context: Arc<Context>,
    pub(crate) inbox: Receiver<(SessionId, SessionEvent)>,
    /// What came without waking this thread; goes before whatever did.
    pub(crate) routine: Receiver<Received>,
    pub(crate) control: Receiver<Command>,
    pub(crate) subscribers: Subscribers,
    pub(crate) sessions: BTreeMap<SessionId, SessionHandle>,
    pub(crate) member_log: MemberLog,
    /// When the last goodbyes must have been sent, once we leave.
    pub(crate) leave_by: Option<Instant>,
    /// Who waits for membership to settle: one a waiting thread.
    pub(crate) awaiting_calm: Vec<Sender<()>>,
}

/// When a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Now,
    /// When its session does something anyway.
    Next,
}

enum Turn {
    Session(SessionId, SessionEvent),
    Command(Command),
    Timeout,
}

impl Coordinator {
    /// Runs until the node has left the mesh.
    pub(crate) fn run(mut self, listening: Event) {
        self.notify(listening);
        self.carry_out(Instant::now());
        while !self.is_done() {
            let turn = self.next_turn();
            self.take(turn);
            // Everything that has arrived comes before timers: what a peer said while we were
            // held up counts as said before its deadline.
            for _ in 0..BATCH_MAX {
                let Ok((id, event)) = self.inbox.try_recv() else {
                    break;
                };
                self.take(Turn::Session(id, event));
            }
            let now = self.now();
            self.take_routine(now);
            if self.mesh.poll_timeout().is_some_and(|at| at <= now) {
                self.mesh.handle_timeout(now);
                self.carry_out(now);
            }
            if self.memory.as_ref().is_some_and(|memory| memory.due() <= now) {
                self.remember(now);
            }
            if !self.awaiting_calm.is_empty() && self.mesh.is_settled(now) {
                for waiting in self.awaiting_calm.drain(..) {
                    let _ = waiting.try_send(());
                }
            }
        }
        self.notify(Event::Stopped);
    }

    fn is_done(&self) -> bool {
        self.leave_by.is_some_and(|at| self.sessions.is_empty() || Instant::now() >= at)
    }

    fn next_turn(&self) -> Turn {
        let memory = self.memory.as_ref().map(Memory::due);
        let due = self.leave_by.or_else(|| self.mesh.poll_timeout().into_iter().chain(memory).min());
        let wait = due.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
        select! {
            recv(self.inbox) -> event => match event {
                Ok((id, event)) => Turn::Session(id, event),
                Err(_) => Turn::Command(Command::Leave),
            },
            recv(self.control) -> command => Turn::Command(command.unwrap_or(Command::Leave)),
            default(wait) => Turn::Timeout,
        }
    }

    /// What was asked for before something arrived comes first: whoever subscribes hears of all that is sent
    /// afterwards, by whomever.
    fn take(&mut self, turn: Turn) {
        if matches!(turn, Turn::Session(..)) {
            // No more than are there now: others come meanwhile, and may come for ever.
            for _ in 0..self.control.len() {
                let Ok(command) = self.control.try_recv() else {
                    break;
                };
                self.handle(Turn::Command(command));
            }
        }
        self.handle(turn);
    }

    fn handle(&mut self, turn: Turn) {
        let now = self.now();
        self.take_routine(now);
        match turn {
            Turn::Timeout => {}
            Turn::Command(Command::Peers(reply)) => {
                let _ = reply.try_send(self.mesh.peers(now));
            }
            // Nobody waits for an answer any more if sending it fails.
            Turn::Command(Command::Status(reply)) => {
                let _ = reply.try_send(self.status(now));
            }
            Turn::Command(Command::Broadcast(frame, reply)) => {
                let _ = reply.try_send(self.broadcast(&frame));
            }
            Turn::Command(Command::Subscribe(queue)) => self.subscribers.add(queue),
            Turn::Command(Command::Observe(observer, waiting)) => {
                self.subscribers.observe(observer, &waiting);
            }
            Turn::Command(Command::Access(access)) => {
                tell_oddity(&access, &self.mesh.id());
                // Handshakes first: nobody is to slip in between the two.
                self.context.tls.set_access(access.clone());
                self.mesh.handle(now, Input::Access(access));
            }
            Turn::Command(Command::WhenSettled(reply)) => self.awaiting_calm.push(reply),
            Turn::Command(Command::Leave) => {
                if self.leave_by.is_none() {
                    self.leave_by = Some(now + LEAVE_FLUSH);
                    // Who says goodbye from now on does so to a node that is leaving: when all stop
                    // at once, each is to look for the others again.
                    self.remember(now);
                    self.memory = None;
                    self.mesh.handle(now, Input::Leave);
                }
            }
            Turn::Session(id, event) => self.session_event(now, id, event),
        }
        self.carry_out(now);
    }

    fn take_routine(&mut self, now: Instant) {
        // No more than are there now: others come meanwhile, and may come for ever.
        for _ in 0..self.routine.len() {
            let Ok(Received { session, message, arrived }) = self.routine.try_recv() else {
                return;
            };
            self.mesh.handle(now, Input::Received { session, message, arrived });
            self.carry_out(now);
        }
    }

    /// Now, which the mesh learns by the clock on the wall as well.
    fn now(&mut self) -> Instant {
        self.mesh.tell_time(wall_clock());
        Instant::now()
    }

    fn remember(&mut self, now: Instant) {
        if let Some(memory) = &mut self.memory {
            memory.remember(now, self.mesh.known_peers());
        }
    }

    fn session_event(&mut self, now: Instant, session: SessionId, event: SessionEvent) {
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
            SessionEvent::Quiet => Input::Quiet { session },
            SessionEvent::Down(reason) => Input::SessionDown { session, reason },
            SessionEvent::DialFailed(reason) => Input::DialFailed { session, reason },
        };
        let is_end = matches!(input, Input::SessionDown { .. } | Input::DialFailed { .. });
        self.mesh.handle(now, input);
        if is_end {
            // Only now: the session sends until the mesh has stopped giving it messages.
            self.sessions.remove(&session);
        }
    }

    /// Does what the mesh wants, which it has decided at that time.
    fn carry_out(&mut self, decided: Instant) {
        while let Some(output) = self.mesh.poll_output() {
            match output {
                Output::Dial { session, addr, expected, source } => {
                    self.context.counters.dials.one();
                    match session::dial(&self.context, session, addr, expected, source) {
                        Ok(handle) => {
                            self.sessions.insert(session, handle);
                        }
                        Err(error) => {
                            let reason = DialError::Failed(format!("no thread or descriptor left: {error}"));
                            self.mesh.handle(Instant::now(), Input::DialFailed { session, reason });
                        }
                    }
                }
                Output::Send { session, message } => self.send(session, &message, decided, When::Now),
                Output::Post { session, message } => self.send(session, &message, decided, When::Next),
                Output::Probe { session } => {
                    if let Some(Err(session::OutboxFull)) =
                        self.sessions.get(&session).map(SessionHandle::probe)
                    {
                        // A peer that neither speaks nor reads: the mesh does not wait for the answer.
                        static LIMIT: LogLimit = LogLimit::debug();
                        if let Some(suppressed) = LIMIT.check() {
                            log::debug!(session:% = session, suppressed; "outbox full; not probed");
                        }
                    }
                }
                Output::Close { session, reason } => {
                    if let Some(Err(session::OutboxFull)) = self.sessions.get(&session).map(|h| h.bye(reason))
                    {
                        // There is no room for a goodbye.
                        self.sessions.remove(&session);
                    }
                }
                Output::Remember => {
                    if let Some(memory) = &mut self.memory {
                        memory.changed(Instant::now());
                    }
                }
                Output::Notify(event) => {
                    if let Some(suppressed) = self.member_log.check(Instant::now(), &event) {
                        if suppressed > 0 {
                            log::warn!(target: MEMBERS, suppressed; "some came and went without a line here");
                        }
                        log_event(&event);
                    }
                    self.notify(event);
                }
                Output::Report(report) => log_report(&report),
            }
        }
    }

    fn send(&mut self, session: SessionId, message: &Message, decided: Instant, when: When) {
        if let Message::Ping { seq, .. } = message {
            log::trace!(session:% = session, ping = *seq; "sending a ping");
        }
        let Some(handle) = self.sessions.get(&session) else {
            return;
        };
        let sent = if let Message::Heartbeat { seq, echo, roster } = *message {
            let heartbeat = Heartbeat { seq, echo, roster, decided };
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
            self.too_slow(session);
        }
    }

    /// A peer does not read what it is sent: its session ends, without waiting for it.
    fn too_slow(&mut self, session: SessionId) {
        self.context.counters.peers_too_slow.one();
        self.sessions.remove(&session);
        let reason = DisconnectReason::Slow;
        self.mesh.handle(Instant::now(), Input::SessionDown { session, reason });
    }

    fn notify(&mut self, event: Event) {
        self.subscribers.tell(event);
    }

    /// One encoding for all; nobody waits for a peer that is slow.
    fn broadcast(&self, frame: &Frame) -> Delivery {
        let mut posting = Posting::new(self.sessions.len());
        if self.leave_by.is_none() {
            let active = self.mesh.active_sessions();
            for handle in active.filter_map(|(_, session)| self.sessions.get(&session)) {
                match handle.offer(Arc::clone(frame), posting.receipt()) {
                    Ok(()) => posting.reached(),
                    Err(session::OutboxFull) => {
                        self.context.counters.messages_missed.one();
                        posting.missed();
                    }
                }
            }
        }
        posting.finish()
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
    use crate::config::{Config, OUTBOX_FRAMES, PEERS_MAX};
    use crate::identity::{Identity, PeerId};
    use crate::mesh::SessionUp;
    use crate::mesh::event::DownReason;
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
            awaiting_calm: Vec::new(),
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
    fn whoever_has_subscribed_hears_what_arrives_afterwards() {
        let now = crate::some_moment();
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
        coordinator.take(Turn::Session(session, SessionEvent::Received(message, now)));
        for events in subscribed {
            assert!(events.try_iter().any(|event| matches!(event, Event::Message { .. })));
        }
    }

    #[test]
    fn a_peer_that_reads_nothing_is_given_up_when_its_outbox_is_full() {
        let mut now = crate::some_moment();
        let (mut coordinator, seen) = coordinator(now);
        let session = SessionId::accepted(1);
        let (handle, _outbox) = session::stuck().unwrap();
        up(&mut coordinator, session, handle, now);
        let mut rounds = 0;
        // It is alive: it sends heartbeats, it only doesn't read ours.
        while coordinator.sessions.contains_key(&session) {
            now += Duration::from_secs(1);
            rounds += 1;
            assert!(rounds <= OUTBOX_FRAMES, "its outbox holds more than {OUTBOX_FRAMES} frames");
            let message = Message::Heartbeat { seq: 1, echo: None, roster: 0 };
            coordinator.session_event(now, session, SessionEvent::Received(message, now));
            coordinator.mesh.handle_timeout(now);
            coordinator.carry_out(now);
        }
        let downs: Vec<DownReason> = seen
            .try_iter()
            .filter_map(|event| if let Event::Down { reason, .. } = event { Some(reason) } else { None })
            .collect();
        assert_eq!(downs, [DownReason::Slow]);
    }

    #[test]
    fn broadcasts_pass_by_a_peer_that_reads_nothing_and_leave_room_for_heartbeats() {
        let now = crate::some_moment();
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
        // Whoever waits does not wait for a session that has ended.
        drop(outbox);
        coordinator.sessions.clear();
        assert_eq!(deliveries[0].wait(Duration::from_secs(60)), 0);
    }
}
