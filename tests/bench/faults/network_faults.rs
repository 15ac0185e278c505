//! T1 to T4, T7 and T8: killed members, lost packets, a cut link and a split mesh.

use std::fmt;
use std::time::Duration;

use super::rows::Rows;
use super::timeline::Timeline;
use super::{Bench, SETTLE};
use crate::clock;
use crate::cluster::Cluster;
use crate::measure::PATIENCE;
use crate::netns::Network;
use crate::netns::{addr, drop_from_to, partition};
use crate::stop::Stop;
use crate::system_under_test::SystemUnderTest;
use crate::table::time;

/// Least time after a crash in which the traffic is counted, and in which verdicts may arrive.
const AFTER_CRASH: Duration = Duration::from_secs(10);
/// Time after a crash in which no other program may disturb; programs that need longer do not count milliseconds.
const UNDISTURBED: Duration = Duration::from_secs(1);
/// Half of a cycle of T2: the member hears nothing, then everything.
const DEAF: Duration = Duration::from_secs(20);
/// Time after the end of T4's cut in which further events count.
const AFTER_CUT: Duration = Duration::from_secs(10);
/// The member that suffers in T2, and the pair of T4. No test touches node 0, through which others join.
const VICTIM: usize = 5;
const PAIR: [usize; 2] = [3, 4];
/// Longest wait for a mesh that was split.
const HEAL_MAX: Duration = Duration::from_secs(180);

/// The longest split of a long run. Nothing happens meanwhile, so it takes no other case's place.
pub(super) const LONGEST_SPLIT: Duration = Duration::from_secs(1800);

/// A test in a network of its own.
type Test<'a> = Box<dyn FnOnce(&Network, &mut Rows) -> Result<(), Stop> + Send + 'a>;

