//! The program `p2p-gossip`: arguments become a configuration, events become lines on stdout,
//! signals end it.

mod cli;
mod console;
mod logging;
mod signals;
mod stdin;
mod stdio;
mod verbs;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::{never, select};
use p2p_gossip::access::{AccessError, AccessSources};
use p2p_gossip::{Config, Identity, IdentityError, Node, StartError, StateDir, StateError};

use crate::cli::{Action, AfterStdin, IdentitySource, Options, PROGRAM, Verb};
use crate::console::Console;
use crate::logging::Logs;
use crate::signals::Signals;
use crate::stdio::visible;

/// From the signal until the process is gone, whatever blocks.
const LEAVE_MAX: Duration = Duration::from_millis(900);
/// For a stdout that is slow to take the last events.
const CONSOLE_PATIENCE: Duration = Duration::from_millis(500);
/// For the message of a failed start to get out, on however busy a machine.
const FAILURE_PATIENCE: Duration = Duration::from_secs(2);

const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let options = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Action::Run(options)) => *options,
        Ok(Action::Verb(verb)) => return perform(verb),
        Ok(Action::Print(text)) => return print(&text),
        Err(error) => {
            // A stderr that is closed leaves the exit code to say it.
            let _ = writeln!(
                io::stderr(),
                "{PROGRAM}: {error}\nTry '{}' for more information.",
                error.help_command()
            );
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let logs = match Logs::start() {
        Ok(logs) => logs,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{PROGRAM}: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            logs.say(&failure.to_string());
            logs.flush(FAILURE_PATIENCE);
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> ExitCode {
    match verbs::perform(verb) {
        Ok(text) => print(&text),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{PROGRAM}: {}", visible(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever closed it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{PROGRAM}: cannot write to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why the program ends with exit code 1.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{error}{advice}", error = .0, advice = advice(.0))]
    Start(#[from] StartError),
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

fn run(options: Options) -> Result<(), Failure> {
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
    let signals = Signals::start(options.access.has_files())?;
    let config = Config { access: options.access.read()?, ..options.config };
    let node = match state {
        Some(state) => Node::start_with_state(config, identity, state)?,
        None => Node::start(config, identity)?,
    };
    let mut console = Console::start(options.output, options.shows_pings)?;
    let events = node.events().clone();
    let mut stdin = if options.stdin.is_some() { stdin::start(node.handle())? } else { never() };
    let mut unsent = 0;
    loop {
        select! {
            recv(events) -> event => {
                console.show(event.map_err(|_| Failure::Died)?);
                console.report_losses(node.events_dropped());
            }
            recv(signals.reload) -> _ => reload(&node, &options.access),
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
    node.shutdown();
    let patience = deadline.min(Instant::now() + CONSOLE_PATIENCE);
    for event in events.try_iter() {
        console.show_last(event, patience);
    }
    console.finish(patience);
    match unsent {
        0 => Ok(()),
        1 => Err(Failure::Stdin("a line".to_owned())),
        _ => Err(Failure::Stdin(format!("{unsent} lines"))),
    }
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
