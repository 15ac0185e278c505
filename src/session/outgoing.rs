//! What the coordinator gives a session to do.

use std::time::Instant;

use crate::session::delivery::Receipt;
use crate::wire::{ByeReason, Echo, Frame};

/// A heartbeat that is to be sent.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) seq: u64,
    pub(crate) echo: Option<Echo>,
    pub(crate) digest: u64,
    /// When the mesh decided to send it, and counted until when it held what it echoes.
    pub(crate) decided: Instant,
}

#[derive(Debug)]
pub(super) enum Outgoing {
    Frame(Frame),
    Heartbeat(Heartbeat),
    Message(Frame, Receipt),
    Probe,
    Bye(ByeReason),
}
