//! Runs a node: its events go to stdout and to whoever else asked for them, signals and the end of
//! standard input end it.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, never, select};
use jiff::Timestamp;
use p2p_gossip::internals::limits::EVENTS_QUEUED;
use p2p_gossip::internals::log_limit::LogLimit;
use p2p_gossip::internals::queue;
use p2p_gossip::{
    AccessError, AccessSources, Config, Event, Identity, IdentityError, NetworkKey, NetworkKeyError, Node,
    Observer, StartError, StateDir, StateError,
};

use crate::cli::{AfterStdin, IdentitySource, Options};
use crate::hooks::{HookError, Hooks};
use crate::http;
use crate::logging::Logs;
use crate::output::console::{Console, JoinHints};
use crate::output::peer_table;
use crate::output::stream::visible;
use crate::signals::Signals;
use crate::stdin;
use crate::systemd::{self, Systemd};

/// From the signal until the process is gone, whatever blocks.
const LEAVE_MAX: Duration = Duration::from_millis(900);
/// For a stdout that is slow to take the last events.
const CONSOLE_PATIENCE: Duration = Duration::from_millis(500);

/// Why the program ends with exit code 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    NetworkKey(#[from] NetworkKeyError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{error}{advice}", error = .0, advice = advice(.0))]
    Start(#[from] StartError),
    #[error(transparent)]
    Hook(#[from] HookError),
    #[error("cannot serve HTTP on {addr}: {source}{advice}", advice = http_advice(source))]
    Http { addr: SocketAddr, source: io::Error },
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    #[error("{0} of standard input could not be sent")]
    Stdin(String),
    #[error("the node ended by itself; this is a bug")]
    Died,
}

/// What a user can do about it.
fn advice(error: &StartError) -> &'static str {
    let StartError::Listen { source, .. } = error else { return "" };
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there: choose another --port, or 0 for any free one"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege: choose a --port from 1024 to 65535, or 0 for any free one"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has that address: choose another --bind, or leave it out for every interface"
        }
        _ => "",
    }
}

/// The same for the server of `--http`.
fn http_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there: choose another port for --http, or 0 for any free one"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege: choose a port for --http from 1024 to 65535, or 0 for any free one"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
        _ => "",
    }
}

