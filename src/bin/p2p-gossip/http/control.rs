//! The requests of the control socket: what is known of a peer, and what changes something.
//!
//! The body of a POST is its argument, so that `curl --unix-socket DIR/control -d 192.0.2.7:8080 http://node/connect` is
//! a request. The answer is a JSON object, or a text that says what is wrong.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use jiff::{SignedDuration, Timestamp};
use p2p_gossip::{
    BroadcastError, ConnectAddr, DialAddr, HistoryEntry, NodeHandle, PeerHistory, PeerId, RequestError,
    RotateError,
};
use serde::Serialize;

use super::node_snapshot::Snapshots;
use super::request::Request;
use super::response::{BAD_REQUEST, CONFLICT, JSON, NOT_FOUND, OK, Response, TEXT, UNAVAILABLE};
use super::views::{self, PeerView};
use crate::cli::{parse_grace, parse_id_prefix};
use crate::output::event_json::Time;

/// Time limit for the main thread to do what a client asks for.
const MAIN_THREAD_TIME: Duration = Duration::from_secs(5);
/// Time for which an answer waits until a message is written to the peers.
const DELIVERY_TIME: Duration = Duration::from_secs(2);
/// Requests that wait for the main thread; each waits in the thread of a connection.
const WAITING_MAX: usize = 64;

/// The list of paths, sent for an unknown one.
const PATHS: &str = "\
POST /connect  join through one more address
POST /ping     send a ping to a peer
POST /send     send a text to every peer
POST /allow    allow a peer until the node stops
POST /deny     deny a peer until the node stops
POST /forget   forget a peer that is not connected
POST /reload   read the files with lists again
POST /rotate   change the key of the network; the body is the grace, such as 7d
POST /leave    leave the mesh and stop
GET  /why?ID   what is known of a peer, or at an address of --connect
and with GET: /status /peers /events /metrics /healthz /readyz
";

/// Something that only the main thread can do.
#[derive(Debug)]
pub(crate) struct ControlRequest {
    pub(crate) wanted: Wanted,
    /// Takes the outcome: an error is a text for the user.
    pub(crate) reply: Sender<Result<(), String>>,
}

/// What a client wants of the main thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Read the files with lists again.
    Reload,
    /// Allow this peer until the node stops.
    Allow(PeerId),
    /// Deny this peer until the node stops.
    Deny(PeerId),
    /// Leave the mesh and stop.
    Leave,
}

/// What clients want of the main thread. Never ready without a control socket.
pub(crate) type ControlRequests = Receiver<ControlRequest>;

/// Both ends of the queue to the main thread.
pub(super) fn requests() -> (Sender<ControlRequest>, ControlRequests) {
    bounded(WAITING_MAX)
}

/// Answers the requests that only the control socket has.
#[derive(Debug)]
pub(super) struct Control {
    node: NodeHandle,
    main_thread: Sender<ControlRequest>,
}

/// Why a request has no other answer: a response.
type Refused = Response;

impl Control {
    pub(super) fn new(node: NodeHandle, main_thread: Sender<ControlRequest>) -> Self {
        Self { node, main_thread }
    }

    /// The answer to a POST, or to a path that only the control socket has.
    pub(super) fn answer(&self, request: &Request, snapshots: &Snapshots) -> Option<Response> {
        let answer = match (&request.post, request.path.as_str()) {
            (Some(argument), path) => self.change(path, argument, snapshots),
            (None, "/why") => self.why(&request.query, snapshots),
            (None, _) => return None,
        };
        Some(answer.unwrap_or_else(|refused| refused))
    }

    fn change(&self, path: &str, argument: &str, snapshots: &Snapshots) -> Result<Response, Refused> {
        let peer = || find_peer(argument, snapshots);
        match path {
            "/connect" => {
                let connect: ConnectAddr = argument.parse().map_err(|error| bad(&error))?;
                self.node.connect(connect).map_err(refused)?;
                Ok(json(&Connecting { addr: argument }))
            }
            "/ping" => {
                let peer = peer()?;
                let seq = self.node.ping(peer).map_err(refused)?;
                Ok(json(&Pinged { peer, seq }))
            }
            "/send" => self.send(argument),
            "/forget" => {
                let peer = peer()?;
                self.node.forget(peer).map_err(refused)?;
                Ok(json(&Named { peer }))
            }
            "/allow" => self.ask(Wanted::Allow(peer()?)),
            "/deny" => self.ask(Wanted::Deny(peer()?)),
            "/rotate" => {
                let grace = parse_grace(argument).map_err(|error| bad(&error))?;
                let generation = self.node.rotate_network_key(grace).map_err(|error| match error {
                    RotateError::Stopped => Response::new(UNAVAILABLE, TEXT, format!("{error}\n")),
                    error => Response::new(CONFLICT, TEXT, format!("{error}\n")),
                })?;
                Ok(json(&Rotated { generation }))
            }
            "/reload" => self.ask(Wanted::Reload),
            "/leave" => self.ask(Wanted::Leave),
            _ => Err(Response::new(NOT_FOUND, TEXT, PATHS)),
        }
    }