/// All cases but T1, T5, T6 and the longest split; the longest come first.
pub(super) fn cases<'a>(bench: &'a Bench<'_>) -> Vec<Box<dyn FnOnce() -> Result<Rows, Stop> + Send + 'a>> {
    let mut tests: Vec<(&str, Test<'a>)> = Vec::new();
    // All six kinds of loss at once, each at another member; or one after the other.
    let at_once = if bench.options.long { 1 } else { Loss::ALL.len() };
    for losses in Loss::ALL.chunks(at_once) {
        tests.push(("T3", Box::new(move |network, rows| lose(bench, network, losses, rows))));
    }
    let seconds: &[u64] = match (bench.options.quick, bench.options.long) {
        (true, _) => &[15],
        (false, false) => &[60],
        (false, true) => &[300, 60],
    };
    for &seconds in seconds {
        let time = Duration::from_secs(seconds);
        tests.push(("T7", Box::new(move |network, rows| split_for(bench, network, time, rows))));
    }
    tests.push(("T2", Box::new(move |network, rows| deaf(bench, network, rows))));
    tests.push(("T4", Box::new(move |network, rows| cut_pair(bench, network, rows))));
    if let Some(system) = bench.without_circuits {
        tests.push((
            "T4",
            Box::new(move |network, rows| cut_pair_without_circuits(bench, system, network, rows)),
        ));
    }
    tests.push(("T8", Box::new(move |network, rows| rest(bench, network, rows))));
    tests
        .into_iter()
        .filter(|(test, _)| bench.wants(test))
        .map(|(test, run)| Box::new(move || in_network(bench, test, run)) as Box<_>)
        .collect()
}

/// T1: killed members.
pub(super) fn crashes(bench: &Bench<'_>) -> Result<Rows, Stop> {
    in_network(bench, "T1", |network, rows| crash_all(bench, network, rows))
}

/// T7 for this time.
pub(super) fn split(bench: &Bench<'_>, time: Duration) -> Result<Rows, Stop> {
    in_network(bench, "T7", |network, rows| split_for(bench, network, time, rows))
}

fn in_network(
    bench: &Bench<'_>,
    test: &str,
    run: impl FnOnce(&Network, &mut Rows) -> Result<(), Stop>,
) -> Result<Rows, Stop> {
    let mut rows = Rows::of(bench.system);
    bench.progress(test);
    let done = bench.network().and_then(|network| run(&network, &mut rows));
    rows.or_note(test, done)?;
    Ok(rows)
}

/// Traffic without faults.
fn rest(bench: &Bench<'_>, network: &Network, rows: &mut Rows) -> Result<(), Stop> {
    let mut cluster = bench.mesh(network, bench.size)?;
    let window = Duration::from_secs(if bench.options.quick { 10 } else { 30 });
    let timeline = Timeline::record(&mut cluster, |cluster| cluster.listen_for(window))?;
    add_traffic(bench, rows, "at rest", "", &timeline);
    Ok(())
}

fn add_traffic(bench: &Bench<'_>, rows: &mut Rows, when: &str, reach: &str, timeline: &Timeline) {
    if bench.wants("T8") {
        let (kilobytes, packets) = timeline.traffic();
        rows.add(
            format!("T8 {when}: sent by a node a second"),
            reach,
            format!("{kilobytes:.2} kB, {packets:.0} packets"),
        );
    }
}

fn crash_all(bench: &Bench<'_>, network: &Network, rows: &mut Rows) -> Result<(), Stop> {
    let mut cluster = bench.mesh(network, bench.size)?;
    let rounds = if bench.options.quick { 1 } else { 2 };
    for (dead, what) in [(1, "1 killed"), (bench.size / 10, "a tenth killed")] {
        let (mut first, mut last) = (Duration::MAX, Duration::ZERO);
        let (mut sizes, mut verdicts) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let victims: Vec<usize> = (1 + round * dead..).take(dead).collect();
            let timeline = crash(bench, &mut cluster, &victims)?;
            let healthy = others(bench.size, &victims);
            let times = timeline.first_and_last_down(&healthy, &victims);
            let (earliest, latest) = times.ok_or_else(|| Stop::Failed("no observer noticed".to_owned()))?;
            (first, last) = (first.min(earliest), last.max(latest));
            sizes.extend(timeline.sizes(&healthy));
            verdicts.push(timeline.verdicts(&healthy, &victims));
            if dead == 1 && round == 0 {
                add_traffic(bench, rows, "during T1", "≤ 1.5 × rest", &timeline);
            }
            revive(bench, &mut cluster, &victims)?;
        }
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.dedup();
        let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
        rows.add(format!("T1 {what}: first observer"), "", time(first.as_secs_f64()));
        rows.add(format!("T1 {what}: last observer"), "≤ 50 ms", time(last.as_secs_f64()));
        rows.add(format!("T1 {what}: member counts on the way"), "", sizes.join(" "));
        add_verdicts(bench, rows, format!("T1 {what}: verdicts"), "node", verdicts.join(" + "));
    }
    Ok(())
}

/// Kills these nodes at once; returns what the others said until all knew.
fn crash<'a>(bench: &Bench<'_>, cluster: &mut Cluster<'a>, victims: &[usize]) -> Result<Timeline, Stop> {
    let turn = bench.turn();
    Timeline::record(cluster, |cluster| {
        let began = clock::now();
        cluster.kill_at_once(victims)?;
        cluster.listen_for(UNDISTURBED)?;
        drop(turn);
        for &victim in victims {
            cluster.until_lost(victim, began + PATIENCE)?;
        }
        cluster.listen_for((began + AFTER_CRASH).saturating_sub(clock::now()))
    })
}

fn revive(bench: &Bench<'_>, cluster: &mut Cluster<'_>, victims: &[usize]) -> Result<(), Stop> {
    let join = cluster.join_address(0).to_owned();
    {
        let _turn = bench.turn();
        for &victim in victims {
            cluster.restart(victim, &join)?;
        }
        cluster.until_whole(clock::now() + PATIENCE)?;
    }
    cluster.listen_for(SETTLE)
}

/// All nodes but these.
fn others(size: usize, without: &[usize]) -> Vec<usize> {
    (0..size).filter(|node| !without.contains(node)).collect()
}

/// The numbers of these nodes in the network, which counts from 1.
fn numbers(nodes: &[usize]) -> Vec<usize> {
    nodes.iter().map(|node| node + 1).collect()
}

fn add_verdicts(bench: &Bench<'_>, rows: &mut Rows, name: String, reach: &str, verdicts: String) {
    if bench.gives_verdicts {
        rows.add(name, reach, verdicts);
    }
}

