//! How far a broadcast has come: which peers it was queued for, and to how many it was written.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

/// A broadcast on its way. Dropping it changes nothing for the message.
#[derive(Debug)]
pub struct Delivery {
    reached: usize,
    missed: usize,
    receipts: Receiver<()>,
}

impl Delivery {
    /// Peers that the message was queued for.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.reached
    }

    /// Connected peers that will not get it, since they read too slowly to have room for it.
    #[must_use]
    pub fn missed(&self) -> usize {
        self.missed
    }

    /// Waits until the message has been handed to the system for every peer that it was queued
    /// for and that is still connected, or until the time is over. Returns for how many it was.
    ///
    /// Written is not read: a peer may still be lost before it takes the message in.
    #[must_use]
    pub fn wait(&self, timeout: Duration) -> usize {
        let deadline = Instant::now() + timeout;
        // Ends when all receipts have come or been dropped by sessions that ended.
        (0..self.reached).take_while(|_| self.receipts.recv_deadline(deadline).is_ok()).count()
    }
}

/// Travels with one peer's copy of a message; dropped unused if that is never written.
#[derive(Clone, Debug)]
pub(crate) struct Receipt(Sender<()>);

impl Receipt {
    /// The copy has been handed to the system.
    pub(crate) fn written(self) {
        // There is room for all; nobody may be waiting any more.
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
    /// A message for at most so many peers.
    pub(crate) fn new(peers: usize) -> Self {
        let (sender, receipts) = bounded(peers);
        Self { receipt: Receipt(sender), delivery: Delivery { reached: 0, missed: 0, receipts } }
    }

    /// To travel with the next copy.
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
    fn a_wait_ends_when_every_copy_was_written_or_lost() {
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
    fn nobody_reached_is_nobody_to_wait_for() {
        assert_eq!(BroadcastBuilder::new(0).finish().wait(LONG), 0);
    }
}
