//! Who is told the events: each subscriber has a bounded queue of its own, so that none can hold up
//! the node or another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, TrySendError};

use crate::config::EVENTS_QUEUED;
use crate::mesh::event::Event;
use crate::queue::{Sender, bounded};

#[derive(Debug)]
pub(crate) struct Subscribers {
    queues: Vec<Sender<Event>>,
    /// Events that found a queue full, counted once for each.
    dropped: Arc<AtomicU64>,
}

/// A queue that a subscriber reads from, and its other end.
pub(crate) fn queue() -> (Sender<Event>, Receiver<Event>) {
    bounded(EVENTS_QUEUED)
}

impl Subscribers {
    pub(crate) fn new(first: Sender<Event>, dropped: Arc<AtomicU64>) -> Self {
        Self { queues: vec![first], dropped }
    }

    /// From now on this one is told as well.
    pub(crate) fn add(&mut self, queue: Sender<Event>) {
        self.queues.push(queue);
    }

    /// Tells everybody who has room; whoever has gone is forgotten.
    pub(crate) fn tell(&mut self, event: Event) {
        let Self { queues, dropped } = self;
        let tell = |queue: &Sender<Event>, event: Event| {
            let is_traffic = event.is_traffic();
            let outcome = queue.offer(event, is_traffic);
            if let Err(TrySendError::Full(_)) = outcome {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            !matches!(outcome, Err(TrySendError::Disconnected(_)))
        };
        // The usual case: one subscriber, no copy.
        if let [only] = queues.as_slice() {
            if !tell(only, event) {
                queues.clear();
            }
            return;
        }
        queues.retain(|queue| tell(queue, event.clone()));
    }

    /// Events waiting in the fullest queue.
    pub(crate) fn backlog(&self) -> usize {
        self.queues.iter().map(Sender::len).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EVENTS_QUEUED_WITH_TRAFFIC;
    use crate::identity::PeerId;

    fn message() -> Event {
        let peer = PeerId::from_bytes([7; 32]);
        let addr = "127.0.0.1:1".parse().unwrap();
        Event::Message { peer, name: String::new(), addr, text: "x".to_owned() }
    }

    #[test]
    fn one_that_reads_nothing_costs_the_others_nothing() {
        let (first, reader) = queue();
        let (second, idle) = queue();
        let dropped = Arc::new(AtomicU64::new(0));
        let mut subscribers = Subscribers::new(first, Arc::clone(&dropped));
        subscribers.add(second);
        for _ in 0..EVENTS_QUEUED {
            subscribers.tell(message());
            assert!(reader.try_recv().is_ok());
        }
        assert_eq!(idle.len(), EVENTS_QUEUED_WITH_TRAFFIC);
        assert_eq!(dropped.load(Ordering::Relaxed), (EVENTS_QUEUED - EVENTS_QUEUED_WITH_TRAFFIC) as u64);
        // Membership still finds room.
        subscribers.tell(Event::Stopped);
        assert_eq!(idle.len(), EVENTS_QUEUED_WITH_TRAFFIC + 1);
        assert_eq!(reader.try_recv(), Ok(Event::Stopped));
    }

    #[test]
    fn whoever_goes_is_forgotten() {
        let (first, gone) = queue();
        let (second, reader) = queue();
        let mut subscribers = Subscribers::new(first, Arc::default());
        subscribers.add(second);
        drop(gone);
        subscribers.tell(message());
        assert_eq!((subscribers.queues.len(), reader.len()), (1, 1));
        drop(reader);
        subscribers.tell(message());
        assert!(subscribers.queues.is_empty());
    }
}
