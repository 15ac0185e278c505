//! Bounded queues that take memory only for their waiting items.
//!
//! crossbeam's bounded channel allocates and touches all of its slots when it is made: 10 KB for each
//! session's outbox and 0.7 MB for each queue of events. These queues are nearly always empty.

use super::sync::{self, Receiver, TrySendError, unbounded};

/// The sending end. Meant for one sending thread: with several, each may exceed the limit by one item.
#[derive(Debug)]
pub struct Sender<T> {
    inner: sync::Sender<T>,
    capacity: usize,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), capacity: self.capacity }
    }
}

/// A queue of at most `capacity` items.
#[must_use]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (inner, receiver) = unbounded();
    (Sender { inner, capacity }, receiver)
}

impl<T> Sender<T> {
    /// Queues an item if there is room.
    ///
    /// # Errors
    /// The queue is full, or no receiver is left. The error holds the unsent item.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        if self.inner.len() >= self.capacity {
            return Err(TrySendError::Full(value));
        }
        self.send_past_limit(value)
    }

    /// As [`Sender::try_send`], but an item that `gives_way` may use only half of the queue, so that a flood
    /// of such items does not displace the others.
    ///
    /// # Errors
    /// As [`Sender::try_send`].
    pub fn offer(&self, value: T, gives_way: bool) -> Result<(), TrySendError<T>> {
        if gives_way && self.inner.len() >= self.capacity / 2 {
            return Err(TrySendError::Full(value));
        }
        self.try_send(value)
    }

    /// Queues an item even if the queue is full. Meant for the last items of a queue.
    ///
    /// # Errors
    /// No receiver is left. The error holds the unsent item.
    pub fn send_past_limit(&self, value: T) -> Result<(), TrySendError<T>> {
        self.inner.try_send(value)
    }

    /// Number of waiting items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_queue_has_room_again_after_an_item_is_taken() {
        let (sender, receiver) = bounded(2);
        assert_eq!((sender.try_send(1), sender.try_send(2)), (Ok(()), Ok(())));
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!((receiver.try_recv(), sender.try_send(4)), (Ok(1), Ok(())));
        assert_eq!((sender.send_past_limit(5), sender.len()), (Ok(()), 3));
        assert_eq!(sender.try_send(6), Err(TrySendError::Full(6)));
    }

    #[test]
    fn items_that_give_way_use_half_of_the_queue() {
        let (sender, receiver) = bounded(4);
        assert_eq!((sender.offer(1, true), sender.offer(2, true)), (Ok(()), Ok(())));
        assert_eq!(sender.offer(3, true), Err(TrySendError::Full(3)));
        assert_eq!((sender.offer(4, false), sender.offer(5, false)), (Ok(()), Ok(())));
        assert_eq!(sender.offer(6, false), Err(TrySendError::Full(6)));
        drop(receiver);
        assert_eq!(sender.offer(7, false), Err(TrySendError::Disconnected(7)));
    }

    #[test]
    fn queue_without_a_receiver_keeps_nothing() {
        let (sender, receiver) = bounded(2);
        drop(receiver);
        assert_eq!(sender.try_send(1), Err(TrySendError::Disconnected(1)));
        assert!(sender.is_empty());
    }
}
