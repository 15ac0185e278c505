//! The stream of events: server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>)
//! whose data are the objects of `--output json`.
//!
//! The hub tells every stream through a bounded queue, and lets go of one that does not keep up: its
//! reader reconnects and is told what it missed, but for pings and messages.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use jiff::Timestamp;
use p2p_gossip::log_limit::LogLimit;
use p2p_gossip::{Event, queue};
use rustix::net::{RecvFlags, recv, sockopt};

use super::response::{EVENT_STREAM, OK, Response, write_all};
use crate::event_json;

/// Streams at once: a quarter of all connections, so that open pages never keep a scraper out.
pub(super) const STREAMS_MAX: usize = 8;
/// Events waiting for one reader; more means that it is too slow.
const QUEUED_MAX: usize = 256;
/// Events that are kept to be told again: who came and who went.
pub(super) const KEPT_MAX: usize = 100;
/// A reader that takes none of the bytes waiting for it for this long is too slow.
const STALL: Duration = Duration::from_secs(5);
/// Between two looks whether the reader is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks without an event after which a comment goes out, which keeps proxies from hanging up.
const LOOKS_PER_COMMENT: u32 = 15;
/// Bytes that the system may hold for one reader, so that one that does not read is soon found out.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes written at once while more events wait.
const BATCH_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Hub {
    /// Where the page is.
    page: String,
    /// Tells the events of one process from those of the next in `Last-Event-ID`.
    run: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Number of the last event.
    last: u64,
    kept: VecDeque<(u64, Arc<str>)>,
    streams: Vec<Listed>,
    /// A clone for each stream; gone when no more will come.
    open: Option<Sender<()>>,
}

/// A stream as the hub knows it.
#[derive(Debug)]
struct Listed {
    queue: queue::Sender<Arc<str>>,
    /// Dies with the stream.
    life: Weak<()>,
}

/// Which earlier events a reader wants first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// As many of the last ones.
    Recent(usize),
    /// Those after this one.
    After(u64),
}

impl Hub {
    /// The other end is closed when the hub and all streams have ended.
    pub(super) fn new(page: String) -> (Self, Receiver<()>) {
        let (open, ended) = bounded(0);
        let state = State { last: 0, kept: VecDeque::new(), streams: Vec::new(), open: Some(open) };
        let run = Timestamp::now().as_millisecond().to_string();
        (Self { page, run, state: Mutex::new(state) }, ended)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells every reader, and lets go of those that are too slow.
    pub(super) fn tell(&self, time: Timestamp, event: &Event) {
        let mut state = self.lock();
        if event.is_traffic() && state.streams.is_empty() {
            return;
        }
        state.last += 1;
        let number = state.last;
        let mut frame = format!("id: {}-{number}\ndata: ", self.run);
        event_json::print(&mut frame, time, event, Some(&self.page));
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
                    log::debug!(suppressed; "a reader of /events does not keep up; its stream ends");
                }
                false
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
    }

    /// Nothing more will happen: streams end when they have told everything.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.streams.clear();
        state.open = None;
    }

    /// What a reader wants that says that it has had this one; an id of another process means
    /// that everything is new to it.
    pub(super) fn since(&self, last_event_id: &str) -> Option<Since> {
        let (run, number) = last_event_id.split_once('-')?;
        let number = number.parse().ok()?;
        Some(if run == self.run { Since::After(number) } else { Since::Recent(KEPT_MAX) })
    }

    /// A new stream; `None` if there are as many as there may be, or if it is all over.
    pub(super) fn subscribe(&self, since: Since) -> Option<Stream> {
        let mut state = self.lock();
        // A reader may have gone since the last event.
        state.streams.retain(|stream| stream.life.strong_count() > 0);
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
        let life = Arc::new(());
        state.streams.push(Listed { queue, life: Arc::downgrade(&life) });
        Some(Stream { earlier, events, _life: life, _open: open })
    }
}

/// The events of one reader.
#[derive(Debug)]
pub(super) struct Stream {
    earlier: String,
    events: Receiver<Arc<str>>,
    _life: Arc<()>,
    _open: Sender<()>,
}

