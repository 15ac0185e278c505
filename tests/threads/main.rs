//! Checks what threads share, in every order in which the threads may run: outboxes and their wakers, pending
//! connections, subscribers, the report of a session's end, the writer of the known peers, stop and join.
//!
//! The files that are checked are those of the program. This target compiles them a second time: their module
//! `util::sync` is here the one in `sync.rs`, whose locks, flags and threads belong to the model checker loom. Their
//! descriptors and sockets are models in `net/`. loom runs a check once for each order, and also lets a thread read
//! older values of a flag, as far as the memory orderings in the source allow that. A thread that waits for ever is a
//! deadlock, which loom finds.
//!
//! `cargo run --example threads [PART OF A NAME]`. `make test` runs all.

// The program's files are private modules here, and the checks do not use all of them.
#![allow(dead_code, unreachable_pub, unused_imports)]
// A check that fails panics.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::ExitCode;

mod net;
mod node;
mod runtime;
mod session;
mod store;
mod util;

#[path = "../../src/events.rs"]
mod events;
#[path = "../../src/node_handle.rs"]
mod node_handle;

mod event {
    pub(crate) use p2p_gossip::{AlertPhase, Event};
}

/// The program's limits; queues and tables that fill up in the checks are small.
mod limits {
    pub(crate) use p2p_gossip::internals::limits::*;

    pub(crate) const OUTBOX_FRAMES: usize = 2;
    pub(crate) const OUTBOX_FRAMES_WITH_MESSAGES: usize = 1;
    pub(crate) const EVENTS_QUEUED: usize = 2;
}

mod mesh {
    pub(crate) use p2p_gossip::internals::mesh::*;

    pub(crate) mod snapshot {
        pub(crate) use p2p_gossip::{PeerInfo, RequestError};
    }
}

mod trust {
    pub(crate) mod access {
        pub(crate) use p2p_gossip::Access;
    }

    pub(crate) mod peer_id {
        pub(crate) use p2p_gossip::PeerId;
    }

    pub(crate) mod key_ring {
        pub(crate) use p2p_gossip::KeyRing;
    }

    pub(crate) mod network_key {
        pub(crate) use p2p_gossip::{NetworkKey, NetworkKeyError};
    }

    pub(crate) mod pin {
        pub(crate) use p2p_gossip::ConnectAddr;
    }
}

mod wire {
    pub(crate) use p2p_gossip::internals::wire::*;
}

/// Switches in one order away from a thread that could run on. Most defects need one; with four, the checks take a
/// minute and a half and find no more.
const PREEMPTIONS_MAX: usize = 3;

type Check = (&'static str, fn());

fn main() -> ExitCode {
    let part = std::env::args().nth(1).unwrap_or_default();
    let checks = [session::CHECKS, runtime::CHECKS, store::CHECKS, node::CHECKS].concat();
    let mut is_ok = true;
    for (name, check) in checks.into_iter().filter(|(name, _)| name.contains(&part)) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(PREEMPTIONS_MAX);
        // Before the check, because a failure may abort the process: loom's objects cannot be dropped after one.
        print!("check {name} ... ");
        let _ = std::io::stdout().flush();
        let outcome = std::panic::catch_unwind(|| model.check(check));
        println!("{}", if outcome.is_ok() { "ok" } else { "FAILED" });
        is_ok &= outcome.is_ok();
    }
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
