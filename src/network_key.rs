//! The secret that the nodes of a closed network share, and the file that holds it.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::files::{self, Demand, PRIVATE, ReadError};
use crate::identity::provider;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Largest file read: a key, and what people write beside it in comments.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// 32 random bytes that all nodes of a network have and nobody else. Wiped from memory when dropped,
/// and never shown.
///
/// In a file it is one line of 64 hexadecimal digits. Empty lines, spaces around it and lines that
/// begin with `#` mean nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct NetworkKey(Zeroizing<[u8; KEY_BYTES]>);

impl NetworkKey {
    /// A new one.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn generate() -> Result<Self, NetworkKeyError> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        provider().secure_random.fill(&mut *key).map_err(|_| NetworkKeyError::NoRandomness)?;
        Ok(Self(key))
    }

    /// Reads a key from its file.
    ///
    /// # Errors
    /// Names the file and what is wrong with it: missing, unreadable, readable by others, or without
    /// exactly one key in it; then with the line.
    pub fn from_file(file: &Path) -> Result<Self, NetworkKeyError> {
        // Errors name the file: here that would show the key.
        if hex(file.as_os_str().as_encoded_bytes().trim_ascii()).is_some() {
            return Err(NetworkKeyError::KeyAsName);
        }
        let bytes = files::read(file, FILE_BYTES_MAX, Demand::Private).map_err(|error| {
            let file = file.to_owned();
            match error {
                ReadError::Exposed(mode) => NetworkKeyError::Exposed { file, mode },
                ReadError::TooLarge => NetworkKeyError::TooLarge { file },
                ReadError::System(source) => NetworkKeyError::Read { file, source },
                // Not demanded above.
                ReadError::Foreign(_) | ReadError::Link | ReadError::NoFile => {
                    NetworkKeyError::Read { file, source: io::ErrorKind::InvalidInput.into() }
                }
            }
        })?;
        Self::parse(&Zeroizing::new(bytes)).map_err(|problem| {
            let file = file.to_owned();
            match problem {
                Problem::Nothing => NetworkKeyError::Empty { file },
                Problem::BadLine(line) => NetworkKeyError::BadLine { file, line },
                Problem::Second(line) => NetworkKeyError::Second { file, line },
            }
        })
    }

    /// Writes the key to a file that was not there before, readable by its owner only.
    ///
    /// # Errors
    /// The file exists, or the system refuses to make it.
    pub fn write_new(&self, file: &Path) -> Result<(), NetworkKeyError> {
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 1));
        for byte in *self.0 {
            // Writing into a String does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        files::create_new(file, text.as_bytes(), PRIVATE)
            .map_err(|source| NetworkKeyError::Write { file: file.to_owned(), source })
    }

    /// The secret itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    fn parse(text: &[u8]) -> Result<Self, Problem> {
        let mut found = None;
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let key = hex(line).ok_or(Problem::BadLine(index + 1))?;
            if found.replace(Self(key)).is_some() {
                return Err(Problem::Second(index + 1));
            }
        }
        found.ok_or(Problem::Nothing)
    }
}

impl fmt::Debug for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NetworkKey(secret)")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Nothing,
    /// Neither a key nor a comment, in this line.
    BadLine(usize),
    /// A second key, in this line.
    Second(usize),
}

fn hex(digits: &[u8]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if digits.len() != 2 * KEY_BYTES {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(key)
}

/// Why there is no network key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkKeyError {
    /// The file can't be read.
    #[error("cannot read the network key {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file can't be made.
    #[error("cannot write the network key {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Other users can read or write the key.
    #[error("{} can be read or written by other users (mode {mode:04o}); run: chmod 600 {}", file.display(), file.display())]
    Exposed {
        /// The file.
        file: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is too large to be what it should be.
    #[error("{} is larger than 64 KiB; that is no network key", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// There is no key in the file.
    #[error("{} has no key in it; a network key is a line of 64 hexadecimal digits", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// A line is neither a key nor a comment.
    #[error("{} line {line}: a network key is 64 hexadecimal digits", file.display())]
    BadLine {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// There are two keys in the file.
    #[error("{} line {line}: a second key; put each in a file of its own", file.display())]
    Second {
        /// The file.
        file: PathBuf,
        /// The line of the second one, from 1.
        line: usize,
    },
    /// The key itself was given instead of the name of its file.
    #[error("the name of a file with the network key is needed, not the key itself")]
    KeyAsName,
    /// No key can be made.
    #[error("cannot make a network key: the system has no randomness to give")]
    NoRandomness,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_file_and_is_never_shown() {
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
    fn comments_and_space_around_a_key_mean_nothing_and_all_else_is_named_by_line() {
        let digits = "0123456789abcdefABCDEF00".repeat(3)[..64].to_owned();
        let parse = |text: &str| NetworkKey::parse(text.as_bytes()).map(|key| key.as_bytes()[1]);
        assert_eq!(parse(&digits), Ok(0x23));
        assert_eq!(parse(&format!("# ours\r\n\n  {digits} \r\n# end")), Ok(0x23));
        assert_eq!(parse(""), Err(Problem::Nothing));
        assert_eq!(parse("# nothing\n"), Err(Problem::Nothing));
        assert_eq!(parse(&digits[1..]), Err(Problem::BadLine(1)));
        assert_eq!(parse(&format!("#\n{}g", &digits[1..])), Err(Problem::BadLine(2)));
        assert_eq!(parse(&format!("{digits} # ours")), Err(Problem::BadLine(1)));
        assert_eq!(parse(&format!("{digits}\n\n{digits}\n")), Err(Problem::Second(3)));
    }
}
