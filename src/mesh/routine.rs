//! Heartbeats that say nothing new.

use std::time::{Duration, Instant};

use crate::wire::{Echo, Message};

/// A timer served this late means that this node stood still (suspended, starved): what peers
/// sent meanwhile is still unread, so they get that much more patience.
pub const STALL_MIN: Duration = Duration::from_millis(100);

/// Tells routine heartbeats of one session, which can wait until their mesh is called for another
/// reason, from those that it should hear of at once.
#[derive(Debug, Default)]
pub struct Routine {
    digest: Option<u64>,
    has_echo: bool,
}

/// A heartbeat that arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    pub(super) seq: u64,
    pub(super) echo: Option<Echo>,
    pub(super) digest: u64,
    pub(super) arrived: Instant,
}

impl Routine {
    /// Whether this message, the session's next, says no more than the heartbeat before it: that its
    /// sender lives. It may be handed over late, but before anything that came after it.
    pub fn is_routine(&mut self, message: &Message) -> bool {
        let Message::Heartbeat { digest, echo, .. } = message else {
            return false;
        };
        // The first round-trip time is awaited by the first ping.
        let has_news = echo.is_some() && !self.has_echo || self.digest != Some(*digest);
        self.has_echo |= echo.is_some();
        self.digest = Some(*digest);
        !has_news
    }
}
