//! The coordinator's requests reach a session's thread, and wake it.

use std::sync::Arc;
use std::time::Duration;

use super::delivery::{Delivery, Receipt, receipts};
use super::eviction::Eviction;
use super::pending::PendingConnections;
use super::protocol::Request;
use super::session_handle::{Outgoing, SessionEnd, SessionHandle, handle_and_end};
use crate::mesh::SessionId;
use crate::net::waker::Waker;
use crate::util::sync::{TryRecvError, thread};
use crate::wire::{self, ByeReason, Frame, Message};

/// What a session's thread has taken so far.
#[derive(Debug, Default)]
struct Taken {
    heartbeat: bool,
    drain: bool,
    frames: usize,
    goodbye: bool,
    receipts: Vec<Receipt>,
    release: bool,
}

fn new_session() -> (SessionHandle, SessionEnd) {
    handle_and_end(Arc::new(Waker::new().unwrap()))
}

fn any_frame() -> Frame {
    wire::encode(&Message::PeersRequest).unwrap()
}

impl Taken {
    /// Takes requests as the loop of an established session does: looks for all of them, waits, clears the waker.
    fn take_until(&mut self, end: &SessionEnd, is_over: impl Fn(&Self) -> bool) {
        loop {
            self.drain |= end.signals.take_drain_request();
            self.heartbeat |= end.signals.take_heartbeat_request().is_some();
            loop {
                match end.outbox.try_recv() {
                    Ok(Outgoing::Request(Request::Send(_))) => self.frames += 1,
                    Ok(Outgoing::Request(Request::Bye(_))) => self.goodbye = true,
                    Ok(Outgoing::Request(other)) => panic!("no thread sent {other:?}"),
                    Ok(Outgoing::Message(_, receipt)) => self.receipts.push(receipt),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.release = true;
                        break;
                    }
                }
            }
            if is_over(self) {
                return;
            }
            end.waker.fd().wait();
            end.waker.clear();
        }
    }
}

/// The session must take what `request` asks for. The handle lives until then, because its drop would wake the session.
fn is_taken(request: impl Fn(&SessionHandle), is_over: impl Fn(&Taken) -> bool + 'static) {
    let (handle, end) = new_session();
    let session = thread::spawn(move || Taken::default().take_until(&end, is_over));
    request(&handle);
    session.join().unwrap();
    drop(handle);
}

pub(super) fn heartbeat() {
    is_taken(SessionHandle::heartbeat, |taken| taken.heartbeat);
}

pub(super) fn drain() {
    is_taken(SessionHandle::drain_unread, |taken| taken.drain);
}

pub(super) fn frame() {
    is_taken(|handle| handle.send(any_frame()).unwrap(), |taken| taken.frames == 1);
}

pub(super) fn goodbye() {
    is_taken(|handle| handle.bye(ByeReason::Leaving).unwrap(), |taken| taken.goodbye);
}

pub(super) fn release() {
    let (handle, end) = new_session();
    let session = thread::spawn(move || {
        let mut taken = Taken::default();
        taken.take_until(&end, |taken| taken.release);
        taken
    });
    handle.send(any_frame()).unwrap();
    drop(handle);
    assert_eq!(session.join().unwrap().frames, 1);
}

pub(super) fn two_requests() {
    is_taken(
        |handle| {
            handle.heartbeat();
            handle.send(any_frame()).unwrap();
        },
        |taken| taken.heartbeat && taken.frames == 1,
    );
    is_taken(
        |handle| {
            handle.send(any_frame()).unwrap();
            handle.drain_unread();
        },
        |taken| taken.drain && taken.frames == 1,
    );
}

/// The listener evicts a connection while the coordinator sends a request to the same thread.
pub(super) fn two_threads() {
    let waker = Arc::new(Waker::new().unwrap());
    let connections = PendingConnections::new(1);
    let eviction = Eviction::new(&waker);
    let pending = connections.add(SessionId::accepted(1), ([192, 0, 2, 1], 1).into(), &eviction);
    let (handle, end) = handle_and_end(waker);
    let session = thread::spawn(move || {
        Taken::default().take_until(&end, |taken| taken.heartbeat && eviction.is_evicted());
        drop(pending);
    });
    let listener = thread::spawn(move || connections.evict_all());
    handle.heartbeat();
    listener.join().unwrap();
    session.join().unwrap();
    drop(handle);
}

pub(super) fn full() {
    let (handle, end) = new_session();
    let session = thread::spawn(move || {
        let mut taken = Taken::default();
        taken.take_until(&end, |taken| taken.release);
        taken
    });
    let queued = (0..3).filter(|_| handle.send(any_frame()).is_ok()).count();
    assert!(queued >= crate::limits::OUTBOX_FRAMES);
    drop(handle);
    assert_eq!(session.join().unwrap().frames, queued);
}

/// One session writes the message; another one ends without taking it.
pub(super) fn receipts_of_two_sessions() {
    let (first, end) = new_session();
    let (second, ended) = new_session();
    let writer = thread::spawn(move || {
        let mut taken = Taken::default();
        taken.take_until(&end, |taken| taken.release);
        taken.receipts.drain(..).for_each(Receipt::written);
    });
    let ending = thread::spawn(move || drop(ended));
    let (receipt, receipts) = receipts();
    for handle in [&first, &second] {
        handle.offer(any_frame(), receipt.clone()).unwrap();
    }
    drop(receipt);
    let delivery = Delivery::new(2, 0, receipts);
    drop((first, second));
    assert_eq!(delivery.wait(Duration::MAX), 1);
    writer.join().unwrap();
    ending.join().unwrap();
}
