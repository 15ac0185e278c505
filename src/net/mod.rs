//! Network addresses, interfaces, TCP sockets, and the waker of a thread in poll(2).

pub(crate) mod addr;
pub(crate) mod interfaces;
pub(crate) mod listen;
pub(crate) mod socket;
pub(crate) mod wake_fd;
pub(crate) mod waker;
