//! Serf (HashiCorp): SWIM over UDP, one shared AES key, no connections between the members.
//!
//! As it comes but for three things: the key (`-encrypt`), ports of their own for many agents on
//! one machine, and a log level at which it says who joined and failed. Its timing is the default
//! profile, `lan`. Its log is read as it is written; it costs Serf what ours costs us.

use std::io;
use std::process::Command;

use super::{Ear, Heard, Plan, SystemUnderTest, ask_version};

/// Two ports for each agent, below the range from which the kernel takes source ports.
const PORT: usize = 21_000;
const RPC_PORT: usize = 23_000;
/// Sixteen bytes in base64, the same for all agents as Serf wants it; nothing secret is said.
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
        command.args(["-bind", &addr(PORT, plan), "-rpc-addr", &addr(RPC_PORT, plan)]);
        if let Some(join) = plan.join {
            command.args(["-join", join]);
        }
        Ok(command)
    }

    fn ear(&self, plan: &Plan<'_>) -> Box<dyn Ear> {
        Box::new(LogLines { own: plan.name(), addr: addr(PORT, plan) })
    }
}

fn addr(base: usize, plan: &Plan<'_>) -> String {
    format!("127.0.0.1:{}", base + plan.index)
}

struct LogLines {
    own: String,
    addr: String,
}

impl Ear for LogLines {
    fn hear(&mut self, line: &str) -> Option<Heard> {
        if line.contains("Serf agent running!") {
            return Some(Heard::Ready { id: self.own.clone(), join: self.addr.clone() });
        }
        let (_, event) = line.split_once("serf: EventMember")?;
        let mut words = event.split_whitespace();
        let what = words.next()?;
        let who = words.next().filter(|who| *who != self.own)?.to_owned();
        match what {
            "Join:" => Some(Heard::Up(who)),
            "Failed:" | "Leave:" => Some(Heard::Down(who)),
            _ => None,
        }
    }
}
