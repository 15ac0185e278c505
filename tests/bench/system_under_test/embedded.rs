//! A node embedded in this program: one that knows when each of its pings was sent, or that
//! broadcasts as fast as it can.
//!
//! The program itself does not tell, so for the time that a ping takes every other node of the mesh
//! is one of these; the rest, where the time of arrival is taken, is the program for use. The
//! moment of sending is the one at which the coordinator logs the ping that it is about to encode.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Sender, select, tick, unbounded};
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use p2p_gossip::internals::limits::OUTBOX_FRAMES_WITH_MESSAGES;
use p2p_gossip::{Config, Event, Identity, Node};

use super::ours::{Events, Ours};
use super::{Ear, Heard, Plan, SystemUnderTest};
use crate::clock;

/// The argument that makes this program such a node that tells when it pings; the period and where
/// to join follow.
pub(crate) const ROLE: &str = "embedded-node";
/// The same for one that broadcasts; the number of nodes follows.
pub(crate) const BROADCAST_ROLE: &str = "broadcasting-node";
/// Messages that may wait to be written: half of what may wait for one peer before a message passes it by.
const BROADCASTS_UNDER_WAY: usize = OUTBOX_FRAMES_WITH_MESSAGES / 2;
/// Between two times at which such a node tells when it has pinged.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// What is broadcast.
pub(crate) const TEXT: &str = "ping";

/// Every second node of a mesh is embedded, from the second on.
pub(crate) struct EverySecond(pub(crate) Ours);

impl EverySecond {
    /// Whether that node tells when it sends.
    pub(crate) fn is_embedded(index: usize) -> bool {
        index % 2 == 1
    }
}

impl SystemUnderTest for EverySecond {
    fn name(&self) -> String {
        self.0.name()
    }

    fn version(&self) -> Result<String, String> {
        self.0.version()
    }

    fn command(&self, plan: &Plan<'_>) -> io::Result<Command> {
        if !Self::is_embedded(plan.index) {
            return self.0.command(plan);
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(ROLE).arg(self.0.period_s.to_string()).args(plan.join);
        Ok(command)
    }

    fn ear(&self, plan: &Plan<'_>) -> Box<dyn Ear> {
        if Self::is_embedded(plan.index) { Box::new(EventsAndSent) } else { self.0.ear(plan) }
    }
}

/// Events as the program writes them, and lines `sent PEER SEQ NANOSECONDS`.
struct EventsAndSent;

impl Ear for EventsAndSent {
    fn hear(&mut self, line: &str) -> Option<Heard> {
        let Some(sent) = line.strip_prefix("sent ") else {
            return Events.hear(line);
        };
        let mut words = sent.split(' ');
        let peer = words.next()?.to_owned();
        let seq = words.next()?.parse().ok()?;
        let at = Duration::from_nanos(words.next()?.parse().ok()?);
        Some(Heard::Sent { peer, seq, at })
    }
}

/// The first node of a mesh of so many broadcasts.
pub(crate) struct OneBroadcasts {
    pub(crate) ours: Ours,
    pub(crate) count: usize,
}

impl OneBroadcasts {
    pub(crate) const SENDER: usize = 0;
}

impl SystemUnderTest for OneBroadcasts {
    fn name(&self) -> String {
        self.ours.name()
    }

    fn version(&self) -> Result<String, String> {
        self.ours.version()
    }

    fn command(&self, plan: &Plan<'_>) -> io::Result<Command> {
        if plan.index != Self::SENDER {
            return self.ours.command(plan);
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args([BROADCAST_ROLE, &self.count.to_string()]);
        Ok(command)
    }

    fn ear(&self, plan: &Plan<'_>) -> Box<dyn Ear> {
        self.ours.ear(plan)
    }
}

/// The whole life of a node that broadcasts, once all others are there, until it is killed.
pub(crate) fn broadcast(
    mut arguments: impl Iterator<Item = String>,
) -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = arguments.next().ok_or("the number of nodes is missing")?.parse()?;
    let node = Node::start(on_loopback(), Identity::generate()?)?;
    for event in node.events() {
        io::stdout().write_all(format!("{}\n", serde_json::to_string(&event)?).as_bytes())?;
        if matches!(event, Event::Up { members, .. } if members == count) {
            break;
        }
    }
    let mut under_way = VecDeque::new();
    loop {
        // Events without a reader are dropped.
        under_way.push_back(node.broadcast(TEXT)?);
        if under_way.len() > BROADCASTS_UNDER_WAY {
            let oldest = under_way.pop_front().expect("not empty");
            let _ = oldest.wait(Duration::from_secs(1));
        }
    }
}

/// The whole life of a node that tells when it pings, until it is killed.
pub(crate) fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let period = Duration::from_secs_f64(arguments.next().ok_or("the period is missing")?.parse()?);
    let connect = arguments.map(|addr| addr.parse()).collect::<Result<Vec<_>, _>>()?;
    let config = on_loopback().period(period).connect(connect);
    let (sender, sent) = unbounded();
    log::set_boxed_logger(Box::new(Watch { sent: sender, sessions: Mutex::default() }))?;
    log::set_max_level(LevelFilter::Trace);
    let node = Node::start(config, Identity::generate()?)?;
    let events = node.events().clone();
    let (forward, events_in) = unbounded();
    thread::spawn(move || {
        for event in &events {
            if forward.send(event).is_err() {
                break;
            }
        }
    });
    let tick = tick(TELL_EVERY);
    loop {
        let lines = select! {
            recv(events_in) -> event => serde_json::to_string(&event?)? + "\n",
            // Not at once: what is told while a ping is on its way would make that later.
            recv(tick) -> _ => sent.try_iter().collect(),
        };
        // Whole lines at once, because the reader takes their time.
        io::stdout().write_all(lines.as_bytes())?;
    }
}

fn on_loopback() -> Config {
    Config::default().port(0).bind(IpAddr::from(Ipv4Addr::LOCALHOST).into())
}

/// Takes the times of pings out of what the node logs.
struct Watch {
    sent: Sender<String>,
    /// Whose session is whose.
    sessions: Mutex<std::collections::BTreeMap<String, String>>,
}

impl Log for Watch {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        (target == "p2p_gossip::runtime::coordinator" && metadata.level() == Level::Trace)
            || (target.starts_with("p2p_gossip::session") && metadata.level() == Level::Debug)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = clock::now();
        let mut pairs = Pairs::default();
        if record.key_values().visit(&mut pairs).is_err() {
            return;
        }
        let (Some(session), mut sessions) =
            (pairs.session, self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
        else {
            return;
        };
        if let Some(peer) = pairs.peer {
            sessions.insert(session, peer);
        } else if let (Some(seq), Some(peer)) = (pairs.ping, sessions.get(&session)) {
            // The receiver is gone if the node is about to end.
            let _ = self.sent.send(format!("sent {peer} {seq} {}\n", now.as_nanos()));
        }
    }

    fn flush(&self) {}
}

#[derive(Default)]
struct Pairs {
    session: Option<String>,
    peer: Option<String>,
    /// The ping's number, if the message is one.
    ping: Option<u64>,
}

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        match key.as_str() {
            "session" => self.session = Some(value.to_string()),
            "peer" => self.peer = Some(value.to_string()),
            "ping" => self.ping = value.to_u64(),
            _ => {}
        }
        Ok(())
    }
}
