//! The checker's counterpart of the program's `net::wake_fd`: an eventfd and poll(2).

use std::io;

use loom::sync::{Condvar, Mutex};

#[derive(Debug)]
pub(crate) struct WakeFd {
    is_readable: Mutex<bool>,
    changed: Condvar,
}

impl WakeFd {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { is_readable: Mutex::new(false), changed: Condvar::new() })
    }

    pub(crate) fn signal(&self) {
        *self.is_readable.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub(crate) fn reset(&self) {
        *self.is_readable.lock().unwrap() = false;
    }

    pub(crate) fn is_readable(&self) -> bool {
        *self.is_readable.lock().unwrap()
    }

    /// Waits as poll(2) does.
    pub(crate) fn wait(&self) {
        let mut is_readable = self.is_readable.lock().unwrap();
        while !*is_readable {
            is_readable = self.changed.wait(is_readable).unwrap();
        }
    }
}
