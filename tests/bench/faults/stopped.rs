//! T5: members that are stopped again and again, and cores that are busy.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{hint, thread};

use super::Bench;
use super::rows::Rows;
use super::timeline::Timeline;
use crate::clock;
use crate::cluster::Cluster;
use crate::machine::cores;
use crate::netns::Network;
use crate::stop::Stop;

/// Numbers of members that are stopped.
const STOPPED: [usize; 3] = [1, 4, 8];
/// A stop is between these in seconds, as in the paper on Lifeguard.
const STOP_S: (f64, f64) = (0.25, 8.0);
/// Seconds between two stops of a member.
const PAUSE_S: (f64, f64) = (0.25, 4.0);
/// Time after the last stop in which deaths still count: a suspicion takes some seconds.
const AFTERWARDS: Duration = Duration::from_secs(8);
/// Busy loops on each core.
const LOOPS_A_CORE: u32 = 4;
/// The schedules of the stops are the same for all programs.
const SEED: u64 = 5;

pub(super) fn run(bench: &Bench<'_>) -> Result<Rows, Stop> {
    let mut rows = Rows::of(bench.system);
    let network = bench.network()?;
    let window = Duration::from_secs(if bench.options.quick { 10 } else { 20 });
    let counts = if bench.options.quick { &STOPPED[1..2] } else { &STOPPED[..] };
    for &count in counts {
        bench.progress(&format!("T5, {count} stopped"));
        let done = stopped(bench, &network, count, window, &mut rows);
        rows.or_note(&format!("T5, {count} stopped"), done)?;
    }
    if bench.options.quick {
        return Ok(rows);
    }
    bench.progress("T5, busy cores");
    let done = busy(bench, &network, window, &mut rows);
    rows.or_note("T5, busy cores", done)?;
    Ok(rows)
}

fn stopped(
    bench: &Bench<'_>,
    network: &Network,
    count: usize,
    window: Duration,
    rows: &mut Rows,
) -> Result<(), Stop> {
    let mut cluster = bench.mesh(network, bench.size)?;
    // Spread over the mesh; never node 0.
    let victims: Vec<usize> = (1..=count).map(|at| at * (bench.size - 1) / count).collect();
    let _turn = bench.turn();
    let timeline = Timeline::record(&mut cluster, |cluster| {
        stop_and_resume(cluster, &victims, window)?;
        cluster.listen_for(AFTERWARDS)
    })?;
    let all: Vec<usize> = (0..bench.size).collect();
    let healthy: Vec<usize> = all.iter().copied().filter(|node| !victims.contains(node)).collect();
    let name = format!("T5 {count} stopped");
    rows.add(
        format!("{name}: healthy declared dead by anyone"),
        "≤ Serf ÷ 10",
        timeline.downs(&all, &healthy),
    );
    rows.add(format!("{name}: healthy declared dead by healthy"), "0", timeline.downs(&healthy, &healthy));
    rows.add(format!("{name}: stopped declared dead by healthy"), "", timeline.downs(&healthy, &victims));
    Ok(())
}

/// Stops and resumes each of these nodes again and again.
fn stop_and_resume(cluster: &mut Cluster<'_>, victims: &[usize], window: Duration) -> Result<(), Stop> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut between =
        |(least, most): (f64, f64)| Duration::from_secs_f64(least + random.f64() * (most - least));
    // The time of each victim's next turn, and whether it is stopped.
    let mut turns: BTreeSet<(Duration, usize, bool)> =
        victims.iter().map(|&victim| (between(PAUSE_S), victim, false)).collect();
    let began = clock::now();
    while let Some((at, victim, is_stopped)) = turns.pop_first() {
        let at = at.min(window);
        cluster.listen_for((began + at).saturating_sub(clock::now()))?;
        if is_stopped {
            cluster.resume(victim)?;
        } else if at < window {
            cluster.stop(victim)?;
        }
        if at < window {
            turns.insert((at + between(if is_stopped { PAUSE_S } else { STOP_S }), victim, !is_stopped));
        }
    }
    Ok(())
}

fn busy(bench: &Bench<'_>, network: &Network, window: Duration, rows: &mut Rows) -> Result<(), Stop> {
    let mut cluster = bench.mesh(network, bench.size)?;
    let _turn = bench.turn();
    let loops = LOOPS_A_CORE * cores();
    let is_over = AtomicBool::new(false);
    let timeline = thread::scope(|scope| {
        for _ in 0..loops {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            });
        }
        let timeline = Timeline::record(&mut cluster, |cluster| cluster.listen_for(window));
        is_over.store(true, Ordering::Relaxed);
        timeline
    })?;
    let all: Vec<usize> = (0..bench.size).collect();
    rows.add(
        format!("T5 busy cores, {LOOPS_A_CORE} loops on each: declared dead"),
        "0",
        timeline.downs(&all, &all),
    );
    Ok(())
}
