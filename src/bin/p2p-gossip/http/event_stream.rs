//! `/events`: server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>)
//! with the objects of `--output json` as data.
//!
//! The hub sends each event to all streams through bounded queues, and ends a stream that does not keep up. Its
//! reader reconnects and receives the missed events, except pings and messages.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use jiff::Timestamp;
use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::queue;
use p2p_gossip::{Event, Events};
use rustix::net::{RecvFlags, recv, sockopt};

use super::response::{EVENT_STREAM, OK, Response, write_all};
use crate::output::event_json;

/// Limit of streams: a quarter of all connections, so that open pages never keep a scraper out.
pub(super) const STREAMS_MAX: usize = 8;
/// Limit of queued events of one stream; a reader with more is too slow.
const QUEUED_MAX: usize = 256;
/// Kept events for readers that reconnect, without pings and messages.
pub(super) const KEPT_MAX: usize = 100;
/// Time limit of one write; a reader that does not take the bytes within it is too slow.
const STALL: Duration = Duration::from_secs(5);
/// Interval between checks whether the reader still holds the connection.
const PRESENCE_CHECK_EVERY: Duration = Duration::from_secs(1);
/// Checks without an event after which a comment is sent, so that proxies keep the connection.
const CHECKS_PER_COMMENT: u32 = 15;
/// The socket's send buffer in bytes: small, so that a reader that stops reading is noticed soon.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes after which queued events are written, even if more are queued.
const BATCH_BYTES_MAX: usize = 16 * 1024;

/// Publishes events to all streams.
#[derive(Debug)]
pub(super) struct Hub {
    /// The page's URL, if there is a page.
    page: Option<String>,
    /// The queue of the events that are published, if it needs pings for streams only.
    events: Option<Events>,
    /// Identifies this process in `Last-Event-ID`: its start time in milliseconds since 1970.
    run: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Number of the last event, from 1.
    last: u64,
    /// The last events by number.
    kept: VecDeque<(u64, Arc<str>)>,
    streams: Vec<Subscription>,
    /// Each stream holds a clone. `None` after [`Hub::close`].
    open: Option<Sender<()>>,
}

/// The hub's end of a stream.
#[derive(Debug)]
struct Subscription {
    queue: queue::Sender<Arc<str>>,
    /// Has no strong reference left once the stream is dropped.
    alive: Weak<()>,
}

/// The kept events that a new stream begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// This many of the last events.
    Recent(usize),
    /// The events after this number.
    After(u64),
}

