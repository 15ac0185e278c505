//! The errors of encoding and decoding.

use bincode::error::DecodeError;

/// Why bytes are not a message, or a message can't be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The frame's length is zero or above the limit.
    #[error("frame of {length} bytes; 1 to {max} are allowed")]
    Length {
        /// The announced length in bytes.
        length: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The bytes are no message.
    #[error("malformed message: {0}")]
    Malformed(Malformation),
    /// The frame holds this many bytes after its message.
    #[error("{0} bytes after the message in its frame")]
    Trailing(usize),
    /// A part of the message is longer than its limit.
    #[error("{part} has {length} of at most {max}")]
    TooLong {
        /// The name of the part.
        part: &'static str,
        /// Its length: bytes of a text, entries of a list.
        length: usize,
        /// The limit, in the same unit.
        max: usize,
    },
}

/// Why bytes are not a message. The reasons are separate from bincode's errors, which may quote the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformation {
    /// The bytes end within the message.
    #[error("it ends too early")]
    Short,
    /// The decoded message would be too large.
    #[error("it would take more memory than a message may")]
    Memory,
    /// A tag names no kind of message or of its parts.
    #[error("it has an unknown tag")]
    Tag,
    /// A text is not UTF-8.
    #[error("a text in it is not UTF-8")]
    Text,
    /// An address has neither an IP and port nor a host name and port.
    #[error("an address in it is not an address")]
    Address,
    /// A value is out of its range.
    #[error("a value in it is out of range")]
    Value,
    /// The message cannot be encoded.
    #[error("it cannot be encoded")]
    Unencodable,
}

impl From<DecodeError> for Malformation {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::UnexpectedEnd { .. } => Self::Short,
            DecodeError::LimitExceeded => Self::Memory,
            DecodeError::UnexpectedVariant { .. } => Self::Tag,
            DecodeError::Utf8 { .. } => Self::Text,
            // Only the decoder of addresses returns this.
            DecodeError::Other(_) => Self::Address,
            _ => Self::Value,
        }
    }
}
