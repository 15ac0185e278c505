//! The verbs that ask a running node through its control socket.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use p2p_gossip::Escaped;
use p2p_gossip::internals::mesh::KEY_GRACE_MIN;
use serde::Deserialize;

use super::running_node::{
    KeyStatus, NodeStatus, Order, Peer, Peers, ask, parse, peers_as_lines, seconds, short, table,
};
use super::{VerbError, watch};
use crate::cli::{ControlVerb, Output, PeerText, Subject};
use crate::http::{Client, ClientError};
use crate::output::count;
use crate::output::peer_table::two_units;

/// Time between two questions while a verb waits for something. The node makes a new snapshot five times a second.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Longest age of what the node tells of its peers.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_millis(250);

/// Performs the verb, and returns the text for stdout.
pub(super) fn perform(client: &Client, verb: ControlVerb, output: Output) -> Result<String, VerbError> {
    match verb {
        ControlVerb::Members => members(client, output),
        ControlVerb::Status => status(client, output),
        ControlVerb::Watch => watch::watch(client, output),
        ControlVerb::Why(Subject::Addr(addr)) => why(client, &addr, output),
        ControlVerb::Why(Subject::Peer(peer)) => why(client, &id_of(client, &peer)?, output),
        ControlVerb::Ping(peer) => ping(client, &id_of(client, &peer)?, output),
        ControlVerb::Send(text) => send(client, &text, output),
        ControlVerb::Connect(addr) => {
            let addr = addr.to_string();
            let text = format!("joining through {addr}; p2p-gossip why {addr} tells what comes of it\n");
            change(client, "/connect", &addr, output, |_| text)
        }
        ControlVerb::Allow(prefix) => {
            let text = |peer: &str| format!("allowed {peer} until the node stops\n");
            change(client, "/allow", &prefix.to_string(), output, text)
        }
        ControlVerb::Deny(prefix) => {
            let text = |peer: &str| format!("denied {peer} until the node stops\n");
            change(client, "/deny", &prefix.to_string(), output, text)
        }
        ControlVerb::Reload => change(client, "/reload", "", output, |_| "lists read again\n".to_owned()),
        ControlVerb::Rotate(grace) => rotate(client, grace, output),
        ControlVerb::Leave => change(client, "/leave", "", output, |_| "the node leaves\n".to_owned()),
        ControlVerb::Wait { members, timeout } => wait(client, members, timeout, output),
    }
}

/// The id of a peer, or the digits of it that the user gave. A name must be that of one peer only.
fn id_of(client: &Client, peer: &PeerText) -> Result<String, VerbError> {
    let name = match peer {
        PeerText::Id(prefix) => return Ok(prefix.to_string()),
        PeerText::Name(name) => name,
    };
    let Peers { peers } = ask(client, "/peers")?;
    let ids: Vec<&str> = peers.iter().filter(|peer| peer.name == *name).map(|peer| &*peer.id).collect();
    match *ids {
        [id] => Ok(id.to_owned()),
        [] => Err(VerbError::NoSuchName),
        _ => {
            let ids: Vec<&str> = ids.into_iter().map(short).collect();
            Err(VerbError::AmbiguousName(ids.join(", ")))
        }
    }
}

/// Has the node change something. The text gets the peer that the answer names.
fn change(
    client: &Client,
    path: &str,
    argument: &str,
    output: Output,
    text: impl FnOnce(&str) -> String,
) -> Result<String, VerbError> {
    let answer = client.post(path, argument)?;
    if output == Output::Json {
        return Ok(answer);
    }
    let object: serde_json::Value = parse(&answer)?;
    Ok(text(&Escaped(object["peer"].as_str().unwrap_or_default()).to_string()))
}

fn rotate(client: &Client, grace: Duration, output: Output) -> Result<String, VerbError> {
    let answer = client.post("/rotate", &format!("{}s", grace.as_secs()))?;
    if output == Output::Json {
        return Ok(answer);
    }
    let object: serde_json::Value = parse(&answer)?;
    let generation = object["generation"].as_u64().unwrap_or_default();
    let grace = two_units(grace.max(KEY_GRACE_MIN));
    Ok(format!(
        "the network has a new key, number {generation}; the one before is accepted for {grace} more\n\
         p2p-gossip status counts the members that have it, p2p-gossip invite makes new tickets\n"
    ))
}

