//! The HTTP server of `--http`: its socket, its accept loop, and a thread for each connection.
//!
//! Invariant: HTTP clients do not affect the mesh. The server only reads; all clients share one snapshot of the
//! node at a time, and connections, streams, sizes and times are limited.
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
//! | `views.rs` | the JSON of `/status` and `/peers` |
//! | `metrics.rs` | `/metrics`, for Prometheus |
//! | `page.rs`, `page/` | the page |

mod connection_limit;
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

pub(crate) use server::{Server, Socket};
