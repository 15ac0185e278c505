//! Nodes embedded in this program: a node that reports when it sent each ping, and a node that broadcasts as fast
//! as it can.
//!
//! The program does not report the time at which it sends a ping. So every second node of the mesh is embedded, and
//! the other nodes, which receive the timed pings, are processes of the program. The time of sending is the time
//! at which the coordinator logs the ping, just before it is encoded.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use std::{iter, thread};

use crossbeam_channel::{Sender, select, tick, unbounded};
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use p2p_gossip::internals::limits::OUTBOX_FRAMES_WITH_MESSAGES;
use p2p_gossip::{BroadcastError, Config, ConnectAddr, Event, Identity, Node};

use super::ours::{Events, Ours};
use super::{Observation, OutputParser, Plan, SystemUnderTest};
use crate::circuits::{BURST_BYTES, BURST_MESSAGES, BURST_SENDERS};
use crate::clock;

/// The argument that makes this program a node that reports its pings. The period in seconds and the addresses
/// to join through follow.
pub(crate) const ROLE: &str = "embedded-node";
/// The argument that makes this program a node that broadcasts. The number of nodes follows.
pub(crate) const BROADCAST_ROLE: &str = "broadcasting-node";
/// The argument that makes this program a node that sends a burst of messages at SIGUSR1. Its address and the addresses
/// to join through follow.
pub(crate) const BURST_ROLE: &str = "bursting-node";
/// Most messages that wait to be written: half of the limit above which a message to a slow peer is dropped.
const BROADCASTS_PENDING_MAX: usize = OUTBOX_FRAMES_WITH_MESSAGES / 2;
/// Time between two reports of the pings sent meanwhile.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The text of each broadcast message.
pub(crate) const TEXT: &str = "ping";

/// A mesh in which every second node is embedded, from the second node on.
pub(crate) struct HalfEmbedded(pub(crate) Ours);

impl HalfEmbedded {
    /// Whether the node with this index is embedded, so that it reports when it sends.
    pub(crate) fn is_embedded(index: usize) -> bool {
        index % 2 == 1
    }
}

impl SystemUnderTest for HalfEmbedded {
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

    fn parser(&self, plan: &Plan<'_>) -> Box<dyn OutputParser> {
        if Self::is_embedded(plan.index) { Box::new(EventAndSentLines) } else { self.0.parser(plan) }
    }
}

/// Parses the program's JSON events, and lines `sent PEER SEQ NANOSECONDS`.
struct EventAndSentLines;

impl OutputParser for EventAndSentLines {
    fn parse_line(&mut self, line: &str) -> Option<Observation> {
        let Some(sent) = line.strip_prefix("sent ") else {
            return Events.parse_line(line);
        };
        let mut words = sent.split(' ');
        let peer = words.next()?.to_owned();
        let seq = words.next()?.parse().ok()?;
        let at = Duration::from_nanos(words.next()?.parse().ok()?);
        Some(Observation::Sent { peer, seq, at })
    }
}

/// A mesh of `count` nodes in which the first node broadcasts.
pub(crate) struct OneBroadcaster {
    pub(crate) ours: Ours,
    pub(crate) count: usize,
}

impl OneBroadcaster {
    pub(crate) const SENDER: usize = 0;
}

impl SystemUnderTest for OneBroadcaster {
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

    fn parser(&self, plan: &Plan<'_>) -> Box<dyn OutputParser> {
        self.ours.parser(plan)
    }
}

/// Runs a node that broadcasts once it sees all others, until it is killed.
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
    let mut pending = VecDeque::new();
    loop {
        // Events without a reader are dropped.
        pending.push_back(node.broadcast(TEXT)?);
        if pending.len() > BROADCASTS_PENDING_MAX {
            let oldest = pending.pop_front().expect("not empty");
            let _ = oldest.wait(Duration::from_secs(1));
        }
    }
}

/// Runs a node that sends a burst of messages at SIGUSR1, until it is killed.
pub(crate) fn burst(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let mut begin = signal_hook::iterator::Signals::new([signal_hook::consts::SIGUSR1])?;
    let addr: SocketAddr = arguments.next().ok_or("the address is missing")?.parse()?;
    let join = arguments.map(|addr| addr.parse()).collect::<Result<Vec<ConnectAddr>, _>>()?;
    let config = Config::default().port(addr.port()).bind(addr.ip().into()).connect(join);
    let node = Node::start(config, Identity::generate()?)?;
    let events = node.events().clone();
    thread::spawn(move || {
        while let Ok(first) = events.recv() {
            // All that wait in one write: the node drops messages behind a reader that is slow.
            let waiting = iter::once(first).chain(events.try_iter());
            let lines: String = waiting.map(|event| line(&event)).collect();
            if io::stdout().write_all(lines.as_bytes()).is_err() {
                break;
            }
        }
    });
    for _ in begin.forever() {
        thread::scope(|scope| {
            let senders: Vec<_> = (0..BURST_SENDERS).map(|_| scope.spawn(|| send_burst(&node))).collect();
            senders.into_iter().try_for_each(|sender| sender.join().expect("a sender does not panic"))
        })?;
    }
    Ok(())
}

/// Sends one thread's share of a burst.
fn send_burst(node: &Node) -> Result<(), BroadcastError> {
    let text = "x".repeat(BURST_BYTES);
    let mut pending = VecDeque::new();
    for _ in 0..BURST_MESSAGES / BURST_SENDERS {
        pending.push_back(node.broadcast(&text)?);
        if pending.len() > BROADCASTS_PENDING_MAX / BURST_SENDERS {
            let oldest = pending.pop_front().expect("not empty");
            let _ = oldest.wait(Duration::from_secs(10));
        }
    }
    Ok(())
}

/// The line for an event. Of a message only the arrival counts.
fn line(event: &Event) -> String {
    match event {
        Event::Message { .. } => "{\"event\":\"message\"}\n".to_owned(),
        event => serde_json::to_string(event).map_or_else(|_| String::new(), |line| line + "\n"),
    }
}

/// Runs a node that reports when it pings, until it is killed.
pub(crate) fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), Box<dyn std::error::Error>> {
    let period = Duration::from_secs_f64(arguments.next().ok_or("the period is missing")?.parse()?);
    let connect = arguments.map(|addr| addr.parse()).collect::<Result<Vec<_>, _>>()?;
    let config = on_loopback().period(period).connect(connect);
    let (sender, sent) = unbounded();
    log::set_boxed_logger(Box::new(PingLogger { sent: sender, sessions: Mutex::default() }))?;
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
    let tick = tick(REPORT_INTERVAL);
    loop {
        let lines = select! {
            recv(events_in) -> event => serde_json::to_string(&event?)? + "\n",
            // Once a second only: a report written while a ping is under way would delay that ping.
            recv(tick) -> _ => sent.try_iter().collect(),
        };
        // One write for whole lines, because the reader notes the time at which each arrives.
        io::stdout().write_all(lines.as_bytes())?;
    }
}

fn on_loopback() -> Config {
    Config::default().port(0).bind(IpAddr::from(Ipv4Addr::LOCALHOST).into())
}

/// A logger that extracts the times of pings from the node's log records.
struct PingLogger {
    sent: Sender<String>,
    /// The peer of each session.
    sessions: Mutex<std::collections::BTreeMap<String, String>>,
}

impl Log for PingLogger {
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