/// Runs until a signal, the end of standard input, or a failure.
pub(crate) fn run(options: Options, logs: &Logs) -> Result<(), Failure> {
    let state = options.state.as_deref().map(StateDir::open).transpose()?;
    let identity = match options.identity {
        IdentitySource::Default => match &state {
            Some(state) => state.identity()?,
            None => Identity::generate()?,
        },
        IdentitySource::Key(key) => Identity::from_key_file(&key)?,
        IdentitySource::KeyAndCertificate(key, cert) => Identity::from_files(&key, &cert)?,
    };
    // Only now, so that a Ctrl-C ends a wait for a key that comes through a pipe.
    let signals = Signals::start(options.access.has_files() || systemd::is_wanted())?;
    let network_keys = options.network_keys.iter().map(|file| NetworkKey::from_file(file));
    let network_keys = network_keys.collect::<Result<_, _>>()?;
    let config = Config { access: options.access.read()?, network_keys, ..options.config };
    let mut hooks = options.on_event.as_ref().map(Hooks::start).transpose()?;
    let open = |addr| http::Socket::open(addr).map_err(|source| Failure::Http { addr, source });
    let http = options.http.map(open).transpose()?;
    let node = match state {
        Some(state) => Node::start_with_state(config.clone(), identity, state)?,
        None => Node::start(config.clone(), identity)?,
    };
    let page = http.as_ref().map(http::Socket::url);
    let http = http.map(|socket| socket.serve(&node, &config)).transpose()?;
    let ways = JoinHints { page, advertised: config.advertise.first().cloned() };
    let (console, written) = Console::start(options.output, options.shows_pings, ways)?;
    let mut stdin = if options.stdin.is_some() { stdin::start(node.handle())? } else { never() };
    let systemd = Systemd::start(&node)?;
    // stdout is told at once, and the others by way of this thread, if there are any.
    let is_alone = hooks.is_none() && http.is_none() && systemd.is_none();
    let (others, events) = if is_alone { (None, never()) } else { others() };
    let (alive, died) = bounded::<()>(0);
    node.observe(Audience { console, others, _alive: alive });
    let mut tell = |time, event: &Event| {
        if let Some(hooks) = &mut hooks {
            hooks.offer(time, event);
        }
        if let Some(http) = &http {
            http.tell(time, event);
        }
    };
    let mut unsent = 0;
    loop {
        select! {
            recv(events) -> event => if let Ok((time, event)) = event {
                tell(time, &event);
                if let Some(systemd) = &systemd {
                    systemd.take_note(&event);
                }
            },
            recv(died) -> _ => return Err(Failure::Died),
            recv(signals.table) -> _ => {
                if let Some(status) = node.status() {
                    logs.show(&peer_table::table(node.id(), &status));
                }
            }
            recv(signals.reload) -> _ => {
                systemd.iter().for_each(Systemd::reloading);
                reload(&node, &options.access);
                systemd.iter().for_each(Systemd::reloaded);
            }
            recv(stdin) -> outcome => {
                stdin = never();
                if options.stdin == Some(AfterStdin::Leave) {
                    log::info!("leaving the mesh; standard input has ended");
                    unsent = outcome.map_or(0, |outcome| outcome.faults);
                    break;
                }
            }
            recv(signals.stop) -> _ => {
                log::info!("leaving the mesh; a second Ctrl-C ends at once");
                break;
            }
        }
    }
    let deadline = Instant::now() + LEAVE_MAX;
    if let Some(systemd) = systemd {
        systemd.stopping();
    }
    node.shutdown();
    let patience = deadline.min(Instant::now() + CONSOLE_PATIENCE);
    events.try_iter().for_each(|(time, event)| tell(time, &event));
    if let Some(hooks) = hooks {
        hooks.finish(deadline);
    }
    if let Some(http) = http {
        http.finish(patience);
    }
    written.wait(patience);
    match unsent {
        0 => Ok(()),
        1 => Err(Failure::Stdin("a line".to_owned())),
        _ => Err(Failure::Stdin(format!("{unsent} lines"))),
    }
}

type Timed = (Timestamp, Event);

/// Who is told of events.
struct Audience {
    console: Console,
    /// The way to the main thread, which tells whoever else there is.
    others: Option<queue::Sender<Timed>>,
    /// Dropped with the node's coordinator.
    _alive: Sender<()>,
}

impl Observer for Audience {
    fn tell(&mut self, event: Event) {
        let time = Timestamp::now();
        if let Some(others) = &self.others
            && let Err(TrySendError::Full(_)) = others.offer((time, event.clone()), event.is_traffic())
        {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(suppressed; "the main thread is held up; events are lost to --on-event, --http and systemd");
            }
        }
        self.console.show(time, event);
    }

    fn backlog(&self) -> usize {
        let others = self.others.as_ref().map_or(0, queue::Sender::len);
        others.max(self.console.backlog())
    }
}

/// A queue for whoever is told of events by way of the main thread.
fn others() -> (Option<queue::Sender<Timed>>, Receiver<Timed>) {
    let (sender, receiver) = queue::bounded(EVENTS_QUEUED);
    (Some(sender), receiver)
}

/// Reads the lists again. What can't be read changes nothing.
fn reload(node: &Node, sources: &AccessSources) {
    match sources.read() {
        Ok(access) => {
            let allowed =
                access.allow.as_ref().map_or_else(|| "everybody".to_owned(), |a| a.len().to_string());
            log::info!(allowed:% = allowed, denied = access.deny.len(); "allow and deny lists read again");
            node.set_access(access);
        }
        Err(error) => {
            let reason = visible(&error.to_string());
            log::error!(reason:% = reason; "the allow and deny lists stay as they were");
        }
    }
}
