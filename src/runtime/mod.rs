//! The coordinator and listener threads, the subscribers' queues, and the log of mesh events.

pub(crate) mod capacity;
pub(crate) mod command;
pub(crate) mod coordinator;
pub(crate) mod driver;
pub(crate) mod event_log;
pub(crate) mod listener;
pub(crate) mod member_log;
pub(crate) mod status;
pub(crate) mod subscribers;
