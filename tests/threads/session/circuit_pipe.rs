//! What one thread puts into a pipe reaches the thread at the other end, and wakes it.

use std::sync::Arc;

use super::pipe::{Wake, pipe};
use crate::net::waker::Waker;
use crate::util::sync::thread;
use crate::wire::CircuitReason;

impl Wake for Waker {
    fn wake(&self) {
        Self::wake(self);
    }
}

/// One thread writes twice and ends the pipe; the other looks, waits, clears its waker, as the loop of a session does.
pub(super) fn news() {
    let [a, b] = [(); 2].map(|()| Arc::new(Waker::new().unwrap()));
    let [mut near, far] = pipe([a, Arc::clone(&b) as Arc<dyn Wake>]);
    let reader = thread::spawn(move || {
        let mut bytes = Vec::new();
        loop {
            let news = far.take(1);
            bytes.extend(news.bytes);
            if let Some(reason) = news.ended {
                assert_eq!(reason, CircuitReason::Ended);
                return bytes;
            }
            if !far.has_news() {
                b.fd().wait();
                b.clear();
            }
        }
    });
    near.write(b"a");
    near.wake();
    near.write(b"b");
    near.wake();
    near.end(CircuitReason::Ended);
    assert_eq!(reader.join().unwrap(), b"ab");
}