fn deaf(bench: &Bench<'_>, network: &Network, rows: &mut Rows) -> Result<(), Stop> {
    let mut cluster = bench.mesh(network, bench.size)?;
    let cycles = if bench.options.quick { 2 } else { 6 };
    let healthy = others(bench.size, &[VICTIM]);
    let timeline = Timeline::record(&mut cluster, |cluster| {
        for _ in 0..cycles {
            network.set_faults(&[drop_from_to(&numbers(&healthy), &numbers(&[VICTIM]))]);
            cluster.listen_for(DEAF)?;
            network.clear_faults();
            cluster.listen_for(DEAF)?;
        }
        Ok(())
    })?;
    let name = format!("T2 deaf for 20 s of 40 s, {cycles} cycles");
    add_stability(bench, rows, &name, &healthy, VICTIM, &timeline);
    rows.add(format!("{name}: downs at healthy of healthy"), "0", timeline.downs(&healthy, &healthy));
    rows.add(
        format!("{name}: seconds in which all healthy views agree"),
        "",
        share(timeline.agreeing_share(&healthy)),
    );
    add_traffic(bench, rows, "during T2", "≤ 1.5 × rest", &timeline);
    Ok(())
}

fn share(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// What the healthy said about this victim.
fn add_stability(
    bench: &Bench<'_>,
    rows: &mut Rows,
    name: &str,
    healthy: &[usize],
    victim: usize,
    timeline: &Timeline,
) {
    let downs = timeline.downs_by_observer(healthy, &[victim]);
    let (sum, max) = (downs.iter().sum::<usize>() as f64, downs.iter().max().copied().unwrap_or_default());
    let mean = sum / downs.len() as f64;
    rows.add(
        format!("{name}: downs at an observer: mean, most, mean a minute"),
        "≤ 3",
        format!("{mean:.1}, {max}, {:.1}", mean / timeline.minutes()),
    );
    add_verdicts(bench, rows, format!("{name}: verdicts"), "", timeline.verdicts(healthy, &[victim]));
}

/// A loss of packets at one member.
struct Loss {
    percent: u32,
    receives: bool,
    sends: bool,
}

impl Loss {
    const ALL: [Self; 6] = [
        Self { percent: 30, receives: true, sends: false },
        Self { percent: 30, receives: false, sends: true },
        Self { percent: 30, receives: true, sends: true },
        Self { percent: 80, receives: true, sends: false },
        Self { percent: 80, receives: false, sends: true },
        Self { percent: 80, receives: true, sends: true },
    ];

    fn name(&self) -> String {
        let what = match (self.receives, self.sends) {
            (true, false) => "of what it receives",
            (false, true) => "of what it sends",
            _ => "both ways",
        };
        format!("T3 {} % {what}", self.percent)
    }

    fn rules(&self, victim: usize) -> Vec<String> {
        let ip = addr(victim + 1).ip();
        let lose = |end: &str| format!("ip {end} {ip} numgen random mod 100 < {} drop", self.percent);
        let ends = [("daddr", self.receives), ("saddr", self.sends)];
        ends.into_iter().filter(|(_, is_lossy)| *is_lossy).map(|(end, _)| lose(end)).collect()
    }
}

/// T3: members that lose packets.
fn lose(bench: &Bench<'_>, network: &Network, losses: &[Loss], rows: &mut Rows) -> Result<(), Stop> {
    let mut cluster = bench.mesh(network, bench.size)?;
    let victims: Vec<usize> = (VICTIM..).take(losses.len()).collect();
    let healthy = others(bench.size, &victims);
    let rules: Vec<String> =
        losses.iter().zip(&victims).flat_map(|(loss, &victim)| loss.rules(victim)).collect();
    network.set_faults(&rules);
    let window = Duration::from_secs(if bench.options.quick { 40 } else { 300 });
    let timeline = Timeline::record(&mut cluster, |cluster| cluster.listen_for(window))?;
    for (loss, &victim) in losses.iter().zip(&victims) {
        add_stability(bench, rows, &loss.name(), &healthy, victim, &timeline);
    }
    let name = if losses.len() == 1 { losses[0].name() } else { "T3 all six losses".to_owned() };
    rows.add(format!("{name}: downs at healthy of healthy"), "0", timeline.downs(&healthy, &healthy));
    rows.add(
        format!("{name}: seconds in which all healthy views agree"),
        "",
        share(timeline.agreeing_share(&healthy)),
    );
    add_traffic(bench, rows, &name.replace("T3", "during T3"), "≤ 1.5 × rest", &timeline);
    Ok(())
}

/// T4 with the program's own settings.
fn cut_pair(bench: &Bench<'_>, network: &Network, rows: &mut Rows) -> Result<(), Stop> {
    let timeline = timeline_of_cut_pair(bench, bench.system, network)?;
    add_events_of_cut_pair(rows, "T4 one pair cut", &timeline);
    if bench.without_circuits.is_some() {
        let [one, other] = PAIR;
        let paths = [(one, other), (other, one)].map(|(from, to)| timeline.other_path(from, to));
        rows.add("T4 one pair cut: another path after", "", OtherPaths::of(paths).to_string());
    }
    Ok(())
}

/// T4 without circuits, where the cut shows as a loss with a verdict.
fn cut_pair_without_circuits(
    bench: &Bench<'_>,
    system: &dyn SystemUnderTest,
    network: &Network,
    rows: &mut Rows,
) -> Result<(), Stop> {
    let timeline = timeline_of_cut_pair(bench, system, network)?;
    let name = "T4 one pair cut, --relay off";
    add_events_of_cut_pair(rows, name, &timeline);
    rows.add(format!("{name}: verdicts"), "link at both", timeline.verdicts(&PAIR, &PAIR));
    Ok(())
}

fn timeline_of_cut_pair(
    bench: &Bench<'_>,
    system: &dyn SystemUnderTest,
    network: &Network,
) -> Result<Timeline, Stop> {
    let mut cluster = bench.mesh_of(system, network, bench.size)?;
    let cut = Duration::from_secs(if bench.options.quick { 10 } else { 30 });
    let [one, other] = PAIR;
    Timeline::record(&mut cluster, |cluster| {
        network.set_faults(&partition(&numbers(&[one]), &numbers(&[other])));
        cluster.listen_for(cut)?;
        network.clear_faults();
        cluster.listen_for(AFTER_CUT)
    })
}

fn add_events_of_cut_pair(rows: &mut Rows, name: &str, timeline: &Timeline) {
    let is_elsewhere = |change: &&super::timeline::Change| {
        !(PAIR.contains(&change.observer) && PAIR.contains(&change.subject))
    };
    let elsewhere = timeline.changes.iter().filter(is_elsewhere).count();
    rows.add(format!("{name}: events elsewhere"), "0", elsewhere);
    rows.add(format!("{name}: downs at its two ends"), "", timeline.downs(&PAIR, &PAIR));
}

/// How many ends of cut links were told another path, and the longest time until then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OtherPaths {
    ends: usize,
    told: usize,
    most: Duration,
}

