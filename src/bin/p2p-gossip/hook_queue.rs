//! The queue of events for the program of `--on-event`: one lane each for acquainted peers that come or go, for
//! strangers that do, and for pings and messages. None takes room from another.
//!
//! While few events wait, they leave the queue in the order in which they came. If the program is too slow for that,
//! the first lane goes first: a flood of messages or strangers delays no news of a known peer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender, unbounded};
use jiff::Timestamp;
use p2p_gossip::internals::limits::EVENTS_QUEUED;
use p2p_gossip::{Event, PeerId};

/// Events that wait in each lane. All lanes together have twice the room of one queue of events.
const LANES_MAX: [usize; 3] = [EVENTS_QUEUED, EVENTS_QUEUED / 2, EVENTS_QUEUED / 2];
const ACQUAINTED: usize = 0;
const STRANGERS: usize = 1;
const TRAFFIC: usize = 2;
/// While at most this many events wait, they leave in the order in which they came.
const IN_ORDER_MAX: usize = 16;

/// An event and its time.
type Job = (Timestamp, Event);

/// The queue has no room for an event of this kind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// The sending end.
#[derive(Debug)]
pub(crate) struct HookQueue {
    lanes: Arc<Mutex<Lanes>>,
    /// One for each job.
    tokens: Sender<()>,
}

/// The receiving end: waits for the next job; ends when the queue is empty and the sending end is gone.
#[derive(Debug)]
pub(crate) struct Jobs {
    lanes: Arc<Mutex<Lanes>>,
    tokens: Receiver<()>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// Each job with its number in the order in which they came.
    lanes: [VecDeque<(u64, Job)>; 3],
    count: u64,
}

pub(crate) fn queue() -> (HookQueue, Jobs) {
    let (lanes, (tokens, waiting)) = (Arc::<Mutex<Lanes>>::default(), unbounded());
    (HookQueue { lanes: Arc::clone(&lanes), tokens }, Jobs { lanes, tokens: waiting })
}

impl HookQueue {
    /// Queues an event.
    ///
    /// # Errors
    /// There is no room; the event is lost.
    pub(crate) fn offer(
        &mut self,
        time: Timestamp,
        event: Event,
        is_acquainted: bool,
    ) -> Result<(), QueueFull> {
        let lane = match is_acquainted {
            _ if event.is_traffic() => TRAFFIC,
            true => ACQUAINTED,
            false => STRANGERS,
        };
        lock(&self.lanes).push(lane, (time, event))?;
        // Fails only if the thread has ended.
        let _ = self.tokens.send(());
        Ok(())
    }
}

impl Iterator for Jobs {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        self.tokens.recv().ok()?;
        lock(&self.lanes).pop()
    }
}

impl Lanes {
    fn push(&mut self, lane: usize, job: Job) -> Result<(), QueueFull> {
        if self.lanes[lane].len() >= LANES_MAX[lane] {
            return Err(QueueFull);
        }
        self.count += 1;
        if lane == ACQUAINTED
            && let Some(peer) = peer(&job.1)
        {
            self.promote(peer);
        }
        self.lanes[lane].push_back((self.count, job));
        Ok(())
    }

    /// Moves what waits about a former stranger, so that its coming and going stay in order.
    fn promote(&mut self, acquainted: PeerId) {
        let is_about = |(_, job): &(u64, Job)| peer(&job.1) == Some(acquainted);
        if self.lanes[STRANGERS].iter().any(is_about) {
            let (moved, kept) = std::mem::take(&mut self.lanes[STRANGERS]).into_iter().partition(is_about);
            self.lanes[STRANGERS] = kept;
            let moved: VecDeque<_> = moved;
            self.lanes[ACQUAINTED].extend(moved);
        }
    }

    fn pop(&mut self) -> Option<Job> {
        let waiting: usize = self.lanes.iter().map(VecDeque::len).sum();
        let mut occupied = self.lanes.iter_mut().filter(|lane| !lane.is_empty());
        let next = if waiting <= IN_ORDER_MAX {
            occupied.min_by_key(|lane| lane.front().map(|(number, _)| *number))
        } else {
            occupied.next()
        };
        next?.pop_front().map(|(_, job)| job)
    }
}

