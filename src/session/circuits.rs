//! The circuits of one session: their credit, and the bytes that go in and out. Pure.
//!
//! Credit is from end to end: an end allows the other to send [`CIRCUIT_WINDOW_BYTES`], and more as it takes bytes out.
//! Each session on the way checks that its peer keeps to that. So a slow end stops the other end of its circuit and
//! nothing else, and no more than the window waits anywhere.

use std::collections::BTreeMap;

use super::pipe::PipeEnd;
use crate::limits::CIRCUIT_WINDOW_BYTES;
use crate::wire::{CIRCUIT_BYTES_MAX, CircuitId, CircuitReason, Message};

/// Bytes of a circuit in one message. With what the message has beside them it fills one TLS record.
const CHUNK_BYTES: usize = CIRCUIT_BYTES_MAX - 32;

#[derive(Debug)]
struct Circuit {
    end: PipeEnd,
    /// Bytes that the peer may still send.
    allowed: usize,
    /// Bytes sent to the peer for which it has given no new credit yet.
    unconfirmed: usize,
}

/// The open circuits of a session.
#[derive(Debug, Default)]
pub(super) struct Circuits {
    open: BTreeMap<CircuitId, Circuit>,
}

/// The peer sent more than it may, or allowed more than it received. The circuit is closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun;

impl Circuits {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The bytes of this circuit go to this end of a pipe from now on.
    pub(super) fn attach(&mut self, circuit: CircuitId, end: PipeEnd) {
        let attached = Circuit { end, allowed: CIRCUIT_WINDOW_BYTES, unconfirmed: 0 };
        self.open.insert(circuit, attached);
    }

    /// Takes bytes from the peer. Those of a circuit that is closed were under way when it closed.
    pub(super) fn received(&mut self, circuit: CircuitId, bytes: &[u8]) -> Result<(), Overrun> {
        let Some(open) = self.open.get_mut(&circuit) else {
            return Ok(());
        };
        match open.allowed.checked_sub(bytes.len()).filter(|_| !bytes.is_empty()) {
            Some(allowed) => open.allowed = allowed,
            None => return self.overrun(circuit),
        }
        open.end.write(bytes);
        Ok(())
    }

