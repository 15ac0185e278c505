//! This project's program, in its release build.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use p2p_gossip::Event;

use super::{Observation, OutputParser, Plan, SystemUnderTest, ask_version};
use crate::process::Spec;

/// A ping period of a day. After the first ping to each peer, 0.5 s after its session came up, only heartbeats
/// are sent.
const NO_PINGS_S: f64 = 86_400.0;

#[derive(Clone, Debug)]
pub(crate) struct Ours {
    pub(crate) program: PathBuf,
    pub(crate) period_s: f64,
    /// Whether nodes carry circuits for each other.
    relay: bool,
}

impl Ours {
    pub(crate) fn quiet(program: PathBuf) -> Self {
        Self { program, period_s: NO_PINGS_S, relay: true }
    }

    pub(crate) fn with_period(self, period_s: f64) -> Self {
        Self { period_s, ..self }
    }

    /// The same without circuits: a cut link then shows as `down`, and with a verdict.
    pub(crate) fn without_circuits(&self) -> Self {
        Self { relay: false, ..self.clone() }
    }
}

impl SystemUnderTest for Ours {
    fn name(&self) -> String {
        let pings = if self.period_s < NO_PINGS_S { ", pings shown" } else { "" };
        format!("p2p-gossip{pings}")
    }

    fn version(&self) -> Result<String, String> {
        ask_version(&self.program.to_string_lossy(), "--version", "none; make build makes it")
    }

    fn command(&self, plan: &Plan<'_>) -> io::Result<Command> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let bind = plan.addr.unwrap_or(loopback);
        // The log level of a typical service; events go to stdout at each level.
        let spec = Spec::named(plan.name()).with_bind(bind);
        let mut spec = spec.with_period(self.period_s).with_log("warn");
        if !self.relay {
            spec = spec.with_option("--relay", "off");
        }
        if let Some(join) = plan.join {
            spec = spec.with_connect(join.parse().map_err(io::Error::other)?);
        }
        Ok(spec.command(&self.program))
    }

    fn parser(&self, _: &Plan<'_>) -> Box<dyn OutputParser> {
        Box::new(Events)
    }
}

/// Parses the output of `--output json`.
pub(crate) struct Events;

impl OutputParser for Events {
    fn parse_line(&mut self, line: &str) -> Option<Observation> {
        if !line.starts_with('{') {
            return None;
        }
        // Tens of thousands a second may arrive, and only their number counts, so they are not decoded.
        if line.contains("\"event\":\"message\"") {
            return Some(Observation::Message);
        }
        // Read by name, because `PROGRAM` may be a version that has other events.
        if line.contains("\"event\":\"verdict\"") || line.contains("\"quiet\":true") {
            let object: serde_json::Value = serde_json::from_str(line).ok()?;
            let text = |name: &str| object[name].as_str().map(str::to_owned);
            return match (text("event")?.as_str(), text("peer")?) {
                ("verdict", peer) => Some(Observation::Verdict { peer, verdict: text("verdict")? }),
                ("down", peer) => Some(Observation::QuietDown(peer)),
                _ => None,
            };
        }
        Some(match serde_json::from_str(line).ok()? {
            Event::Listening { id, addr: mut reached, .. } => {
                if reached.ip().is_unspecified() {
                    reached.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
                }
                Observation::Ready { id: id.to_string(), join: reached.to_string() }
            }
            Event::Up { peer, .. } => Observation::Up(peer.to_string()),
            Event::Down { peer, .. } | Event::Left { peer, .. } => Observation::Down(peer.to_string()),
            Event::Path { peer, .. } => Observation::Path(peer.to_string()),
            Event::Ping { peer, seq, .. } => Observation::Ping { peer: peer.to_string(), seq },
            _ => return None,
        })
    }
}
