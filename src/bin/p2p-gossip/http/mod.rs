//! The HTTP servers of `--http` and of the control socket: their sockets, their accept loops, and a thread for each
//! connection. And the client of the control socket, for the verbs.
//!
//! Invariant: HTTP clients on TCP do not affect the mesh; only the control socket has requests that change something.
//! All clients share one snapshot of the node at a time, and connections, streams, sizes and times are limited.
//!
//! | file | owns |
//! |---|---|
//! | `request.rs` | reading and checking the heads of requests |
//! | `response.rs` | responses, and writing them within a time limit |
//! | `connection_limit.rs` | the limit of connections, and the choice of the one that gives way |
//! | `lingering.rs` | finished connections, until they are closed |
//! | `routes.rs` | the responses by path |
//! | `event_stream.rs` | `/events`, the stream of events |
//! | `node_info.rs`, `node_snapshot.rs` | what the responses show of the node; one snapshot serves many requests |
//! | `control.rs` | the requests of the control socket alone |
//! | `control_socket.rs` | the control socket in the file system |
//! | `client.rs` | asking a running node through its control socket |
//! | `views.rs` | the JSON of `/status` and `/peers` |
//! | `metrics.rs` | `/metrics`, for Prometheus |
//! | `page.rs`, `page/` | the page |

mod client;
mod connection_limit;
mod control;
mod control_socket;
mod event_stream;
mod lingering;
mod metrics;
mod node_info;
mod node_snapshot;
mod page;
mod request;
mod response;
mod routes;
mod server;
mod views;

pub(crate) use client::{Client, ClientError};
pub(crate) use control::{ControlRequest, ControlRequests, Wanted};
pub(crate) use control_socket::{ControlError, ControlSocket};
pub(crate) use server::{Server, Socket};