impl Hub {
    /// Creates a hub. The receiver is disconnected once the hub is closed and all streams have ended.
    pub(super) fn new(page: Option<String>, events: Option<Events>) -> (Self, Receiver<()>) {
        let (open, ended) = bounded(0);
        let state = State { last: 0, kept: VecDeque::new(), streams: Vec::new(), open: Some(open) };
        let run = Timestamp::now().as_millisecond().to_string();
        (Self { page, events, run, state: Mutex::new(state) }, ended)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an event to all streams, and ends those whose queue is full.
    pub(super) fn publish(&self, time: Timestamp, event: &Event) {
        let mut state = self.lock();
        if event.is_traffic() && state.streams.is_empty() {
            return;
        }
        state.last += 1;
        let number = state.last;
        let mut frame = format!("id: {}-{number}\ndata: ", self.run);
        event_json::print(&mut frame, time, event, self.page.as_deref());
        frame.push('\n');
        let frame: Arc<str> = frame.into();
        if !event.is_traffic() {
            if state.kept.len() == KEPT_MAX {
                state.kept.pop_front();
            }
            state.kept.push_back((number, Arc::clone(&frame)));
        }
        state.streams.retain(|stream| match stream.queue.try_send(Arc::clone(&frame)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                static LIMIT: LogLimit = LogLimit::debug();
                if let Some(suppressed) = LIMIT.check() {
                    log::debug!(suppressed; "a reader of /events does not keep up; closing its stream");
                }
                false
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
        self.set_pings(&state);
    }

    /// Without a stream pings are not needed.
    fn set_pings(&self, state: &State) {
        if let Some(events) = &self.events {
            events.set_pings(!state.streams.is_empty());
        }
    }

    /// Ends all streams after their queued events.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.streams.clear();
        state.open = None;
    }

    /// Parses a `Last-Event-ID`. After an id of another process, all kept events are new to the reader.
    pub(super) fn since(&self, last_event_id: &str) -> Option<Since> {
        let (run, number) = last_event_id.split_once('-')?;
        let number = number.parse().ok()?;
        Some(if run == self.run { Since::After(number) } else { Since::Recent(KEPT_MAX) })
    }

    /// Creates a stream; `None` at the limit of streams, or after [`Hub::close`].
    pub(super) fn subscribe(&self, since: Since) -> Option<Stream> {
        let mut state = self.lock();
        // A stream may have ended since the last event.
        state.streams.retain(|stream| stream.alive.strong_count() > 0);
        if state.streams.len() >= STREAMS_MAX {
            return None;
        }
        let open = state.open.clone()?;
        let count = match since {
            Since::Recent(count) => count.min(state.kept.len()),
            Since::After(number) => state.kept.iter().filter(|(kept, _)| *kept > number).count(),
        };
        let earlier = state.kept.iter().skip(state.kept.len() - count).map(|(_, frame)| &**frame).collect();
        let (queue, events) = queue::bounded(QUEUED_MAX);
        let alive = Arc::new(());
        state.streams.push(Subscription { queue, alive: Arc::downgrade(&alive) });
        self.set_pings(&state);
        Some(Stream { earlier, events, _alive: alive, _open: open })
    }
}

/// The events of one reader.
#[derive(Debug)]
pub(super) struct Stream {
    /// The kept events to send first.
    earlier: String,
    events: Receiver<Arc<str>>,
    _alive: Arc<()>,
    _open: Sender<()>,
}

impl Stream {
    /// Writes events to the reader until the hub ends the stream.
    ///
    /// # Errors
    /// The reader closed the connection or is too slow.
    pub(super) fn run(self, socket: &TcpStream, with_body: bool) -> io::Result<()> {
        sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER_BYTES)?;
        let mut batch = Response::new(OK, EVENT_STREAM, "").head();
        if !with_body {
            return write_all(socket, batch.as_bytes(), Instant::now() + STALL);
        }
        batch.push_str("retry: 2000\n\n");
        batch.push_str(&self.earlier);
        write_all(socket, batch.as_bytes(), Instant::now() + STALL)?;
        let mut idle = 0;
        loop {
            batch.clear();
            match self.events.recv_timeout(PRESENCE_CHECK_EVERY) {
                Ok(frame) => {
                    idle = 0;
                    batch.push_str(&frame);
                    self.append_queued(&mut batch);
                }
                Err(RecvTimeoutError::Timeout) => {
                    check_presence(socket)?;
                    idle += 1;
                    if idle % CHECKS_PER_COMMENT == 0 {
                        batch.push_str(":\n\n");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            write_all(socket, batch.as_bytes(), Instant::now() + STALL)?;
        }
    }

    /// Appends queued events up to the size of a batch.
    fn append_queued(&self, batch: &mut String) {
        while batch.len() < BATCH_BYTES_MAX
            && let Ok(frame) = self.events.try_recv()
        {
            batch.push_str(&frame);
        }
    }
}

/// Checks that the reader still holds the connection, and discards bytes that it sends.
///
/// # Errors
/// The reader has closed the connection.
fn check_presence(socket: &TcpStream) -> io::Result<()> {
    match recv(socket, &mut [0; 512][..], RecvFlags::DONTWAIT) {
        Ok((0, _)) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use p2p_gossip::internals::queues::has_pings;
    use p2p_gossip::internals::sample;
    use p2p_gossip::{Config, Identity, Node, PeerId};

    use super::*;

    fn time() -> Timestamp {
        "2026-01-31T12:00:00.123Z".parse().unwrap()
    }

    fn up(members: usize) -> Event {
        let addr = "127.0.0.1:1".parse().unwrap();
        sample::up(PeerId::from_bytes([7; 32]), "bob", addr, members)
    }

    fn message() -> Event {
        let addr = "127.0.0.1:1".parse().unwrap();
        sample::message(PeerId::from_bytes([7; 32]), "", addr, "a\nb\u{2028}\r")
    }

    fn hub() -> (Hub, Receiver<()>) {
        let (hub, ended) = Hub::new(Some("http://localhost/".to_owned()), None);
        (Hub { run: "5".to_owned(), ..hub }, ended)
    }

    #[test]
    fn event_with_any_text_is_one_frame() {
        let (hub, _ended) = hub();
        let stream = hub.subscribe(Since::Recent(0)).unwrap();
        hub.publish(time(), &message());
        let frame = stream.events.recv().unwrap();
        let lines: Vec<&str> = frame.split('\n').collect();
        let [id, data, "", ""] = lines[..] else { panic!("{frame:?}") };
        assert_eq!(id, "id: 5-1");
        assert!(!data.contains('\r'), "{data}");
        let back: Event = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(back, message());
    }

    #[test]
    fn reconnected_reader_receives_missed_events() {
        let (hub, _ended) = hub();
        (1..=KEPT_MAX + 5).for_each(|n| hub.publish(time(), &up(n)));
        let sent = |since| hub.subscribe(since).unwrap().earlier.matches("\"up\"").count();
        assert_eq!(sent(Since::Recent(3)), 3);
        assert_eq!(sent(Since::Recent(usize::MAX)), KEPT_MAX);
        assert_eq!(sent(hub.since("5-103").unwrap()), 2);
        assert_eq!(sent(hub.since("5-999").unwrap()), 0);
        assert_eq!(sent(hub.since("4-103").unwrap()), KEPT_MAX);
        for id in ["", "5", "x", "5-x", "5--1"] {
            assert_eq!(hub.since(id), None, "{id}");
        }
    }

    #[test]
    fn pings_come_while_there_is_a_stream() {
        let mut builder = Node::builder(Config::default(), Identity::generate().unwrap());
        let events = builder.subscribe();
        events.set_pings(false);
        let (hub, _ended) = Hub::new(None, Some(events.clone()));
        for _ in 0..2 {
            hub.publish(time(), &up(2));
            assert!(!has_pings(&events));
            let _stream = hub.subscribe(Since::Recent(0)).unwrap();
            assert!(has_pings(&events));
            hub.publish(time(), &up(2));
            assert!(has_pings(&events));
        }
    }

    #[test]
    fn stream_of_a_slow_reader_ends_and_makes_room() {
        let (hub, ended) = hub();
        let slow = hub.subscribe(Since::Recent(0)).unwrap();
        let others: Vec<Stream> =
            (1..STREAMS_MAX).map(|_| hub.subscribe(Since::Recent(0)).unwrap()).collect();
        assert!(hub.subscribe(Since::Recent(0)).is_none());
        for n in 0..=QUEUED_MAX {
            hub.publish(time(), &up(n));
            others.iter().for_each(|stream| assert!(stream.events.try_recv().is_ok()));
        }
        assert_eq!(slow.events.try_iter().count(), QUEUED_MAX);
        assert!(matches!(slow.events.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected)));
        // A dropped stream makes room as well, even before the next event.
        for _ in 0..2 * STREAMS_MAX {
            assert!(hub.subscribe(Since::Recent(0)).is_some());
        }

        drop(slow);
        hub.close();
        assert!(hub.subscribe(Since::Recent(0)).is_none());
        assert!(ended.recv_timeout(Duration::ZERO).unwrap_err().is_timeout());
        drop(others);
        assert!(ended.recv().is_err());
    }
}
