//! Addresses, sockets, and the waker that interrupts a thread in poll(2).

pub(crate) mod addr;
pub(crate) mod socket;
pub(crate) mod waker;
