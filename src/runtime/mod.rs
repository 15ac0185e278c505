//! The threads of the coordinator, the listener, the beacons and the port mapping, the subscribers' queues, the log of mesh events, and the history of
//! each peer.

pub(crate) mod capacity;
pub(crate) mod command;
pub(crate) mod coordinator;
pub(crate) mod discovery;
pub(crate) mod driver;
pub(crate) mod event_log;
pub(crate) mod history;
pub(crate) mod listener;
pub(crate) mod member_log;
pub(crate) mod port_mapping;
pub(crate) mod status;
mod stop;
pub(crate) mod subscribers;
