//! `make bench-faults`: what the users of a mesh see when members and links fail, for this program and for similar
//! ones in the same run. Each node has a network namespace; a fault is a rule of nftables or a signal.
//!
//! | test | fault | from |
//! |---|---|---|
//! | T1 | one member is killed, and a tenth at once | Rapid |
//! | T2 | one member hears nothing for 20 s of each 40 s | Rapid |
//! | T3 | six members lose 30 % or 80 % of what they receive, send, or both | Rapid |
//! | T4 | the link between two members is cut | Rapid, Nifty |
//! | T5 | members are stopped again and again; all cores are busy | Lifeguard |
//! | T6 | five nodes: each link cut, each partial partition | Nifty |
//! | T7 | the mesh is split in half | memberlist |
//! | T8 | none: traffic at rest, and during T1 to T3 | |
//!
//! Faults of the network take little CPU, so all programs suffer them at the same time, in separate networks. Each
//! test begins with new processes. T5 is about CPU, so the programs take turns.
//!
//! A program's events are what its users see: this program's JSON lines, the log lines of Serf's agent for its member
//! events, the routes in NATS's debug log, foca's notifications, and changes of chitchat's list of live nodes. The
//! time of each is when this program reads it from a pipe, in the same way for all.

mod network_faults;
mod partial;
mod rows;
mod stopped;
mod timeline;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::clock;
use crate::cluster::Cluster;
use crate::netns::{self, Network};
use crate::options::{FAULTS, Options};
use crate::report::{Report, progress};
use crate::stop::{Signals, Stop};
use crate::system_under_test::SystemUnderTest;
use crate::system_under_test::libraries::Library;
use crate::system_under_test::nats::Nats;
use crate::system_under_test::ours::Ours;
use crate::system_under_test::serf::Serf;
use rows::Rows;

/// Time from the formation of a mesh until its nodes are at rest.
const SETTLE: Duration = Duration::from_secs(3);
/// Nodes that start at the same time. NATS's servers open so many connections to each other that more of them on two
/// cores miss their pings and never become a full mesh.
const STARTED_AT_ONCE: usize = 4;
/// Longest wait for a group of nodes to join before the next one starts.
const GROUP_MAX: Duration = Duration::from_secs(2);
/// Longest wait for a mesh to form.
const FORM_MAX: Duration = Duration::from_secs(60);

/// What all tests of one program share.
struct Bench<'a> {
    options: &'a Options,
    signals: &'a Signals,
    system: &'a dyn SystemUnderTest,
    /// Held while a mesh forms or a test measures milliseconds, so that programs do not disturb each other.
    turn: &'a Mutex<()>,
    size: usize,
    /// Set when a mesh could not be formed. The program is not measured further: a mesh that never becomes whole takes
    /// the CPU from all others.
    has_given_up: AtomicBool,
    /// Only this project's program says why it lost a peer.
    gives_verdicts: bool,
}

impl Bench<'_> {
    /// A mesh in this network, at rest.
    fn mesh<'a>(&'a self, network: &'a Network, size: usize) -> Result<Cluster<'a>, Stop> {
        let mut cluster = Cluster::new(self.system, self.signals)?.in_network(network);
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_given_up.load(Ordering::Relaxed) {
            return Err(Stop::Failed("not measured, because a mesh could not be formed".to_owned()));
        }
        let formed = self.form(&mut cluster, size);
        if let Err(Stop::Failed(_)) = &formed {
            self.has_given_up.store(true, Ordering::Relaxed);
        }
        formed?;
        drop(turn);
        cluster.listen_for(SETTLE)?;
        Ok(cluster)
    }

    fn form(&self, cluster: &mut Cluster<'_>, size: usize) -> Result<(), Stop> {
        let deadline = clock::now() + FORM_MAX;
        cluster.form(STARTED_AT_ONCE.min(size), FORM_MAX)?;
        let join = cluster.join_address(0).to_owned();
        for index in STARTED_AT_ONCE..size {
            cluster.spawn(Some(&join))?;
            if (index + 1) % STARTED_AT_ONCE == 0
                && let Err(Stop::Requested) = cluster.until_whole(clock::now() + GROUP_MAX)
            {
                return Err(Stop::Requested);
            }
        }
        cluster.until_whole(deadline).map(drop)
    }

    fn wants(&self, test: &str) -> bool {
        debug_assert!(FAULTS.contains(&test), "a test has a name");
        self.options.wants(test)
    }

    fn progress(&self, what: &str) {
        progress(&format!("{}: {what}", self.system.name()));
    }
}

