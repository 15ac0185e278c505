//! The allow and deny lists of peers, and the files that hold them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::trust::peer_id::{ParsePeerIdError, PeerId};
use crate::trust::secret_text::is_secret_name;

/// Largest accepted list file in bytes: some 15,000 ids with comments, far more than the peers of a mesh.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The peers that a node admits. The default admits all.
///
/// ```
/// use p2p_gossip::{Access, PeerId};
/// let stranger = PeerId::from_bytes([2; 32]);
/// assert!(Access::default().deny([stranger]).check(&stranger).is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// If set, only these peers are admitted.
    pub allow: Option<BTreeSet<PeerId>>,
    /// These peers are refused, even if they are on the allow list.
    pub deny: BTreeSet<PeerId>,
}

/// Why a peer is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer is on the deny list.
    #[error("it is on the deny list")]
    Denied,
    /// There is an allow list, and the peer is not on it.
    #[error("it is not on the allow list")]
    NotAllowed,
}

impl Access {
    /// Admits these peers only.
    #[must_use]
    pub fn allow(self, ids: impl IntoIterator<Item = PeerId>) -> Self {
        Self { allow: Some(ids.into_iter().collect()), ..self }
    }

    /// Refuses these peers.
    #[must_use]
    pub fn deny(self, ids: impl IntoIterator<Item = PeerId>) -> Self {
        Self { deny: ids.into_iter().collect(), ..self }
    }

    /// Checks whether the lists admit this peer.
    ///
    /// # Errors
    /// The list that refuses it.
    pub fn check(&self, id: &PeerId) -> Result<(), Refusal> {
        if self.deny.contains(id) {
            return Err(Refusal::Denied);
        }
        match &self.allow {
            Some(allow) if !allow.contains(id) => Err(Refusal::NotAllowed),
            _ => Ok(()),
        }
    }

    /// Describes a probable mistake in the lists of the node with the id `own`.
    #[must_use]
    pub fn warning(&self, own: &PeerId) -> Option<&'static str> {
        let is_alone =
            |allow: &BTreeSet<PeerId>| !allow.iter().any(|id| id != own && !self.deny.contains(id));
        if self.allow.as_ref().is_some_and(is_alone) {
            Some("the allow list admits no other node; this node stays alone")
        } else if self.deny.contains(own) {
            Some(
                "our own id is on the deny list; that has no effect here, but other nodes with this list refuse us",
            )
        } else {
            None
        }
    }
}

/// The sources of the lists: single ids, and files that can be read again. The default has none.
///
/// ```
/// use p2p_gossip::{AccessSources, PeerId};
/// let (friend, stranger) = (PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32]));
/// let access = AccessSources::default().allow([friend]).read()?;
/// assert!(access.check(&friend).is_ok() && access.check(&stranger).is_err());
/// # Ok::<(), p2p_gossip::AccessError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccessSources {
    /// Allowed ids.
    pub allow: Vec<PeerId>,
    /// Files of allowed ids.
    pub allow_files: Vec<PathBuf>,
    /// Denied ids.
    pub deny: Vec<PeerId>,
    /// Files of denied ids.
    pub deny_files: Vec<PathBuf>,
}

impl AccessSources {
    /// Sets the allowed ids.
    #[must_use]
    pub fn allow(self, ids: impl IntoIterator<Item = PeerId>) -> Self {
        Self { allow: ids.into_iter().collect(), ..self }
    }

    /// Sets the files of allowed ids.
    #[must_use]
    pub fn allow_files(self, files: impl IntoIterator<Item: Into<PathBuf>>) -> Self {
        Self { allow_files: files.into_iter().map(Into::into).collect(), ..self }
    }

    /// Sets the denied ids.
    #[must_use]
    pub fn deny(self, ids: impl IntoIterator<Item = PeerId>) -> Self {
        Self { deny: ids.into_iter().collect(), ..self }
    }

    /// Sets the files of denied ids.
    #[must_use]
    pub fn deny_files(self, files: impl IntoIterator<Item: Into<PathBuf>>) -> Self {
        Self { deny_files: files.into_iter().map(Into::into).collect(), ..self }
    }

    /// Whether there are files, which can change while the node runs.
    #[must_use]
    pub fn has_files(&self) -> bool {
        !self.allow_files.is_empty() || !self.deny_files.is_empty()
    }

