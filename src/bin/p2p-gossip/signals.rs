//! Signals of the process, as queues that the main thread reads.

use std::io;

use crossbeam_channel::{Receiver, bounded};
use p2p_gossip::internals::worker::Worker;
use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1};

use crate::reaper;

/// One queue for each request that a signal makes.
pub(crate) struct Signals {
    /// The first SIGINT or SIGTERM. The second one ends the process at once, as if it had no handler.
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
            let mut is_leaving = false;
            for signal in signals.forever() {
                if signal == SIGCHLD {
                    reaper::reap_orphans();
                    continue;
                }
                let is_stop = matches!(signal, SIGINT | SIGTERM);
                if is_stop && is_leaving {
                    // Fails only for unknown signals.
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
                is_leaving |= is_stop;
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
