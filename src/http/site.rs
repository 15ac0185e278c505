//! Which path is answered with what.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use p2p_gossip::log_limit::LogLimit;
use p2p_gossip::status::Status;
use p2p_gossip::{Config, Node, NodeHandle, PeerId};

use super::events::{Hub, Since, Stream};
use super::metrics::{self, Format};
use super::page::PAGE;
use super::request::{Request, is_loopback_host};
use super::response::{HTML, JSON, MISDIRECTED, NOT_FOUND, OK, Response, TEXT, UNAVAILABLE};
use super::snapshot::Snapshots;
use super::views;

/// Everything there is, for whoever asks for something else.
const PATHS: &str = "\
/         the mesh as this node sees it, for people
/status   this node in numbers, as JSON
/peers    everybody it knows, as JSON
/events   what happens, as server-sent events; /events?recent=20 begins with the last 20
/metrics  this node in numbers, for Prometheus
/healthz  whether the process serves
/readyz   whether it has joined the mesh
";

/// What does not change about a node while it runs.
#[derive(Debug)]
pub(super) struct About {
    pub(super) id: PeerId,
    pub(super) name: String,
    pub(super) addr: SocketAddr,
    pub(super) started: Timestamp,
    pub(super) period: Duration,
    pub(super) heartbeat: Duration,
    pub(super) timeout: Duration,
}

impl About {
    /// Of a node that was started now, with this configuration.
    pub(super) fn new(node: &Node, config: &Config) -> Self {
        Self {
            id: node.id(),
            name: config.name.clone(),
            addr: node.local_addr(),
            started: Timestamp::now(),
            period: config.period,
            heartbeat: config.heartbeat,
            timeout: config.timeout,
        }
    }
}

#[derive(Debug)]
pub(super) struct Site {
    about: About,
    snapshots: Snapshots,
    hub: Arc<Hub>,
    /// Only names of loopback are ours.
    is_loopback: bool,
}

#[derive(Debug)]
pub(super) enum Answer {
    Whole(Response),
    Stream(Stream),
}

impl Site {
    pub(super) fn new(about: About, node: NodeHandle, hub: Arc<Hub>, addr: SocketAddr) -> Self {
        let is_loopback = addr.ip().to_canonical().is_loopback();
        Self { about, snapshots: Snapshots::new(node), hub, is_loopback }
    }

    pub(super) fn answer(&self, request: &Request) -> Answer {
        // Only browsers can be led astray, and they always send one.
        if self.is_loopback && request.host.as_deref().is_some_and(|host| !is_loopback_host(host)) {
            let text = "this is served to this machine only, as localhost, 127.0.0.1 or [::1]\n";
            return Answer::Whole(Response::new(MISDIRECTED, TEXT, text));
        }
        Answer::Whole(match request.path.as_str() {
            "/" => Response::new(OK, HTML, &*PAGE.html).with_policy(&PAGE.policy),
            "/status" => self.look(JSON, |status| views::status(&self.about, status, Timestamp::now())),
            "/peers" => self.look(JSON, |status| views::peers(status, Timestamp::now())),
            "/metrics" => {
                let format = Format::accepted(&request.accept);
                let encode = |status: &Arc<Status>| metrics::encode(format, &self.about, Arc::clone(status));
                self.look(format.content_type(), encode)
            }
            "/events" => match self.hub.subscribe(self.since(request)) {
                Some(stream) => return Answer::Stream(stream),
                None => Response::new(UNAVAILABLE, TEXT, "too many readers of events; try again later\n"),
            },
            "/healthz" => Response::new(OK, TEXT, "ok\n"),
            "/readyz" => match self.snapshots.get() {
                Some(status) if status.mesh.is_joined => Response::new(OK, TEXT, "ok\n"),
                Some(_) => Response::new(UNAVAILABLE, TEXT, "not joined: no --connect address answers yet\n"),
                None => silent(),
            },
            _ => Response::new(NOT_FOUND, TEXT, PATHS),
        })
    }

    /// An answer about the node as it is now.
    fn look<E: Display>(
        &self,
        content_type: &'static str,
        show: impl FnOnce(&Arc<Status>) -> Result<String, E>,
    ) -> Response {
        let Some(status) = self.snapshots.get() else { return silent() };
        match show(&status) {
            Ok(body) => Response::new(OK, content_type, body),
            Err(error) => {
                static LIMIT: LogLimit = LogLimit::new();
                if let Some(suppressed) = LIMIT.check() {
                    log::error!(reason:% = error, suppressed; "the node's state cannot be shown; this is a bug");
                }
                silent()
            }
        }
    }

    fn since(&self, request: &Request) -> Since {
        self.hub.since(&request.last_event_id).unwrap_or_else(|| {
            let recent = request.query.split('&').find_map(|part| part.strip_prefix("recent="));
            Since::Recent(recent.and_then(|count| count.parse().ok()).unwrap_or(0))
        })
    }
}

fn silent() -> Response {
    Response::new(UNAVAILABLE, TEXT, "the node does not answer\n")
}
