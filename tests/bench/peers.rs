//! `make bench-peers`: the program beside similar programs, in the same run.
//!
//! The same code measures all of them: it starts their nodes, reads their output, stops and kills them in the same
//! way. The modules in `system_under_test` describe the setup of each. The programs differ: Serf's members share one
//! key and keep no connections; NATS's routes use mutual TLS with a common authority, in a full mesh.

use p2p_gossip::internals::limits::PERIOD_DEFAULT;

use crate::clock::median;
use crate::measure::{self, Death, PATIENCE};
use crate::options::Options;
use crate::report::{Report, progress};
use crate::stop::{Signals, Stop};
use crate::system_under_test::SystemUnderTest;
use crate::system_under_test::nats::Nats;
use crate::system_under_test::ours::Ours;
use crate::system_under_test::serf::Serf;
use crate::table::{NOTHING, bytes, time};

/// The figures of each program, in the order of the table.
const FIGURES: [&str; 10] = [
    "formation, wall",
    "formation, CPU",
    "formation, TCP connections a pair",
    "idle, CPU a node",
    "idle, wake-ups a second of a node",
    "memory a node, RSS",
    "memory a node, PSS",
    "join of one more",
    "death, closed",
    "death, silent",
];

type Cells = [String; FIGURES.len()];

/// Measures the programs that are installed.
pub(crate) fn run(options: &Options, signals: &Signals) -> Result<Report, Stop> {
    let nats = Nats::new().map_err(|error| Stop::Failed(format!("a certificate authority: {error}")))?;
    let ours = Ours::quiet(options.program.clone());
    let pinging = ours.clone().with_period(PERIOD_DEFAULT.as_secs_f64());
    let all: [Box<dyn SystemUnderTest>; 4] =
        [Box::new(ours), Box::new(pinging), Box::new(Serf), Box::new(nats)];
    let (mut found, mut versions, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for system in &all {
        match system.version() {
            Ok(version) => {
                found.push(system.as_ref());
                if !versions.contains(&version) {
                    versions.push(version);
                }
            }
            Err(why) => missing.push(format!("{} was not found: {why}", system.name())),
        }
    }
    let names: Vec<String> = found.iter().map(|system| system.name()).collect();
    let headings: Vec<&str> =
        ["figure", "nodes"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut report = Report::new(&versions, &headings);
    missing.into_iter().for_each(|note| report.note(note));
    for count in options.sizes() {
        let mut columns: Vec<Cells> = Vec::new();
        for system in &found {
            progress(&format!("{count} nodes: {}", system.name()));
            let mut cells = std::array::from_fn(|_| NOTHING.to_owned());
            let measured = measure(*system, options, signals, count, &mut cells);
            report.or_note(&format!("{} at {count} nodes", system.name()), measured)?;
            columns.push(cells);
        }
        for (at, figure) in FIGURES.iter().enumerate() {
            let cells = columns.iter().map(|cells| cells[at].clone());
            let row: Vec<String> =
                [(*figure).to_owned(), count.to_string()].into_iter().chain(cells).collect();
            report.table.row(row);
        }
    }
    report.note(
        "Serf: default profile, one shared AES key, no connections between members. NATS: routes with mutual TLS; its pings \
         are set to our heartbeat and timeout, without which a silent server is noticed after minutes.",
    );
    Ok(report)
}

/// Fills in the cells in the order of measurement; after a failure the rest stays as it was.
fn measure(
    system: &dyn SystemUnderTest,
    options: &Options,
    signals: &Signals,
    count: usize,
    cells: &mut Cells,
) -> Result<(), Stop> {
    let [wall, cpu, connections, idle_cpu, wakeups, rss, pss, joining, closed, silent] = cells;
    *wall = format!("not in {} s", PATIENCE.as_secs());
    let (mut cluster, formation) = measure::formation(system, signals, count, options.rounds(), || Ok(()))?;
    *wall = time(formation.wall_s);
    *cpu = time(formation.cpu_s);
    *connections = format!("{:.2}", formation.connections_a_pair);
    let idle = measure::idle(&mut cluster, options.window(), options.rounds())?;
    *idle_cpu = format!("{:.3} %", idle.cpu_a_node * 100.0);
    *wakeups = format!("{:.0}", idle.wakeups_a_node);
    let memory = measure::memory(&cluster)?;
    *rss = bytes(memory.rss);
    *pss = bytes(memory.pss);
    for (death, cell) in [(Death::Closed, closed), (Death::Silent, silent)] {
        let (mut deaths, mut joins) = (Vec::new(), Vec::new());
        *cell = format!("not in {} s", PATIENCE.as_secs());
        for _ in 0..options.rounds() {
            deaths.push(measure::death(&mut cluster, death)?);
            joins.push(measure::join(&mut cluster)?);
        }
        *cell = time(median(&deaths));
        *joining = time(median(&joins));
    }
    Ok(())
}
