//! The tour of `make demo`: a cluster of real nodes forms a mesh, pings, loses a member and recovers.
//!
//! `cargo run --example demo` runs it. It needs the program, built in the same profile, or the program's path as the
//! only argument. `N` in the environment is the number of nodes; `ONCE=1` ends the demo after the tour.

mod cluster;
#[path = "../it/support/process.rs"]
#[allow(dead_code, reason = "shared with the tests, which use the rest")]
mod process;
mod screen;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, io};

use cluster::{Cluster, FINDS_BY_BEACONS};

/// Longest time for a step of the tour; only a failure takes this long.
const STEP_DEADLINE: Duration = Duration::from_secs(60);
/// Default number of nodes.
const NODES_DEFAULT: usize = 5;
/// Most nodes: the output of more is too much to follow on one screen.
const NODES_MAX: usize = 50;

/// The reason why the tour ended early.
#[derive(Debug)]
enum Stop {
    /// Ctrl-C, SIGTERM or SIGHUP, or stdout is closed.
    Requested,
    /// A step of the tour failed.
    Failed(String),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

fn main() -> ExitCode {
    let (program, count) = match (program(), node_count()) {
        (Ok(program), Ok(count)) => (program, count),
        (Err(wrong), _) | (_, Err(wrong)) => {
            eprintln!("demo: {wrong}");
            return ExitCode::from(2);
        }
    };
    let once = env::var("ONCE").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    match Cluster::new(program, count).map_err(Stop::from).and_then(|cluster| run(cluster, once)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            if let Stop::Failed(reason) = why {
                eprintln!("demo: {reason}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs the whole demo. In every case the nodes and files end with the cluster.
fn run(mut cluster: Cluster, once: bool) -> Result<(), Stop> {
    match tour(&mut cluster).and_then(|()| if once { Ok(()) } else { linger(&mut cluster) }) {
        Ok(()) | Err(Stop::Requested) => leave(&mut cluster, once),
        Err(failure) => {
            cluster.explain();
            Err(failure)
        }
    }
}

fn tour(cluster: &mut Cluster) -> Result<(), Stop> {
    let count = cluster.len();
    let all: Vec<usize> = (0..count).collect();
    let first = cluster.name(0).to_owned();

    let way = if FINDS_BY_BEACONS {
        "which find each other by beacons (--discover)".to_owned()
    } else {
        format!("joining through {first}")
    };
    cluster.screen.heading(&format!("Starting {count} nodes: {first}, then all others at once, {way}"))?;
    let started = Instant::now();
    cluster.start(0, None)?;
    let join = cluster.until(&format!("{first} to listen"), |cluster| cluster.addr(0))?;
    if let Some(page) = cluster.page().map(ToOwned::to_owned) {
        cluster.screen.remark(&format!("Watch it in a browser: {page}"))?;
    }
    for &node in &all[1..] {
        cluster.start(node, Some(join))?;
    }
    cluster.until("the mesh to be complete", |cluster| cluster.is_whole().then_some(()))?;
    let links = count * (count - 1) / 2;
    let took = milliseconds(started.elapsed());
    cluster.screen.heading(&format!(
        "Mesh complete: every node has an encrypted, authenticated link to every other, {} in all. It took {took}.",
        counted(links, "link")
    ))?;

    cluster.screen.heading(&format!("Pings: every node pings every other each {} s", cluster.period_s()))?;
    if cluster.shows_first_only() {
        cluster.screen.remark(&format!(
            "{count} nodes print many lines: only the pings that {first} receives are shown"
        ))?;
    }
    cluster.forget_pings();
    cluster.until("a ping on every link", |cluster| cluster.has_pinged_everywhere().then_some(()))?;

    let victim = 2.min(count - 1);
    let name = cluster.name(victim).to_owned();
    cluster.screen.heading(&format!("Killing {name} without warning (kill -9)"))?;
    let killed = Instant::now();
    let lost = cluster.kill(victim)?;
    cluster.until(&format!("all others to notice that {name} is gone"), |cluster| {
        cluster.all_lost(lost).then_some(())
    })?;
    for (name, lost_at) in cluster.losses(lost) {
        let after = milliseconds(lost_at.saturating_duration_since(killed));
        cluster.screen.remark(&format!("{name} noticed after {after}"))?;
    }

    cluster.screen.heading(&format!("Bringing {name} back, with the same key and on the same port"))?;
    let started = Instant::now();
    cluster.start(victim, Some(join))?;
    cluster.until(&format!("{name} to be back"), |cluster| cluster.is_whole().then_some(()))?;
    if cluster.id(victim) != Some(lost) {
        return Err(Stop::Failed(format!("{name} came back with another id")));
    }
    let took = milliseconds(started.elapsed());
    cluster
        .screen
        .heading(&format!("{name} is back under its old id, and the mesh is whole again. It took {took}."))?;
    Ok(())
}

/// Shows the events until the user ends the demo.
fn linger(cluster: &mut Cluster) -> Result<(), Stop> {
    let pids = cluster.pids();
    cluster.screen.heading("Running until Ctrl-C. Try it yourself, in another terminal:")?;
    cluster.screen.remark(&format!("kill, kill -9, kill -STOP and kill -CONT any of: {pids}"))?;
    if let Some(page) = cluster.page().map(ToOwned::to_owned) {
        cluster.screen.remark(&format!("and watch the effect in a browser: {page}"))?;
    }
    cluster.watch()
}

fn leave(cluster: &mut Cluster, must_be_clean: bool) -> Result<(), Stop> {
    // The nodes leave even if stdout is closed.
    let _ = cluster.screen.heading("Leaving: every node says goodbye to the others");
    let running = cluster.running();
    let clean = cluster.leave();
    if clean < running {
        let warning = format!("{} of {running} nodes did not leave cleanly and were killed", running - clean);
        if must_be_clean {
            cluster.explain();
            return Err(Stop::Failed(warning));
        }
        let _ = cluster.screen.heading(&warning);
    } else {
        let _ =
            cluster.screen.heading(&format!("All {} left; nothing is left behind", counted(clean, "node")));
    }
    Ok(())
}

/// The path of the program: the argument, or the program that Cargo built in this profile.
fn program() -> Result<PathBuf, String> {
    let program = match env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => {
            let own = env::current_exe().map_err(|error| error.to_string())?;
            let profile_dir = own.ancestors().nth(2).ok_or("cannot tell where it was built")?;
            profile_dir.join("p2p-gossip")
        }
    };
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("{} does not exist; run cargo build first", program.display()))
    }
}

fn node_count() -> Result<usize, String> {
    let text = env::var("N").unwrap_or_default();
    if text.is_empty() {
        return Ok(NODES_DEFAULT);
    }
    match text.parse() {
        Ok(count) if (2..=NODES_MAX).contains(&count) => Ok(count),
        _ => Err(format!("N is the number of nodes, from 2 to {NODES_MAX}; it cannot be {text:?}")),
    }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn milliseconds(time: Duration) -> String {
    match time.as_secs_f64() * 1000.0 {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}
