//! What is measured: programs whose nodes see each other, and how each of them says so.

pub(crate) mod embedded;
pub(crate) mod nats;
pub(crate) mod ours;
pub(crate) mod serf;

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How one node is to be started.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Counts the nodes of a cluster from 0; never used again.
    pub(crate) index: usize,
    /// Where to join; `None` for the first node.
    pub(crate) join: Option<&'a str>,
    /// For files, the cluster's own.
    pub(crate) dir: &'a Path,
}

impl Plan<'_> {
    pub(crate) fn name(&self) -> String {
        format!("n{}", self.index + 1)
    }
}

/// Something that a node said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// It accepts connections.
    Ready {
        /// What the others will call it.
        id: String,
        /// Where the others join, in the program's own form.
        join: String,
    },
    /// It sees this one.
    Up(String),
    /// It has lost this one.
    Down(String),
    /// It received a ping.
    Ping {
        /// Whose.
        peer: String,
        /// The sender's count of pings to it.
        seq: u64,
    },
    /// It received a broadcast message.
    Message,
    /// It sent a ping at that time of the common clock.
    Sent {
        /// The receiver: the beginning of its id.
        peer: String,
        /// Its count of pings to that one.
        seq: u64,
        /// When.
        at: Duration,
    },
}

/// A program to be measured.
pub(crate) trait SystemUnderTest {
    /// What it is called in the table.
    fn name(&self) -> String;
    /// Which version would be measured, or why none can be.
    fn version(&self) -> Result<String, String>;
    /// How a node is started, in the foreground.
    fn command(&self, plan: &Plan<'_>) -> io::Result<Command>;
    /// The listener to that node.
    fn ear(&self, plan: &Plan<'_>) -> Box<dyn Ear>;
}

/// Understands what one node says on stdout and stderr.
pub(crate) trait Ear {
    fn hear(&mut self, line: &str) -> Option<Heard>;
}

/// The first line that a program says when asked for its version.
fn ask_version(program: &str, argument: &str, package: &str) -> Result<String, String> {
    match Command::new(program).arg(argument).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.lines().next().unwrap_or("of unknown version").trim().to_owned())
        }
        Err(error) => Err(format!("{program}: {error}; Debian has it in the package {package}")),
    }
}
