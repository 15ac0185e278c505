//! The progress of a broadcast: the number of peers it is queued for, and the number it is written to.

use std::time::{Duration, Instant};

use crate::util::sync::{Receiver, Sender, unbounded};

/// The progress of a broadcast. Dropping this does not affect the message.
#[derive(Debug)]
pub struct Delivery {
    reached: usize,
    missed: usize,
    receipts: Receiver<()>,
}

impl Delivery {
    pub(crate) fn new(reached: usize, missed: usize, receipts: Receiver<()>) -> Self {
        Self { reached, missed, receipts }
    }

    /// Number of peers that the message was queued for.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.reached
    }

    /// Number of connected peers that miss the message because their outbox was full.
    #[must_use]
    pub fn missed(&self) -> usize {
        self.missed
    }

    /// Waits until the message has been written to the system for every peer that it was queued for and
    /// that is still connected, but at most for `timeout`. Returns the number of peers it was written for.
    ///
    /// A written message is not yet received: the connection may break before the peer reads it.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> usize {
        // A deadline beyond what the clock can hold is no deadline.
        let deadline = Instant::now().checked_add(timeout);
        let next_receipt = || match deadline {
            Some(deadline) => self.receipts.recv_deadline(deadline).is_ok(),
            None => self.receipts.recv().is_ok(),
        };
        // Ends when all receipts have come or been dropped by sessions that ended.
        (0..self.reached).take_while(|_| next_receipt()).count()
    }
}

/// A receipt to be cloned for each copy of one message, and the queue of the receipts that were used.
pub(crate) fn receipts() -> (Receipt, Receiver<()>) {
    let (sender, receipts) = unbounded();
    (Receipt(sender), receipts)
}

/// Accompanies one peer's copy of a message. Dropped unused if the copy is never written.
#[derive(Clone, Debug)]
pub(crate) struct Receipt(Sender<()>);

impl Receipt {
    /// Reports that the copy has been written to the system.
    pub(crate) fn written(self) {
        // Fails only if the caller has dropped the delivery.
        let _ = self.0.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn wait_ends_when_every_copy_is_written_or_lost() {
        let (receipt, receipts) = receipts();
        let [first, lost, last] = [(); 3].map(|()| receipt.clone());
        drop(receipt);
        let delivery = Delivery::new(3, 1, receipts);
        assert_eq!((delivery.reached(), delivery.missed()), (3, 1));
        assert_eq!(delivery.wait(Duration::ZERO), 0);
        first.written();
        drop(lost);
        last.written();
        assert_eq!(delivery.wait(LONG), 2);
    }

    #[test]
    fn wait_without_a_limit_ends_with_the_last_receipt() {
        let (receipt, receipts) = receipts();
        let delivery = Delivery::new(1, 0, receipts);
        receipt.written();
        assert_eq!(delivery.wait(Duration::MAX), 1);
    }

    #[test]
    fn wait_without_recipients_ends_at_once() {
        let (_receipt, receipts) = receipts();
        assert_eq!(Delivery::new(0, 0, receipts).wait(LONG), 0);
    }
}
