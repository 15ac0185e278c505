//! T6: five nodes, each link cut and each partial partition, and the verdict of each end of each cut link.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::Bench;
use super::rows::Rows;
use super::timeline::Timeline;
use crate::clock;
use crate::netns::{Network, partition};
use crate::stop::Stop;

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
                (format!("{hearing} of {asked} witnesses hear the peer"), "link")
            }
            Self::LostMost => ("the observer lost more than half".to_owned(), "self"),
        }
    }
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Rows, Stop> {
    let cases = cases();
    let cases = if bench.options.quick { &cases[..10] } else { &cases[..] };
    bench.progress(&format!("T6, {} cases", cases.len()));
    let waiting = Mutex::new(cases.iter());
    // How often each verdict was given, by the evidence.
    let counts: Mutex<BTreeMap<(Evidence, String), usize>> = Mutex::default();
    let work = || -> Result<(), Stop> {
        let network = Network::new(NODES).ok_or_else(|| Stop::Failed("no network".to_owned()))?;
        loop {
            let next = waiting.lock().expect("no holder panics").next();
            let Some(case) = next else { return Ok(()) };
            let verdicts = impose(bench, &network, case)?;
            let mut counts = counts.lock().expect("no holder panics");
            for verdict in verdicts {
                *counts.entry(verdict).or_default() += 1;
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..NETWORKS).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Err(Stop::Failed("a fault could not be imposed".to_owned()));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
    })?;
    let counts = counts.into_inner().expect("no holder panics");
    let mut rows = Rows::of(bench.system);
    let mut cells: BTreeMap<Evidence, Vec<String>> = BTreeMap::new();
    for ((evidence, verdict), count) in counts {
        cells.entry(evidence).or_default().push(format!("{verdict} {count}"));
    }
    for (evidence, cell) in cells {
        let (name, right) = evidence.row();
        let name = format!("T6 {} partial partitions of 5 nodes: {name}", cases.len());
        rows.add(name, &format!("all {right}"), cell.join(", "));
    }
    Ok(rows)
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

/// Imposes the case on a new mesh; returns the verdict of each end of each cut link.
fn impose(
    bench: &Bench<'_>,
    network: &Network,
    (one, other): &Case,
) -> Result<Vec<(Evidence, String)>, Stop> {
    let mut cluster = bench.mesh(network, NODES)?;
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
    let verdict = |&(observer, subject): &(usize, usize)| {
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
        (evidence, timeline.last_verdict(observer, subject).unwrap_or("none").to_owned())
    };
    Ok(pairs.iter().map(verdict).collect())
}
