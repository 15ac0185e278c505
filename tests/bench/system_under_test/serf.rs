//! Serf (HashiCorp): SWIM over UDP, one shared AES key, no connections between the members.
//!
//! Three settings differ from the defaults: the key (`-encrypt`), the addresses, so that many agents run on one machine,
//! and the log level, so that Serf logs joins and failures. Its timing is the default profile, `lan`. Writing the
//! log counts as a cost of Serf, as writing events counts as a cost of p2p-gossip.

use std::io;
use std::process::Command;

use super::{Observation, OutputParser, Plan, SystemUnderTest, ask_version};

/// Two ports for each agent, below the kernel's range of source ports.
const PORT: usize = 21_000;
const RPC_PORT: usize = 23_000;
/// Sixteen bytes in base64. All agents of a Serf cluster share the key; it protects no secret here.
const KEY: &str = "cDJwLWdvc3NpcC1iZW5jaA==";

pub(crate) struct Serf;

impl SystemUnderTest for Serf {
    fn name(&self) -> String {
        "serf".to_owned()
    }

    fn version(&self) -> Result<String, String> {
        ask_version("serf", "version", "serf").map(|version| format!("Serf {version}"))
    }

    fn command(&self, plan: &Plan<'_>) -> io::Result<Command> {
        let mut command = Command::new("serf");
        command.args(["agent", "-node", &plan.name(), "-encrypt", KEY, "-log-level", "info"]);
        let rpc_index = if plan.addr.is_some() { 0 } else { plan.index };
        command.args(["-bind", &addr(plan), "-rpc-addr", &loopback(RPC_PORT + rpc_index)]);
        if let Some(join) = plan.join {
            command.args(["-join", join]);
        }
        Ok(command)
    }

    fn parser(&self, plan: &Plan<'_>) -> Box<dyn OutputParser> {
        Box::new(LogLines { own: plan.name(), addr: addr(plan) })
    }
}

fn addr(plan: &Plan<'_>) -> String {
    plan.addr.map_or_else(|| loopback(PORT + plan.index), |addr| addr.to_string())
}

fn loopback(port: usize) -> String {
    format!("127.0.0.1:{port}")
}

struct LogLines {
    own: String,
    addr: String,
}

impl OutputParser for LogLines {
    fn parse_line(&mut self, line: &str) -> Option<Observation> {
        if line.contains("Serf agent running!") {
            return Some(Observation::Ready { id: self.own.clone(), join: self.addr.clone() });
        }
        let (_, event) = line.split_once("serf: EventMember")?;
        let mut words = event.split_whitespace();
        let change = words.next()?;
        let peer = words.next().filter(|peer| *peer != self.own)?.to_owned();
        match change {
            "Join:" => Some(Observation::Up(peer)),
            "Failed:" | "Leave:" => Some(Observation::Down(peer)),
            _ => None,
        }
    }
}
