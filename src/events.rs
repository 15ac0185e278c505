//! A queue of events, as a subscriber reads it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::event::Event;
use crate::util::sync::{AtomicBool, AtomicU64, Ordering, Receiver, RecvTimeoutError, TryRecvError};

/// An event in a queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuedEvent {
    /// The time at which it happened.
    pub time: SystemTime,
    /// The event.
    pub event: Event,
    /// Whether it is about a peer that is no stranger. Its coming and going must not be lost behind those of strangers,
    /// whose keys are free.
    pub is_acquainted: bool,
}

/// The events of a node, in order: [`Node::events`](crate::Node::events), [`Node::subscribe`](crate::Node::subscribe).
///
/// Clones read from the same queue: each event goes to one of them. A loop over the events ends when the node
/// has stopped and all events are taken.
///
/// ```
/// # use p2p_gossip::{Config, Event, Identity, Node};
/// # let config = Config::default().port(0).bind("127.0.0.1".parse()?);
/// let node = Node::start(config, Identity::generate()?)?;
/// let events = node.events().clone();
/// node.shutdown();
/// assert!(matches!(events.iter().last(), Some(Event::Stopped)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Events {
    queue: Receiver<QueuedEvent>,
    shared: Arc<Shared>,
}

/// What the reader of a queue and the node tell each other.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Events that found the queue full.
    pub(crate) dropped: AtomicU64,
    /// Whether pings come into the queue.
    pub(crate) has_pings: AtomicBool,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self { dropped: AtomicU64::new(0), has_pings: AtomicBool::new(true) }
    }
}

/// The node has stopped, and all of its events are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node has stopped")]
#[non_exhaustive]
pub struct EventsEnded;

/// Why there is no event now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoEvent {
    /// No event waits. A later one may come.
    #[error("no event waits")]
    Empty,
    /// No event came in time. A later one may come.
    #[error("no event came in time")]
    Timeout,
    /// The node has stopped, and all of its events are taken.
    #[error("the node has stopped")]
    Ended,
}

impl Events {
    pub(crate) fn new(queue: Receiver<QueuedEvent>, shared: Arc<Shared>) -> Self {
        Self { queue, shared }
    }

    pub(crate) fn queue(&self) -> &Receiver<QueuedEvent> {
        &self.queue
    }

    pub(crate) fn has_pings(&self) -> bool {
        self.shared.has_pings.load(Ordering::Relaxed)
    }

    /// Events that this queue has lost so far because it was full.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Whether later pings come into this queue, as they do at first. Each ping wakes the thread that reads the queue, so
    /// a reader that shows none should not get any.
    pub fn set_pings(&self, are_wanted: bool) {
        self.shared.has_pings.store(are_wanted, Ordering::Relaxed);
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// The node has stopped.
    pub fn recv(&self) -> Result<Event, EventsEnded> {
        self.queue.recv().map(event).map_err(|_| EventsEnded)
    }

    /// Waits for the next event, at most for this time.
    ///
    /// # Errors
    /// No event came in time, or the node has stopped.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event, NoEvent> {
        self.queue.recv_timeout(timeout).map(event).map_err(|error| match error {
            RecvTimeoutError::Timeout => NoEvent::Timeout,
            RecvTimeoutError::Disconnected => NoEvent::Ended,
        })
    }

    /// Waits for the next event until the deadline.
    ///
    /// # Errors
    /// No event came in time, or the node has stopped.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Event, NoEvent> {
        self.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    /// Takes the next event without waiting.
    ///
    /// # Errors
    /// No event waits, or the node has stopped.
    pub fn try_recv(&self) -> Result<Event, NoEvent> {
        self.queue.try_recv().map(event).map_err(|error| match error {
            TryRecvError::Empty => NoEvent::Empty,
            TryRecvError::Disconnected => NoEvent::Ended,
        })
    }

    /// An iterator that waits for each event, and ends when the node has stopped.
    #[must_use]
    pub fn iter(&self) -> EventsIter<'_> {
        EventsIter(self)
    }

    /// An iterator over the events that wait now.
    pub fn try_iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.queue.try_iter().map(event)
    }
}

fn event(queued: QueuedEvent) -> Event {
    queued.event
}

/// Waits for each event, and ends when the node has stopped.
#[derive(Debug)]
pub struct EventsIter<'a>(&'a Events);

impl Iterator for EventsIter<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.0.recv().ok()
    }
}

impl<'a> IntoIterator for &'a Events {
    type Item = Event;
    type IntoIter = EventsIter<'a>;

    fn into_iter(self) -> EventsIter<'a> {
        EventsIter(self)
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn missing_event_has_its_reason() {
        let (queue, events) = bounded(1);
        let events = Events::new(events, Arc::new(Shared::new()));
        assert_eq!(events.try_recv(), Err(NoEvent::Empty));
        assert_eq!(events.recv_timeout(Duration::ZERO), Err(NoEvent::Timeout));
        let (time, event) = (SystemTime::now(), Event::Stopped);
        queue.send(QueuedEvent { time, event, is_acquainted: false }).unwrap();
        drop(queue);
        assert_eq!(events.try_recv(), Ok(Event::Stopped));
        assert_eq!(events.try_recv(), Err(NoEvent::Ended));
        assert_eq!(events.recv_timeout(Duration::ZERO), Err(NoEvent::Ended));
        assert_eq!(events.recv(), Err(EventsEnded));
    }
}