    fn send(&self, text: &str) -> Result<Response, Refused> {
        match self.node.broadcast(text) {
            Ok(delivery) => {
                let unwritten = delivery.wait(DELIVERY_TIME);
                let (reached, missed) = (delivery.reached(), delivery.missed());
                Ok(json(&Sent { reached, missed, unwritten }))
            }
            Err(BroadcastError::Stopped) => Err(refused(RequestError::Stopped)),
            Err(error) => Err(bad(&error)),
        }
    }

    /// Has the main thread do something.
    fn ask(&self, wanted: Wanted) -> Result<Response, Refused> {
        let (reply, outcome) = bounded(1);
        let busy = || Response::new(UNAVAILABLE, TEXT, "the node is busy or stops\n");
        self.main_thread.try_send(ControlRequest { wanted, reply }).map_err(|_| busy())?;
        match outcome.recv_timeout(MAIN_THREAD_TIME) {
            Ok(Ok(())) => Ok(match wanted {
                Wanted::Allow(peer) | Wanted::Deny(peer) => json(&Named { peer }),
                Wanted::Reload | Wanted::Leave => json(&Done {}),
            }),
            Ok(Err(text)) => Err(Response::new(CONFLICT, TEXT, format!("{text}\n"))),
            Err(_) => Err(busy()),
        }
    }

    /// What is known of a peer, or what has happened at an address that the user named.
    fn why(&self, query: &str, snapshots: &Snapshots) -> Result<Response, Refused> {
        let subject = percent_decoded(query).ok_or_else(|| bad(&"the query is not valid"))?;
        if let Ok(connect) = subject.parse::<ConnectAddr>() {
            return self.why_address(&connect.addr, snapshots);
        }
        let peer = find_peer(&subject, snapshots)?;
        let history = self.node.peer_history(peer).ok_or_else(|| refused(RequestError::UnknownPeer))?;
        Ok(json(&WhyView::new(peer, &history, Timestamp::now())))
    }

    /// A peer that is known at this address, or what has happened there.
    fn why_address(&self, addr: &DialAddr, snapshots: &Snapshots) -> Result<Response, Refused> {
        let now = Timestamp::now();
        let entries = self.node.address_history(addr.clone());
        let status = snapshots.fresh().ok_or_else(|| refused(RequestError::Stopped))?;
        let owner = status.mesh.peers.iter().find(|peer| peer.addr == *addr || peer.addrs.contains(addr));
        match owner.and_then(|owner| self.node.peer_history(owner.id)) {
            Some(mut history) => {
                // The oldest first.
                history.entries.extend(entries);
                history.entries.sort_by_key(|entry| std::cmp::Reverse(entry.last));
                let peer = history.peer.as_ref().map(|peer| peer.id);
                Ok(json(&WhyView { id: peer, ..WhyView::of(&history, now) }))
            }
            None if entries.is_empty() => {
                let text =
                    "nothing has happened at that address; it is none of --connect, or not dialled yet\n";
                Err(Response::new(NOT_FOUND, TEXT, text))
            }
            None => Ok(json(&WhyView {
                id: None,
                peer: None,
                standing: None,
                addresses: Vec::new(),
                timeline: entries.iter().map(|entry| EntryView::new(entry, now)).collect(),
            })),
        }
    }
}

/// The peer with this id, or the only known one whose id begins so.
fn find_peer(id: &str, snapshots: &Snapshots) -> Result<PeerId, Refused> {
    if let Ok(id) = id.parse::<PeerId>() {
        return Ok(id);
    }
    let prefix = parse_id_prefix(id).map_err(|error| bad(&error))?;
    let status = snapshots.fresh().ok_or_else(|| refused(RequestError::Stopped))?;
    let mut found = status.mesh.peers.iter().map(|peer| peer.id).filter(|id| prefix.matches(id));
    match (found.next(), found.count()) {
        (Some(id), 0) => Ok(id),
        (None, _) => {
            let text = format!("no known peer has an id that begins with {prefix}\n");
            Err(Response::new(NOT_FOUND, TEXT, text))
        }
        (Some(_), others) => {
            let count = others + 1;
            let text = format!("{count} known peers have ids that begin with {prefix}; give more digits\n");
            Err(Response::new(CONFLICT, TEXT, text))
        }
    }
}

