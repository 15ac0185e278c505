//! T6: five nodes, each link cut and each partial partition, and what each end of each cut link tells: another path, or
//! without circuits a verdict.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::Bench;
use super::network_faults::OtherPaths;
use super::rows::Rows;
use super::timeline::Timeline;
use crate::clock;
use crate::netns::{Network, partition};
use crate::stop::Stop;
use crate::system_under_test::SystemUnderTest;

const NODES: usize = 5;
/// Networks in which cases run at the same time.
const NETWORKS: usize = 6;
/// Longest wait for both ends of each cut link to lose each other; more than the timeout of a silent peer.
const LOST_MAX: Duration = Duration::from_secs(8);
/// Time for verdicts after the last loss, also for those that a circuit refines: a dial without an answer comes before it.
const VERDICTS: Duration = Duration::from_secs(8);

/// Two groups of nodes that do not reach each other. The rest reaches both.
type Case = (Vec<usize>, Vec<usize>);

/// The evidence that an end of a cut link can have of the other end, which lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Evidence {
    /// Of `asked` nodes that the observer reaches, `hearing` hear the peer.
    Witnesses { asked: usize, hearing: usize },
    /// The observer lost more than half of its peers.
    LostMost,
}

impl Evidence {
    /// The row's name, and the right verdict.
    fn row(self) -> (String, &'static str) {
        match self {
            Self::Witnesses { asked, hearing } => {
                // A lone witness does not outweigh the others: it may lie.
                let right = if hearing == 1 && asked > 2 { "node" } else { "link" };
                (format!("{hearing} of {asked} witnesses hear the peer"), right)
            }
            Self::LostMost => ("the observer lost more than half".to_owned(), "self"),
        }
    }
}

/// What an end of a cut link told of the other end.
struct End {
    evidence: Evidence,
    /// The last verdict; a loss among most is `self`.
    verdict: String,
    is_lost: bool,
    other_path: Option<Duration>,
}

/// All cases with the program's own settings: other paths replace the cut links.
pub(super) fn with_circuits(bench: &Bench<'_>) -> Result<Rows, Stop> {
    let (name, ends) = run(bench, bench.system)?;
    let mut rows = Rows::of(bench.system);
    let lost = ends.iter().filter(|end| end.is_lost).count();
    rows.add(format!("{name}: downs at the ends of cut links"), "0", format!("{lost} of {}", ends.len()));
    let paths = OtherPaths::of(ends.iter().map(|end| end.other_path));
    rows.add(format!("{name}: another path after"), "", paths);
    Ok(rows)
}

/// All cases without circuits: the verdict of each end of each cut link.
pub(super) fn without_circuits(bench: &Bench<'_>, system: &dyn SystemUnderTest) -> Result<Rows, Stop> {
    let (name, ends) = run(bench, system)?;
    // How often each verdict was given, by the evidence.
    let mut counts: BTreeMap<(Evidence, String), usize> = BTreeMap::new();
    for end in ends {
        *counts.entry((end.evidence, end.verdict)).or_default() += 1;
    }
    let mut cells: BTreeMap<Evidence, Vec<String>> = BTreeMap::new();
    for ((evidence, verdict), count) in counts {
        cells.entry(evidence).or_default().push(format!("{verdict} {count}"));
    }
    let mut rows = Rows::of(bench.system);
    for (evidence, cell) in cells {
        let (what, right) = evidence.row();
        rows.add(format!("{name}, --relay off: {what}"), &format!("all {right}"), cell.join(", "));
    }
    Ok(rows)
}

/// Runs the cases, several at the same time. Returns the rows' name, and what all ends told.
fn run(bench: &Bench<'_>, system: &dyn SystemUnderTest) -> Result<(String, Vec<End>), Stop> {
    let cases = cases();
    let cases = if bench.options.quick { &cases[..10] } else { &cases[..] };
    bench.progress(&format!("T6, {} cases", cases.len()));
    let (waiting, ends) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    let work = || -> Result<(), Stop> {
        let network = Network::new(NODES).ok_or_else(|| Stop::Failed("no network".to_owned()))?;
        loop {
            let next = waiting.lock().expect("no holder panics").next();
            let Some(case) = next else { return Ok(()) };
            let told = impose(bench, system, &network, case)?;
            ends.lock().expect("no holder panics").extend(told);
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..NETWORKS).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Err(Stop::Failed("a fault could not be imposed".to_owned()));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
    })?;
    let name = format!("T6 {} partial partitions of 5 nodes", cases.len());
    Ok((name, ends.into_inner().expect("no holder panics")))
}

/// Each way to choose two groups of which none is empty, and a non-empty rest; cuts of one link come first.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for code in 0..3_usize.pow(5) {
        let group_of = |node: usize| code / 3_usize.pow(u32::try_from(node).unwrap_or_default()) % 3;
        let group = |group: usize| (0..NODES).filter(|&node| group_of(node) == group).collect::<Vec<_>>();
        let (rest, one, other) = (group(0), group(1), group(2));
        // Each pair of groups comes in both orders.
        if !rest.is_empty() && !one.is_empty() && one.first() < other.first() {
            cases.push((one, other));
        }
    }
    cases.sort_by_key(|(one, other)| one.len() + other.len());
    cases
}

/// Imposes the case on a new mesh; returns what each end of each cut link told.
fn impose(
    bench: &Bench<'_>,
    system: &dyn SystemUnderTest,
    network: &Network,
    (one, other): &Case,
) -> Result<Vec<End>, Stop> {
    let mut cluster = bench.mesh_of(system, network, NODES)?;
    let cut = |a: &usize, b: &usize| {
        (one.contains(a) && other.contains(b)) || (one.contains(b) && other.contains(a))
    };
    let pairs: Vec<(usize, usize)> =
        (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b))).filter(|(a, b)| cut(a, b)).collect();
    let numbers = |nodes: &[usize]| nodes.iter().map(|node| node + 1).collect::<Vec<_>>();
    let timeline = Timeline::record(&mut cluster, |cluster| {
        network.set_faults(&partition(&numbers(one), &numbers(other)));
        let lost = cluster.until("the ends to lose each other", clock::now() + LOST_MAX, |cluster| {
            pairs.iter().all(|(a, b)| !cluster.view(*a).contains(b))
        });
        // An end that never loses the other has a row of its own in the table.
        if let Err(Stop::Requested) = lost {
            return Err(Stop::Requested);
        }
        cluster.listen_for(VERDICTS)
    });
    network.clear_faults();
    let timeline = timeline?;
    let told = |&(observer, subject): &(usize, usize)| {
        let lost = (0..NODES).filter(|node| cut(&observer, node)).count();
        let witnesses: Vec<usize> = (0..NODES)
            .filter(|node| *node != observer && *node != subject && !cut(&observer, node))
            .collect();
        let hearing = witnesses.iter().filter(|node| !cut(node, &subject)).count();
        let evidence = if lost * 2 > NODES - 1 {
            Evidence::LostMost
        } else {
            Evidence::Witnesses { asked: witnesses.len(), hearing }
        };
        End {
            evidence,
            verdict: timeline.last_verdict(observer, subject).unwrap_or("none").to_owned(),
            is_lost: timeline.is_lost(observer, subject),
            other_path: timeline.other_path(observer, subject),
        }
    };
    Ok(pairs.iter().map(told).collect())
}
