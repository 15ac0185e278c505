//! What the log says of what the mesh tells.

use crate::access::Access;
use crate::identity::PeerId;
use crate::log_limit::LogLimit;
use crate::mesh::event::Event;
use crate::mesh::{Report, SessionId};
use crate::text::Escaped;
use crate::wire;

/// Lines at once for what may befall every peer of a large mesh in the same moment.
const REPORTS_AT_ONCE: u32 = 128;

/// Log target of membership changes, so that whoever sees them on stdout can leave them out.
pub(super) const MEMBERS: &str = "p2p_gossip::members";

/// Says what is probably a mistake in the lists.
pub(crate) fn tell_oddity(access: &Access, own: &PeerId) {
    if let Some(oddity) = access.oddity(own) {
        log::warn!("{oddity}");
    }
}

pub(super) fn log_event(event: &Event) {
    match event {
        Event::Up { peer, name, addr, members } => {
            log::info!(target: MEMBERS, peer:% = peer.short(), name:% = Escaped(name), addr:% = addr,
                members = *members; "peer up");
        }
        Event::Down { peer, name, addr, reason, members } => {
            log::warn!(target: MEMBERS, peer:% = peer.short(), name:% = Escaped(name), addr:% = addr,
                reason:% = reason, members = *members; "peer down");
        }
        Event::Left { peer, name, addr, members } => {
            log::info!(target: MEMBERS, peer:% = peer.short(), name:% = Escaped(name), addr:% = addr,
                members = *members; "peer left");
        }
        Event::Listening { .. } | Event::Ping { .. } | Event::Message { .. } | Event::Stopped => {}
    }
}

pub(super) fn log_unsendable(session: SessionId, error: &wire::WireError) {
    static LIMIT: LogLimit = LogLimit::new();
    if let Some(suppressed) = LIMIT.check() {
        log::error!(session:% = session, reason:% = error, suppressed; "message not sent");
    }
}

/// Each cause has a limit of its own, also at level debug: peers decide how often most of them occur.
pub(super) fn log_report(report: &Report) {
    match report {
        Report::SeedUnreachable { addr, detail } => {
            static LIMIT: LogLimit = LogLimit::at_once(REPORTS_AT_ONCE);
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(addr:% = addr, reason:% = Escaped(detail), suppressed;
                    "cannot join through this address yet; trying on");
            }
        }
        Report::SeedIsSelf { addr } => {
            static LIMIT: LogLimit = LogLimit::at_once(REPORTS_AT_ONCE);
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(addr:% = addr, suppressed; "this address is our own; not connecting to it");
            }
        }
        Report::DialFailed { peer, addr, detail, retry_in } => {
            static LIMIT: LogLimit = LogLimit::debug();
            if let Some(suppressed) = LIMIT.check() {
                let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.short().to_string());
                let retry_in = retry_in.map_or_else(|| "never".to_owned(), |wait| format!("{wait:.1?}"));
                log::debug!(peer:% = peer, addr:% = addr, reason:% = Escaped(detail), retry_in:% = retry_in, suppressed;
                    "dial failed");
            }
        }
        Report::ListNews { from, news } => {
            static LIMIT: LogLimit = LogLimit::debug();
            if let Some(suppressed) = LIMIT.check() {
                log::debug!(peer:% = from.short(), news = *news, suppressed; "a list of peers brought news");
            }
        }
        Report::WrongId { addr, expected, first_seen, found, is_refused: false } => {
            static LIMIT: LogLimit = LogLimit::at_once(REPORTS_AT_ONCE);
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(addr:% = addr, expected:% = expected, first_seen:% = first_seen, found:% = found, suppressed;
                    "another peer answers at a known address; it counts as a new peer");
            }
        }
        Report::WrongId { addr, expected, first_seen, found, is_refused: true } => {
            static LIMIT: LogLimit = LogLimit::at_once(REPORTS_AT_ONCE);
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(addr:% = addr, expected:% = expected, first_seen:% = first_seen, found:% = found, suppressed;
                    "another peer is at a known address; refused, as --strict asks");
            }
        }
        Report::WrongPin { addr, pin, found } => {
            static LIMIT: LogLimit = LogLimit::at_once(REPORTS_AT_ONCE);
            if let Some(suppressed) = LIMIT.check() {
                log::error!(addr:% = addr, expected:% = pin, found:% = found, suppressed;
                    "another peer than the pinned one answers; nothing was sent to it or stored; trying on");
            }
        }
        Report::NotAdmitted { peer, addr, why } => {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(peer:% = peer, addr:% = addr, reason:% = why, suppressed; "peer refused");
            }
        }
        Report::TurnedAway { peer, reason } => {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(peer:% = peer.short(), reason:% = reason.in_words(), suppressed; "peer turned us away");
            }
        }
        Report::Recalled { peers, forgotten, surplus } => {
            log::info!(peers = *peers, forgotten = *forgotten, surplus = *surplus;
                "looking for known peers");
        }
        Report::OurKeyInUse { addr } => {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::error!(addr:% = addr, suppressed;
                    "another process uses our key; give each node a key of its own");
            }
        }
        Report::PeerKeyInUse { peer, addr } => {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::error!(peer:% = peer, addr:% = addr, suppressed;
                    "two processes use one key; refused the one that was there before");
            }
        }
        Report::TableFull { peer } => {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(peer:% = peer.short(), suppressed;
                    "table of peers is full (--max-peers); peer refused");
            }
        }
        Report::RefusedAsFull { peer, addr, retry_in } => {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(peer:% = peer.short(), addr:% = addr, retry_in:% = format!("{retry_in:.0?}"), suppressed;
                    "refused: that peer's table of peers is full (its --max-peers)");
            }
        }
        Report::HeldUp { gap } => {
            static LIMIT: LogLimit = LogLimit::new();
            if let Some(suppressed) = LIMIT.check() {
                log::warn!(gap_ms:% = gap.as_millis(), suppressed;
                    "this node stood still; peers get that much more time to answer");
            }
        }
    }
}
