//! Nodes of the libraries foca (SWIM) and chitchat (phi accrual), in packages of their own below this directory.
//! `make bench-faults` builds them. Their packets are not encrypted.

use std::io;
use std::path::PathBuf;
use std::process::Command;

use super::{Observation, OutputParser, Plan, SystemUnderTest, ask_version};

/// Ports on loopback, below the kernel's range of source ports.
const FIRST_PORT: usize = 27_000;

/// A node's program that prints `ready ADDRESS`, `up ADDRESS` and `down ADDRESS`. An address is a node's id.
#[derive(Debug)]
pub(crate) struct Library {
    name: &'static str,
    program: PathBuf,
    /// The expected number of members, for a program that asks for it.
    members: Option<usize>,
}

impl Library {
    /// foca's settings depend on the number of members.
    pub(crate) fn foca(programs: &str, members: usize) -> Self {
        Self { name: "foca", program: PathBuf::from(programs).join("foca-node"), members: Some(members) }
    }

    pub(crate) fn chitchat(programs: &str) -> Self {
        Self { name: "chitchat", program: PathBuf::from(programs).join("chitchat-node"), members: None }
    }
}

impl SystemUnderTest for Library {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn version(&self) -> Result<String, String> {
        ask_version(&self.program.to_string_lossy(), "--version", "none; make bench-faults builds it")
    }

    fn command(&self, plan: &Plan<'_>) -> io::Result<Command> {
        let loopback = || format!("127.0.0.1:{}", FIRST_PORT + plan.index);
        let mut command = Command::new(&self.program);
        command.arg(plan.addr.map_or_else(loopback, |addr| addr.to_string()));
        command.args(self.members.map(|members| members.to_string())).args(plan.join);
        Ok(command)
    }

    fn parser(&self, _: &Plan<'_>) -> Box<dyn OutputParser> {
        Box::new(Lines)
    }
}

struct Lines;

impl OutputParser for Lines {
    fn parse_line(&mut self, line: &str) -> Option<Observation> {
        let (word, addr) = line.split_once(' ')?;
        let addr = addr.to_owned();
        match word {
            "ready" => Some(Observation::Ready { id: addr.clone(), join: addr }),
            "up" => Some(Observation::Up(addr)),
            "down" => Some(Observation::Down(addr)),
            _ => None,
        }
    }
}