    /// Takes credit from the peer.
    pub(super) fn allowed(&mut self, circuit: CircuitId, bytes: u32) -> Result<(), Overrun> {
        let Some(open) = self.open.get_mut(&circuit) else {
            return Ok(());
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match open.unconfirmed.checked_sub(bytes).filter(|_| bytes > 0) {
            Some(unconfirmed) => open.unconfirmed = unconfirmed,
            None => return self.overrun(circuit),
        }
        open.end.grant(bytes);
        Ok(())
    }

    fn overrun(&mut self, circuit: CircuitId) -> Result<(), Overrun> {
        self.close(circuit, CircuitReason::Credit);
        Err(Overrun)
    }

    /// Closes a circuit. Returns whether it was open.
    pub(super) fn close(&mut self, circuit: CircuitId, reason: CircuitReason) -> bool {
        let mut open = self.open.remove(&circuit);
        if let Some(open) = &mut open {
            open.end.end(reason);
        }
        open.is_some()
    }

    /// Wakes the threads for which the peer has sent something.
    pub(super) fn wake(&mut self) {
        self.open.values_mut().for_each(|open| open.end.wake());
    }

    /// Closes all circuits, because the session ends.
    pub(super) fn close_all(&mut self) {
        self.open.clear();
    }

    /// Whether an end has something for the peer.
    pub(super) fn has_news(&self) -> bool {
        self.open.values().any(|open| open.end.has_news())
    }

    /// What the ends have for the peer: one message of data of each circuit at most, so that circuits take turns.
    pub(super) fn take(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        self.open.retain(|&circuit, open| {
            if !open.end.has_news() {
                return true;
            }
            let news = open.end.take(CHUNK_BYTES);
            if !news.bytes.is_empty() {
                open.unconfirmed += news.bytes.len();
                messages.push(Message::CircuitData { circuit, bytes: news.bytes });
            }
            if news.credit > 0 {
                open.allowed += news.credit;
                let bytes = u32::try_from(news.credit).unwrap_or(u32::MAX);
                messages.push(Message::CircuitCredit { circuit, bytes });
            }
            messages.extend(news.ended.map(|reason| Message::CircuitClose { circuit, reason }));
            news.ended.is_none()
        });
        messages
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::session::pipe::{Wake, pipe};

    #[derive(Debug)]
    struct Silent;

    impl Wake for Silent {
        fn wake(&self) {}
    }

    fn ends() -> [PipeEnd; 2] {
        pipe([Arc::new(Silent), Arc::new(Silent)])
    }

    #[test]
    fn peer_sends_no_more_than_the_window_until_it_gets_credit() {
        let (mut circuits, [near, mut far]) = (Circuits::default(), ends());
        circuits.attach(4, near);
        let chunk = vec![7; CIRCUIT_BYTES_MAX];
        for _ in 0..CIRCUIT_WINDOW_BYTES / CIRCUIT_BYTES_MAX {
            assert_eq!(circuits.received(4, &chunk), Ok(()));
        }
        far.grant(10);
        assert_eq!(circuits.take(), [Message::CircuitCredit { circuit: 4, bytes: 10 }]);
        assert_eq!(circuits.received(4, &chunk[..10]), Ok(()));
        assert_eq!(circuits.received(4, &chunk[..1]), Err(Overrun));
        // The other end still gets what came before, and learns why the circuit is closed.
        let news = far.take(usize::MAX);
        assert_eq!((news.bytes.len(), news.ended), (CIRCUIT_WINDOW_BYTES + 10, Some(CircuitReason::Credit)));
        assert_eq!(circuits.received(4, &chunk), Ok(()), "a closed circuit harms no session");
        assert!(circuits.is_empty());
    }

    #[test]
    fn peer_confirms_only_what_it_was_sent() {
        let (mut circuits, [near, mut far]) = (Circuits::default(), ends());
        circuits.attach(4, near);
        far.write(b"hello");
        assert_eq!(circuits.take(), [Message::CircuitData { circuit: 4, bytes: b"hello".to_vec() }]);
        assert_eq!(circuits.allowed(4, 3), Ok(()));
        assert_eq!(far.take(9).credit, 3);
        assert_eq!(circuits.allowed(4, 3), Err(Overrun));
        assert_eq!(far.take(9).ended, Some(CircuitReason::Credit));
    }

    #[test]
    fn empty_data_and_empty_credit_close_the_circuit() {
        for is_data in [true, false] {
            let (mut circuits, [near, _far]) = (Circuits::default(), ends());
            circuits.attach(4, near);
            let result = if is_data { circuits.received(4, b"") } else { circuits.allowed(4, 0) };
            assert_eq!((result, circuits.is_empty()), (Err(Overrun), true));
        }
    }

    #[test]
    fn busy_circuit_leaves_turns_to_others() {
        let (mut circuits, pipes) = (Circuits::default(), [ends(), ends()]);
        let mut far = Vec::new();
        for (circuit, [near, mut other]) in (0..).zip(pipes) {
            circuits.attach(circuit, near);
            other.write(&vec![1; CHUNK_BYTES + 1]);
            far.push(other);
        }
        let sizes = |circuits: &mut Circuits| -> Vec<(CircuitId, usize)> {
            let data = |message| match message {
                Message::CircuitData { circuit, bytes } => Some((circuit, bytes.len())),
                _ => None,
            };
            circuits.take().into_iter().filter_map(data).collect()
        };
        assert_eq!(sizes(&mut circuits), [(0, CHUNK_BYTES), (1, CHUNK_BYTES)]);
        assert!(circuits.has_news());
        assert_eq!(sizes(&mut circuits), [(0, 1), (1, 1)]);
        assert!(!circuits.has_news());
        far[1].write(b"one of them is enough");
        assert!(circuits.has_news());
        circuits.take();
        drop(far);
        assert_eq!(circuits.take().len(), 2);
        assert!(circuits.is_empty());
    }
}
