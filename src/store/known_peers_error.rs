//! Why the file of known peers can't be read. No error holds text of the file, which may be the wrong file and hold a
//! secret.

use std::io;
use std::path::PathBuf;

use crate::limits::{ADDRS_MAX, NAME_BYTES_MAX, PEERS_LIMIT};
use crate::net::dial_addr_error::DialAddrError;
use crate::trust::peer_id::ParsePeerIdError;

/// The only version of the format so far. A file of another version is refused and left unchanged.
pub(crate) const VERSION: u32 = 1;
/// Addresses of one peer that are accepted; more than are kept, because a later version may keep more.
pub(crate) const ADDRS_READ_MAX: usize = 4 * ADDRS_MAX;

/// Why the known peers can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnownPeersError {
    /// The file can't be read.
    #[error("cannot read {}: {source}", file.display())]
    #[non_exhaustive]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is a symbolic link, a pipe or something else that is no regular file.
    #[error("{} is not a regular file; move it away to forget all known peers", file.display())]
    #[non_exhaustive]
    NotAFile {
        /// The file.
        file: PathBuf,
    },
    /// The file is larger than the limit.
    #[error("{} is larger than 16 MiB; move it away to forget all known peers", file.display())]
    #[non_exhaustive]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// The file was written by a later version of the program.
    #[error("{} has version {version}, but this p2p-gossip reads version {VERSION} only: run a later p2p-gossip, or move the file away to forget all known peers", file.display())]
    #[non_exhaustive]
    Version {
        /// The file.
        file: PathBuf,
        /// The version in the file.
        version: u32,
    },
    /// The file is damaged.
    #[error("{} is damaged in line {line}: {problem}; correct that line, or move the file away to forget all known peers", file.display())]
    #[non_exhaustive]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The problem of the line.
        problem: KnownPeersProblem,
    },
}

/// The problem of a line. Holds no text of the file, which may be the wrong file and hold a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KnownPeersProblem {
    /// The line is not UTF-8.
    #[error("it is not valid UTF-8")]
    NotText,
    /// The line is not TOML, or repeats a field.
    #[error("it is not valid TOML")]
    NotToml,
    /// A field is unknown.
    #[error("it has an unknown field")]
    UnknownField,
    /// The table that begins in this line lacks a field.
    #[error("the field {0} is missing")]
    MissingField(&'static str),
    /// A value has the wrong type for its field.
    #[error("the value has the wrong type; {0} is needed")]
    WrongType(&'static str),
    /// A value is no id.
    #[error("{0}")]
    Id(ParsePeerIdError),
    /// A name is too long.
    #[error("the name is too long: at most {NAME_BYTES_MAX} bytes are allowed")]
    NameLength,
    /// A name contains a control character, which could change a terminal's state.
    #[error("the name contains a control character")]
    NameCharacter,
    /// A value is no time.
    #[error("the value is no time since 1970 in the form of RFC 3339, for example 2026-01-31T12:00:00Z")]
    Time,
    /// A value is no address.
    #[error("{0}")]
    Addr(DialAddrError),
    /// Two entries have the same id.
    #[error("this peer has two entries")]
    Twice,
    /// The file has more peers than a node may know.
    #[error("more than {PEERS_LIMIT} peers")]
    Peers,
    /// A peer has more addresses than are accepted.
    #[error("more than {ADDRS_READ_MAX} addresses of one peer")]
    Addrs,
}

/// The problems that the values' own parsers report. TOML's error carries them as text only.
const VALUE_PROBLEMS: [KnownPeersProblem; 13] = [
    KnownPeersProblem::Id(ParsePeerIdError::NotHexadecimal),
    KnownPeersProblem::NameLength,
    KnownPeersProblem::NameCharacter,
    KnownPeersProblem::Time,
    KnownPeersProblem::Addr(DialAddrError::BadInterface),
    KnownPeersProblem::Addr(DialAddrError::Several),
    KnownPeersProblem::Addr(DialAddrError::Url),
    KnownPeersProblem::Addr(DialAddrError::NoPort),
    KnownPeersProblem::Addr(DialAddrError::BadPort),
    KnownPeersProblem::Addr(DialAddrError::NoHost),
    KnownPeersProblem::Addr(DialAddrError::BadIpv6),
    KnownPeersProblem::Addr(DialAddrError::BadHost),
    KnownPeersProblem::Addr(DialAddrError::Unspecified),
];
/// The required fields.
const FIELDS: [&str; 7] = ["version", "id", "name", "first_seen", "last_seen", "left", "addr"];
/// serde's names of the field types, and ours.
const TYPES: [(&str, &str); 4] = [
    ("a string", "a text in quotes"),
    ("a boolean", "true or false"),
    ("u32", "a whole number, 0 or more"),
    ("u64", "a whole number, 0 or more"),
];

impl KnownPeersProblem {
    /// Recognizes the problem in TOML's message. Keeps no part of the message, which may quote the file.
    pub(crate) fn from_toml(message: &str) -> Self {
        if let Some(known) = VALUE_PROBLEMS.iter().find(|problem| problem.to_string() == message) {
            return known.clone();
        }
        if message.starts_with("unknown field ") {
            return Self::UnknownField;
        }
        if let Some(field) = message.strip_prefix("missing field ") {
            let field = field.trim_matches('`');
            return FIELDS
                .into_iter()
                .find(|known| *known == field)
                .map_or(Self::NotToml, Self::MissingField);
        }
        if message.starts_with("invalid type") || message.starts_with("invalid value") {
            let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
            let needed = TYPES.into_iter().find(|(name, _)| expected == Some(name));
            return Self::WrongType(needed.map_or("something else", |(_, needed)| needed));
        }
        Self::NotToml
    }
}
