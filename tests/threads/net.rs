//! The program's waker, and models of the descriptors that it and the listener use.

pub(crate) mod listen;
pub(crate) mod wake_fd;
pub(crate) mod addr {
    pub(crate) use p2p_gossip::DialAddr;
}

#[path = "../../src/net/waker.rs"]
pub(crate) mod waker;
