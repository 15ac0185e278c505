//! What the process is told by signals.

use std::io;
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

/// One queue for each thing that a signal asks for.
pub(crate) struct Signals {
    /// The first SIGINT or SIGTERM; the next one ends the process at once, as if it had never been
    /// handled.
    pub(crate) stop: Receiver<()>,
    /// SIGHUP, once for however many came since it was last taken.
    pub(crate) reload: Receiver<()>,
    /// SIGUSR1, once for however many came since it was last taken.
    pub(crate) table: Receiver<()>,
}

impl Signals {
    /// With nothing to reload and nobody who asks for it like that, SIGHUP keeps its meaning: the
    /// terminal is gone, and the process goes.
    pub(crate) fn start(can_reload: bool) -> io::Result<Self> {
        let wanted = [SIGINT, SIGTERM, SIGUSR1].into_iter().chain(can_reload.then_some(SIGHUP));
        let mut signals = signal_hook::iterator::Signals::new(wanted)?;
        let ((stopper, stop), (reloader, reload)) = (bounded(1), bounded(1));
        let (tabler, table) = bounded(1);
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut is_leaving = false;
            for signal in signals.forever() {
                // Main is on its way out if nobody takes what is sent here.
                let asked = match signal {
                    SIGHUP => &reloader,
                    SIGUSR1 => &tabler,
                    _ => {
                        if is_leaving {
                            // Fails for signals that it does not know only.
                            let _ = signal_hook::low_level::emulate_default_handler(signal);
                        }
                        is_leaving = true;
                        &stopper
                    }
                };
                let _ = asked.try_send(());
            }
        })?;
        Ok(Self { stop, reload, table })
    }
}