/// Measures the programs that are installed.
pub(crate) fn run(options: &Options, signals: &Signals) -> Result<Report, Stop> {
    if netns::unique_prefix().is_none() {
        let mut report = Report::new(&[], &["test", "reach"]);
        report.note("Nothing was measured: it needs root, iproute2 and nftables.");
        return Ok(report);
    }
    let size = options.size_of_faults();
    let nats = Nats::new().map_err(|error| Stop::Failed(format!("a certificate authority: {error}")))?;
    let ours = Ours::quiet(options.program.clone());
    let (foca, chitchat) = (Library::foca(&options.libraries, size), Library::chitchat(&options.libraries));
    let others: [&dyn SystemUnderTest; 4] = [&Serf, &nats, &foca, &chitchat];
    let others = others.into_iter().filter(|system| options.wants_beside(&system.name()));
    let (mut found, mut versions, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for system in [&ours as &dyn SystemUnderTest].into_iter().chain(others) {
        match system.version() {
            Ok(version) => {
                found.push(system);
                versions.push(version);
            }
            Err(why) => missing.push(format!("{} was not found: {why}", system.name())),
        }
    }
    let turn = Mutex::new(());
    let mut benches: Vec<Bench<'_>> = Vec::new();
    for system in found {
        let gives_verdicts = system.name() == ours.name();
        benches.push(Bench {
            options,
            signals,
            system,
            turn: &turn,
            size,
            has_given_up: AtomicBool::new(false),
            gives_verdicts,
        });
    }

    let names: Vec<String> = benches.iter().map(|bench| bench.system.name()).collect();
    let headings: Vec<&str> = ["test", "reach"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut report = Report::new(&versions, &headings);
    missing.into_iter().for_each(|note| report.note(note));
    let mut rows = Rows::new(benches.len());
    measure(&benches, &mut rows, &mut report)?;
    rows.show(&mut report);
    report.note(format!(
        "{size} nodes of each program, except T6 (5). A second in which all healthy views agree: every node that has no \
         fault sees the same members for the whole second. NATS's pings are set to our heartbeat and timeout."
    ));
    Ok(report)
}

/// A part of the tests of one program, and the program's column.
type Part<'a> = (usize, Box<dyn FnOnce() -> Result<Rows, Stop> + Send + 'a>);

fn measure(benches: &[Bench<'_>], rows: &mut Rows, report: &mut Report) -> Result<(), Stop> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (column, bench) in benches.iter().enumerate() {
        parts.push((column, Box::new(move || network_faults::in_turn(bench))));
        if bench.wants("T3") {
            parts.push((column, Box::new(move || network_faults::loss(bench))));
        }
        if bench.gives_verdicts && bench.wants("T6") {
            parts.push((column, Box::new(move || partial::run(bench))));
        }
    }
    let done: Vec<(usize, Result<Rows, Stop>)> = thread::scope(|scope| {
        let threads: Vec<_> = parts.into_iter().map(|(column, part)| (column, scope.spawn(part))).collect();
        let panicked = |_| Err(Stop::Failed("a fault could not be imposed".to_owned()));
        threads.into_iter().map(|(column, thread)| (column, thread.join().unwrap_or_else(panicked))).collect()
    });
    for (column, done) in done {
        keep(benches, column, done, rows, report)?;
    }
    for (column, bench) in benches.iter().enumerate().filter(|(_, bench)| bench.wants("T5")) {
        keep(benches, column, stopped::run(bench), rows, report)?;
    }
    Ok(())
}

fn keep(
    benches: &[Bench<'_>],
    column: usize,
    done: Result<Rows, Stop>,
    rows: &mut Rows,
    report: &mut Report,
) -> Result<(), Stop> {
    if let Some(done) = report.or_note(&benches[column].system.name(), done)? {
        for (failed, why) in rows.merge(column, done) {
            report.note(format!("{} {failed}: {why}", benches[column].system.name()));
        }
    }
    Ok(())
}
