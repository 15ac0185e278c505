//! The program `p2p-gossip`: parses the arguments, runs a node or a verb, and returns the exit code.

mod access;
mod cli;
mod commands;
mod hook_queue;
mod hooks;
mod http;
mod logging;
mod output;
mod reaper;
mod run;
mod signals;
mod stdin;
mod systemd;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::{Action, PROGRAM, Verb};
use crate::logging::Logs;
use crate::output::stream::visible;

/// Limit for writing the message of a failure, also on a busy machine.
const FAILURE_FLUSH_MAX: Duration = Duration::from_secs(2);

const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let options = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Action::Run(options)) => *options,
        Ok(Action::Verb(verb)) => return perform(verb),
        Ok(Action::Print(text)) => return print(&text),
        Err(error) => {
            // If stderr is closed, the exit code alone reports the error.
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
    match run::run(options, &logs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            logs.print_message(&failure.to_string());
            logs.flush(FAILURE_FLUSH_MAX);
            ExitCode::FAILURE
        }
    }
}

fn perform(verb: Verb) -> ExitCode {
    match commands::perform(verb) {
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
        // The reader closed the pipe because it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{PROGRAM}: cannot write to stdout: {error}");
            ExitCode::FAILURE
        }
    }
}