/// The peer that comes or goes, or whose loss is judged.
fn peer(event: &Event) -> Option<PeerId> {
    match event {
        Event::Up { peer, .. }
        | Event::Down { peer, .. }
        | Event::Left { peer, .. }
        | Event::Verdict { peer, .. }
        | Event::Unstable { peer, .. } => Some(*peer),
        _ => None,
    }
}

fn lock(lanes: &Mutex<Lanes>) -> MutexGuard<'_, Lanes> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use p2p_gossip::DownReason;
    use p2p_gossip::internals::sample;

    use super::*;

    /// A queue, and the peers that are no strangers.
    struct Tried {
        queue: HookQueue,
        jobs: Jobs,
        acquainted: Vec<PeerId>,
    }

    impl Tried {
        fn new() -> Self {
            let (queue, jobs) = queue();
            Self { queue, jobs, acquainted: Vec::new() }
        }

        fn offer(&mut self, event: Event) -> bool {
            let is_acquainted = super::peer(&event).is_some_and(|peer| self.acquainted.contains(&peer));
            self.queue.offer(Timestamp::UNIX_EPOCH, event, is_acquainted).is_ok()
        }

        fn take(&mut self, count: usize) -> Vec<Event> {
            self.jobs.by_ref().take(count).map(|(_, event)| event).collect()
        }
    }

    fn peer(n: u16) -> PeerId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        PeerId::from_bytes(id)
    }

    fn up(n: u16) -> Event {
        sample::up(peer(n), "", "127.0.0.1:1".parse().unwrap(), 2)
    }

    fn down(n: u16) -> Event {
        sample::down(peer(n), "", "127.0.0.1:1".parse().unwrap(), DownReason::Closed, 1)
    }

    fn message(text: &str) -> Event {
        sample::message(peer(1), "", "127.0.0.1:1".parse().unwrap(), text)
    }

    #[test]
    fn few_events_leave_in_the_order_in_which_they_came() {
        let mut tried = Tried::new();
        tried.acquainted.push(peer(1));
        let events = [up(1), message("a"), up(2), message("b"), down(2), down(1)];
        assert!(events.iter().all(|event| tried.offer(event.clone())));
        assert_eq!(tried.take(events.len()), events);
    }

    #[test]
    fn news_of_acquainted_peers_goes_before_strangers_and_these_before_messages() {
        let mut tried = Tried::new();
        tried.acquainted.push(peer(1));
        (0..100).for_each(|_| assert!(tried.offer(message("flood"))));
        for event in [up(2), up(1), down(2), down(1)] {
            assert!(tried.offer(event));
        }
        assert_eq!(tried.take(5), [up(1), down(1), up(2), down(2), message("flood")]);
    }

    #[test]
    fn floods_of_strangers_and_messages_displace_no_acquainted_peer() {
        let mut tried = Tried::new();
        tried.acquainted.push(peer(1));
        let most = u16::try_from(EVENTS_QUEUED).unwrap();
        let accepted = (2..=most).filter(|&n| tried.offer(up(n))).count();
        assert_eq!(accepted, LANES_MAX[STRANGERS]);
        assert_eq!((0..EVENTS_QUEUED).filter(|_| tried.offer(message("x"))).count(), LANES_MAX[TRAFFIC]);
        assert!(tried.offer(up(1)) && tried.offer(down(1)));
        assert_eq!(tried.take(2), [up(1), down(1)]);
        assert!(!tried.offer(up(2)) && !tried.offer(message("x")));
    }

    #[test]
    fn stranger_that_becomes_acquainted_still_comes_before_it_goes() {
        let mut tried = Tried::new();
        (0..100).for_each(|_| assert!(tried.offer(message("flood"))));
        assert!(tried.offer(up(1)) && tried.offer(up(2)));
        tried.acquainted.push(peer(2));
        assert!(tried.offer(down(2)));
        assert_eq!(tried.take(3), [up(2), down(2), up(1)]);
    }

    #[test]
    fn queue_ends_when_it_is_empty_and_the_sender_is_gone() {
        let Tried { mut queue, mut jobs, .. } = Tried::new();
        queue.offer(Timestamp::UNIX_EPOCH, message("last"), false).unwrap();
        drop(queue);
        assert!(jobs.next().is_some() && jobs.next().is_none());
    }
}
