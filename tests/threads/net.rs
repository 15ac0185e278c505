//! The program's waker, and models of the descriptors that it and the listener use.

pub(crate) mod listen;
pub(crate) mod wake_fd;
#[path = "../../src/net/waker.rs"]
pub(crate) mod waker;
