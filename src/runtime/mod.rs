//! The threads of a node and what connects them: the coordinator, the listener, the subscribers.

pub(crate) mod coordinator;
pub(crate) mod event_log;
pub(crate) mod listener;
pub(crate) mod member_log;
pub(crate) mod status;
pub(crate) mod subscribers;
