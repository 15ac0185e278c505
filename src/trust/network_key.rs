//! The network key: the secret that the nodes of a closed network share, and its file.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::store::files::{self, FileRequirement, PRIVATE, ReadError};
use crate::trust::crypto::provider;
use crate::trust::secret_text::is_secret_name;
use crate::util::hex;

/// Length of a key in bytes.
const KEY_BYTES: usize = 32;
/// Largest accepted file in bytes: a key and comments.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// 32 random bytes that only the nodes of one network have. Wiped from memory when dropped, and never shown.
///
/// Its file has one line of 64 hexadecimal digits. Spaces around them, empty lines and lines that begin with
/// `#` are ignored.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkKey(Zeroizing<[u8; KEY_BYTES]>);

impl NetworkKey {
    /// Generates a key.
    ///
    /// # Errors
    /// The system provides no randomness.
    pub fn generate() -> Result<Self, NetworkKeyError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        provider().secure_random.fill(&mut *key).map_err(|_| NetworkKeyError::NoRandomness)?;
        Ok(Self(key))
    }

    /// Reads a key from its file.
    ///
    /// # Errors
    /// The file is missing, unreadable, readable by others, or does not hold exactly one key. The error names
    /// the file, and the line at fault.
    pub fn from_file(file: &Path) -> Result<Self, NetworkKeyError> {
        // If the name is a key itself, an error that names the file would show the key.
        if is_secret_name(file) {
            return Err(NetworkKeyError::KeyAsName);
        }
        let bytes = files::read(file, FILE_BYTES_MAX, FileRequirement::Private)
            .map_err(|error| NetworkKeyError::from_read(file.to_owned(), error))?;
        Self::parse(&Zeroizing::new(bytes)).map_err(|problem| {
            let file = file.to_owned();
            match problem {
                Problem::NoKey => NetworkKeyError::Empty { file },
                Problem::BadLine(line) => NetworkKeyError::BadLine { file, line },
                Problem::Second(line) => NetworkKeyError::Second { file, line },
            }
        })
    }

    /// Writes the key to a new file, which only its owner can read.
    ///
    /// # Errors
    /// The file exists, or the system can't create it.
    pub fn write_new(&self, file: &Path) -> Result<(), NetworkKeyError> {
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 1));
        self.write_hex(&mut text);
        text.push('\n');
        files::create_new(file, text.as_bytes(), PRIVATE)
            .map_err(|source| NetworkKeyError::Write { file: file.to_owned(), source })
    }

    /// Appends the key as 64 hexadecimal digits. The text is as secret as the key.
    pub(crate) fn write_hex(&self, text: &mut String) {
        for byte in *self.0 {
            // Writing into a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
    }

    /// Reads 64 hexadecimal digits.
    pub(crate) fn from_hex(digits: &[u8]) -> Option<Self> {
        parse_hex(digits).map(Self)
    }

    /// The key with these bytes.
    pub(crate) fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The 32 bytes of the secret.
    #[must_use]
    pub(crate) fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    fn parse(text: &[u8]) -> Result<Self, Problem> {
        let mut found = None;
        // Some editors begin a file with a byte order mark.
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let key = parse_hex(line).ok_or(Problem::BadLine(index + 1))?;
            if found.replace(Self(key)).is_some() {
                return Err(Problem::Second(index + 1));
            }
        }
        found.ok_or(Problem::NoKey)
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey(secret)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    NoKey,
    /// This line, from 1, is neither a key nor a comment.
    BadLine(usize),
    /// This line, from 1, holds a second key.
    Second(usize),
}

fn parse_hex(digits: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    hex::parse_into(digits, &mut *key).then_some(key)
}

