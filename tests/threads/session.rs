//! The parts of a session that other threads use, and their checks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

mod circuit_pipe;
mod outbox;
mod pending_connections;
mod session_end;
mod session_places;

#[path = "../../src/session/delivery.rs"]
pub(crate) mod delivery;
#[path = "../../src/session/eviction.rs"]
mod eviction;
#[path = "../../src/session/pending.rs"]
pub(crate) mod pending;
#[path = "../../src/session/pipe.rs"]
mod pipe;
#[path = "../../src/session/places.rs"]
mod places;
#[path = "../../src/session/report.rs"]
mod report;
#[path = "../../src/session/session_handle.rs"]
mod session_handle;

mod key_rates {
    pub(crate) use p2p_gossip::internals::session::{KeyRates, TooManySessions};
}

mod rate_limit {
    pub(crate) use p2p_gossip::internals::session::KeyRateLimit;
}

mod session_limits {
    pub(crate) use p2p_gossip::internals::session::{SessionLimits, Surplus};
}

mod protocol {
    pub(crate) use p2p_gossip::internals::session::Request;
}

mod session_event {
    pub(crate) use p2p_gossip::internals::session::SessionEvent;
}

pub(crate) use eviction::Eviction;
use pending::PendingGuard;

use crate::Check;
use crate::mesh::SessionId;
use crate::net::listen::Connection;
use crate::net::waker::Waker;
use crate::util::sync::thread;

pub(crate) const CHECKS: &[Check] = &[
    ("heartbeat_request_wakes_the_session", outbox::heartbeat),
    ("drain_request_wakes_the_session", outbox::drain),
    ("frame_wakes_the_session", outbox::frame),
    ("goodbye_wakes_the_session", outbox::goodbye),
    ("release_wakes_the_session_after_its_frames", outbox::release),
    ("second_request_during_a_wake_is_not_lost", outbox::two_requests),
    ("requests_of_two_threads_are_not_lost", outbox::two_threads),
    ("full_outbox_loses_no_frame_that_it_took", outbox::full),
    ("broadcast_is_receipted_once_or_never", outbox::receipts_of_two_sessions),
    ("news_of_a_pipe_wakes_the_session", circuit_pipe::news),
    ("evicted_connection_is_woken", pending_connections::evicted),
    ("connection_is_completed_or_evicted", pending_connections::completed_or_evicted),
    ("surplus_session_is_woken_and_its_place_is_free_again", session_places::surplus),
    ("last_place_is_taken_once", session_places::last_place),
    ("end_of_a_session_is_reported_once", session_end::reported_once),
    ("sessions_end_without_a_coordinator", session_end::without_a_coordinator),
];

/// What the accept loop uses of the context.
#[derive(Debug, Default)]
pub(crate) struct Context {
    pub(crate) counters: Counters,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections_accepted: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter;

impl Counter {
    pub(crate) fn one(&self) {}
}

/// A session with a peer that stays silent.
pub(crate) fn accept(
    _: &Arc<Context>,
    _: SessionId,
    _: Connection,
    _: SocketAddr,
    pending: PendingGuard,
    waker: Arc<Waker>,
    eviction: Arc<Eviction>,
) -> io::Result<()> {
    thread::spawn(move || {
        wait_for_eviction(&eviction, &waker);
        drop(pending);
    });
    Ok(())
}

/// Waits as a session's thread does.
fn wait_for_eviction(eviction: &Eviction, waker: &Waker) {
    while !eviction.is_evicted() {
        waker.fd().wait();
        waker.clear();
    }
}
