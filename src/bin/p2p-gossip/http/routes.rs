//! The responses by path.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use p2p_gossip::Status;
use p2p_gossip::internals::log_limit::LogLimit;

use super::control::Control;
use super::event_stream::{Hub, Since, Stream};
use super::node_info::NodeInfo;
use super::node_snapshot::Snapshots;
use super::request::{Methods, Request, is_loopback_host};
use super::response::{CSS, HTML, JAVASCRIPT, JSON, MISDIRECTED, NOT_FOUND, OK, Response, TEXT, UNAVAILABLE};
use super::{metrics, page, views};

/// The list of paths, sent for an unknown path.
const PATHS: &str = "\
/         the mesh as this node sees it, as a page
/status   this node's state and totals, as JSON
/peers    all peers that it knows, as JSON
/events   events as they happen, as server-sent events; /events?recent=20 begins with the last 20
/metrics  this node's figures, for Prometheus
/healthz  200 if the process serves
/readyz   200 if the node has joined the mesh
";

/// Answers requests about one node.
#[derive(Debug)]
pub(super) struct Routes {
    info: Arc<NodeInfo>,
    snapshots: Arc<Snapshots>,
    hub: Arc<Hub>,
    /// What changes something, for the control socket.
    control: Option<Control>,
    /// Whether the server listens on loopback. Then a request's `Host` must be loopback as well.
    is_loopback: bool,
}

/// The answer to a request: a complete response, or a stream of events.
#[derive(Debug)]
pub(super) enum Answer {
    Whole(Response),
    Stream(Stream),
}

impl Routes {
    /// What a TCP socket serves: reading only.
    pub(super) fn new(
        info: Arc<NodeInfo>,
        snapshots: Arc<Snapshots>,
        hub: Arc<Hub>,
        addr: SocketAddr,
    ) -> Self {
        let is_loopback = addr.ip().to_canonical().is_loopback();
        Self { info, snapshots, hub, control: None, is_loopback }
    }

    /// What the control socket serves: everything. No browser reaches it, so the host does not matter.
    pub(super) fn with_control(
        info: Arc<NodeInfo>,
        snapshots: Arc<Snapshots>,
        hub: Arc<Hub>,
        control: Control,
    ) -> Self {
        Self { info, snapshots, hub, control: Some(control), is_loopback: false }
    }

    /// The methods of these routes.
    pub(super) fn methods(&self) -> Methods {
        if self.control.is_some() { Methods::ReadAndPost } else { Methods::Read }
    }

    pub(super) fn answer(&self, request: &Request) -> Answer {
        // DNS rebinding misleads browsers only, and browsers always send a Host field.
        if self.is_loopback && request.host.as_deref().is_some_and(|host| !is_loopback_host(host)) {
            let text = "this server answers for loopback only: use localhost, 127.0.0.1 or [::1]\n";
            return Answer::Whole(Response::new(MISDIRECTED, TEXT, text));
        }
        if let Some(control) = &self.control
            && let Some(response) = control.answer(request, &self.snapshots)
        {
            return Answer::Whole(response);
        }
        Answer::Whole(match request.path.as_str() {
            "/" => Response::new(OK, HTML, page::HTML).with_policy(page::POLICY),
            "/page.css" => Response::new(OK, CSS, page::STYLE),
            "/page.js" => Response::new(OK, JAVASCRIPT, page::SCRIPT),
            "/status" => self.show_status(JSON, |status| views::status(&self.info, status, Timestamp::now())),
            "/peers" => self.show_status(JSON, |status| views::peers(status, Timestamp::now())),
            "/metrics" => {
                self.show_status(metrics::CONTENT_TYPE, |status| metrics::encode(&self.info, status))
            }
            "/events" => match self.hub.subscribe(self.since(request)) {
                Some(stream) => return Answer::Stream(stream),
                None => Response::new(UNAVAILABLE, TEXT, "too many readers of events; try again later\n"),
            },
            "/healthz" => Response::new(OK, TEXT, "ok\n"),
            "/readyz" => match self.snapshots.get() {
                Some(status) if status.mesh.is_joined => Response::new(OK, TEXT, "ok\n"),
                Some(_) => Response::new(UNAVAILABLE, TEXT, "not joined: no --connect address answers yet\n"),
                None => no_status(),
            },
            path => match path.strip_prefix('/').and_then(|path| path.strip_suffix('/')) {
                Some(name) if !name.is_empty() && is_listed(name) => {
                    Response::moved(without_slash(name, &request.query))
                }
                _ => Response::new(NOT_FOUND, TEXT, PATHS),
            },
        })
    }

    /// Responds with the node's current status, formatted by `show`.
    fn show_status<E: Display>(
        &self,
        content_type: &'static str,
        show: impl FnOnce(&Status) -> Result<String, E>,
    ) -> Response {
        let Some(status) = self.snapshots.get() else { return no_status() };
        match show(&status) {
            Ok(body) => Response::new(OK, content_type, body),
            Err(error) => {
                static LIMIT: LogLimit = LogLimit::new();
                if let Some(suppressed) = LIMIT.check() {
                    log::error!(reason:% = error, suppressed; "the node's state cannot be shown; this is a bug");
                }
                no_status()
            }
        }
    }

    /// The earlier events that the request asks for.
    fn since(&self, request: &Request) -> Since {
        self.hub.since(&request.last_event_id).unwrap_or_else(|| {
            let recent = request.query.split('&').find_map(|part| part.strip_prefix("recent="));
            Since::Recent(recent.and_then(|count| count.parse().ok()).unwrap_or(0))
        })
    }
}

/// Whether the list of paths has this one.
fn is_listed(name: &str) -> bool {
    PATHS.lines().any(|line| line.split(' ').next() == Some(&format!("/{name}")))
}

/// The path of `NAME/` without its last slash. It is relative, as the page's links are.
fn without_slash(name: &str, query: &str) -> String {
    let mark = if query.is_empty() { "" } else { "?" };
    format!("../{name}{mark}{query}")
}

fn no_status() -> Response {
    Response::new(UNAVAILABLE, TEXT, "the node does not answer\n")
}
