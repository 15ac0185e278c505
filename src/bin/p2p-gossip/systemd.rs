//! Notifies the service manager (sd_notify(3)) of readiness, number of members, reload and stop, and feeds
//! its watchdog while the coordinator handles its events.
//!
//! Only the thread in here talks to the service manager, and only this thread waits for the coordinator.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{env, fmt, io};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use p2p_gossip::internals::limits::PEERS_LIMIT;
use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::worker::Worker;
use p2p_gossip::{Event, Node, PeerId, Verdict};
use sd_notify::NotifyState;

use crate::output::count;

/// Shortest time between two status lines; only people read them.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Notices that wait for the service manager. A full queue drops new ones; the manager is never that slow.
const NOTICES_QUEUED: usize = 256;
/// Limit for the service manager to take the last notice.
const STOPPING_MAX: Duration = Duration::from_millis(200);

/// The main thread's handle to the thread that notifies the service manager.
#[derive(Debug)]
pub(crate) struct Systemd {
    notices: Sender<Notice>,
    health: Health,
    worker: Worker,
}

#[derive(Debug)]
enum Notice {
    /// What the status line shows changed to this.
    Health(Health),
    Reloading,
    Reloaded,
    Stopping,
}

/// What the status line shows.
#[derive(Clone, Debug)]
struct Health {
    members: usize,
    is_isolated: bool,
    /// The lost peers, and what is known to have failed: the peer or the link to it.
    lost: BTreeMap<PeerId, Option<Verdict>>,
}

impl Default for Health {
    fn default() -> Self {
        Self { members: 1, is_isolated: false, lost: BTreeMap::new() }
    }
}

impl Health {
    /// Notes an event. Returns whether it changes anything.
    fn note(&mut self, event: &Event) -> bool {
        match event {
            Event::Up { peer, members, .. } | Event::Left { peer, members, .. } => {
                self.members = *members;
                self.lost.remove(peer);
            }
            Event::Down { peer, members, .. } => {
                self.members = *members;
                if self.lost.len() < PEERS_LIMIT {
                    self.lost.insert(*peer, None);
                }
            }
            Event::Verdict { peer, verdict, .. } => {
                self.lost.entry(*peer).and_modify(|found| *found = Some(*verdict));
            }
            Event::Isolated { .. } => self.is_isolated = true,
            Event::Rejoined { .. } => self.is_isolated = false,
            _ => return false,
        }
        true
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.lost.values().filter(|found| **found == Some(verdict)).count()
    }
}

/// `3 members, isolated, 1 node down, 2 links broken`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&count(self.members, "member"))?;
        if self.is_isolated {
            f.write_str(", isolated")?;
        }
        let (nodes, links) = (self.count(Verdict::Node), self.count(Verdict::Link));
        if nodes > 0 {
            write!(f, ", {} down", count(nodes, "node"))?;
        }
        if links > 0 {
            write!(f, ", {} broken", count(links, "link"))?;
        }
        Ok(())
    }
}

/// Whether a service manager started this process and expects notifications.
pub(crate) fn is_wanted() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

impl Systemd {
    /// Notifies the service manager that the node is ready. Returns `None` if there is no service manager.
    pub(crate) fn start(node: &Node) -> io::Result<Option<Self>> {
        if !is_wanted() {
            return Ok(None);
        }
        let (sender, notices) = bounded(NOTICES_QUEUED);
        let handle = node.handle();
        let reporter = Reporter {
            node: (node.id(), node.local_addr()),
            notify: |states: &[NotifyState<'_>]| {
                if let Err(error) = sd_notify::notify(states) {
                    static LIMIT: LogLimit = LogLimit::debug();
                    if let Some(suppressed) = LIMIT.check() {
                        log::debug!(reason:% = error, suppressed; "cannot notify the service manager");
                    }
                }
            },
            // An answer proves that the coordinator handles its events. If it hangs, this call hangs too, and
            // the watchdog ends the process.
            is_coordinator_alive: move || handle.status().is_some(),
            // sd_watchdog_enabled(3) advises half of the timeout.
            watchdog_every: sd_notify::watchdog_enabled().map(|timeout| timeout / 2),
        };
        let worker = Worker::spawn("systemd", move || reporter.run(&notices))?;
        Ok(Some(Self { notices: sender, health: Health::default(), worker }))
    }

    /// Shows the state after this event in the status line.
    pub(crate) fn update_status(&mut self, event: &Event) {
        if self.health.note(event) {
            let _ = self.notices.try_send(Notice::Health(self.health.clone()));
        }
    }

    /// Notifies the service manager that a reload begins.
    pub(crate) fn reloading(&self) {
        let _ = self.notices.try_send(Notice::Reloading);
    }

    /// Notifies the service manager that the reload has ended.
    pub(crate) fn reloaded(&self) {
        let _ = self.notices.try_send(Notice::Reloaded);
    }

    /// Notifies the service manager that the node leaves, and waits briefly until that is sent.
    pub(crate) fn stopping(self) {
        let deadline = Instant::now() + STOPPING_MAX;
        if self.notices.send_deadline(Notice::Stopping, deadline).is_ok() {
            // The process ends in any case.
            let _ = self.worker.join_until(deadline);
        }
    }
}

