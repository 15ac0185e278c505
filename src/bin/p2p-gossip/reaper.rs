//! Reaps orphans if this process is the first one of a container (PID 1).
//!
//! The system gives a process whose parent has ended to the first process. The first process must read its exit
//! status in the end; otherwise it stays as a zombie, until no more processes can be made. A program of `--on-event`
//! that leaves children behind makes such orphans.

use std::fs;
use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitOptions, waitpid};

/// The child that this program has started and waits for itself.
static OWN_CHILD: Mutex<Option<Pid>> = Mutex::new(None);

/// Whether orphans become children of this process.
pub(crate) fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Starts a program. Until [`release`] it is not reaped here; at most one such child exists at a time.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    // Held from before the child exists, so that the child is not taken for an orphan.
    let mut own = own_child();
    let child = command.spawn()?;
    *own = Some(Pid::from_child(&child));
    Ok(child)
}

/// Notes that the program has waited for its child.
pub(crate) fn release() {
    *own_child() = None;
}

/// Reaps each orphan that has ended.
pub(crate) fn reap_orphans() {
    let own = own_child();
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        if let Some(pid) = pid.filter(|pid| Some(*pid) != *own && is_zombie_of_ours(*pid)) {
            // Nothing else waits for it, so the number is still its own.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Whether this process has ended and its exit status waits for this program (proc_pid_stat(5)).
fn is_zombie_of_ours(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The name of the program comes before, in parentheses, and may contain anything.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let (state, parent) = (fields.next(), fields.next());
    state == Some("Z") && parent.and_then(|parent| parent.parse().ok()) == Some(std::process::id())
}

fn own_child() -> MutexGuard<'static, Option<Pid>> {
    // The value is valid at any time.
    OWN_CHILD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn child_that_the_program_waits_for_is_not_reaped() {
        let mut own = spawn(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        let mut other = Command::new("true").spawn().unwrap();
        let (own_pid, other_pid) = (Pid::from_child(&own), Pid::from_child(&other));
        // Both have ended before anything is reaped.
        for pid in [own_pid, other_pid] {
            while !is_zombie_of_ours(pid) {
                std::thread::yield_now();
            }
        }
        reap_orphans();
        assert!(is_zombie_of_ours(own_pid) && !is_zombie_of_ours(other_pid));
        assert_eq!(own.wait().unwrap().code(), Some(3));
        assert!(other.wait().is_err());
        release();
    }
}