fn bad(error: &dyn std::fmt::Display) -> Refused {
    Response::new(BAD_REQUEST, TEXT, format!("{error}\n"))
}

fn refused(error: RequestError) -> Refused {
    let status = match error {
        RequestError::Stopped => UNAVAILABLE,
        RequestError::UnknownPeer => NOT_FOUND,
        RequestError::Nowhere => BAD_REQUEST,
        _ => CONFLICT,
    };
    Response::new(status, TEXT, format!("{error}\n"))
}

fn json(view: &impl Serialize) -> Response {
    match serde_json::to_string(view) {
        Ok(json) => Response::new(OK, JSON, views::line(&json)),
        Err(error) => {
            Response::new(UNAVAILABLE, TEXT, format!("cannot show it as JSON: {error}; this is a bug\n"))
        }
    }
}

/// A query without its percent signs (RFC 3986); `None` if it is not valid.
fn percent_decoded(query: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(query.len());
    let mut rest = query.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            bytes.push(digit(rest.next()?)? << 4 | digit(rest.next()?)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[derive(Serialize)]
struct Connecting<'a> {
    addr: &'a str,
}

#[derive(Serialize)]
struct Pinged {
    peer: PeerId,
    seq: u64,
}

#[derive(Serialize)]
struct Sent {
    reached: usize,
    missed: usize,
    /// Peers to which it is not written yet.
    unwritten: usize,
}

#[derive(Serialize)]
struct Named {
    peer: PeerId,
}

#[derive(Serialize)]
struct Rotated {
    generation: u64,
}

#[derive(Serialize)]
struct Done {}

/// The answer of `/why`.
#[derive(Serialize)]
struct WhyView<'a> {
    /// The id that was asked for; `null` for an address at which no peer is known.
    id: Option<PeerId>,
    /// As in `/peers`; `null` if the node does not know the peer now.
    peer: Option<PeerView<'a>>,
    standing: Option<&'static str>,
    addresses: Vec<AddressView<'a>>,
    timeline: Vec<EntryView<'a>>,
}

#[derive(Serialize)]
struct AddressView<'a> {
    addr: &'a DialAddr,
    source: &'static str,
    last_success: Option<String>,
}

#[derive(Serialize)]
struct EntryView<'a> {
    first: String,
    last: String,
    count: u64,
    what: &'static str,
    addr: Option<&'a DialAddr>,
    detail: &'a str,
}

impl<'a> WhyView<'a> {
    fn new(id: PeerId, history: &'a PeerHistory, now: Timestamp) -> Self {
        Self { id: Some(id), ..Self::of(history, now) }
    }

    fn of(history: &'a PeerHistory, now: Timestamp) -> Self {
        let address = |known: &'a p2p_gossip::PeerAddress| AddressView {
            addr: &known.addr,
            source: known.source.word(),
            last_success: known.last_success.map(|time| time.to_string()),
        };
        Self {
            id: None,
            peer: history.peer.as_ref().map(PeerView::from),
            standing: history.standing.map(p2p_gossip::Standing::word),
            addresses: history.addresses.iter().map(address).collect(),
            timeline: history.entries.iter().map(|entry| EntryView::new(entry, now)).collect(),
        }
    }
}

impl<'a> EntryView<'a> {
    fn new(entry: &'a HistoryEntry, now: Timestamp) -> Self {
        let at = |ago: Duration| {
            let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::ZERO);
            Time(now.checked_sub(ago).unwrap_or(now)).to_string()
        };
        Self {
            first: at(entry.first),
            last: at(entry.last),
            count: entry.count,
            what: entry.kind.word(),
            addr: entry.addr.as_ref(),
            detail: &entry.detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_decoded() {
        assert_eq!(percent_decoded("%5bfe80::1%25eth0%5D:80").as_deref(), Some("[fe80::1%eth0]:80"));
        for bad in ["%", "%5", "%g0", "%ff"] {
            assert_eq!(percent_decoded(bad), None, "{bad}");
        }
    }
}
