//! What a service manager is told (sd_notify(3)): that the node is ready, how many members there
//! are, that it stops, and, if a watchdog is set, that the coordinator still takes its turns.
//!
//! Only the thread in here talks to the service manager, and it alone waits for the coordinator.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use p2p_gossip::log_limit::LogLimit;
use p2p_gossip::{Event, Node, PeerId};
use sd_notify::NotifyState;

/// Between two status lines: whoever looks at them is a person.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// News that wait for the service manager; it never is that slow, and the last status is what counts.
const NEWS_QUEUED: usize = 256;
/// For the service manager to take the last word.
const STOPPING_PATIENCE: Duration = Duration::from_millis(200);

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct Systemd {
    news: Sender<News>,
    /// Closed when the thread has ended.
    done: Receiver<()>,
}

#[derive(Debug)]
enum News {
    Members(usize),
    Reloading,
    Reloaded,
    Stopping,
}

/// Whether a service manager started this process and wants to be told how it goes.
pub(crate) fn is_wanted() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

impl Systemd {
    /// Says that the node is ready; nothing if nobody wants to know.
    pub(crate) fn start(node: &Node) -> io::Result<Option<Self>> {
        if !is_wanted() {
            return Ok(None);
        }
        let (news_sender, news) = bounded(NEWS_QUEUED);
        let (finished, done) = bounded(0);
        let handle = node.handle();
        let reporter = Reporter {
            node: (node.id(), node.local_addr()),
            notify: |states: &[NotifyState<'_>]| {
                if let Err(error) = sd_notify::notify(states) {
                    static LIMIT: LogLimit = LogLimit::debug();
                    if let Some(suppressed) = LIMIT.check() {
                        log::debug!(reason:% = error, suppressed; "the service manager cannot be told");
                    }
                }
            },
            // An answer means that the coordinator has taken a turn. A hung one never answers, and
            // neither does this thread then: the watchdog ends both.
            takes_turns: move || handle.status().is_some(),
            // The manual asks for twice as often as it has to be.
            watchdog_every: sd_notify::watchdog_enabled().map(|timeout| timeout / 2),
        };
        thread::Builder::new().name("systemd".to_owned()).spawn(move || {
            let _finished: Sender<()> = finished;
            reporter.run(&news);
        })?;
        Ok(Some(Self { news: news_sender, done }))
    }

    /// The status line tells how many members there are.
    pub(crate) fn take_note(&self, event: &Event) {
        if let Event::Up { members, .. } | Event::Down { members, .. } | Event::Left { members, .. } = event {
            let _ = self.news.try_send(News::Members(*members));
        }
    }

    /// The configuration is being read again.
    pub(crate) fn reloading(&self) {
        let _ = self.news.try_send(News::Reloading);
    }

    /// It has been.
    pub(crate) fn reloaded(&self) {
        let _ = self.news.try_send(News::Reloaded);
    }

    /// The node leaves; waits a moment for that to be told.
    pub(crate) fn stopping(self) {
        let deadline = Instant::now() + STOPPING_PATIENCE;
        if self.news.send_deadline(News::Stopping, deadline).is_ok() {
            let _ = self.done.recv_deadline(deadline);
        }
    }
}

/// What the thread needs.
struct Reporter<N, T> {
    node: (PeerId, SocketAddr),
    notify: N,
    takes_turns: T,
    watchdog_every: Option<Duration>,
}

impl<N: FnMut(&[NotifyState<'_>]), T: FnMut() -> bool> Reporter<N, T> {
    /// Runs until the node leaves.
    fn run(mut self, news: &Receiver<News>) {
        let now = Instant::now();
        let status = |members| status_line(self.node, members);
        (self.notify)(&[NotifyState::Ready, NotifyState::Status(&status(1))]);
        // A status not told yet, and when the next one may be.
        let (mut members, mut status_at) = (None, now + STATUS_EVERY);
        let mut watchdog_at = self.watchdog_every.map(|_| now);
        loop {
            let now = Instant::now();
            if status_at <= now
                && let Some(members) = members.take()
            {
                (self.notify)(&[NotifyState::Status(&status(members))]);
                status_at = now + STATUS_EVERY;
            }
            if watchdog_at.is_some_and(|at| at <= now) {
                if (self.takes_turns)() {
                    (self.notify)(&[NotifyState::Watchdog]);
                }
                watchdog_at = self.watchdog_every.map(|every| now + every);
            }
            let due = [members.map(|_| status_at), watchdog_at].into_iter().flatten().min();
            let wait = due.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
            select! {
                recv(news) -> news => match news {
                    Ok(News::Members(count)) => members = Some(count),
                    Ok(News::Reloading) => {
                        let mut states = vec![NotifyState::Reloading];
                        states.extend(NotifyState::monotonic_usec_now().ok());
                        (self.notify)(&states);
                    }
                    Ok(News::Reloaded) => (self.notify)(&[NotifyState::Ready]),
                    Ok(News::Stopping) => return (self.notify)(&[NotifyState::Stopping]),
                    Err(_) => return,
                },
                default(wait) => {}
            }
        }
    }
}

/// What `systemctl status` shows.
fn status_line((id, addr): (PeerId, SocketAddr), members: usize) -> String {
    let s = if members == 1 { "" } else { "s" };
    format!("{members} member{s}; listening on {addr} as {}", id.short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::unbounded;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn the_watchdog_is_fed_only_when_the_coordinator_has_taken_a_turn() {
        let (said, heard) = unbounded();
        let (asked, questions) = unbounded();
        let (answer, answers) = bounded(0);
        let (news, told) = bounded(NEWS_QUEUED);
        let reporter = Reporter {
            node: (PeerId::from_bytes([7; 32]), "127.0.0.1:1".parse().unwrap()),
            notify: move |states: &[NotifyState<'_>]| match states {
                // Comes when its time has come, between any two of the others.
                [NotifyState::Status(_)] => {}
                _ => said.send(states.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")).unwrap(),
            },
            takes_turns: move || {
                asked.send(()).unwrap();
                answers.recv().unwrap_or(true)
            },
            watchdog_every: Some(Duration::from_millis(1)),
        };
        let thread = thread::spawn(move || reporter.run(&told));
        let next = || heard.recv_timeout(PATIENCE).unwrap();
        let is_asked = || questions.recv_timeout(PATIENCE).unwrap();
        assert_eq!(next(), "READY=1 STATUS=1 member; listening on 127.0.0.1:1 as 0707070707");
        for _ in 0..3 {
            is_asked();
            answer.send(true).unwrap();
            assert_eq!(next(), "WATCHDOG=1");
        }
        // It hangs: whatever happens, nothing is said for as long as there is no answer.
        is_asked();
        news.send(News::Members(2)).unwrap();
        assert_eq!(heard.try_recv().ok(), None);
        // An answer that the node has stopped is none to feed the watchdog for.
        answer.send(false).unwrap();
        is_asked();
        assert_eq!(heard.try_recv().ok(), None);
        answer.send(true).unwrap();
        assert_eq!(next(), "WATCHDOG=1");
        news.send(News::Stopping).unwrap();
        // From now on every answer is yes.
        drop(answer);
        while next() != "STOPPING=1" {}
        thread.join().unwrap();
    }
}
