//! The kernel's figures of processes: CPU time, memory, context switches and connections.

use std::time::Duration;
use std::{fs, io};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};

/// User and system time of a process so far in nanoseconds, with the time of its ended threads.
/// (`/proc/PID/stat` counts in hundredths of a second, which is too coarse for a small node.)
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
pub(crate) fn cpu(pid: u32) -> io::Result<Duration> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    let clock = nix::time::clock_getcpuclockid(nix::unistd::Pid::from_raw(pid))?;
    Ok(clock_gettime(clock)?.into())
}

/// Other systems cannot read the CPU clock of another process.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
pub(crate) fn cpu(_: u32) -> io::Result<Duration> {
    Err(io::ErrorKind::Unsupported.into())
}

/// User and system time of this process so far.
pub(crate) fn own_cpu() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// User and system time of the ended children of this process, and of their children.
pub(crate) fn ended_children_cpu() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
}

/// How often the present threads of a process have gone to sleep by themselves. Each sleep ends with a wake-up.
pub(crate) fn sleeps(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may have ended since it was listed.
        if let Ok(status) = fs::read_to_string(task?.path().join("status")) {
            sum += field(&status, "voluntary_ctxt_switches:").unwrap_or_default();
        }
    }
    Ok(sum)
}

/// Memory of one process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// All resident memory of the process.
    pub(crate) rss: u64,
    /// The same, but each shared page (above all of the program's code) is divided by the number of processes that
    /// share it.
    pub(crate) pss: u64,
}

pub(crate) fn memory(pid: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |name| field(&text, name).ok_or_else(|| io::Error::other(format!("smaps_rollup: no {name}")));
    Ok(Memory { rss: kib("Rss:")? * 1024, pss: kib("Pss:")? * 1024 })
}

/// What left the interface `eth0` of a network namespace, with all headers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
}

/// What was sent so far in the network namespace of this process.
pub(crate) fn sent(pid: u32) -> io::Result<Sent> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev"))?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
    // Eight columns are of what was received.
    let mut columns = line.unwrap_or_default().split_whitespace().skip(8).map(str::parse);
    match (columns.next(), columns.next()) {
        (Some(Ok(bytes)), Some(Ok(packets))) => Ok(Sent { bytes, packets }),
        _ => Err(io::Error::other("/proc/net/dev: no eth0")),
    }
}

/// TCP connections accepted so far in this process's network.
pub(crate) fn connections_accepted() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/net/snmp")?;
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (tcp.next().unwrap_or_default(), tcp.next().unwrap_or_default());
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let value = pairs.find(|(name, _)| *name == "PassiveOpens").and_then(|(_, value)| value.parse().ok());
    value.ok_or_else(|| io::Error::other("/proc/self/net/snmp: no PassiveOpens"))
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}
