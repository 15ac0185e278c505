//! Bounded queues that take memory only for what waits in them.
//!
//! crossbeam's bounded channel claims and touches all of its places when it is made: 12 KB for each
//! session's outbox and 0.6 MB for each queue of events, which are empty nearly always.

use crossbeam_channel::{Receiver, RecvError, Select, TrySendError, unbounded};

/// The sending end. For one thread; with several, each may put one more in than there is room for.
#[derive(Debug)]
pub struct Sender<T> {
    inner: crossbeam_channel::Sender<T>,
    capacity: usize,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), capacity: self.capacity }
    }
}

/// A queue of at most so many.
#[must_use]
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (inner, receiver) = unbounded();
    (Sender { inner, capacity }, receiver)
}

/// Waits for the next one. [`Receiver::recv`] first spins and yields its core several times, which for a
/// thread that is woken now and then, on a machine with more to do, is as much work as all the rest.
///
/// # Errors
/// The queue is empty and no sender is left.
pub fn wait<T>(receiver: &Receiver<T>) -> Result<T, RecvError> {
    let mut select = Select::new();
    select.recv(receiver);
    select.select().recv(receiver)
}

impl<T> Sender<T> {
    /// Puts one more in, if there is room.
    ///
    /// # Errors
    /// There is none, or no receiver is left; what was to be sent is in the error.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        if self.inner.len() >= self.capacity {
            return Err(TrySendError::Full(value));
        }
        self.send_past_limit(value)
    }

    /// As [`Sender::try_send`], but of what gives way only half of the queue may be full: a flood of it must
    /// not hide the rest.
    ///
    /// # Errors
    /// As [`Sender::try_send`].
    pub fn offer(&self, value: T, gives_way: bool) -> Result<(), TrySendError<T>> {
        if gives_way && self.inner.len() >= self.capacity / 2 {
            return Err(TrySendError::Full(value));
        }
        self.try_send(value)
    }

    /// Puts one more in whether there is room or not, for the last ones.
    ///
    /// # Errors
    /// No receiver is left.
    pub fn send_past_limit(&self, value: T) -> Result<(), TrySendError<T>> {
        self.inner.try_send(value)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_and_again_when_one_is_taken() {
        let (sender, receiver) = bounded(2);
        assert_eq!((sender.try_send(1), sender.try_send(2)), (Ok(()), Ok(())));
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!((receiver.try_recv(), sender.try_send(4)), (Ok(1), Ok(())));
        assert_eq!((sender.send_past_limit(5), sender.len()), (Ok(()), 3));
        assert_eq!(sender.try_send(6), Err(TrySendError::Full(6)));
    }

    #[test]
    fn what_gives_way_takes_half_of_the_room() {
        let (sender, receiver) = bounded(4);
        assert_eq!((sender.offer(1, true), sender.offer(2, true)), (Ok(()), Ok(())));
        assert_eq!(sender.offer(3, true), Err(TrySendError::Full(3)));
        assert_eq!((sender.offer(4, false), sender.offer(5, false)), (Ok(()), Ok(())));
        assert_eq!(sender.offer(6, false), Err(TrySendError::Full(6)));
        drop(receiver);
        assert_eq!(sender.offer(7, false), Err(TrySendError::Disconnected(7)));
    }

    #[test]
    fn without_a_receiver_nothing_is_kept() {
        let (sender, receiver) = bounded(2);
        drop(receiver);
        assert_eq!(sender.try_send(1), Err(TrySendError::Disconnected(1)));
        assert!(sender.is_empty());
    }
}
