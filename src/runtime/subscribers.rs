//! Event fan-out: each subscriber has its own bounded queue, so a slow one delays neither the node nor the others.

use std::sync::Arc;
use std::time::SystemTime;

use crate::event::Event;
use crate::events::{Events, QueuedEvent, Shared};
use crate::limits::EVENTS_QUEUED;
use crate::util::queue::{Sender, Share, bounded};
use crate::util::sync::{Ordering, TrySendError};

#[derive(Debug, Default)]
pub(crate) struct Subscribers(Vec<Subscriber>);

/// The coordinator's end of one subscription.
#[derive(Debug)]
pub(crate) struct Subscriber {
    queue: Sender<QueuedEvent>,
    shared: Arc<Shared>,
}

/// A subscription: the coordinator's end and the reader's.
pub(crate) fn subscription() -> (Subscriber, Events) {
    let (queue, events) = bounded(EVENTS_QUEUED);
    let shared = Arc::new(Shared::new());
    (Subscriber { queue, shared: Arc::clone(&shared) }, Events::new(events, shared))
}

impl Subscribers {
    /// Adds a subscriber. It gets all later events.
    pub(crate) fn add(&mut self, subscriber: Subscriber) {
        self.0.push(subscriber);
    }

    /// Queues the event for every subscriber that wants it and has room, and removes subscribers that dropped their receiver.
    /// News of acquainted peers has more room than that of strangers, and that more than pings and messages. The last event,
    /// [`Event::Stopped`], needs no room.
    pub(crate) fn publish(&mut self, event: &Event, is_acquainted: bool) {
        let time = SystemTime::now();
        let share = match event {
            Event::Ping { .. } | Event::Message { .. } => Share::Half,
            Event::Up { .. }
            | Event::Down { .. }
            | Event::Left { .. }
            | Event::Path { .. }
            | Event::Verdict { .. }
            | Event::Unstable { .. }
                if !is_acquainted =>
            {
                Share::ThreeQuarters
            }
            _ => Share::All,
        };
        let is_ping = matches!(event, Event::Ping { .. });
        self.0.retain(|subscriber| {
            if is_ping && !subscriber.shared.has_pings.load(Ordering::Relaxed) {
                return true;
            }
            let item = QueuedEvent { time, event: event.clone(), is_acquainted };
            let outcome = match event {
                Event::Stopped => subscriber.queue.send_past_limit(item),
                _ => subscriber.queue.offer_within(item, share),
            };
            if let Err(TrySendError::Full(_)) = outcome {
                subscriber.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
            !matches!(outcome, Err(TrySendError::Disconnected(_)))
        });
    }

    /// Events waiting in the longest queue.
    pub(crate) fn backlog(&self) -> usize {
        self.0.iter().map(|subscriber| subscriber.queue.len()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::internals::sample;
    use crate::limits::EVENTS_QUEUED_WITH_TRAFFIC;
    use crate::trust::peer_id::PeerId;

    fn message() -> Event {
        let peer = PeerId::from_bytes([7; 32]);
        let addr = "127.0.0.1:1".parse().unwrap();
        Event::Message { peer, name: String::new(), addr, text: "x".to_owned() }
    }

    fn ping() -> Event {
        let addr = "127.0.0.1:1".parse().unwrap();
        sample::ping(PeerId::from_bytes([7; 32]), "", addr, 1, "ping", None)
    }

    fn left() -> Event {
        let peer = PeerId::from_bytes([7; 32]);
        Event::Left { peer, name: String::new(), addr: "127.0.0.1:1".parse().unwrap(), members: 1 }
    }

    #[test]
    fn idle_subscriber_costs_the_others_nothing() {
        let ((first, reader), (second, idle)) = (subscription(), subscription());
        let mut subscribers = Subscribers::default();
        subscribers.add(first);
        subscribers.add(second);
        for _ in 0..EVENTS_QUEUED {
            subscribers.publish(&message(), false);
            assert!(reader.try_recv().is_ok());
        }
        let dropped = (EVENTS_QUEUED - EVENTS_QUEUED_WITH_TRAFFIC) as u64;
        assert_eq!((reader.dropped(), idle.dropped()), (0, dropped));
        assert_eq!(subscribers.backlog(), EVENTS_QUEUED_WITH_TRAFFIC);
        // Membership events still have room.
        subscribers.publish(&left(), true);
        assert_eq!(subscribers.backlog(), EVENTS_QUEUED_WITH_TRAFFIC + 1);
        assert_eq!(reader.try_recv(), Ok(left()));
    }

    #[test]
    fn pings_come_only_to_subscribers_that_want_them() {
        let ((first, reader), (second, other)) = (subscription(), subscription());
        let mut subscribers = Subscribers::default();
        subscribers.add(first);
        subscribers.add(second);
        for are_wanted in [false, true] {
            reader.set_pings(are_wanted);
            subscribers.publish(&ping(), false);
            subscribers.publish(&left(), false);
            assert_eq!(reader.try_iter().count(), 1 + usize::from(are_wanted));
            assert_eq!(other.try_iter().count(), 2);
        }
    }

    #[test]
    fn last_event_reaches_a_full_queue() {
        let (subscriber, reader) = subscription();
        let mut subscribers = Subscribers::default();
        subscribers.add(subscriber);
        (0..=EVENTS_QUEUED).for_each(|_| subscribers.publish(&left(), true));
        subscribers.publish(&Event::Stopped, false);
        drop(subscribers);
        assert_eq!((reader.dropped(), reader.iter().count()), (1, EVENTS_QUEUED + 1));
    }

    #[test]
    fn every_subscriber_gets_the_time_of_the_event() {
        let ((first, reader), (second, late)) = (subscription(), subscription());
        let mut subscribers = Subscribers::default();
        subscribers.add(first);
        subscribers.add(second);
        let before = SystemTime::now();
        subscribers.publish(&message(), false);
        let queued = reader.queue().recv().unwrap();
        assert!(before <= queued.time && queued.time <= SystemTime::now());
        assert_eq!(late.queue().recv(), Ok(queued));
    }

    #[test]
    fn subscriber_without_a_receiver_is_removed() {
        let [(first, gone), (second, also_gone), (third, reader)] = [(); 3].map(|()| subscription());
        let mut subscribers = Subscribers::default();
        [first, second, third].into_iter().for_each(|subscriber| subscribers.add(subscriber));
        drop((gone, also_gone));
        subscribers.publish(&message(), false);
        assert_eq!((subscribers.0.len(), subscribers.backlog()), (1, 1));
        drop(reader);
        subscribers.publish(&message(), false);
        assert!(subscribers.0.is_empty());
    }
}
