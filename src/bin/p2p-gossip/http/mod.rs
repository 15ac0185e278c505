//! The HTTP server of `--http`: its socket, its accept loop, and one thread a connection.
//!
//! It only looks: one snapshot of the node at a time is kept for all who ask, and everything else is
//! bounded, so whatever a browser or a scraper does changes nothing for the mesh.
//!
//! | file | owns |
//! |---|---|
//! | `request.rs` | heads of requests: read in time, checked |
//! | `response.rs` | answers, and writing them to whoever reads slowly |
//! | `connection_limit.rs` | how many connections there may be, and who gives way |
//! | `routes.rs` | which path is answered with what |
//! | `events.rs` | the stream of events |
//! | `snapshot.rs` | the node as it was a moment ago |
//! | `views.rs` | the JSON of /status and /peers |
//! | `metrics.rs` | the node in numbers, for Prometheus |
//! | `page.rs`, `page/` | the page for people |

mod connection_limit;
mod events;
mod metrics;
mod node_info;
mod page;
mod request;
mod response;
mod routes;
mod server;
mod snapshot;
mod views;

pub(crate) use server::{Server, Socket};
