//! The sending side of a session that is up, which its thread shares with the coordinator.
//!
//! A thread with a frame to send writes it at once if the connection is free and the socket takes it: waking a
//! thread that sleeps takes longer than a heartbeat's encryption and system call together. If the socket or
//! the connection is busy, the frame is left to the session's thread.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, TryRecvError, never};

use super::link::{Link, LinkError};
use super::outgoing::{Heartbeat, Outgoing};
use super::waits::Waits;
use crate::session::delivery::Receipt;
use crate::wire::{self, ByeReason, Message};

/// Bytes encrypted before the socket is asked to take them, several frames to a system call.
const WRITE_BATCH_BYTES: usize = 16 * 1024;

/// A request of the coordinator that is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    DrainUnread,
    Bye(ByeReason),
    /// End without a goodbye.
    Gone,
}

/// An [`Outlet`] for two.
#[derive(Debug)]
pub(crate) struct Shared(Mutex<Outlet>);

#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) link: Box<Link>,
    pub(super) waits: Waits,
    /// What came out of the outbox and is no frame. Nothing behind it is sent until the thread has taken it.
    pub(super) next: Option<Next>,
    /// Since when bytes have waited for the socket to take them.
    pub(super) stalled_since: Option<Instant>,
    outbox: Receiver<Outgoing>,
    /// Of messages encrypted and not yet handed to the system.
    unwritten: Vec<Receipt>,
    /// What the coordinator met, for the session's thread to see to.
    failure: Option<LinkError>,
    /// The session is ending, and only its thread still sends.
    is_ending: bool,
}

impl Shared {
    pub(super) fn new(link: Box<Link>, outbox: Receiver<Outgoing>) -> Self {
        Self(Mutex::new(Outlet {
            link,
            waits: Waits::default(),
            next: None,
            stalled_since: None,
            outbox,
            unwritten: Vec::new(),
            failure: None,
            is_ending: false,
        }))
    }

    /// For the session's thread, which may wait.
    pub(super) fn lock(&self) -> MutexGuard<'_, Outlet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the session's thread when the session ends: from now on only it sends.
    pub(super) fn end(&self) -> MutexGuard<'_, Outlet> {
        let mut outlet = self.lock();
        outlet.is_ending = true;
        outlet
    }

    /// Nothing more is sent: the outbox is closed.
    pub(super) fn close(&self) {
        let mut outlet = self.end();
        outlet.outbox = never();
        outlet.unwritten.clear();
    }

    /// For other threads: sends what is in the outbox, if that is possible now. Otherwise the caller must wake
    /// the session's thread. Never blocks.
    pub(super) fn try_send(&self) -> bool {
        match self.0.try_lock() {
            Ok(mut outlet) if !outlet.is_ending => match outlet.pump() {
                Ok(()) => outlet.is_done(),
                Err(error) => {
                    outlet.failure = Some(error);
                    false
                }
            },
            _ => false,
        }
    }
}

impl Outlet {
    /// Encrypts and writes what waits in the outbox, until it is empty, the socket takes no more, or something
    /// else is to be done next.
    pub(super) fn pump(&mut self) -> Result<(), LinkError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        while self.link.flush()? {
            self.stalled_since = None;
            self.acknowledge();
            if self.next.is_some() || !self.encrypt_batch()? {
                return Ok(());
            }
        }
        self.stalled_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Whether everything in the outbox has been handed to the system.
    fn is_done(&self) -> bool {
        self.next.is_none() && !self.link.is_write_pending()
    }

    /// Encrypts what waits in the outbox, up to a batch or to what is no frame; whether there was anything.
    fn encrypt_batch(&mut self) -> Result<bool, LinkError> {
        let mut bytes = 0;
        while bytes < WRITE_BATCH_BYTES {
            let frame = match self.outbox.try_recv() {
                Ok(Outgoing::Frame(frame)) => frame,
                Ok(Outgoing::Heartbeat(Heartbeat { seq, echo, digest, decided })) => {
                    let echo = self.waits.sending(seq, echo, decided, Instant::now());
                    wire::encode(&Message::Heartbeat { seq, echo, digest }).map_err(io::Error::other)?
                }
                Ok(Outgoing::Message(frame, receipt)) => {
                    self.unwritten.push(receipt);
                    frame
                }
                Ok(Outgoing::DrainUnread) => {
                    self.next = Some(Next::DrainUnread);
                    break;
                }
                Ok(Outgoing::Bye(reason)) => {
                    self.next = Some(Next::Bye(reason));
                    break;
                }
                Err(TryRecvError::Disconnected) => {
                    self.next = Some(Next::Gone);
                    break;
                }
                Err(TryRecvError::Empty) => break,
            };
            bytes += frame.len();
            self.link.queue(&frame)?;
            self.link.counters().frames_sent.one();
        }
        Ok(bytes > 0)
    }