impl OtherPaths {
    pub(super) fn of(paths: impl IntoIterator<Item = Option<Duration>>) -> Self {
        let mut all = Self::default();
        for path in paths {
            all.ends += 1;
            all.told += usize::from(path.is_some());
            all.most = all.most.max(path.unwrap_or_default());
        }
        all
    }
}

impl fmt::Display for OtherPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} ends, at most {}", self.told, self.ends, time(self.most.as_secs_f64()))
    }
}

/// T7: the mesh is split in half.
fn split_for(bench: &Bench<'_>, network: &Network, split: Duration, rows: &mut Rows) -> Result<(), Stop> {
    let nodes: Vec<usize> = (0..bench.size).collect();
    let (here, there) = nodes.split_at(bench.size / 2);
    let mut cluster = bench.mesh(network, bench.size)?;
    network.set_faults(&partition(&numbers(here), &numbers(there)));
    cluster.listen_for(split)?;
    let _turn = bench.turn();
    // The rules end somewhere in the call, which takes long on a busy machine: the time is at most this.
    let lifted = clock::now();
    network.clear_faults();
    let healed = match cluster.until_whole(lifted + HEAL_MAX) {
        Ok(whole) => time(whole.saturating_sub(lifted).as_secs_f64()),
        Err(Stop::Failed(_)) => format!("not in {} s", HEAL_MAX.as_secs()),
        Err(stop) => return Err(stop),
    };
    rows.add(format!("T7 split in half for {:>4} s: whole after", split.as_secs()), "≤ 1 s", healed);
    Ok(())
}
