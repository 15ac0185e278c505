//! The programs to be measured: how to start their nodes, and how to read the output of a node.

pub(crate) mod embedded;
pub(crate) mod libraries;
pub(crate) mod nats;
pub(crate) mod ours;
pub(crate) mod serf;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The parameters of one node to be started.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// Counts the nodes of a cluster from 0; never used again.
    pub(crate) index: usize,
    /// The address to join through; `None` for the first node.
    pub(crate) join: Option<&'a str>,
    /// The address to listen at, if the node has a network namespace of its own; otherwise it listens on loopback.
    pub(crate) addr: Option<SocketAddr>,
    /// The cluster's directory for files.
    pub(crate) dir: &'a Path,
}

impl Plan<'_> {
    pub(crate) fn name(&self) -> String {
        format!("n{}", self.index + 1)
    }
}

/// One fact that a node has reported in its output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Observation {
    /// The node accepts connections.
    Ready {
        /// The id of this node in the output of the others.
        id: String,
        /// The address through which others join, in the program's own form.
        join: String,
    },
    /// The node sees the peer with this id.
    Up(String),
    /// The node has lost the peer with this id.
    Down(String),
    /// The node has lost the peer with this id, together with most others, and bothers no user with each.
    QuietDown(String),
    /// The node says why it lost a peer.
    Verdict {
        /// The peer's id.
        peer: String,
        /// The verdict, in the program's own word.
        verdict: String,
    },
    /// The path to the peer with this id has changed: another one carries it, or none any more.
    Path(String),
    /// The node received a ping.
    Ping {
        /// The beginning of the sender's id.
        peer: String,
        /// The sender's count of pings to this node.
        seq: u64,
    },
    /// The node received a broadcast message.
    Message,
    /// The node sent a ping.
    Sent {
        /// The beginning of the receiver's id.
        peer: String,
        /// The node's count of pings to that receiver.
        seq: u64,
        /// The time of sending, on the clock that all processes share.
        at: Duration,
    },
}

/// A program to be measured.
pub(crate) trait SystemUnderTest: Sync {
    /// The program's name in the table.
    fn name(&self) -> String;
    /// The installed version, or the reason why the program cannot run.
    fn version(&self) -> Result<String, String>;
    /// The command that runs a node in the foreground.
    fn command(&self, plan: &Plan<'_>) -> io::Result<Command>;
    /// A parser for the output of that node.
    fn parser(&self, plan: &Plan<'_>) -> Box<dyn OutputParser>;
}

/// Parses the lines that one node writes to stdout and stderr.
pub(crate) trait OutputParser {
    fn parse_line(&mut self, line: &str) -> Option<Observation>;
}

/// The first line that a program prints for its version option.
fn ask_version(program: &str, argument: &str, package: &str) -> Result<String, String> {
    match Command::new(program).arg(argument).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.lines().next().unwrap_or("of unknown version").trim().to_owned())
        }
        Err(error) => Err(format!("{program}: {error}; Debian has it in the package {package}")),
    }
}
