//! Who may be a peer: the allow and deny lists, and the files that they are read from.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::trust::peer_id::{ParsePeerIdError, PeerId};

/// Largest list file: some 15,000 ids with a comment each, far more than a mesh has peers.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Who may be a peer. The default admits everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Nobody else, if there is such a list.
    pub allow: Option<BTreeSet<PeerId>>,
    /// Never these, whatever else is said.
    pub deny: BTreeSet<PeerId>,
}

/// Why a peer is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is denied.
    #[error("it is on the deny list")]
    Denied,
    /// There is an allow list and it is not on it.
    #[error("it is not on the allow list")]
    NotAllowed,
}

impl Access {
    /// Whether this peer may be connected. A denied one may not, also if it is allowed.
    ///
    /// # Errors
    /// Which list keeps it out.
    pub fn check(&self, id: &PeerId) -> Result<(), Refusal> {
        if self.deny.contains(id) {
            return Err(Refusal::Denied);
        }
        match &self.allow {
            Some(allow) if !allow.contains(id) => Err(Refusal::NotAllowed),
            _ => Ok(()),
        }
    }

    /// What is probably a mistake in these lists, from the point of view of the node with this id.
    #[must_use]
    pub fn warning(&self, own: &PeerId) -> Option<&'static str> {
        let is_alone =
            |allow: &BTreeSet<PeerId>| !allow.iter().any(|id| id != own && !self.deny.contains(id));
        if self.allow.as_ref().is_some_and(is_alone) {
            Some("the allow list admits nobody else; this node stays alone")
        } else if self.deny.contains(own) {
            Some(
                "our own id is on the deny list; that changes nothing here, but others with this list refuse us",
            )
        } else {
            None
        }
    }
}

/// Where the lists come from: ids given directly, and files that can be read again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessSources {
    /// Ids that are allowed.
    pub allow: Vec<PeerId>,
    /// Files of ids that are allowed.
    pub allow_files: Vec<PathBuf>,
    /// Ids that are denied.
    pub deny: Vec<PeerId>,
    /// Files of ids that are denied.
    pub deny_files: Vec<PathBuf>,
}

impl AccessSources {
    /// Whether some of it can change while the node runs.
    #[must_use]
    pub fn has_files(&self) -> bool {
        !self.allow_files.is_empty() || !self.deny_files.is_empty()
    }

    /// Reads all files. With no id and no file that allows, everybody is allowed; an empty file
    /// allows nobody.
    ///
    /// # Errors
    /// The first file that can't be read or that has a line which is no id; then nothing counts.
    pub fn read(&self) -> Result<Access, AccessError> {
        let is_closed = !self.allow.is_empty() || !self.allow_files.is_empty();
        let allow = with_files(&self.allow, &self.allow_files)?;
        let deny = with_files(&self.deny, &self.deny_files)?;
        Ok(Access { allow: is_closed.then_some(allow), deny })
    }
}

fn with_files(ids: &[PeerId], files: &[PathBuf]) -> Result<BTreeSet<PeerId>, AccessError> {
    let mut all: BTreeSet<PeerId> = ids.iter().copied().collect();
    for file in files {
        all.extend(parse(file, &read(file)?)?);
    }
    Ok(all)
}

/// Why the lists can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The system doesn't give the file.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a pipe, a device or something else that can't be read again.
    #[error("{} is not a regular file; a list must be one, because SIGHUP reads it again", file.display())]
    NotAFile {
        /// The file.
        file: PathBuf,
    },
    /// It is too large to be a list of ids.
    #[error("{} is larger than 1 MiB; that is no list of ids", file.display())]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// A line is no id.
    #[error("{} line {line}: {problem}; each line has one id, and perhaps a # comment", file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
}

/// Why a line of a list is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// It is not 64 hexadecimal digits.
    #[error("{0}")]
    NotAnId(#[from] ParsePeerIdError),
    /// Something follows the id that is no comment.
    #[error("only a comment that begins with # may follow the id")]
    Trailing,
    /// It has bytes that are no text.
    #[error("it is not valid UTF-8")]
    NotText,
}

fn read(file: &Path) -> Result<Vec<u8>, AccessError> {
    let failed = |source| AccessError::Read { file: file.to_owned(), source };
    // Asked before it is opened: opening a pipe waits for its other end.
    let metadata = std::fs::metadata(file).map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(AccessError::NotAFile { file: file.to_owned() });
    }
    let mut bytes = Vec::new();
    File::open(file).map_err(failed)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(AccessError::TooLarge { file: file.to_owned() });
    }
    Ok(bytes)
}

