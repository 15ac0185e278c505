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
//! Faults of the network take little CPU, so many cases run at the same time, each with new processes in networks of its
//! own: `JOBS` of them. T1, which counts milliseconds, comes before them, and T5, which is about CPU, after them; there the
//! programs take turns. Only splits of half an hour go on meanwhile: nothing happens in them.
//!
//! A program's events are what its users see: this program's JSON lines, the log lines of Serf's agent for its member
//! events, the routes in NATS's debug log, foca's notifications, and changes of chitchat's list of live nodes. The
//! time of each is when this program reads it from a pipe, in the same way for all.

mod network_faults;
mod partial;
mod rows;
mod stopped;
mod timeline;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
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
const GROUP_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a mesh to form.
const FORM_MAX: Duration = Duration::from_secs(90);
/// Meshes of one program that fail to form before it is not measured further: a mesh that never becomes whole takes the
/// CPU from all others.
const FAILURES_MAX: usize = 2;

/// What all tests of one program share.
struct Bench<'a> {
    options: &'a Options,
    signals: &'a Signals,
    system: &'a dyn SystemUnderTest,
    /// The same program without circuits, if it has any: there a cut link shows as a loss.
    without_circuits: Option<&'a dyn SystemUnderTest>,
    /// Held while a mesh forms or a test measures milliseconds, so that programs do not disturb each other.
    turn: &'a Mutex<()>,
    size: usize,
    /// Meshes that could not be formed.
    failures: AtomicUsize,
    /// Only this project's program says why it lost a peer.
    gives_verdicts: bool,
}

impl Bench<'_> {
    /// A mesh in this network, at rest.
    fn mesh<'a>(&'a self, network: &'a Network, size: usize) -> Result<Cluster<'a>, Stop> {
        self.mesh_of(self.system, network, size)
    }

    /// The same of this variant of the program.
    fn mesh_of<'a>(
        &'a self,
        system: &'a dyn SystemUnderTest,
        network: &'a Network,
        size: usize,
    ) -> Result<Cluster<'a>, Stop> {
        let mut cluster = Cluster::new(system, self.signals)?.in_network(network);
        let turn = self.turn();
        if self.failures.load(Ordering::Relaxed) >= FAILURES_MAX {
            return Err(Stop::Failed("not measured, because meshes could not be formed".to_owned()));
        }
        let formed = self.form(&mut cluster, size);
        if let Err(Stop::Failed(_)) = &formed {
            self.failures.fetch_add(1, Ordering::Relaxed);
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

    /// While the caller holds it, no mesh forms and no other case measures milliseconds.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn network(&self) -> Result<Network, Stop> {
        Network::new(self.size).ok_or_else(|| Stop::Failed("no network for the nodes".to_owned()))
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
    let without_circuits = ours.without_circuits();
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
        let is_ours = system.name() == ours.name();
        benches.push(Bench {
            options,
            signals,
            system,
            turn: &turn,
            size,
            without_circuits: is_ours.then_some(&without_circuits),
            failures: AtomicUsize::new(0),
            gives_verdicts: is_ours,
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

/// A case of one program's tests, and the program's column.
type Case<'a> = (usize, Box<dyn FnOnce() -> Result<Rows, Stop> + Send + 'a>);
type Done = (usize, Result<Rows, Stop>);

fn measure(benches: &[Bench<'_>], rows: &mut Rows, report: &mut Report) -> Result<(), Stop> {
    let columns = || benches.iter().enumerate();
    let (mut crashes, mut long, mut others): (Vec<Case<'_>>, Vec<Case<'_>>, Vec<Case<'_>>) =
        Default::default();
    for (column, bench) in columns() {
        if bench.wants("T1") {
            crashes.push((column, Box::new(|| network_faults::crashes(bench))));
        }
        if bench.wants("T7") && bench.options.long {
            long.push((column, Box::new(|| network_faults::split(bench, network_faults::LONGEST_SPLIT))));
        }
    }
    // The longest cases begin first, so that they do not end long after all others. Programs take turns.
    for nth in 0.. {
        let before = others.len();
        for (column, bench) in columns() {
            let case = network_faults::cases(bench).into_iter().nth(nth);
            others.extend(case.map(|case| (column, case)));
        }
        if others.len() == before {
            break;
        }
    }
    for (column, bench) in columns().filter(|(_, bench)| bench.wants("T6")) {
        if let Some(system) = bench.without_circuits {
            others.push((column, Box::new(|| partial::with_circuits(bench))));
            others.push((column, Box::new(move || partial::without_circuits(bench, system))));
        }
    }

    let jobs = benches.first().map_or(1, |bench| bench.options.jobs);
    let mut all = at_once(jobs, crashes);
    thread::scope(|scope| {
        let long_jobs = long.len();
        let long = scope.spawn(move || at_once(long_jobs, long));
        all.extend(at_once(jobs, others));
        for (column, bench) in columns().filter(|(_, bench)| bench.wants("T5")) {
            all.push((column, stopped::run(bench)));
        }
        all.extend(long.join().unwrap_or_default());
    });
    for (column, done) in all {
        keep(benches, column, done, rows, report)?;
    }
    Ok(())
}

/// Runs the cases in this order, so many of them at the same time.
fn at_once(jobs: usize, cases: Vec<Case<'_>>) -> Vec<Done> {
    let waiting = Mutex::new(VecDeque::from(cases));
    let done = Mutex::new(Vec::new());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        while let Some((column, case)) = next() {
            let result = case();
            done.lock().unwrap_or_else(PoisonError::into_inner).push((column, result));
        }
    };
    thread::scope(|scope| (0..jobs).for_each(|_| drop(scope.spawn(work))));
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
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
