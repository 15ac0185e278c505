//! The log lines for events and reports of the mesh.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Event, Verdict};
use crate::mesh::{Report, SessionId};
use crate::net::addr::DialAddr;
use crate::trust::access::Access;
use crate::trust::peer_id::PeerId;
use crate::trust::pin::Pin;
use crate::util::log_limit::{LogLimit, SubjectLimit, limited_log};
use crate::util::text::Escaped;
use crate::wire;

/// Burst of lines for a cause that may concern every peer of a large mesh at the same moment.
const REPORTS_AT_ONCE: u32 = 128;

/// Log target of membership changes. A program that prints these on stdout can filter the target out.
pub(super) const MEMBERS: &str = "p2p_gossip::members";

/// Warns of a probable mistake in the access lists.
pub(crate) fn log_access_warning(access: &Access, own: &PeerId) {
    if let Some(warning) = access.warning(own) {
        log::warn!("{warning}");
    }
}

pub(super) fn log_event(event: &Event) {
    match event {
        Event::Up { peer, name, addr, via, members } => {
            log::info!(target: MEMBERS, peer:% = peer.short(), name:% = Escaped(name), addr:% = addr,
                via:% = Via(*via), members = *members; "peer up");
        }
        Event::Path { peer, name, addr, via } => {
            log::info!(target: MEMBERS, peer:% = peer.short(), name:% = Escaped(name), addr:% = addr,
                via:% = Via(*via); "path changed");
        }
        Event::Down { quiet: true, .. } => {}
        Event::Down { peer, name, addr, reason, members, .. } => {
            log::warn!(target: MEMBERS, peer:% = peer.short(), name:% = Escaped(name), addr:% = addr,
                reason:% = reason, members = *members; "peer down");
        }
        Event::Left { peer, name, addr, members } => {
            log::info!(target: MEMBERS, peer:% = peer.short(), name:% = Escaped(name), addr:% = addr,
                members = *members; "peer left");
        }
        // The loss of each peer is part of the isolation.
        Event::Verdict { verdict: Verdict::Isolated, .. } => {}
        Event::Verdict { peer, name, addr, verdict, asked, seen_by, .. } => {
            log::warn!(target: MEMBERS, peer:% = peer.short(), name:% = Escaped(name), addr:% = addr,
                verdict:% = verdict, asked = *asked, seen_by = *seen_by; "verdict on a lost peer");
        }
        Event::Isolated { lost, members } => {
            log::warn!(target: MEMBERS, lost = *lost, members = *members; "this node is isolated");
        }
        Event::Rejoined { members } => {
            log::info!(target: MEMBERS, members = *members; "this node is no longer isolated");
        }
        Event::Unstable { peer, name, addr, losses } => {
            log::warn!(target: MEMBERS, peer:% = peer.short(), name:% = Escaped(name), addr:% = addr,
                losses = *losses; "peer unstable");
        }
        Event::Alert { incident, kind, phase, .. } => {
            log::info!(target: MEMBERS, incident = incident.as_str(), kind:% = kind, phase:% = phase; "alert");
        }
        Event::Listening { .. } | Event::Ping { .. } | Event::Message { .. } | Event::Stopped => {}
    }
}

pub(super) fn log_unsendable(session: SessionId, error: &wire::WireError) {
    limited_log!(LogLimit::new(), error, { session:% = session, reason:% = error },
        "cannot encode a message; it was not sent");
}

/// The carrier of a session, or `direct`.
struct Via(Option<PeerId>);

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(carrier) => write!(f, "{}", carrier.short()),
            None => f.write_str("direct"),
        }
    }
}

