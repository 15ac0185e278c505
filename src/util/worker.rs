//! Starts named threads and waits for their end.

use std::io;
use std::time::Instant;

use super::sync::thread::{self, JoinHandle};
use super::sync::{Receiver, Sender, bounded};

/// A thread whose end can be waited for. Dropping this lets the thread run on.
#[derive(Debug)]
pub struct Worker {
    thread: JoinHandle<()>,
    /// Disconnected once the thread's body has returned or panicked; nothing is ever sent.
    ended: Receiver<()>,
}

impl Worker {
    /// Starts a thread. `name` appears in panics and in the system's lists of threads.
    ///
    /// # Errors
    /// The system has no thread or memory left.
    pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (running, ended) = bounded(0);
        let builder = thread::Builder::new().name(name.to_owned());
        let thread = builder.spawn(move || {
            let _running: Sender<()> = running;
            body();
        })?;
        Ok(Self { thread, ended })
    }

    /// Waits until the thread has ended.
    pub fn join(self) {
        // The panic hook has reported a panic.
        let _ = self.thread.join();
    }

    /// Waits until the thread has ended, but not past `deadline`. Returns whether it has ended.
    #[must_use]
    pub fn join_until(self, deadline: Instant) -> bool {
        let has_ended = matches!(self.ended.recv_deadline(deadline), Err(error) if error.is_disconnected());
        if has_ended {
            self.join();
        }
        has_ended
    }

    /// Becomes ready for `select!` when the thread has ended.
    #[must_use]
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }
}

/// Starts a thread without a way to wait for its end, with a stack of `stack_bytes` bytes.
///
/// # Errors
/// The system has no thread or memory left.
pub fn spawn_detached(
    name: String,
    stack_bytes: usize,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    thread::Builder::new().name(name).stack_size(stack_bytes).spawn(body).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn end_of_a_thread_is_seen_even_after_a_panic() {
        let deadline = Instant::now() + Duration::from_secs(60);
        assert!(Worker::spawn("returns", || {}).unwrap().join_until(deadline));
        assert!(Worker::spawn("panics", || panic!("on purpose")).unwrap().join_until(deadline));
    }

    #[test]
    fn wait_for_a_running_thread_ends_at_its_deadline() {
        let (stop, stopped) = bounded::<()>(0);
        let worker = Worker::spawn("waits", move || {
            let _ = stopped.recv();
        })
        .unwrap();
        assert!(!worker.join_until(Instant::now()));
        drop(stop);
    }
}
