//! The state that all sessions of a node share.

use std::sync::Arc;

#[cfg(test)]
use crossbeam_channel::Receiver;
use crossbeam_channel::Sender;

use super::counters::Counters;
use super::events::{Received, SessionEvent};
use super::hello::HelloExchange;
use super::lookups::Lookups;
use super::stacks::Stacks;
use crate::mesh::SessionId;
use crate::net::addr::LocalIp;
#[cfg(test)]
use crate::trust::access::Access;
#[cfg(test)]
use crate::trust::identity::Identity;
use crate::trust::tls::Tls;
use crate::util::queue;
#[cfg(test)]
use crate::wire::Hello;

/// The state that all sessions of a node share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) tls: Tls,
    pub(crate) hello_exchange: HelloExchange,
    pub(crate) stacks: Stacks,
    pub(crate) lookups: Lookups,
    /// Source address of dials, if the node listens on one address only.
    pub(crate) source: Option<LocalIp>,
    pub(crate) inbox: Sender<(SessionId, SessionEvent)>,
    /// Queue for messages that need not wake the coordinator.
    pub(crate) routine: queue::Sender<Received>,
    pub(crate) counters: Arc<Counters>,
}

/// A context for tests, with the receivers of its session events and of its routine messages.
#[cfg(test)]
pub(crate) fn context(
    identity: &Identity,
) -> (Arc<Context>, Receiver<(SessionId, SessionEvent)>, Receiver<Received>) {
    let (inbox, reports) = crossbeam_channel::bounded(1);
    let (routine, beats) = queue::bounded(1);
    let context = Context {
        tls: Tls::new(identity, Access::default()).unwrap(),
        hello_exchange: HelloExchange::new(Hello::plain(), Vec::new()),
        stacks: Stacks::default(),
        lookups: Lookups::new(crate::test_now()),
        source: None,
        inbox,
        routine,
        counters: Arc::default(),
    };
    (Arc::new(context), reports, beats)
}