fn parse(file: &Path, bytes: &[u8]) -> Result<Vec<PeerId>, AccessError> {
    let mut ids = Vec::new();
    // Other editors begin a file with a byte order mark and end its lines with CR LF.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        match parse_line(line) {
            Ok(id) => ids.extend(id),
            Err(problem) => {
                return Err(AccessError::Line { file: file.to_owned(), line: index + 1, problem });
            }
        }
    }
    Ok(ids)
}

fn parse_line(line: &[u8]) -> Result<Option<PeerId>, LineProblem> {
    let line = std::str::from_utf8(line).map_err(|_| LineProblem::NotText)?;
    let content = line.split('#').next().unwrap_or_default();
    let mut words = content.split_whitespace();
    let Some(id) = words.next() else {
        return Ok(None);
    };
    let id = id.parse()?;
    if words.next().is_some() { Err(LineProblem::Trailing) } else { Ok(Some(id)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    fn parsed(text: &str) -> Result<Vec<PeerId>, String> {
        parse(Path::new("list"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn deny_beats_allow_and_an_allow_list_closes() {
        let open = Access::default();
        assert_eq!(open.check(&id(1)), Ok(()));
        let access = Access { allow: Some([id(1), id(2)].into()), deny: [id(2)].into() };
        assert_eq!(access.check(&id(1)), Ok(()));
        assert_eq!(access.check(&id(2)), Err(Refusal::Denied));
        assert_eq!(access.check(&id(3)), Err(Refusal::NotAllowed));
    }

    #[test]
    fn lists_that_are_probably_wrong_are_told() {
        let closed =
            |allow: &[PeerId]| Access { allow: Some(allow.iter().copied().collect()), ..Access::default() };
        assert_eq!(Access::default().warning(&id(1)), None);
        assert_eq!(closed(&[id(1), id(2)]).warning(&id(1)), None);
        assert!(closed(&[]).warning(&id(1)).is_some());
        assert!(closed(&[id(1)]).warning(&id(1)).is_some());
        assert!(Access { deny: [id(2)].into(), ..closed(&[id(1), id(2)]) }.warning(&id(1)).is_some());
        assert!(Access { deny: [id(1)].into(), ..Access::default() }.warning(&id(1)).is_some());
    }

    #[test]
    fn comments_blank_lines_and_foreign_line_ends_are_no_trouble() {
        let (one, two) = (id(1), id(0xab));
        let upper = two.to_string().to_uppercase();
        let text = format!("\u{feff}# hosts\r\n\r\n  {one}  # the first\r\n\t{upper}#second\n   \n#{one}");
        assert_eq!(parsed(&text), Ok(vec![one, two]));
        assert_eq!(parsed(""), Ok(Vec::new()));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let one = id(1);
        let error = |text: &str| parsed(text).unwrap_err();
        let short = error(&format!("{one}\n\n0101 # too short\n"));
        assert!(short.starts_with("list line 3: a peer id is 64 hexadecimal digits; each line"), "{short}");
        let two = error(&format!("{one} {one}\n"));
        assert!(two.starts_with("list line 1: only a comment that begins with # may follow"), "{two}");
        let bytes = parse(Path::new("list"), b"# a\n\xff\n").unwrap_err().to_string();
        assert!(bytes.starts_with("list line 2: it is not valid UTF-8"), "{bytes}");
    }

    #[test]
    fn no_source_is_open_and_an_empty_file_admits_nobody() {
        assert_eq!(AccessSources::default().read().unwrap(), Access::default());
        let empty = tempfile::NamedTempFile::new().unwrap();
        let sources =
            AccessSources { allow_files: vec![empty.path().to_owned()], ..AccessSources::default() };
        assert!(sources.has_files());
        assert_eq!(sources.read().unwrap().allow, Some(BTreeSet::new()));
    }

    #[test]
    fn what_cannot_be_read_again_or_is_no_list_is_refused() {
        let read = |file: &Path| {
            let sources = AccessSources { deny_files: vec![file.to_owned()], ..AccessSources::default() };
            sources.read().unwrap_err()
        };
        assert!(matches!(read(Path::new("/dev/null")), AccessError::NotAFile { .. }));
        assert!(matches!(read(Path::new("/nowhere/list")), AccessError::Read { .. }));
        assert!(matches!(read(Path::new("/")), AccessError::Read { .. }));
        let huge = tempfile::NamedTempFile::new().unwrap();
        huge.as_file().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(read(huge.path()), AccessError::TooLarge { .. }));
    }
}