    /// Everything that was encrypted has been handed to the system.
    pub(super) fn acknowledge(&mut self) {
        self.unwritten.drain(..).for_each(Receipt::written);
    }

    /// Whether the coordinator has let go of this session.
    pub(super) fn is_let_go(&self) -> bool {
        matches!(self.outbox.try_recv(), Err(TryRecvError::Disconnected))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::Arc;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::limits::MESSAGE_BYTES_MAX;
    use crate::net::waker::Waker;
    use crate::session::context;
    use crate::session::delivery::BroadcastBuilder;
    use crate::session::session_handle::{SessionHandle, handle_and_outbox};
    use crate::trust::identity::Identity;
    use crate::trust::pin::Expected;
    use crate::wire::{Frame, FrameReader};

    /// The coordinator's end of a session without a thread, and the other end of its connection.
    struct Session {
        handle: SessionHandle,
        shared: Arc<Shared>,
        waker: Arc<Waker>,
        far: Link,
        frames: FrameReader,
    }

    impl Session {
        fn new() -> Self {
            let [near, far] = links();
            let waker = Arc::new(Waker::new().unwrap());
            let (mut handle, outbox) = handle_and_outbox(&waker);
            let shared = Arc::new(Shared::new(Box::new(near), outbox));
            handle.connect(Arc::clone(&shared));
            let mut frames = FrameReader::new();
            frames.after_hello();
            Self { handle, shared, waker, far, frames }
        }

        /// Whether the thread has been woken since the last time.
        fn is_woken(&self) -> bool {
            let mut fds = [PollFd::from_borrowed_fd(self.waker.fd(), PollFlags::IN)];
            let is_woken = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1;
            self.waker.clear();
            is_woken
        }

        /// The numbers of the next so many messages at the other end.
        fn hear(&mut self, count: usize) -> Vec<u64> {
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut heard = Vec::new();
            while heard.len() < count {
                match self.frames.next_message().unwrap() {
                    Some(Message::Ping { seq, .. } | Message::Heartbeat { seq, .. }) => heard.push(seq),
                    Some(Message::Broadcast { text }) => heard.push(text.trim().parse().unwrap()),
                    Some(other) => panic!("{other:?}"),
                    None => {
                        self.far.wait(&Waker::new().unwrap(), true, Some(deadline)).unwrap();
                        self.far.read(&mut self.frames).unwrap();
                        assert!(Instant::now() < deadline, "only {heard:?} came");
                    }
                }
            }
            heard
        }
    }

    /// Two ends of a connection, after the handshake.
    fn links() -> [Link; 2] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let mut links = [(near, true), (far, false)].map(|(socket, dials)| {
            socket.set_nonblocking(true).unwrap();
            let (context, ..) = context(&Identity::generate().unwrap());
            let tls = if dials { context.tls.dial(Expected::AnyPeer) } else { context.tls.accept() };
            Link::new(socket, tls.unwrap(), &context.counters).unwrap()
        });
        let mut frames = FrameReader::new();
        while links.iter().any(|link| link.is_handshaking() || link.is_write_pending()) {
            for link in &mut links {
                link.flush().unwrap();
                link.read(&mut frames).unwrap();
            }
        }
        links
    }

    fn ping(seq: u64) -> Frame {
        wire::encode(&Message::Ping { seq, text: String::new() }).unwrap()
    }

    fn heartbeat(seq: u64) -> Heartbeat {
        Heartbeat { seq, echo: None, digest: 0, decided: Instant::now() }
    }

    #[test]
    fn what_is_sent_needs_no_other_thread_and_takes_along_what_lay_ready() {
        let mut session = Session::new();
        session.handle.send(ping(1)).unwrap();
        session.handle.post(heartbeat(2)).unwrap();
        assert_eq!((session.hear(1), session.handle.backlog()), (vec![1], 1));
        session.handle.beat(heartbeat(3)).unwrap();
        assert_eq!((session.hear(2), session.handle.backlog()), (vec![2, 3], 0));
        assert!(!session.is_woken());
    }

