//! The machine, the versions and the date of a run.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

/// Cores that this process may use.
pub(crate) fn cores() -> u32 {
    available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// The lines above the table.
pub(crate) fn describe(versions: &[String]) -> Vec<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let cores = cores();
    vec![
        format!(
            "{model}, {cores} core{}, Linux {}, {date}",
            if cores == 1 { "" } else { "s" },
            kernel.trim()
        ),
        format!(
            "{}{}",
            versions.join(", "),
            commit().map_or_else(String::new, |commit| format!(" ({commit})"))
        ),
    ]
}

/// A note if other programs keep the machine busy.
pub(crate) fn disturbance() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = text.split(' ').next()?.parse().ok()?;
    (load > 0.3 * f64::from(cores())).then(|| {
        format!("The machine was busy with other things at the beginning (load {load:.1}): times and CPU are inflated.")
    })
}

fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| format!("commit {}", text.trim()))
}
