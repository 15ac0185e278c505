//! Nothing that was started outlives this program, even if it is killed.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// A process group and its leader, a shell that waits for the end of its stdin, which is the end of
/// this program, and then kills the group. In a group of their own the nodes hear no Ctrl-C either:
/// this program does, and ends them.
#[derive(Debug)]
pub(crate) struct ChildGuard(Child);

impl ChildGuard {
    pub(crate) fn start() -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r nothing; kill -KILL 0"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        command.spawn().map(Self)
    }

    /// Puts a process that is about to be started into the group.
    pub(crate) fn adopt(&self, command: &mut Command) {
        command.process_group(i32::try_from(self.0.id()).unwrap_or(0));
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // After an early end its group may still have processes.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
