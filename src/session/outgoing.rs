//! The coordinator's requests to a session.

use std::time::Instant;

use crate::session::delivery::Receipt;
use crate::wire::{ByeReason, Echo, Frame};

/// A heartbeat to send.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) seq: u64,
    pub(crate) echo: Option<Echo>,
    pub(crate) digest: u64,
    /// Time at which the mesh decided to send it. The hold time in `echo` ends here.
    pub(crate) decided: Instant,
}

/// An item in a session's outbox.
#[derive(Debug)]
pub(super) enum Outgoing {
    Frame(Frame),
    Heartbeat(Heartbeat),
    Message(Frame, Receipt),
    /// Deliver the frames that have arrived but are unread, then report `Drained`.
    DrainUnread,
    /// Say goodbye, then close.
    Bye(ByeReason),
}
