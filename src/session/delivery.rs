//! The progress of a broadcast: the number of peers it is queued for, and the number it is written to.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

/// The progress of a broadcast. Dropping this does not affect the message.
#[derive(Debug)]
pub struct Delivery {
    reached: usize,
    missed: usize,
    receipts: Receiver<()>,
}

impl Delivery {
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

/// Accompanies one peer's copy of a message. Dropped unused if the copy is never written.
#[derive(Clone, Debug)]
pub(crate) struct Receipt(Sender<()>);

impl Receipt {
    /// Reports that the copy has been written to the system.
    pub(crate) fn written(self) {
        // The channel has room for all copies. It is closed if the caller has dropped the delivery.
        let _ = self.0.try_send(());
    }
}

/// Counts the copies of one message.
#[derive(Debug)]
pub(crate) struct BroadcastBuilder {
    receipt: Receipt,
    delivery: Delivery,
}

impl BroadcastBuilder {
    /// A message for at most `peers` peers.
    pub(crate) fn new(peers: usize) -> Self {
        let (sender, receipts) = bounded(peers);
        Self { receipt: Receipt(sender), delivery: Delivery { reached: 0, missed: 0, receipts } }
    }

    /// A receipt for the next copy.
    pub(crate) fn receipt(&self) -> Receipt {
        self.receipt.clone()
    }

    pub(crate) fn reached(&mut self) {
        self.delivery.reached += 1;
    }

    pub(crate) fn missed(&mut self) {
        self.delivery.missed += 1;
    }

    /// All copies are queued.
    pub(crate) fn finish(self) -> Delivery {
        self.delivery
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn wait_ends_when_every_copy_is_written_or_lost() {
        let mut builder = BroadcastBuilder::new(3);
        let receipts = [(); 3].map(|()| builder.receipt());
        (0..3).for_each(|_| builder.reached());
        builder.missed();
        let delivery = builder.finish();
        assert_eq!((delivery.reached(), delivery.missed()), (3, 1));
        assert_eq!(delivery.wait(Duration::ZERO), 0);
        let [first, lost, last] = receipts;
        first.written();
        drop(lost);
        last.written();
        assert_eq!(delivery.wait(LONG), 2);
    }

    #[test]
    fn wait_without_a_limit_ends_with_the_last_receipt() {
        let mut builder = BroadcastBuilder::new(1);
        let receipt = builder.receipt();
        builder.reached();
        let delivery = builder.finish();
        receipt.written();
        assert_eq!(delivery.wait(Duration::MAX), 1);
    }

    #[test]
    fn wait_without_recipients_ends_at_once() {
        assert_eq!(BroadcastBuilder::new(0).finish().wait(LONG), 0);
    }
}
