//! Who is told the events: each subscriber has a bounded queue of its own, so that none can hold up
//! the node or another one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, TrySendError};

use crate::event::Event;
use crate::limits::EVENTS_QUEUED;
use crate::util::queue::{Sender, bounded};

#[derive(Debug)]
pub(crate) struct Subscribers {
    first: First,
    others: Vec<Sender<Event>>,
    /// Events that found a queue full, counted once for each.
    dropped: Arc<AtomicU64>,
}

/// Who is told from the beginning.
#[derive(Debug)]
enum First {
    Queue(Sender<Event>),
    Observer(Box<dyn Observer>),
}

/// Whom [`Node::observe`](crate::Node::observe) has told of events: a closure, or what also knows how many wait
/// in it.
pub trait Observer: Send + 'static {
    /// Takes an event, and returns at once: the whole node waits for that.
    fn tell(&mut self, event: Event);

    /// Events that wait in it for somebody slower, as [`Queues::events`](crate::runtime::status::Queues::events) tells.
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

/// A queue that a subscriber reads from, and its other end.
pub(crate) fn queue() -> (Sender<Event>, Receiver<Event>) {
    bounded(EVENTS_QUEUED)
}

impl Subscribers {
    pub(crate) fn new(first: Sender<Event>, dropped: Arc<AtomicU64>) -> Self {
        Self { first: First::Queue(first), others: Vec::new(), dropped }
    }

    /// From now on this one is told as well.
    pub(crate) fn add(&mut self, queue: Sender<Event>) {
        self.others.push(queue);
    }

    /// This one takes the place of the first queue, from what waits in that on.
    pub(crate) fn observe(&mut self, mut observer: Box<dyn Observer>, waiting: &Receiver<Event>) {
        waiting.try_iter().for_each(|event| observer.tell(event));
        self.first = First::Observer(observer);
    }

    /// Tells everybody who has room; whoever has gone is forgotten.
    pub(crate) fn tell(&mut self, event: Event) {
        let Self { first, others, dropped } = self;
        let tell = |queue: &Sender<Event>, event: Event| {
            let is_traffic = event.is_traffic();
            let outcome = queue.offer(event, is_traffic);
            if let Err(TrySendError::Full(_)) = outcome {
                dropped.fetch_add(1, Ordering::Relaxed);
            }
            !matches!(outcome, Err(TrySendError::Disconnected(_)))
        };
        others.retain(|queue| tell(queue, event.clone()));
        match first {
            First::Queue(queue) => drop(tell(queue, event)),
            First::Observer(observer) => observer.tell(event),
        }
    }

    /// Events waiting in the fullest queue.
    pub(crate) fn backlog(&self) -> usize {
        let first = match &self.first {
            First::Queue(queue) => queue.len(),
            First::Observer(observer) => observer.backlog(),
        };
        self.others.iter().map(Sender::len).fold(first, usize::max)
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
        let (second, also_gone) = queue();
        let (third, reader) = queue();
        let mut subscribers = Subscribers::new(first, Arc::default());
        subscribers.add(second);
        subscribers.add(third);
        drop((gone, also_gone));
        subscribers.tell(message());
        assert_eq!((subscribers.others.len(), reader.len()), (1, 1));
        drop(reader);
        subscribers.tell(message());
        assert!(subscribers.others.is_empty());
    }

    #[test]
    fn an_observer_misses_nothing_and_hears_nothing_twice() {
        let (first, waiting) = queue();
        let mut subscribers = Subscribers::new(first, Arc::default());
        subscribers.tell(message());
        let (heard, ears) = queue();
        let observer = move |event| heard.try_send(event).unwrap();
        subscribers.observe(Box::new(observer), &waiting);
        subscribers.tell(Event::Stopped);
        assert_eq!(ears.try_iter().collect::<Vec<_>>(), [message(), Event::Stopped]);
        assert!(waiting.recv().is_err(), "nothing more comes this way");
    }

    #[test]
    fn the_fullest_queue_counts_an_observer_s_included() {
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
        subscribers.tell(message());
        subscribers.add(second);
        subscribers.observe(Box::new(Slow(0)), &waiting);
        subscribers.tell(message());
        assert_eq!((reader.len(), subscribers.backlog()), (1, 2));
        (0..3).for_each(|_| subscribers.tell(message()));
        subscribers.observe(Box::new(|_| {}), &waiting);
        assert_eq!((reader.len(), subscribers.backlog()), (4, 4));
    }
}