/// Why a network key can't be read, written or generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkKeyError {
    /// The file can't be read.
    #[error("cannot read the network key {}: {source}", file.display())]
    #[non_exhaustive]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file can't be created.
    #[error("cannot write the network key {}: {source}", file.display())]
    #[non_exhaustive]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Other users can read or write the key.
    #[error("{} can be read or written by other users (mode {mode:04o}); run: chmod 600 {}", file.display(), file.display())]
    #[non_exhaustive]
    TooPermissive {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is too large for a network key.
    #[error("{} is larger than 64 KiB, so it is no network key", file.display())]
    #[non_exhaustive]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// There is no key in the file.
    #[error("{} has no key in it; a network key is a line of 64 hexadecimal digits", file.display())]
    #[non_exhaustive]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// A line is neither a key nor a comment.
    #[error("{} line {line}: a network key is 64 hexadecimal digits", file.display())]
    #[non_exhaustive]
    BadLine {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// There are two keys in the file.
    #[error("{} line {line}: a second key; put each key in a separate file", file.display())]
    #[non_exhaustive]
    Second {
        /// The file.
        file: PathBuf,
        /// The line of the second key, from 1.
        line: usize,
    },
    /// The caller passed the key itself instead of the name of its file.
    #[error("the name of a file with the network key is needed, not the text of a key itself")]
    KeyAsName,
    /// The system provides no randomness for a key.
    #[error("cannot make a network key: the system provides no randomness")]
    NoRandomness,
}

impl NetworkKeyError {
    /// The file of a network key can't be read.
    pub(crate) fn from_read(file: PathBuf, error: ReadError) -> Self {
        match error {
            ReadError::TooPermissive(mode) => Self::TooPermissive { file, mode },
            ReadError::TooLarge => Self::TooLarge { file },
            ReadError::System(source) => Self::Read { file, source },
            ReadError::WrongOwner(_) | ReadError::Link | ReadError::NoFile => {
                Self::Read { file, source: io::ErrorKind::InvalidInput.into() }
            }
        }
    }

    /// This line of the file has no meaning, from 1; 0 if no key is there.
    pub(crate) fn in_file(file: PathBuf, line: usize) -> Self {
        if line == 0 { Self::Empty { file } } else { Self::BadLine { file, line } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_key_is_read_back_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("network.key");
        let key = NetworkKey::generate().unwrap();
        assert_ne!(key, NetworkKey::generate().unwrap());
        key.write_new(&file).unwrap();
        assert_eq!(NetworkKey::from_file(&file).unwrap(), key);
        assert!(matches!(key.write_new(&file), Err(NetworkKeyError::Write { .. })));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.len() == 65 && text.ends_with('\n'), "{text:?}");
        assert_eq!(format!("{key:?}"), "NetworkKey(secret)");
        let error = NetworkKey::from_file(Path::new(&text)).unwrap_err();
        assert!(matches!(error, NetworkKeyError::KeyAsName), "{error:?}");
    }

    #[test]
    fn comments_and_spaces_are_ignored_and_other_lines_are_reported_by_number() {
        let digits = "0123456789abcdefABCDEF00".repeat(3)[..64].to_owned();
        let parse = |text: &str| NetworkKey::parse(text.as_bytes()).map(|key| key.as_bytes()[1]);
        assert_eq!(parse(&digits), Ok(0x23));
        assert_eq!(parse(&format!("# ours\r\n\n  {digits} \r\n# end")), Ok(0x23));
        assert_eq!(parse(&format!("\u{feff}{digits}")), Ok(0x23));
        assert_eq!(parse(""), Err(Problem::NoKey));
        assert_eq!(parse("# nothing\n"), Err(Problem::NoKey));
        assert_eq!(parse(&digits[1..]), Err(Problem::BadLine(1)));
        assert_eq!(parse(&format!("#\n{}g", &digits[1..])), Err(Problem::BadLine(2)));
        assert_eq!(parse(&format!("{digits} # ours")), Err(Problem::BadLine(1)));
        assert_eq!(parse(&format!("{digits}\n\n{digits}\n")), Err(Problem::Second(3)));
    }
}
