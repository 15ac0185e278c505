//! The coordinator, listener and discovery threads, the subscribers' queues, and the log of mesh events.

pub(crate) mod acquaintances;
pub(crate) mod capacity;
pub(crate) mod command;
pub(crate) mod coordinator;
pub(crate) mod discovery;
pub(crate) mod driver;
pub(crate) mod event_log;
pub(crate) mod listener;
pub(crate) mod member_log;
pub(crate) mod status;
pub(crate) mod subscribers;