impl Stream {
    /// Tells the reader everything until there is no more, or until it has gone or is too slow.
    ///
    /// # Errors
    /// It was the reader's fault.
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
            match self.events.recv_timeout(LOOK_EVERY) {
                Ok(frame) => {
                    idle = 0;
                    batch.push_str(&frame);
                    while batch.len() < BATCH_BYTES_MAX
                        && let Ok(frame) = self.events.try_recv()
                    {
                        batch.push_str(&frame);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    check_presence(socket)?;
                    idle += 1;
                    if idle % LOOKS_PER_COMMENT == 0 {
                        batch.push_str(":\n\n");
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            write_all(socket, batch.as_bytes(), Instant::now() + STALL)?;
        }
    }
}

/// # Errors
/// The reader has closed the connection. What it sends instead is thrown away.
fn check_presence(socket: &TcpStream) -> io::Result<()> {
    match recv(socket, &mut [0; 512][..], RecvFlags::DONTWAIT) {
        Ok((0, _)) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use p2p_gossip::PeerId;

    use super::*;

    fn time() -> Timestamp {
        "2026-01-31T12:00:00.123Z".parse().unwrap()
    }

    fn up(members: usize) -> Event {
        let addr = "127.0.0.1:1".parse().unwrap();
        Event::Up { peer: PeerId::from_bytes([7; 32]), name: "bob".to_owned(), addr, members }
    }

    fn message() -> Event {
        let addr = "127.0.0.1:1".parse().unwrap();
        let text = "a\nb\u{2028}\r".to_owned();
        Event::Message { peer: PeerId::from_bytes([7; 32]), name: String::new(), addr, text }
    }

    fn hub() -> (Hub, Receiver<()>) {
        let (hub, ended) = Hub::new("http://localhost/".to_owned());
        (Hub { run: "5".to_owned(), ..hub }, ended)
    }

    #[test]
    fn an_event_is_one_frame_whatever_it_says() {
        let (hub, _ended) = hub();
        let stream = hub.subscribe(Since::Recent(0)).unwrap();
        hub.tell(time(), &message());
        let frame = stream.events.recv().unwrap();
        let lines: Vec<&str> = frame.split('\n').collect();
        let [id, data, "", ""] = lines[..] else { panic!("{frame:?}") };
        assert_eq!(id, "id: 5-1");
        assert!(!data.contains('\r'), "{data}");
        let back: Event = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(back, message());
    }

    #[test]
    fn whoever_comes_back_is_told_what_it_missed() {
        let (hub, _ended) = hub();
        (1..=KEPT_MAX + 5).for_each(|n| hub.tell(time(), &up(n)));
        let told = |since| hub.subscribe(since).unwrap().earlier.matches("\"up\"").count();
        assert_eq!(told(Since::Recent(3)), 3);
        assert_eq!(told(Since::Recent(usize::MAX)), KEPT_MAX);
        assert_eq!(told(hub.since("5-103").unwrap()), 2);
        assert_eq!(told(hub.since("5-999").unwrap()), 0);
        assert_eq!(told(hub.since("4-103").unwrap()), KEPT_MAX);
        for id in ["", "5", "x", "5-x", "5--1"] {
            assert_eq!(hub.since(id), None, "{id}");
        }
    }

    #[test]
    fn whoever_does_not_keep_up_is_let_go_and_makes_room() {
        let (hub, ended) = hub();
        let slow = hub.subscribe(Since::Recent(0)).unwrap();
        let others: Vec<Stream> =
            (1..STREAMS_MAX).map(|_| hub.subscribe(Since::Recent(0)).unwrap()).collect();
        assert!(hub.subscribe(Since::Recent(0)).is_none());
        for n in 0..=QUEUED_MAX {
            hub.tell(time(), &up(n));
            others.iter().for_each(|stream| assert!(stream.events.try_recv().is_ok()));
        }
        assert_eq!(slow.events.try_iter().count(), QUEUED_MAX);
        assert!(matches!(slow.events.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected)));
        // So does whoever goes before anything else happens.
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
