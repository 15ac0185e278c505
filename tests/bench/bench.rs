//! `make bench`, `make bench-peers` and `make bench-faults`: they run release processes on loopback, and show each figure beside a
//! baseline or another program that is measured in the same run. No time makes the run pass or fail.
//!
//! The environment: `QUICK=1` for fewer sizes and repetitions, `N="8 64"` for these sizes, `ONLY=idle,join`
//! for these figures, `BUILD=1` for the cost of a clean build as well, `MARKDOWN=1` for Markdown, `JSON=FILE` for the
//! table as JSON in a file, `PROGRAM=…` for another build than Cargo's, `LONG=1` for the long tests of faults,
//! `BESIDE=serf,foca` for these programs beside ours in them, `JOBS=16` for so many of their cases at the same time.

// Counts become figures, which do not need the last bits of a 64-bit number.
#![allow(clippy::cast_precision_loss)]

mod baseline;
mod child_guard;
mod circuits;
mod clock;
mod cluster;
#[path = "../it/support/credentials.rs"]
#[allow(dead_code, reason = "shared with the tests, which use the rest")]
mod credentials;
mod faults;
mod figures;
mod machine;
mod measure;
#[path = "../it/support/netns.rs"]
#[allow(dead_code, reason = "shared with the tests, which use the rest")]
mod netns;
mod network;
mod options;
mod peers;
#[path = "../it/support/process.rs"]
#[allow(dead_code, reason = "shared with the tests, which use the rest")]
mod process;
mod procfs;
mod report;
#[path = "../it/support/skip.rs"]
#[allow(dead_code, reason = "shared with the tests, which use the rest")]
mod skip;
mod stop;
mod system_under_test;
mod table;
mod traffic;

use std::env;
use std::process::ExitCode;

use options::Options;
use stop::{Signals, Stop};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some(system_under_test::embedded::ROLE) => system_under_test::embedded::run(arguments.drain(1..)),
        Some(system_under_test::embedded::BROADCAST_ROLE) => {
            system_under_test::embedded::broadcast(arguments.drain(1..))
        }
        Some(system_under_test::embedded::BURST_ROLE) => {
            system_under_test::embedded::burst(arguments.drain(1..))
        }
        Some(baseline::MEMORY_ROLE) => baseline::print_session_bytes(),
        // `cargo bench` passes `--bench`; `cargo test --all-targets` does not.
        _ if !arguments.iter().any(|argument| argument == "--bench") => {
            println!("nothing is measured here; make bench does that");
            Ok(())
        }
        _ => bench(&arguments).map_err(Into::into),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &[String]) -> Result<(), Stop> {
    let is_asked_for = |what: &str| arguments.iter().any(|argument| argument == what);
    let of_faults = is_asked_for("faults");
    let options = Options::from_environment(if of_faults { &options::FAULTS } else { &options::FIGURES })?;
    // Tests of faults have a namespace for each node.
    let isolation = if of_faults { Ok(()) } else { network::isolate() };
    let signals = Signals::catch()?;
    let mut report = if of_faults {
        faults::run(&options, &signals)?
    } else if is_asked_for("peers") {
        peers::run(&options, &signals)?
    } else {
        figures::run(&options, &signals)?
    };
    if let Err(shared) = isolation {
        report.note(shared);
    }
    println!("{}", report.show(options.markdown));
    if let Some(file) = &options.json {
        std::fs::write(file, report.json()?)?;
    }
    Ok(())
}
