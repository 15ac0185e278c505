//! Signals of the process, as queues that the main thread reads.

use std::io;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use p2p_gossip::internals::worker::Worker;
use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use crate::reaper;

/// Time in which the same signal again is a copy of the first: timeout(1) and some supervisors send it to the process and
/// then to its group. A person who presses Ctrl-C twice takes longer.
const COPY_TIME: Duration = Duration::from_millis(100);

/// One queue for each request that a signal makes.
pub(crate) struct Signals {
    /// The first SIGINT or SIGTERM. The second one ends the process at once, as if it had no handler, unless it is a copy.
    pub(crate) stop: Receiver<()>,
    /// SIGHUP; several that arrive before the main thread reads the queue count as one.
    pub(crate) reload: Receiver<()>,
    /// SIGUSR1; several that arrive before the main thread reads the queue count as one.
    pub(crate) table: Receiver<()>,
}

impl Signals {
    /// Starts the thread that handles signals. Without `can_reload` SIGHUP keeps its default action: the
    /// terminal is closed, and the process ends.
    pub(crate) fn start(can_reload: bool) -> io::Result<Self> {
        let wanted = [SIGINT, SIGTERM, SIGUSR1]
            .into_iter()
            .chain(can_reload.then_some(SIGHUP))
            .chain(reaper::is_first_process().then_some(SIGCHLD));
        let mut signals = signal_hook::iterator::Signals::new(wanted)?;
        let ((stopper, stop), (reloader, reload)) = (bounded(1), bounded(1));
        let (table_requester, table) = bounded(1);
        Worker::spawn("signals", move || {
            let mut first_stop = None;
            for signal in signals.forever() {
                if signal == SIGCHLD {
                    reaper::reap_orphans();
                    continue;
                }
                if matches!(signal, SIGINT | SIGTERM) {
                    let now = Instant::now();
                    let first = *first_stop.get_or_insert((signal, now));
                    if !is_copy(first, (signal, now)) {
                        // Fails only for unknown signals.
                        let _ = signal_hook::low_level::emulate_default_handler(signal);
                    }
                }
                let request = match signal {
                    SIGHUP => &reloader,
                    SIGUSR1 => &table_requester,
                    _ => &stopper,
                };
                // Fails if the same request waits already, or if the main thread ends.
                let _ = request.try_send(());
            }
        })?;
        Ok(Self { stop, reload, table })
    }
}

/// Whether a signal is the first one itself, or a copy of it.
fn is_copy(first: (i32, Instant), next: (i32, Instant)) -> bool {
    next.0 == first.0 && next.1.saturating_duration_since(first.1) < COPY_TIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_signal_within_a_moment_is_a_copy() {
        let start = Instant::now();
        let at = |signal, ms| (signal, start + Duration::from_millis(ms));
        let first = at(SIGTERM, 0);
        assert!(is_copy(first, first));
        assert!(is_copy(first, at(SIGTERM, 99)));
        assert!(!is_copy(first, at(SIGTERM, 100)));
        assert!(!is_copy(first, at(SIGINT, 1)));
    }
}