    #[test]
    fn frame_queued_during_work_is_sent_before_a_later_one() {
        let mut session = Session::new();
        let shared = Arc::clone(&session.shared);
        let at_work = shared.lock();
        session.handle.send(ping(1)).unwrap();
        assert!(session.is_woken());
        drop(at_work);
        session.handle.send(ping(2)).unwrap();
        assert!(!session.is_woken());
        assert_eq!(session.hear(2), [1, 2]);
    }

    #[test]
    fn a_broadcast_is_for_the_thread_and_so_is_what_comes_behind_many() {
        let mut session = Session::new();
        let mut builder = BroadcastBuilder::new(3);
        for seq in 1..=3 {
            session.handle.offer(ping(seq), builder.receipt()).unwrap();
            builder.reached();
        }
        let delivery = builder.finish();
        session.handle.send(ping(4)).unwrap();
        assert!(session.is_woken());
        assert_eq!((session.handle.backlog(), delivery.wait(Duration::ZERO)), (4, 0));
        session.shared.lock().pump().unwrap();
        assert_eq!((session.hear(4), delivery.wait(Duration::ZERO)), (vec![1, 2, 3, 4], 3));
    }

    #[test]
    fn what_the_socket_does_not_take_is_left_to_the_thread() {
        let mut session = Session::new();
        let mut sent = 0;
        while !session.is_woken() {
            assert!(session.shared.lock().stalled_since.is_none());
            sent += 1;
            let text = format!("{sent:>MESSAGE_BYTES_MAX$}");
            session.handle.send(wire::encode(&Message::Broadcast { text }).unwrap()).unwrap();
        }
        assert!(session.shared.lock().stalled_since.is_some());
        session.handle.send(ping(sent + 1)).unwrap();
        assert_eq!(session.handle.backlog(), 1);
        for expected in 1..=sent + 1 {
            session.shared.lock().pump().unwrap();
            assert_eq!(session.hear(1), [expected]);
        }
        session.shared.lock().pump().unwrap();
        assert!(session.shared.lock().stalled_since.is_none());
    }

    #[test]
    fn nothing_goes_out_before_what_else_was_wanted() {
        let mut session = Session::new();
        session.handle.drain_unread().unwrap();
        session.handle.send(ping(1)).unwrap();
        assert_eq!((session.handle.backlog(), session.is_woken()), (1, true));
        let mut outlet = session.shared.lock();
        assert_eq!(outlet.next.take(), Some(Next::DrainUnread));
        outlet.pump().unwrap();
        drop(outlet);
        assert_eq!(session.hear(1), [1]);
        session.handle.bye(ByeReason::Leaving).unwrap();
        session.shared.lock().pump().unwrap();
        assert_eq!(session.shared.lock().next, Some(Next::Bye(ByeReason::Leaving)));
    }

    #[test]
    fn a_session_at_its_end_is_its_thread_s_alone() {
        let mut session = Session::new();
        drop(session.shared.end());
        session.handle.send(ping(1)).unwrap();
        assert_eq!((session.handle.backlog(), session.is_woken()), (1, true));
        session.shared.lock().pump().unwrap();
        assert_eq!(session.hear(1), [1]);
        session.shared.close();
        session.handle.send(ping(2)).unwrap();
        assert_eq!((session.handle.backlog(), session.is_woken()), (0, false));
    }

    #[test]
    fn a_broken_connection_is_for_the_thread_to_see_to() {
        let Session { handle, shared, waker, far, .. } = Session::new();
        // Closed with something unread, which resets the connection.
        handle.send(ping(0)).unwrap();
        drop(far);
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut fds = [PollFd::from_borrowed_fd(waker.fd(), PollFlags::IN)];
        while poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 1_000_000 })).unwrap() == 0 {
            assert!(Instant::now() < deadline, "the reset has not come");
            handle.send(ping(1)).unwrap();
        }
        assert!(matches!(shared.lock().pump(), Err(LinkError::Io(_))));
    }

    #[test]
    fn a_session_that_is_let_go_knows() {
        let Session { handle, shared, .. } = Session::new();
        handle.send(ping(1)).unwrap();
        drop(handle);
        shared.lock().pump().unwrap();
        assert_eq!(shared.lock().next, Some(Next::Gone));
    }
}