fn members(client: &Client, output: Output) -> Result<String, VerbError> {
    let answer = client.get("/peers")?;
    let mut peers: Peers = parse(&answer)?;
    if output == Output::Json {
        return peers_as_lines(&answer);
    }
    let status: NodeStatus = ask(client, "/status")?;
    Ok(status.line(&peers.peers) + &table(&mut peers.peers, Order::State))
}

fn status(client: &Client, output: Output) -> Result<String, VerbError> {
    let answer = client.get("/status")?;
    if output == Output::Json {
        return Ok(answer);
    }
    let NodeStatus { node, members, joined, dials_in_flight, network_key } = parse(&answer)?;
    let mut shown = String::new();
    let mut row = |title: &str, value: &str| {
        // Writing into a String does not fail.
        let _ = writeln!(shown, "{title:<9}  {}", Escaped(value));
    };
    row("id", &node.id);
    if !node.name.is_empty() {
        row("name", &node.name);
    }
    row("listens", &node.addr);
    row("program", &node.program);
    row("started", &node.started);
    row("members", &format!("{members}, this node included"));
    row("joined", if joined { "yes" } else { "no: no --connect address answers yet" });
    row("dialling", &dials_in_flight.to_string());
    if let Some(key) = network_key {
        let KeyStatus { generation, holders, earlier_keys, grace_s } = key;
        let mut shown = format!("number {generation}, held by {holders} of {}", count(members, "member"));
        if earlier_keys > 0 {
            let _ = write!(
                shown,
                "; the one before is accepted for {} more",
                two_units(Duration::from_secs(grace_s))
            );
        }
        row("key", &shown);
    }
    Ok(shown)
}

/// The answer of `/why`.
#[derive(Deserialize)]
struct Why {
    id: Option<String>,
    peer: Option<Peer>,
    standing: Option<String>,
    addresses: Vec<Address>,
    timeline: Vec<Entry>,
}

#[derive(Deserialize)]
struct Address {
    addr: String,
    source: String,
    last_success: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    first: String,
    last: String,
    count: u64,
    what: String,
    addr: Option<String>,
    detail: String,
}

fn why(client: &Client, subject: &str, output: Output) -> Result<String, VerbError> {
    // The other characters of an id or address stand for themselves (RFC 3986 section 3.4).
    let query = subject.replace('%', "%25").replace('[', "%5B").replace(']', "%5D");
    let answer = client.get(&format!("/why?{query}"))?;
    if output == Output::Json {
        return Ok(answer);
    }
    let why: Why = parse(&answer)?;
    let carrier = match why.peer.as_ref().and_then(|peer| peer.via.as_ref()) {
        Some(via) => Some(carrier_text(via, &ask(client, "/peers")?)),
        None => None,
    };
    Ok(why.text(subject, carrier.as_deref()))
}

/// The member that carries a connection: its name, if it has one, and its id.
fn carrier_text(id: &str, Peers { peers }: &Peers) -> String {
    let carrier = peers.iter().find(|peer| peer.id == id && !peer.name.is_empty());
    let name = carrier.map_or_else(String::new, |carrier| format!("{} ", Escaped(&carrier.name)));
    format!("{name}{}", Escaped(short(id)))
}

impl Why {
    fn text(&self, subject: &str, carrier: Option<&str>) -> String {
        let mut shown = String::new();
        self.write(&mut shown, subject, carrier);
        shown
    }

    fn write(&self, shown: &mut String, subject: &str, carrier: Option<&str>) {
        let mut line = |text: std::fmt::Arguments<'_>| {
            // Writing into a String does not fail.
            let _ = writeln!(shown, "{text}");
        };
        match (&self.peer, &self.id) {
            (Some(peer), _) => {
                let name =
                    if peer.name.is_empty() { String::new() } else { format!("{} ", Escaped(&peer.name)) };
                let standing = Escaped(self.standing.as_deref().unwrap_or("unknown"));
                line(format_args!("{name}{}", Escaped(&peer.id)));
                line(format_args!("{} for {}, {standing}", Escaped(&peer.state), seconds(peer.since_s)));
                if let Some(carrier) = carrier {
                    line(format_args!("connected through {carrier}"));
                }
                if let Some(silence) = peer.silence_s {
                    line(format_args!("last message {silence:.1} s ago"));
                }
                if !peer.reached_by.is_empty() {
                    let by: Vec<String> =
                        peer.reached_by.iter().map(|id| Escaped(short(id)).to_string()).collect();
                    line(format_args!(
                        "connected to {}: the fault is between this node and it",
                        by.join(", ")
                    ));
                }
            }
            (None, Some(id)) => line(format_args!("{}\nforgotten, or not met yet", Escaped(id))),
            (None, None) => line(format_args!("{}: no peer has answered there", Escaped(subject))),
        }
        for Address { addr, source, last_success } in &self.addresses {
            let reached =
                last_success.as_ref().map_or_else(String::new, |time| format!(", reached {}", Escaped(time)));
            line(format_args!("address  {}  {}{reached}", Escaped(addr), Escaped(source)));
        }
        for Entry { first, last, count, what, addr, detail } in &self.timeline {
            let what = Escaped(what).to_string();
            let addr = addr.as_ref().map_or_else(String::new, |addr| format!("  {}", Escaped(addr)));
            let detail = if detail.is_empty() { String::new() } else { format!("  {}", Escaped(detail)) };
            let repeats = if *count > 1 {
                format!("  ({count} times since {})", Escaped(first))
            } else {
                String::new()
            };
            line(format_args!("{}  {:<11}{addr}{detail}{repeats}", Escaped(last), what));
        }
        if self.timeline.is_empty() {
            line(format_args!("nothing has happened with it since the node started"));
        }
    }
}

