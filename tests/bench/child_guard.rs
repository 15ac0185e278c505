//! Kills the started processes when this program ends, even if this program is killed.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// A process group and its leader. The leader is a shell that reads its stdin, which closes when this program ends;
/// then it kills the group. Ctrl-C does not reach the group: this program gets the signal and ends the nodes.
#[derive(Debug)]
pub(crate) struct ChildGuard(Child);

impl ChildGuard {
    pub(crate) fn start() -> io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "read -r nothing; kill -KILL 0"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        command.spawn().map(Self)
    }

    /// Makes the command start its process in the group.
    pub(crate) fn adopt(&self, command: &mut Command) {
        command.process_group(i32::try_from(self.0.id()).unwrap_or(0));
    }
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        // The shell reads the end of its stdin and kills the processes that the group may still have.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
