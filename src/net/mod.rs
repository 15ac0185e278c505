//! Network addresses, interfaces, sockets, beacons, and the waker of a thread in poll(2).

pub(crate) mod addr;
pub(crate) mod beacon;
pub(crate) mod beacon_pace;
pub(crate) mod dial_addr_error;
pub(crate) mod discoverer;
pub(crate) mod host_name;
pub(crate) mod interface_name;
pub(crate) mod interfaces;
pub(crate) mod links;
pub(crate) mod listen;
pub(crate) mod local_ip;
pub(crate) mod nat_pmp;
pub(crate) mod socket;
pub(crate) mod wake_fd;
pub(crate) mod waker;
pub(crate) mod zone;