/// Sends a ping, and waits until the node has heard the peer after that.
fn ping(client: &Client, prefix: &str, output: Output) -> Result<String, VerbError> {
    #[derive(Deserialize)]
    struct Sent {
        peer: String,
        seq: u64,
    }
    let status: NodeStatus = ask(client, "/status")?;
    let patience = Duration::try_from_secs_f64(status.node.timeout_s).unwrap_or_default() + SNAPSHOT_AGE_MAX;
    let sent_at = Instant::now();
    let Sent { peer: id, seq } = parse(&client.post("/ping", prefix)?)?;
    loop {
        thread::sleep(ASK_EVERY);
        // Before the question: the answer may take a while.
        let elapsed = sent_at.elapsed();
        let Peers { peers } = ask(client, "/peers")?;
        let peer = peers.into_iter().find(|peer| peer.id == id);
        let silence = peer.as_ref().and_then(|peer| peer.silence_s);
        let silence = silence.and_then(|silence| Duration::try_from_secs_f64(silence).ok());
        if let (Some(peer), Some(silence)) = (peer, silence)
            && silence + SNAPSHOT_AGE_MAX < elapsed
        {
            let (silence_s, rtt_ms) = (silence.as_secs_f64(), peer.rtt_ms);
            if output == Output::Json {
                let object =
                    serde_json::json!({"peer": id, "seq": seq, "silence_s": silence_s, "rtt_ms": rtt_ms});
                return Ok(format!("{object}\n"));
            }
            let rtt = rtt_ms.map_or_else(String::new, |ms| format!(", round trip {ms:.2} ms"));
            return Ok(format!(
                "{} lives: ping #{seq}, heard {silence_s:.1} s ago{rtt}\n",
                Escaped(short(&id))
            ));
        }
        if elapsed > patience {
            return Err(VerbError::Unheard(short(&id).to_owned()));
        }
    }
}

fn send(client: &Client, text: &str, output: Output) -> Result<String, VerbError> {
    #[derive(Deserialize)]
    struct Sent {
        reached: usize,
        missed: usize,
    }
    let answer = client.post("/send", text)?;
    if output == Output::Json {
        return Ok(answer);
    }
    let Sent { reached, missed } = parse(&answer)?;
    let too_slow =
        if missed == 0 { String::new() } else { format!("; {missed} read too slowly and miss it") };
    Ok(format!("sent to {}{too_slow}\n", count(reached, "peer")))
}

/// Waits until the node has started and sees this many members.
fn wait(client: &Client, wanted: usize, timeout: Duration, output: Output) -> Result<String, VerbError> {
    let started = Instant::now();
    loop {
        let answer = client.get("/status");
        let is_over = started.elapsed() >= timeout;
        match answer {
            Ok(answer) => {
                let NodeStatus { members, .. } = parse(&answer)?;
                if members >= wanted {
                    return Ok(if output == Output::Json { answer } else { count(members, "member") + "\n" });
                }
                if is_over {
                    return Err(VerbError::TooFewMembers { members, wanted, waited: timeout });
                }
            }
            Err(error @ ClientError::NoNode(_)) if is_over => return Err(error.into()),
            Err(ClientError::NoNode(_)) => {}
            Err(error) => return Err(error.into()),
        }
        thread::sleep(ASK_EVERY.min(timeout.saturating_sub(started.elapsed())));
    }
}