    /// Reads all files. Without an allowed id or a file of allowed ids, all peers are allowed; an empty file
    /// allows none.
    ///
    /// # Errors
    /// A file can't be read, or has a line that is no id. The error names the first such file.
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
    /// The file can't be read.
    #[error("cannot read {}: {source}", file.display())]
    #[non_exhaustive]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The caller passed an id or a key instead of the name of a file.
    #[error("the name of a file with ids is needed, not an id or key itself")]
    TextAsName,
    /// The file is a pipe, a device or something else that can't be read again.
    #[error("{} is not a regular file; a list must be one, because SIGHUP reads it again", file.display())]
    #[non_exhaustive]
    NotAFile {
        /// The file.
        file: PathBuf,
    },
    /// The file is too large for a list of ids.
    #[error("{} is larger than 1 MiB, so it is no list of ids", file.display())]
    #[non_exhaustive]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// A line is no id.
    #[error("{} line {line}: {problem}; each line holds one id, and optionally a # comment", file.display())]
    #[non_exhaustive]
    Line {
        /// The file.
        file: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// The problem of the line.
        problem: LineProblem,
    },
}

/// Why a line of a list is no id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineProblem {
    /// The line does not begin with 64 hexadecimal digits.
    #[error("{0}")]
    NotAnId(#[from] ParsePeerIdError),
    /// Text other than a comment follows the id.
    #[error("only a comment that begins with # may follow the id")]
    Trailing,
    /// The line is not UTF-8.
    #[error("it is not valid UTF-8")]
    NotText,
}

fn read(file: &Path) -> Result<Vec<u8>, AccessError> {
    if is_secret_name(file) {
        return Err(AccessError::TextAsName);
    }
    let failed = |source| AccessError::Read { file: file.to_owned(), source };
    // Checked before opening, because opening a pipe waits for its other end.
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
    // Some editors begin a file with a byte order mark and end lines with CR LF.
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
    fn deny_list_overrides_allow_list_and_an_allow_list_excludes_others() {
        let open = Access::default();
        assert_eq!(open.check(&id(1)), Ok(()));
        let access = Access { allow: Some([id(1), id(2)].into()), deny: [id(2)].into() };
        assert_eq!(access.check(&id(1)), Ok(()));
        assert_eq!(access.check(&id(2)), Err(Refusal::Denied));
        assert_eq!(access.check(&id(3)), Err(Refusal::NotAllowed));
    }

    #[test]
    fn probable_mistakes_in_lists_cause_a_warning() {
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
    fn comments_blank_lines_and_other_line_ends_are_accepted() {
        let (one, two) = (id(1), id(0xab));
        let upper = two.to_string().to_uppercase();
        let text = format!("\u{feff}# hosts\r\n\r\n  {one}  # the first\r\n\t{upper}#second\n   \n#{one}");
        assert_eq!(parsed(&text), Ok(vec![one, two]));
        assert_eq!(parsed(""), Ok(Vec::new()));
    }

    #[test]
    fn bad_line_is_reported_by_its_number() {
        let one = id(1);
        let error = |text: &str| parsed(text).unwrap_err();
        let short = error(&format!("{one}\n\n0101 # too short\n"));
        assert!(
            short.starts_with("list line 3: a peer id is 64 hexadecimal digits, and this has"),
            "{short}"
        );
        let two = error(&format!("{one} {one}\n"));
        assert!(two.starts_with("list line 1: only a comment that begins with # may follow"), "{two}");
        let in_list = |line: &str| parsed(&format!("{one}\n{line}\n")).unwrap_err();
        assert!(
            in_list(&format!("{one}@192.0.2.7:8080")).starts_with("list line 2: a peer id is needed alone")
        );
        let digits = one.to_string();
        let colons: Vec<&str> = (0..32).map(|at| &digits[2 * at..2 * at + 2]).collect();
        assert!(in_list(&colons.join(":")).contains("without the colons"));
        let bytes = parse(Path::new("list"), b"# a\n\xff\n").unwrap_err().to_string();
        assert!(bytes.starts_with("list line 2: it is not valid UTF-8"), "{bytes}");
    }

    #[test]
    fn no_source_admits_all_and_an_empty_allow_file_admits_none() {
        assert_eq!(AccessSources::default().read().unwrap(), Access::default());
        let empty = tempfile::NamedTempFile::new().unwrap();
        let sources =
            AccessSources { allow_files: vec![empty.path().to_owned()], ..AccessSources::default() };
        assert!(sources.has_files());
        assert_eq!(sources.read().unwrap().allow, Some(BTreeSet::new()));
    }

    #[test]
    fn file_that_cannot_be_read_again_or_is_too_large_is_refused() {
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