/// The state of the thread that notifies the service manager.
struct Reporter<N, T> {
    node: (PeerId, SocketAddr),
    notify: N,
    is_coordinator_alive: T,
    watchdog_every: Option<Duration>,
}

impl<N: FnMut(&[NotifyState<'_>]), T: FnMut() -> bool> Reporter<N, T> {
    /// Runs until the node leaves.
    fn run(mut self, notices: &Receiver<Notice>) {
        let now = Instant::now();
        let status = |health: &Health| status_line(self.node, health);
        (self.notify)(&[NotifyState::Ready, NotifyState::Status(&status(&Health::default()))]);
        // The state not shown yet, and the earliest time for the next status line.
        let (mut health, mut status_at) = (None, now + STATUS_EVERY);
        let mut watchdog_at = self.watchdog_every.map(|_| now);
        loop {
            let now = Instant::now();
            if status_at <= now
                && let Some(health) = health.take()
            {
                (self.notify)(&[NotifyState::Status(&status(&health))]);
                status_at = now + STATUS_EVERY;
            }
            if watchdog_at.is_some_and(|at| at <= now) {
                if (self.is_coordinator_alive)() {
                    (self.notify)(&[NotifyState::Watchdog]);
                }
                watchdog_at = self.watchdog_every.map(|every| now + every);
            }
            let due = [health.as_ref().map(|_| status_at), watchdog_at].into_iter().flatten().min();
            let wait = due.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            select! {
                recv(notices) -> notice => match notice {
                    Ok(Notice::Health(latest)) => health = Some(latest),
                    Ok(Notice::Reloading) => {
                        let mut states = vec![NotifyState::Reloading];
                        states.extend(NotifyState::monotonic_usec_now().ok());
                        (self.notify)(&states);
                    }
                    Ok(Notice::Reloaded) => (self.notify)(&[NotifyState::Ready]),
                    Ok(Notice::Stopping) => return (self.notify)(&[NotifyState::Stopping]),
                    Err(_) => return,
                },
                default(wait) => {}
            }
        }
    }
}

/// The status line that `systemctl status` shows.
fn status_line((id, addr): (PeerId, SocketAddr), health: &Health) -> String {
    format!("{health}; listening on {addr} as {}", id.short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;
    use p2p_gossip::internals::sample;
    use p2p_gossip::{DialAddr, DownReason};

    const TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn status_line_counts_lost_nodes_and_broken_links_until_they_return() {
        let peer = |n| PeerId::from_bytes([n; 32]);
        let addr: DialAddr = "127.0.0.1:1".parse().unwrap();
        let down = |n| sample::down(peer(n), "", addr.clone(), DownReason::Closed, 2);
        let verdict = |n, verdict| sample::verdict(peer(n), "", addr.clone(), verdict);
        let mut health = Health::default();
        for event in [down(1), down(2), down(3)] {
            assert!(health.note(&event));
        }
        assert_eq!(health.to_string(), "2 members");
        for event in [verdict(1, Verdict::Node), verdict(2, Verdict::Link), verdict(3, Verdict::Link)] {
            assert!(health.note(&event));
        }
        assert_eq!(health.to_string(), "2 members, 1 node down, 2 links broken");
        assert!(health.note(&sample::isolated(3, 4)));
        assert!(health.note(&sample::up(peer(2), "", addr.clone(), 3)));
        assert_eq!(health.to_string(), "3 members, isolated, 1 node down, 1 link broken");
        assert!(!health.note(&sample::message(peer(2), "", addr, "x")));
    }

    #[test]
    fn watchdog_is_fed_only_after_an_answer_of_the_coordinator() {
        let (sent, received) = unbounded();
        let (asked, questions) = unbounded();
        let (answer, answers) = bounded(0);
        let (notices, queued) = bounded(NOTICES_QUEUED);
        let reporter = Reporter {
            node: (PeerId::from_bytes([7; 32]), "127.0.0.1:1".parse().unwrap()),
            notify: move |states: &[NotifyState<'_>]| match states {
                // Its place among the other notices depends on timing.
                [NotifyState::Status(_)] => {}
                _ => sent.send(states.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).unwrap(),
            },
            is_coordinator_alive: move || {
                asked.send(()).unwrap();
                answers.recv().unwrap_or(true)
            },
            watchdog_every: Some(Duration::from_millis(1)),
        };
        let thread = std::thread::spawn(move || reporter.run(&queued));
        let next = || received.recv_timeout(TIMEOUT).unwrap();
        let is_asked = || questions.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(next(), "READY=1 STATUS=1 member; listening on 127.0.0.1:1 as 0707070707");
        for _ in 0..3 {
            is_asked();
            answer.send(true).unwrap();
            assert_eq!(next(), "WATCHDOG=1");
        }
        // The coordinator hangs: without its answer nothing is sent, not even a new status.
        is_asked();
        notices.send(Notice::Health(Health::default())).unwrap();
        assert_eq!(received.try_recv().ok(), None);
        // An answer that the node has stopped does not feed the watchdog.
        answer.send(false).unwrap();
        is_asked();
        assert_eq!(received.try_recv().ok(), None);
        answer.send(true).unwrap();
        assert_eq!(next(), "WATCHDOG=1");
        notices.send(Notice::Stopping).unwrap();
        // From here on every answer is yes.
        drop(answer);
        while next() != "STOPPING=1" {}
        thread.join().unwrap();
    }
}