/// Writes one line for a report. Each cause has its own limit, also at level debug, because peers decide how
/// often most causes occur.
pub(super) fn log_report(report: &Report) {
    match report {
        Report::BootstrapUnreachable { addr, detail } => {
            limited_log!(LogLimit::at_once(REPORTS_AT_ONCE), warn, { addr:% = addr, reason:% = Escaped(detail) },
                "cannot join through this address yet; retrying");
        }
        Report::BootstrapIsSelf { addr: addr @ DialAddr::Name { .. } } => {
            limited_log!(LogLimit::at_once(REPORTS_AT_ONCE), info, { addr:% = addr },
                "this name leads to no node but this one yet; looking it up again");
        }
        Report::BootstrapIsSelf { addr } => {
            limited_log!(LogLimit::at_once(REPORTS_AT_ONCE), warn, { addr:% = addr },
                "this address is our own; not connecting to it");
        }
        Report::DialFailed { peer, addr, detail, retry_in } => {
            log_dial_failed(*peer, addr, detail, *retry_in);
        }
        Report::ListNews { from, news } => {
            limited_log!(LogLimit::debug(), debug, { peer:% = from.short(), news = *news },
                "a peer list contains new or returned peers");
        }
        // The address is the subject: one that changes its key again and again is no news.
        Report::WrongId { addr, is_refused, .. } if !is_news(addr, *is_refused) => {}
        Report::WrongId { addr, expected, first_seen, found, is_refused: false } => {
            limited_log!(LogLimit::at_once(REPORTS_AT_ONCE), warn,
                { addr:% = addr, expected:% = expected, first_seen:% = first_seen, found:% = found },
                "another peer answers at a known address; it counts as a new peer");
        }
        Report::WrongId { addr, expected, first_seen, found, is_refused: true } => {
            limited_log!(LogLimit::at_once(REPORTS_AT_ONCE), warn,
                { addr:% = addr, expected:% = expected, first_seen:% = first_seen, found:% = found },
                "another peer answers at a known address; refused, as --strict asks");
        }
        Report::WrongPin { addr, pin, found } => log_wrong_pin(addr, pin, *found),
        Report::NotAdmitted { peer, addr, why } => {
            limited_log!(LogLimit::new(), warn, { peer:% = peer, addr:% = addr, reason:% = why },
                "peer refused");
        }
        Report::RefusedByPeer { peer, reason } => {
            limited_log!(LogLimit::new(), warn, { peer:% = peer.short(), reason:% = reason.describe() },
                "peer refused this node");
        }
        Report::Restored { peers, forgotten, surplus } => {
            log::info!(peers = *peers, forgotten = *forgotten, surplus = *surplus; "looking for known peers");
        }
        Report::OurKeyInUse { addr } => {
            limited_log!(LogLimit::new(), error, { addr:% = addr },
                "another process uses our key; give each node its own key");
        }
        Report::OurKeyClaimed { by, at, used_at } => log_key_claimed(by, *at, *used_at),
        Report::PeerKeyInUse { peer, addr } => {
            limited_log!(LogLimit::new(), error, { peer:% = peer, addr:% = addr },
                "two processes use one key; refused the older one; give each node its own key");
        }
        Report::TableFull { peer } => {
            limited_log!(LogLimit::new(), warn, { peer:% = peer.short() },
                "table of peers is full; peer refused; to admit more, raise --max-peers (and the limit of descriptors)");
        }
        Report::Displaced { peer } => {
            limited_log!(LogLimit::new(), warn, { peer:% = peer.short() },
                "no place for more peers; a peer that came a short time ago gave way to a known one; \
                 to admit more, raise --max-peers or the limit of descriptors");
        }
        Report::RefusedAsFull { peer, addr, retry_in } => log_refused_as_full(*peer, *addr, *retry_in),
        Report::NetworkKeyChanged { by: None, generation } => {
            log::info!(generation = *generation; "the network has a new key; telling it to the other members");
        }
        Report::NetworkKeyChanged { by: Some(by), generation } => {
            limited_log!(LogLimit::at_once(REPORTS_AT_ONCE), info,
                { peer:% = by.short(), generation = *generation },
                "a member has changed the key of the network");
        }
        Report::NetworkKeyOutdated { by } => {
            limited_log!(LogLimit::new(), warn, { peer:% = by.short() },
                "a member has changed the key of the network, but this node's key is in a file that only its user \
                 changes; it can connect only until the other members drop the old key");
        }
        Report::AlertFailed { incident } => {
            limited_log!(LogLimit::new(), error, { incident:% = incident },
                "no member could run its program of --alert for this incident; giving up");
        }
        Report::Stalled { gap } => {
            limited_log!(LogLimit::new(), warn, { gap_ms:% = gap.as_millis() },
                "this node stalled; peers get that much more time to answer");
        }
    }
}

/// Whether the log has not said for some time that another peer answers at this address.
fn is_news(addr: &DialAddr, is_refused: bool) -> bool {
    static SAME: Mutex<SubjectLimit<(DialAddr, bool)>> = Mutex::new(SubjectLimit::new());
    let subject = (addr.clone(), is_refused);
    SAME.lock().unwrap_or_else(PoisonError::into_inner).check(Instant::now(), subject).is_some()
}

fn log_dial_failed(peer: Option<PeerId>, addr: &DialAddr, detail: &str, retry_in: Option<Duration>) {
    let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.short().to_string());
    let retry_in = retry_in.map_or_else(|| "never".to_owned(), |wait| format!("{wait:.1?}"));
    limited_log!(LogLimit::debug(), debug,
        { peer:% = peer, addr:% = addr, reason:% = Escaped(detail), retry_in:% = retry_in },
        "dial failed");
}

/// The word of one peer is a claim, which the user can check: the other process says the same in its log.
fn log_key_claimed(by: &PeerId, at: SocketAddr, used_at: Option<SocketAddr>) {
    let used_at = used_at.map_or_else(|| "unknown".to_owned(), |addr| addr.to_string());
    limited_log!(LogLimit::new(), warn, { peer:% = by.short(), addr:% = at, used_at:% = used_at },
        "this peer says that another process uses our key; if that is so, give each node its own key");
}

fn log_wrong_pin(addr: &DialAddr, pin: &Pin, found: PeerId) {
    limited_log!(LogLimit::at_once(REPORTS_AT_ONCE), error,
        { addr:% = addr, expected:% = pin, found:% = found },
        "another peer than the pinned one answers; nothing was sent to it or stored; \
         check the address and the pinned id; retrying");
}

fn log_refused_as_full(peer: PeerId, addr: SocketAddr, retry_in: Duration) {
    let retry_in = format!("{retry_in:.0?}");
    limited_log!(LogLimit::new(), warn, { peer:% = peer.short(), addr:% = addr, retry_in:% = retry_in },
        "peer refused this node: that peer's table of peers is full (its --max-peers); retrying");
}
