//! Event fan-out: each subscriber has its own bounded queue, so a slow one delays neither the node nor the others.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, TrySendError};

use crate::event::Event;
use crate::limits::EVENTS_QUEUED;
use crate::util::queue::{Sender, Share, bounded};

#[derive(Debug)]
pub(crate) struct Subscribers {
    primary: Primary,
    /// Queues that were added with [`Subscribers::add`].
    added: Vec<Sender<Event>>,
    /// Events that found a queue full, counted once for each such queue.
    dropped: Arc<AtomicU64>,
}

/// The subscriber that gets every event from the start of the node.
#[derive(Debug)]
enum Primary {
    Queue(Sender<Event>),
    Observer(Box<dyn Observer>),
}

/// Receives events on the coordinator's thread; see [`Node::observe`](crate::Node::observe). A closure is one.
/// Another type can also report its backlog.
pub trait Observer: Send + 'static {
    /// Takes an event. Must return at once, because the whole node waits for it.
    fn tell(&mut self, event: Event);

    /// Number of events that wait inside the observer. Counts for
    /// [`Queues::events`](crate::runtime::status::Queues::events).
    fn backlog(&self) -> usize {
        0
    }
}

impl<F: FnMut(Event) + Send + 'static> Observer for F {
    fn tell(&mut self, event: Event) {
        self(event);
    }
}

impl fmt::Debug for dyn Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// A subscriber's queue: the sending end and the receiving end.
pub(crate) fn queue() -> (Sender<Event>, Receiver<Event>) {
    bounded(EVENTS_QUEUED)
}

impl Subscribers {
    pub(crate) fn new(primary: Sender<Event>, dropped: Arc<AtomicU64>) -> Self {
        Self { primary: Primary::Queue(primary), added: Vec::new(), dropped }
    }

    /// Adds a queue. It gets all later events.
    pub(crate) fn add(&mut self, queue: Sender<Event>) {
        self.added.push(queue);
    }

    /// Replaces the primary queue by an observer. The observer first gets the events that wait in the queue.
    pub(crate) fn observe(&mut self, mut observer: Box<dyn Observer>, waiting: &Receiver<Event>) {
        waiting.try_iter().for_each(|event| observer.tell(event));
        self.primary = Primary::Observer(observer);
    }

    /// Queues the event for every subscriber with room, and removes subscribers that dropped their receiver. News of
    /// acquainted peers has more room than that of strangers, and that more than pings and messages.
    pub(crate) fn publish(&mut self, event: Event, is_acquainted: bool) {
        let Self { primary, added, dropped } = self;
        let queue_event = |queue: &Sender<Event>, event: Event| {
            let share = match event {
                Event::Ping { .. } | Event::Message { .. } => Share::Half,
                Event::Up { .. } | Event::Down { .. } | Event::Left { .. } if !is_acquainted => {
                    Share::ThreeQuarters
                }
                _ => Share::All,
            };
            let outcome = queue.offer_within(event, share);
            if let Err(TrySendError::Full(_)) = outcome {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            !matches!(outcome, Err(TrySendError::Disconnected(_)))
        };
        added.retain(|queue| queue_event(queue, event.clone()));
        match primary {
            Primary::Queue(queue) => drop(queue_event(queue, event)),
            Primary::Observer(observer) => observer.tell(event),
        }
    }

    /// Events waiting in the longest queue.
    pub(crate) fn backlog(&self) -> usize {
        let primary = match &self.primary {
            Primary::Queue(queue) => queue.len(),
            Primary::Observer(observer) => observer.backlog(),
        };
        self.added.iter().map(Sender::len).fold(primary, usize::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::EVENTS_QUEUED_WITH_TRAFFIC;
    use crate::trust::peer_id::PeerId;

    fn message() -> Event {
        let peer = PeerId::from_bytes([7; 32]);
        let addr = "127.0.0.1:1".parse().unwrap();
        Event::Message { peer, name: String::new(), addr, text: "x".to_owned() }
    }

    #[test]
    fn idle_subscriber_costs_the_others_nothing() {
        let (first, reader) = queue();
        let (second, idle) = queue();
        let dropped = Arc::new(AtomicU64::new(0));
        let mut subscribers = Subscribers::new(first, Arc::clone(&dropped));
        subscribers.add(second);
        for _ in 0..EVENTS_QUEUED {
            subscribers.publish(message(), false);
            assert!(reader.try_recv().is_ok());
        }
        assert_eq!(idle.len(), EVENTS_QUEUED_WITH_TRAFFIC);
        assert_eq!(dropped.load(Ordering::Relaxed), (EVENTS_QUEUED - EVENTS_QUEUED_WITH_TRAFFIC) as u64);
        // Membership events still have room.
        subscribers.publish(Event::Stopped, false);
        assert_eq!(idle.len(), EVENTS_QUEUED_WITH_TRAFFIC + 1);
        assert_eq!(reader.try_recv(), Ok(Event::Stopped));
    }

    #[test]
    fn subscriber_without_a_receiver_is_removed() {
        let (first, gone) = queue();
        let (second, also_gone) = queue();
        let (third, reader) = queue();
        let mut subscribers = Subscribers::new(first, Arc::default());
        subscribers.add(second);
        subscribers.add(third);
        drop((gone, also_gone));
        subscribers.publish(message(), false);
        assert_eq!((subscribers.added.len(), reader.len()), (1, 1));
        drop(reader);
        subscribers.publish(message(), false);
        assert!(subscribers.added.is_empty());
    }

    #[test]
    fn observer_gets_every_event_once() {
        let (first, waiting) = queue();
        let mut subscribers = Subscribers::new(first, Arc::default());
        subscribers.publish(message(), false);
        let (seen, observed) = queue();
        let observer = move |event| seen.try_send(event).unwrap();
        subscribers.observe(Box::new(observer), &waiting);
        subscribers.publish(Event::Stopped, false);
        assert_eq!(observed.try_iter().collect::<Vec<_>>(), [message(), Event::Stopped]);
        assert!(waiting.recv().is_err(), "the primary queue is closed");
    }

    #[test]
    fn backlog_is_the_longest_queue_including_the_observer() {
        struct Slow(usize);
        impl Observer for Slow {
            fn tell(&mut self, _: Event) {
                self.0 += 1;
            }

            fn backlog(&self) -> usize {
                self.0
            }
        }
        let ((first, waiting), (second, reader)) = (queue(), queue());
        let mut subscribers = Subscribers::new(first, Arc::default());
        subscribers.publish(message(), false);
        subscribers.add(second);
        subscribers.observe(Box::new(Slow(0)), &waiting);
        subscribers.publish(message(), false);
        assert_eq!((reader.len(), subscribers.backlog()), (1, 2));
        (0..3).for_each(|_| subscribers.publish(message(), false));
        subscribers.observe(Box::new(|_| {}), &waiting);
        assert_eq!((reader.len(), subscribers.backlog()), (4, 4));
    }
}
