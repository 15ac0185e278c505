//! The reasons why a session did not come up, and their log lines.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::hello::Mismatch;
use super::key_rates::TooManySessions;
use super::link::LinkError;
use super::pending::Source;
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::mesh::DialError;
use crate::trust::tls::Rejection;
use crate::trust::tls_error::TlsError;
use crate::util::log_limit::{LogLimit, SubjectLimit};
use crate::wire::{self, ByeReason};

/// Why a session did not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("the connection was closed during the handshake")]
    ClosedEarly,
    #[error("handshake not complete after {} seconds", HANDSHAKE_TIMEOUT.as_secs())]
    Deadline,
    #[error("{0}")]
    Authentication(#[from] crate::trust::tls::AuthenticationError),
    #[error("{0}")]
    Wire(#[from] wire::WireError),
    #[error("its first message was not a Hello")]
    NoHello,
    #[error("refused: {}", .0.describe())]
    Refused(ByeReason),
    #[error("cannot prove the network key: {0}")]
    Exporter(TlsError),
    #[error("{0}")]
    NetworkKey(Mismatch),
    #[error("only connected peers answered at the name")]
    NothingNew,
    #[error("this node itself answered")]
    OwnAddress,
    #[error("cancelled by this node")]
    Cancelled,
    #[error("{0}")]
    TooManySessions(#[from] TooManySessions),
    #[error("this node has no place for another session")]
    NoPlace,
    #[error("it only looked whether it may join")]
    Probed,
    #[error("it gave way to a newer connection before its handshake was complete")]
    Evicted,
}

impl Failure {
    pub(super) fn into_dial_error(self) -> DialError {
        match self {
            Self::Cancelled => DialError::Cancelled,
            Self::NothingNew => DialError::NothingNew,
            Self::OwnAddress => DialError::OwnAddress,
            Self::Link(LinkError::Rejected(Rejection::WrongId { found, .. })) => DialError::WrongId { found },
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                DialError::Refused(Self::Connect(error).to_string())
            }
            other => DialError::Failed(other.to_string()),
        }
    }

    /// Of the failures at two addresses of one name, the one that tells the user more.
    pub(super) fn or_later(self, later: Self) -> Self {
        match (&self, &later) {
            (Self::OwnAddress, Self::NothingNew) => later,
            (Self::Link(LinkError::Rejected(Rejection::WrongId { .. })), _)
            | (_, Self::OwnAddress | Self::NothingNew) => self,
            _ => later,
        }
    }
}

/// Logs why an accepted connection did not become a session. A source that fails again for the same reason is no news.
/// Each cause has its own limit as well, so a flood of one does not hide the others.
pub(super) fn log_refused(remote: SocketAddr, failure: &Failure) {
    static DEADLINE: LogLimit = LogLimit::new();
    static CONNECTION: LogLimit = LogLimit::new();
    static AUTHENTICATION: LogLimit = LogLimit::new();
    static PROTOCOL: LogLimit = LogLimit::new();
    static REFUSED: LogLimit = LogLimit::new();
    static NETWORK_KEY: LogLimit = LogLimit::new();
    static TOO_MANY: LogLimit = LogLimit::new();
    static OTHER: LogLimit = LogLimit::new();
    let limit = match failure {
        // Port scans, health checks and cancelled dials connect and close.
        Failure::ClosedEarly => return log_ended(remote, failure),
        Failure::Link(LinkError::Io(error))
            if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) =>
        {
            return log_ended(remote, failure);
        }
        // The eviction has been logged, with its reason. A probe that may join is no failure.
        Failure::Evicted | Failure::Probed => return log_ended(remote, failure),
        Failure::Deadline => &DEADLINE,
        Failure::Connect(_) | Failure::Link(LinkError::Io(_)) => &CONNECTION,
        Failure::Link(_) | Failure::Authentication(_) => &AUTHENTICATION,
        Failure::Wire(_) | Failure::NoHello => &PROTOCOL,
        Failure::Refused(_) => &REFUSED,
        Failure::NetworkKey(_) => &NETWORK_KEY,
        Failure::TooManySessions(_) | Failure::NoPlace => &TOO_MANY,
        Failure::Exporter(_) | Failure::NothingNew | Failure::OwnAddress | Failure::Cancelled => &OTHER,
    };
    static SAME: Mutex<SubjectLimit<(Source, String)>> = Mutex::new(SubjectLimit::new());
    let subject = (Source::of(remote.ip()), failure.to_string());
    let repeated = SAME.lock().unwrap_or_else(PoisonError::into_inner).check(Instant::now(), subject);
    let Some(repeated) = repeated else {
        return;
    };
    if let Some(suppressed) = limit.check() {
        let suppressed = suppressed + repeated;
        log::warn!(addr:% = remote, reason:% = failure, suppressed; "incoming connection refused");
    }
}

/// Logs at level debug why an incoming connection ended: the cause is ordinary, or has been logged.
fn log_ended(remote: SocketAddr, failure: &Failure) {
    static CLOSED_BY_PEER: LogLimit = LogLimit::debug();
    static EVICTED: LogLimit = LogLimit::debug();
    let limit = if matches!(failure, Failure::Evicted) { &EVICTED } else { &CLOSED_BY_PEER };
    if let Some(suppressed) = limit.check() {
        log::debug!(addr:% = remote, reason:% = failure, suppressed; "incoming connection ended");
    }
}
